"""Tests of the patch classifier and of its ways to classify every pixel."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_inference import image, probability, whole_image
from test_training import inputs, run, step_of  # noqa: F401 (a fixture)
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import bench_dense
from pipeline_lib import networks
from pipeline_lib.data.patches import Patch
from pipeline_lib.networks.cost import multiply_adds
from pipeline_lib.networks.patch_classifier import dense
from pipeline_lib.networks.patch_classifier.module import PatchClassifier
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.training.schedule import Settings
from pipeline_lib.training.step import TooLarge

N4 = {"channels": [3, 4, 4, 5], "fc_channels": [6]}  # in miniature
EVEN = {"channels": [3, 4], "kernel_sizes": [3], "fc_channels": [6, 4], "window": 22}
SETTINGS = [N4 | {"window": 63}, N4, EVEN, EVEN | {"convolutions": [2, 1], "window": 16}]


def network(**settings):
    torch.manual_seed(0)
    net = networks.plan("patch_classifier", **settings).build().eval()
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):  # 0 in a new network
            nn.init.normal_(parameter, std=0.1)
    return net


def patches(net, outputs=17, **kind):
    """Return random images with `outputs` x (`outputs` + 3) output pixels."""
    size = net.geometry.input_size(outputs)
    return torch.rand(2, net.plan.input_channels, size, size + 3, **kind)


def classify_every_window(net, x):
    """Apply the layers as those of a classifier, with `nn.Linear`, to the window around each pixel."""
    plan = net.plan
    layers = []
    for level in net.encoder.levels:
        for convolution in level:
            layers += [convolution, nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    layers += [nn.Flatten()]
    for convolution in [*net.fc, net.score]:
        linear = nn.Linear(convolution.weight[0].numel(), convolution.out_channels).to(x)
        linear.weight.data[:] = convolution.weight.flatten(1)
        linear.bias.data[:] = convolution.bias
        layers += [linear, nn.ReLU()]
    classifier = nn.Sequential(*layers[:-1])
    before, after = (plan.window - 1) // 2, plan.window // 2  # px to the left and to the right of the centre
    context = plan.geometry.context
    rows = []
    for y in range(context, x.shape[2] - context):
        columns = range(context, x.shape[3] - context)
        windows = [x[:, :, y - before : y + after + 1, c - before : c + after + 1] for c in columns]
        rows.append(torch.stack([classifier(window) for window in windows], dim=-1))
    return torch.stack(rows, dim=2)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@torch.inference_mode()
def test_all_ways_classify_every_pixel_from_the_window_around_it(settings, kind, tolerance):
    net = network(input_channels=2, classes=3, **settings).to(kind)
    x = patches(net, dtype=kind)
    expected = classify_every_window(net, x)
    assert expected.std(dim=(2, 3)).min() > 1e-3
    for way in (net, *(lambda x, f=f: f(net, x) for f in (dense.sliding_window, dense.shift_and_stitch))):
        torch.testing.assert_close(way(x), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("settings", SETTINGS)
def test_gradients_of_a_tile_are_the_mean_of_those_of_its_windows(settings):
    """Patch-wise training and training by larger tiles have the same gradient for the same pixels."""
    net = network(**settings).double()
    x = patches(net, 2, dtype=torch.float64)
    size = net.geometry.smallest

    def gradients(loss):
        return torch.autograd.grad(loss, [*net.parameters()])

    by_tile = gradients(net(x).square().mean())
    windows = [x[..., y : y + size, c : c + size] for y in range(2) for c in range(5)]
    one_by_one = [gradients(net(window).square().mean()) for window in windows]
    for found, *single in zip(by_tile, *one_by_one, strict=True):
        torch.testing.assert_close(found, sum(single) / len(single), rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [16, 24])
def test_gradients_in_bfloat16_are_those_in_float32(channels):
    """A kernel of oneDNN for dilated convolutions reads outside of images with 24 channels."""
    net = network(channels=[channels] * 3, kernel_sizes=[3], fc_channels=[channels], window=46).move_to("cpu")
    x = patches(net, 40).contiguous(memory_format=torch.channels_last)
    gradients = []
    for number_format in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", number_format, enabled=number_format is torch.bfloat16):
            loss = net(x).float().square().mean()
        gradients.append(torch.autograd.grad(loss, [*net.parameters()]))
    for exact, rounded in zip(*gradients, strict=True):
        assert (exact - rounded).norm() <= 0.1 * exact.norm()


@pytest.mark.parametrize("settings", [N4, EVEN])
def test_training_on_all_patches_of_an_image_is_training_on_the_image(settings):
    """One update by the training step with a weight map: 9 patches of one pixel, a tile of 3 x 3 pixels."""
    rng = torch.Generator().manual_seed(0)
    found = []
    for patch_wise in (True, False):
        net = network(**settings, dropout=0.0).double()
        size = net.geometry.smallest
        image = torch.rand(1, 1, size + 2, size + 2, generator=rng.manual_seed(0), dtype=torch.float64)
        weights = torch.rand(1, 1, 3, 3, generator=rng, dtype=torch.float64)
        truth = torch.cat([torch.randint(0, 2, (1, 1, 3, 3), generator=rng).double(), weights], 1)
        patches = [Patch(image, truth)]
        if patch_wise:
            patches = [
                Patch(image[..., y : y + size, x : x + size], truth[..., y : y + 1, x : x + 1])
                for y in range(3)
                for x in range(3)
            ]
        tile = patches[0].image.shape[-1]
        step = step_of(Settings(tile=tile, batch=len(patches), learning_rate=1.0, warm_up=0), net)
        before = [p.detach().clone() for p in net.parameters()]
        loss, _ = step(patches, 0)
        found.append([loss, *(p.detach() - start for p, start in zip(net.parameters(), before, strict=True))])
    for patch_wise, by_tile in zip(*found, strict=True):
        torch.testing.assert_close(patch_wise, by_tile, rtol=1e-6, atol=1e-12)
    assert max(update.abs().max() for update in found[0][1:]) > 1e-3


@pytest.mark.parametrize("settings", SETTINGS)
def test_an_object_of_one_pixel_changes_the_pixels_whose_window_has_it(settings):
    """All pixels of a window are used, and the centre of an even window is the pixel (window - 1) // 2."""
    net = network(**settings)
    for parameter in net.parameters():
        parameter.data.abs_()
    window, context = net.plan.window, net.geometry.context
    size = 2 * window
    x = torch.zeros(1, 1, size + 2 * context, size + 2 * context)
    row, column = window, window - 3
    x[..., context + row, context + column] = 1
    with torch.inference_mode():
        changed = ((net(x) - net(torch.zeros_like(x))).abs()[0, 0] > 1e-9).numpy()
    before, after = (window - 1) // 2, window // 2
    expected = np.zeros((size, size), bool)
    expected[row - after : row + before + 1, column - after : column + before + 1] = True
    np.testing.assert_array_equal(changed, expected)


