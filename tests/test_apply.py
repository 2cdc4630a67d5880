"""`bordure predict`: one command from a model and images to labels and tables."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image

from pipeline_lib import cli, provenance
from pipeline_lib.api import segmenting
from pipeline_lib.api.segmenting import read_summary
from pipeline_lib.data.normalisation import measure
from pipeline_lib.networks import plan
from pipeline_lib.networks.model import Model
from pipeline_lib.networks.modelfile import describe
from pipeline_lib.stages import segmentation

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a small complete model and two images."""
    folder = tmp_path_factory.mktemp("new")
    rng = np.random.default_rng(0)
    for name in "ab":
        tifffile.imwrite(folder / f"{name}.tif", rng.integers(0, 255, (60, 70), np.uint8))
    training = rng.integers(0, 255, (1, 1, 60, 60), np.uint8)
    small = plan("unet", depth=1, base_channels=2)
    torch.manual_seed(0)
    model = Model(small, small.build(), measure("mean_std", [training]))
    model.save(folder / "trained.pt")
    threshold = 0.5
    for _ in range(2):  # the second time with a threshold at which the untrained network finds cells
        model.application = {
            "average_orientations": False,
            "postprocessing": {"threshold": threshold, "minimum_size": 3, "criterion": "seg"},
            "scores": {"validation": {"seg": 0.5}},
        }
        model.save(folder / "model.pt")
        assert predict(folder, folder / "first", "a.tif") == 0
        threshold = float(np.median(tifffile.imread(folder / "first/a_cell_probability.tif")))
    return folder


def predict(folder, out, *images, model="model.pt", **options):
    words = [str(folder / model), *(str(folder / image) for image in images), "--out", str(out)]
    return cli.main(["predict", *words, "--device", "cpu", *options.get("more", ())])


def test_each_image_has_labels_probabilities_and_a_table(folder, tmp_path, capsys):
    assert predict(folder, tmp_path / "out", "a.tif", "b.tif") == 0
    summary = pd.read_csv(tmp_path / "out/summary.csv")
    assert [*summary.image] == [str(folder / "a.tif"), str(folder / "b.tif")]
    for name, row in zip("ab", summary.itertuples(), strict=True):
        labels = tifffile.imread(tmp_path / f"out/{name}_labels.tif")
        probability = tifffile.imread(tmp_path / f"out/{name}_cell_probability.tif")
        cells = pd.read_csv(tmp_path / f"out/{name}_cells.csv")
        assert row.cells == len(cells) == labels.max() > 1
        assert (
            (labels > 0)
            <= (probability > describe(folder / "model.pt")["application"]["postprocessing"]["threshold"])
        ).all()
        np.testing.assert_array_equal(cells.area, np.bincount(labels.ravel())[1:])
        gray = tifffile.imread(folder / f"{name}.tif")
        means = [gray[labels.reshape(gray.shape) == label].mean() for label in cells.label]
        np.testing.assert_allclose(cells.intensity_mean, means)
    assert "[1/2]" in capsys.readouterr().out
    assert not [*(tmp_path / "out").rglob("*.h5")]
    links = provenance.chain(tmp_path / "out/a_labels.tif")
    assert {str(folder / "a.tif"), str(folder / "model.pt")} <= {str(path) for path in links}
    assert all(link.still_holds for link in links.values())


def test_one_bad_image_does_not_stop_the_others(folder, tmp_path, capsys):
    (folder / "damaged.tif").write_bytes(b"no image")
    tifffile.imwrite(folder / "wide.tif", np.zeros((60, 70), np.uint16))
    assert predict(folder, tmp_path, "damaged.tif", "a.tif", "gone.tif", "wide.tif") == 1
    errors = capsys.readouterr().err
    assert errors.count("\nerror: ") == 4 and "3 of 4 images could not be segmented" in errors
    summary = pd.read_csv(tmp_path / "summary.csv").set_index("image")
    assert [*summary.index] == [
        str(folder / name) for name in ("damaged.tif", "a.tif", "gone.tif", "wide.tif")
    ]
    assert [*summary.error.isna()] == [*summary.cells.notna()] == [False, True, False, False]
    assert "gone.tif: no such file" in summary.error[str(folder / "gone.tif")]
    assert {path.name for path in tmp_path.glob("*.tif")} == {"a_labels.tif", "a_cell_probability.tif"}


