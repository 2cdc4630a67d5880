"""Tests of class-balanced centres of patches, compared with lists of all pixels."""

from dataclasses import dataclass

import h5py
import numpy as np
import pytest

from pipeline_lib.data import sampling
from pipeline_lib.data.sampling import ClassBalanced


@dataclass
class Drawn:
    """Truth of a volume with a class for each pixel."""

    kinds: np.ndarray
    ignore: np.ndarray | None = None

    @property
    def shape(self):
        return self.kinds.shape

    def read(self, section, window):
        return self.classes(section, window)[None].astype(np.float32)

    def classes(self, section, window):
        return self.kinds[section, *window].astype(np.uint8)


class Scripted:
    """Random numbers that were chosen before."""

    def __init__(self, kind, index):
        self.kind, self.index = kind, index

    def choice(self, kinds):
        assert self.kind in kinds
        return self.kind

    def integers(self, count):
        assert self.index < count
        return self.index


@pytest.fixture
def truths(monkeypatch):
    """Three classes, one of them rare, in volumes of several blocks and of less than one."""
    monkeypatch.setattr(sampling, "ALIGNMENT", 8)  # px, instead of 128
    rng = np.random.default_rng(0)
    shares = [0.7, 0.29, 0.01]
    volumes = [rng.choice(3, size, p=shares) for size in [(2, 20, 30), (3, 9, 11), (1, 5, 9)]]
    ignore = (rng.random(volumes[0].shape) < 0.4).astype(np.uint8)
    ignore[0, 8:] = 1  # blocks without annotated pixels
    return [Drawn(volumes[0], ignore), Drawn(volumes[1]), Drawn(volumes[2])]


def all_pixels(truths, kind):
    return {
        (volume, tuple(map(int, pixel)))
        for volume, truth in enumerate(truths)
        for pixel in np.argwhere(truth.kinds == kind)
        if truth.ignore is None or not truth.ignore[tuple(pixel)]
    }


@pytest.mark.parametrize("most", [2**20, 13])
def test_each_number_is_another_pixel_of_the_class_and_all_are_reached(truths, monkeypatch, most):
    """So all pixels of a class are equally likely. Few blocks must be large ones."""
    monkeypatch.setattr(sampling, "MOST_BLOCKS", most)
    balanced = ClassBalanced(truths, 3)
    for kind in range(3):
        expected = all_pixels(truths, kind)
        assert balanced.pixels[kind] == len(expected)
        found = [balanced.draw(Scripted(kind, number)) for number in range(len(expected))]
        assert len({*found}) == len(found) and {*found} == expected


def test_the_number_of_blocks_is_limited(truths, monkeypatch):
    assert ClassBalanced(truths, 3)._up_to.shape == (3, 2 * 3 * 4 + 3 * 2 * 2 + 2)
    monkeypatch.setattr(sampling, "MOST_BLOCKS", 13)
    assert ClassBalanced(truths, 3)._up_to.shape == (3, 2 * 2 * 2 + 3 + 1)


def test_classes_are_equally_likely_and_so_are_the_pixels_of_a_class(truths):
    balanced, rng = ClassBalanced(truths, 3), np.random.default_rng(1)
    found = [balanced.draw(rng) for _ in range(3000)]
    kinds = np.array([truths[volume].kinds[pixel] for volume, pixel in found])
    np.testing.assert_allclose(np.bincount(kinds) / len(found), 1 / 3, atol=0.03)
    np.testing.assert_array_equal(balanced.shares, [1 / 3] * 3)
    rare = [place for place, kind in zip(found, kinds, strict=True) if kind == 2]
    counts = np.array([rare.count(place) for place in all_pixels(truths, 2)])
    expected = len(rare) / len(counts)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - (len(counts) - 1)) < 4 * np.sqrt(2 * (len(counts) - 1))


def test_a_class_that_does_not_occur_is_not_drawn():
    balanced = ClassBalanced([Drawn(np.array([[[0, 2, 2, 1]]]), np.array([[[0, 0, 0, 1]]]))], 4)
    assert balanced.pixels.tolist() == [1, 0, 2, 0] and balanced.shares.tolist() == [0.5, 0, 0.5, 0]
    rng = np.random.default_rng(0)
    assert {balanced.draw(rng) for _ in range(50)} == {(0, (0, 0, column)) for column in range(3)}


def test_files_give_the_pixels_of_arrays(truths, tmp_path):
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        stored = [
            Drawn(
                file.create_dataset(f"kinds{k}", data=truth.kinds, chunks=True),
                None if truth.ignore is None else file.create_dataset("ignore", data=truth.ignore),
            )
            for k, truth in enumerate(truths)
        ]
        of_files, of_arrays = ClassBalanced(stored, 3), ClassBalanced(truths, 3)
        for seed in rng.integers(1000, size=20):
            one, other = (np.random.default_rng(seed) for _ in range(2))
            assert of_files.draw(one) == of_arrays.draw(other)
