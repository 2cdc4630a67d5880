"""Pixels that are not annotated, in detection: boxes of objects, patches, validation and scores."""

import itertools
import json
from contextlib import ExitStack

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib import layout, metrics, networks, tasks
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.data.patches import Volume
from pipeline_lib.inference.tiling import tiles
from pipeline_lib.kernels.boxes import area, masked_area, overlaps
from pipeline_lib.metrics import detection_scores, match_boxes, pooled_matches
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import write_json
from pipeline_lib.stages.boxes import choose_boxes
from pipeline_lib.stages.dataset import build_dataset
from pipeline_lib.stages.detection import choose_score, evaluate_detections
from pipeline_lib.tasks.detection import matching
from pipeline_lib.tasks.detection.found import Found, create_arrays
from pipeline_lib.tasks.detection.patches import BoxAugmentation
from pipeline_lib.tasks.detection.scores import matched_sections
from pipeline_lib.tasks.detection.task import Output
from pipeline_lib.tasks.detection.truth import CUT, IGNORED, BoxTruth, box_writer

PLAN = networks.plan(
    "ssd", channels=[2, 3, 4, 4], convolutions=1, heads=3, sizes=[4, 8, 16], aspect_ratios=[1.0, 2.0]
)
ONES = np.ones((1, 1, 1), np.float32)
PLAIN = Normalisation("mean_std", "uint8", 0 * ONES, ONES)


def random_boxes(rng, count, size, largest=14.0):
    """Boxes that partly lie beyond the section; the edges of every second one are whole numbers."""
    corners = rng.uniform(-3, np.array(size) - 2, (count, 2))
    boxes = np.hstack([corners, corners + rng.uniform(1, largest, (count, 2))])
    boxes[::2] = np.add(np.floor(boxes[::2]), [0, 0, 1, 1])
    return boxes


def truth_of(boxes, ignore=None, state=0):
    count = len(boxes)
    return BoxTruth(
        ignore.shape,
        np.asarray(boxes, float).reshape(-1, 4),
        np.zeros(count, np.int64),
        np.ones(count, np.uint8),
        np.full(count, state, np.uint8),
        1,
        ignore,
    )


@given(st.integers(0, 10**6))
def test_masked_area_is_the_sum_over_the_pixels(seed):
    """In three blocks of a wide section; the boxes are at the borders of the blocks and anywhere."""
    rng = np.random.default_rng(seed)
    mask = (rng.random((2, 9, 4100)) < 0.4).astype(np.uint8) * 3
    boxes = random_boxes(rng, 30, (9, 4100), 40)
    boxes[:12, [1, 3]] = (
        np.array([[2048.0, 4096.0]] * 6).reshape(-1, 1) + rng.uniform(0, 9, (12, 2)).cumsum(1) - 9
    )
    expected = []
    for y0, x0, y1, x1 in boxes:
        y, x = (
            np.clip(np.minimum(b, np.arange(n) + 1) - np.maximum(a, np.arange(n)), 0, None)
            for a, b, n in ((y0, y1, 9), (x0, x1, 4100))
        )
        expected.append(y @ (mask[1] > 0) @ x)
    found = masked_area(boxes, mask, 1)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    whole = (boxes == boxes.round()).all(axis=1)
    assert found[whole].tolist() == np.array(expected)[whole].tolist()


