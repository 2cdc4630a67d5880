"""Tests of masks in boxes, compared with plain loops and with other functions of torch."""

import math
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, grid_sample

from pipeline_lib.networks.ssd.masks import MaskHead, roi_align
from pipeline_lib.tasks.detection.masks import mask_loss, mask_targets, paste, resolve

DATA = Path(os.environ.get("BORDURE_DATA", Path(__file__).parents[2] / "shared/data"))
ONE = np.zeros(1, int)


def random_boxes(rng, count, low, high, largest):
    """Boxes of 1 px to `largest` px, with edges between `low` and `high`."""
    sides = rng.uniform(1, largest, (count, 2))
    corners = low + rng.random((count, 2)) * (high - low - sides)
    return np.hstack([corners, corners + sides])


# RoIAlign


def test_roi_align_has_the_golden_numbers():
    features = (8 * torch.arange(8.0)[:, None] + torch.arange(8.0))[None, None]
    found = roi_align(features, np.array([[1.0, 1, 5, 5]]), ONE, size=2)
    assert found.flatten().tolist() == [13.5, 15.5, 29.5, 31.5]  # not 18, 20, 34, 36, half a pixel further


def bilinear(values, y, x):
    """Interpolate a map at a position in units of its pixels; pixel centres are at whole numbers."""
    height, width = values.shape
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(int(y), height - 2), min(int(x), width - 2)
    down, right = y - top, x - left
    return (
        (1 - down) * (1 - right) * values[top, left]
        + (1 - down) * right * values[top, left + 1]
        + down * (1 - right) * values[top + 1, left]
        + down * right * values[top + 1, left + 1]
    )


def plain_roi_align(features, boxes, image_of_box, size, stride, offset):
    found = np.zeros((len(boxes), features.shape[1], size, size))
    for k, channel, i, j in np.ndindex(found.shape):
        y0, x0, y1, x1 = boxes[k]
        for a in (0.25, 0.75):
            for b in (0.25, 0.75):
                y = y0 + (i + a) * (y1 - y0) / size
                x = x0 + (j + b) * (x1 - x0) / size
                found[k, channel, i, j] += (
                    bilinear(
                        features[image_of_box[k], channel],
                        (y - offset) / stride - 0.5,
                        (x - offset) / stride - 0.5,
                    )
                    / 4
                )
    return found


def test_roi_align_equals_plain_loops():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3, 2, 9, 7))
    boxes = random_boxes(rng, 12, -8, 32, 30)  # the maps reach from -3 px to 33 px and 25 px
    images = rng.integers(3, size=12)
    found = roi_align(torch.from_numpy(features), boxes, images, size=3, stride=4, offset=-3)
    np.testing.assert_allclose(
        found.numpy(), plain_roi_align(features, boxes, images, 3, 4, -3), rtol=1e-12, atol=1e-12
    )


def test_roi_align_equals_grid_sample_and_average_pooling():
    rng = np.random.default_rng(1)
    features = torch.from_numpy(rng.normal(size=(1, 3, 12, 15)))
    boxes = random_boxes(rng, 20, -4, 30, 20)
    found = roi_align(features, boxes, np.zeros(20, int), size=5, stride=2, offset=1)
    for box, cells in zip(boxes, found, strict=True):
        points = (np.arange(10) + 0.5) / 10
        y, x = (
            2 * (box[axis] + points * (box[axis + 2] - box[axis]) - 1) / (2 * length) - 1
            for axis, length in ((0, 12), (1, 15))
        )
        grid = torch.from_numpy(np.stack(np.broadcast_arrays(x, y[:, None]), axis=-1))[None]
        expected = avg_pool2d(grid_sample(features, grid, padding_mode="border", align_corners=False), 2)[0]
        torch.testing.assert_close(cells, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("stride", "offset"), [(1, 0), (4, 0), (8, 23.5)])
