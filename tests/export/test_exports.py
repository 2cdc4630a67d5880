"""Exports are opened by the programs and validators for which they are made.

`make test-export` makes the files in the folder `$EXPORTS` with `make.py`, and runs these tests in an
environment of its own, which has neither bordure nor its versions of packages.
"""

import io
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr

FOLDER = Path(os.environ["EXPORTS"])
LABELS = FOLDER / "results/segmentation/test_labels.tif"
TABLE = FOLDER / "results/segmentation/test_cells.csv"
VERSIONS = ["v05", "v04"]


# bioimage.io


@pytest.fixture(scope="module")
def model():
    from bioimageio.spec import load_model_description

    return load_model_description(FOLDER / "model.zip")


@pytest.mark.parametrize("weights", ["pytorch_state_dict", "torchscript", "onnx"])
def test_the_model_passes_bioimageio_test(model, weights):
    from bioimageio.core import test_model

    summary = test_model(model, weight_format=weights)
    assert summary.status == "passed", summary.display()


def test_a_prediction_in_blocks_equals_that_of_the_whole_image(model):
    from bioimageio.core import create_prediction_pipeline
    from bioimageio.core.digest_spec import create_sample_for_model

    (given,) = model.inputs
    sizes = given.axes[2].size
    side = sizes.min + 16 * sizes.step
    image = np.random.default_rng(0).integers(0, 255, (1, 1, side, side)).astype(given.data.type)
    sample = create_sample_for_model(model, inputs={"raw": image})
    pipeline = create_prediction_pipeline(model, weight_format="pytorch_state_dict")
    whole = pipeline.predict_sample_without_blocking(sample).members["cell_probability"].data.values
    found = pipeline.predict_sample_with_blocking(sample, ns=8)
    blocks = found.members["cell_probability"].data.values
    assert whole.shape == image.shape and whole.std() > 0.01
    np.testing.assert_allclose(blocks, whole, atol=1e-5)


# OME-Zarr


@pytest.mark.parametrize("name", [*VERSIONS, "probability"])
def test_validators_accept_images(name):
    import yaozarrs
    from ome_zarr_models import open_ome_zarr

    path = FOLDER / f"{name}.zarr"
    yaozarrs.validate_zarr_store(str(path))
    found = open_ome_zarr(zarr.open_group(path, mode="r"))
    assert type(found).__name__ == "Image"
    assert found.ome_zarr_version == ("0.4" if name == "v04" else "0.5")


@pytest.mark.parametrize("name", VERSIONS)
def test_validators_accept_labels(name):
    import yaozarrs
    from ome_zarr_models import open_ome_zarr

    path = FOLDER / f"{name}.zarr/labels/cells"
    yaozarrs.validate_zarr_store(str(path))
    found = open_ome_zarr(zarr.open_group(path, mode="r"))
    assert type(found).__name__ == "ImageLabel"


@pytest.mark.parametrize("name", VERSIONS)
def test_napari_shows_image_and_labels_with_measurements(name):
    from napari_ome_zarr import napari_get_reader

    layers = napari_get_reader(str(FOLDER / f"{name}.zarr"))(str(FOLDER / f"{name}.zarr"))
    kinds = [kind for _, _, kind in layers]
    assert kinds == ["image", "labels"]
    (raw, of_raw, _), (cells, of_cells, _) = layers
    labels = tifffile.imread(LABELS)
    levels = cells if isinstance(cells, list) else [cells]
    np.testing.assert_array_equal(np.asarray(levels[0]), labels)
    raw = raw[0] if isinstance(raw, list) else raw
    assert raw.shape == labels.shape
    assert tuple(of_raw["scale"]) == tuple(of_cells["scale"]) == (1.0, 0.008, 0.008)
    table = pd.read_csv(TABLE)
    properties = pd.DataFrame({key: [*of_cells["properties"][key]] for key in ("index", "area")}).dropna()
    areas = dict(zip(properties["index"], properties["area"], strict=True))
    assert {label: areas[label] for label in table.label} == dict(zip(table.label, table.area, strict=True))


# Fiji


@pytest.fixture(scope="module")
def imagej(tmp_path_factory):
    """The classes of ImageJ, from Debian's package."""
    import jpype

    if not (shutil.which("java") and shutil.which("apt-get")):
        pytest.skip("needs Java, and Debian's package of ImageJ")
    folder = tmp_path_factory.mktemp("imagej")
    subprocess.run(["apt-get", "download", "libij-java"], cwd=folder, check=True)
    subprocess.run(["dpkg", "-x", *map(str, folder.glob("*.deb")), str(folder)], check=True)
    jpype.startJVM("-Djava.awt.headless=true", classpath=[str(folder / "usr/share/java/ij.jar")])
    return jpype.JClass