@pytest.mark.parametrize("settings", [N4 | {"window": 63}, EVEN])
@torch.inference_mode()
def test_heat_map_is_exact_at_every_cell_and_bilinear_between(settings):
    net = network(**settings).double()
    x = patches(net, 37, dtype=torch.float64)
    found, exact, step = dense.heat_map(net, x), net(x), net.plan.output_stride
    assert found.shape == exact.shape
    np.testing.assert_allclose(found[..., ::step, ::step], exact[..., ::step, ::step], rtol=0, atol=1e-12)
    cells = exact[..., ::step, ::step]
    for k in range(step):
        between = cells[..., :-1] + (cells[..., 1:] - cells[..., :-1]) * k / step
        columns = found[..., ::step, k::step][..., : between.shape[-1]]
        np.testing.assert_allclose(columns, between, rtol=0, atol=1e-12)
    last = (exact.shape[-1] - 1) // step * step
    assert (found[..., last:] == found[..., last : last + 1]).all()


@pytest.mark.parametrize("settings", [N4 | {"window": 63}, EVEN])
@pytest.mark.parametrize("larger", [0, 1, 40])
def test_tiles_give_the_result_of_one_pass_over_the_mirrored_image(settings, larger):
    net, raw = network(**settings), image(9, 50)
    found = probability(net, raw, net.geometry.smallest + larger)
    np.testing.assert_allclose(found, whole_image(net, raw), atol=1e-5)


