import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline_lib.data.augment import Augmentation, draw
from pipeline_lib.data.normalisation import measure
from pipeline_lib.data.patches import Patches, Volume
from pipeline_lib.inference.tiling import mirror
from pipeline_lib.networks.unet import UNetPlan
from pipeline_lib.tasks.segmentation.task import PixelTruth

CPU = torch.device("cpu")
GEOMETRY = UNetPlan(depth=1).geometry
TILE = GEOMETRY.input_size(20)
STILL = Augmentation(rotate=False, mirror=False, elastic_std=0, gain=0, offset=0, gamma=0, noise=0)


@pytest.fixture
def volumes():
    """Two volumes of different size. The weight of each pixel encodes its position."""
    rng = np.random.default_rng(0)
    made = []
    for k, shape in enumerate([(2, 30, 41), (1, 50, 33)]):
        labels = rng.integers(0, 3, shape).astype(np.uint32)
        place = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 10_000 * k
        made.append(
            Volume(
                rng.integers(0, 255, (1, *shape), np.uint8),
                PixelTruth(labels, (rng.random(shape) < 0.1).astype(np.uint8), place),
            )
        )
    return made


def patches(volumes, augmentation=STILL, seed=0):
    normalisation = measure("none", [volume.raw for volume in volumes])
    return Patches(volumes, normalisation, GEOMETRY.context, TILE, augmentation, seed)


