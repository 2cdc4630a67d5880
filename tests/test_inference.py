import numpy as np
import pytest
import torch

from pipeline_lib import inference
from pipeline_lib.errors import InputError
from pipeline_lib.networks.unet import UNet
from pipeline_lib.normalisation import measure
from pipeline_lib.tiling import UPSAMPLING_LOSS, mirror

CPU = torch.device("cpu")


def probability(network, raw, tile, average_orientations=False):
    result = np.full((2, *raw.shape[2:]), np.nan, np.float32)
    for part, p in inference.tile_probabilities(
        network, raw, 0, measure("none", [raw]), tile, CPU, torch.float32, average_orientations
    ):
        result[(slice(None), *part.write)] = p.numpy()
    return result


def network(depth=2, **arguments):
    torch.manual_seed(0)
    return UNet(depth=depth, base_channels=4, **arguments).eval()


def image(height, width):
    return np.random.default_rng(0).integers(0, 255, (1, 1, height, width), np.uint8)


@pytest.mark.parametrize("upsampling", UPSAMPLING_LOSS)
@pytest.mark.parametrize("shape", [(64, 64), (83, 61), (5, 130), (1, 1)])
def test_tiled_equals_whole_image(shape, upsampling):
    net, raw = network(upsampling=upsampling), image(*shape)
    small = net.geometry.input_size(net.geometry.stride + 8)
    whole = probability(net, raw, net.geometry.input_size(200))
    np.testing.assert_allclose(probability(net, raw, small), whole, atol=1e-5)
    np.testing.assert_allclose(whole.sum(0), 1, atol=1e-6)


def test_whole_image_is_one_forward_pass_of_the_mirrored_image():
    net, raw = network(), image(40, 30)
    context = net.geometry.context
    rows, columns = (mirror(-context, net.geometry.input_size(n) - context, n) for n in (40, 30))
    normalised = measure("none", [raw]).apply(raw[:, 0], np.arange(40), np.arange(30))
    with torch.inference_mode():
        expected = net(torch.from_numpy(normalised[:, rows[:, None], columns])[None]).softmax(1)[
            0, :, :40, :30
        ]
    np.testing.assert_allclose(probability(net, raw, net.geometry.input_size(60)), expected, atol=1e-6)


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
        geometry = network(depth).geometry
        for channels in (1, 64, 10**9):
            geometry.output_size(inference.choose_tile("auto", geometry, channels, CPU))
    few, many = (inference.choose_tile("auto", geometry, channels, CPU) for channels in (50, 3000))
    assert few > many
    with pytest.raises(InputError, match="572"):
        inference.choose_tile(571, geometry, 64, CPU)


def test_asking_for_a_gpu_that_is_not_there_says_what_to_do():
    if torch.cuda.is_available():
        assert inference.choose_device("cuda").type == "cuda"
    else:
        assert inference.choose_device("auto").type == "cpu"
        with pytest.raises(InputError, match="device: auto"):
            inference.choose_device("cuda")