def test_default_network_is_that_of_the_paper():
    plan = networks.plan("patch_classifier")
    assert (plan.window, plan.fc_size, plan.geometry.context) == (95, 3, 47)
    convolutions = (16 + 1) * 48 + (25 * 48 + 1) * 48 + 2 * (16 * 48 + 1) * 48
    assert plan.parameters == convolutions + (9 * 48 + 1) * 200 + (200 + 1) * 2


@pytest.mark.parametrize(("window", "fc_size"), [(63, 1), (79, 2), (95, 3), (111, 4)])
def test_windows_that_use_every_pixel_are_valid(window, fc_size):
    assert networks.plan("patch_classifier", window=window).fc_size == fc_size


@pytest.mark.parametrize(
    ("window", "nearest"), [(65, "63 or 79"), (94, "79 or 95"), (96, "95 or 111"), (47, "63 or 79")]
)
def test_other_windows_are_rejected_with_the_nearest_valid_ones(window, nearest):
    with pytest.raises(
        InputError, match=rf"network\.window: a window of {window} px .*63, 79, 95.* {nearest}\."
    ):
        networks.plan("patch_classifier", window=window)


def test_dropout_is_drawn_in_training_only():
    net = network(**N4 | {"fc_channels": [64]}, dropout=0.9)
    for outputs in (1, 3):  # windows, dilated kernels
        x = patches(net, outputs)[..., : net.geometry.input_size(outputs)]
        state = torch.get_rng_state()
        assert torch.equal(net.eval()(x), net(x)) and torch.equal(torch.get_rng_state(), state)
        net.train()
        assert not torch.equal(net(x), net(x))
        net.dropout.p = 1.0
        assert torch.equal(net(x), net.score.bias.view(1, -1, 1, 1).expand(2, -1, outputs, outputs))
        net.dropout.p = 0.9


def test_multiply_adds_per_pixel_of_the_paper_s_network():
    """By hand: kernel size squared x input channels x output channels, at the positions of each way."""
    layers = [16 * 48, 25 * 48**2, 16 * 48**2, 16 * 48**2, 9 * 48 * 200 + 200 * 2]
    windows = [92, 42, 18, 6, 1]  # outputs of the layers along one axis of a window of 95 px
    coarse = [16, 8, 4, 2, 1]  # positions of the layers along one axis of a cell of 16 px
    plan = networks.plan("patch_classifier")
    found = {name: multiply_adds(plan, way) for name, way in bench_dense.WAYS.items()}
    assert found == {
        "sliding window": sum(cost * size**2 for cost, size in zip(layers, windows, strict=True)),
        "shift-and-stitch": sum(cost * size**2 for cost, size in zip(layers, coarse, strict=True)),
        "heat map": sum(cost * size**2 for cost, size in zip(layers, coarse, strict=True)) / 256,
        "dilated kernels": sum(layers),
    }
    millions = {way: round(count / 1e6, 3) for way, count in found.items()}
    assert (millions["dilated kernels"], round(millions["shift-and-stitch"], 1)) == (0.219, 4.7)
    assert round(found["sliding window"] / 1e6, 1) == 121.5
    assert round(found["sliding window"] / found["dilated kernels"]) == 555


