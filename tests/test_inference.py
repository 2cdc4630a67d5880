import os
import platform
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline_lib import networks, tasks
from pipeline_lib.data.normalisation import measure
from pipeline_lib.inference import passes as inference
from pipeline_lib.kernels.blocks import BLOCK
from pipeline_lib.networks.unet import UPSAMPLING_LOSS, UNetPlan
from pipeline_lib.runtime.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")


def probability(network, raw, tile, average_orientations=False):
    result = np.full((2, *raw.shape[2:]), np.nan, np.float32)
    decode = partial(tasks.load("segmentation").decode, average_orientations=average_orientations)
    for part, p in inference.tile_outputs(
        network, raw, 0, measure("none", [raw]), tile, CPU, torch.float32, decode
    ):
        result[(slice(None), *part.write)] = p[(slice(None), *part.crop)].numpy()
    return result


def network(depth=2, **arguments):
    torch.manual_seed(0)
    return networks.plan("unet", depth=depth, base_channels=4, **arguments).build().eval()


def image(height, width):
    return np.random.default_rng(0).integers(0, 255, (1, 1, height, width), np.uint8)


def whole_image(net, raw):
    """Compute one forward pass over the mirrored image."""
    context, shape = net.geometry.context, raw.shape[2:]
    pad = [(context, net.geometry.input_size(size) - context - size) for size in shape]
    padded = np.pad(raw[:, 0] / np.float32(255), [(0, 0), *pad], mode="reflect")
    with torch.inference_mode():
        return net(torch.from_numpy(padded)[None]).softmax(1)[0, :, : shape[0], : shape[1]]


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 100), st.integers(1, 100)),
    st.integers(0, 12),
    st.sampled_from([1, 2]),
    st.sampled_from(sorted(UPSAMPLING_LOSS)),
)
@example((1, 1), 0, 2, "up_convolution")
@example((5, 130), 0, 2, "bilinear")
@example((25, 90), 0, 2, "max_unpooling")
def test_tiles_give_the_result_of_one_pass_over_the_mirrored_image(shape, larger, depth, upsampling):
    net, raw = network(depth, upsampling=upsampling), image(*shape)
    found = probability(net, raw, net.geometry.smallest + larger * net.geometry.stride)
    # rounding is mostly below 1e-6, but 1.2e-5 in a pixel of 25 x 90 px; a seam is above 1e-3
    np.testing.assert_allclose(found, whole_image(net, raw), atol=5e-5)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-6)


@pytest.mark.parametrize("upsampling", UPSAMPLING_LOSS)
def test_areas_of_one_gray_value_have_no_seams(upsampling):
    """There, rounding decides which pixel of a pooling square is the largest, in each tile differently."""
    torch.manual_seed(0)
    net = networks.plan("unet", depth=3, base_channels=8, upsampling=upsampling).build().eval()
    net.to(memory_format=torch.channels_last)
    raw = np.zeros((1, 1, 200, 260), np.uint8)
    raw[..., 40:90, 40:90] = image(50, 50)
    raw[..., 100:160, 120:200] = 200
    found = probability(net, raw, net.geometry.smallest + 3 * net.geometry.stride)
    np.testing.assert_allclose(found, whole_image(net, raw), atol=1e-5)


def test_averaging_orientations_is_the_mean_over_rotated_and_mirrored_images():
    """The section is a square with the size of one output tile, so rotating it rotates the tile."""
    net = network()
    size = net.geometry.output_size(net.geometry.input_size(32))
    raw = image(size, size)
    tile = net.geometry.input_size(size)
    oriented = []
    for k in range(8):
        source = np.rot90(raw[..., ::-1] if k >= 4 else raw, k % 4, (2, 3))
        p = np.rot90(probability(net, source, tile), -(k % 4), (1, 2))
        oriented.append(p[..., ::-1] if k >= 4 else p)
    np.testing.assert_allclose(probability(net, raw, tile, True), np.mean(oriented, axis=0), atol=1e-6)
    assert np.abs(oriented[0] - oriented[3]).max() > 1e-3


def test_averaging_orientations_leaves_no_seams_between_tiles():
    net, raw = network(), image(83, 61)
    small, large = (net.geometry.input_size(n) for n in (12, 200))
    np.testing.assert_allclose(
        probability(net, raw, small, True), probability(net, raw, large, True), atol=1e-5
    )


def test_auto_tile_is_valid_and_depends_on_the_memory_needed():
    for depth in (2, 3, 4):
        for channels in (1, 64, 700):
            plan = UNetPlan(depth=depth, base_channels=channels)
            plan.geometry.output_size(inference.choose_tile("auto", plan, CPU, torch.float32, 8))
    few, many = (
        inference.choose_tile("auto", UNetPlan(base_channels=channels), CPU, torch.float32, 8)
        for channels in (50, 2000)
    )
    assert few > many
    assert inference.choose_tile("auto", UNetPlan(base_channels=50), CPU, torch.bfloat16, 8) > 1.3 * few
    with pytest.raises(InputError, match="572"):
        inference.choose_tile(571, UNetPlan(), CPU, torch.float32, 8)


