"""Pixel sizes are read from the statements that can be believed, carried along, and written for ImageJ."""

import h5py
import numpy as np
import pytest
import tifffile
from image_files import gray
from PIL import Image

from pipeline_lib import imageio, layout, provenance

IMAGE = gray((6, 5))


def ome(path, **metadata):
    tifffile.imwrite(path, IMAGE, metadata={"axes": "YX", **metadata}, ome=True)


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
        (([3, 0.5, 0.25], ((0.5, 0.25), 3)), ([1, 0, 0], (None, 1)), ([1.0], (None, None))),
    )
    def test_hdf5_with_element_size_um(self, tmp_path, size, expected):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["raw"] = gray((2, 6, 5))
            file["raw"].attrs["element_size_um"] = size
        assert size_and_spacing(tmp_path / "a.h5:/raw") == expected

    def test_a_dataset_of_bordure(self, tmp_path):
        with layout.create(tmp_path / "a.h5", {}) as file:
            layout.add(file, layout.RAW, (1, 2, 6, 5), np.uint8)[:] = 1
            layout.write_pixel_size(file, (0.5, 0.25), 3.0)
        assert size_and_spacing(tmp_path / "a.h5:/raw") == ((0.5, 0.25), 3.0)

    def test_slices_have_the_size_of_the_first(self, tmp_path, caplog):
        for number, resolution in enumerate((20_000, 20_010, 40_000, 40_000)):
            plain(tmp_path / f"s{number}.tif", (resolution, resolution), "CENTIMETER")
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