def test_a_tile_of_one_window_costs_no_more_than_a_classifier():
    net = networks.plan("patch_classifier").build().to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.empty(1, 1, 95, 95, device="meta"))
    window = multiply_adds(net.plan, bench_dense.WAYS["sliding window"])
    assert counter.get_total_flops() == 2 * window


def test_a_trained_classifier_starts_an_fcn_by_name():
    """Only the upsampling of the FCN is new, and its coarse map is that of the classifier."""
    layers = {
        "channels": [3, 4, 5],
        "convolutions": [2, 1, 2],
        "kernel_sizes": [3],
        "fc_channels": [6, 4],
        "classes": 3,
    }
    classifier = network(**layers, window=48).double()
    fcn = networks.plan("fcn32s", **layers, fc_size=classifier.plan.fc_size).build().double().eval()
    missing, unexpected = fcn.load_state_dict(classifier.state_dict(), strict=False)
    assert unexpected == [] and missing == [name for name in fcn.state_dict() if name.startswith("enlarge")]
    size, step = 48 + 4 * 8, classifier.plan.output_stride
    x = torch.rand(1, 1, size, size + step, dtype=torch.float64)
    with torch.inference_mode():
        coarse = fcn.score_coarse(fcn.encoder(x)[-1])
        assert torch.equal(coarse, classifier.score_windows(x))
        # windows are even, so the network needs one more row and column, which no window contains
        pixels = classifier(nn.functional.pad(x, (1, 0, 1, 0)))
    torch.testing.assert_close(coarse, pixels[..., ::step, ::step], rtol=0, atol=1e-12)


def test_tiles_shrink_until_they_are_too_large_in_steps_of_one_pixel(monkeypatch):
    """A stride of 1 px allows tiles that cannot be made smaller on both sides."""
    net = network(**EVEN)

    def forward(x):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(net, "forward", forward)
    smallest = net.geometry.smallest
    for tile in (smallest, smallest + 1, smallest + 6):
        x = torch.zeros(1, 1, tile, tile)
        step = step_of(Settings(tile=tile, device="cpu", precision="float32", iterations=1), net)
        with pytest.raises(TooLarge):
            step([Patch(x, x)], 0)
        assert step.tile in (smallest, smallest + 1)


def test_patch_wise_training_validates_by_larger_tiles(inputs, tmp_path, monkeypatch):  # noqa: F811
    """Pixel by pixel, validation would take hundreds of times as long."""
    outputs = {True: [], False: []}  # by whether the network is trained

    def forward(self, x):
        logits = classify(self, x)
        outputs[self.training] += [tuple(logits.shape[2:])] * len(logits)
        return logits

    classify = PatchClassifier.forward
    monkeypatch.setattr(PatchClassifier, "forward", forward)
    settings = {"name": "patch_classifier", **EVEN}
    run(inputs, tmp_path, network=settings, tile=23, batch=2, iterations=1, validation_interval=1)
    assert outputs[True] == [(1, 1)] * 2
    pixels = 2 * 60 * 64
    assert sum(height * width for height, width in outputs[False]) >= pixels
    assert len(outputs[False]) < pixels / 50


@pytest.mark.parametrize(
    ("tile", "batch", "iterations"), [(23, 8, 60), (62, 1, 200)], ids=["patch-wise", "large tiles"]
)
@pytest.mark.slow
def test_both_ways_of_training_reduce_the_loss(inputs, tmp_path, tile, batch, iterations):  # noqa: F811
    layers = {"channels": [8, 16], "kernel_sizes": [3], "fc_channels": [32], "dropout": 0.0, "window": 22}
    run(
        inputs,
        tmp_path,
        network={"name": "patch_classifier", **layers},
        tile=tile,
        batch=batch,
        iterations=iterations,
        validation_interval=iterations // 2,
    )
    history = pd.read_csv(tmp_path / "history.csv")
    assert history.validation_loss.iloc[-1] < 0.6 * history.training_loss.iloc[0]
