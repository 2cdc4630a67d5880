import math
import zipfile
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
from test_folding import draw_statistics
from torch import nn

from pipeline_lib import networks
from pipeline_lib.data.normalisation import measure
from pipeline_lib.kernels.blocks import ALIGNMENT
from pipeline_lib.networks.folding import fold
from pipeline_lib.networks.model import Model, read_tensors
from pipeline_lib.networks.module import UpConvolution, max_pool
from pipeline_lib.networks.unet import UPSAMPLING_LOSS, UNetPlan
from pipeline_lib.runtime.errors import InputError


def unet(**settings):
    return networks.plan("unet", **settings).build()


def convolutions(network):
    return [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]


def test_default_network_has_the_23_convolutions_and_31_million_parameters_of_the_paper():
    network = unet()
    assert len(convolutions(network)) == 23
    assert max(m.out_channels for m in convolutions(network)) == 1024
    # by hand: sum of (fan-in + 1) * channels over the layers in figure 1
    widths = [64, 128, 256, 512, 1024]
    down = sum((9 * a + 1) * b + (9 * b + 1) * b for a, b in zip([1, *widths], widths, strict=False))
    up = sum((4 * 2 * c + 1) * c + (9 * 2 * c + 1) * c + (9 * c + 1) * c for c in widths[:-1])
    assert sum(p.numel() for p in network.parameters()) == down + up + 64 * 2 + 2


@pytest.mark.parametrize("upsampling", UPSAMPLING_LOSS)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_output_has_the_size_that_the_geometry_states(upsampling, depth):
    network = unet(depth=depth, base_channels=2, upsampling=upsampling).eval()
    size = network.geometry.input_size(20)
    assert network(torch.zeros(1, 1, size, size + network.geometry.stride)).shape[2:] == (
        network.geometry.output_size(size),
        network.geometry.output_size(size) + network.geometry.stride,
    )


@pytest.mark.parametrize("upsampling", UPSAMPLING_LOSS)
def test_output_pixel_depends_on_its_context_only(upsampling):
    """Its gradient is the context on each side, up to the position of the pixel in a pooling square."""
    network = unet(depth=2, base_channels=8, upsampling=upsampling, dropout=0).double().eval()
    size, context, stride = network.geometry.input_size(24), network.geometry.context, network.geometry.stride
    image = torch.randn(1, 1, size, size, dtype=torch.double, requires_grad=True)
    pixel = (9, 12)
    network(image)[0, 0][pixel].backward()
    for used, position in zip(np.nonzero(image.grad[0, 0].numpy()), pixel, strict=True):
        assert abs(used.min() - position) < stride
        assert abs(used.max() - (position + 2 * context)) < stride


