"""Tests of detection: boxes of labels, matching, offsets, loss, patches, and the way back to boxes."""

import itertools
import json
import math
from contextlib import ExitStack

import h5py
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from roifile import roiread

from pipeline_lib import layout, networks, provenance, tasks
from pipeline_lib.data.boxes import objects_of
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.data.patches import Volume
from pipeline_lib.imageio.boxes import read_boxes
from pipeline_lib.inference.tiling import tiles
from pipeline_lib.kernels import blocks
from pipeline_lib.kernels.boxes import overlaps, suppress
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.stages.boxes import choose_boxes
from pipeline_lib.stages.dataset import build_dataset
from pipeline_lib.stages.detection import choose_score, detect, export_detections
from pipeline_lib.tasks.detection import matching
from pipeline_lib.tasks.detection.found import Found, create_arrays, joined, sections_of, suppressed
from pipeline_lib.tasks.detection.losses import FEWEST_NEGATIVES, multibox_loss
from pipeline_lib.tasks.detection.patches import BoxAugmentation
from pipeline_lib.tasks.detection.task import Output
from pipeline_lib.tasks.detection.truth import CUT, IGNORED, BoxTruth, box_writer

RNG = np.random.default_rng(0)
PLAN = networks.plan(
    "ssd", channels=[2, 3, 4, 4], convolutions=1, heads=3, sizes=[4, 8, 16], aspect_ratios=[1.0, 2.0]
)


def some_boxes(rng, count, size=60, largest=14):
    corners = rng.uniform(0, size - largest, (count, 2))
    return np.hstack([corners, corners + rng.uniform(3, largest, (count, 2))])


def truth_of(boxes, shape=(1, 60, 60), state=0, kind=1):
    count = len(boxes)
    return BoxTruth(
        shape,
        np.asarray(boxes, float),
        np.zeros(count, np.int64),
        np.full(count, kind, np.uint8),
        np.full(count, state, np.uint8),
        1,
    )


class TestBoxesOfLabels:
    @given(st.integers(0, 2**32 - 1), st.integers(1, 9))
    def test_boxes_contain_the_pixels_of_their_label(self, seed, band):
        rng = np.random.default_rng(seed)
        labels = (rng.integers(0, 5, (2, 7, 9)) * rng.integers(0, 2, (2, 7, 9))).astype(np.uint32)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("pipeline_lib.data.boxes.BAND", band * 9)
            found = objects_of(labels, 1)
        expected = [k for k in range(1, 5) if (labels[1] == k).any()]
        assert found.label.tolist() == expected
        for label, box, pixels, first in zip(*found, strict=True):
            y, x = np.nonzero(labels[1] == label)
            assert box.tolist() == [y.min(), x.min(), y.max() + 1, x.max() + 1]
            assert (pixels, first.tolist()) == (len(y), [y[0], x[0]])


def greedy(defaults, objects):
    """Match as the authors' program does, written as loops over all pairs."""
    iou = overlaps(defaults, objects)
    matched = np.full(len(defaults), -1)
    free_objects = {*range(len(objects))}
    while free_objects:
        pairs = [
            (iou[i, j], -i, -j) for i in np.flatnonzero(matched < 0) for j in free_objects if iou[i, j] > 1e-6
        ]
        if not pairs:
            break
        _, i, j = max(pairs)
        matched[-i] = -j
        free_objects.remove(-j)
    for i in np.flatnonzero(matched < 0):
        if len(objects) and iou[i].max() >= 0.5:
            matched[i] = int(iou[i].argmax())
    return matched


