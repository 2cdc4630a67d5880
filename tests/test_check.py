"""The check finds mistakes that are made on purpose, finds none in sound data, and stops the run."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from pipeline_lib import imageio, layout
from pipeline_lib.data import correspondence
from pipeline_lib.data.cells import CellCounter, doubts_of_cells
from pipeline_lib.data.comparison import wrong_pairs
from pipeline_lib.data.fingerprint import WINDOWS, Fingerprint
from pipeline_lib.data.gray import summary
from pipeline_lib.data.labels import separation_border
from pipeline_lib.figures import describe
from pipeline_lib.figures.check import OUTLINE, save_check_picture
from pipeline_lib.figures.colouring import rgb
from pipeline_lib.runtime.doubts import DOUBTS, doubt
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json
from pipeline_lib.stages.acceptance import require_accepted
from pipeline_lib.stages.check import check
from pipeline_lib.stages.dataset import build_dataset

DOCS = Path(__file__).parents[1] / "docs"
DATA = Path(os.environ.get("BORDURE_DATA", Path(__file__).parents[2] / "shared/data"))
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no real images in {DATA}; set BORDURE_DATA to test on them"
)


def discs(seed, size=128, number=12):
    """Labels (y, x) of discs at random places."""
    rng, (y, x) = np.random.default_rng(seed), np.indices((size, size))
    labels = np.zeros((size, size), np.uint32)
    for label in range(1, number + 1):
        (cy, cx), radius = rng.integers(0, size, 2), rng.integers(6, 12)
        labels[((y - cy) ** 2 + (x - cx) ** 2 <= radius**2) & (labels == 0)] = label
    return labels


def image_of(labels, seed=0, low=60, high=140):
    """Blurred and noisy gray levels (y, x): cells are brighter."""
    clean = ndimage.gaussian_filter(np.where(labels > 0, float(high), low), 1)
    return (clean + np.random.default_rng(seed).normal(0, 8, labels.shape)).clip(0, 255).astype(np.uint8)


def write(folder, name, raw, labels=None, split="train", width=2, ignore=None, doubts=()):
    """Write a dataset file of sections (z, y, x), and return the row of `check`."""
    path = folder / f"{name}.h5"
    with layout.create(path, {}) as file:
        layout.add(file, layout.RAW, (1, *raw.shape), raw.dtype)[0] = raw
        hashes = layout.add(file, layout.SECTION_HASH, (len(raw), 32))
        windows = layout.add(file, layout.SECTION_WINDOWS, (len(raw), WINDOWS))
        for z, section in enumerate(raw):
            fingerprint = Fingerprint(1, section.shape)
            fingerprint.add(section[None], 0, 0)
            hashes[z], windows[z] = fingerprint.hash(), fingerprint.windows()
        annotation = None
        if labels is not None:
            layout.add(file, layout.LABELS, labels.shape)[:] = labels
            border = layout.add(file, layout.SEPARATION_BORDER, labels.shape)
            border[:] = np.stack([separation_border(section, width) for section in labels])
            counter = CellCounter()
            for section in zip(labels, border, strict=True):
                counter.add(*section)
                counter.end_section()
            cells = counter.to_dict(labels, 0 if ignore is None else np.count_nonzero(ignore))
            listed = [*doubts, *doubts_of_cells(cells, width)]
            annotation = {"description": f"how {name} was read", "cells": cells, "doubts": listed}
        if ignore is not None:
            layout.add(file, layout.IGNORE, ignore.shape)[:] = ignore
        layout.write_findings(file, {"gray": summary(raw[None]), "annotation": annotation})
    return {"volume": name, "split": split, "dataset": path}


def found(folder, rows, **settings):
    """Check volumes and return the doubts as {(volume, name): doubt}."""
    check(rows, folder / "check.html", folder / "check.json", **{"shown": 1} | settings)
    doubts = read_json(folder / "check.json")["doubts"]
    assert [doubt["weight"] for doubt in doubts] == sorted((d["weight"] for d in doubts), reverse=True)
    assert {doubt["name"] for doubt in doubts} <= {*DOUBTS}
    return {(doubt["volume"], doubt["name"]): doubt for doubt in doubts}


def five(folder, change=lambda k, labels: labels):
    """Five volumes of one section, whose annotation is changed by a function."""
    cells = [discs(k) for k in range(5)]
    return [
        write(folder, f"v{k}", image_of(labels, k)[None], np.ascontiguousarray(change(k, labels))[None])
        for k, labels in enumerate(cells)
    ]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Rows of five volumes without doubts."""
    return five(tmp_path_factory.mktemp("sound"))


