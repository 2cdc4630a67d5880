"""`bordure predict`: one command from a model and images to labels and tables."""

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch

from pipeline_lib import cli, provenance
from pipeline_lib.data.normalisation import measure
from pipeline_lib.networks import plan
from pipeline_lib.networks.model import Model
from pipeline_lib.networks.modelfile import describe


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


def test_what_is_unclear_is_refused_with_what_to_type(folder, tmp_path, capsys):
    for name in ("one", "two"):
        (folder / name).mkdir(exist_ok=True)
        tifffile.imwrite(folder / name / "a.tif", tifffile.imread(folder / "a.tif"))
    for images, model, message in (
        (["one"], "model.pt", "Name its files if each is one image"),
        (["one/a.tif", "two/a.tif"], "model.pt", "have the same name"),
        (["a.tif"], "trained.pt", "it is the file of the training alone"),
        (["a.tif"], "gone.pt", "gone.pt"),
    ):
        assert predict(folder, tmp_path / "out", *images, model=model) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    assert predict(folder, tmp_path / "out", "one", more=["--stack"]) == 0
    assert (tmp_path / "out/one_labels.tif").exists()


def test_the_application_of_a_model_is_read_again(folder):
    assert Model.load(folder / "model.pt").application == describe(folder / "model.pt")["application"]
    assert Model.load(folder / "trained.pt").application == {}
