import json

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from test_postprocessing import cells_with_a_gap

from pipeline_lib import layout
from pipeline_lib.instances.postprocessing import PostProcessing, above, instances, largest_not_above
from pipeline_lib.kernels.blocks import parts
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.stages.joining import join_labels
from pipeline_lib.stages.segmentation import label_part, number_parts, relabel_part, segment, write_tiffs


def write_prediction(path, probability):
    with layout.create(path, {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, probability.shape)[:] = probability


def write_postprocessing(folder, threshold, minimum_size):
    (folder / "t.json").write_text(json.dumps({"threshold": threshold, "minimum_size": minimum_size}))


def read_labels(path):
    with layout.require(path, layout.LABELS) as file:
        assert file["labels"].dtype == np.uint32
        return file["labels"][:]


@pytest.fixture
def folder(tmp_path):
    _, probability = cells_with_a_gap()
    write_prediction(tmp_path / "prediction.h5", probability)
    return tmp_path


def test_labels_are_numbered_through_all_sections(folder):
    write_postprocessing(folder, 0.8, 2)
    segment(folder / "prediction.h5", folder / "t.json", folder / "s.h5")
    write_tiffs(folder / "s.h5", folder / "prediction.h5", folder / "labels.tif", folder / "p.tif")
    labels = tifffile.imread(folder / "labels.tif")
    assert labels.dtype == np.uint16
    assert [list(np.unique(s)) for s in labels] == [[0, 1, 2], [0, 3, 4]]
    np.testing.assert_array_equal(read_labels(folder / "s.h5"), labels)
    assert tifffile.imread(folder / "p.tif").dtype == np.float32
    with tifffile.TiffFile(folder / "labels.tif") as file:
        assert file.series[0].axes == "ZYX" and file.pages[0].compression.name == "ADOBE_DEFLATE"


def test_tiff_files_equal_the_hdf5_files(folder):
    labels = np.arange(2 * 20 * 30, dtype=np.uint32).reshape(2, 20, 30) * 60
    with layout.create(folder / "s.h5", {}) as file:
        layout.add(file, layout.LABELS, labels.shape)[:] = labels
    write_tiffs(folder / "s.h5", folder / "prediction.h5", folder / "labels.tif", folder / "p.tif")
    written = tifffile.imread(folder / "labels.tif")
    assert written.dtype == np.uint32  # one label is above 65535
    np.testing.assert_array_equal(written, labels)
    with layout.require(folder / "prediction.h5") as file:
        np.testing.assert_array_equal(tifffile.imread(folder / "p.tif"), file["cell_probability"][:])


def percolating(shape):
    """Noise with cells that extend over the whole section, and many small ones."""
    probability = np.random.default_rng(1).random(shape, np.float32)
    probability[:, ::7] += 0.1
    return probability.clip(0, 1)


@pytest.fixture
def volume(tmp_path):
    """Two sections of 700 x 60 px of percolating noise, and the labels that one job makes of them."""
    probability = percolating((2, 700, 60))
    write_prediction(tmp_path / "prediction.h5", probability)
    write_postprocessing(tmp_path, 0.41, 3)
    found = [instances(section, PostProcessing(0.41, 3)) for section in probability]
    found[1][found[1] > 0] += found[0].max()
    assert found[0].max() > 100
    return tmp_path, probability, np.stack(found)


@pytest.mark.parametrize("block", [7, 128, 2048])
def test_labels_do_not_depend_on_the_blocks(volume, block):
    folder, _, expected = volume
    segment(folder / "prediction.h5", folder / "t.json", folder / "s.h5", block=block)
    np.testing.assert_array_equal(read_labels(folder / "s.h5"), expected)
    names = {path.name for path in folder.iterdir()}
    assert names == {"prediction.h5", "t.json", "s.h5", ".provenance"}


@pytest.mark.parametrize("jobs", range(1, 6))
def test_labels_do_not_depend_on_the_jobs(volume, jobs):
    folder, probability, expected = volume
    shared = parts(probability.shape, jobs)
    assert len(shared) >= jobs
    pieces, labels = [
        [folder / f"{i}_{name}.h5" for i in range(len(shared))] for name in ("pieces", "labels")
    ]
    for part, path in zip(shared, pieces, strict=True):
        write_prediction(folder / "part.h5", probability[part.sections, part.rows])
        label_part(folder / "part.h5", folder / "t.json", path, block=32)
    number_parts(pieces, folder / "t.json", folder / "numbers.h5", shape=probability.shape, jobs=jobs)
    for piece, path in zip(pieces, labels, strict=True):
        relabel_part(piece, folder / "numbers.h5", path, block=48)
    join_labels(labels, folder / "joined.h5", shape=probability.shape, jobs=jobs)
    np.testing.assert_array_equal(read_labels(folder / "joined.h5"), expected)
    write_tiffs(folder / "joined.h5", folder / "prediction.h5", folder / "labels.tif", folder / "p.tif")
    np.testing.assert_array_equal(tifffile.imread(folder / "labels.tif"), expected)


def test_numbers_of_other_parts_are_an_error(volume):
    folder, probability, _ = volume
    for name in ("a.h5", "b.h5"):
        label_part(folder / "prediction.h5", folder / "t.json", folder / name)
    number_parts([folder / "a.h5"], folder / "t.json", folder / "numbers.h5", shape=probability.shape, jobs=1)
    with pytest.raises(InputError, match="but from other parts"):
        relabel_part(folder / "b.h5", folder / "numbers.h5", folder / "labels.h5")


# the post-processing


def test_small_components_are_removed_and_the_others_renumbered():
    probability = np.array([[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 1]], np.float32)
    every = instances(probability, PostProcessing(0.5))
    np.testing.assert_array_equal(every > 0, probability > 0.5)
    kept = instances(probability, PostProcessing(0.5, minimum_size=2))
    np.testing.assert_array_equal(kept > 0, [[0, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0]])
    assert kept.dtype == np.int32 and set(np.unique(kept)) == {0, 1, 2}


@given(st.integers(0, 2**32 - 1), st.integers(0, 9))
def test_instances_are_the_components_that_are_large_enough(seed, minimum_size):
    """Compared with a loop over the components. Components that are given must not be changed."""
    probability = np.random.default_rng(seed).random((12, 15), np.float32)
    post_processing = PostProcessing(0.5, minimum_size)
    components = instances(probability, PostProcessing(0.5))
    before = components.copy()
    expected, used = np.zeros_like(components), 0
    for label in range(1, components.max() + 1):
        if (components == label).sum() >= minimum_size:
            used += 1
            expected[components == label] = used
    np.testing.assert_array_equal(instances(probability, post_processing), expected)
    np.testing.assert_array_equal(instances(probability, post_processing, components), expected)
    np.testing.assert_array_equal(components, before)


def test_a_section_that_is_all_cell_is_one_instance():
    assert (instances(np.ones((3, 4), np.float32), PostProcessing(0.5, 12)) == 1).all()
    assert not instances(np.ones((3, 4), np.float32), PostProcessing(0.5, 13)).any()
    assert not instances(np.zeros((3, 4), np.float32), PostProcessing(0.5, 13)).any()


def test_thresholds_are_compared_in_float64():
    """float32(0.7) is below 0.7, and float32(0.3) is above 0.3."""
    assert not instances(np.full((2, 2), 0.7, np.float32), PostProcessing(0.7)).any()
    assert instances(np.full((2, 2), 0.3, np.float32), PostProcessing(0.3)).all()
    assert not instances(np.full((2, 2), 0.5, np.float32), PostProcessing(0.5)).any()  # strictly above


@given(st.floats(0, 1), st.floats(0, 1, width=32))
def test_above_equals_the_comparison_in_float64(threshold, value):
    around = [np.nextafter(np.float32(threshold), end, dtype=np.float32) for end in (-1, 2)]
    probability = np.array([value, threshold, *around], np.float32)
    np.testing.assert_array_equal(above(probability, threshold), probability.astype(float) > threshold)
    largest = largest_not_above(threshold, np.float32)
    assert largest.dtype == np.float32
    assert float(largest) <= threshold < float(np.nextafter(largest, np.float32(2)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"threshold": 0.5}, r"has no `minimum_size`\. It was written by another version"),
        ([0.5], "has no `threshold`"),
        ({"threshold": 1.0, "minimum_size": 0}, r"`threshold`: found 1\.0, expected a number of at least 0"),
        ({"threshold": "high", "minimum_size": 0}, "`threshold`: found 'high'"),
        ({"threshold": 0.5, "minimum_size": 2.5}, r"`minimum_size`: found 2\.5, expected an integer"),
        ({"threshold": 0.5, "minimum_size": True}, "`minimum_size`: found True"),
    ],
)
def test_an_invalid_post_processing_file_is_an_error(tmp_path, content, message):
    path = tmp_path / "unet.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"unet\.json: .*{message}"):
        PostProcessing.read(path)
    path.write_text(json.dumps({"threshold": 0.5, "minimum_size": 20, "criterion": "seg"}))
    assert PostProcessing.read(path) == PostProcessing(0.5, 20)
