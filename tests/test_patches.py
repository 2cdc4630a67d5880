import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from pipeline_lib.data.augment import Augmentation
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
        raw, (labels, border, place, _) = volumes[k].raw, vars(volumes[k].truth).values()
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
        layout.add(file, layout.WEIGHT_MAP, (1, 8, 8))
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
