import os
import re
import resource

import h5py
import numpy as np
import pytest
import tifffile
import torch

from pipeline_lib import layout, networks
from pipeline_lib.data.gray import summary
from pipeline_lib.data.normalisation import measure
from pipeline_lib.kernels import blocks
from pipeline_lib.networks.model import Model
from pipeline_lib.networks.unet.module import UNet
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import sha256, write_json
from pipeline_lib.stages.baselines import predict as predict_baseline
from pipeline_lib.stages.dataset import build_dataset
from pipeline_lib.stages.joining import join_predictions
from pipeline_lib.stages.prediction import predict


@pytest.fixture
def folder(tmp_path):
    raw = np.random.default_rng(0).integers(0, 255, (1, 2, 70, 51), np.uint8)
    with layout.create(tmp_path / "dataset.h5", {}) as file:
        layout.add(file, layout.RAW, raw.shape, raw.dtype)[:] = raw
        layout.write_findings(file, {"gray": summary(raw), "annotation": None})
    torch.manual_seed(0)
    arguments = {"input_channels": 1, "depth": 2, "base_channels": 4}
    plan = networks.plan("unet", **arguments)
    Model(plan, plan.build(), measure("mean_std", [raw])).save(tmp_path / "model.pt")
    return tmp_path


def probability(path):
    with layout.require(path, layout.CELL_PROBABILITY) as file:
        return file["cell_probability"][:]


def test_all_sections_are_predicted_independently_of_the_tile_size(folder):
    for name, tile in (("small", 60), ("auto", "auto")):
        predict(
            folder / "dataset.h5",
            folder / "model.pt",
            folder / f"{name}.h5",
            tile=tile,
            precision="float32",
            device="cpu",
        )
    small, whole = probability(folder / "small.h5"), probability(folder / "auto.h5")
    np.testing.assert_allclose(small, whole, atol=1e-5)
    assert small.shape == (2, 70, 51) and np.abs(small[0] - small[1]).max() > 0.01
    assert 0 <= small.min() < small.max() <= 1


@pytest.mark.parametrize("jobs", [2, 3, 5])
def test_joined_parts_of_several_jobs_equal_the_whole_prediction(folder, jobs):
    raw = np.random.default_rng(1).integers(0, 255, (1, 2, 300, 51), np.uint8)
    with layout.create(folder / "large.h5", {}) as file:
        layout.add(file, layout.RAW, raw.shape, raw.dtype)[:] = raw
        layout.write_findings(file, {"gray": summary(raw), "annotation": None})
    files = [folder / "parts" / f"{part}.h5" for part in range(1, len(blocks.parts(raw.shape[1:], jobs)) + 1)]
    predict(folder / "large.h5", folder / "model.pt", folder / "whole.h5", precision="float32", tile=92)
    for part, path in enumerate(files, 1):
        predict(
            folder / "large.h5",
            folder / "model.pt",
            path,
            precision="float32",
            tile=92,
            part=part,
            jobs=jobs,
        )
    join_predictions(files, folder / "joined.h5", shape=raw.shape[1:], jobs=jobs)
    joined = probability(folder / "joined.h5")
    np.testing.assert_allclose(joined, probability(folder / "whole.h5"), atol=1e-5)
    assert (folder / "joined.h5").stat().st_size < joined.nbytes / 4  # the parts are not copied

    with h5py.File(folder / "joined.h5") as file:  # HDF5 returns zeros for files that it cannot open
        sources = len(file["cell_probability"].virtual_sources())
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 1, limits[1]))
    try:
        assert sources > 1 and np.array_equal(probability(folder / "joined.h5"), joined)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    (folder / "elsewhere").mkdir()
    for name in ("parts", "joined.h5"):
        (folder / name).rename(folder / "elsewhere" / name)
    assert np.array_equal(probability(folder / "elsewhere/joined.h5"), joined)
    (folder / "elsewhere/parts/2.h5").unlink()  # HDF5 itself would return zeros
    with pytest.raises(InputError, match=r"2\.h5: this part of .* is missing or damaged .* Delete both"):
        probability(folder / "elsewhere/joined.h5")


def test_part_with_the_wrong_shape_is_not_joined(folder):
    for name, jobs in (("1", 2), ("2", 1)):
        predict(folder / "dataset.h5", folder / "model.pt", folder / f"{name}.h5", part=1, jobs=jobs)
    with pytest.raises(
        InputError, match=r"2\.h5: found a part of shape \(2, 70, 51\), expected \(1, 70, 51\)"
    ):
        join_predictions([folder / "1.h5", folder / "2.h5"], folder / "j.h5", shape=(2, 70, 51), jobs=2)
    assert not (folder / "j.h5").exists()


def on_a_small_gpu(forward):
    """Return the method `forward` of a network on a simulated GPU with memory for 3,600 px."""

    def limited(self, x):
        if x.shape[2] * x.shape[3] > 3600:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return forward(self, x)

    return limited