def test_features_that_are_positions_give_the_centres_of_cells(stride, offset):
    centres = torch.from_numpy(offset + (np.arange(20) + 0.5) * stride)
    features = torch.stack(torch.meshgrid(centres, centres, indexing="ij"))[None]
    box = np.array([3.0, 5, 13, 9]) * stride + offset
    y, x = roi_align(features, box[None], ONE, size=4, stride=stride, offset=offset)[0].numpy()
    cells = (np.arange(4) + 0.5) / 4
    np.testing.assert_allclose(y, np.tile(box[0] + cells * (box[2] - box[0]), (4, 1)).T)
    np.testing.assert_allclose(x, np.tile(box[1] + cells * (box[3] - box[1]), (4, 1)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_features_of_a_box_have_the_same_bits_in_a_tile(layout):
    rng = np.random.default_rng(2)
    section = torch.from_numpy(rng.normal(size=(1, 5, 500, 600)).astype(np.float32))
    boxes = random_boxes(rng, 50, 1700, 1900, 60)
    whole = roi_align(section, boxes, np.zeros(50, int), stride=4)
    tile = section[:, :, 410:490, 420:481].contiguous(memory_format=layout)
    origin = np.array([1640, 1680])
    again = roi_align(tile, boxes - np.tile(origin, 2), np.zeros(50, int), stride=4)
    assert torch.equal(whole, again)


def test_gradient_of_roi_align():
    rng = np.random.default_rng(3)
    features = torch.from_numpy(rng.normal(size=(2, 2, 4, 5))).requires_grad_()
    boxes = random_boxes(rng, 4, -1, 6, 5)
    assert torch.autograd.gradcheck(
        lambda features: roi_align(features, boxes, np.array([0, 1, 1, 0]), 2), [features]
    )


def test_half_precision_features_are_averaged_in_float32():
    features = torch.randn(1, 2, 6, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    box = np.array([[0.3, 0.1, 4.9, 5]])
    assert torch.equal(roi_align(features, box, ONE), roi_align(features.float(), box, ONE))


# targets and pasting


def plain_targets(labels, box, label, size):
    """Add up the area that each pixel of the object shares with each cell."""
    y0, x0, y1, x1 = box
    height, width = (y1 - y0) / size, (x1 - x0) / size
    found = np.zeros((size, size))
    for i, j in np.ndindex(size, size):
        for y, x in np.argwhere(labels == label):
            rows = min(y + 1, y0 + (i + 1) * height) - max(y, y0 + i * height)
            columns = min(x + 1, x0 + (j + 1) * width) - max(x, x0 + j * width)
            found[i, j] += max(rows, 0) * max(columns, 0) / (height * width)
    return found


def test_targets_have_the_golden_numbers():
    labels = np.zeros((20, 30), np.uint16)
    labels[4:8, 7:15] = 5
    row = mask_targets(labels, np.array([[4.0, 5, 8, 17]]), np.array([5]), 4)[0, 0]
    # half a pixel off, the row would be 0.5 1 1 0.167
    np.testing.assert_allclose(row, [1 / 3, 1, 1, 1 / 3], rtol=1e-6)


def test_targets_are_shares_of_areas():
    rng = np.random.default_rng(4)
    labels = rng.integers(3, size=(12, 9)).astype(np.uint16)
    boxes = random_boxes(rng, 30, -5, 16, 14)  # some reach beyond the image, or are outside of it
    boxes[0] = [-5, 2, -2, 4]
    own = rng.integers(1, 3, size=30)
    found = mask_targets(labels, boxes, own, 4)
    for target, box, label in zip(found, boxes, own, strict=True):
        np.testing.assert_allclose(target, plain_targets(labels, box, label, 4), atol=1e-6)


def plain_pasting(mask, box, shape):
    """Probability of each pixel; NaN where its centre is not in the box."""
    y0, x0, y1, x1 = box
    framed = np.pad(mask, 1)
    found = np.full(shape, np.nan)
    for y, x in np.ndindex(shape):
        if y0 <= y + 0.5 < y1 and x0 <= x + 0.5 < x1:
            v = (y + 0.5 - y0) / (y1 - y0) * len(mask) - 0.5
            u = (x + 0.5 - x0) / (x1 - x0) * len(mask) - 0.5
            found[y, x] = bilinear(framed, v + 1, u + 1)
    return found


def test_pasting_equals_plain_loops():
    rng = np.random.default_rng(5)
    masks, boxes = rng.random((40, 6, 6)), random_boxes(rng, 40, -6, 22, 20)
    boxes[:10] = boxes[:10].round()
    boxes[10] = [3.1, 2, 3.4, 9]  # no centre of a pixel is in it
    boxes[11] = [3, 2, 3, 9]
    for (rows, columns, found), mask, box in zip(
        paste(masks, boxes, (slice(0, 14), slice(0, 17))), masks, boxes, strict=True
    ):
        pasted = np.full((14, 17), np.nan)
        pasted[rows, columns] = found
        np.testing.assert_allclose(pasted, plain_pasting(mask, box, (14, 17)), rtol=0, atol=1e-12)


def test_pasting_equals_grid_sample():
    rng = np.random.default_rng(6)
    masks, boxes = rng.random((10, 28, 28)), random_boxes(rng, 10, 0, 60, 59)
    for (rows, columns, found), mask, (y0, x0, y1, x1) in zip(
        paste(masks, boxes, (slice(0, 60), slice(0, 60))), masks, boxes, strict=True
    ):
        y = 2 * (np.arange(60)[rows] + 0.5 - y0) / (y1 - y0) - 1
        x = 2 * (np.arange(60)[columns] + 0.5 - x0) / (x1 - x0) - 1
        grid = torch.from_numpy(np.stack(np.broadcast_arrays(x, y[:, None]), axis=-1))[None]
        expected = grid_sample(torch.from_numpy(mask)[None, None], grid, align_corners=False)[0, 0]
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-12)


def test_pasting_gives_the_same_bits_in_any_window():
    rng = np.random.default_rng(7)
    masks, boxes = rng.random((50, 28, 28), np.float32), random_boxes(rng, 50, 0, 100, 90)
    whole = np.full((50, 100, 100), np.nan)
    for k, (rows, columns, found) in enumerate(paste(masks, boxes, (slice(0, 100),) * 2)):
        whole[k, rows, columns] = found
    part = np.full((50, 30, 60), np.nan)
    for k, (rows, columns, found) in enumerate(paste(masks, boxes, (slice(33, 63), slice(7, 67)))):
        part[k, rows, columns] = found
    np.testing.assert_array_equal(part, whole[:, 33:63, 7:67])


def round_trip(mask):
    """Return the IoU of a mask with what is left of it as a grid of cells."""
    y, x = np.nonzero(mask)
    boxes = np.array([[y.min(), x.min(), y.max() + 1, x.max() + 1]], float)
    window = slice(0, mask.shape[0]), slice(0, mask.shape[1])
    [(rows, columns, probability)] = paste(mask_targets(mask, boxes, np.array([1])), boxes, window)
    found = np.zeros(mask.shape, bool)
    found[rows, columns] = probability > 0.5
    return np.count_nonzero(found & (mask == 1)) / np.count_nonzero(found | (mask == 1))


def ellipse(rng, diameter, ratio):
    side = int(diameter) + 6
    y, x = np.mgrid[:side, :side] + 0.5 - side / 2 - rng.uniform(-0.5, 0.5, (2, 1, 1))
    angle = rng.uniform(0, math.pi)
    along = y * math.cos(angle) + x * math.sin(angle)
    across = x * math.cos(angle) - y * math.sin(angle)
    return (np.hypot(along, ratio * across) < diameter / 2).astype(int)


@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize(
    ("diameter", "least", "mean"),
    [(5, 1, 1), (8, 1, 1), (12, 1, 1), (20, 1, 1), (28, 1, 1), (40, 0.998, 0.9995), (100, 0.99, 0.995)],
)
def test_a_perfect_mask_survives(diameter, ratio, least, mean):
    rng = np.random.default_rng(diameter)
    found = [round_trip(ellipse(rng, diameter, ratio)) for _ in range(20)]
    assert min(found) >= least
    assert np.mean(found) >= mean


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real images in {DATA}; set BORDURE_DATA to test on them")
def test_masks_of_real_nuclei_survive():
    small, large = [], []
    for path in sorted((DATA / "nuclei/labels").glob("*.tif"))[::5]:
        labels = tifffile.imread(path)
        for label in np.unique(labels)[1:]:
            y, x = np.nonzero(labels == label)
            nucleus = labels[y.min() : y.max() + 1, x.min() : x.max() + 1] == label
            (small if max(nucleus.shape) <= 40 else large).append(round_trip(nucleus.astype(int)))
    assert len(small) > 400 and len(large) > 50
    assert np.mean(small) >= 0.9999 and min(small) >= 0.98
    assert np.mean(large) >= 0.998 and min(large) >= 0.98  # up to 121 px


# head and loss


def two_shapes():
    """Images with a disc (class 0) or a ring (class 1) at different places, and the boxes around them."""
    images, labels, boxes = [], [], []
    for k in range(16):
        rng = np.random.default_rng(k)
        radius = rng.uniform(6, 14)
        centre = rng.uniform(radius + 2, 38 - radius, 2)
        y, x = np.mgrid[:40, :40] + 0.5 - centre[:, None, None]
        distance = np.hypot(y, x)
        label = (distance < radius) & (distance >= k % 2 * radius / 2)
        y, x = np.nonzero(label)
        images.append(label + 0.3 * rng.normal(size=label.shape))
        labels.append(label.astype(int))
        boxes.append([y.min(), x.min(), y.max() + 1, x.max() + 1])
    return torch.from_numpy(np.array(images, np.float32))[:, None], labels, np.array(boxes, float)


def test_the_head_learns_the_masks_of_each_class():
    images, labels, boxes = two_shapes()
    truth = [
        mask_targets(label, box[None], np.ones(1, int))[0] for label, box in zip(labels, boxes, strict=True)
    ]
    targets, classes = torch.from_numpy(np.array(truth)), torch.arange(16) % 2
    torch.manual_seed(0)
    head = MaskHead(channels=1, classes=2, convolutions=2, width=8)
    features = roi_align(images, boxes, np.arange(16))
    optimiser = torch.optim.Adam(head.parameters(), 0.01)
    for _ in range(120):
        optimiser.zero_grad()
        mask_loss(head(features), targets, classes).backward()
        optimiser.step()
    masks = head(features).sigmoid().detach().numpy()[np.arange(16), classes]
    for mask, box, label in zip(masks, boxes, labels, strict=True):
        [(rows, columns, probability)] = paste(mask[None], box[None], (slice(0, 40), slice(0, 40)))
        found = np.zeros((40, 40), bool)
        found[rows, columns] = probability > 0.5
        assert np.count_nonzero(found & (label == 1)) > 0.85 * np.count_nonzero(found | (label == 1))


def test_boxes_do_not_influence_each_other():
    torch.manual_seed(0)
    head = MaskHead(channels=3, classes=2, width=4).double()
    x = torch.randn(4, 3, 14, 14, dtype=torch.double, requires_grad=True)
    [gradient] = torch.autograd.grad(head(x)[1].square().sum(), x)
    assert (gradient.flatten(1).abs().amax(1) > 0).tolist() == [False, True, False, False]
    torch.testing.assert_close(head(x)[2:3], head(x[2:3]))


def test_layers_of_the_head():
    torch.manual_seed(0)
    head = MaskHead(channels=3, classes=5, width=6)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    weights = iter(head.parameters())  # weight and bias of each layer
    x = torch.randn(2, 3, 14, 14)
    expected = x
    for _ in range(4):
        expected = conv2d(expected, next(weights), next(weights), padding=1).relu()
    expected = conv_transpose2d(expected, next(weights), next(weights), stride=2).relu()
    expected = conv2d(expected, next(weights), next(weights))
    assert [*weights] == []
    torch.testing.assert_close(head(x), expected)
    assert head(x).shape == (2, 5, 28, 28)


def test_loss_is_the_cross_entropy_of_the_true_class():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 2, 5, generator=generator, dtype=torch.double, requires_grad=True)
    targets = torch.rand(3, 2, 5, generator=generator, dtype=torch.double)
    classes = torch.tensor([3, 0, 3])
    expected = 0.0
    for k, y, x in np.ndindex(3, 2, 5):
        p = 1 / (1 + math.exp(-logits[k, classes[k], y, x].item()))
        t = targets[k, y, x].item()
        expected -= (t * math.log(p) + (1 - t) * math.log(1 - p)) / 30
    loss = mask_loss(logits, targets, classes)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    own = torch.zeros(3, 4, dtype=torch.bool)
    own[range(3), classes] = True
    assert torch.equal(logits.grad.flatten(2).abs().amax(2) > 0, own)
    assert torch.autograd.gradcheck(lambda logits: mask_loss(logits, targets, classes), [logits])


def test_half_precision_logits_are_summed_in_float32():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 28, 28, generator=generator).bfloat16()
    targets, classes = torch.rand(3, 28, 28, generator=generator), torch.tensor([1, 0, 1])
    assert mask_loss(logits, targets, classes) == mask_loss(logits.float(), targets, classes)