def test_a_stated_scale_makes_another_type_usable(folder, tmp_path):
    gray = tifffile.imread(folder / "a.tif")
    tifffile.imwrite(folder / "w.tif", gray.astype(np.uint16))
    assert predict(folder, tmp_path / "w", "w.tif", more=["--scale", "1"]) == 0
    assert predict(folder, tmp_path / "a", "a.tif") == 0
    found, expected = (tifffile.imread(tmp_path / f"{n}/{n}_labels.tif") for n in "wa")
    np.testing.assert_array_equal(found, expected)


def test_another_gray_scale_is_refused_with_the_option_and_the_image(folder, tmp_path, capsys):
    gray = tifffile.imread(folder / "a.tif").astype(np.uint16)
    tifffile.imwrite(folder / "s.tif", gray * 257)
    assert predict(folder, tmp_path, "s.tif") == 1
    error = capsys.readouterr().err
    assert f"{folder / 's.tif'}: uint16 gray levels" in error and ".bordure" not in error
    assert (
        "Add `--scale FACTOR`, with the factor between the scales: 0.00389" in error and "column" not in error
    )
    assert predict(folder, tmp_path, "s.tif", more=["--scale", "0.003891051"]) == 0
    tifffile.imwrite(folder / "m.tif", tifffile.imread(folder / "a.tif").astype(np.int16) - 120)
    assert predict(folder, tmp_path, "m.tif") == 1
    error = capsys.readouterr().err
    assert "Add `--offset -1" in error and "only `--scale 1` if" in error and "table" not in error


def test_a_later_command_keeps_the_rows_of_other_images(folder, tmp_path):
    for images in (["a.tif", "b.tif"], ["a.tif"]):
        assert predict(folder, tmp_path, *images) == 0
    table = pd.read_csv(tmp_path / "summary.csv")
    assert sorted(table.labels) == ["a_labels.tif", "b_labels.tif"] and table.labels.is_unique


def test_another_image_of_the_same_name_is_refused(folder, tmp_path, capsys):
    """As in a loop over animals whose images have the same names."""
    (tmp_path / "other").mkdir()
    shutil.copy(folder / "b.tif", tmp_path / "other/a.tif")
    assert predict(folder, tmp_path / "out", "a.tif") == 0
    before = files_of(tmp_path / "out")
    assert predict(tmp_path, tmp_path / "out", "other/a.tif", model=folder / "model.pt") == 1
    error = capsys.readouterr().err
    assert re.search(r"a_labels.tif: is the result of .*/a.tif, .* of .*/other/a.tif.*`--out`", error)
    assert files_of(tmp_path / "out") == before
    (tmp_path / "out/a_labels.tif").unlink()
    (tmp_path / "out/a_cells.csv").unlink()
    assert predict(tmp_path, tmp_path / "out", "other/a.tif", model=folder / "model.pt") == 0