class TestBoxes:
    @settings(max_examples=50)
    @given(st.integers(0, 10**6))
    def test_objects_near_ignored_pixels_are_ignored(self, tmp_path_factory, seed):
        rng = np.random.default_rng(seed)
        ignore = rng.random((1, 30, 40)) < 0.01
        ignore[0, 3:20, 25:33] = True
        boxes = random_boxes(rng, 25, (30, 40), 6).clip(0, [30, 40, 30, 40])
        boxes = boxes[area(boxes) > 0]
        small = rng.random(len(boxes)) < 0.2
        path = tmp_path_factory.mktemp("boxes") / "volume.h5"
        with layout.create(path, {}) as file:
            layout.add(file, layout.RAW, (1, 1, 30, 40), np.uint8)
            layout.add(file, layout.IGNORE, (1, 30, 40))[:] = ignore
            append = box_writer(file, ["a", "b"])
            append(0, boxes, np.arange(len(boxes)).astype(np.uint8), small)
            found = [file[array.name][:].tolist() for array, _ in layout.BOX_ARRAYS]
        pixels = [(y, x) for _, y, x in np.argwhere(ignore)]
        expected = []
        for kind, ((y0, x0, y1, x1), is_small) in enumerate(zip(boxes, small, strict=True)):
            rows, columns = range(int(y0), int(np.ceil(y1))), range(int(x0), int(np.ceil(x1)))
            if all(ignore[0, y, x] for y, x in itertools.product(rows, columns)):
                continue
            # the gaps between the box and the pixel, along both axes
            near = any(max(y - y1, y0 - y - 1, x - x1, x0 - x - 1) < 1 for y, x in pixels)
            cut = y0 == 0 or x0 == 0 or y1 == 30 or x1 == 40
            expected.append(([y0, x0, y1, x1], 0, kind, IGNORED if is_small or near else CUT * cut))
        assert [*zip(*found, strict=True)] == expected

    def test_an_object_that_touches_ignored_pixels_can_continue_there(self, tmp_path):
        """The object in the middle ends in front of the band, the one on the left a pixel before that."""
        ignore = np.zeros((1, 30, 60), bool)
        ignore[:, :, 40:] = True
        boxes = np.array([[5.0, 5, 10, 39], [15, 20, 20, 40], [25, 45, 28, 50]])
        with layout.create(tmp_path / "volume.h5", {}) as file:
            layout.add(file, layout.RAW, (1, 1, 30, 60), np.uint8)
            layout.add(file, layout.IGNORE, (1, 30, 60))[:] = ignore
            append = box_writer(file, ["cell"])
            append(0, boxes, np.ones(3, np.uint8), np.zeros(3, bool))
            assert file["boxes"][:].tolist() == boxes[:2].tolist()
            assert file["box_state"][:].tolist() == [0, IGNORED]


