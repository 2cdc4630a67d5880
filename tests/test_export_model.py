"""Models for other programs: the same probabilities as those of bordure, and a complete description."""

import hashlib
import io
import json
import zipfile

import numpy as np
import onnxruntime
import pytest
import torch
import yaml

from pipeline_lib import cli
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.inference.tiling import mirror
from pipeline_lib.networks import plan
from pipeline_lib.networks.exporting import CellProbability, architecture_source
from pipeline_lib.networks.model import Model
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.stages.export_model import export_bioimageio, export_onnx


def trained(channels=1, kind="mean_std", **settings):
    """A small network with random parameters and a correction of its probabilities."""
    torch.manual_seed(0)
    own = plan("unet", **{"depth": 2, "base_channels": 3, "input_channels": channels} | settings)
    shape = (channels, 1, 1)
    normalisation = Normalisation(
        kind, "uint8", np.full(shape, 100, np.float32), np.full(shape, 40, np.float32)
    )
    model = Model(own, own.build(), normalisation, {"version": "1.2.3 (abc)"}, log_prior=[0.3, -0.2])
    model.application = {
        "average_orientations": True,
        "postprocessing": {
            "threshold": 0.4,
            "minimum_size": 5,
            "criterion": "seg",
            "grid": [0.4],
            "value": [1],
        },
        "scores": {"test": {"seg": 0.75}},
    }
    return model


@pytest.fixture
def stored(tmp_path):
    trained().save(tmp_path / "model.pt")
    return tmp_path / "model.pt"


def expected(model, image):
    """The probability by definition: mirrored image of a valid size, network, corrected softmax."""
    geometry = model.plan.geometry
    rim = geometry.context
    ends = []
    for length in image.shape[2:]:
        end = length + rim
        while (end + rim - geometry.smallest) % geometry.stride:
            end += 1
        ends.append(end)
    rows, columns = (mirror(-rim, end, length) for end, length in zip(ends, image.shape[2:], strict=True))
    mirrored = image[:, :, rows][:, :, :, columns]
    with torch.no_grad():
        logits = model.network.eval()(torch.from_numpy(mirrored)).numpy().astype(np.float64)
    logits = logits[:, :, : image.shape[2], : image.shape[3]]
    logits += np.array(model.log_prior)[None, :, None, None]
    odds = np.exp(logits)
    return odds[:, 1:].sum(1, keepdims=True) / odds.sum(1, keepdims=True)


@pytest.mark.parametrize(
    "upsampling", ["up_convolution", "nearest", "bilinear", "bed_of_nails", "max_unpooling"]
)
@pytest.mark.parametrize("batch_normalisation", [False, True])
def test_the_exported_network_and_its_file_give_the_same_probabilities(upsampling, batch_normalisation):
    model = trained(channels=2, upsampling=upsampling, batch_normalisation=batch_normalisation)
    exported = CellProbability(model)
    sizes = exported.sizes
    assert sizes.smallest > 2 * sizes.overlap
    names: dict = {"__name__": "architecture"}
    source = architecture_source(model.plan)
    assert "import pipeline_lib" not in source and "from pipeline_lib" not in source
    exec(compile(source, "architecture.py", "exec"), names)
    alone = names["CellProbability"](**json.loads(json.dumps(exported.arguments)))
    alone.load_state_dict(exported.state_dict())
    alone.eval()
    rng = np.random.default_rng(0)
    for rows, columns in ((0, 0), (1, 3)):
        shape = (2, 2, sizes.smallest + rows * sizes.step, sizes.smallest + columns * sizes.step)
        image = rng.normal(size=shape).astype(np.float32)
        right = expected(model, image)
        with torch.no_grad():
            for network in (exported, alone):
                found = network(torch.from_numpy(image)).numpy()
                np.testing.assert_allclose(found, right, atol=2e-6)


def unpack(path):
    archive = zipfile.ZipFile(path)
    return yaml.safe_load(archive.read("rdf.yaml")), archive


