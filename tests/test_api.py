"""Functions for notebooks: the same results as the stages and commands that they stand for."""

import ast
import importlib
import inspect
import logging
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import warm
import yaml

from pipeline_lib import api, cli, imageio, layout, metrics, stages
from pipeline_lib.api.arrays import as_image
from pipeline_lib.data.normalisation import measure
from pipeline_lib.instances.measurement import measure_cells
from pipeline_lib.networks import plan
from pipeline_lib.networks.model import Model
from pipeline_lib.networks.modelfile import describe
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.stages import training
from pipeline_lib.stages.acceptance import require_accepted
from pipeline_lib.stages.check import check
from pipeline_lib.stages.dataset import build_dataset, build_weight_map, measure_statistics
from pipeline_lib.stages.evaluation import collect_scores, evaluate, score_files
from pipeline_lib.stages.measurement import measure_file, measure_volume, summarise
from pipeline_lib.stages.packaging import package_model
from pipeline_lib.stages.postprocessing import choose_postprocessing, unpack_postprocessing
from pipeline_lib.stages.prediction import predict
from pipeline_lib.stages.segmentation import segment, write_tiffs
from pipeline_lib.stages.synthesis import draw_volume

ROOT = Path(__file__).parents[1]
SETTINGS = {
    "network": {"depth": 1, "base_channels": 4},
    "training": {
        "tile": 60,
        "iterations": 4,
        "validation_interval": 2,
        "optimizer": "adam",
        "device": "cpu",
        "precision": "float32",
    },
    "prediction": {"device": "cpu", "precision": "float32"},
    "dataset": {"annotation_kind": "instances"},
    "segmentation": {"minimum_size": 5, "criterion": "seg"},
    "weight_map": {"sigma": 3.0},
    "augmentation": {"gain": 0.5},
    "seed": 3,
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder with drawn images, and the arrays in them."""
    folder = tmp_path_factory.mktemp("drawn")
    draw_volume(folder / "images.tif", folder / "labels.tif", sections=4, size=96)
    images = tifffile.imread(folder / "images.tif")
    return folder, images, tifffile.imread(folder / "labels.tif")


@pytest.fixture(scope="module")
def trained(drawn):
    """A model that `train` makes from arrays, in two training volumes."""
    folder, images, labels = drawn
    return api.train(
        [images[:1], images[1]],
        [labels[:1], labels[1]],
        validation=(images[2], labels[2]),
        test=(images[3:], labels[3:]),
        model=folder / "api/model.pt",
        threads=2,
        **SETTINGS,
    )


def assert_same_models(found: Path, expected: Path) -> None:
    weights, others = (Model.load(path).network.state_dict() for path in (found, expected))
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[key], others[key]) for key in weights)
    descriptions = describe(found), describe(expected)
    for key in ("application", "normalisation", "name", "arguments"):
        assert descriptions[0][key] == descriptions[1][key], key


def test_training_is_that_of_the_stages_which_accept_paths_as_text(drawn, trained):
    source, _, _ = drawn
    folder = str(source / "stages")
    Path(folder).mkdir()
    volumes = {"a": ("train", "0"), "b": ("train", "1"), "v": ("validation", "2"), "t": ("test", "3")}

    def files(part, *names, suffix="h5"):
        return [f"{folder}/{part}/{name}.{suffix}" for name in names]

    for name, (_, sections) in volumes.items():
        [dataset] = files("dataset", name)
        build_dataset(
            str(source / "images.tif"),
            str(source / "labels.tif"),
            dataset,
            sections=sections,
            annotation_kind="instances",
        )
    rows = [
        {"volume": name, "split": split, "dataset": files("dataset", name)[0]}
        for name, (split, _) in volumes.items()
    ]
    check(rows, f"{folder}/check.html", f"{folder}/check.json")
    require_accepted(f"{folder}/check.json", f"{folder}/check.html", f"{folder}/passed.json")
    statistics, model = f"{folder}/statistics.json", f"{folder}/unet.pt"
    measure_statistics(files("dataset", "a", "b"), statistics)
    for name in "abv":
        build_weight_map(*files("dataset", name), statistics, *files("weights", name), sigma=3.0)
    training.train(
        files("dataset", "a", "b"),
        files("weights", "a", "b"),
        files("dataset", "v"),
        files("weights", "v"),
        statistics,
        model,
        f"{folder}/history.csv",
        network={"name": "unet", "depth": 1, "base_channels": 4},
        training=SETTINGS["training"],
        augmentation=SETTINGS["augmentation"],
        seed=3,
        threads=2,
    )
    for name in "vt":
        predict(
            *files("dataset", name),
            model,
            *files("prediction", name),
            device="cpu",
            precision="float32",
            threads=2,
        )
    chosen = f"{folder}/unet.json"
    choose_postprocessing(
        files("dataset", "v"), files("prediction", "v"), chosen, criterion="seg", minimum_size=5
    )
    for name in "vt":
        of_volume = [*files("dataset", name), *files("prediction", name), *files("labels", name)]
        segment(of_volume[1], chosen, of_volume[2])
        write_tiffs(of_volume[2], of_volume[1], f"{folder}/{name}.tif", f"{folder}/{name}_p.tif")
        measure_volume(*of_volume, f"{folder}/{name}_cells.csv")
        evaluate(
            *of_volume,
            chosen,
            *files("scores", name, suffix="csv"),
            *files("sections", name, suffix="csv"),
            volume=name,
            split=volumes[name][0],
            network="unet",
        )
    tables = files("scores", "v", "t", suffix="csv")
    collect_scores(tables, f"{folder}/scores.csv")
    package_model(model, chosen, tables, f"{folder}/model.pt", network="unet", channels=1)
    unpack_postprocessing(f"{folder}/model.pt", f"{folder}/unpacked.json")
    summarise([f"{folder}/t_cells.csv"], f"{folder}/summary.csv", images={"t": "images.tif"})
    assert measure_file(f"{folder}/t.tif", f"{folder}/again.csv") == len(pd.read_csv(f"{folder}/again.csv"))
    assert_same_models(trained.path, Path(folder, "model.pt"))
    assert trained.scores["test"].keys() == trained.scores["validation"].keys()


@pytest.mark.slow
def test_training_is_that_of_the_workflow(drawn, trained, tmp_path):
    folder, _, _ = drawn
    lines = ["volume\timages\tannotation\tsections\tsplit"]
    for name, section in {"train_1": 0, "train_2": 1, "validation": 2, "test": 3}.items():
        lines.append(f"{name}\timages.tif\tlabels.tif\t{section}\t{name.partition('_')[0]}")
    (tmp_path / "volumes.tsv").write_text("\n".join(lines) + "\n")
    paths = {"volumes": "volumes.tsv", "data_dir": str(folder), "results": str(tmp_path / "results")}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(SETTINGS | paths))
    where = ("--snakefile", f"{ROOT}/Snakefile", "--configfile", "my.yaml", "--cores", "2")
    answer = warm.snakemake(*where, f"{tmp_path}/results/model.pt", folder=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert_same_models(trained.path, tmp_path / "results/model.pt")


@pytest.mark.slow
def test_doubts_stop_a_training_as_in_the_workflow(drawn, tmp_path):
    folder, images, labels = drawn
    model = tmp_path / "a.pt"
    same = {"validation": (folder / "images.tif", str(folder / "labels.tif")), "model": model}
    found = refused(api.train, images[:2], labels[:2], **same, folder=tmp_path / "files", **SETTINGS)
    assert f"{tmp_path}/a_check.html shows pictures" in found and "  validation, " in found
    assert (tmp_path / "a_check.html").exists() and not model.exists()
    assert (tmp_path / "files/dataset/train.h5").exists()
    other = {"validation": (images[3], labels[3]), "model": model}
    strict = {"stop_above": 0.1}
    found = refused(api.train, images[:2], labels[:2], **other, **SETTINGS, check=strict)
    [accepted] = re.findall(r"set `check=(.*)`", found)
    api.train(images[:2], labels[:2], **other, **SETTINGS, check=strict | ast.literal_eval(accepted))
    assert model.exists()


@pytest.mark.slow
def test_minutes_choose_the_iterations_by_the_measured_speed(drawn, tmp_path, caplog):
    _, images, labels = drawn
    given = {
        "validation": (images[2], labels[2]),
        "model": tmp_path / "model.pt",
        "folder": tmp_path / "files",
    }
    with caplog.at_level(logging.INFO, "bordure"):
        settings = SETTINGS | {"training": {"tile": 60, "device": "cpu"}}
        api.train(images[:1], labels[:1], minutes=0.01, **given, **settings)
    [(iterations, seconds)] = re.findall(r"(\d+) iterations take about 0.01 min at ([\d.]+) s", caplog.text)
    rounding = float(seconds) / 2 + 0.05 * 0.6  # half an iteration, and the two digits of the message
    assert float(seconds) * int(iterations) == pytest.approx(0.6, abs=rounding)
    at = [*pd.read_csv(tmp_path / "files/models/unet/history.csv").iteration]
    assert at[-1] == int(iterations) and at[0] == -(-int(iterations) // 20)
    found = refused(api.train, images[:1], labels[:1], minutes=1, replace=True, **given, **SETTINGS)
    assert "minutes: found 1, and `training` has `iterations`" in found
    before = given["model"].read_bytes()
    assert "model.pt: exists. To use it, write `api.load(" in refused(api.train, images, labels, **given)
    assert given["model"].read_bytes() == before
    api.train(images[1], labels[1], replace=True, **given, **SETTINGS)
    [kept] = (tmp_path / "replaced").iterdir()
    assert kept.read_bytes() == before != given["model"].read_bytes()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Untrained complete models of one and of two channels, at thresholds at which they find cells."""
    folder, rng = tmp_path_factory.mktemp("models"), np.random.default_rng(0)
    for channels in (1, 2):
        network = plan("unet", depth=1, base_channels=2, input_channels=channels)
        torch.manual_seed(1)
        raw = rng.integers(0, 255, (channels, 1, 60, 60), np.uint8)
        model = Model(network, network.build(), measure("mean_std", [raw]))
        chosen = {"threshold": 0.5, "minimum_size": 3, "criterion": "seg"}
        model.application = {"average_orientations": False, "postprocessing": chosen, "scores": {}}
        path = folder / f"{channels}.pt"
        model.save(path)
        probability = api.load(path, device="cpu").predict(raw, return_probability=True)[1]
        chosen["threshold"] = float(np.median(probability))
        model.save(path)
    return folder


@pytest.mark.parametrize("shape", [(70, 80), (2, 70, 80), (1, 2, 70, 80), (2, 2, 70, 80)])
def test_arrays_give_what_bordure_predict_writes(models, tmp_path, shape):
    image = np.random.default_rng(2).integers(0, 255, shape, np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = image
        file["raw"].attrs["axes"] = "czyx"[-image.ndim :]
    model = str(models / f"{shape[0] if len(shape) == 4 else 1}.pt")
    words = ["predict", model, f"{tmp_path}/a.h5:/raw", "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert cli.main(words) == 0
    labels, probability = api.load(model, device="cpu").predict(image, return_probability=True)
    assert labels.shape == probability.shape == (shape if len(shape) < 4 else shape[1:])
    assert labels.dtype == np.uint32 and labels.max() > 1
    written = tmp_path / "out"
    np.testing.assert_array_equal(np.squeeze(labels), tifffile.imread(written / "a_raw_labels.tif").squeeze())
    np.testing.assert_array_equal(
        np.squeeze(probability), tifffile.imread(written / "a_raw_cell_probability.tif").squeeze()
    )
    of_file = api.load(model, device="cpu").predict(f"{tmp_path}/a.h5:/raw")
    np.testing.assert_array_equal(of_file.reshape(labels.shape), labels)


@pytest.mark.slow
def test_files_are_those_of_bordure_predict_also_in_a_script(models, tmp_path, monkeypatch):
    """A script without `if __name__ == "__main__"`: processes for several images must not run it again."""
    rng = np.random.default_rng(4)
    for name in "ab":
        tifffile.imwrite(tmp_path / f"{name}.tif", rng.integers(0, 255, (60, 70), np.uint8))
    (tmp_path / "wide.tif").write_bytes(b"no image")
    names = ["a.tif", "wide.tif", "b.tif"]
    (tmp_path / "script.py").write_text(
        "import os\nfrom pipeline_lib import api\nbefore = dict(os.environ)\n"
        f"print(api.load('{models}/1.pt', device='cpu').predict_files({names}, 'api').to_csv(index=False))\n"
        "assert dict(os.environ) == before\n"
    )
    words = ["predict", f"{models}/1.pt", *names, "--out", "cli", "--device", "cpu", "--at-a-time", "1"]
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 1
    answer = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    files = {path.name for path in (tmp_path / "cli").iterdir()}
    assert {"a_labels.tif", "b_cells.csv", "summary.csv"} <= files
    assert {path.name for path in (tmp_path / "api").iterdir()} == files
    for name in files:
        one, other = tmp_path / "api" / name, tmp_path / "cli" / name
        if name.endswith(".csv"):
            assert one.read_bytes() == other.read_bytes()
        elif name.endswith(".tif"):
            np.testing.assert_array_equal(tifffile.imread(one), tifffile.imread(other))


def test_scores_and_measurements_are_those_of_arrays(drawn, trained, tmp_path):
    folder, images, labels = drawn
    found, probability = trained.predict(images[3], return_probability=True)
    scores = api.evaluate(labels[3], found, annotation_kind="instances", prediction_kind="labels")
    expected = metrics.instance_scores(labels[3], found)
    assert dict(zip(scores.metric, scores.value, strict=True)) == pytest.approx(expected, abs=0, nan_ok=True)
    tifffile.imwrite(tmp_path / "p.tif", probability)
    tifffile.imwrite(tmp_path / "t.tif", labels[3])
    kinds = {"annotation_kind": "instances", "prediction_kind": "probability"}
    pd.testing.assert_frame_equal(
        api.evaluate(labels[3], probability, **kinds),
        score_files(tmp_path / "t.tif", tmp_path / "p.tif", **kinds),
    )
    ignored = np.zeros(labels[3].shape, bool)
    ignored[:40] = True
    scores = api.evaluate(
        labels[3], found, annotation_kind="instances", prediction_kind="labels", ignore_mask=ignored
    )
    expected = metrics.instance_scores(labels[3], found, ignore=ignored)
    assert scores.value[scores.metric == "seg"].item() == expected["seg"]
    cells = measure_cells(labels[2:], intensity=images[None, 2:], pixel_size=0.5)
    for of_labels, intensity in (
        (labels[2:], images[2:]),
        (labels[2:].tolist(), images[None, 2:]),
    ):
        pd.testing.assert_frame_equal(api.measure(of_labels, intensity=intensity, pixel_size=0.5), cells)
    of_files = api.measure(str(folder / "labels.tif"), intensity=folder / "images.tif", pixel_size=0.5)
    pd.testing.assert_frame_equal(
        of_files[of_files.section >= 2].reset_index(drop=True).drop(columns="section"),
        cells.drop(columns="section"),
    )


def refused(function, *arguments, **settings):
    with pytest.raises(InputError) as caught:
        function(*arguments, **settings)
    return str(caught.value)


GRAY = np.zeros((64, 64), np.uint8)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (GRAY[0], "image: found the shape (64,); expected (y, x), (z, y, x) or (c, z, y, x)"),
        (np.zeros((64, 64, 3)), "Write `numpy.moveaxis(image, -1, 0)[:, None]` for one section in colours"),
        (GRAY.astype(complex), "image: found the type complex128; expected an array of whole numbers"),
        ("gone.tif", "gone.tif: no such file"),
        (np.zeros((2, 1, 64, 64), np.uint8), "image: found 2 channels, but"),
        (GRAY.astype(np.uint16), "`image`: uint16 gray levels"),
        (GRAY.astype(np.uint16), "Add `scale=FACTOR`, with the factor between the scales"),
        (GRAY * np.nan, "`image`: 4096 values are NaN or infinite"),
        (GRAY[:0], "image: found the shape (0, 64)"),
        ([GRAY, GRAY[:2]], "image: found no array (setting an array element with a sequence."),
    ],
)
def test_what_cannot_be_segmented_is_refused(models, image, message):
    found = refused(api.load(models / "1.pt", device="cpu").predict, image)
    assert message in found and "/tmp" not in found.replace(str(models), "")


@pytest.mark.parametrize("size", [0, -1, float("nan"), (0.5, float("inf"))])
def test_pixel_sizes_that_cannot_be_are_refused(models, size):
    model = api.load(models / "1.pt", device="cpu")
    assert "`pixel_size`: found" in refused(model.predict, GRAY, pixel_size=size)
    assert "`pixel_size`: found" in refused(api.measure, GRAY + 1, pixel_size=size)


@pytest.mark.parametrize("scale", [0, float("nan"), float("inf")])
def test_scales_that_leave_no_gray_levels_are_refused(models, scale):
    model = api.load(models / "1.pt", device="cpu")
    assert f"`scale`: found {scale}" in refused(model.predict, GRAY, scale=scale)


def test_the_array_that_a_message_recommends_is_accepted():
    colours = np.random.default_rng(0).random((64, 70, 3))
    array = as_image(np.moveaxis(colours, -1, 0)[:, None], "image")
    assert array.shape == (3, 1, 64, 70) and (array[2, 0] == colours[..., 2]).all()


def test_training_can_start_from_a_model(drawn, trained, tmp_path, caplog):
    """Also from the file that it replaces."""
    folder, images, labels = drawn
    model = tmp_path / "model.pt"
    shutil.copy(folder / "api/model.pt", model)
    pair = {"validation": (images[2], labels[2]), "model": model, "threads": 2}
    settings = {**SETTINGS, "training": SETTINGS["training"] | {"start_from": str(model), "freeze": ["down"]}}
    with caplog.at_level("INFO"):
        api.train(images[0], labels[0], **pair, **settings, replace=True)
    assert "model.pt (unet): copied: down, up, merge, score" in caplog.text
    old, new = (Model.load(path).network.state_dict() for path in (folder / "api/model.pt", model))
    assert {name.partition(".")[0] for name in new if torch.equal(old[name], new[name])} == {"down"}
    settings["training"]["start_from"] = "none.pt"
    assert "training.start_from: none.pt: no such model file" in refused(
        api.train, images[0], labels[0], **pair | {"model": tmp_path / "other.pt"}, **settings
    )


def test_what_cannot_be_trained_on_is_refused(drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, images, labels = drawn
    pair = {"validation": (images[2], labels[2])}
    assert "2 images and 1 annotations" in refused(api.train, [images[0]] * 2, labels[0], **pair)
    assert "expected a pair" in refused(api.train, images[0], labels[0], validation=images[0])
    assert "Did you mean `training.iterations`?" in refused(
        api.train, images[0], labels[0], **pair, iterations=4
    )
    for key, value in (("results", "there"), ("folds", 5), ("ensemble", True), ("study", {})):
        assert f"{key}: is a setting of the workflow" in refused(
            api.train, images[0], labels[0], **pair, **{key: value}
        )
    assert "`annotations`: annotation of 1 section of 50 x 96 px, but `images`" in refused(
        api.train, images[0], labels[0][:50], **pair, **SETTINGS
    )
    assert "validation[1]: found the shape" in refused(
        api.train, images[0], labels[0], validation=(images[0], labels[None]), **SETTINGS
    )
    values = np.random.default_rng(0).integers(0, 3, (96, 96))
    unclear = refused(api.train, images[0], values, **pair)
    assert "set `dataset={'annotation_kind': 'instances'}`" in unclear
    [picture] = re.findall(r"The picture (\S+) shows", unclear)
    assert Path(picture).exists()
    assert "set `annotation_kind='instances'`" in refused(api.evaluate, values, values)


HEAVY = {"h5py", "matplotlib", "numba", "pandas", "scipy", "skimage", "torch"}


def test_import_is_light_and_installs_no_handlers():
    code = f"""
import logging, sys
from pipeline_lib import api
assert not {HEAVY} & sys.modules.keys(), {HEAVY} & sys.modules.keys()
assert not logging.getLogger("bordure").hasHandlers()
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(("set_up", "shown"), [("", 1), ("logging.basicConfig()", 0), ("log.show()", 1)])
def test_log_is_shown_once_unless_the_program_sets_it_up(set_up, shown):
    code = f"""
import logging
from pipeline_lib import api
from pipeline_lib.runtime import log
{set_up}
for _ in range(2):
    api.measure([[1, 0], [0, 2]])
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stderr.count("cells.csv: 2 cells") == 2 * shown


def public_functions():
    """Names and functions of the stages, `imageio`, `metrics` and `layout` that users import."""
    modules = [imageio, metrics, layout]
    modules += [
        importlib.import_module(f"{stages.__name__}.{found.name}")
        for found in pkgutil.iter_modules(stages.__path__)
    ]
    for module in modules:
        own = getattr(module, "__all__", None) or [
            name
            for name, found in vars(module).items()
            if getattr(found, "__module__", "") == module.__name__
        ]
        for name in own:
            found = getattr(module, name)
            if inspect.isfunction(found) and not name.startswith("_"):
                yield f"{module.__name__}.{name}", found


def test_public_functions_accept_paths_as_text():
    """Their annotations say so, and mypy proves that the code keeps to them."""
    narrow = {
        f"{name}({parameter.name}: {parameter.annotation})"
        for name, function in public_functions()
        for parameter in inspect.signature(function).parameters.values()
        if re.search(r"(?<!str \| )\bPath\b", str(parameter.annotation))
        and parameter.name not in ("slices", "mask_slices")  # results of `matching_slices`
    }
    assert narrow == set()
    assert len([*public_functions()]) > 60