class TestCorrespondence:
    def test_outlines_are_pixels_with_another_label_at_a_side(self):
        labels = np.random.default_rng(0).integers(0, 3, (9, 8))
        ignore = np.random.default_rng(1).random((9, 8)) < 0.3
        for without in (None, ignore):
            expected = np.zeros((9, 8), bool)
            for y, x in np.ndindex(9, 8):
                for ny, nx in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                    if 0 <= ny < 9 and 0 <= nx < 8 and labels[ny, nx] != labels[y, x]:
                        expected[y, x] |= without is None or not (ignore[y, x] or ignore[ny, nx])
            assert np.array_equal(correspondence.outlines(labels, without), expected)

    def test_edges_do_not_depend_on_contrast_and_channels(self):
        image = image_of(discs(0)).astype(float)
        edges = correspondence.edges(image[None])
        assert np.array_equal(edges, correspondence.edges(np.stack([image, image])))
        assert np.abs(edges - correspondence.edges(image[None] * -7 + 2000).astype(int)).max() <= 1
        assert edges.max() == 255 and (edges == 255).mean() == pytest.approx(0.05, abs=0.01)
        assert not correspondence.edges(np.ones((1, 9, 9))).any()

    def test_own_fit_is_the_largest_correlation_within_the_tolerance(self):
        labels = discs(1)
        image = image_of(labels)
        marked, edges = correspondence.outlines(labels), correspondence.edges(image[None])
        correlations = {
            (dy, dx): np.corrcoef(np.roll(marked, (dy, dx), (0, 1)).ravel(), edges.ravel())[0, 1]
            for dy in range(-3, 4)
            for dx in range(-3, 4)
        }
        fit = correspondence.make_sample("a", 0, (128, 128, 0, 0), labels, image[None]).fit
        assert fit.own == pytest.approx(max(correlations.values()), abs=1e-5) and not fit.better
        assert fit.own > 2 * fit.chance
        shifted = np.roll(labels, (2, -3), (0, 1))
        assert correspondence.make_sample(
            "a", 0, (128, 128, 0, 0), shifted, image[None]
        ).fit.own == pytest.approx(fit.own, abs=0.05)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda a: a[::-1], "mirrored from top to bottom"),
            (lambda a: a[:, ::-1], "mirrored from left to right"),
            (lambda a: a[::-1, ::-1], "turned by 180 degrees"),
            (lambda a: a.T, "with rows and columns exchanged"),
            (lambda a: a[::-1].T, "turned by 90 degrees to the left"),
            (lambda a: a[:, ::-1].T, "turned by 90 degrees to the right"),
            (lambda a: a[::-1, ::-1].T, "mirrored at the other diagonal"),
            (lambda a: np.roll(a, (20, -30), (0, 1)), "shifted by -20 rows and +30 columns"),
        ],
    )
    def test_what_would_fit_is_named(self, change, words):
        labels = discs(2)
        fit = correspondence.make_sample(
            "a", 0, (128, 128, 0, 0), np.ascontiguousarray(change(labels)), image_of(labels)[None]
        ).fit
        shift = re.search(r"shifted by (\S+) rows and (\S+) columns", fit.better)
        if shift:
            assert abs(int(shift[1]) + 20) <= 1 and abs(int(shift[2]) - 30) <= 1 and "shifted" in words
        else:
            assert fit.better == f"the annotation {words}"
        assert fit.better_fit > 0.3 > fit.own

    def test_nothing_is_said_without_outlines_or_edges(self):
        flat, labels = np.full((1, 64, 64), 9), discs(0, 64)
        for cells, image in ((np.zeros_like(labels), image_of(labels)[None]), (labels, flat)):
            assert correspondence.make_sample("a", 0, (64, 64, 0, 0), cells, image).fit is None

    def test_symmetric_and_regular_cells_fit(self):
        """Outlines that are the same when they are turned or shifted say nothing against the annotation."""
        y, x = np.indices((128, 128))
        grid = ((y % 32 - 16) ** 2 + (x % 32 - 16) ** 2 < 100) * (y // 32 * 4 + x // 32 + 1)
        square = np.pad(np.ones((108, 108), int), 10)
        for labels in (grid, square):
            own, other = (
                correspondence.make_sample("a", 0, (128, 128, 0, 0), labels, image_of(cells)[None]).fit
                for cells in (labels, discs(4))
            )
            assert own.own > 1.5 * own.chance and not own.better
            assert other.own < 0.2 < 0.3 < own.own

    def test_the_order_and_number_of_images_at_a_time_change_nothing(self, monkeypatch):
        cells = [discs(k, 64) for k in range(5)]
        samples = [
            correspondence.make_sample(f"v{k}", 0, (64, 64, 0, 0), cells[(k + 1) % 5], image_of(own)[None])
            for k, own in enumerate(cells)
        ]
        expected = [sample.fit for sample in correspondence.with_partners(samples)]
        assert [fit.better for fit in expected] == [
            f"the image of section 1 of v{(k + 1) % 5}" for k in range(5)
        ]
        monkeypatch.setattr(correspondence, "_AT_A_TIME", 2)
        assert [sample.fit.better for sample in correspondence.with_partners(samples)] == [
            fit.better for fit in expected
        ]


class TestPairs:
    def test_sound_volumes_have_no_doubt(self, tmp_path):
        assert found(tmp_path, five(tmp_path), shown=3) == {}

    @pytest.mark.parametrize(
        "change",
        [
            lambda k, a: a[::-1],
            lambda k, a: a.T,
            lambda k, a: np.pad(a, ((40, 0), (40, 0)))[:128, :128],
            lambda k, a: a[::-1] if k == 3 else a,
            lambda k, a: discs({1: 3, 3: 1}.get(k, k)),
            lambda k, a: discs(k + 100) if k == 3 else a,
        ],
        ids=["mirrored", "transposed", "shifted", "one mirrored", "two exchanged", "of another image"],
    )
    def test_annotations_that_do_not_belong_to_the_image_stop_the_run(self, tmp_path, change):
        doubts = found(tmp_path, five(tmp_path, change))
        wrong = {f"v{k}" for k in range(5) if not np.array_equal(change(k, discs(k)), discs(k))}
        assert {
            v for (v, name), d in doubts.items() if name == "wrong_pair" and d["state"] == "stops"
        } == wrong

    def test_a_section_of_a_stack_with_the_annotation_of_another(self, tmp_path):
        cells = np.stack([discs(k) for k in range(6)])
        raw = np.stack([image_of(section) for section in cells])
        cells[[2, 4]] = cells[[4, 2]]
        (doubt,) = found(tmp_path, [write(tmp_path, "a", raw, cells)]).values()
        assert doubt["name"] == "wrong_pair" and doubt["weight"] == 0.95 and doubt["section"] in (2, 4)
        assert "In 2 of 6 sections" in doubt["text"]
        assert f"the image of section {7 - doubt['section']}" in doubt["text"]

    def test_weight_without_a_better_place(self, tmp_path):
        """The weight is that of certainty only if the outlines of others are clear."""
        rows = five(tmp_path, lambda k, a: discs(100) if k == 3 else a)
        doubts = found(tmp_path, rows)
        assert doubts["v3", "wrong_pair"]["weight"] == 0.9
        assert "no better than" in doubts["v3", "wrong_pair"]["text"]
        assert found(tmp_path, rows[3:4])["v3", "wrong_pair"]["weight"] == 0.5

    def test_outlines_that_follow_nothing_in_all_volumes_do_not_stop(self, tmp_path):
        rows = [
            write(tmp_path, f"v{k}", np.random.default_rng(k).integers(0, 99, (1, 128, 128)), discs(k)[None])
            for k in range(3)
        ]
        doubts = found(tmp_path, rows)
        assert doubts and {(d["name"], d["state"]) for d in doubts.values()} == {("wrong_pair", "noted")}

    @needs_data
    def test_labels_that_fill_the_membranes_fit(self):
        """Outlines in the middle of membranes, as of many EM volumes, are between the edges of the image."""
        with imageio.open_images(DATA / "isbi2012/train-volume.tif", sections="0-7") as images:
            raw = np.stack([images.read(z, slice(None), slice(None)) for z in range(8)])
        truth = imageio.read_annotation(DATA / "isbi2012/train-labels.tif", sections="0-7").labels
        samples = []
        for z, labels in enumerate(truth):
            _, nearest = ndimage.distance_transform_edt(labels == 0, return_indices=True)
            dense = labels[tuple(nearest)]
            samples.append(correspondence.make_sample("a", z, (512, 512, 0, 0), dense, raw[z]))
        assert not [*wrong_pairs(correspondence.with_partners(samples))]

    @needs_data
    def test_real_pairs_have_no_doubt_and_exchanged_ones_stop(self, tmp_path):
        names = [f"nuclei_{k:03}" for k in range(0, 36, 4)]  # of 256 x 256 px
        for shift in (0, 1):
            for k, name in enumerate(names):
                annotation = DATA / f"nuclei/labels/{names[(k + shift) % len(names)]}.tif"
                build_dataset(
                    str(DATA / f"nuclei/images/{name}.tif"), str(annotation), tmp_path / f"{name}.h5"
                )
            rows = [{"volume": n, "split": "train", "dataset": tmp_path / f"{n}.h5"} for n in names]
            stop = {v for (v, _), d in found(tmp_path, rows).items() if d["state"] == "stops"}
            assert stop == ({*names} if shift else set())


class TestCopies:
    def test_copies_in_two_splits_are_never_accepted(self, tmp_path):
        rows, labels = five(tmp_path), discs(9)
        rows.append(write(tmp_path, "t", image_of(discs(3), 3)[None], discs(3)[None], split="test"))
        rows.append(write(tmp_path, "p", image_of(discs(3), 3)[None], split="predict"))
        rows.append(write(tmp_path, "u", image_of(labels, 9)[None], labels[None], split="validation"))
        doubts = found(tmp_path, rows, accept=["copies", "t:copies"], stop_above=1)
        assert {*doubts} == {("t", "copies")} and doubts["t", "copies"]["state"] == "stops"
        assert (
            "v3 of the train split: for example section 1 is section 1 of v3" in doubts["t", "copies"]["text"]
        )
        with pytest.raises(InputError, match="no setting accepts this") as error:
            require_accepted(tmp_path / "check.json", tmp_path / "check.html", tmp_path / "passed.json")
        assert "accept: [" not in str(error.value)
        assert (tmp_path / "check.html").exists() and not (tmp_path / "passed.json").exists()

    def test_each_split_is_compared_with_each_other(self, tmp_path):
        image, labels = image_of(discs(3))[None], discs(3)[None]
        rows = [
            write(tmp_path, name, image, labels, split)
            for name, split in (("a", "train"), ("b", "train"), ("c", "validation"), ("d", "test"))
        ]
        assert {*found(tmp_path, rows)} == {("b", "duplicates"), ("c", "copies"), ("d", "copies")}

    @pytest.mark.parametrize(
        "change",
        [
            lambda a: a.astype(np.uint16),
            lambda a: (a.astype(np.uint16) * 257 * 0.00389105).astype(np.float32),
            lambda a: a[:, ::-1],
            lambda a: np.rot90(a, 1, (1, 2)) / np.float32(255),
        ],
    )
    def test_copies_of_another_type_or_orientation(self, tmp_path, change):
        image, labels = image_of(discs(3))[None], discs(3)[None]
        rows = [
            write(tmp_path, "a", image, labels),
            write(tmp_path, "b", np.ascontiguousarray(change(image)), labels, "test"),
        ]
        assert found(tmp_path, rows)["b", "copies"]["weight"] == 1

    def test_overlapping_images(self, tmp_path):
        labels = discs(3, 400, 90)
        image = image_of(labels)
        places = {"pixel": np.s_[:256, :256], "crop": np.s_[6:256, 3:256], "tile": np.s_[56:312, :256]}
        places["strip"] = np.s_[216:400, :256]  # overlaps by 40 px
        rows = [write(tmp_path, "a", image[None, :256, :256], labels[None, :256, :256])]
        for name, place in places.items():
            part = image[place].copy()
            part[-1, -1] ^= 1
            rows.append(write(tmp_path, name, part[None], labels[place][None], "test"))
        doubts = found(tmp_path, rows, accept=["strip:copies"])
        copies = {volume: d for (volume, name), d in doubts.items() if name == "copies"}
        assert {v: d["weight"] for v, d in copies.items()} == dict.fromkeys(places, 1) | {"strip": 0.95}
        assert copies["strip"]["state"] == "accepted"
        assert re.match(
            r"1 section overlaps with others: for example, section 1 of this volume of the test split and "
            r"section 1 of the volume a of the train split have the same pixels in \d+ places\. ",
            copies["strip"]["text"],
        )

    def test_copies_in_two_folds(self, tmp_path):
        image, labels = image_of(discs(3))[None], discs(3)[None]
        rows = [write(tmp_path, name, image, labels) for name in "ab"]
        assert found(tmp_path, rows)["b", "duplicates"]["weight"] < 1
        of_folds = [row | {"fold": fold} for row, fold in zip(rows, ("1", "2"), strict=True)]
        doubt = found(tmp_path, of_folds)["b", "copies"]
        assert doubt["weight"] == 1
        assert "of this volume of fold 2 has the same pixels as the volume a of fold 1" in doubt["text"]

    def test_parts_without_cells_cannot_choose_a_threshold(self, tmp_path):
        rng = np.random.default_rng(0)

        def volume(name, split, cells):
            labels = discs(3)[None] if cells else np.zeros((1, *discs(3).shape), np.uint32)
            image = image_of(discs(3))[None] // 2 + rng.integers(0, 99, labels.shape, np.uint8)
            return write(tmp_path, name, image, labels, split)

        train = volume("t", "train", True)
        empty, annotated = volume("e", "validation", False), volume("a", "validation", True)
        doubt = found(tmp_path, [train, empty])["e", "no_validation_cells"]
        assert doubt["state"] == "stops"
        assert "No volume of the validation split has an annotated cell" in doubt["text"]
        assert ("e", "no_validation_cells") not in found(tmp_path, [train, empty, annotated])
        assert ("e", "no_validation_cells") not in found(tmp_path, [empty])  # nothing is trained
        of_folds = [train | {"fold": "0"}, annotated | {"fold": "1"}, empty | {"fold": "2"}]
        doubt = found(tmp_path, of_folds)["e", "no_validation_cells"]
        assert doubt["state"] == "stops" and "No volume of fold 2 has" in doubt["text"]

    @needs_data
    def test_real_images_are_no_copies(self, tmp_path):
        """Neither the nuclei nor neighbouring sections of a stack."""
        stack = tifffile.imread(DATA / "isbi2012/train-volume.tif")
        images = [*stack, *(tifffile.imread(p) for p in sorted((DATA / "nuclei/images").glob("*.tif")))]
        splits = "train", "validation", "test"
        rows = [write(tmp_path, f"v{k}", image[None], split=splits[k % 3]) for k, image in enumerate(images)]
        assert len(rows) == 90 and "copies" not in {name for _, name in found(tmp_path, rows)}

    def test_sections_of_one_gray_level_are_no_copies(self, tmp_path):
        flat, labels = np.zeros((1, 128, 128), np.uint8), discs(1)[None]
        rows = [write(tmp_path, "a", flat, labels), write(tmp_path, "b", flat, labels, "test")]
        assert not {name for _, name in found(tmp_path, rows)} & {"copies", "duplicates"}


class TestOtherDoubts:
    @pytest.fixture(autouse=True)
    def _add_sound(self, sound):
        self.sound = sound

    def doubts_of(self, folder, raw, labels, *, context=0, **settings):
        rows = [*self.sound, write(folder, "a", raw, labels, **settings)]
        doubts = found(folder, rows, context=context)
        return {name: d["weight"] for (volume, name), d in doubts.items() if volume == "a"}

    def test_cells_that_cover_most_of_a_section(self, tmp_path):
        background = np.where(discs(8) > 0, 0, 1)[None]
        raw = image_of(discs(8))[None]
        assert self.doubts_of(tmp_path, raw, background)["whole_section"] == 0.85
        inside = np.zeros((1, 128, 128), int)
        inside[:, 10:-10, 10:-10] = 1
        assert self.doubts_of(tmp_path, image_of(inside[0])[None], inside) == {"whole_section": 0.5}
        everything = np.ones((1, 128, 128), int)
        assert self.doubts_of(tmp_path, raw, everything) == {"whole_section": 0.5}

    def test_no_cells_small_cells_and_cells_in_the_border(self, tmp_path):
        raw = image_of(discs(8))[None]
        assert self.doubts_of(tmp_path, raw, np.zeros((1, 128, 128), int)) == {"no_cells": 0.4}
        pairs = np.zeros((128, 128), int)
        pairs[::8, ::8], pairs[::8, 1::8] = np.arange(512).reshape(2, 16, 16)
        doubts = self.doubts_of(tmp_path, image_of(pairs)[None], pairs[None])
        assert doubts["lost_in_border"] == pytest.approx(0.9, abs=0.01) and doubts["small_cells"] == 0.5

    def test_gray_levels_of_another_scale(self, tmp_path):
        labels = discs(8)
        raw = image_of(labels)[None]
        for factor, weight in ((1 / 2, None), (6, 0.3), (1 / 10, 0.6), (100, 0.85), (1 / 255, 0.85)):
            scaled = raw.astype(float) * factor
            doubts = self.doubts_of(tmp_path, scaled.astype(np.float32), labels[None])
            assert doubts.get("gray_scale") == weight
        assert self.doubts_of(tmp_path, np.full_like(raw, 7), labels[None])["gray_scale"] == 0.6

    def test_dark_cells_among_bright_ones(self, tmp_path):
        labels = discs(8)
        assert self.doubts_of(tmp_path, 255 - image_of(labels)[None], labels[None]) == {"contrast": 0.5}

    def test_context_larger_than_the_image(self, tmp_path):
        labels = discs(8)
        raw = image_of(labels)[None]
        assert self.doubts_of(tmp_path, raw, labels[None], context=128) == {}
        assert self.doubts_of(tmp_path, raw, labels[None], context=129) == {"context": 0.3}

    def test_doubts_of_the_dataset_are_listed(self, tmp_path):
        labels = discs(8)
        own = [doubt("sentinel", 0.7, "A label.")]
        assert self.doubts_of(tmp_path, image_of(labels)[None], labels[None], doubts=own) == {"sentinel": 0.7}

    def test_ignored_pixels_are_not_compared(self, tmp_path):
        labels, ignore = discs(8), np.zeros((1, 128, 128), np.uint8)
        ignore[:, 40:] = 1
        raw = image_of(labels)
        raw[40:] = image_of(discs(11))[40:]
        cells = np.where(ignore > 0, 0, labels)
        assert self.doubts_of(tmp_path, raw[None], cells, ignore=ignore) == {}


def membranes(seed):
    """Cells in black membranes, and their image, where membranes are dark."""
    points = np.random.default_rng(seed).integers(0, 160, (40, 2))
    at = np.indices((160, 160))
    distance = np.sort(np.hypot(*(at[:, None] - points.T[:, :, None, None])), axis=0)
    cells = np.where(distance[1] - distance[0] > 3, 255, 0).astype(np.uint8)
    return cells, image_of(cells, seed)


@pytest.mark.parametrize(
    ("annotation", "kind", "name"),
    [
        (lambda cells, image: cells, "black_membranes", None),
        (lambda cells, image: 255 - cells, "black_membranes", "inverted"),
        (lambda cells, image: cells, "white_membranes", "inverted"),
        (lambda cells, image: image, "instances", "gray_levels"),
        (lambda cells, image: cells, "instances", "whole_section"),
    ],
)
def test_annotations_that_are_stated_wrongly_stop_the_run(tmp_path, annotation, kind, name):
    cells, image = membranes(0)
    tifffile.imwrite(tmp_path / "image.tif", image)
    tifffile.imwrite(tmp_path / "annotation.tif", annotation(cells, image))
    paths = str(tmp_path / "image.tif"), str(tmp_path / "annotation.tif"), tmp_path / "a.h5"
    build_dataset(*paths, annotation_kind=kind)
    doubts = found(tmp_path, [{"volume": "a", "split": "train", "dataset": tmp_path / "a.h5"}])
    stopping = {key for key, doubt in doubts.items() if doubt["state"] == "stops"}
    assert stopping == set() if name is None else ("a", name) in stopping


class TestStop:
    def files(self, folder):
        return folder / "check.json", folder / "check.html", folder / "passed.json"

    def test_the_line_of_the_message_lets_the_run_pass(self, tmp_path):
        rows = five(tmp_path, lambda k, a: a[::-1] if k in (1, 2) else a)
        accept = ["v4:context"]
        found(tmp_path, rows, accept=accept)
        with pytest.raises(InputError) as error:
            require_accepted(*self.files(tmp_path))
        message = str(error.value)
        assert message.startswith(f"2 doubts stop the run; {tmp_path / 'check.html'} shows pictures.")
        typed = re.search(r"`check: \{accept: \[(.*)\]\}`", message)[1].split(", ")
        assert typed == ["v4:context", "v1:wrong_pair", "v2:wrong_pair"]
        found(tmp_path, rows, accept=typed)
        require_accepted(*self.files(tmp_path))
        accepted = read_json(tmp_path / "passed.json")["accepted"]
        assert {doubt["volume"] for doubt in accepted} == {"v1", "v2"}
        found(tmp_path, rows, accept=typed[:2])
        with pytest.raises(InputError, match="1 doubt stops the run"):
            require_accepted(*self.files(tmp_path))

    def test_many_doubts_are_listed_shortly_and_accepted_by_name(self, tmp_path):
        rows = [write(tmp_path, f"v{k}", image_of(discs(k))[None], discs(k)[None, ::-1]) for k in range(12)]
        found(tmp_path, rows)
        with pytest.raises(InputError, match=r"and 4 more") as error:
            require_accepted(*self.files(tmp_path))
        assert str(error.value).endswith("set `check: {accept: [wrong_pair]}`.")
        found(tmp_path, rows, accept=["wrong_pair"])
        require_accepted(*self.files(tmp_path))

    def test_only_weights_above_the_limit_stop(self, tmp_path):
        rows = five(tmp_path, lambda k, a: a[::-1] if k == 1 else a)
        for limit, state in ((0.94, "stops"), (0.95, "noted")):
            (doubt,) = found(tmp_path, rows, stop_above=limit).values()
            assert doubt["state"] == state


class TestPage:
    def test_it_is_complete_and_self_contained_and_always_the_same(self, tmp_path):
        rows = five(tmp_path, lambda k, a: a[::-1] if k == 4 else a)
        rows.append(write(tmp_path, "p", image_of(discs(7))[None], split="predict"))
        found(tmp_path, rows, shown=3)
        page = (tmp_path / "check.html").read_text()
        assert page.count('<div id="picture-') == 3 and 'id="picture-v4"' in page and 'id="picture-p"' in page
        assert all(row["volume"] in page for row in rows) and page.count("how v") == 5
        assert "1 doubt stops the run" in page and "check: {accept: [v4:wrong_pair]}" in page
        assert not re.search(r'(src|href)="(?!data:|#)', page)
        found(tmp_path, rows, shown=3)
        assert (tmp_path / "check.html").read_text() == page

    def test_the_volumes_table_has_number_and_size_of_cells(self, tmp_path):
        labels = np.zeros((1, 300, 300), int)
        for label, (y, size) in enumerate([(5, 10), (50, 20), (120, 40)], 1):
            labels[0, y : y + size, 120 : 120 + size] = label
        ignore = np.zeros_like(labels, np.uint8)
        ignore[:, 200:] = 1
        row = write(tmp_path, "a", image_of(labels[0])[None], labels, ignore=ignore)
        found(tmp_path, [row])
        page = re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", (tmp_path / "check.html").read_text()))
        assert "a train 1 300 x 300 uint8 3 400 100 to 1,600 3.5 %" in page  # 2100 of 200 x 300 px

    def test_the_picture_has_outlines_and_hatching(self, tmp_path):
        labels, ignore = np.zeros((2, 500, 500), int), np.zeros((2, 500, 500), int)
        labels[1, 100:200, 100:200], ignore[1, 400:] = 3, 1
        raw = np.random.default_rng(0).integers(0, 9, (1, 2, 500, 500))
        save_check_picture(
            tmp_path / "a.png", raw=raw, labels=labels, ignore=ignore, z=1, volume="a", split="test"
        )
        (panel,) = describe(tmp_path / "a.png")["panels"]
        x, y, width, height = panel["box"]
        assert (width, height) == (500, 500)
        assert panel["title"] == "a: section 2 of 2"
        assert [text for _, text in panel["legend"]] == [
            "1 annotated cell",
            "hatched: not annotated, 50,000 px",
            "gray levels 0 to 8",
            "test split, 500 x 500 px",
        ]
        shown = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))[y : y + height, x : x + width]
        orange = (shown == rgb(OUTLINE)).all(axis=2)
        assert np.array_equal(orange, correspondence.outlines(labels[1]))
        coloured = (shown != shown[..., :1]).any(axis=2) & ~orange
        assert np.array_equal(coloured[:400], (labels[1, :400] > 0) & ~orange[:400])