@pytest.mark.parametrize("upsampling", UPSAMPLING_LOSS)
def test_upsampling_does_not_shift_the_image(upsampling):
    """A network that copies its input, without skip connections, leaves the edge of a half plane in place."""
    network = unet(depth=1, base_channels=2, upsampling=upsampling, dropout=0).eval()
    for layer in convolutions(network):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        middle = tuple((k - 1) // 2 for k in layer.kernel_size)
        if isinstance(layer, nn.ConvTranspose2d):
            layer.weight.data[0, 0] = 1
        else:
            layer.weight.data[0, 0][middle] = 1
    network.merge[0][0].weight.data.zero_()
    # copies the first channel of the lower level, and no channel of the skip connection
    network.merge[0][0].weight.data[0, 2, 1, 1] = 1
    size = network.geometry.input_size(24)
    image = torch.zeros(1, 1, size, size)
    edge = network.geometry.context + 12
    image[..., edge:] = 1
    row = network(image)[0, 0, 10].detach().numpy()
    assert (row[:10] == 0).all() and (row[14:] == row[-1]).all() and row[-1] > 0


NAILS = [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]
# example of the lecture CS231n of Stanford University: the maxima are 5, 6, 7, 8
POOLED = [[1, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]]
UNPOOLED = [[0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]]


def tensor(rows):
    """Return rows as a (1, 1, y, x) Tensor of float64."""
    return torch.tensor(rows, dtype=torch.double)[None, None]


def upsampling_layer(kind, weight):
    """Return the layer of one channel that doubles the resolution, with these weights and without bias."""
    (layer,) = unet(depth=1, base_channels=1, upsampling=kind).double().up
    (convolution,) = convolutions(layer)
    convolution.weight.data = torch.as_tensor(weight, dtype=torch.double)
    nn.init.zeros_(convolution.bias)
    return layer.requires_grad_(False)


def test_bed_of_nails_puts_zeros_between_the_pixels():
    weight = torch.zeros(1, 1, 4, 4)
    weight[..., 1, 1] = 1  # the result begins 1 px after the first nail
    found = upsampling_layer("bed_of_nails", weight)(nn.functional.pad(tensor([[1, 2], [3, 4]]), [1] * 4))
    assert torch.equal(found[..., 1:5, 1:5], tensor(NAILS))


def test_bed_of_nails_equals_an_explicit_one_and_a_convolution():
    x, weight = torch.randn(1, 1, 7, 9, dtype=torch.double), torch.randn(1, 1, 4, 4, dtype=torch.double)
    nails = torch.zeros(1, 1, 14, 18, dtype=torch.double)
    nails[..., ::2, ::2] = x
    expected = nn.functional.conv2d(nn.functional.pad(nails, (1, 0, 1, 0)), weight.flip(2, 3))
    torch.testing.assert_close(upsampling_layer("bed_of_nails", weight)(x), expected)


def test_bed_of_nails_with_a_linear_kernel_interpolates_in_place():
    """Without a shift against the pixels of the skip connection, whose rim of 1 px is cut off."""
    kernel = torch.tensor([1, 3, 3, 1], dtype=torch.double) / 4
    layer = upsampling_layer("bed_of_nails", torch.outer(kernel, kernel)[None, None])
    assert layer(tensor([[0, 4, 8]] * 3))[0, 0].tolist() == [[1, 3, 5, 7]] * 4
    x = torch.randn(1, 1, 8, 11, dtype=torch.double)
    expected = nn.functional.interpolate(x, scale_factor=2, mode="bilinear")[..., 1:-1, 1:-1]
    torch.testing.assert_close(layer(x), expected)


def test_up_convolution_and_nearest_agree_where_their_kernels_are_ones():
    expected = tensor([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]])
    ones = upsampling_layer("up_convolution", torch.ones(1, 1, 2, 2))
    assert torch.equal(ones(tensor([[1, 2], [3, 4]])), expected)
    copies = upsampling_layer("nearest", [[[[1, 0], [0, 0]]]])
    assert torch.equal(copies(tensor([[1, 2], [3, 4]])), expected[..., 1:-1, 1:-1])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_training_step_computes_up_convolutions_as_1x1_convolutions(memory_format, monkeypatch):
    torch.manual_seed(0)
    layer = UpConvolution(6, 3).double().to(memory_format=memory_format)
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 6, 5, 4, dtype=torch.double).to(memory_format=memory_format).requires_grad_()
    expected = nn.functional.conv_transpose2d(x, layer.weight, layer.bias, stride=2)
    with torch.no_grad():
        assert torch.equal(layer(x), expected)
    monkeypatch.delattr(nn.functional, "conv_transpose2d")
    found = layer(x)
    torch.testing.assert_close(found, expected)
    factors, inputs = torch.randn_like(expected), (x, layer.weight, layer.bias)
    gradients = (torch.autograd.grad((result * factors).sum(), inputs) for result in (found, expected))
    for pair in zip(*gradients, strict=True):
        torch.testing.assert_close(*pair)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(1, 3, 8, 6), (2, 3, 6, 5), (2, 1, 7, 4), (1, 16, 2, 2)])