def test_without_boxes_the_loss_is_0():
    features = torch.randn(2, 3, 8, 8, requires_grad=True)
    head = MaskHead(channels=3, classes=2, width=4)
    targets = torch.from_numpy(mask_targets(np.zeros((8, 8), int), np.empty((0, 4)), np.empty(0, int)))
    loss = mask_loss(
        head(roi_align(features, np.empty((0, 4)), np.empty(0, int))), targets, torch.empty(0, dtype=int)
    )
    assert loss.item() == 0
    loss.backward()
    for tensor in (features, *head.parameters()):
        assert tensor.grad is None or not tensor.grad.any()


# instances


@st.composite
def some_instances(draw):
    """Draw a section with boxes with masks; some boxes or scores are equal."""
    seed, count = draw(st.integers(0, 10**6)), draw(st.integers(0, 12))
    rng = np.random.default_rng(seed)
    shape = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    boxes = random_boxes(rng, count, -4, 28, 14).round(draw(st.sampled_from([0, 1, 12])))
    boxes[count // 2 :: 2] = boxes[: len(boxes[count // 2 :: 2])]
    scores = rng.choice([0.5, 0.7, 0.9], count)
    # no two boxes are equal in all
    return shape, boxes, rng.random((count, 4, 4), np.float32), scores, np.arange(count)


def plain_owner(shape, boxes, masks, scores, classes):
    """Return the number of the box of each pixel, -1 where there is none."""
    best = sorted(range(len(boxes)), key=lambda k: (-scores[k], *boxes[k], classes[k]))
    owner = np.full(shape, -1)
    pasted = [plain_pasting(mask, box, shape) for mask, box in zip(masks, boxes, strict=True)]
    for y, x in np.ndindex(shape):
        owner[y, x] = next((k for k in best if pasted[k][y, x] > 0.5), -1)
    return owner


@given(some_instances(), st.integers(1, 9))
def test_pixels_belong_to_the_highest_score(example, block):
    shape = example[0]
    instances = resolve(*example, block=block)
    labels = instances.labels((slice(0, shape[0]), slice(0, shape[1])))
    assert labels.dtype == np.uint32
    owner = plain_owner(*example)
    np.testing.assert_array_equal(np.append(instances.row, -1)[labels.astype(int) - 1], owner)
    # 1..n by the first pixel, column by column
    assert [*dict.fromkeys(labels.T[labels.T > 0].tolist())] == [*range(1, len(instances.row) + 1)]
    assert instances.sizes.tolist() == [np.count_nonzero(owner == k) for k in instances.row]


@given(some_instances(), st.data())
def test_windows_are_parts_of_the_whole(example, data):
    height, width = example[0]
    whole = resolve(*example).labels((slice(0, height), slice(0, width)))
    instances = resolve(*example, block=data.draw(st.integers(1, 9)))
    cuts = [
        [0, *sorted(data.draw(st.sets(st.integers(1, max(size - 1, 1)), max_size=3)) - {size}), size]
        for size in (height, width)
    ]
    assembled = np.zeros_like(whole)
    for top, bottom in zip(cuts[0], cuts[0][1:], strict=False):
        for left, right in zip(cuts[1], cuts[1][1:], strict=False):
            window = slice(top, bottom), slice(left, right)
            assembled[window] = instances.labels(window)
    np.testing.assert_array_equal(assembled, whole)


@given(some_instances(), st.randoms(use_true_random=False))
def test_instances_do_not_depend_on_the_order(example, random):
    shape, *table = example
    order = np.array(random.sample(range(len(table[0])), len(table[0])), int)
    first, second = resolve(shape, *table), resolve(shape, *(column[order] for column in table))
    np.testing.assert_array_equal(order[second.row], first.row)
    window = slice(0, shape[0]), slice(0, shape[1])
    np.testing.assert_array_equal(first.labels(window), second.labels(window))


def test_boxes_without_a_pixel_are_no_instances():
    boxes = np.array([[0.0, 0, 4, 4], [1, 1, 3, 3], [0, 6, 4, 8], [9, 9, 12, 12], [0, 4, 4, 6]])
    masks = np.ones((5, 28, 28))
    masks[2] = 0.5  # not above 0.5
    instances = resolve((4, 8), boxes, masks, np.array([0.9, 0.8, 0.9, 0.9, 0.1]), np.zeros(5, int))
    assert instances.row.tolist() == [0, 4]  # covered, no mask, and outside of the section are left out
    assert instances.labels((slice(0, 4), slice(0, 8)))[0].tolist() == [1, 1, 1, 1, 2, 2, 0, 0]


def test_masks_are_read_from_a_file_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline_lib.tasks.detection.masks.CHUNK", 7)
    rng = np.random.default_rng(8)
    boxes, masks = random_boxes(rng, 100, 0, 90, 20), rng.random((100, 28, 28), np.float32)
    scores, window = rng.random(100), (slice(0, 90), slice(0, 90))
    expected = resolve((90, 90), boxes, masks, scores, np.zeros(100, int))
    with h5py.File(tmp_path / "masks.h5", "w") as file:
        file["masks"] = masks
        found = resolve((90, 90), boxes, file["masks"], scores, np.zeros(100, int), block=32)
        np.testing.assert_array_equal(found.labels(window), expected.labels(window))
    np.testing.assert_array_equal(found.row, expected.row)


def test_a_section_without_boxes_is_background():
    instances = resolve((3, 4), np.empty((0, 4)), np.empty((0, 28, 28)), np.empty(0), np.empty(0, int))
    assert not instances.labels((slice(1, 3), slice(0, 4))).any()
    assert len(instances.row) == 0
