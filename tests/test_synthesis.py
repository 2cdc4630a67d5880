"""The drawn volume: exact labels, the same bytes for one seed, a task neither trivial nor too hard."""

import hashlib

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pipeline_lib import imageio
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.stages import synthesis

DEFAULTS = {"cell_diameter": 40.0, "membrane_width": (2.5, 6.0), "noise": 0.06}


def section(size=128, seed=0, **settings):
    return synthesis.draw_section(size, **(DEFAULTS | settings), rng=np.random.default_rng(seed))[:2]


def touching_pairs(labels):
    """Pairs of different cells with adjacent pixels (4-connected)."""
    pairs = set()
    for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        contact = (a != b) & (a > 0) & (b > 0)
        pairs |= {tuple(sorted(pair)) for pair in zip(a[contact].tolist(), b[contact].tolist(), strict=True)}
    return pairs


@settings(max_examples=15)
@given(
    size=st.integers(33, 90),
    diameter=st.floats(10, 16),
    narrow=st.floats(1, 3),
    extra=st.floats(0, 2),
    seed=st.integers(0, 10**6),
)
def test_every_label_is_one_connected_cell(size, diameter, narrow, extra, seed):
    image, labels = section(size, seed, cell_diameter=diameter, membrane_width=(narrow, narrow + extra))
    assert image.shape == labels.shape == (size, size)
    assert (image.dtype, labels.dtype) == (np.uint8, np.uint16)
    values = np.unique(labels)
    assert values.tolist() == list(range(len(values))) and len(values) > 2  # 0 = membrane, 1..n without gaps
    for value in values[1:]:
        assert ndimage.label(labels == value)[1] == 1


def test_cells_have_different_sizes_and_fill_the_section():
    drawn = [section(256, seed)[1] for seed in range(4)]
    areas = np.concatenate([np.bincount(labels.ravel())[1:] for labels in drawn])
    assert 30 < len(areas) / len(drawn) < 65  # (256 / 40)^2 = 41, and cells cut by the edge
    assert areas.max() > 4 * np.median(areas) > 20 * areas.min()
    assert 0.8 < np.mean([labels > 0 for labels in drawn]) < 0.92


def test_some_neighbours_touch_and_most_do_not():
    labels = section(256)[1]
    cells = int(labels.max())
    assert 3 <= len(touching_pairs(labels)) < cells


def test_wider_membranes_take_more_of_the_section():
    shares = [np.mean(section(membrane_width=(width, width))[1] == 0) for width in (2, 4, 8)]
    assert 0.02 < shares[0] < shares[1] / 1.5 < shares[2] / 1.5**2


@pytest.mark.parametrize("seed", range(5))
def test_membranes_are_darker_than_cytoplasm_and_dark_pixels_are_not_only_membrane(seed):
    image, labels = section(192, seed)
    membrane, cell = image[labels == 0].astype(float), image[labels > 0].astype(float)
    assert cell.mean() - membrane.mean() > 40
    dark = image < membrane.mean()
    assert np.mean(labels[dark] > 0) > 0.1  # organelles and noise: a threshold is not enough


def test_touching_cells_have_a_faint_line_between_them():
    """The annotation has no membrane there, but the image shows the border."""
    darker = []
    for seed in range(4):
        image, labels = section(256, seed)
        for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
            contact = (labels[a] != labels[b]) & (labels[a] > 0) & (labels[b] > 0)
            darker.append(image[labels > 0].mean() - image[a][contact].astype(float).mean())
    assert min(darker) > 15


def test_a_threshold_of_the_smoothed_image_is_not_enough():
    """At the best threshold, the Rand error is large, but much smaller than for a single cell everywhere."""
    image, labels = section(256)
    smooth = ndimage.gaussian_filter(image.astype(float), 1)
    errors = [
        rand_error(labels, ndimage.label(smooth > threshold)[0])
        for threshold in np.percentile(smooth, range(5, 70, 5))
    ]
    assert 0.25 < min(errors) < rand_error(labels, np.ones_like(labels)) - 0.1


def rand_error(truth, found):
    """1 - F-score of pairs of pixels in true cells, from a dense contingency table."""
    table = np.zeros((truth.max() + 1, found.max() + 1))
    np.add.at(table, (truth, found), 1)
    table = table[1:]
    return 1 - 2 * (table**2).sum() / ((table.sum(0) ** 2).sum() + (table.sum(1) ** 2).sum())