def test_imagej_decodes_every_roi(imagej):
    """With the place, size, section and area of the cell, as ImageJ fills the outline."""
    decoder = imagej("ij.io.RoiDecoder")
    labels, table = tifffile.imread(LABELS), pd.read_csv(TABLE)
    archive = zipfile.ZipFile(FOLDER / "rois.zip")
    assert len(archive.namelist()) == len(table)
    cells = {(row.section, row.label) for row in table.itertuples()}
    for name in archive.namelist():
        roi = decoder.openFromByteArray(archive.read(name))
        position, label = map(int, name.removesuffix(".roi").split("-"))
        section = position - 1
        cells.remove((section, label))
        assert roi.getTypeAsString() == "Polygon" and roi.getPosition() == position
        rows, columns = np.nonzero(labels[section] == label)
        box = roi.getBounds()
        filled = np.zeros(labels.shape[1:], bool)
        mask = roi.getMask()
        inside = (
            np.ones((box.height, box.width), bool)
            if mask is None
            else np.array(mask.getPixels(), np.int8).reshape(box.height, box.width) != 0
        )
        filled[box.y : box.y + box.height, box.x : box.x + box.width] = inside
        own = labels[section] == label
        # only the largest part, without its holes
        assert (filled[rows, columns].mean() > 0.5) and not (filled & ~own).sum() > 0.5 * own.sum()
        if filled.sum() == own.sum():
            np.testing.assert_array_equal(filled, own)
    assert not cells


def test_imagej_opens_labels_with_the_pixel_size(imagej):
    stack = imagej("ij.IJ").openImage(str(LABELS))
    labels = tifffile.imread(LABELS)
    assert (stack.getStackSize(), stack.getHeight(), stack.getWidth()) == labels.shape
    calibration = stack.getCalibration()
    assert float(calibration.pixelWidth) == pytest.approx(0.008)
    assert str(calibration.getUnit()) in ("um", "\xb5m")
    stack.setSlice(2)
    pixels = np.array(stack.getProcessor().getPixels()).astype(np.int64) & 0xFFFF
    np.testing.assert_array_equal(pixels.reshape(labels.shape[1:]), labels[1])


# QuPath


def test_geojson_is_what_qupath_imports():
    """A FeatureCollection of detections with closed rings and numbers as measurements."""
    found = json.loads((FOLDER / "cells.geojson").read_text())
    assert found["type"] == "FeatureCollection" and len(found["features"]) == len(pd.read_csv(TABLE))
    for feature in found["features"]:
        assert feature["type"] == "Feature" and feature["properties"]["objectType"] == "detection"
        assert all(isinstance(value, int | float) for value in feature["properties"]["measurements"].values())
        shape = feature["geometry"]
        polygons = shape["coordinates"] if shape["type"] == "MultiPolygon" else [shape["coordinates"]]
        for ring in (ring for polygon in polygons for ring in polygon):
            assert ring[0] == ring[-1] and len(ring) >= 5


# RO-Crate


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    """A cache with the terms of RO-Crate that bordure uses, so that the validator needs no network."""
    from requests_cache import CachedRequest, CachedResponse, CachedSession

    cache = tmp_path_factory.mktemp("http") / "cache"
    with CachedSession(str(cache), backend="sqlite") as session:
        for address, terms in json.loads(Path(__file__).with_name("contexts.json").read_text()).items():
            response = CachedResponse(
                status_code=200,
                url=address,
                headers={"Content-Type": "application/ld+json"},
                content=json.dumps(terms).encode(),
                request=CachedRequest(method="GET", url=address),
            )
            session.cache.save_response(response)
    return cache


def issues_of(crate, contexts):
    from rocrate_validator import models, services

    settings = {
        "rocrate_uri": str(crate),
        "profile_identifier": "workflow-run-crate",
        "requirement_severity": models.Severity.REQUIRED,
        "offline": True,
        "cache_path": contexts,
    }
    found = services.validate(settings).get_issues()
    return [f"{issue.check.identifier}: {issue.message}" for issue in found]


def test_the_crate_is_a_valid_workflow_run_crate(tmp_path, contexts):
    zipfile.ZipFile(FOLDER / "crate.zip").extractall(tmp_path)
    assert issues_of(tmp_path, contexts) == []


@pytest.mark.parametrize("term", ["license", "mainEntity", "startedBy"])
def test_the_validator_refuses_a_changed_crate(tmp_path, contexts, term):
    zipfile.ZipFile(FOLDER / "crate.zip").extractall(tmp_path)
    file = tmp_path / "ro-crate-metadata.json"
    crate = json.loads(file.read_text())
    root = next(entity for entity in crate["@graph"] if entity["@id"] == "./")
    if root.pop(term, None) is None:
        root[term] = "a term that is not in the context"
    file.write_text(json.dumps(crate))
    assert any(term in issue for issue in issues_of(tmp_path, contexts))


def test_weights_are_loaded_without_bordure():
    """What `torch.load` with `weights_only` accepts, beside the code of the network."""
    import torch

    archive = zipfile.ZipFile(FOLDER / "model.zip")
    state = torch.load(io.BytesIO(archive.read("weights.pt")), weights_only=True)
    assert state and "pipeline_lib" not in archive.read("architecture.py").decode()