def test_pooling_and_its_gradient_are_those_of_torch(shape, memory_format):
    values = torch.randint(
        4, shape, generator=torch.Generator().manual_seed(0)
    ).bfloat16()  # with equal maxima
    results = []
    for pool in (max_pool, partial(nn.functional.max_pool2d, kernel_size=2)):
        x = values.to(memory_format=memory_format).requires_grad_()
        found = pool(2 * x)
        factors = torch.arange(1, found.numel() + 1).reshape(found.shape)
        results.append((found, *torch.autograd.grad((found * factors).sum(), x)))
        assert found.is_contiguous(memory_format=memory_format)
    assert all(map(torch.equal, *results))


def test_a_training_step_pools_pairs_of_rows(monkeypatch):
    """As images of a batch, which torch divides among the cores."""
    seen = []
    original = nn.functional.max_pool2d
    monkeypatch.setattr(
        nn.functional, "max_pool2d", lambda x, size: [seen.append(len(x)), original(x, size)][1]
    )
    image = torch.randn(1, 1, 188, 188).to(memory_format=torch.channels_last)
    net = unet(depth=2, base_channels=4).to(memory_format=torch.channels_last)
    net(image)
    assert seen == [92, 44]
    with torch.no_grad():
        net(image)
    assert seen[2:] == [1, 1]


@pytest.mark.parametrize("rim", [0, 2, 6])
def test_max_unpooling_gives_the_example_of_the_lecture(rim):
    """Also if the pooled map was larger, as that of the contracting path is."""
    pooled = nn.functional.pad(tensor(POOLED), [rim] * 4, value=9)
    found = upsampling_layer("max_unpooling", [[[[1]]]])(tensor([[1, 2], [3, 4]]), pooled)
    assert torch.equal(found, tensor(UNPOOLED))