def test_more_noise_gives_more_grain():
    def grain(noise):
        image, labels = section(noise=noise)
        deep = ndimage.distance_transform_edt(labels > 0) > 6
        return (image - ndimage.gaussian_filter(image.astype(float), 2))[deep].std()

    assert grain(0) < grain(0.05) < grain(0.1)


# ------------------------------------------------------------------------------------------------------ files


def draw(folder, **settings):
    folder.mkdir()
    synthesis.draw_volume(folder / "i.tif", folder / "l.tif", **({"sections": 2, "size": 96} | settings))
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("i.tif", "l.tif")]


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    first = draw(tmp_path / "a", seed=3)
    assert draw(tmp_path / "b", seed=3) == first
    assert not set(draw(tmp_path / "c", seed=4)) & set(first)


def test_a_section_depends_only_on_seed_and_number(tmp_path):
    draw(tmp_path / "a", sections=3)
    draw(tmp_path / "b", sections=1)
    for name in ("i.tif", "l.tif"):
        three, one = (imageio.read_images(tmp_path / folder / name)[0] for folder in "ab")
        np.testing.assert_array_equal(three[:1], one)
        assert (three[0] != three[1]).any()


def test_imageio_reads_the_files_as_images_and_instances(tmp_path):
    draw(tmp_path / "a")
    images = imageio.inspect(tmp_path / "a/i.tif")
    assert (images.shape, images.dtype) == ((1, 2, 96, 96), np.uint8)
    truth = imageio.read_annotation(tmp_path / "a/l.tif")
    assert truth.kind == "instances" and truth.labels.dtype == np.uint16
    with tifffile.TiffFile(tmp_path / "a/i.tif") as tiff:
        assert tiff.series[0].axes == "ZYX"


@pytest.mark.parametrize(
    ("settings", "match"),
    (
        (
            {"membrane_width": (6, 2)},
            r"`drawing.membrane_width`: found \[6, 2\] px, expected the width of the thinnest, then",
        ),
        ({"membrane_width": (2, 20)}, r"found \[2, 20\].*half of `drawing.cell_diameter` \(40 px\)"),
        ({"size": 79}, r"`drawing.size`: found 79 px, expected at least twice .*cell_diameter` \(40 px\)"),
    ),
)
def test_settings_without_room_for_cells_are_an_error(tmp_path, settings, match):
    with pytest.raises(InputError, match=match):
        draw(tmp_path / "a", **settings)
    assert not list((tmp_path / "a").iterdir())


def test_organelles_are_drawn_into_the_same_cells():
    plain, cells, _ = synthesis.draw_section(256, **DEFAULTS, rng=np.random.default_rng(0))
    image, labels, classes = synthesis.draw_section(
        256, **DEFAULTS, organelles=True, rng=np.random.default_rng(0)
    )
    assert np.array_equal(labels, cells)
    membrane, cell, mitochondrion, synapse, glia = (classes == number for number in range(5))
    assert np.array_equal(labels == 0, membrane | (synapse & (labels == 0)))
    assert synapse[labels == 0].any() and synapse[labels > 0].any()  # on both sides of a membrane
    for number in range(5):
        assert 0.01 < np.mean(classes == number) < 0.8
    dark_to_bright = [image[own].mean() for own in (synapse, membrane, mitochondrion, cell, glia)]
    assert dark_to_bright == sorted(dark_to_bright)
    assert set(labels[glia]).isdisjoint(labels[cell])  # glia are whole cells
    far = ndimage.distance_transform_edt(~(glia | synapse)) > 20
    assert np.abs(image[far].astype(int) - plain[far]).max() <= 1


def test_classes_are_written_instead_of_cells(tmp_path):
    for name in ("cells", "classes"):
        files = tmp_path / f"{name}.tif", tmp_path / f"{name}_l.tif"
        synthesis.draw_volume(*files, sections=1, size=96, organelles=name == "classes")
    cells, classes = (tifffile.imread(tmp_path / f"{name}_l.tif") for name in ("cells", "classes"))
    assert cells.max() > 4 == classes.max()
    assert np.array_equal((cells > 0)[classes != 3], (classes > 0)[classes != 3])