def drawn(rng, shape):
    """Labels of rectangles, and ignored pixels: a band at the right, a patch and a few specks."""
    labels = np.zeros(shape, np.uint16)
    for section in labels:
        for label, (y, x) in enumerate(itertools.product(range(5, 75, 14), range(5, 85, 14)), 1):
            section[y : y + rng.integers(5, 11), x : x + rng.integers(5, 11)] = label
    ignore = rng.random(shape) < 0.0005
    ignore[:, :, 70:], ignore[:, 20:45, 25:40] = True, True
    return labels, ignore


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Two datasets with the same annotation, apart from its values at ignored pixels."""
    folder, shape = tmp_path_factory.mktemp("built"), (2, 80, 90)
    rng = np.random.default_rng(5)
    labels, ignore = drawn(rng, shape)
    raw = (labels > 0) * 100 + rng.integers(0, 50, shape)
    anything = np.where(ignore, rng.integers(0, 60, shape), labels)
    anything[:, 2:78, 72:88] = 77  # an object
    for name, values in (("raw", raw), ("ignore", ignore), ("one", labels), ("other", anything)):
        dtype = np.uint16 if values.dtype == labels.dtype or name == "other" else np.uint8
        tifffile.imwrite(folder / f"{name}.tif", values.astype(dtype), photometric="minisblack")
    for name in ("one", "other"):
        build_dataset(
            folder / "raw.tif",
            folder / f"{name}.tif",
            folder / f"{name}.h5",
            ignore_mask=folder / "ignore.tif",
            annotation_kind="instances",
        )
    return folder, ignore


class TestValuesAtIgnoredPixels:
    def test_default_boxes(self, built):
        folder, _ = built
        for name in ("one", "other"):
            choose_boxes([folder / f"{name}.h5"], folder / f"{name}.json", network={"name": "ssd"})
        one, other = ((folder / f"{name}.json").read_text() for name in ("one", "other"))
        assert one == other
        with h5py.File(folder / "one.h5") as file:
            state = file["box_state"][:]
            assert json.loads(one)["objects"] == np.count_nonzero(state != IGNORED) > 20
            assert np.count_nonzero(state == IGNORED) > 5

    def test_patches(self, built):
        folder, _ = built
        task, tile = tasks.load("detection"), PLAN.geometry.input_size(64)
        with ExitStack() as stack:
            sets = [
                task.patches(
                    PLAN,
                    [task.open(stack, folder / f"{name}.h5", folder / f"{name}.h5", 1 << 20)],
                    PLAIN,
                    PLAN.geometry.context,
                    tile,
                    BoxAugmentation(smallest_window=0.5),
                    0,
                )
                for name in ("one", "other")
            ]
            left_out = learned = 0
            for number in range(30):
                one, other = (patches.read(number) for patches in sets)
                assert torch.equal(one.truth, other.truth) and torch.equal(one.image, other.image)
                classes = one.truth[: PLAN.boxes_per_cell]
                left_out += int((classes == -1).sum())
                learned += int((classes > 0).sum())
            assert left_out > 1000 and learned > 100

    def test_scores(self, built, tmp_path):
        folder, _ = built
        rng = np.random.default_rng(0)
        with h5py.File(folder / "one.h5") as file, layout.create(tmp_path / "found.h5", {}) as found:
            create_arrays(found, ["background", "cell"], ["cell"])
            for z in range(2):
                true = file["boxes"][:][file["box_section"][:] == z]
                boxes = np.vstack([true + rng.uniform(-1, 1, true.shape), random_boxes(rng, 40, (80, 90))])
                boxes = boxes.clip(0, [80, 90, 80, 90])
                score = rng.random(len(boxes)).astype(np.float32)
                Found(boxes, np.ones(len(boxes), np.uint8), score).append_to(found, z)
        one, other = (
            pooled_matches([*matched_sections(folder / f"{name}.h5", tmp_path / "found.h5")])
            for name in ("one", "other")
        )
        assert detection_scores(one, 0.3) == detection_scores(other, 0.3)
        assert np.count_nonzero(one.coco[0, 0] == -1) > 10


class TestPatches:
    @pytest.mark.parametrize("smallest", [1.0, 0.4])
    def test_ignored_pixels_follow_the_augmentation(self, smallest):
        """The image shows which pixels are ignored. It is augmented in another way than default boxes."""
        rng = np.random.default_rng(1)
        ignore = np.ones((1, 180, 200), np.uint8)
        ignore[0, 30:150, 30:170] = 0  # what is mirrored at the edges of the section is ignored, too
        for y, x in rng.integers(30, 150, (15, 2)):
            ignore[0, y : y + rng.integers(3, 30), x : x + rng.integers(3, 30)] = 1
        truth = truth_of(random_boxes(rng, 40, (180, 200)), ignore)
        augmentation = BoxAugmentation(
            gain=0, offset=0, gamma=0, noise=0, interpolation="bilinear", smallest_window=smallest
        )
        context, tile = PLAN.geometry.context, PLAN.geometry.input_size(96)
        patches = tasks.load("detection").patches(
            PLAN, [Volume(200 * ignore[None], truth)], PLAIN, context, tile, augmentation, 3
        )
        seen = {True: 0, False: 0}
        for number in range(20):
            image, targets = patches.move(patches.read(number), torch.device("cpu"))
            kinds = targets.reshape(5, -1, *targets.shape[2:])[0].numpy()
            own = matching.grid(PLAN.default_boxes, PLAN.reduction, *(range(k) for k in kinds.shape[1:]))
            centres = matching.centres_of(own.reshape(-1, 4)).reshape(*own.shape[:-1], 2)
            for place in np.ndindex(kinds.shape):
                y, x = np.floor(centres[place] + context).astype(int)
                around = image[0, 0, y - 1 : y + 2, x - 1 : x + 2].numpy()  # one centre is between pixels
                if around.min() > 190 or around.max() < 10:
                    ignored = bool(around.min() > 190)
                    seen[ignored] += 1
                    assert (kinds[place] == -1) == ignored
        assert min(seen.values()) > 500

    def test_default_boxes_with_an_annotated_centre_learn_as_before(self):
        rng = np.random.default_rng(2)
        ignore = (rng.random((1, 90, 90)) < 0.3).astype(np.uint8)
        truth, size = truth_of(random_boxes(rng, 20, (90, 90)), ignore), (9, 10)
        origin = np.array([8.0, 5.0])
        boxes, kinds = truth.learned(0)
        arguments = PLAN.default_boxes, PLAN.reduction, size, boxes - np.tile(origin, 2), kinds
        plain = matching.targets(*arguments)
        found = matching.targets(*arguments, annotated=lambda points: truth.annotated(0, points, origin))
        own = matching.grid(PLAN.default_boxes, PLAN.reduction, range(9), range(10))
        for place in np.ndindex(own.shape[:-1]):
            y0, x0, y1, x1 = own[place]
            y, x = int((y0 + y1 + 1e-9) // 2 + 8), int((x0 + x1 + 1e-9) // 2 + 5)
            expected = [-1, 0, 0, 0, 0] if ignore[0, y, x] else plain[(slice(None), *place)].tolist()
            assert found[(slice(None), *place)].tolist() == expected


class TestScores:
    @settings(max_examples=50)
    @given(st.integers(0, 10**6), st.sampled_from([(), ((0, 6), (6, 100))]))
    def test_detections_without_a_partner_can_be_left_out(self, seed, sizes):
        rng = np.random.default_rng(seed)
        truth, extra = random_boxes(rng, 8, (40, 40)), random_boxes(rng, 8, (40, 40))
        found = np.vstack([truth + rng.uniform(-1, 1, truth.shape), extra])
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2])
        scores, hidden = rng.random(16), rng.random(16) < 0.5
        ignored = rng.random(8) < 0.3
        plain = match_boxes(truth, found, scores, ignored=ignored, sizes=sizes)
        matches = match_boxes(truth, found, scores, ignored=ignored, sizes=sizes, left_out=hidden)
        np.testing.assert_array_equal(matches.coco, np.where(hidden & (plain.coco == 0), -1, plain.coco))
        # by the rule of Pascal VOC, a second detection chooses an object, too
        hidden &= overlaps(found, truth).max(axis=1) < 0.5
        np.testing.assert_array_equal(
            matches.pascal, np.where(hidden & (plain.pascal == 0), -1, plain.pascal)
        )
        np.testing.assert_array_equal(matches.truth, plain.truth)

    @given(st.integers(0, 10**6))
    def test_half_of_the_area_decides(self, seed):
        rng = np.random.default_rng(seed)
        ignore = np.zeros((1, 40, 40), np.uint8)
        ignore[0, 10:30, 15:35] = 1
        ignore[0, 20:23, 20:25] = 0
        found = random_boxes(rng, 30, (40, 40)).clip(0, 40)
        found = found[area(found) > 0]
        truth = truth_of(found[:5], ignore)
        matches = truth.matches(0, Found(found, np.ones(len(found), np.uint8), rng.random(len(found))))
        for number, (y0, x0, y1, x1) in enumerate(found):
            y, x = (
                np.clip(np.minimum(b, np.arange(40) + 1) - np.maximum(a, np.arange(40)), 0, None)
                for a, b in ((y0, y1), (x0, x1))
            )
            share = y @ ignore[0] @ x / ((y1 - y0) * (x1 - x0))
            if matches.partner[number] < 0 and abs(share - 0.5) > 1e-9:
                assert matches.coco[0, 0, number] == (-1 if share > 0.5 else 0)
            if matches.partner[number] >= 0:
                assert matches.coco[0, 0, number] == 1

    def test_exactly_half_is_left_out(self):
        ignore = np.zeros((1, 20, 20), np.uint8)
        ignore[:, :, 10:] = 1
        found = np.array([[0.0, 8, 4, 12], [6, 7, 10, 12]])
        matches = truth_of([], ignore).matches(0, Found(found, np.ones(2, np.uint8), np.ones(2)))
        assert matches.coco[0, 0].tolist() == [-1, 0]

    def test_sections_that_are_not_annotated_do_not_count(self):
        rng = np.random.default_rng(0)
        ignore = np.zeros((3, 40, 40), np.uint8)
        ignore[1] = 1
        boxes = np.vstack([random_boxes(rng, 6, (40, 40)).clip(0, 40) for _ in range(2)])
        truth = BoxTruth(
            *((3, 40, 40), boxes, np.repeat([0, 2], 6)),
            *(np.ones(12, np.uint8), np.zeros(12, np.uint8), 1, ignore),
        )
        found = [random_boxes(rng, 9, (40, 40)).clip(0, 40) for _ in range(3)]
        own = [Found(box, np.ones(9, np.uint8), rng.random(9)) for box in found]
        sections = [truth.matches(z, own[z]) for z in range(3)]
        scores = detection_scores(pooled_matches(sections), 0.5)
        np.testing.assert_equal(scores, detection_scores(pooled_matches(sections[::2]), 0.5))
        assert scores["boxes_annotated"] == 12 and pooled_matches(sections).best_count()[1] > 0
        nothing = detection_scores(sections[1], 0.5)
        assert all(np.isnan(nothing[name]) for name in nothing if name not in metrics.BOX_COUNTS)
        assert {nothing[name] for name in metrics.BOX_COUNTS} == {0}

    def test_no_threshold_for_a_volume_that_is_not_annotated(self, tmp_path):
        with layout.create(tmp_path / "volume.h5", {}) as file:
            layout.add(file, layout.RAW, (1, 1, 20, 20), np.uint8)
            layout.add(file, layout.IGNORE, (1, 20, 20))[:] = 1
            box_writer(file, ["cell"])
        with layout.create(tmp_path / "found.h5", {}) as file:
            create_arrays(file, ["background", "cell"], ["cell"])
            Found(np.array([[0.0, 0, 9, 9]]), np.ones(1, np.uint8), np.ones(1, np.float32)).append_to(file, 0)
        for criterion in ("box_f1", "count_error"):
            with pytest.raises(InputError, match="no threshold is better than to keep no box at all"):
                choose_score(
                    [tmp_path / "volume.h5"],
                    [tmp_path / "found.h5"],
                    tmp_path / "score.json",
                    criterion=criterion,
                )

    @pytest.mark.parametrize("annotated", [0, 1])
    def test_masks_are_scored_in_annotated_sections_only(self, tmp_path, annotated):
        rng = np.random.default_rng(1)
        labels, found = rng.integers(0, 4, (2, 2, 20, 20), np.uint32)
        with layout.create(tmp_path / "volume.h5", {}) as file:
            layout.add(file, layout.RAW, (1, 2, 20, 20), np.uint8)
            layout.add(file, layout.LABELS, (2, 20, 20))[:] = labels
            layout.add(file, layout.IGNORE, (2, 20, 20))[annotated:] = 1
            box_writer(file, ["cell"])
        for name in ("found.h5", "labels.h5"):
            with layout.create(tmp_path / name, {}) as file:
                layout.add(file, layout.LABELS, (2, 20, 20))[:] = found
                create_arrays(file, ["background", "cell"], ["cell"])
        write_json(tmp_path / "score.json", {"threshold": 0.5})
        files = [tmp_path / name for name in ("volume.h5", "found.h5", "score.json", "s.csv", "z.csv")]
        names = {"volume": "v", "split": "test", "network": "ssd"}
        evaluate_detections(*files, segmentation=tmp_path / "labels.h5", **names)
        scores, sections = (pd.read_csv(path).set_index("metric").value for path in files[3:])
        own = [*metrics.INSTANCE_METRICS, *metrics.CELL_COUNTS]
        if not annotated:
            assert not {*own} & {*scores.index, *sections.index}
            return
        expected = metrics.instance_scores(labels[:1], found[:1])
        for table in (scores, sections):
            assert table[own].to_dict() == pytest.approx({name: expected[name] for name in own})


class TestValidation:
    def outputs(self, rng, change=None):
        for part in tiles((60, 60), PLAN.geometry.smallest + PLAN.geometry.stride, PLAN.geometry):
            size = [-(-(span.stop - span.start) // PLAN.reduction) for span in part.write]
            values = rng.normal(0, 2, (PLAN.boxes_per_cell, 6, *size)).astype(np.float32)
            if change is not None:
                own = matching.grid(PLAN.default_boxes, PLAN.reduction, *(range(k) for k in size))
                centres = matching.centres_of(own.reshape(-1, 4)) + [span.start for span in part.write]
                values = change(values, centres.reshape(*own.shape[:-1], 2))
            yield part, Output(torch.from_numpy(values), PLAN)

    def test_what_is_found_at_ignored_pixels_has_no_loss(self):
        ignore = np.zeros((1, 60, 60), np.uint8)
        ignore[0, :, 30:] = 1
        boxes = random_boxes(np.random.default_rng(3), 15, (60, 28)).clip(0, [60, 28, 60, 28])
        truth, task = truth_of(boxes, ignore), tasks.load("detection")

        def changed(side):
            def change(values, centres):
                other = np.random.default_rng(9).normal(0, 2, values.shape).astype(np.float32)
                return np.where(((centres[..., 1] >= 30) == side)[:, None], other, values)

            return self.outputs(np.random.default_rng(0), change)

        plain = task.validate(truth, 0, self.outputs(np.random.default_rng(0)))
        assert task.validate(truth, 0, changed(True)).losses == plain.losses
        assert task.validate(truth, 0, changed(False)).losses != plain.losses
        assert sum(count for _, count in plain.losses) > 15

    def test_section_that_is_not_annotated(self):
        truth = truth_of([], np.ones((1, 60, 60), np.uint8))
        task = tasks.load("detection")
        found = task.validate(truth, 0, self.outputs(np.random.default_rng(0)))
        assert set(found.losses) == {(0.0, 0)}
        assert task.scores_of([found])["loss"] == 0
