"""Pixel sizes are read from the statements that can be believed, carried along, and written for ImageJ."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from bordure.lengths import in_pixels, physical_keys
from bordure.settings import complete, of_volume
from image_files import gray
from PIL import Image

from pipeline_lib import cli, imageio, layout, networks, provenance
from pipeline_lib.data import normalisation as normalise
from pipeline_lib.data import resolution
from pipeline_lib.inference.resampling import Resampled
from pipeline_lib.instances.measurement import measure_cells
from pipeline_lib.kernels import blocks
from pipeline_lib.kernels.pixelsize import differs, is_square, require_ratio
from pipeline_lib.networks.model import Model
from pipeline_lib.networks.modelfile import describe
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json, write_json
from pipeline_lib.stages.baselines import predict as predict_baseline
from pipeline_lib.stages.dataset import build_dataset, build_weight_map, measure_statistics
from pipeline_lib.stages.evaluation import evaluate
from pipeline_lib.stages.joining import join_predictions
from pipeline_lib.stages.measurement import measure_file, measure_volume
from pipeline_lib.stages.postprocessing import choose_postprocessing
from pipeline_lib.stages.prediction import predict
from pipeline_lib.stages.segmentation import label_part, number_parts, relabel_part, segment, write_tiffs
from pipeline_lib.stages.training import train

IMAGE = gray((6, 5))


def ome(path, image=IMAGE, axes="YX", **metadata):
    tifffile.imwrite(path, image, metadata={"axes": axes, **metadata}, ome=True)


def imagej(path, resolution=(4.0, 2.0), **metadata):
    tifffile.imwrite(path, gray((3, 6, 5)), imagej=True, resolution=resolution, metadata=metadata)


def plain(path, resolution, unit, **options):
    tifffile.imwrite(path, IMAGE, resolution=resolution, resolutionunit=unit, metadata=None, **options)


def size_and_spacing(path):
    info = imageio.inspect(path)
    assert imageio.pixel_size(path) == info.pixel_size
    return info.pixel_size, info.section_spacing


class TestStatementsOfFiles:
    @pytest.mark.parametrize(
        ("unit", "factor"),
        (("µm", 1), ("nm", 1e-3), ("mm", 1e3), ("Å", 1e-4), ("m", 1e6), ("pixel", None), ("in", None)),
    )
    def test_ome_with_its_units(self, tmp_path, unit, factor):
        sizes = {f"PhysicalSize{axis}": value for axis, value in zip("ZYX", (3.0, 0.25, 0.5), strict=True)}
        ome(tmp_path / "a.ome.tif", **sizes, **{f"{name}Unit": unit for name in sizes})
        expected = ((0.25 * factor, 0.5 * factor), 3 * factor) if factor else (None, None)
        assert size_and_spacing(tmp_path / "a.ome.tif") == expected

    def test_ome_without_a_unit_means_um(self, tmp_path):
        ome(tmp_path / "a.ome.tif", PhysicalSizeX=0.5, PhysicalSizeY=0.25)
        assert size_and_spacing(tmp_path / "a.ome.tif") == ((0.25, 0.5), None)

    @pytest.mark.parametrize("value", (0.0, -1.0, float("nan"), float("inf")))
    def test_ome_with_a_senseless_size_states_nothing(self, tmp_path, value):
        ome(tmp_path / "a.ome.tif", PhysicalSizeX=value, PhysicalSizeY=0.25)
        assert size_and_spacing(tmp_path / "a.ome.tif") == (None, None)

    @pytest.mark.parametrize(
        ("unit", "factor"),
        (("micron", 1), ("\\u00B5m", 1), ("um", 1), ("nm", 1e-3), ("mm", 1e3), ("cm", 1e4)),
    )
    def test_imagej_states_pixels_per_unit(self, tmp_path, unit, factor):
        imagej(tmp_path / "a.tif", unit=unit, spacing=2.5)
        assert size_and_spacing(tmp_path / "a.tif") == ((0.5 * factor, 0.25 * factor), 2.5 * factor)

    def test_imagej_may_have_other_units_for_rows_and_sections(self, tmp_path):
        imagej(tmp_path / "a.tif", unit="um", yunit="nm", zunit="mm", spacing=-0.5)
        assert size_and_spacing(tmp_path / "a.tif") == ((0.0005, 0.25), 500.0)

    @pytest.mark.parametrize(
        ("unit", "seconds"), (("s", 2.5), ("ms", 0.0025), ("µs", 2.5e-6), ("min", 150.0), ("h", 9000.0))
    )
    def test_frames_of_ome_have_an_interval(self, tmp_path, unit, seconds):
        stated = {"TimeIncrement": 2.5, "TimeIncrementUnit": unit}
        for axes, expected in (("TYX", seconds), ("ZYX", None)):
            ome(tmp_path / "a.ome.tif", gray((3, 6, 5)), axes, **stated)
            info = imageio.inspect(tmp_path / "a.ome.tif")
            assert info.frames == (axes == "TYX")
            assert info.frame_interval == (expected and pytest.approx(expected))

    def test_frames_of_ome_without_a_unit_have_seconds(self, tmp_path):
        ome(tmp_path / "a.ome.tif", gray((3, 6, 5)), "TYX", TimeIncrement=2.5)
        assert imageio.inspect(tmp_path / "a.ome.tif").frame_interval == 2.5

    @pytest.mark.parametrize(
        ("stated", "seconds"),
        (
            ({"finterval": 2.5}, 2.5),
            ({"finterval": 2.5, "tunit": "msec"}, 0.0025),
            ({"finterval": 0.0}, None),
            ({"finterval": "soon"}, None),
            ({"finterval": 2.5, "tunit": "weeks"}, None),
            ({}, None),
        ),
    )
    def test_frames_of_imagej_have_an_interval(self, tmp_path, stated, seconds):
        imagej(tmp_path / "a.tif", axes="TYX", **stated)
        info = imageio.inspect(tmp_path / "a.tif")
        assert (info.frames, info.frame_interval) == (True, seconds)

    @pytest.mark.parametrize("unit", ("pixel", "inch", "sec"))
    def test_imagej_without_a_length_states_nothing(self, tmp_path, unit):
        imagej(tmp_path / "a.tif", unit=unit, spacing=2.5)
        assert size_and_spacing(tmp_path / "a.tif") == (None, None)

    @pytest.mark.parametrize(
        ("resolution", "unit", "expected"),
        (
            ((20_000, 40_000), "CENTIMETER", (0.25, 0.5)),
            ((50_800, 101_600), "INCH", (0.25, 0.5)),
            ((4000, 4000), "CENTIMETER", (2.5, 2.5)),  # the largest that is believed
            ((3999, 4000), "CENTIMETER", None),
            ((4000, 3999), "CENTIMETER", None),
            ((20_000, 40_000), "NONE", None),
            ((72, 72), "INCH", None),
            ((96, 96), "INCH", None),
            ((300, 300), "INCH", None),
            ((4800, 4800), "INCH", None),
            ((28.35, 28.35), "CENTIMETER", None),
            ((0, 0), "CENTIMETER", None),
        ),
    )
    def test_resolution_of_a_plain_tiff_unless_a_screen_or_scanner_has_it(
        self, tmp_path, resolution, unit, expected
    ):
        plain(tmp_path / "a.tif", resolution, unit)
        assert size_and_spacing(tmp_path / "a.tif") == (expected, None)

    def test_a_plain_tiff_without_a_resolution_states_nothing(self, tmp_path):
        tifffile.imwrite(tmp_path / "a.tif", IMAGE)
        assert size_and_spacing(tmp_path / "a.tif") == (None, None)

    def test_a_turned_image_has_turned_pixels(self, tmp_path):
        plain(tmp_path / "a.tif", (20_000, 40_000), "CENTIMETER", extratags=[(274, 3, 1, 6, True)])
        assert size_and_spacing(tmp_path / "a.tif") == ((0.5, 0.25), None)

    @pytest.mark.parametrize(("dpi", "expected"), ((72, None), (300, None), (25.4e3, 1.0)))
    def test_png(self, tmp_path, dpi, expected):
        Image.fromarray(IMAGE).save(tmp_path / "a.png", dpi=(dpi, 2 * dpi))
        assert size_and_spacing(tmp_path / "a.png") == (expected and (expected / 2, expected), None)

    def test_png_without_a_unit_states_nothing(self, tmp_path):
        chunk = (2_000_000).to_bytes(4, "big") * 2
        for unit, expected in ((b"\1", (0.5, 0.5)), (b"\0", None)):
            assert imageio.pixelsize.of_png(chunk + unit).pixel_size == expected

    @pytest.mark.parametrize(
        ("size", "expected"),
        (
            ([3, 0.5, 0.25], ((0.5, 0.25), 3)),
            ([0.5, 0.25], ((0.5, 0.25), None)),
            ([1, 1, 1], (None, None)),  # what programs write if nothing is known
            ([1, 0, 0], (None, 1)),
            ([1.0], (None, None)),
            (["a", "b", "c"], (None, None)),
        ),
    )
    def test_hdf5_with_element_size_um(self, tmp_path, size, expected):
        for axes in ("zyx", "yxz"):  # sizes in another order may belong to either
            with h5py.File(tmp_path / "a.h5", "w") as file:
                file["raw"] = gray((2, 6, 5))
                file["raw"].attrs.update(element_size_um=size, axes=axes)
            assert size_and_spacing(tmp_path / "a.h5:/raw") == (expected if axes == "zyx" else (None, None))

    def test_a_dataset_of_bordure(self, tmp_path):
        with layout.create(tmp_path / "a.h5", {}) as file:
            layout.add(file, layout.RAW, (1, 2, 6, 5), np.uint8)[:] = 1
            layout.write_pixel_size(file, (0.5, 0.25), 3.0)
        assert size_and_spacing(tmp_path / "a.h5:/raw") == ((0.5, 0.25), 3.0)

    def test_slices_have_the_size_of_the_first(self, tmp_path, caplog):
        for number, per_cm in enumerate((20_000, 20_010, 40_000, 40_000)):
            plain(tmp_path / f"s{number}.tif", (per_cm, per_cm), "CENTIMETER")
        assert size_and_spacing(tmp_path) == ((0.5, 0.5), None)
        (warning,) = caplog.messages  # once, and not for a difference of rounding
        assert "s2.tif: pixels of 0.25 um, but s0.tif of the same stack has 0.5 um" in warning


LABELS = np.zeros((3, 40, 50), np.uint32)
LABELS[0, :5, :5], LABELS[2, 10:, 10:] = 3, 153


SCALE = {"pixel_size": (0.5, 0.325), "section_spacing": 2.0}


class TestWrittenTiffs:
    def test_labels_state_what_imagej_reads(self, tmp_path):
        # ImageJ 1.52i opened such a file with 0.325 x 0.5 x 2 um, the range 0 to 153, and the right sums
        imageio.write_labels(tmp_path / "a.tif", LABELS, provenance={"a": 'C:\\users "é"'}, **SCALE)
        with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
            meta, page = tiff.imagej_metadata, tiff.pages[0]
            stated = {name: meta[name] for name in ("images", "slices", "unit", "spacing", "min", "max")}
            expected = {"images": 3, "slices": 3, "unit": "um", "spacing": 2.0, "min": 0.0, "max": 153}
            assert stated == expected
            assert (page.tags.valueof("XResolution"), page.tags.valueof("YResolution")) == ((40, 13), (2, 1))
            assert page.tags.valueof("ResolutionUnit") == 1
            assert (page.compression, page.predictor, page.is_tiled) == (8, 1, False)
            assert tiff.series[0].axes == "ZYX"
        np.testing.assert_array_equal(imageio.read_images(tmp_path / "a.tif")[0], LABELS)
        assert size_and_spacing(tmp_path / "a.tif") == ((0.5, 0.325), 2.0)
        assert provenance.embedded_record(tmp_path / "a.tif") == {"a": 'C:\\users "é"'}

    def test_probabilities_are_shown_from_0_to_1(self, tmp_path):
        imageio.write_probability(tmp_path / "p.tif", LABELS / 1000, **SCALE)
        with tifffile.TiffFile(tmp_path / "p.tif") as tiff:
            assert (tiff.imagej_metadata["min"], tiff.imagej_metadata["max"]) == (0, 1)
        np.testing.assert_array_equal(
            imageio.read_images(tmp_path / "p.tif")[0], (LABELS / 1000).astype(np.float32)
        )

    @pytest.mark.parametrize("large", ("labels", "file"))
    def test_what_imagej_cannot_describe_states_the_resolution(self, tmp_path, monkeypatch, large):
        labels = LABELS.copy()
        if large == "labels":
            labels[1, 1, 1] = 2**16
        else:
            monkeypatch.setattr(imageio.writing, "needs_bigtiff", lambda *_: True)
        imageio.write_labels(tmp_path / "a.tif", labels, provenance={"a": 1}, **SCALE)
        with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
            assert not tiff.is_imagej
            tags = tiff.pages[0].tags
            assert tags.valueof("ResolutionUnit") == 3
            assert np.divide(*tags.valueof("XResolution")) == pytest.approx(10_000 / 0.325)
            assert np.divide(*tags.valueof("YResolution")) == 20_000
        np.testing.assert_array_equal(imageio.read_images(tmp_path / "a.tif")[0], labels)
        assert size_and_spacing(tmp_path / "a.tif") == ((0.5, 0.325), 2.0)
        assert provenance.embedded_record(tmp_path / "a.tif") == {"a": 1}

    def test_coarse_pixels_of_own_files_are_believed(self, tmp_path):
        for name, labels in (("a", LABELS), ("b", LABELS + 2**16)):
            imageio.write_labels(tmp_path / f"{name}.tif", labels, pixel_size=(80.0, 80.0))
            assert size_and_spacing(tmp_path / f"{name}.tif") == ((80.0, 80.0), None)

    def test_a_single_section(self, tmp_path):
        imageio.write_images(tmp_path / "a.tif", gray((1, 9, 8)), pixel_size=(0.5, 0.5))
        np.testing.assert_array_equal(imageio.read_images(tmp_path / "a.tif")[0], gray((1, 9, 8)))
        assert size_and_spacing(tmp_path / "a.tif") == ((0.5, 0.5), None)

    def test_without_a_pixel_size_nothing_is_stated(self, tmp_path):
        imageio.write_labels(tmp_path / "a.tif", LABELS, section_spacing=2.0)
        with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
            assert tiff.pages[0].description == '{"shape": [3, 40, 50], "axes": "ZYX"}'
            assert tiff.pages[0].tags.valueof("ResolutionUnit") == 1


@pytest.fixture
def volume(tmp_path):
    """An annotated stack (0.5 um per pixel, stated by the file) and its folder."""
    rng = np.random.default_rng(0)
    labels = np.zeros((2, 60, 64), np.uint16)
    labels[:, 5:25, 5:30], labels[:, 30:55, 20:60] = 1, 2
    images = (rng.normal(60, 20, labels.shape) + 100 * (labels > 0)).clip(0, 255).astype(np.uint8)
    tifffile.imwrite(
        tmp_path / "images.tif",
        images,
        imagej=True,
        resolution=(2, 2),
        metadata={"unit": "um", "spacing": 3.0, "axes": "ZYX"},
    )
    tifffile.imwrite(tmp_path / "labels.tif", labels, photometric="minisblack")
    return tmp_path


def without_size(path):
    tifffile.imwrite(path, tifffile.imread(path), photometric="minisblack")


def dataset(folder, name, annotated=True, **settings):
    annotation = str(folder / "labels.tif") if annotated else None
    settings = {"annotation_kind": "instances"} | settings if annotated else settings
    build_dataset(str(folder / "images.tif"), annotation, folder / f"{name}.h5", **settings)
    return folder / f"{name}.h5"


def stored(path):
    with layout.require(path) as file:
        return layout.pixel_size(file), layout.section_spacing(file)


class TestCarriedSize:
    def test_a_dataset_has_the_size_of_its_file(self, volume):
        assert stored(dataset(volume, "a")) == ((0.5, 0.5), 3.0)

    def test_a_stated_size_wins_and_a_contradiction_is_told(self, volume, caplog):
        assert stored(dataset(volume, "a", pixel_size=0.7)) == ((0.7, 0.7), 3.0)
        assert "states a pixel size of 0.5 um, but `pixel_size` is 0.7 um, which is used" in caplog.text
        caplog.clear()
        assert stored(dataset(volume, "b", pixel_size=[0.502, 0.5])) == ((0.502, 0.5), 3.0)
        assert not caplog.messages  # rounding

    def test_a_size_that_is_not_known_leaves_no_attribute(self, volume):
        tifffile.imwrite(
            volume / "images.tif", tifffile.imread(volume / "images.tif"), photometric="minisblack"
        )
        assert stored(dataset(volume, "a")) == (None, None)
        with h5py.File(volume / "a.h5") as file:
            assert {*file.attrs} == {"format", "format_version", "provenance", "findings"}

    def test_statistics_have_the_median_of_the_training_volumes(self, volume):
        sizes = {"a": None, "b": [0.5, 0.6], "c": 5.0}
        datasets = [dataset(volume, name, pixel_size=size) for name, size in sizes.items()]
        measure_statistics(datasets, volume / "s.json")
        assert read_json(volume / "s.json")["pixel_size"] == [0.5, 0.6]

    def test_statistics_have_none_if_one_is_not_known(self, volume):
        datasets = [dataset(volume, "a")]
        tifffile.imwrite(
            volume / "images.tif", tifffile.imread(volume / "images.tif"), photometric="minisblack"
        )
        measure_statistics([*datasets, dataset(volume, "b")], volume / "s.json")
        assert read_json(volume / "s.json")["pixel_size"] is None

    def test_baselines_segmentations_and_tables_have_it(self, volume):
        path = dataset(volume, "a", pixel_size=[0.5, 0.25])
        measure_statistics([path], volume / "s.json")
        predict_baseline(path, volume / "s.json", volume / "p.h5", network="smoothed_raw")
        write_json(volume / "post.json", {"threshold": 0.5, "minimum_size": 20})
        segment(volume / "p.h5", volume / "post.json", volume / "l.h5")
        assert stored(volume / "p.h5") == stored(volume / "l.h5") == ((0.5, 0.25), 3.0)
        write_tiffs(volume / "l.h5", volume / "p.h5", volume / "l.tif", volume / "p.tif")
        for name in "lp":
            assert size_and_spacing(volume / f"{name}.tif") == ((0.5, 0.25), 3.0)
        measure_volume(path, volume / "p.h5", volume / "l.h5", volume / "cells.csv")
        cells = pd.read_csv(volume / "cells.csv")
        np.testing.assert_allclose(cells.area_um2, cells.area / 8)

    @pytest.mark.parametrize("jobs", (2, 4))
    def test_parts_and_their_views_have_it(self, volume, jobs):
        with layout.create(volume / "p.h5", {}) as file:
            layout.add(file, layout.CELL_PROBABILITY, (1, 300, 40))[:] = 0.7
            layout.write_pixel_size(file, (0.5, 0.25), 3.0, 4.0)
        write_json(volume / "post.json", {"threshold": 0.5, "minimum_size": 20})
        parts = blocks.parts((1, 300, 40), jobs)
        files = [volume / f"part{number}.h5" for number, _ in enumerate(parts)]
        for part, path in zip(parts, files, strict=True):
            with layout.create(path, {}) as file:
                shape = (1, part.rows.stop - part.rows.start, 40)
                layout.add(file, layout.CELL_PROBABILITY, shape)[:] = 0.7
                layout.write_pixel_size(file, (0.5, 0.25), 3.0, 4.0)
            label_part(path, volume / "post.json", path.with_suffix(".pieces"))
        pieces = [path.with_suffix(".pieces") for path in files]
        number_parts(pieces, volume / "post.json", volume / "n.h5", shape=(1, 300, 40), jobs=jobs)
        relabel_part(pieces[0], volume / "n.h5", volume / "l.h5")
        join_predictions(files, volume / "joined.h5", shape=(1, 300, 40), jobs=jobs)
        for path in (pieces[0], volume / "l.h5", volume / "joined.h5"):
            assert stored(path) == ((0.5, 0.25), 3.0)
        with layout.require(volume / "joined.h5") as file:
            assert layout.pixels_per_model_pixel(file) == 4


def test_cells_of_oblong_pixels():
    square = measure_cells(LABELS, pixel_size=(0.5, 0.5))
    oblong = measure_cells(LABELS, pixel_size=(0.5, 0.25))
    np.testing.assert_allclose(oblong.area_um2, oblong.area * 0.125)
    np.testing.assert_allclose(oblong["centroid-0_um"], oblong["centroid-0"] * 0.5)
    np.testing.assert_allclose(oblong["centroid-1_um"], oblong["centroid-1"] * 0.25)
    area = np.pi / 4 * oblong.equivalent_diameter_area_um**2
    np.testing.assert_allclose(area, oblong.area_um2)
    missing = {"perimeter_um", "axis_major_length_um", "axis_minor_length_um"}
    assert {*square} - {*oblong} == missing  # they depend on the direction


class TestMeasureFile:
    def test_the_size_is_that_of_the_labels_or_of_the_image(self, volume):
        size = {"labels": (0.5, 0.5), "image": None}
        for name, labels in (("a", LABELS), ("b", LABELS)):
            imageio.write_labels(
                volume / f"{name}.tif", labels, pixel_size=size["labels"] if name == "a" else None
            )
        imageio.write_images(volume / "image.tif", LABELS.astype(np.uint8), pixel_size=(0.25, 0.25))
        for labels, intensity, factor in (
            ("a", None, 0.25),
            ("a", "image", 0.25),
            ("b", "image", 0.0625),
            ("b", None, None),
        ):
            image = intensity and volume / f"{intensity}.tif"
            measure_file(volume / f"{labels}.tif", volume / "cells.csv", intensity=image)
            cells = pd.read_csv(volume / "cells.csv")
            assert ("area_um2" in cells) == (factor is not None)
            if factor:
                np.testing.assert_allclose(cells.area_um2, cells.area * factor)

    def test_a_stated_size_wins_and_a_contradiction_is_told(self, volume, capsys):
        imageio.write_labels(volume / "a.tif", LABELS, pixel_size=(0.5, 0.5))
        assert cli.main(["measure", str(volume / "a.tif"), "--pixel-size", "0.2,0.1"]) == 0
        cells = pd.read_csv(volume / "a.csv")
        np.testing.assert_allclose(cells.area_um2, cells.area * 0.02)

    @pytest.mark.parametrize("text", ("0", "-1", "a", "1,2,3", "nan", "inf", ""))
    def test_a_senseless_size_is_refused(self, volume, text, capsys):
        with pytest.raises(SystemExit):
            cli.main(["measure", str(volume / "labels.tif"), "--pixel-size", text])
        assert "expected the side of a pixel in um, such as 0.5" in capsys.readouterr().err


@pytest.fixture
def model(volume):
    """A small model, trained (as its file says) with 0.5 um per pixel."""
    path = dataset(volume, "training")
    torch.manual_seed(0)
    plan = networks.plan("unet", input_channels=1, depth=2, base_channels=4)
    with layout.require(path) as file:
        normalisation = normalise.measure("mean_std", [file["raw"]], [layout.findings(file)["gray"]])
    trained = Model(plan, plan.build(), normalisation, pixel_size=(0.5, 0.5), classes=("background", "cell"))
    trained.save(volume / "model.pt")
    return trained


def probability(path):
    with layout.require(path, layout.CELL_PROBABILITY) as file:
        return file["cell_probability"][:]


def predicted(folder, name, model="model.pt", **settings):
    settings = {"precision": "float32", "device": "cpu"} | settings
    predict(folder / f"{name}.h5", folder / model, folder / "p.h5", **settings)
    return probability(folder / "p.h5")


class TestMatching:
    def test_the_model_file_tells_pixel_size_and_classes(self, volume, model):
        read, described = Model.load(volume / "model.pt"), describe(volume / "model.pt")
        assert (read.pixel_size, [*read.classes]) == ((0.5, 0.5), ["background", "cell"])
        assert (described["pixel_size"], described["classes"]) == ([0.5, 0.5], ["background", "cell"])

    @pytest.mark.parametrize("size", (0.46, 0.5, 0.549))
    def test_up_to_a_tenth_nothing_is_resampled(self, volume, model, size, caplog):
        dataset(volume, "a", annotated=False)
        expected = predicted(volume, "a")
        dataset(volume, "b", annotated=False, pixel_size=size)
        caplog.clear()
        np.testing.assert_array_equal(predicted(volume, "b", match_pixel_size=True), expected)
        np.testing.assert_array_equal(predicted(volume, "b"), expected)
        assert not [record for record in caplog.records if record.levelname == "WARNING"]

    def test_a_difference_is_told_and_changes_nothing(self, volume, model, caplog):
        dataset(volume, "a", annotated=False)
        expected = predicted(volume, "a")
        dataset(volume, "b", annotated=False, pixel_size=0.25)
        caplog.clear()
        np.testing.assert_array_equal(predicted(volume, "b"), expected)
        (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert (
            "pixels of 0.25 um, but the model was trained with 0.5 um. Cells look 2 times as large" in warning
        )
        assert "`--match-pixel-size`, or set `prediction: {match_pixel_size: true}`" in warning

    @pytest.mark.parametrize("size", ([0.3, 0.3], [0.9, 0.35]))
    def test_the_network_sees_the_resampled_section_and_the_result_has_the_pixels_of_the_image(
        self, volume, model, size
    ):
        dataset(volume, "a", annotated=False, pixel_size=size)
        found = predicted(volume, "a", match_pixel_size=True)
        step = [0.5 / length for length in size]
        images = Resampled(np.moveaxis(tifffile.imread(volume / "images.tif")[None], 1, 1), step)
        net = model.network.eval()
        context = model.plan.geometry.context
        for z in range(2):
            gray = images[:, z, :, :]
            rows, columns = (model.plan.geometry.input_size(-(-n // 4) * 4) - n for n in gray.shape[1:])
            padded = np.pad(
                gray, ((0, 0), (context, rows - context), (context, columns - context)), mode="reflect"
            )
            normal = model.normalisation.apply(padded, *map(np.arange, padded.shape[1:]))
            with torch.inference_mode():
                cell = net(torch.from_numpy(normal)[None])[0].softmax(0)[1].numpy()
            cell = cell[: gray.shape[1], : gray.shape[2]]
            back = Resampled(cell[None], [1 / by for by in step], (60, 64))
            np.testing.assert_allclose(found[z], back[0, 0:60, 0:64], atol=2e-5)
        assert stored(volume / "p.h5") == (tuple(size), 3.0)
        with layout.require(volume / "p.h5") as file:
            assert layout.pixels_per_model_pixel(file) == pytest.approx(0.25 / np.prod(size))
        assert not [*volume.glob("*resampled*")]

    def test_the_probabilities_of_all_classes_are_resampled_alike(self, volume, model):
        plan = networks.plan("unet", input_channels=1, depth=2, base_channels=4, classes=3)
        names = {"classes": ("background", "core", "rim"), "cells": ("core", "rim")}
        Model(plan, plan.build(), model.normalisation, pixel_size=(0.5, 0.5), **names).save(
            volume / "three.pt"
        )
        dataset(volume, "a", annotated=False, pixel_size=0.3)
        cells = predicted(volume, "a", "three.pt", match_pixel_size=True)
        with layout.require(volume / "p.h5", layout.CLASS_PROBABILITY) as file:
            found = file["class_probability"][:]
        assert found.shape == (3, *cells.shape) and found.std(axis=(1, 2, 3)).min() > 0.001
        np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
        np.testing.assert_allclose(found[1] + found[2], cells, atol=1e-5)

    @pytest.mark.parametrize("size", (0.27, 1.1))
    def test_tiles_and_jobs_do_not_change_the_result(self, volume, model, size):
        tifffile.imwrite(volume / "images.tif", gray((1, 300, 150)), photometric="minisblack")
        dataset(volume, "a", annotated=False, pixel_size=size)
        whole = predicted(volume, "a", match_pixel_size=True)
        np.testing.assert_allclose(predicted(volume, "a", match_pixel_size=True, tile=60), whole, atol=1e-5)
        parts = [predicted(volume, "a", match_pixel_size=True, part=part, jobs=3) for part in (1, 2, 3)]
        np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-5)

    def test_the_smallest_cell_keeps_its_physical_size(self, volume):
        p = np.zeros((1, 300, 40), np.float32)
        p[0, 2:6, 2:6], p[0, 10:15, 2:6] = 0.9, 0.9  # 16 and 20 px
        write_json(volume / "post.json", {"threshold": 0.5, "minimum_size": 5})
        for pixels, cells in ((1.0, 2), (3.2, 2), (4.0, 1), (4.2, 0)):
            with layout.create(volume / "p.h5", {}) as file:
                layout.add(file, layout.CELL_PROBABILITY, p.shape)[:] = p
                layout.write_pixel_size(file, None, pixels_per_model_pixel=pixels)
            segment(volume / "p.h5", volume / "post.json", volume / "l.h5")
            label_part(volume / "p.h5", volume / "post.json", volume / "pieces.h5")
            number_parts([volume / "pieces.h5"], volume / "post.json", volume / "n.h5", shape=p.shape, jobs=1)
            relabel_part(volume / "pieces.h5", volume / "n.h5", volume / "l2.h5")
            for name in ("l.h5", "l2.h5"):
                with layout.require(volume / name, layout.LABELS) as file:
                    assert file["labels"][:].max() == cells

    def test_what_cannot_be_matched_is_refused(self, volume, model):
        dataset(volume, "a", annotated=False, pixel_size=0.049)
        with pytest.raises(
            InputError, match=r"a: pixels of 0\.049 um, but the .* 0\.5 um\..*Correct the unit"
        ):
            predicted(volume, "a", match_pixel_size=True)
        dataset(volume, "a", annotated=False)
        model.pixel_size = None
        model.save(volume / "unknown.pt")
        with pytest.raises(InputError, match="of the training images of the model is not known"):
            predicted(volume, "a", model="unknown.pt", match_pixel_size=True)
        tifffile.imwrite(
            volume / "images.tif", tifffile.imread(volume / "images.tif"), photometric="minisblack"
        )
        dataset(volume, "b", annotated=False)
        with pytest.raises(
            InputError, match=r"that of the images is not known\. State it: column `pixel_size`"
        ):
            predicted(volume, "b", match_pixel_size=True)

    def test_bordure_predict_matches_on_request(self, volume, model, capsys, caplog):
        model.application = {
            "average_orientations": False,
            "postprocessing": {"threshold": 0.5, "minimum_size": 0, "criterion": "seg"},
        }
        model.save(volume / "model.pt")
        words = ["predict", str(volume / "model.pt"), str(volume / "images.tif"), "--device", "cpu"]
        words += ["--pixel-size", "0.3", "--out"]
        assert cli.main([*words, str(volume / "plain")]) == 0
        assert "Cells look 1.7 times as large" in caplog.text
        assert cli.main([*words, str(volume / "matched"), "--match-pixel-size"]) == 0
        plain, matched = (
            tifffile.imread(volume / name / "images_cell_probability.tif") for name in ("plain", "matched")
        )
        assert plain.shape == matched.shape == (2, 60, 64)
        dataset(volume, "a", annotated=False, pixel_size=0.3)
        expected = predicted(volume, "a", match_pixel_size=True, precision="auto")
        np.testing.assert_array_equal(matched, expected)
        assert np.abs(plain - matched).max() > 0.01
        for name in ("labels", "cell_probability"):
            assert size_and_spacing(volume / f"matched/images_{name}.tif") == ((0.3, 0.3), 3.0)
        assert "area_um2" in pd.read_csv(volume / "matched/images_cells.csv")


class TestVolumesOfARun:
    def test_what_is_stated_wins_over_files(self):
        half, quarter = (0.5, 0.5), (0.25, 0.25)
        stated = {"a": half, "b": None, "c": half, "d": None, "e": quarter}
        files = {"a": quarter, "b": quarter, "c": (0.501, 0.5), "e": half}
        sizes, warnings = resolution.chosen(stated, files)
        assert sizes == {"a": half, "b": quarter, "c": half, "d": None, "e": quarter}
        assert warnings == [
            "volume a: its file states pixels of 0.25 um, but `pixel_size` is 0.5 um, which is used. The "
            "same holds for e."
        ]

    def test_the_size_of_the_training_volumes_and_who_differs(self):
        sizes = {
            "a": (0.5, 0.5),
            "b": (0.54, 0.5),
            "c": (0.5, 0.5),
            "d": (0.5, 0.6),
            "e": None,
            "f": (9.0, 9.0),
        }
        size, (warning,) = resolution.of_training(sizes, ["a", "b", "c"])
        assert size == (0.5, 0.5)
        assert warning.startswith(
            "volume d: pixels of 0.5 x 0.6 um (height x width), but those of the training volumes are 0.5 um."
            " The same holds for f. Use one pixel size."
        )
        assert resolution.of_training(sizes, ["a", "e"]) == (None, [])

    def test_only_training_volumes_matter_if_the_others_are_matched(self):
        sizes = {"a": (0.5, 0.5), "b": (0.5, 0.5), "c": (1.0, 1.0), "d": (2.0, 2.0)}
        size, (warning,) = resolution.of_training(sizes, ["a", "b", "c"], matched=True)
        assert size == (0.5, 0.5)
        assert warning.startswith("volume c: ") and warning.endswith(" Train on images of one pixel size.")
        with pytest.raises(InputError, match=r"volume d: pixels of 5\.1 um, .*Correct the unit"):
            resolution.of_training(sizes | {"d": (5.1, 5.1)}, ["a", "b", "c"], matched=True)

    @pytest.mark.parametrize(
        ("settings", "key"),
        (
            ({"needed": ["weight_map.sigma"]}, "weight_map.sigma"),
            ({"matched": True}, "prediction.match_pixel_size"),
        ),
    )
    def test_settings_that_need_all_sizes(self, settings, key):
        sizes = {"a": (0.5, 0.5), **dict.fromkeys("bcdefgh")}
        with pytest.raises(InputError, match=f"config key `{key}`: needs the pixel size") as error:
            resolution.of_training(sizes, ["a"], **settings)
        assert "that of b is not known. The same holds for c, d, e, f, g and 1 more." in str(error.value)
        assert resolution.of_training({"a": (0.5, 0.5)}, ["a"], **settings) == ((0.5, 0.5), [])


class TestSettingsInUm:
    GIVEN = complete(
        {
            "volumes": "my.tsv",
            "weight_map": {"sigma": "0.5 um"},
            "dataset": {"separation_border_width": "700nm"},
            "segmentation": {"minimum_size": "20 um2"},
        }
    )

    def test_each_is_converted_once(self):
        assert physical_keys(self.GIVEN) == [
            "dataset.separation_border_width",
            "weight_map.sigma",
            "segmentation.minimum_size",
        ]
        converted, lines = in_pixels(self.GIVEN, (0.2, 0.2))
        assert converted["weight_map"]["sigma"] == 2.5
        assert converted["dataset"]["separation_border_width"] == 4  # 3.5
        assert converted["segmentation"]["minimum_size"] == 500
        assert lines == [
            "dataset.separation_border_width: 700nm = 4 px",
            "weight_map.sigma: 0.5 um = 2.5 px",
            "segmentation.minimum_size: 20 um2 = 500 px",
        ]
        assert not physical_keys(converted) and complete(converted) == converted
        assert self.GIVEN["weight_map"]["sigma"] == "0.5 um"

    def test_a_width_is_at_least_one_pixel(self):
        assert in_pixels(self.GIVEN, (2.0, 2.0))[0]["dataset"]["separation_border_width"] == 1

    def test_settings_in_px_are_unchanged(self):
        settings = complete({"volumes": "my.tsv", "weight_map": {"sigma": "2e1"}})
        assert physical_keys(settings) == [] and in_pixels(settings, (0.5, 0.5)) == (settings, [])

    @pytest.mark.parametrize(
        ("text", "um2"), (("20 um2", 20), ("20um^2", 20), ("20 µm²", 20), ("2e-5 mm2", 20), ("2e7 nm2", 20))
    )
    def test_units_of_areas(self, text, um2):
        settings = complete({"volumes": "my.tsv", "segmentation": {"minimum_size": text}})
        assert in_pixels(settings, (0.5, 0.25))[0]["segmentation"]["minimum_size"] == um2 * 8

    @pytest.mark.parametrize("text", ("0.5 um2", "0.5 inch", "um", "-1 um", "0 um", "1.2.3 um", "nan um"))
    def test_other_texts_are_refused(self, text):
        with pytest.raises(InputError, match=r"`weight_map.sigma`: found .*Expected .*a text such as `5 um`"):
            complete({"volumes": "my.tsv", "weight_map": {"sigma": text}})

    def test_a_length_that_is_no_area_is_refused(self):
        with pytest.raises(InputError, match="or a text such as `5 um2`"):
            complete({"volumes": "my.tsv", "segmentation": {"minimum_size": "20 um"}})

    def test_a_length_of_oblong_pixels_is_refused_and_an_area_is_not(self):
        with pytest.raises(
            InputError, match=r"sigma`: found `0\.5 um`, but pixels of 0\.5 x 0\.4 um .*not square"
        ):
            in_pixels(complete({"volumes": "a.tsv", "weight_map": {"sigma": "0.5 um"}}), (0.5, 0.4))
        in_pixels(complete({"volumes": "a.tsv", "weight_map": {"sigma": "0.5 um"}}), (0.5, 0.504))  # rounding

    def test_a_number_of_pixels_out_of_range_is_refused(self):
        with pytest.raises(
            InputError, match=r"sigma`: `0\.5 um` is 500 px with pixels of 0\.001 um, expected a num"
        ):
            in_pixels(complete({"volumes": "a.tsv", "weight_map": {"sigma": "0.5 um"}}), (0.001, 0.001))


@pytest.mark.parametrize(
    ("text", "valid"), (("0.5", True), ("[0.5, 0.4]", True), ("0", False), ("[1]", False), ("a", False))
)
def test_the_column_of_the_table(text, valid):
    settings = {"pixel_size": 0.7}
    if valid:
        assert of_volume(settings, {"pixel_size": text}, "row")["pixel_size"] == json.loads(text)
    else:
        with pytest.raises(InputError, match=r"row, column `pixel_size`: found .*a list of 2"):
            of_volume(settings, {"pixel_size": text}, "row")


def test_scores_and_threshold_use_the_scaled_smallest_cell(volume):
    truth = dataset(volume, "a")
    p = np.random.default_rng(1).random((2, 60, 64), np.float32)
    for name, pixels in (("plain", None), ("matched", 4.0)):
        with layout.create(volume / f"{name}.h5", {}) as file:
            layout.add(file, layout.CELL_PROBABILITY, p.shape)[:] = p
            layout.write_pixel_size(file, None, pixels_per_model_pixel=pixels)
    tables, values = [], []
    for name, size in (("plain", 8), ("matched", 2)):
        files = [[truth], [volume / f"{name}.h5"], volume / "post.json"]
        choose_postprocessing(*files, criterion="rand_error", minimum_size=size)
        values.append(read_json(volume / "post.json")["value"])
        segment(volume / f"{name}.h5", volume / "post.json", volume / "l.h5")
        evaluate(
            truth,
            volume / f"{name}.h5",
            volume / "l.h5",
            volume / "post.json",
            volume / "scores.csv",
            volume / "sections.csv",
            volume="a",
            split="test",
            network="n",
        )
        tables.append((volume / "scores.csv").read_text())
    assert values[0] == values[1] and len({*values[0]}) > 2
    assert tables[0] == tables[1]


def test_a_trained_model_knows_its_pixel_size_and_classes(volume):
    path = dataset(volume, "a", pixel_size=[0.5, 0.4])
    measure_statistics([path], volume / "s.json")
    build_weight_map(path, volume / "s.json", volume / "w.h5")
    train(
        [path],
        [volume / "w.h5"],
        [path],
        [volume / "w.h5"],
        volume / "s.json",
        volume / "model.pt",
        volume / "history.csv",
        network={"name": "unet", "depth": 1, "base_channels": 2},
        training={"tile": 44, "iterations": 1, "validation_interval": 1, "device": "cpu"},
        augmentation={},
        seed=0,
    )
    described = describe(volume / "model.pt")
    assert (described["pixel_size"], described["classes"]) == ([0.5, 0.4], ["background", "cell"])


def test_sizes_that_differ_by_exactly_the_tolerance_are_the_same():
    assert not differs((0.5, 0.5), (0.55, 0.55)) and differs((0.5, 0.5), (0.551, 0.551))
    require_ratio((0.1, 0.1), (1.0, 1.0), "volume a")
    with pytest.raises(InputError, match="resampled up to a factor of 10"):
        require_ratio((0.1, 0.1), (1.01, 1.01), "volume a")


def test_pixels_are_square_up_to_rounding_only():
    assert is_square((0.5, 0.504)) and not is_square((0.5, 0.52))