def test_the_package_is_complete_and_its_weights_give_its_test_result(stored, tmp_path):
    formats = export_bioimageio(stored, tmp_path / "out.zip")
    rdf, archive = unpack(tmp_path / "out.zip")
    assert formats == [*rdf["weights"]] == ["pytorch_state_dict", "torchscript", "onnx"]
    files = {*archive.namelist()}
    described = rdf["weights"]["pytorch_state_dict"]["architecture"], rdf["inputs"][0]["test_tensor"]
    named = [*rdf["weights"].values(), *described, rdf["outputs"][0]["test_tensor"]]
    for entry in named:
        assert hashlib.sha256(archive.read(entry["source"])).hexdigest() == entry["sha256"]
    assert {entry["source"] for entry in named} | {"rdf.yaml", "README.md", "cover.png"} == files
    given, result = (np.load(io.BytesIO(archive.read(f"test_{name}.npy"))) for name in ("input", "output"))
    assert given.dtype == np.uint8 and given.shape == result.shape
    steps = rdf["inputs"][0]["preprocessing"]
    assert [step["id"] for step in steps] == ["ensure_dtype", "fixed_zero_mean_unit_variance", "ensure_dtype"]
    assert steps[1]["kwargs"] == {"mean": 100.0, "std": 40.0}
    normalised = torch.from_numpy((given.astype(np.float32) - 100) / 40)
    script = torch.jit.load(io.BytesIO(archive.read("weights_torchscript.pt")))
    np.testing.assert_allclose(script(normalised).detach().numpy(), result, atol=1e-6)
    names: dict = {"__name__": "architecture"}
    exec(archive.read("architecture.py"), names)
    network = names["CellProbability"](**rdf["weights"]["pytorch_state_dict"]["architecture"]["kwargs"])
    network.load_state_dict(torch.load(io.BytesIO(archive.read("weights.pt")), weights_only=True))
    with torch.no_grad():
        np.testing.assert_allclose(network.eval()(normalised).numpy(), result, atol=1e-6)
    (axis,) = [axis for axis in rdf["outputs"][0]["axes"] if axis.get("id") == "y"]
    assert axis["halo"] == CellProbability(trained()).sizes.overlap
    assert rdf["inputs"][0]["pad"] == {"mode": "reflect"}
    assert rdf["config"]["bordure"]["postprocessing"] == {
        "threshold": 0.4,
        "minimum_size": 5,
        "criterion": "seg",
    }
    assert rdf["version"] == "1.2.3" and "seg 0.750" in archive.read("README.md").decode()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_blocks_with_the_stated_overlap_equal_the_whole_image(depth):
    """Wherever they begin: at multiples of the step."""
    exported = CellProbability(trained(depth=depth))
    sizes = exported.sizes
    assert sizes.smallest % sizes.step == sizes.overlap % sizes.step == 0
    image = np.random.default_rng(1).normal(size=(1, 1, sizes.smallest + 5 * sizes.step, sizes.smallest))
    tensor = torch.from_numpy(image.astype(np.float32))
    inner = slice(sizes.overlap, sizes.smallest - sizes.overlap)
    with torch.no_grad():
        whole = exported(tensor)
        for start in range(0, 6 * sizes.step, sizes.step):
            rows = slice(start, start + sizes.smallest)
            block, same = exported(tensor[:, :, rows]), whole[:, :, rows]
            np.testing.assert_allclose(block[:, :, inner], same[:, :, inner], atol=1e-6)
            if start:
                rim = (block - same).abs()[:, :, : sizes.overlap]
                assert rim.max() > 1e-4  # what the overlap is for


