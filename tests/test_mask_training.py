"""Tests of a detector with masks: its layers, what masks learn in patches, their gradient, and windows."""

import itertools
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from pipeline_lib import layout, networks, tasks
from pipeline_lib.data.boxes import objects_of
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.data.patches import Volume
from pipeline_lib.inference import passes
from pipeline_lib.inference.passes import SplitIfTooLarge
from pipeline_lib.inference.tiling import tiles
from pipeline_lib.kernels.boxes import overlaps
from pipeline_lib.networks.model import Model
from pipeline_lib.networks.ssd.masks import roi_align
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.stages import masks as stage
from pipeline_lib.tasks.detection import masks, matching, patches
from pipeline_lib.tasks.detection.losses import multibox_loss
from pipeline_lib.tasks.detection.patches import BoxAugmentation
from pipeline_lib.tasks.detection.task import Output
from pipeline_lib.tasks.detection.truth import IGNORED, BoxTruth
from pipeline_lib.training.schedule import Settings
from pipeline_lib.training.step import Step
from tests.box_datasets import add_boxes

TASK = tasks.load("detection")
PLAIN = {"gain": 0, "offset": 0, "gamma": 0, "noise": 0, "interpolation": "bilinear"}
ONE = np.ones((1, 1, 1), np.float32)
NORMALISATION = Normalisation("mean_std", "uint8", 0 * ONE, ONE)
CPU = torch.device("cpu")


def plan_of(masks=True, **settings):
    defaults = {"channels": [3, 4, 4], "convolutions": 1, "heads": 2, "sizes": [8, 16], "masks": masks}
    return networks.plan("ssd", **defaults | settings)


def built(plan):
    torch.manual_seed(0)
    return plan.build()