def test_max_unpooling_equals_that_of_torch_with_indices_counted_again_after_cropping():
    """Without values close to the maximum: all differ by 1."""
    rng = torch.Generator().manual_seed(0)
    pooled = torch.randperm(20 * 28, generator=rng).reshape(1, 1, 20, 28).double()
    x = torch.randn(1, 1, 6, 10, dtype=torch.double, generator=rng)
    rim = 2  # pooled pixels on each side
    _, indices = nn.functional.max_pool2d(pooled, 2, return_indices=True)
    inner = indices[..., rim:-rim, rim:-rim]
    again = (inner // 28 - 2 * rim) * 20 + inner % 28 - 2 * rim
    expected = nn.functional.max_unpool2d(x, again, 2, output_size=(12, 20))
    assert torch.equal(upsampling_layer("max_unpooling", [[[[1]]]])(x, pooled), expected)


def test_equal_maxima_share_an_unpooled_value():
    layer = upsampling_layer("max_unpooling", [[[[1]]]])
    pooled = tensor([[0, 0, 3, 3, 1, 1.005], [0, 0, 3, 1, 0, 0]])
    found = layer(tensor([[8, 6, 3]]), pooled)
    torch.testing.assert_close(found, tensor([[2, 2, 2, 2, 1, 2], [2, 2, 2, 0, 0, 0]]))
    rounded = pooled + 1e-7 * torch.randn(2, 6, dtype=torch.double)
    torch.testing.assert_close(layer(tensor([[8, 6, 3]]), rounded), found, rtol=0, atol=1e-3)


def test_unpooled_values_have_a_gradient_and_their_places_have_none():
    layer = unet(depth=1, base_channels=1, upsampling="max_unpooling").double().up[0]
    x, pooled = (
        torch.randn(1, channels, size, size, dtype=torch.double, requires_grad=True)
        for channels, size in ((2, 2), (1, 4))
    )
    layer(x, pooled).sum().backward()
    # each value appears once in the result
    torch.testing.assert_close(x.grad, layer.halve.weight.detach().expand(1, 2, 2, 2))
    assert pooled.grad is None


@pytest.mark.parametrize("upsampling", ["up_convolution", "bed_of_nails"])
def test_initialisation_is_gaussian_with_variance_2_over_fan_in(upsampling):
    torch.manual_seed(0)
    network = unet(base_channels=16, upsampling=upsampling)
    for layer in convolutions(network):
        fan_in = layer.in_channels * {1: 1, 2: 1, 3: 9, 4: 4}[layer.kernel_size[0]]
        count = layer.weight.numel()
        std = math.sqrt(2 / fan_in)
        assert abs(layer.weight.std().item() / std - 1) < 5 / math.sqrt(2 * count)
        if count > 10_000:  # not truncated: a Gaussian reaches beyond 3 std
            assert layer.weight.abs().max() > 3 * std
        assert (layer.bias == 0).all()


def test_dropout_is_only_at_the_end_of_the_contracting_path():
    network = unet(depth=3, base_channels=4)
    network.dropout.p = 1.0
    seen = []
    for block in network.down:
        block.register_forward_hook(lambda _, inputs, __: seen.append(bool((inputs[0] == 0).all())))
    network(torch.rand(1, 1, 100, 100))
    assert seen == [False, False, False, True]  # the outputs of the third level and of the bottom are dropped


@pytest.fixture
def model():
    torch.manual_seed(1)
    arguments = {"input_channels": 1, "depth": 1, "base_channels": 3, "batch_normalisation": True}
    normalisation = measure("mean_std", [np.arange(60, dtype=np.uint8).reshape(1, 1, 6, 10)])
    plan = networks.plan("unet", **arguments)
    return Model(plan, plan.build(), normalisation, {"version": "9.9"})


def test_saved_model_is_loaded_unchanged(model, tmp_path):
    model.save(tmp_path / "model.pt")
    loaded = Model.load(tmp_path / "model.pt")
    image = torch.rand(1, 1, 36, 36)
    torch.testing.assert_close(loaded.network.eval()(image), model.network.eval()(image), rtol=0, atol=0)
    assert loaded.plan == model.plan
    assert loaded.normalisation.to_dict() == model.normalisation.to_dict()
    assert torch.load(tmp_path / "model.pt", weights_only=True)["context"] == model.network.geometry.context


def test_loading_a_model_draws_no_random_numbers(model, tmp_path):
    model.network.down[0][1].running_mean += torch.rand(3)
    model.save(tmp_path / "model.pt")
    before = torch.get_rng_state()
    loaded = Model.load(tmp_path / "model.pt").network
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    saved, found = model.network.state_dict(), loaded.state_dict()
    assert list(found) == list(saved)
    for name in saved:
        assert found[name].device.type == "cpu" and torch.equal(found[name], saved[name]), name


class Harmful:
    def __reduce__(self):
        return (print, ("code from the file ran",))


def test_model_file_cannot_run_code(tmp_path, capsys):
    torch.save({"format": "bordure-model", "x": Harmful()}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="not a readable model file"):
        Model.load(tmp_path / "model.pt")
    assert "ran" not in capsys.readouterr().out


def test_unusable_model_files_are_reported(model, tmp_path):
    path = tmp_path / "model.pt"
    with pytest.raises(InputError, match="no such model file"):
        Model.load(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="not a readable model file"):
        Model.load(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(InputError, match="not a bordure model"):
        Model.load(path)
    model.save(path)
    content = torch.load(path, weights_only=True)
    torch.save({**content, "format_version": 99}, path)
    with pytest.raises(InputError, match=r"version 99, expected 1\. Train the model again"):
        Model.load(path)
    torch.save({**content, "arguments": {**content["arguments"], "bass_channels": 4}}, path)
    with pytest.raises(InputError, match=r"model\.pt: network: .*bass_channels"):
        Model.load(path)
    torch.save({**content, "arguments": {**content["arguments"], "base_channels": 4}}, path)
    with pytest.raises(InputError, match="do not match its network"):
        Model.load(path)
    state = content["state_dict"]
    without = {name: state[name] for name in list(state)[1:]}
    for damaged in (without, {**state, "more": torch.zeros(1)}, {**state, "score.bias": "no tensor"}):
        torch.save({**content, "state_dict": damaged}, path)
        with pytest.raises(InputError, match=r"model\.pt: its parameters do not match its network"):
            Model.load(path)


def test_flipped_bit_is_detected_or_harmless(model, tmp_path):
    """Every 41st byte, and all bytes at the end. Undetected bits (time stamps, padding) change nothing."""
    path = tmp_path / "model.pt"
    model.save(path)
    written, state = path.read_bytes(), model.network.state_dict()
    contents = written.rindex(b"PK\1\2")  # last entry of the table of contents: the description
    rng = np.random.default_rng(0)
    detected = 0
    for position in [*range(0, len(written), 41), *range(contents, len(written))]:
        flipped = bytearray(written)
        flipped[position] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        try:
            found = Model.load(path)
        except InputError as error:
            assert str(error).startswith(f"{path}: ")
            detected += 1
        else:
            assert (found.plan, found.task, found.provenance) == (model.plan, model.task, model.provenance)
            assert found.normalisation.to_dict() == model.normalisation.to_dict()
            assert all(
                torch.equal(tensor, state[name]) for name, tensor in found.network.state_dict().items()
            )
    assert detected > 50


def test_tensor_marked_as_folder_is_rejected(model, tmp_path):
    """With this flipped bit, torch would leave the memory of the tensor uninitialised."""
    path = tmp_path / "model.pt"
    model.save(path)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\1\2", content.index(b"PK\1\2", content.index(b"PK\1\2") + 1) + 1)
    content[entry + 38] ^= 0x10  # external attributes of the third entry
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    with pytest.raises(InputError, match=r"model\.pt: not a readable model file \(.* folders"):
        Model.load(path)


def test_compressed_model_is_rejected(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))
    with pytest.raises(InputError, match=r"model\.pt: not a readable model file \(compressed"):
        Model.load(path)


def test_model_file_may_contain_more_values(model, tmp_path):
    other = {name: tensor + 1 for name, tensor in model.network.state_dict().items()}
    model.save(tmp_path / "model.pt", state_dict=other, more={"a": 1})
    found = Model.load(tmp_path / "model.pt").network.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in other.items())
    assert read_tensors(tmp_path / "model.pt")["more"] == {"a": 1}