def test_names_with_zeros_stay_as_they_are(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("001", "002"):
        (tmp_path / name).mkdir()
        shutil.copy(folder / "a.tif", tmp_path / name)
        words = ["predict", str(folder / "model.pt"), name, "--stack", "--out", "out", "--device", "cpu"]
        assert cli.main(words) == 0
    lines = (tmp_path / "out/summary.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["image", "001", "002"]
    assert [*read_summary(tmp_path / "out/summary.csv").image] == ["001", "002"]


def test_results_of_another_kind_of_model_are_removed(folder, tmp_path):
    """They would show another network than the labels beside them."""
    with provenance.making("segment", [tmp_path / "a_classes.tif"], []):
        (tmp_path / "a_classes.tif").write_text("classes")
    (tmp_path / "a_disagreement.tif").write_text("of a person")
    assert predict(folder, tmp_path, "a.tif") == 0
    assert not (tmp_path / "a_classes.tif").exists() and (tmp_path / "a_disagreement.tif").exists()


def test_a_stack_in_the_working_folder_has_its_name(folder, tmp_path, monkeypatch):
    (tmp_path / "brain").mkdir()
    shutil.copy(folder / "a.tif", tmp_path / "brain")
    monkeypatch.chdir(tmp_path / "brain")
    words = ["predict", str(folder / "model.pt"), ".", "--stack", "--out", "../out", "--device", "cpu"]
    assert cli.main(words) == 0
    assert (tmp_path / "out/brain_labels.tif").exists()


def test_half_precision_is_read(folder, tmp_path):
    tifffile.imwrite(folder / "h.tif", tifffile.imread(folder / "a.tif").astype(np.float16))
    assert predict(folder, tmp_path, "h.tif", "a.tif", more=["--scale", "1"]) == 0
    assert predict(folder, tmp_path / "other", "h.tif", "b.tif") in (0, 1)  # no traceback
    assert (tmp_path / "other/b_labels.tif").exists()


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("change", ["annotation", "table", "edited", "summary"])
def test_files_that_bordure_did_not_write_are_never_replaced(folder, tmp_path, capsys, change):
    shutil.copy(folder / "a.tif", tmp_path)
    gray = tifffile.imread(folder / "a.tif")
    if change == "annotation":
        tifffile.imwrite(tmp_path / "a_labels.tif", gray)
    elif change == "table":
        (tmp_path / "a_cells.csv").write_text("cell,note\n1,good\n")
    elif change == "summary":
        (tmp_path / "summary.csv").write_text("another,file\n1,2\n")
    else:  # labels that were corrected by hand
        assert predict(tmp_path, tmp_path, "a.tif", model=folder / "model.pt") == 0
        capsys.readouterr()
        tifffile.imwrite(tmp_path / "a_labels.tif", gray)
    before = files_of(tmp_path)
    assert predict(tmp_path, tmp_path, "a.tif", model=folder / "model.pt") == 1
    error = capsys.readouterr().err
    assert "is not replaced. Write into another folder by `--out`, or move this file." in error
    assert files_of(tmp_path) == before


def test_results_are_replaced_also_if_a_process_was_killed_before_their_records(folder, tmp_path):
    assert predict(folder, tmp_path, "a.tif") == 0
    before = files_of(tmp_path)
    for name in ("a_labels.tif", "a_cells.csv"):
        provenance.record_path(tmp_path / name).unlink()
    assert predict(folder, tmp_path, "a.tif") == 0
    assert files_of(tmp_path).keys() == before.keys()
    for path in tmp_path.glob("a_*"):
        assert path.read_bytes() == before[path]


def test_a_result_among_the_images_is_refused(folder, tmp_path, capsys):
    shutil.copy(folder / "a.tif", tmp_path)
    assert predict(tmp_path, tmp_path, "a.tif", model=folder / "model.pt") == 0
    assert predict(tmp_path, tmp_path, "a.tif", "a_labels.tif", model=folder / "model.pt") == 1
    assert "a_labels.tif: is a result of" in capsys.readouterr().err


def test_two_models_at_a_time_use_their_own_thresholds(folder, tmp_path, monkeypatch):
    """The second command starts between the prediction and the segmentation of the first one."""
    other = Model.load(folder / "model.pt")
    other.application["postprocessing"]["threshold"] = 0.99
    other.save(tmp_path / "other.pt")
    assert predict(folder, tmp_path / "alone", "a.tif") == 0
    segment, begun = segmentation.segment, []

    def later(*arguments, **options):
        if not begun:
            begun.append(True)
            assert predict(folder, tmp_path / "out", "b.tif", model=tmp_path / "other.pt") == 0
        return segment(*arguments, **options)

    monkeypatch.setattr(segmentation, "segment", later)
    assert predict(folder, tmp_path / "out", "a.tif") == 0
    expected, found = (tifffile.imread(tmp_path / f"{name}/a_labels.tif") for name in ("alone", "out"))
    np.testing.assert_array_equal(found, expected)
    assert sorted(pd.read_csv(tmp_path / "out/summary.csv").labels) == ["a_labels.tif", "b_labels.tif"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--at-a-time", "-1"], "found -1, expected a whole number of at least 1"),
        (["--scale", "0"], "found 0, expected a number above 0"),
        (["--scale", "nan"], "found nan, expected a number"),
        (["--offset", "inf"], "found inf, expected a number"),
        (["--memory", "-2"], "found -2, expected a number above 0"),
    ],
)
def test_impossible_numbers_are_refused(folder, tmp_path, capsys, words, message):
    with pytest.raises(SystemExit):
        predict(folder, tmp_path, "a.tif", more=words)
    assert message in capsys.readouterr().err and not files_of(tmp_path)


def test_too_little_memory_is_stated_with_the_option(folder, tmp_path, capsys):
    assert predict(folder, tmp_path, "a.tif", more=["--memory", "0.3"]) == 1
    error = capsys.readouterr().err
    assert "`--memory`: 0.3 GB is too small" in error and "config" not in error


def test_what_is_unclear_is_refused_with_what_to_type(folder, tmp_path, capsys):
    for name in ("one", "two"):
        (folder / name).mkdir(exist_ok=True)
        tifffile.imwrite(folder / name / "a.tif", tifffile.imread(folder / "a.tif"))
    for images, model, message in (
        (["one"], "model.pt", "Name its files if each is one image"),
        (["one/*.tif"], "model.pt", "is a pattern in quotes. Leave the quotes out"),
        (["one/a.tif", "two/a.tif"], "model.pt", "have the same name"),
        (["a.tif"], "trained.pt", "it is the file of the training alone"),
        (["a.tif"], "gone.pt", "gone.pt"),
    ):
        assert predict(folder, tmp_path / "out", *images, model=model) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    assert predict(folder, folder / "a.tif", "b.tif") == 1
    assert "a.tif" in (error := capsys.readouterr().err) and "Traceback" not in error
    assert predict(folder, tmp_path / "out", "one", more=["--stack"]) == 0
    assert (tmp_path / "out/one_labels.tif").exists()


def test_the_application_of_a_model_is_read_again(folder):
    assert Model.load(folder / "model.pt").application == describe(folder / "model.pt")["application"]
    assert Model.load(folder / "trained.pt").application == {}


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """A folder with a model of three channels that finds cells, and an image in several formats."""
    folder = tmp_path_factory.mktemp("colours")
    image = np.random.default_rng(0).integers(0, 255, (60, 70, 3), np.uint8)
    Image.fromarray(image).save(folder / "rgb.png")
    Image.fromarray(np.dstack([image, np.full((60, 70), 9, np.uint8)])).save(folder / "rgba.png")
    Image.fromarray(image).save(folder / "rgb.bmp")
    for n, name in enumerate("rgb"):
        Image.fromarray(image[..., n]).save(folder / f"{name}.png")
    names = {"axes": "CYX", "Channel": {"Name": ["blue", "dark", "green", "red"]}}
    four = np.stack([image[..., 2], image[..., 2] // 2, image[..., 1], image[..., 0]])
    tifffile.imwrite(folder / "four.ome.tif", four, photometric="minisblack", metadata=names)
    small = plan("unet", depth=1, base_channels=2, input_channels=3)
    torch.manual_seed(0)
    model = Model(small, small.build(), measure("mean_std", [np.moveaxis(image, -1, 0)[:, None]]))
    for channels in ("number", "names"):
        model.application = {
            "average_orientations": False,
            "channels": 3 if channels == "number" else ["red", "green", "blue"],
            "postprocessing": {"threshold": 0.5, "minimum_size": 3, "criterion": "seg"},
        }
        model.save(folder / f"{channels}.pt")
    return folder


def probability(path):
    return tifffile.imread(path).squeeze()


def test_all_forms_of_an_image_in_colour_give_the_same_result(colours, tmp_path):
    images = ["rgb.png", "rgba.png", f"r.png + {colours}/g.png + {colours}/b.png"]
    assert predict(colours, tmp_path, *images, model="number.pt") == 0
    assert predict(colours, tmp_path / "bmp", "rgb.bmp", model="names.pt") == 0
    assert predict(colours, tmp_path, "four.ome.tif", model="names.pt") == 0
    more = ["--channels", "3", "green", "0"]
    assert predict(colours, tmp_path / "given", "four.ome.tif", model="number.pt", more=more) == 0
    expected = probability(tmp_path / "rgb_cell_probability.tif")
    assert np.ptp(expected) > 0.01
    for name in ("rgba", "r", "bmp/rgb", "four.ome", "given/four.ome"):
        found = probability(tmp_path / f"{name}_cell_probability.tif")
        np.testing.assert_array_equal(found, expected, err_msg=name)
    more = ["--channels", "blue", "green", "red"]
    assert predict(colours, tmp_path / "other", "rgb.png", model="number.pt", more=more) == 0
    assert (probability(tmp_path / "other/rgb_cell_probability.tif") != expected).any()


def test_an_image_with_other_channels_than_the_model_is_refused(folder, colours, tmp_path, capsys):
    for at, model, image, more, message in (
        (
            colours,
            "number.pt",
            "r.png",
            [],
            "found 1 channel, expected 3 channels, as the images of the train",
        ),
        (
            colours,
            "number.pt",
            "four.ome.tif",
            [],
            r"Choose them with `--channels` (there are 0 blue, 1 dark,",
        ),
        (
            colours,
            "names.pt",
            "r.png",
            [],
            "has no channel red. It has 0. Write one of these numbers or names after",
        ),
        (colours, "number.pt", "rgb.png", ["--channels", "0"], "`--channels`: 1 given, but"),
        (folder, "model.pt", colours / "rgb.png", [], "trained on gray levels. Add `--channels red` to use"),
    ):
        assert predict(at, tmp_path, image, model=model, more=more) == 1
        error = capsys.readouterr().err
        assert message in error and "dataset.channels" not in error
    assert predict(folder, tmp_path, colours / "rgb.png", more=["--channels", "red"]) == 0
    assert predict(folder, tmp_path / "gray", colours / "r.png") == 0
    found, expected = (tmp_path / f"{name}_cell_probability.tif" for name in ("rgb", "gray/r"))
    np.testing.assert_array_equal(probability(found), probability(expected))


@pytest.fixture(scope="module")
def many(folder):
    """Names of ten images of several sizes; the fourth cannot be read."""
    rng = np.random.default_rng(1)
    names = [f"n{number}.tif" for number in range(10)]
    for number, name in enumerate(names):
        tifffile.imwrite(folder / name, rng.integers(0, 255, (40 + 3 * number, 50), np.uint8))
    (folder / names[3]).write_bytes(b"no image")
    return names


def test_results_do_not_depend_on_the_number_of_images_at_a_time(folder, many, tmp_path, capfd):
    for number in ("1", "4"):
        assert predict(folder, tmp_path / number, *many, more=["--at-a-time", number]) == 1
        printed = capfd.readouterr()
        assert [f"[{done}/10]" in printed.out + printed.err for done in range(1, 11)] == [True] * 10
        assert "[11/10]" not in printed.out and "1 of 10 images could not be segmented" in printed.err
    one, four = tmp_path / "1", tmp_path / "4"
    assert (one / "summary.csv").read_bytes() == (four / "summary.csv").read_bytes()
    assert [*pd.read_csv(one / "summary.csv").error.notna()] == [number == 3 for number in range(10)]
    for name in (name[:-4] for name in many if name != many[3]):
        assert (one / f"{name}_cells.csv").read_bytes() == (four / f"{name}_cells.csv").read_bytes()
        for end in ("labels", "cell_probability"):
            arrays = [tifffile.imread(out / f"{name}_{end}.tif") for out in (one, four)]
            np.testing.assert_array_equal(*arrays)


@pytest.mark.parametrize("number", ["1", "2"])
def test_ctrl_c_keeps_complete_images_and_nothing_else(folder, many, tmp_path, number):
    images = [str(folder / name) for name in many]
    command = [sys.executable, "-m", "pipeline_lib.cli", "predict", str(folder / "model.pt"), *images]
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += f"import sys; from pipeline_lib import cli; sys.exit(cli.main({command[3:]!r} + sys.argv[1:]))"
    words = ["--out", str(tmp_path), "--device", "cpu", "--at-a-time", number]
    program = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert program.stdout.readline().startswith("[1/10]")
    os.killpg(program.pid, signal.SIGINT)  # as Ctrl-C does
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 130 and errors.endswith("interrupted\n") and "Traceback" not in errors
    complete = [Path(row).stem for row in pd.read_csv(tmp_path / "summary.csv").dropna(subset="cells").image]
    assert 0 < len(complete) < 9
    left = {path.name for path in tmp_path.glob("*") if path.suffix in (".tif", ".csv")}
    ends = ("labels.tif", "cell_probability.tif", "cells.csv")
    # an image may have been completed while the signal arrived
    assert {f"{name}_{end}" for name in complete for end in ends} <= left - {"summary.csv"}
    assert all({f"{name.partition('_')[0]}_{end}" for end in ends} <= left for name in left if "_" in name)
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".h5" or "partial" in path.name]


def test_as_many_images_at_a_time_as_cores_and_memory_allow(folder, monkeypatch):
    monkeypatch.setattr(segmenting, "cores", lambda: 32)
    described = describe(folder / "model.pt")
    a, b = folder / "a.tif", folder / "b.tif"

    def most(*images, memory=8.0):
        options = segmenting.Options(folder / "model.pt", folder, device="cpu", memory=memory)
        return segmenting._most_at_a_time(options, described, images, threads=8)

    assert most(a) == 1 and most(a, b) == 2 and most(*[a] * 20) == 5
    assert most(*[a] * 20, memory=1.4) == 3 and most(*[a] * 20, memory=0.1) == 1  # 0.45 GB for each process
    assert most(folder / "gone.tif", b) == 2
