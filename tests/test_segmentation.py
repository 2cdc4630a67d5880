import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib import layout
from pipeline_lib.instances.postprocessing import above, instances
from pipeline_lib.kernels.blocks import parts
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.stages.segmentation import label_part, number_parts, relabel_part, segment


@pytest.fixture
def folder(tmp_path):
    """Two cells whose membrane has a gap that only thresholds above 0.7 close.

    Above 0.9 they vanish.
    """
    labels = np.zeros((2, 20, 30), np.uint32)
    labels[:, 2:18, 2:14], labels[:, 2:18, 16:28] = 1, 2
    probability = np.where(labels > 0, 0.9, 0.05).astype(np.float32)
    probability[:, 9, 14:16] = 0.7
    probability[:, 0, 0] = 0.99
    with layout.create(tmp_path / "prediction.h5", {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, labels.shape)[:] = probability
    return tmp_path


def test_segmentation_opens_as_labels_numbered_through_the_stack(folder):
    (folder / "t.json").write_text('{"threshold": 0.8}')
    segment(
        folder / "prediction.h5", folder / "t.json", folder / "labels.tif", folder / "p.tif", minimum_size=2
    )
    labels = tifffile.imread(folder / "labels.tif")
    assert labels.dtype == np.uint16
    assert [list(np.unique(s)) for s in labels] == [[0, 1, 2], [0, 3, 4]]
    assert tifffile.imread(folder / "p.tif").dtype == np.float32
    with tifffile.TiffFile(folder / "labels.tif") as file:
        assert file.series[0].axes == "ZYX" and file.pages[0].compression.name == "ADOBE_DEFLATE"


def percolating(shape):
    """Cells that wind through everything, and many that do not."""
    probability = np.random.default_rng(1).random(shape, np.float32)
    probability[:, ::7] += 0.1
    return probability.clip(0, 1)


@pytest.fixture
def volume(tmp_path):
    """Two sections of 700 x 60 px of percolating noise, and what one job makes of them."""
    probability = percolating((2, 700, 60))
    with layout.create(tmp_path / "prediction.h5", {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, probability.shape)[:] = probability
    (tmp_path / "t.json").write_text('{"threshold": 0.41}')
    found = [instances(section, 0.41, 3) for section in probability]
    found[1][found[1] > 0] += found[0].max()
    assert found[0].max() > 100
    return tmp_path, probability, np.stack(found)


@pytest.mark.parametrize("block", [7, 128, 2048])
def test_labels_do_not_depend_on_the_blocks(volume, block):
    folder, probability, expected = volume
    segment(
        folder / "prediction.h5",
        folder / "t.json",
        folder / "labels.tif",
        folder / "p.tif",
        minimum_size=3,
        block=block,
    )
    np.testing.assert_array_equal(tifffile.imread(folder / "labels.tif"), expected)
    np.testing.assert_array_equal(tifffile.imread(folder / "p.tif"), probability)
    assert not list(folder.glob(".*partial*"))


@pytest.mark.parametrize("jobs", range(1, 6))
def test_labels_do_not_depend_on_the_jobs(volume, jobs):
    folder, probability, expected = volume
    shared = parts(probability.shape, jobs)
    assert len(shared) >= jobs
    pieces, labels = [
        [folder / f"{i}_{name}.h5" for i in range(len(shared))] for name in ("pieces", "labels")
    ]
    for part, path in zip(shared, pieces, strict=True):
        own = probability[part.sections, part.rows]
        with layout.create(folder / "part.h5", {}) as file:
            layout.add(file, layout.CELL_PROBABILITY, own.shape)[:] = own
        label_part(folder / "part.h5", folder / "t.json", path, block=32)
    number_parts(pieces, folder / "numbers.h5", shape=probability.shape, jobs=jobs, minimum_size=3)
    for piece, path in zip(pieces, labels, strict=True):
        relabel_part(piece, folder / "numbers.h5", path, block=48)
    layout.join(folder / "joined.h5", layout.LABELS, probability.shape, zip(shared, labels, strict=True), {})
    with layout.require(folder / "joined.h5", layout.LABELS) as file:
        np.testing.assert_array_equal(file["labels"], expected)


def test_numbers_of_other_parts_are_refused(volume):
    folder, probability, _ = volume
    for name in ("a.h5", "b.h5"):
        label_part(folder / "prediction.h5", folder / "t.json", folder / name)
    number_parts([folder / "a.h5"], folder / "numbers.h5", shape=probability.shape, jobs=1)
    with pytest.raises(InputError, match="made from other parts than"):
        relabel_part(folder / "b.h5", folder / "numbers.h5", folder / "labels.h5")


def test_small_components_go_and_the_others_are_renumbered():
    probability = np.array([[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 1]], np.float32)
    every = instances(probability, 0.5)
    np.testing.assert_array_equal(every > 0, probability > 0.5)
    kept = instances(probability, 0.5, minimum_size=2)
    np.testing.assert_array_equal(kept > 0, [[0, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0]])
    assert set(np.unique(kept)) == {0, 1, 2}


def test_thresholds_compare_in_float64():
    """float32(0.7) is below 0.7, float32(0.3) above 0.3."""
    assert not instances(np.full((2, 2), 0.7, np.float32), 0.7).any()
    assert instances(np.full((2, 2), 0.3, np.float32), 0.3).all()
    assert not instances(np.full((2, 2), 0.5, np.float32), 0.5).any()  # strictly above


@given(st.floats(0, 1), st.floats(0, 1, width=32))
def test_above_is_the_comparison_in_float64(threshold, value):
    around = [np.nextafter(np.float32(threshold), end, dtype=np.float32) for end in (-1, 2)]
    probability = np.array([value, threshold, *around], np.float32)
    np.testing.assert_array_equal(above(probability, threshold), probability.astype(float) > threshold)