def test_sections_are_split_with_a_warning_if_memory_runs_out(folder, monkeypatch, caplog):
    for name in ("model", "small"):
        with monkeypatch.context() as patch:
            if name == "small":
                patch.setattr(UNet, "forward", on_a_small_gpu(UNet.forward))
            predict(
                folder / "dataset.h5",
                folder / "model.pt",
                folder / f"{name}.h5",
                precision="float32",
                device="cpu",
            )
    np.testing.assert_allclose(probability(folder / "small.h5"), probability(folder / "model.h5"), atol=1e-5)
    lines = [line for line in caplog.messages if "in halves" in line]
    assert len(lines) == len(set(lines)) > 0  # once for each size, not for each section


def test_log_states_file_and_size(folder, caplog):
    caplog.set_level("INFO", "bordure")
    predict(folder / "dataset.h5", folder / "model.pt", folder / "p.h5", precision="float32", device="cpu")
    (line,) = [line for line in caplog.messages if "sections of" in line]
    assert line.startswith(f"{folder / 'p.h5'}: 2 sections of 70 x 51 px in ")


def test_repeated_prediction_has_the_same_bytes(folder):
    for name in ("a.h5", "b.h5"):
        predict(
            folder / "dataset.h5", folder / "model.pt", folder / name, average_orientations=True, device="cpu"
        )
    assert sha256(folder / "a.h5") == sha256(folder / "b.h5")


def test_settings_of_prediction_have_an_effect(folder):
    found = {}
    for name, settings in {
        "plain": {},
        "averaged": {"average_orientations": True},
        "half": {"precision": "bfloat16"},
    }.items():
        settings = {"precision": "float32", "device": "cpu", **settings}
        predict(folder / "dataset.h5", folder / "model.pt", folder / f"{name}.h5", **settings)
        found[name] = probability(folder / f"{name}.h5")
    assert np.abs(found["averaged"] - found["plain"]).max() > 1e-3
    assert 1e-5 < np.abs(found["half"] - found["plain"]).max() < 0.1


def test_images_with_another_type_than_in_training_are_rejected(folder):
    with layout.create(folder / "other.h5", {}) as file:
        raw = np.arange(900, dtype=np.uint16).reshape(1, 1, 30, 30)
        layout.add(file, layout.RAW, raw.shape, raw.dtype)[:] = raw
        layout.write_findings(file, {"gray": summary(raw), "annotation": None})
    with pytest.raises(
        InputError,
        match=r"other\.h5: uint16 gray levels from 0 to 899, but the training images are uint8 and have 0 to",
    ):
        predict(folder / "other.h5", folder / "model.pt", folder / "p.h5")
    assert not (folder / "p.h5").exists() and not list(folder.glob(".p*"))


def test_images_of_another_scale_are_refused_until_their_factor_is_stated(folder):
    """Then the prediction is that of the same image in the scale of the training."""
    with layout.require(folder / "dataset.h5") as file:
        raw = file["raw"][0]
    settings = {"precision": "float32", "device": "cpu"}
    predict(folder / "dataset.h5", folder / "model.pt", folder / "right.h5", **settings)
    tifffile.imwrite(folder / "new.tif", (raw / 255).astype(np.float32), photometric="minisblack")
    build_dataset(str(folder / "new.tif"), None, folder / "new.h5")
    with pytest.raises(
        InputError, match=r"new\.h5: float32 gray levels from 0 to .*`scale` .*: 255, or"
    ) as e:
        predict(folder / "new.h5", folder / "model.pt", folder / "p.h5", **settings)
    assert not (folder / "p.h5").exists()
    scale = float(re.search(r"column `scale` of the table of volumes: ([0-9.e-]+)", str(e.value))[1])
    build_dataset(str(folder / "new.tif"), None, folder / "new.h5", scale=scale)
    predict(folder / "new.h5", folder / "model.pt", folder / "p.h5", **settings)
    np.testing.assert_allclose(probability(folder / "p.h5"), probability(folder / "right.h5"), atol=1e-5)


def test_dataset_of_an_older_version_is_refused(folder):
    with h5py.File(folder / "dataset.h5", "a") as file:
        del file.attrs["findings"]
    with pytest.raises(InputError, match=r"dataset\.h5: has no `findings`.* Delete it and run the workflow"):
        predict(folder / "dataset.h5", folder / "model.pt", folder / "p.h5")


def test_baselines_predict_constant_and_smoothed_gray_levels(folder):
    statistics = {"class_frequencies": [0.25, 0.75], "smoothed_raw": {"low": 140.0, "high": 115.0}}
    write_json(folder / "statistics.json", statistics)
    for network in ("constant", "smoothed_raw"):
        predict_baseline(
            folder / "dataset.h5", folder / "statistics.json", folder / f"{network}.h5", network=network
        )
    assert (probability(folder / "constant.h5") == 0.75).all()
    with layout.require(folder / "dataset.h5") as file:
        raw = file["raw"][0]
    smoothed = probability(folder / "smoothed_raw.h5")
    assert smoothed.min() == 0 and smoothed.max() == 1
    assert np.corrcoef(raw.ravel(), smoothed.ravel())[0, 1] < -0.2  # low > high: cells are dark
