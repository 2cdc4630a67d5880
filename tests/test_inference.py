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
    """One forward pass of the mirrored image."""
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
def test_tiled_is_one_forward_pass_of_the_mirrored_image(shape, larger, depth, upsampling):
    net, raw = network(depth, upsampling=upsampling), image(*shape)
    found = probability(net, raw, net.geometry.smallest + larger * net.geometry.stride)
    np.testing.assert_allclose(found, whole_image(net, raw), atol=1e-5)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-6)


def test_averaging_orientations_is_the_mean_over_turned_and_mirrored_images():
    """On a square whose size needs no extra rim, so that turning the image is turning the tile."""
    net = network()
    size = net.geometry.output_size(net.geometry.input_size(32))
    raw = image(size, size)
    tile = net.geometry.input_size(size)
    turned = []
    for k in range(8):
        source = np.rot90(raw[..., ::-1] if k >= 4 else raw, k % 4, (2, 3))
        p = np.rot90(probability(net, source, tile), -(k % 4), (1, 2))
        turned.append(p[..., ::-1] if k >= 4 else p)
    np.testing.assert_allclose(probability(net, raw, tile, True), np.mean(turned, axis=0), atol=1e-6)
    assert np.abs(turned[0] - turned[3]).max() > 1e-3


def test_averaging_orientations_is_tiled_without_seams():
    net, raw = network(), image(83, 61)
    small, large = (net.geometry.input_size(n) for n in (12, 200))
    np.testing.assert_allclose(
        probability(net, raw, small, True), probability(net, raw, large, True), atol=1e-5
    )


def test_auto_tile_fits_the_network_and_the_memory():
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


def test_auto_tile_keeps_below_memory_gb_and_does_not_grow_beyond_a_block():
    geometry = UNetPlan().geometry
    sides = [inference.choose_tile("auto", UNetPlan(), CPU, torch.float32, gb) for gb in (1, 2, 4, 8)]
    assert sides == sorted(set(sides))
    for side, gb in zip(sides, (1, 2, 4, 8), strict=True):  # measured: at most 1.6 bytes resident for each
        assert side**2 * 10 * 64 * 4 * 1.6 + 450e6 <= gb * 1e9
    tile = inference.choose_tile("auto", UNetPlan(base_channels=1), CPU, torch.float32, 8)
    assert tile == geometry.input_size(BLOCK)
    with pytest.raises(InputError, match=r"`memory_gb`: 0\.5 is too little .* 204 px\. Set it to 1"):
        inference.choose_tile("auto", UNetPlan(), CPU, torch.float32, 0.5)


def test_a_tile_that_the_memory_holds_is_taken_and_another_gives_way_with_a_line(caplog):
    assert inference.choose_tile(572, UNetPlan(), CPU, torch.float32, 8) == 572
    assert not caplog.messages
    smaller = inference.choose_tile(57200 + 12, UNetPlan(), CPU, torch.float32, 8)
    assert smaller == inference.choose_tile("auto", UNetPlan(), CPU, torch.float32, 8)
    assert re.fullmatch(
        rf"a tile of 57212 px takes .* GB, and cpu has .*: tiles of {smaller} px, with the same result",
        *caplog.messages,
    )


def test_the_least_memory_that_container_and_job_allow_counts(tmp_path):
    whole = inference._machine_memory(tmp_path)  # no such files: another system
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
    """In a process of its own: another's memory may be in pieces."""
    code = (
        "import resource, torch; from pipeline_lib.inference import passes as inference\n"
        "inference.keep_memory()\n"
        "torch.ones(2**24)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "torch.ones(2**24 - 2**12)\n"  # 64 MB are 16,384 pages; less, as alignment may take some
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(ended.stdout) < 1000


class SmallCard(nn.Module):
    """A network on a card whose memory holds `largest` px of input."""

    def __init__(self, network, largest):
        super().__init__()
        self.network, self.geometry, self.largest = network, network.geometry, largest
        self.asked = []

    def forward(self, x):
        self.asked.append(x.shape[2] * x.shape[3])
        if self.asked[-1] > self.largest:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return self.network(x)


@pytest.mark.parametrize("shape", [(300, 60), (150, 150)])
@pytest.mark.parametrize("upsampling", UPSAMPLING_LOSS)
def test_out_of_memory_a_pass_is_made_in_halves_with_the_same_result(shape, upsampling, caplog):
    net, raw = network(upsampling=upsampling), image(*shape)
    smallest = net.geometry.smallest
    card = SmallCard(net, 2 * smallest**2)
    found = probability(inference.InHalves(card), raw, net.geometry.input_size(100))
    np.testing.assert_allclose(found, whole_image(net, raw), atol=1e-5)
    failed = [pixels for pixels in card.asked if pixels > card.largest]
    assert failed == sorted(failed, reverse=True) and len(failed) == len(set(failed))  # each size once
    assert len(caplog.messages) == len(failed) > 0
    assert caplog.messages[0].startswith("cpu has no memory for")
    assert caplog.messages[0].endswith("px at a time: in halves, with the same result")


def test_a_card_too_small_for_any_pass_says_what_to_do():
    net = network()
    with pytest.raises(InputError, match=r"no memory for (\d+) x \1 px, the least .*`device: cpu`"):
        probability(inference.InHalves(SmallCard(net, 0)), image(90, 90), net.geometry.input_size(100))