class TestMatching:
    def test_two_objects_with_the_same_best_default_box(self):
        defaults = np.array([[0.0, 0, 10, 10], [0, 8, 10, 18], [30, 30, 40, 40]])
        objects = np.array([[0.0, 0, 9, 10], [0, 1, 10, 11]])
        assert matching.match(defaults, objects).tolist() == [0, 1, -1]

    def test_object_that_overlaps_nothing_takes_no_default_box(self):
        defaults = np.array([[0.0, 0, 10, 10], [0, 8, 10, 18]])
        objects = np.array([[0.0, 0, 9, 10], [50, 50, 60, 60]])
        assert matching.match(defaults, objects).tolist() == [0, -1]

    def test_no_object(self):
        assert matching.match(np.array([[0.0, 0, 1, 1]]), np.empty((0, 4))).tolist() == [-1]

    @given(st.integers(0, 10**6), st.integers(0, 8))
    def test_matching_of_crowded_objects(self, seed, count):
        rng = np.random.default_rng(seed)
        defaults, objects = some_boxes(rng, 25, 24), some_boxes(rng, count, 24)
        assert matching.match(defaults, objects).tolist() == greedy(defaults, objects).tolist()

    def test_offsets_of_the_example(self):
        """Golden, there as (x, y): d = (10, 10, 30, 30), g = (12, 10, 32, 50) -> (1, 5, 0, 3.4657)."""
        found = matching.encode(np.array([[10.0, 12, 50, 32]]), np.array([[10.0, 10, 30, 30]]))
        np.testing.assert_allclose(found, [[5, 1, 3.4657, 0]], atol=1e-4)

    def test_decode_is_the_inverse(self):
        rng = np.random.default_rng(1)
        boxes, defaults = some_boxes(rng, 50), some_boxes(rng, 50)
        np.testing.assert_allclose(
            matching.decode(matching.encode(boxes, defaults), defaults), boxes, atol=1e-9
        )

    def test_decoded_sizes_are_bounded(self):
        found = matching.decode(np.array([[0, 0, 1e9, 1e9]]), np.array([[0.0, 0, 16, 16]]))
        assert found[0, 2] - found[0, 0] == pytest.approx(1000)

    @settings(max_examples=25)
    @given(st.integers(0, 10**6), st.integers(0, 12))
    def test_default_boxes_learn_the_same_in_all_patches(self, seed, count):
        """Apart from objects that crowd: there, who comes first can depend on default boxes far away."""
        rng = np.random.default_rng(seed)
        boxes, step = some_boxes(rng, count, 96), PLAN.reduction
        apart = [k for k in range(count) if not any(overlaps(boxes[[k]], boxes[[j]])[0, 0] for j in range(k))]
        boxes, kinds = boxes[apart], np.ones(len(apart), int)
        whole = matching.targets(PLAN.default_boxes, step, (12, 12), boxes, kinds)
        patch = matching.targets(PLAN.default_boxes, step, (4, 5), boxes - 2 * [3 * step, 4 * step], kinds)
        np.testing.assert_allclose(patch, whole[:, :, 3:7, 4:9], atol=1e-5)

    def test_ignored_objects_and_outside_of_the_section(self):
        boxes = np.array([[4.0, 4, 12, 12], [36, 36, 44, 44]])
        found = matching.targets(
            PLAN.default_boxes, 8, (8, 8), boxes, np.array([1, -1]), ((0.0, 60.0), (0.0, 40.0))
        )
        centres = matching.grid(PLAN.default_boxes, 8, range(8), range(8)).reshape(*found.shape[1:], 4)
        y, x = (centres[..., k] / 2 + centres[..., k + 2] / 2 for k in (0, 1))
        assert (found[0][(y >= 60) | (x >= 40)] == -1).all()
        own = overlaps(centres.reshape(-1, 4), boxes).reshape(*found.shape[1:], 2)
        inside = (y < 60) & (x < 40)
        assert (found[0][inside & (own[..., 1] >= 0.5)] == -1).all()
        assert (found[0][inside & (own[..., 0] >= 0.5)] == 1).all()
        assert (found[0][inside & (own.max(-1) < 0.3)] == 0).all()