def test_auto_tile_is_limited_by_memory_gb_and_block():
    geometry = UNetPlan().geometry
    sides = [inference.choose_tile("auto", UNetPlan(), CPU, torch.float32, gb) for gb in (1, 2, 4, 8)]
    assert sides == sorted(set(sides))
    for side, gb in zip(sides, (1, 2, 4, 8), strict=True):  # measured: at most 1.6 resident bytes per byte
        assert side**2 * 10 * 64 * 4 * 1.6 + 450e6 <= gb * 1e9
    tile = inference.choose_tile("auto", UNetPlan(base_channels=1), CPU, torch.float32, 8)
    assert tile == geometry.input_size(BLOCK)
    with pytest.raises(
        InputError, match=r"`memory_gb`: 0\.5 GB is too small .*204 px\)\. Set it to 1 or more"
    ):
        inference.choose_tile("auto", UNetPlan(), CPU, torch.float32, 0.5)


def test_tile_that_is_too_large_for_the_memory_is_replaced_with_a_warning(caplog):
    assert inference.choose_tile(572, UNetPlan(), CPU, torch.float32, 8) == 572
    assert not caplog.messages
    smaller = inference.choose_tile(57200 + 12, UNetPlan(), CPU, torch.float32, 8)
    assert smaller == inference.choose_tile("auto", UNetPlan(), CPU, torch.float32, 8)
    assert re.fullmatch(
        r"a tile of 57212 px needs .* GB, but cpu has .* GB\. "
        rf"Using tiles of {smaller} px, with the same result\.",
        *caplog.messages,
    )


def test_memory_is_the_lowest_limit_of_machine_container_and_job(tmp_path):
    whole = inference._machine_memory(tmp_path)  # without these files, as on other systems
    assert whole == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    job = tmp_path / "sys/fs/cgroup/batch/job_1/step_0"
    job.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/elsewhere\n0::/batch/job_1/step_0\n")
    (job / "memory.max").write_text("max\n")
    assert inference._machine_memory(tmp_path) == whole
    (job.parent / "memory.max").write_text("3000\n")
    (job.parents[1] / "memory.max").write_text("5000\n")
    assert inference._machine_memory(tmp_path) == 3000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_kept_memory_is_not_cleared_again_by_the_kernel():
    """In a separate process, because the memory of this one may be fragmented."""
    code = (
        "import resource, torch; from pipeline_lib.inference import passes as inference\n"
        "inference.keep_memory()\n"
        "torch.ones(2**24)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "torch.ones(2**24 - 2**12)\n"  # 64 MB are 16,384 pages; slightly less, because of alignment
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(ended.stdout) < 1000


class SmallGpu(nn.Module):
    """A network on a simulated GPU with memory for `largest` px of input."""

    def __init__(self, network, largest):
        super().__init__()
        self.network, self.plan, self.largest = network, network.plan, largest
        self.geometry = network.geometry
        self.sizes = []

    def forward(self, x):
        self.sizes.append(x.shape[2] * x.shape[3])
        if self.sizes[-1] > self.largest:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return self.network(x)


@pytest.mark.parametrize("shape", [(300, 60), (150, 150)])
@pytest.mark.parametrize("upsampling", UPSAMPLING_LOSS)
def test_pass_that_runs_out_of_memory_is_split_with_the_same_result(shape, upsampling, caplog):
    net, raw = network(upsampling=upsampling), image(*shape)
    smallest = net.geometry.smallest
    gpu = SmallGpu(net, 2 * smallest**2)
    found = probability(inference.SplitIfTooLarge(gpu), raw, net.geometry.input_size(100))
    np.testing.assert_allclose(found, whole_image(net, raw), atol=1e-5)
    failed = [pixels for pixels in gpu.sizes if pixels > gpu.largest]
    assert failed == sorted(failed, reverse=True) and len(failed) == len(set(failed))  # each size once
    assert len(caplog.messages) == len(failed) > 0
    assert caplog.messages[0].startswith("cpu: not enough memory for")
    assert caplog.messages[0].endswith("px. Processing them in halves, with the same result.")


def test_gpu_that_is_too_small_for_the_smallest_tile_is_reported():
    net = network()
    with pytest.raises(
        InputError, match=r"not enough memory for (\d+) x \1 px, the smallest .*`device: cpu`"
    ):
        probability(inference.SplitIfTooLarge(SmallGpu(net, 0)), image(90, 90), net.geometry.input_size(100))