def test_unknown_networks_and_settings_are_rejected():
    with pytest.raises(InputError, match=r"network\.name: found `fcn99`, expected one of .*ssd, unet"):
        networks.plan("fcn99")
    with pytest.raises(InputError, match=r"`bass_channels` is not a setting of `unet`\. Its settings are"):
        networks.plan("unet", bass_channels=3)
    with pytest.raises(InputError, match=r"network\.upsampling: found 'cubic', expected one of up_"):
        networks.plan("unet", upsampling="cubic")


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("depth", 0, "a whole number at least 1 and at most 7"),
        ("depth", 8, "a whole number at least 1 and at most 7"),
        ("depth", True, "a whole number"),
        ("depth", 2.0, "a whole number"),
        ("dropout", 1, "a number at least 0 and below 1"),
        ("dropout", math.nan, "a number"),
        ("batch_normalisation", 1, "true or false"),
    ],
)
def test_plan_rejects_settings_out_of_range(setting, value, expected):
    with pytest.raises(InputError, match=rf"network\.{setting}: found {value}, expected {expected}"):
        networks.plan("unet", **{setting: value})


@pytest.mark.parametrize("upsampling", UPSAMPLING_LOSS)
@pytest.mark.parametrize("batch_normalisation", [False, True])
def test_plan_counts_the_parameters(upsampling, batch_normalisation):
    plan = UNetPlan(
        input_channels=3,
        classes=5,
        depth=2,
        base_channels=6,
        upsampling=upsampling,
        batch_normalisation=batch_normalisation,
    )
    assert plan.parameters == sum(p.numel() for p in plan.build().parameters())


def test_invalid_tile_is_rejected_with_the_nearest_sizes():
    with pytest.raises(InputError, match=r"prediction\.tile: a tile of 571 px .* Use 556 or 572\."):
        networks.plan("unet").require_tile(571, "prediction.tile")
    networks.plan("unet").require_tile(572, "training.tile")