class TestLoss:
    def test_negatives_that_run_out_count_once(self):
        """Golden: 4 default boxes, 2 with an object: 4 ln 2 in all, not 6."""
        classes = torch.tensor([[1, 0, 0, 1]])
        loss = multibox_loss(torch.zeros(1, 2, 4), torch.zeros(1, 4, 4), classes, torch.zeros(1, 4, 4))
        assert float(loss) == pytest.approx(4 * math.log(2))

    def test_definition(self):
        """Brute force: all positives, and in each patch the worst negatives, three for each positive."""
        torch.manual_seed(0)
        logits, offsets = torch.randn(2, 3, 200), torch.randn(2, 4, 200)
        classes = torch.randint(-1, 3, (2, 200)) * (torch.rand(2, 200) < 0.15)
        classes[1, classes[1] > 0] = 0  # no object
        targets = torch.randn(2, 4, 200)
        expected = 0.0
        for patch in range(2):
            energy = [
                -float(logits[patch, :, k].log_softmax(0)[max(int(classes[patch, k]), 0)]) for k in range(200)
            ]
            positive = [k for k in range(200) if classes[patch, k] > 0]
            negative = sorted((energy[k] for k in range(200) if classes[patch, k] == 0), reverse=True)
            expected += sum(energy[k] for k in positive)
            expected += sum(negative[: max(3 * len(positive), FEWEST_NEGATIVES)])
            for k in positive:
                difference = (offsets[patch, :, k] - targets[patch, :, k]).abs()
                expected += float(torch.where(difference < 1, difference**2 / 2, difference - 0.5).sum())
        assert float(multibox_loss(logits, offsets, classes, targets)) == pytest.approx(expected, rel=1e-5)

    def test_ignored_default_boxes_have_no_gradient(self):
        logits = torch.zeros(1, 2, 3, requires_grad=True)
        classes = torch.tensor([[1, -1, 0]])
        multibox_loss(logits, torch.zeros(1, 4, 3), classes, torch.zeros(1, 4, 3)).backward()
        assert logits.grad[0, :, 1].tolist() == [0, 0]
        assert (logits.grad[0, :, [0, 2]] != 0).all()

    def test_a_batch_is_divided_by_its_objects(self):
        """Not by the patches: one patch without objects changes only the sum."""
        task = tasks.load("detection")
        truth = torch.zeros(2, 5 * PLAN.boxes_per_cell, 1, 1)
        truth[0, :7] = 1
        assert (task.count(PLAN, truth), task.count(PLAN, truth[1:])) == (7, 0)


def perfect(plan, targets, margin=20.0):
    """Return the output of a network that is sure and right about what it should learn."""
    kinds, offsets = targets[0], targets[1:]
    logits = np.stack([kinds <= 0, kinds > 0]) * margin
    return Output(torch.from_numpy(np.concatenate([logits, offsets]).astype(np.float32).swapaxes(0, 1)), plan)