def test_all_doubts_are_in_the_reference():
    text = (DOCS / "reference/check.md").read_text()
    assert {*re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)} == {*DOUBTS}
    sources = (path.read_text() for path in (DOCS.parent / "pipeline_lib").rglob("*.py"))
    named = {name for source in sources for name in re.findall(r"\bdoubt\(\s*\"(\w+)\"", source)}
    assert named <= {*DOUBTS} and "anti_aliasing" in named


class TestAccepted:
    def test_an_entry_that_names_nothing_is_refused(self, tmp_path, sound):
        for entry, hint in (
            ("whole_sectoin", "no doubt `whole_sectoin`. Did you mean `whole_section`"),
            ("b:context", "no volume `b`"),
            ("v1:contxt", "Did you mean `context`"),
        ):
            with pytest.raises(InputError, match=re.escape(f"found `{entry}`")) as error:
                found(tmp_path, sound, accept=[entry])
            assert hint in str(error.value)

    def test_another_gray_scale_stops_before_the_training_and_cannot_be_accepted(self, tmp_path):
        images = [image_of(discs(k), k)[None] / np.float32(255) for k in range(3)]
        rows = [write(tmp_path, f"v{k}", images[k], discs(k)[None]) for k in range(2)]
        rows += [write(tmp_path, "same", images[2], split="predict")]
        rows += [write(tmp_path, "other", images[2] * np.float32(255), split="predict")]
        doubts = found(tmp_path, rows, accept=["gray_scale"], stop_above=1)
        assert {*doubts} == {("other", "gray_scale")}
        assert doubts["other", "gray_scale"]["state"] == "stops"
        with pytest.raises(InputError, match=r"column `scale` .*: 0\.00392157") as error:
            require_accepted(tmp_path / "check.json", tmp_path / "check.html", tmp_path / "passed.json")
        assert "accept: [" not in str(error.value)