@pytest.mark.parametrize("name", networks.names())
class TestEveryNetwork:
    """Properties that the workflow, inference and training need, for small versions of all networks."""

    ENCODER: ClassVar[dict] = {
        "channels": [3, 4, 5],
        "convolutions": [2, 1, 1],
        "fc_size": 2,
        "fc_channels": [4],
    }
    SMALL: ClassVar[dict] = {
        "unet": {"depth": 2, "base_channels": 3},
        "fcn32s": ENCODER,
        "fcn16s": ENCODER,
        "fcn8s": ENCODER,
        "patch_classifier": {"channels": [3, 4], "kernel_sizes": [3], "fc_channels": [5], "window": 22},
        "ssd": {"channels": [3, 4, 5], "heads": 2, "scaled_norm": True},
    }

    def built(self, name, **more):
        torch.manual_seed(0)
        return networks.plan(name, **self.SMALL.get(name, {}), **more).build().eval()

    def test_plan_matches_the_module(self, name):
        network = self.built(name, input_channels=2, classes=4)
        geometry = network.geometry
        assert network.plan.parameters == sum(p.numel() for p in network.parameters())
        assert ALIGNMENT % geometry.stride == 0  # several jobs may divide a section at its multiples
        for size in (geometry.smallest, geometry.smallest + 3 * geometry.stride):
            image = torch.zeros(1, 2, size, size + geometry.stride)
            output = geometry.output_size(size)
            plan = network.plan
            sides = (output // plan.reduction, (output + geometry.stride) // plan.reduction)
            assert network(image).shape == (1, plan.output_channels, *sides)
            assert geometry.stride % plan.reduction == 0  # tiles start at whole pixels of the output
        assert networks.plan(name, **network.plan.arguments()) == network.plan
        assert {*network.plan.arguments()} == {"input_channels", "classes", *network.plan.schema()}

    def test_folded_network_has_the_same_output(self, name):
        """With batch normalisation where the network has this setting."""
        more = (
            {"batch_normalisation": True}
            if "batch_normalisation" in networks.plan_type(name).schema()
            else {}
        )
        network = self.built(name, **more)
        draw_statistics(network)
        size = network.geometry.input_size(40)
        image = torch.rand(1, 1, size, size)
        with torch.inference_mode():
            expected = network(image).softmax(1)
            fold(network)
            torch.testing.assert_close(network(image).softmax(1), expected, rtol=0, atol=1e-5)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())

    def test_output_moves_with_an_input_shifted_by_the_stride(self, name):
        network = self.built(name)
        stride, context = network.geometry.stride, network.geometry.context
        size = network.geometry.input_size(5 * stride)
        image = torch.rand(1, 1, size, size + 2 * stride)
        with torch.inference_mode():
            whole = network(image)
            shifted = network(image[..., 2 * stride :])
        reduction = network.plan.reduction
        torch.testing.assert_close(shifted, whole[..., 2 * stride // reduction :], rtol=0, atol=1e-5)
        assert whole.shape[-2] == (size - 2 * context) // reduction


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("unet", {"classes": 0}, "network.classes: found 0, expected a whole number of at least 1"),
        ("unet", {"image_channels": 0}, "network.input_channels: found 0, expected a whole number of at le"),
        (
            "patch_classifier",
            {"channels": ()},
            r"network.channels: found \[\], expected a list of at least 1",
        ),
        (
            "patch_classifier",
            {"channels": (4,) * 8},
            "network.channels: .* a list of at least 1 and at most 7",
        ),
        ("ssd", {"aspect_ratios": (1.0, 0.0)}, "network.aspect_ratios: .* each a number above 0"),
        ("ssd", {"aspect_ratios": (1.0, math.inf)}, "network.aspect_ratios: .* each a number above 0"),
    ],
)
def test_settings_at_the_limits_of_their_range_are_refused(name, settings, message):
    with pytest.raises(InputError, match=message):
        networks.plan(name, **settings)