class TestOutput:
    @settings(max_examples=20)
    @given(st.integers(0, 10**6), st.integers(0, 4))
    def test_perfect_output_gives_the_objects_whatever_the_tiles(self, seed, larger):
        rng = np.random.default_rng(seed)
        boxes = some_boxes(rng, 12)
        boxes = boxes[[k for k in range(12) if overlaps(boxes[[k]], boxes[:k]).max(initial=0) < 0.3]]
        truth, task = truth_of(boxes), tasks.load("detection")
        geometry = PLAN.geometry
        parts = [*tiles((60, 60), geometry.smallest + larger * geometry.stride, geometry)]

        def outputs():
            for part in parts:
                origin = [span.start for span in part.write]
                size = tuple(-(-(span.stop - span.start) // PLAN.reduction) for span in part.write)
                kinds = np.ones(len(boxes), int)
                inside = tuple((0.0, 60.0 - start) for start in origin)
                found = matching.targets(
                    PLAN.default_boxes, PLAN.reduction, size, boxes - np.tile(origin, 2), kinds, inside
                )
                yield part, perfect(PLAN, found)

        found = task.validate(truth, 0, outputs())
        scores = task.scores_of([found])
        assert scores["box_ap"] == pytest.approx(1)
        assert scores["loss"] < 1e-4
        joined = np.concatenate([output.boxes(part).boxes for part, output in outputs()])
        assert len(np.unique(joined.round(3), axis=0)) == len(boxes)

    def test_boxes_of_other_tiles_are_not_repeated(self):
        """A default box whose centre lies beyond the section belongs to no tile."""
        geometry = PLAN.geometry
        kept = []
        for part in tiles((20, 20), geometry.smallest, geometry):
            size = geometry.output_size(geometry.smallest) // PLAN.reduction
            values = torch.zeros(PLAN.boxes_per_cell, 6, size, size)
            kept.append(Output(values, PLAN).boxes(part).boxes)
        boxes = np.concatenate(kept)
        every = matching.grid(PLAN.default_boxes, PLAN.reduction, range(3), range(3)).reshape(-1, 4)
        expected = every[((every[:, :2] + every[:, 2:]) / 2 < 20 - 1e-6).all(axis=1)]
        order = [np.lexsort(each.round(6).T) for each in (boxes, expected)]
        np.testing.assert_allclose(boxes[order[0]], expected[order[1]], atol=1e-6)


class TestPatches:
    @pytest.mark.parametrize("turned", [False, True])
    def test_pixels_of_a_patch_are_pixels_of_the_section(self, turned):
        """Nothing is interpolated if nothing is enlarged, not even by half a pixel."""
        plan = networks.plan("ssd", channels=[2, 2], convolutions=1, heads=1, sizes=[6], aspect_ratios=[1.0])
        raw = np.random.default_rng(0).integers(0, 2, (1, 1, 90, 80)).astype(np.uint8) * 200
        ones = np.ones((1, 1, 1), np.float32)
        patches = tasks.load("detection").patches(
            plan,
            [Volume(raw, truth_of([[20, 20, 26, 26]], raw.shape[1:]))],
            Normalisation("mean_std", "uint8", 0 * ones, ones),
            plan.geometry.context,
            plan.geometry.input_size(30),
            BoxAugmentation(rotate=turned, mirror=turned, gain=0, offset=0, gamma=0, noise=0),
            0,
        )
        for number in range(6):
            image, _ = patches.move(patches.read(number), torch.device("cpu"))
            assert np.abs(np.abs(image.numpy() - 100) - 100).max() < 1e-3

    @pytest.mark.parametrize("smallest", [1.0, 0.4])
    def test_boxes_follow_the_pixels(self, smallest):
        """Drawn rectangles are turned, mirrored and enlarged; their boxes are where patches are bright."""
        shape, plan = (
            (1, 200, 220),
            networks.plan(
                "ssd", channels=[2, 2, 2, 2], convolutions=1, heads=1, sizes=[20], aspect_ratios=[1.0]
            ),
        )
        rng = np.random.default_rng(0)
        raw = np.zeros((1, *shape), np.uint8)
        boxes = []
        for y, x in itertools.product(range(10, 190, 45), range(10, 210, 45)):
            height, width = rng.integers(10, 26, 2)
            raw[0, 0, y : y + height, x : x + width] = 200
            boxes.append([y, x, y + height, x + width])
        truth = truth_of(boxes, shape)
        ones = np.ones((1, 1, 1), np.float32)
        plain = BoxAugmentation(
            gain=0, offset=0, gamma=0, noise=0, interpolation="bilinear", smallest_window=smallest
        )
        context, tile = plan.geometry.context, plan.geometry.input_size(96)
        patches = tasks.load("detection").patches(
            plan,
            [Volume(raw, truth)],
            Normalisation("mean_std", "uint8", 0 * ones, ones),
            context,
            tile,
            plain,
            3,
        )
        seen = 0
        for number in range(25):
            image, targets = patches.move(patches.read(number), torch.device("cpu"))
            found = targets.reshape(5, -1, *targets.shape[2:]).numpy()
            default, row, column = np.nonzero(found[0] > 0)
            own = matching.grid(plan.default_boxes, plan.reduction, *(range(k) for k in found.shape[2:]))
            decoded = matching.decode(found[1:, default, row, column].T, own[default, row, column])
            bright = image[0, 0].numpy()
            for box in np.unique(decoded.round(3), axis=0):
                y0, x0, y1, x1 = np.rint(box + context).astype(int)
                if min(y0, x0) < 3 or max(y1, x1) > tile - 3:
                    continue
                seen += 1
                assert bright[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].min() > 150
                rim = bright[y0 - 3 : y1 + 3, x0 - 3 : x1 + 3].copy()
                rim[2:-2, 2:-2] = 0
                assert rim.max() < 60
        assert seen > 30

    def test_default_boxes_in_mirrored_pixels_learn_nothing(self):
        plan = networks.plan("ssd", channels=[2, 2], convolutions=1, heads=1, sizes=[6], aspect_ratios=[1.0])
        shape = (1, 20, 20)
        raw, ones = np.zeros((1, *shape), np.uint8), np.ones((1, 1, 1), np.float32)
        truth = truth_of([[2, 2, 8, 8]], shape)
        tile = plan.geometry.input_size(60)
        patches = tasks.load("detection").patches(
            plan,
            [Volume(raw, truth)],
            Normalisation("mean_std", "uint8", 0 * ones, ones),
            plan.geometry.context,
            tile,
            BoxAugmentation(),
            0,
        )
        for number in range(5):
            kinds = patches.read(number).truth[0]
            assert int((kinds >= 0).sum()) == 10 * 10  # default boxes with their centre in the section
            assert int((kinds > 0).sum()) >= 1


class TestStages:
    @pytest.fixture
    def labels(self):
        labels = np.zeros((2, 40, 50), np.uint32)
        labels[0, 0:8, 4:12] = 3
        labels[0, 20:30, 20:32] = 9
        labels[1, 10:12, 10:12] = 3
        return labels

    @staticmethod
    def build(folder, labels, **settings):
        tifffile.imwrite(folder / "images.tif", np.zeros(labels.shape, np.uint8))
        tifffile.imwrite(folder / "labels.tif", labels)
        path = folder / "volume.h5"
        build_dataset(folder / "images.tif", folder / "labels.tif", path, **settings)
        return path

    @pytest.fixture
    def dataset(self, tmp_path, labels):
        return self.build(tmp_path, labels, annotation_kind="instances", minimum_size=5)

    def test_boxes_of_a_volume(self, dataset):
        with h5py.File(dataset) as file:
            assert file["boxes"][:].tolist() == [[0, 4, 8, 12], [20, 20, 30, 32], [10, 10, 12, 12]]
            assert file["box_section"][:].tolist() == [0, 0, 1]
            assert file["box_state"][:].tolist() == [CUT, 0, IGNORED]
            assert layout.classes_of(file["box_class"]) == (["background", "cell"], ["cell"])

    def test_objects_at_the_four_edges_are_cut(self, tmp_path):
        boxes = np.array([[1, 1, 39, 49], [0, 1, 39, 49], [1, 0, 39, 49], [1, 1, 40, 49], [1, 1, 39, 50.0]])
        with layout.create(tmp_path / "volume.h5", {}) as file:
            layout.add(file, layout.RAW, (1, 1, 40, 50), np.uint8)
            append = box_writer(file, ["cell"])
            append(0, boxes, np.ones(5, np.uint8), np.zeros(5, bool))
            assert file["box_state"][:].tolist() == [0, CUT, CUT, CUT, CUT]

    @pytest.mark.parametrize("block", [7, 2048])
    def test_objects_have_the_class_of_their_pixels(self, tmp_path, labels, monkeypatch, block):
        monkeypatch.setattr("pipeline_lib.stages.dataset.BLOCK", block)
        kinds = np.array([0, 0, 0, 2, 0, 0, 0, 0, 0, 7])[labels]
        kinds[0, 20:30, 32:40] = 2  # touches an object of the other class
        path = self.build(
            tmp_path,
            kinds.astype(np.uint8),
            annotation_kind="classes",
            classes={"background": 0, "glia": 7, "neuron": 2},
            target="classes",
        )
        with h5py.File(path) as file:
            found = sorted(zip(file["boxes"][:].tolist(), file["box_class"][:], strict=True))
            names, _ = layout.classes_of(file["box_class"])
        assert [(box[:2], names[kind]) for box, kind in found] == [
            ([0, 4], "neuron"),
            ([10, 10], "neuron"),
            ([20, 20], "glia"),
            ([20, 32], "neuron"),
        ]

    def test_volume_without_objects(self, tmp_path, labels):
        path = self.build(tmp_path, 0 * labels, annotation_kind="instances")
        with ExitStack() as stack:
            volume = tasks.load("detection").open(stack, path, path, 1 << 20)
            assert volume.truth.boxes.shape == (0, 4)

    def test_sizes_are_quantiles_of_the_objects(self, dataset, tmp_path, caplog):
        network = {"name": "ssd", "channels": [2, 2, 2], "heads": 2, "sizes_per_level": 1}
        choose_boxes([dataset], tmp_path / "boxes.json", network=network)
        found = json.loads((tmp_path / "boxes.json").read_text())
        sizes = [8.0, 120**0.5]
        low, high = np.quantile(sizes, [0.05, 0.95])
        assert found["sizes"] == [round(low, 1), round(high, 1)]
        assert (found["objects"], found["covered"]) == (2, 1.0)

    def test_sizes_of_the_formula(self, dataset, tmp_path, caplog):
        """The two objects, of 8 x 8 and 10 x 12 px, are covered if the sizes fit, and not otherwise."""
        network = {"name": "ssd", "channels": [2, 2, 2], "heads": 2, "size_range": [8, 12]}
        choose_boxes([dataset], tmp_path / "boxes.json", network=network)
        found = json.loads((tmp_path / "boxes.json").read_text())
        assert (found["sizes"], found["covered"]) == ([8.0, 9.8, 12.0, 13.9], 1.0)
        assert "cover only" not in caplog.text
        choose_boxes([dataset], tmp_path / "boxes.json", network=network | {"size_range": [12, 60]})
        found = json.loads((tmp_path / "boxes.json").read_text())
        assert (found["sizes"], found["covered"]) == ([12.0, 26.8, 60.0, 80.5], 0.5)
        assert "Remove `network.size_range`, add ratios to" in caplog.text

    def test_uncovered_objects_are_named(self, dataset, tmp_path, caplog):
        network = {"name": "ssd", "channels": [2, 2], "heads": 1, "sizes": [50]}
        choose_boxes([dataset], tmp_path / "boxes.json", network=network)
        assert "cover only 0.0 % of the training objects" in caplog.text


@given(st.integers(0, 10**6))
def test_coverage_is_that_of_all_default_boxes(seed):
    rng = np.random.default_rng(seed)
    boxes = some_boxes(rng, 10, 64)
    grid = matching.grid(PLAN.default_boxes, PLAN.reduction, range(-3, 11), range(-3, 11)).reshape(-1, 4)
    expected = overlaps(boxes, grid).max(axis=1) >= 0.5
    assert matching.covered(PLAN.strides, PLAN.shapes, boxes).tolist() == expected.tolist()


class TestDetect:
    """From boxes of tiles in several files to detections."""

    @staticmethod
    def candidates(rng, count, shape):
        _, height, width = shape
        boxes = np.rint(some_boxes(rng, count, min(height, width)))
        return np.sort(rng.integers(shape[0], size=count)), boxes, rng.random(count).astype(np.float32)

    @pytest.mark.parametrize("jobs", [1, 2, 3])
    def test_parts_give_the_detections_of_the_whole(self, tmp_path, jobs):
        shape = (2, 300, 80)
        section, boxes, score = self.candidates(np.random.default_rng(4), 300, shape)
        boxes[:, [0, 2]] += 110  # around the border of two parts, at 128 px
        paths = []
        for number, part in enumerate(blocks.parts(shape, jobs)):
            centre = (boxes[:, 0] + boxes[:, 2]) / 2
            own = (part.rows.start <= centre) & (centre < part.rows.stop)
            own &= (part.sections.start <= section) & (section < part.sections.stop)
            paths.append(tmp_path / f"part{number}.h5")
            with layout.create(paths[-1], {}) as file:
                create_arrays(file, ["background", "cell"], ["cell"])
                for z in np.unique(section[own]):
                    here = own & (section == z)
                    moved = boxes[here] - np.array([part.rows.start, 0] * 2)
                    kinds = np.ones(np.count_nonzero(here), np.uint8)
                    Found(moved, kinds, score[here]).append_to(file, int(z) - part.sections.start)
        detect(paths, tmp_path / "found.h5", shape=shape, jobs=jobs)
        with h5py.File(tmp_path / "found.h5") as file:
            found = [(z, own) for z, own in sections_of(file, 2)]
        for z, own in found:
            here = section == z
            kept = suppress(boxes[here], score[here], 0.45, np.ones(np.count_nonzero(here), int))
            np.testing.assert_array_equal(own.boxes, boxes[here][kept])
            np.testing.assert_array_equal(own.score, score[here][kept])

    @pytest.mark.parametrize("best", [0, 4, 7])
    def test_the_best_box_of_a_section_can_begin_in_any_band(self, tmp_path, best):
        score = np.linspace(0.1, 0.5, 8, dtype=np.float32)
        score[best] = 0.9
        boxes = np.array([[y, 0.0, y + 5, 5] for y in range(0, 80, 10)])
        with layout.create(tmp_path / "part.h5", {}) as file:
            create_arrays(file, ["background", "cell"], ["cell"])
            Found(boxes, np.ones(8, np.uint8), score).append_to(file, 1)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("pipeline_lib.tasks.detection.found.BLOCK", 20)
            patched.setattr("pipeline_lib.tasks.detection.found.AT_ONCE", 3)
            detect([tmp_path / "part.h5"], tmp_path / "found.h5", shape=(2, 80, 5), one_per_section=True)
        with h5py.File(tmp_path / "found.h5") as file:
            (_, none), (_, own) = sections_of(file, 2)
        assert len(none.score) == 0
        np.testing.assert_array_equal(own.boxes, boxes[[best]])

    @given(st.integers(0, 10**6), st.integers(1, 40), st.booleans())
    def test_pieces_give_the_detections_of_the_whole(self, seed, size, near):
        rng = np.random.default_rng(seed)
        boxes = some_boxes(rng, 120, 80)
        boxes = boxes[np.argsort(boxes[:, 0])] if near else boxes
        score, kind = rng.integers(1, 9, 120) / 10, rng.integers(1, 3, 120).astype(np.uint8)
        every = Found(boxes, kind, score.astype(np.float32))
        pieces = [every.at(slice(k, k + size)) for k in range(0, 120, size)]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("pipeline_lib.tasks.detection.found.BLOCK", 16)
            found = joined([*suppressed(pieces, 70, 75)])
        cut = every.cut(70, 75)
        right = cut.at(suppress(cut.boxes, cut.score, 0.45, cut.kind))
        expected = right.at(np.argsort(right.boxes[:, 0] // 16, kind="stable"))
        for own, right in zip(found, expected, strict=True):
            np.testing.assert_array_equal(own, right)

    def test_threshold_and_table(self, tmp_path):
        truth = np.array([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]])
        with layout.create(tmp_path / "volume.h5", {}) as file:
            layout.add(file, layout.RAW, (1, 1, 60, 60), np.uint8)[:] = 0
            append = box_writer(file, ["cell"])
            append(0, truth, np.ones(3, np.uint8), np.zeros(3, bool))
        found = np.vstack([truth[:2], [[5, 40, 12, 50]], truth[2:]])
        with layout.create(tmp_path / "found.h5", {}) as file:
            create_arrays(file, ["background", "cell"], ["cell"])
            score = np.array([0.9, 0.8, 0.3, 0.1], np.float32)
            Found(found, np.ones(4, np.uint8), score).append_to(file, 0)
        paths = [[tmp_path / f"{name}.h5"] for name in ("volume", "found")]
        choose_score(*paths, tmp_path / "score.json")
        chosen = json.loads((tmp_path / "score.json").read_text())
        # F1 is 1/2, 4/5, 2/3 and 6/7
        assert (chosen["threshold"], chosen["value"]) == (np.float32(0.1), pytest.approx(6 / 7))
        choose_score(*paths, tmp_path / "count.json", criterion="count_error")
        assert json.loads((tmp_path / "count.json").read_text())["threshold"] == np.float32(0.3)
        with h5py.File(tmp_path / "found.h5", "a") as file:
            right = file["boxes"][:]
            file["boxes"][:] = right + 500
        with pytest.raises(InputError, match="no threshold is better than to keep no box at all"):
            choose_score(*paths, tmp_path / "none.json")
        with h5py.File(tmp_path / "found.h5", "a") as file:
            file["boxes"][:] = right
        names = ["table.csv", "counts.csv", "rois.zip", "cells.geojson", "coco.json"]
        outputs = [tmp_path / name for name in names]
        inputs = tmp_path / "found.h5", tmp_path / "count.json"
        assert export_detections(*inputs, *outputs, volume="a", shape=(2, 60, 60)) == 3
        rows = outputs[0].read_text().splitlines()
        assert len(rows) == 4
        assert rows[3].startswith("a,0,cell,40.0,5.0,50.0,12.0,0.3")
        # the second section has no objects
        assert outputs[1].read_text().splitlines()[1:] == ["a,0,cell,3", "a,1,cell,0"]
        assert [roi.xd for roi in roiread(outputs[2])] == found[:3, 1].tolist()
        features = json.loads(outputs[3].read_text())["features"]
        assert [each["geometry"]["coordinates"][0][0] for each in features] == found[:3, [1, 0]].tolist()
        read = read_boxes(outputs[4], ["a.tif"], (2, 60, 60)).sections
        assert [own.boxes.tolist() for own in read] == [found[:3].tolist(), []]
        np.testing.assert_array_equal(read[0].scores, score[:3])
        for path in outputs:
            record = provenance.find_record(path)
            assert record["stage"] == "export_detections"
            assert {*record["inputs"]} == {*map(str, inputs)}
        assert provenance.embedded_record(outputs[4])["stage"] == "export_detections"