def draw(shape, seed=0, sides=(9, 20)):
    """Labels of ellipses with a bite, which are different in each orientation, and numbers with gaps."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint32)
    step = sides[1] + 4
    for z, top, left in itertools.product(
        range(shape[0]), range(0, shape[1] - step, step), range(0, shape[2] - step, step)
    ):
        height, width = rng.integers(*sides, 2)
        y, x = (np.mgrid[:height, :width] + 0.5 - np.array([height, width])[:, None, None] / 2) * 2
        shape_of = (y / height) ** 2 + (x / width) ** 2 < 1
        shape_of[: height // 3, width // 2 :] = False
        labels[z, top + 2 : top + 2 + height, left + 2 : left + 2 + width][shape_of] = 3 * rng.integers(10**6)
    return labels


def truth_of(labels, kinds=None, state=0):
    """Return the truth of labels; `kinds` maps a label to its class."""
    found = [objects_of(labels, z) for z in range(len(labels))]
    boxes = np.concatenate([objects.boxes for objects in found])
    section = np.repeat(np.arange(len(found)), [len(objects.label) for objects in found])
    numbers = np.concatenate([objects.label for objects in found])
    kind = np.ones(len(boxes)) if kinds is None else [kinds(number) for number in numbers]
    states = np.full(len(boxes), state, np.uint8)
    return BoxTruth(
        labels.shape, boxes, section, np.asarray(kind, np.uint8), states, 2 if kinds else 1, labels=labels
    )


def patches_of(truth, plan, raw=None, output=96, seed=3, **augmentation):
    raw = (truth.labels > 0)[None].astype(np.uint8) * 200 if raw is None else raw
    return TASK.patches(
        plan,
        [Volume(raw, truth)],
        NORMALISATION,
        plan.geometry.context,
        plan.geometry.input_size(output),
        BoxAugmentation(**PLAIN | augmentation),
        seed,
    )


def objects_in(truth, plan):
    """Return what masks learn in a patch, as numpy arrays."""
    found = masks.MaskTruth.of(truth[:, 5 * plan.boxes_per_cell :], plan.reduction)
    return found._replace(**{name: value.numpy() for name, value in found._asdict().items()})


# layers


def test_masks_change_no_other_layer():
    for settings in ({}, {"scaled_norm": True, "batch_normalisation": True}):
        without, with_masks = (built(plan_of(masks=on, **settings)) for on in (False, True))
        own = with_masks.state_dict()
        assert {name for name in own if name not in without.state_dict()} == {
            name for name in own if name.startswith("mask_head.")
        }
        for name, tensor in without.state_dict().items():
            assert torch.equal(tensor, own[name])
        image = torch.randn(1, 1, 90, 90)
        torch.testing.assert_close(with_masks(image), without(image), rtol=0, atol=0)


@pytest.mark.parametrize("classes", [2, 4])
def test_parameters_of_the_mask_head_are_counted(classes):
    plan = plan_of(classes=classes, channels=[3, 5, 7, 4], heads=2)
    network = plan.build()
    assert plan.parameters == sum(p.numel() for p in network.parameters())
    logits = network.mask_head(torch.zeros(2, 7, 14, 14))  # as wide as the highest level with boxes
    assert logits.shape == (2, classes - 1, 28, 28)


@pytest.mark.parametrize("convolutions", [1, 2])
def test_features_are_at_their_place(convolutions):
    """With equal kernels, features of an image that is its own coordinate are coordinates."""
    plan = plan_of(channels=[1, 1, 1, 1], heads=2, convolutions=convolutions)
    network = plan.build().double()
    for level in network.levels:
        for layer in level:
            if hasattr(layer, "weight"):
                torch.nn.init.constant_(layer.weight, 1 / 9)
    size = plan.geometry.input_size(32)
    position = torch.arange(size, dtype=torch.float64) + 0.5
    image = position[:, None].expand(size, size)[None, None].clone()
    features = network.features(image)
    assert features.shape[2] * plan.strides[0] + 2 * plan.margin == size
    box = np.array([[20.0, 24, 48, 52]])
    rows = network.align(features, box, np.zeros(1, int))[0, 0, :, 0]
    # max-pooling takes the later of two rows, half a pixel of its level from the middle of both
    expected = 20 + 2 * (np.arange(14) + 0.5) + sum(2**level / 2 for level in range(2))
    np.testing.assert_allclose(rows.detach().numpy(), expected, atol=1e-9)


# patches


def test_masks_change_neither_images_nor_boxes_of_patches():
    truth = truth_of(draw((2, 150, 160)))
    one, other = (patches_of(truth, plan_of(masks=on), gain=0.2, noise=0.1) for on in (False, True))
    for number in range(6):
        without, with_masks = (each.move(each.read(number), CPU) for each in (one, other))
        assert torch.equal(without.image, with_masks.image)
        channels = without.truth.shape[1]
        assert torch.equal(without.truth, with_masks.truth[:, :channels])
        assert with_masks.truth.shape[1] == channels + masks.TRUTH


#: Its output can have an odd number of pixels. Then pixels of a patch are pixels of the section.
EXACT = plan_of(channels=[3], heads=1, sizes=[12])


@pytest.mark.parametrize("smallest", [1.0, 0.5])
def test_masks_of_patches_are_the_pixels_of_their_objects(smallest, monkeypatch):
    """From the labels of a section to a patch, its targets, and back to pixels."""
    monkeypatch.setattr(patches, "MOVED", 0.0)
    every = patches_of(truth_of(draw((2, 170, 190))), EXACT, output=97, smallest_window=smallest)
    context, ious = EXACT.geometry.context, []
    for number in range(30):
        image, learned = every.move(every.read(number), CPU)
        bright = image[0, 0, context:-context, context:-context].numpy() > 100
        found = objects_in(learned, EXACT)
        pasted = masks.paste(found.targets, found.boxes.astype(float), (slice(0, 97), slice(0, 97)))
        for box, (y, x, probability) in zip(found.boxes, pasted, strict=True):
            if box.min() >= 0 and box.max() <= 97:
                inside, expected = probability > 0.5, bright[y, x]
                ious.append((inside & expected).sum() / (inside | expected).sum())
    assert len(ious) > 100
    if smallest == 1:
        assert min(ious) == 1
    else:  # pixels of enlarged patches are interpolated
        assert min(ious) > 0.85 and np.mean(ious) > 0.96


def test_moved_edges_move_the_target():
    every, sides, compared = patches_of(truth_of(draw((1, 170, 190))), EXACT, output=97), [], 0
    for number in range(10):
        image, learned = every.move(every.read(number), CPU)
        bright = image[0, 0].numpy() > 100
        found = objects_in(learned, EXACT)
        around = found.boxes.astype(float) + EXACT.geometry.context
        expected = masks.mask_targets(bright.astype(int), around, np.ones(len(around), int))
        for box, own, target in zip(around, found.targets, expected, strict=True):
            if box.min() > 0 and box.max() < len(bright):
                compared += 1
                np.testing.assert_allclose(own, target, atol=1e-3)  # boxes are float32
        sides += (found.boxes[:, 2:] - found.boxes[:, :2]).ravel().tolist()
    assert compared > 40
    assert np.mean(np.abs(np.array(sides) - np.rint(sides)) > 0.01) > 0.9


@pytest.mark.parametrize("ignored", [False, True])
def test_one_object_of_each_pixel_learns_a_mask(ignored, monkeypatch):
    monkeypatch.setattr(patches, "MOVED", 0.0)
    plan = plan_of()
    labels = np.zeros((1, 60, 60), np.uint32)
    for number, (y, x) in enumerate(itertools.product(range(0, 60, 2), repeat=2)):
        labels[0, y, x] = number + 1  # four in each pixel of the output, which has 4 x 4 px
    truth = truth_of(labels)
    if ignored:  # three of the four
        truth.state[(truth.boxes[:, :2] % 4 > 0).any(axis=1)] = IGNORED
    every, drawn = patches_of(truth, plan, output=40, rotate=False, mirror=False), set()
    for number in range(12):
        found = objects_in(every.move(every.read(number), CPU).truth, plan)
        middle = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
        cells = [tuple(cell) for cell in (middle // plan.reduction).astype(int)]
        assert len(set(cells)) == len(cells) > 15
        drawn.add(len(set(map(tuple, (np.floor(middle) % plan.reduction).astype(int).tolist()))))
    assert max(drawn) == (1 if ignored else 4)  # any of them can be the one


def test_classes_of_masks_and_objects_that_learn_none():
    plan = plan_of(classes=3)
    labels = draw((1, 170, 190))
    truth = truth_of(labels, kinds=lambda number: 1 + number % 2)
    every = patches_of(truth, plan, raw=1 + labels[None].astype(np.int64) % 2 * (labels > 0))
    kinds = set()
    for number in range(5):
        image, learned = every.move(every.read(number), CPU)
        found = objects_in(learned, plan)
        for box, kind in zip(found.boxes, found.kinds, strict=True):
            y, x = ((box[:2] + box[2:]) / 2 + plan.geometry.context).astype(int)
            assert round(float(image[0, 0, y, x])) == kind
            kinds.add(int(kind))
    assert kinds == {1, 2}
    ignored = patches_of(truth_of(labels, state=IGNORED), plan)
    assert not len(objects_in(ignored.move(ignored.read(0), CPU).truth, plan).kinds)


def test_labels_of_objects_are_those_of_their_section(tmp_path):
    labels = draw((2, 90, 100))
    labels[0][labels[0] == objects_of(labels, 0).label[0]] = 0  # sections differ
    path = tmp_path / "volume.h5"
    with layout.create(path, {}) as file:
        layout.add(file, layout.LABELS, labels.shape)[:] = labels
        ignore = layout.add(file, layout.IGNORE, labels.shape)
        ignore[1, 26:48, 26:52] = 1  # contains a whole object, which has no box
        add_boxes(file, labels)
    with ExitStack() as stack:
        truth = TASK.open(stack, path, path, 1 << 20).truth
        assert len(truth.numbers(1)) == len(objects_of(labels, 1).label) - 1
        for z in (1, 0, 1):
            for number, (y0, x0, y1, x1) in zip(
                truth.numbers(z), truth.boxes[truth.rows(z)].astype(int), strict=True
            ):
                pixels = np.argwhere((labels[z] == number) & (truth.ignore[z] == 0))
                assert pixels.min(0).tolist() == [y0, x0]
                assert pixels.max(0).tolist() == [y1 - 1, x1 - 1]


@pytest.mark.parametrize("change", ["no labels", "other boxes"])
def test_boxes_without_pixels_are_refused(change):
    labels = draw((1, 90, 100))
    truth = truth_of(labels)
    if change == "no labels":
        truth = BoxTruth(truth.shape, truth.boxes, truth.section, truth.kind, truth.state, 1)
    else:
        truth.boxes[0] += 1
    every = patches_of(truth, plan_of(), raw=np.zeros((1, *labels.shape), np.uint8))
    with pytest.raises(InputError, match=r"network\.masks: found true, but some volumes .* boxes alone"):
        every.read(0)


# gradient and loss


def batch_of(plan, count=3, **settings):
    every = patches_of(truth_of(draw((1, 170, 190), **settings)), plan)
    moved = [every.move(every.read(number), CPU) for number in range(count)]
    return torch.cat([image for image, _ in moved]) / 200, torch.cat([truth for _, truth in moved])


def test_the_gradient_of_masks_reaches_the_head_and_the_encoder():
    plan = plan_of(channels=[3, 4, 4, 4], heads=2)
    network = built(plan)
    image, truth = batch_of(plan)
    output, logits = TASK.forward(network, image, truth)
    torch.testing.assert_close(output, network(image))
    TASK.loss((output.detach(), logits), truth).backward()
    reached = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert reached == {"levels", "mask_head"}
    for name, parameter in network.named_parameters():
        if name.startswith(("mask_head", "levels.0", "levels.1", "levels.2")) and name.endswith("weight"):
            assert parameter.grad.abs().max() > 0, name
    assert all(p.grad is None for p in network.levels[3].parameters())  # below the features


def test_loss_is_the_sum_of_both():
    plan = plan_of(classes=3)
    task = tasks.load("detection", ("background", "a", "b"), ("a", "b"))
    labels = draw((1, 170, 190))
    every = patches_of(truth_of(labels, kinds=lambda number: 1 + number % 2), plan)
    moved = [every.move(every.read(number), CPU) for number in range(3)]
    image, truth = torch.cat([m.image for m in moved]) / 200, torch.cat([m.truth for m in moved])
    network = built(plan)
    output, logits = task.forward(network, image, truth)
    total = task.loss((output, logits), truth).detach()

    a, n = plan.boxes_per_cell, len(image)
    values = output.reshape(n, a, 7, *output.shape[2:])
    learned = truth[:, : 5 * a].reshape(n, 5, a, *output.shape[2:])
    expected = float(
        multibox_loss(
            values.detach()[:, :, :3].transpose(1, 2),
            values.detach()[:, :, 3:].transpose(1, 2),
            learned[:, 0].long(),
            learned[:, 1:],
        )
    )
    found, first = objects_in(truth, plan), 0
    for patch in range(n):
        energies = []
        features = network.features(image[patch : patch + 1])
        for k in np.flatnonzero(found.image == patch):
            box = found.boxes[k][None].astype(float) + plan.geometry.context
            rois = roi_align(features, box, np.zeros(1, int), 14, plan.strides[0], plan.margin)
            own = network.mask_head(rois)[0, found.kinds[k] - 1].sigmoid().detach().numpy()
            target = found.targets[k]
            energies.append(-(target * np.log(own) + (1 - target) * np.log(1 - own)).mean())
        first += len(energies)
        expected += np.mean(energies) * int((learned[patch, 0] > 0).sum())
    assert first == len(found.kinds) > 20
    assert float(total) == pytest.approx(expected, rel=1e-4)
    # so patches may be processed in any groups, by any processes
    alone = [
        task.loss(task.forward(network, image[k : k + 1], truth[k : k + 1]), truth[k : k + 1])
        for k in range(n)
    ]
    assert float(sum(alone).detach()) == pytest.approx(float(total), rel=1e-5)
    assert task.count(plan, truth) == sum(task.count(plan, truth[k : k + 1]) for k in range(n))
    assert task.count(plan, truth) == int((learned[:, 0] > 0).sum())


def test_patches_without_objects_have_a_gradient_of_0():
    """Processes add up their gradients, so all of them need the same list of tensors."""
    plan = plan_of()
    network = built(plan)
    truth = truth_of(np.zeros((1, 150, 150), np.uint32))
    moved = patches_of(truth, plan).move(patches_of(truth, plan).read(0), CPU)
    TASK.loss(TASK.forward(network, *moved), moved.truth).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert not (name.startswith("mask_head") and parameter.grad.any())


def test_a_step_with_a_rim_keeps_boxes_in_their_place():
    plan = plan_of()
    network = built(plan)
    image, truth = batch_of(plan, 1)
    settings = Settings(iterations=1, tile=image.shape[2], batch=1, device="cpu", validation_interval=1)
    step = Step(network, torch.optim.SGD(network.parameters(), 0.0), TASK, settings, 0)
    whole = objects_in(truth, plan)
    _, logits = TASK.forward(network, image, truth)
    step.rim = rim = 2 * plan.reduction
    cut_image, cut_truth = step.without_rim(image), step.without_rim(truth, plan.reduction)
    cut = objects_in(cut_truth, plan)
    _, cut_logits = TASK.forward(network, cut_image, cut_truth)
    assert 0 < len(cut.kinds) < len(whole.kinds)
    compared = 0
    for box, own in zip(cut.boxes, cut_logits, strict=True):
        [k] = np.flatnonzero(np.abs(whole.boxes - (box + rim)).max(axis=1) < 1e-3)
        side = plan.geometry.output_size(step.tile)
        if box.min() > 0 and box.max() < side:  # else the features that are cut off are missing
            compared += 1
            torch.testing.assert_close(own, logits[k], rtol=1e-4, atol=1e-4)
    assert compared > 5


# memory

#: (width, boxes, precision) -> measured peak memory of the mask head in a training step, bytes for each box
MEASURED = {
    (64, 64, "float32"): 1275e3,
    (64, 200, "float32"): 1036e3,
    (64, 200, "bfloat16"): 668e3,
    (256, 64, "float32"): 4640e3,
    (256, 64, "bfloat16"): 2767e3,
}


@pytest.mark.parametrize("case", MEASURED)
def test_the_estimate_of_memory_contains_the_mask_head(case):
    width, _, precision = case
    plans = [networks.plan("ssd", channels=[16, 32, width, 64, 64], masks=on) for on in (False, True)]
    tile = plans[0].geometry.input_size(10 * 16)
    given = {"precision": precision, "on_gpu": False, "batch": 1, "volumes": 1, "pixels": 10**6}
    without, with_masks = (plan.training_memory(tile, **given).bytes for plan in plans)
    head = with_masks - without - 32 * (plans[1].parameters - plans[0].parameters)
    assert MEASURED[case] <= head / 100 <= 1.5 * MEASURED[case]
    assert plans[1].prediction_memory().bytes > plans[0].prediction_memory().bytes


# prediction


def test_a_mask_does_not_depend_on_other_boxes():
    torch.manual_seed(0)
    head = plan_of(channels=[4, 6, 6]).build().mask_head.eval()
    features, kinds = torch.randn(150, 6, 14, 14), np.ones(150, np.uint8)
    shapes = set()
    head.register_forward_pre_hook(lambda _, inputs: shapes.add(inputs[0].shape))
    with torch.inference_mode():
        every = masks.probabilities(head, features, kinds)
        assert shapes == {(64, 6, 14, 14)}  # other shapes can be rounded differently
        expected = head(features)[:, 0].sigmoid()
        np.testing.assert_allclose(every, expected, atol=0.5 / 256 + 1e-6)
        assert (every * 256 % 1 == 0).all()
        for some in ([3], [70, 2, 149], [*range(60, 130)]):
            np.testing.assert_array_equal(masks.probabilities(head, features[some], kinds[some]), every[some])


def test_masks_are_those_of_the_class():
    torch.manual_seed(0)
    head = plan_of(channels=[4, 6, 6], classes=4).build().mask_head.eval()
    features, kinds = torch.randn(9, 6, 14, 14), np.arange(9, dtype=np.uint8) % 3 + 1
    with torch.inference_mode():
        logits = head(features)
        found = masks.probabilities(head, features, kinds)
    expected = np.stack([logits[k, kind - 1].sigmoid().numpy() for k, kind in enumerate(kinds)])
    np.testing.assert_allclose(found, expected, atol=0.5 / 256 + 1e-6)


@pytest.mark.parametrize("sizes", [(640, 256), (24, 16), (64, 8)])
def test_windows_have_the_features_of_the_whole_section(sizes, monkeypatch):
    """Boxes at edges, larger than a window, of no size; whatever windows and pieces."""
    monkeypatch.setattr(stage, "PIECE", sizes[1])
    monkeypatch.setattr(stage, "CELL", sizes[0] - sizes[1])
    plan = plan_of(channels=[3, 4, 5, 5], heads=2)
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 200, (1, 2, 130, 150), dtype=np.uint8)
    trained = Model(plan, built(plan).eval(), Normalisation("mean_std", "uint8", 100 * ONE, 50 * ONE))
    corner = rng.uniform(0, 110, (70, 2))
    boxes = np.hstack([corner, corner + rng.uniform(0, 20, (70, 2))])
    boxes = np.vstack([boxes, [[0, 0, 130, 150], [0, 40, 90, 60], [125, 147, 130, 150], [7, 9, 7, 9]]])
    boxes = masks.rounded(boxes)
    sides = []
    trained.network.levels[0].register_forward_pre_hook(lambda _, inputs: sides.extend(inputs[0].shape[2:]))
    size = plan.geometry.input_size(256)
    first = -plan.margin - 4 * plan.strides[0]
    with torch.inference_mode():
        image = stage.passes.read(raw, 1, trained.normalisation, (first, first + size), (first, first + size))
        whole = trained.network.features(image[None])
        sides.clear()
        expected = trained.network.align(whole, boxes - first, np.zeros(len(boxes), int))
        found = torch.full_like(expected, torch.nan)
        for rows, features in stage._Window(trained, raw, CPU).features(1, boxes):
            assert found[rows].isnan().all()
            found[rows] = features
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert max(sides) <= max(sizes[0], sizes[0] - sizes[1] + 11) + 2 * plan.margin + 10 * plan.strides[0]


def test_no_box_needs_no_window():
    plan = plan_of()
    trained = Model(plan, built(plan).eval(), NORMALISATION)
    window = stage._Window(trained, np.zeros((1, 1, 50, 50), np.uint8), CPU)
    assert [*window.features(0, np.empty((0, 4)))] == []


# validation


@pytest.mark.parametrize("larger", [2, 6])
def test_validation_compares_masks_with_the_pixels_of_objects(larger):
    """A network that is right has an IoU of 1, whatever the tiles. Ignored objects do not count."""
    plan = plan_of(sizes=[10, 14])
    labels = draw((2, 100, 110))
    truth = truth_of(labels)
    truth.state[truth.rows(1)][::3] = IGNORED
    geometry = plan.geometry

    def outputs(wrong):
        for tile in tiles((100, 110), geometry.smallest + larger * geometry.stride, geometry):
            origin = np.tile([part.start for part in tile.write], 2)
            size = tuple(-(-(part.stop - part.start) // plan.reduction) for part in tile.write)
            kinds = np.ones(len(truth.boxes[truth.rows(1)]), int)
            found = matching.targets(
                plan.default_boxes, plan.reduction, size, truth.boxes[truth.rows(1)] - origin, kinds
            )
            logits = np.stack([found[0] <= 0, found[0] > 0]) * 20.0
            values = np.concatenate([logits, found[1:]]).astype(np.float32).swapaxes(0, 1)

            def predict(boxes, kinds, origin=origin):
                numbers = [
                    truth.numbers(1)[overlaps(truth.boxes[truth.rows(1)], box[None] + origin).argmax()]
                    for box in boxes
                ]
                shares = masks.mask_targets(labels[1], boxes + origin, np.array(numbers, int))
                return shares * (np.array(numbers) != wrong)[:, None, None]

            yield tile, Output(torch.from_numpy(values), plan, predict)

    counted = truth.state[truth.rows(1)] != IGNORED
    found = TASK.validate(truth, 1, outputs(wrong=-1))
    assert len(found.mask_ious) == np.count_nonzero(counted) > 5
    assert min(found.mask_ious) > 0.99
    one = truth.numbers(1)[np.flatnonzero(counted)[2]]
    other = TASK.validate(truth, 1, outputs(wrong=one))
    # the loss has the masks of objects whose centre is in the tile: one of them is wrong, in one tile
    (tile,) = np.flatnonzero(
        [right[0] != wrong[0] for right, wrong in zip(found.losses, other.losses, strict=True)]
    )
    box = truth.boxes[truth.rows(1)][truth.numbers(1) == one]
    (target,) = masks.mask_targets(labels[1], box, np.array([one]))
    (right, positive), (wrong, _) = found.losses[tile], other.losses[tile]
    shares = np.rint(target * 256) / 256
    nearly = [np.clip(own, 1 / 512, 1 - 1 / 512) for own in (shares, 0 * shares)]
    entropy = [-(target * np.log(p) + (1 - target) * np.log(1 - p)).mean() for p in nearly]
    times = positive * (entropy[1] - entropy[0]) / (wrong - right)  # objects in this tile
    assert times == pytest.approx(round(times), abs=0.01)
    assert 1 <= round(times) <= np.count_nonzero(counted)
    scores = TASK.scores_of([found, other])
    assert scores["mask_iou"] == pytest.approx(1 - 1 / (2 * np.count_nonzero(counted)), abs=0.005)
    assert scores.keys() == {*TASK.scores, "mask_iou"}
    plain = TASK.scores_of([found._replace(mask_ious=None)])
    assert plain.keys() == TASK.scores.keys()
    assert np.isnan(TASK.scores_of([found._replace(mask_ious=[])])["mask_iou"])


@pytest.mark.parametrize("wrapped", [False, True])
def test_decoded_tiles_predict_masks(wrapped):
    plan = plan_of(classes=3)
    network = built(plan).eval()
    image = torch.randn(1, plan.geometry.input_size(40), plan.geometry.input_size(48))
    net = SplitIfTooLarge(network) if wrapped else network
    boxes, kinds = np.array([[3.0, 4, 15, 20], [30, 30, 41, 50]]), np.array([2, 1], np.uint8)
    with torch.inference_mode():
        found = TASK.decode(net, image).masks(boxes, kinds)
        logits = network.with_masks(image[None], boxes + plan.geometry.context, np.zeros(2, int))[1]
        expected = np.stack([logits[0, 1].sigmoid(), logits[1, 0].sigmoid()])
        np.testing.assert_allclose(found, expected, atol=0.5 / 256 + 1e-6)
        with passes.autocast(CPU, torch.bfloat16):
            half = TASK.decode(net, image)
    # outside of the context of the prediction, too
    assert 0 < np.abs(half.masks(boxes, kinds) - expected).max() < 0.05
    without = TASK.decode(plan_of(masks=False).build().eval(), image)
    assert without.masks is None


# measurement of speed


def test_speed_is_measured_with_objects_and_masks():
    """A training on sections without objects would be faster than one on usual sections."""
    truth = tasks.load("detection", ("background", "a", "b"), ("a", "b")).example((2, 130, 200))
    assert len(truth.boxes) == 2 * 4 * 5
    assert (truth.boxes[:, 2:] - truth.boxes[:, :2]).max() == 24
    assert {*truth.kind} == {1, 2}
    assert len(truth.numbers(1)) == 20
    patches = patches_of(truth, plan_of(classes=3), raw=np.zeros((1, 2, 130, 200), np.uint8))
    learned = [
        objects_in(patches.move(patches.read(number), CPU).truth, plan_of(classes=3)) for number in range(4)
    ]
    assert all(len(objects.boxes) for objects in learned)
    assert max(objects.targets.max() for objects in learned) == 1