def test_image_target_and_weights_show_the_same_place_mirrored_at_the_edges(volumes):
    source = patches(volumes)
    for iteration in range(30):
        image, truth = source.move(source.read(iteration), CPU)
        target, weights = truth[:, 0], truth[:, 1]
        k = int(weights.min() >= 10_000)
        raw, (labels, border, place, *_) = volumes[k].raw, vars(volumes[k].truth).values()
        inside = weights[0].numpy() - 10_000 * k
        z, y, x = np.unravel_index(inside.astype(int), labels.shape)
        assert (z == z[0, 0]).all()
        np.testing.assert_array_equal(target[0], (labels[z, y, x] > 0) & (border[z, y, x] == 0))
        c = GEOMETRY.context
        np.testing.assert_allclose(image[0, 0, c:-c, c:-c], raw[0, z, y, x] / 255.0, atol=1e-5)
        # the output is a window of the mirrored section
        section, cy, cx = int(z[0, 0]), y[TILE // 2 - c, TILE // 2 - c], x[TILE // 2 - c, TILE // 2 - c]
        rows, columns = (
            mirror(m - TILE // 2 + c, m + TILE // 2 - c, n)
            for m, n in ((cy, labels.shape[1]), (cx, labels.shape[2]))
        )
        np.testing.assert_array_equal(place[section][rows[:, None], columns], weights[0])


def test_patches_depend_only_on_seed_and_number(volumes):
    def run(seed, first):
        source = patches(volumes, Augmentation(elastic_std=2), seed)
        return [patch for (patch,) in source.batches(([i] for i in range(first, 7)), CPU)]

    whole, resumed, other = run(0, 0), run(0, 4), run(1, 0)
    assert len(whole) == 7
    for a, b in zip(whole[4:], resumed, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(whole[0][0], other[0][0])
    assert not torch.equal(whole[0][0], whole[1][0])


def test_batches_are_in_order_and_have_the_patches_of_their_numbers(volumes):
    source = patches(volumes)
    numbers = [[3, 1], [0, 2], [7, 4], [5, 6], [9, 8], [11, 10], [13, 12]]
    found = list(source.batches(iter(numbers), CPU))
    assert [len(batch) for batch in found] == [2] * 7
    for batch, wanted in zip(found, numbers, strict=True):
        for patch, number in zip(batch, wanted, strict=True):
            expected = source.move(source.read(number), CPU)
            assert all(torch.equal(a, b) for a, b in zip(patch, expected, strict=True))


def test_patches_are_prepared_on_one_core_and_the_training_keeps_its_threads(volumes, monkeypatch):
    source, seen = patches(volumes), []
    monkeypatch.setattr(source, "read", lambda number: seen.append(torch.get_num_threads()) or number)
    monkeypatch.setattr(source, "move", lambda region, device: region)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for _ in source.batches([[0], [1], [2]], CPU):
            assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as later:  # a thread that starts later
            assert later.submit(torch.get_num_threads).result() == torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1, 1]


def test_every_pixel_is_equally_likely_the_centre(volumes):
    source = patches(volumes)
    middle = TILE // 2 - GEOMETRY.context
    centres = np.array([source.move(source.read(i), CPU)[1][0, 1, middle, middle].item() for i in range(600)])
    sizes = [v.truth.labels.size for v in volumes]
    share = (centres < 10_000).mean()
    assert share == pytest.approx(sizes[0] / sum(sizes), abs=0.08)
    _, y, x = np.unravel_index(centres[centres < 10_000].astype(int), volumes[0].truth.shape)
    assert y.min() < 2 and y.max() > 27 and x.min() < 2 and x.max() > 38
    assert np.histogram(x, 4)[0].min() > 60


def ignoring(volume, ignore):
    """The volume with ignored pixels, whose weight is 0; that of all others is not."""
    truth = volume.truth
    weights = np.where(ignore, 0, truth.weight_map + 1).astype(np.float32)
    return volume._replace(truth=PixelTruth(truth.labels, truth.separation_border, weights, ignore))


def test_every_annotated_pixel_is_equally_likely_the_centre_and_no_other(volumes):
    rng = np.random.default_rng(0)
    ignores = [(rng.random(volume.truth.shape) < 0.5).astype(np.uint8) for volume in volumes]
    ignores[0][1], ignores[0][0, :, :20] = 1, 1
    source = patches([ignoring(*pair) for pair in zip(volumes, ignores, strict=True)])
    middle = TILE // 2 - GEOMETRY.context
    centres = np.array([source.move(source.read(i), CPU)[1][0, 1, middle, middle].item() for i in range(800)])
    assert (centres > 0).all()
    first, second = (np.count_nonzero(ignore == 0) for ignore in ignores)
    assert (centres <= 10_000).mean() == pytest.approx(first / (first + second), abs=0.05)
    z, _, x = np.unravel_index(centres[centres <= 10_000].astype(int) - 1, ignores[0].shape)
    assert not z.any() and np.histogram(x, 3, (20, 41))[0].min() > 40


def test_ignored_pixels_have_no_weight_in_any_patch(volumes):
    """Also in rotated and deformed patches, and where the image is mirrored at its edges."""
    ignores = [np.random.default_rng(1).random(volume.truth.shape) < 0.3 for volume in volumes]
    ignored = [ignoring(*pair) for pair in zip(volumes, ignores, strict=True)]
    source = patches(ignored, Augmentation(elastic_std=5))
    annotated = {weight for volume in ignored for weight in np.unique(volume.truth.weight_map)}
    for number in range(20):
        weights = source.move(source.read(number), CPU).truth[0, 1]
        assert set(weights.unique().tolist()) <= annotated
        assert 0.1 < (weights == 0).float().mean() < 0.5


def test_volumes_without_ignored_pixels_have_the_same_patches_as_ever(volumes):
    nothing = [
        volume._replace(truth=replace(volume.truth, ignore=np.zeros(volume.truth.shape, np.uint8)))
        for volume in volumes
    ]
    source, expected = patches(nothing, Augmentation()), patches(volumes, Augmentation())
    for number in range(5):
        one, other = source.move(source.read(number), CPU), expected.move(expected.read(number), CPU)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    rng = np.random.default_rng([0, 3])  # drawn in this order: transform, volume, pixel
    draw(Augmentation(), rng)
    volume = rng.choice(2, p=source.share)
    section, row, column = (int(rng.integers(size)) for size in volumes[volume].truth.shape)
    region = expected.read(3)
    raw = expected.normalisation.apply(
        volumes[volume].raw[:, section, row : row + 1, column : column + 1], np.arange(1), np.arange(1)
    )
    assert region.image[:, *region.centre].tolist() == raw[:, 0, 0].tolist()
    assert region.seed == int(rng.integers(2**62))


def test_as_many_files_are_opened_as_the_system_allows(tmp_path):
    """120 files: first with a limit of 50 that can be raised, then with a limit that cannot."""
    code = f"""
import resource
from contextlib import ExitStack
from pathlib import Path
from pipeline_lib import layout
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.data.patches import open_volumes
from pipeline_lib.tasks.segmentation.task import Task
datasets, weights = ([Path("{tmp_path}", f"{{kind}}{{k}}.h5") for k in range(60)] for kind in "dw")
for dataset, weight_map in zip(datasets, weights):
    with layout.create(dataset, {{}}) as file:
        layout.add(file, layout.RAW, (1, 1, 8, 8), "uint8")
        for array in (layout.LABELS, layout.SEPARATION_BORDER):
            layout.add(file, array, (1, 8, 8))
    with layout.create(weight_map, {{}}) as file:
        layout.add(file, layout.WEIGHT_MAP, (1, 8, 8)).attrs["w_c"] = 1.0, 1.0
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 400))
with ExitStack() as stack:
    volumes = open_volumes(stack, Task().open, datasets, weights)
    print(len(volumes), volumes[-1].truth.weight_map.shape)
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 90))
try:
    open_volumes(ExitStack(), Task().open, datasets, weights)
except InputError as error:
    print(error)
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    expected = r"60 \(1, 8, 8\)\ntraining: 120 files .* may open 90\. Type `ulimit -n \d+` and run .*\n"
    assert re.fullmatch(expected, output)


def test_gray_values_vary_according_to_the_settings(volumes):
    still, varied = patches(volumes), patches(volumes, Augmentation(**{**vars(STILL), "offset": 0.5}))
    for iteration in range(5):
        region = varied.read(iteration)
        expected = still.move(still.read(iteration), CPU)[0] + region.transform.offset
        torch.testing.assert_close(varied.move(region, CPU)[0], expected)
        assert region.transform.offset != 0


def test_only_bicubic_interpolation_goes_beyond_the_gray_values(volumes):
    """A bilinear mean lies between its four pixels; bicubic weights are partly negative."""
    black_and_white = [
        volume._replace(raw=np.where(volume.raw > 127, 255, 0).astype(np.uint8)) for volume in volumes
    ]
    found = {}
    for mode in (None, "bicubic", "bilinear"):
        source = patches(black_and_white, replace(STILL, rotate=True, interpolation=mode))
        values = torch.cat([source.move(source.read(number), CPU)[0] for number in range(10)])
        found[mode] = (values.min() < -0.01, values.max() > 1.01, values.std())
    assert found[None] == found["bicubic"] and all(found["bicubic"][:2])
    assert not any(found["bilinear"][:2])
    assert found["bilinear"][2] < found["bicubic"][2]  # it blurs


def test_the_centre_of_a_balanced_patch_is_the_pixel_that_was_drawn(volumes):
    """Also after an elastic deformation."""

    class Drawn:
        def draw(self, rng):
            return 0, (1, 12, 20)

    normalisation = measure("none", [volume.raw for volume in volumes])
    augmentation = replace(STILL, rotate=True, mirror=True, elastic_std=10)
    source = Patches(volumes, normalisation, GEOMETRY.context, TILE, augmentation, 0, Drawn())
    middle = TILE // 2 - GEOMETRY.context
    for number in range(20):
        truth = source.move(source.read(number), CPU).truth
        assert truth[0, 1, middle, middle] == volumes[0].truth.weight_map[1, 12, 20]