def test_several_channels_and_a_test_image(tmp_path):
    model = trained(channels=2)
    model.pixel_size = (0.5, 0.25)
    model.save(tmp_path / "model.pt")
    image = np.random.default_rng(0).integers(0, 255, (2, 300, 320), np.uint8)
    export_bioimageio(tmp_path / "model.pt", tmp_path / "out.zip", image=image)
    rdf, archive = unpack(tmp_path / "out.zip")
    _, channel, y, x = rdf["inputs"][0]["axes"]
    assert channel["channel_names"] == ["channel0", "channel1"]
    assert (y["scale"], x["scale"], x["unit"]) == (0.5, 0.25, "micrometer")
    of_result = [(axis["scale"], axis["unit"]) for axis in rdf["outputs"][0]["axes"][2:]]
    assert of_result == [(0.5, "micrometer"), (0.25, "micrometer")]
    assert rdf["inputs"][0]["preprocessing"][1]["kwargs"] == {
        "mean": [100.0, 100.0],
        "std": [40.0, 40.0],
        "axis": "channel",
    }
    given = np.load(io.BytesIO(archive.read("test_input.npy")))[0]
    top, left = ((length - given.shape[1]) // 2 for length in (300, 320))
    np.testing.assert_array_equal(given, image[:, top : top + given.shape[1], left : left + given.shape[2]])


def test_the_same_model_gives_the_same_description(stored, tmp_path):
    texts = []
    for name in ("a", "b"):
        export_bioimageio(stored, tmp_path / f"{name}.zip")
        _, archive = unpack(tmp_path / f"{name}.zip")
        texts.append(
            [archive.read(file) for file in ("README.md", "architecture.py", "weights.pt", "cover.png")]
        )
    assert texts[0] == texts[1]


@pytest.mark.parametrize("depth", [1, 3])
def test_networks_of_any_depth_become_onnx(tmp_path, depth):
    trained(channels=depth, depth=depth).save(tmp_path / "model.pt")
    export_bioimageio(tmp_path / "model.pt", tmp_path / "out.zip")
    _, archive = unpack(tmp_path / "out.zip")
    session = onnxruntime.InferenceSession(archive.read("weights.onnx"))
    given, result = (np.load(io.BytesIO(archive.read(f"test_{name}.npy"))) for name in ("input", "output"))
    (found,) = session.run(None, {"raw": (given.astype(np.float32) - 100) / 40})
    np.testing.assert_allclose(found, result, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((3, 400, 400), np.uint8, r"has 3 channels of type uint8, expected 1 of type"),
        ((1, 400, 400), np.float64, r"has 1 channel of type float64, expected 1 of type"),
        ((1, 20, 400), None, r"has 20 x 400 px, expected at least"),
    ],
)
def test_test_images_that_do_not_fit_are_refused(stored, tmp_path, shape, dtype, message):
    own = dtype or np.dtype(Model.load(stored).normalisation.dtype)
    with pytest.raises(InputError, match=message):
        export_bioimageio(stored, tmp_path / "a.zip", image=np.zeros(shape, own))
    with pytest.raises(InputError, match="expected an SPDX identifier"):
        export_bioimageio(stored, tmp_path / "a.zip", licence="my own")
    assert not (tmp_path / "a.zip").exists()


def test_onnx_equals_torch_at_several_sizes(stored, tmp_path):
    sizes = export_onnx(stored, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    for name, values in (("mean", "offset"), ("standard_deviation", "scale")):
        stated = np.array(metadata[name].split(","), np.float32)
        np.testing.assert_array_equal(stated, getattr(Model.load(stored).normalisation, values).ravel())
    exported = CellProbability(trained())
    for rows, columns in ((0, 0), (2, 1), (9, 4)):
        shape = (1, 1, sizes.smallest + rows * sizes.step, sizes.smallest + columns * sizes.step)
        image = np.random.default_rng(rows).normal(size=shape).astype(np.float32)
        (found,) = session.run(None, {"raw": image})
        with torch.no_grad():
            np.testing.assert_allclose(found, exported(torch.from_numpy(image)).numpy(), atol=1e-4)


def test_models_that_cannot_be_exported_are_refused(stored, tmp_path, capsys, monkeypatch):
    trained(kind="mean_image").save(tmp_path / "image.pt")
    with pytest.raises(InputError, match=r"image\.pt: subtracts a mean image"):
        export_bioimageio(tmp_path / "image.pt", tmp_path / "out.zip")
    assert cli.main(["export", str(stored), str(tmp_path / "out.tif"), "--to", "bioimageio"]) == 1
    assert "the name of a file for bioimageio ends with `.zip`" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["export", str(stored), "--to", "onnx"]) == 1
    assert "pip install 'bordure[onnx]'" in capsys.readouterr().err
    assert not [*tmp_path.glob("*.onnx")] and not (tmp_path / "out.zip").exists()


def test_the_command_writes_beside_the_model(stored, capsys):
    assert cli.main(["export", str(stored), "--to", "bioimageio"]) == 0
    assert capsys.readouterr().out.startswith(f"{stored.parent}/model_bioimageio.zip: pytorch_state_dict")
