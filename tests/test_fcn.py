import numpy as np
import pytest
import torch
from torch import nn

from pipeline_lib import networks, tasks
from pipeline_lib.data.normalisation import measure
from pipeline_lib.inference import passes
from pipeline_lib.networks.fcn import FCN8sPlan, FCN16sPlan, FCN32sPlan
from pipeline_lib.networks.fcn.module import _FixedUpsampling, _LearnedUpsampling
from pipeline_lib.networks.model import Model
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.training.schedule import Settings, make_optimizer

FCNS = ("fcn32s", "fcn16s", "fcn8s")
SMALL = {"channels": [3, 4, 5], "convolutions": [2, 1, 1], "fc_size": 2, "fc_channels": [6, 5]}


def build(name, **settings):
    torch.manual_seed(0)
    return networks.plan(name, **SMALL | settings).build().double().eval()


def with_drawn_parameters(network):
    """Draw all parameters, also those that start as 0 or as interpolation."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    return network


# settings -> (stride, and smallest input -> output and context of 32s, 16s and 8s)
GEOMETRIES = {
    "VGG16": ({}, 32, [(436, 32, 202), (468, 48, 210), (468, 40, 214)]),
    "5 levels, 7": ({"convolutions": [2]}, 32, [(380, 32, 174), (412, 48, 182), (412, 40, 186)]),
    "5 levels, 3": (
        {"convolutions": [2], "fc_size": 3},
        32,
        [(252, 32, 110), (284, 48, 118), (284, 40, 122)],
    ),
    "4 levels, 7": (
        {"channels": [8] * 4, "convolutions": [2]},
        16,
        [(188, 16, 86), (204, 24, 90), (204, 20, 92)],
    ),
    "4 levels, 3": (
        {"channels": [8] * 4, "convolutions": [2], "fc_size": 3},
        16,
        [(124, 16, 54), (140, 24, 58), (140, 20, 60)],
    ),
}


@pytest.mark.parametrize("layers", GEOMETRIES)
def test_geometry_is_that_of_the_layers(layers):
    settings, stride, expected = GEOMETRIES[layers]
    for name, (smallest, output, context) in zip(FCNS, expected, strict=True):
        geometry = networks.plan(name, **settings).geometry
        assert geometry == networks.Geometry(stride, smallest, context)
        assert geometry.output_size(smallest) == output


def test_default_network_has_the_parameters_of_vgg16_and_the_papers_layers():
    """VGG16 has 138,357,544 parameters, and 4,097,000 of them are in its layer for 1000 classes."""
    vgg16 = 138_357_544 - 4_097_000
    found = [kind(input_channels=3, classes=21).parameters for kind in (FCN32sPlan, FCN16sPlan, FCN8sPlan)]
    score, pool4, pool3 = 21 * (4096 + 1), 21 * (512 + 1), 21 * (256 + 1)
    assert found[0] == vgg16 + score + 21**2 * 64**2
    assert found[1] == vgg16 + score + pool4 + 21**2 * (4**2 + 32**2)
    assert found[2] == vgg16 + score + pool4 + pool3 + 21**2 * (2 * 4**2 + 16**2)
    fixed = FCN8sPlan(input_channels=3, classes=21, upsampling="fixed").parameters
    assert fixed == vgg16 + score + pool4 + pool3


@pytest.mark.parametrize("upsampling", ["learned", "fixed"])
@pytest.mark.parametrize("name", FCNS)
def test_plan_counts_the_parameters(name, upsampling):
    network = build(name, upsampling=upsampling, input_channels=3, classes=4, kernel_sizes=[3, 5, 3])
    assert network.plan.parameters == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("factor", [2, 4, 8, 16, 32])
def test_upsampling_starts_as_bilinear_interpolation(factor):
    x = torch.randn(2, 3, 5, 7, dtype=torch.double)
    expected = nn.functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    rim = factor // 2
    expected = expected[..., rim:-rim, rim:-rim]
    learned = _LearnedUpsampling(factor, 3).double()
    torch.testing.assert_close(learned(x), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(_FixedUpsampling(factor, 3)(x), expected, rtol=0, atol=1e-14)
    assert learned(x).shape[2:] == (4 * factor, 6 * factor)


def test_upsampling_of_a_row_by_two():
    """The row 0, 4, 8 becomes 1, 3, 5, 7: without the rim, where pixels receive too little."""
    row = torch.tensor([0.0, 4, 8]).expand(1, 1, 3, 3)
    for upsampling in (_LearnedUpsampling(2, 1), _FixedUpsampling(2, 1)):
        assert upsampling(row)[0, 0, 1].tolist() == [1, 3, 5, 7]


@pytest.mark.parametrize("factor", [2, 8])
def test_cropped_upsampling_has_all_contributions_whatever_the_kernel(factor):
    """A longer map gives the same values in its middle: nothing depends on where the map ends."""
    upsampling = _LearnedUpsampling(factor, 2).double()
    nn.init.normal_(upsampling.weight)
    x = torch.randn(1, 2, 6, 6, dtype=torch.double)
    part = upsampling(x[..., 1:5, 2:6])
    whole = upsampling(x)[..., factor : 4 * factor, 2 * factor : 5 * factor]
    torch.testing.assert_close(part, whole, rtol=0, atol=1e-14)


@pytest.mark.parametrize("upsampling", ["learned", "fixed"])
@pytest.mark.parametrize("name", FCNS)
def test_tiles_give_the_result_of_the_whole_image(name, upsampling):
    network = with_drawn_parameters(build(name, upsampling=upsampling))
    geometry = network.geometry
    raw = np.random.default_rng(0).random((1, 1, 61, 70))
    found = np.full((2, 61, 70), np.nan)
    tile = geometry.input_size(20)
    with torch.inference_mode():
        for part in passes.tiles((61, 70), tile, geometry):
            y, x = (passes.mirror(*read, size) for read, size in zip(part.read, raw.shape[2:], strict=True))
            output = network(torch.from_numpy(raw[:, :, y][..., x]))[0]
            found[(slice(None), *part.write)] = output[(slice(None), *part.crop)].numpy()
        context = geometry.context
        y, x = (passes.mirror(-context, geometry.input_size(size) - context, size) for size in raw.shape[2:])
        whole = network(torch.from_numpy(raw[:, :, y][..., x]))[0, :, :61, :70].numpy()
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-12)
    assert whole.std() > 0.01


@pytest.mark.parametrize("name", FCNS)
def test_probabilities_of_tiles_agree_in_float32(name):
    """Whatever the size of the tiles, as the workflow predicts."""
    network = with_drawn_parameters(build(name)).float()
    raw = np.random.default_rng(0).integers(0, 255, (1, 1, 90, 83), np.uint8)
    found = []
    for size in (16, 200):
        result = np.full((2, 90, 83), np.nan, np.float32)
        tile = network.geometry.input_size(size)
        for part, output in passes.tile_outputs(
            network,
            raw,
            0,
            measure("none", [raw]),
            tile,
            torch.device("cpu"),
            torch.float32,
            tasks.load("segmentation").decode,
        ):
            result[(slice(None), *part.write)] = output[(slice(None), *part.crop)].numpy()
        found.append(result)
    np.testing.assert_allclose(*found, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FCNS)
def test_tiles_must_start_at_multiples_of_the_stride(name):
    """An image shifted by a stride gives the shifted result, one shifted by 1 px another one."""
    network = with_drawn_parameters(build(name))
    stride, size = network.geometry.stride, network.geometry.smallest + network.geometry.stride
    image = torch.rand(1, 1, size, size + 2 * stride, dtype=torch.double)
    with torch.inference_mode():
        whole = network(image)[..., : 2 * stride]
        by_stride = network(image[..., stride:])[..., :stride]
        by_one = network(image[..., 1 : 1 - stride])[..., : 2 * stride - 1]
    torch.testing.assert_close(by_stride, whole[..., stride:], rtol=0, atol=1e-12)
    assert (by_one - whole[..., 1:]).abs().max() > 1e-2


@pytest.mark.parametrize("name", FCNS)
@pytest.mark.parametrize("upsampling", ["learned", "fixed"])
def test_result_is_not_shifted(name, upsampling):
    """The response to the mirrored image is the mirrored response if all kernels are symmetric."""
    network = build(name, upsampling=upsampling, convolutions=[2], fc_size=3)
    with torch.no_grad():
        for parameter in with_drawn_parameters(network).parameters():
            if parameter.dim() == 4:
                parameter += parameter.flip(-1)
    size = network.geometry.smallest + 2 * network.geometry.stride
    image = torch.rand(1, 1, size, size, dtype=torch.double)
    torch.testing.assert_close(network(image).flip(-1), network(image.flip(-1)), rtol=0, atol=1e-12)


def copied_by_name(source, target):
    """Copy all parameters that have the same name and shape. Return the names of the others."""
    state = {
        name: tensor
        for name, tensor in source.state_dict().items()
        if name in (own := target.state_dict()) and own[name].shape == tensor.shape
    }
    return target.load_state_dict(state, strict=False).missing_keys


def test_finer_network_starts_with_the_result_of_the_coarser_one():
    """In FCN-16s, the logits of FCN-32s are doubled and then enlarged; likewise from FCN-16s to FCN-8s."""
    coarse, middle, fine = (build(name) for name in FCNS)
    coarse = with_drawn_parameters(coarse)
    left = copied_by_name(coarse, middle)
    assert left == ["skip_scores.0.weight", "skip_scores.0.bias", "doublings.0.weight", "enlarge.weight"]
    size = fine.geometry.smallest + 2 * fine.geometry.stride
    image = torch.rand(1, 1, size, size, dtype=torch.double)

    def enlarged(x, *factors):
        for factor in factors:
            x = nn.functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
            x = x[..., factor // 2 : -(factor // 2), factor // 2 : -(factor // 2)]
        return x

    with torch.inference_mode():
        scores = coarse.score_coarse(coarse.encoder(image)[-1])
        torch.testing.assert_close(middle(image), enlarged(scores, 2, 4), rtol=0, atol=1e-12)
    nn.init.normal_(middle.skip_scores[0].weight)
    nn.init.normal_(middle.doublings[0].weight)
    left = copied_by_name(middle, fine)
    assert left == ["skip_scores.1.weight", "skip_scores.1.bias", "doublings.1.weight", "enlarge.weight"]
    with torch.inference_mode():
        logits = middle.doublings[0](scores)
        skip = middle.skip_scores[0](middle.encoder(image)[1])
        logits += middle_of(skip, logits)
        torch.testing.assert_close(fine(image), enlarged(logits, 2, 2), rtol=0, atol=1e-12)


def middle_of(larger, like):
    rows, columns = (np.subtract(larger.shape[2:], like.shape[2:])) // 2
    return larger[..., rows : rows + like.shape[2], columns : columns + like.shape[3]]


def test_crop_of_the_skip_connections_is_that_of_the_geometry():
    """With two 3x3 convolutions per level and fully connected layers of 3 px, 5 and 13 px on each side."""
    plan = FCN8sPlan(channels=[2] * 5, convolutions=[2], fc_size=3, fc_channels=[2])
    network = plan.build().eval()
    *_, pool3, pool4, pool5 = network.encoder(torch.rand(1, 1, 284, 284))
    doubled = network.doublings[0](network.score_coarse(pool5))
    assert pool4.shape[-1] - doubled.shape[-1] == 2 * 5
    assert pool3.shape[-1] - network.doublings[1](doubled).shape[-1] == 2 * 13


def test_skips_at_once_are_scaled_by_hundredths():
    """Its logits are those of a network whose score layers have these weights divided by the scales."""
    once, staged = build("fcn8s", at_once=True), build("fcn8s")
    once.load_state_dict(with_drawn_parameters(staged).state_dict())
    for skip, scale in enumerate((0.01, 0.0001)):
        staged.skip_scores[skip].weight.data *= scale
    size = once.geometry.smallest
    image = torch.rand(1, 1, size, size, dtype=torch.double)
    torch.testing.assert_close(once(image), staged(image), rtol=0, atol=1e-12)
    assert (once(image) - build("fcn8s")(image)).abs().max() > 1e-3
    with pytest.raises(InputError, match="`at_once` is not a setting of `fcn32s`"):
        build("fcn32s", at_once=True)


def test_initialisation():
    network = networks.plan("fcn8s", channels=[32] * 3, convolutions=[2], fc_channels=[64]).build()
    for layer in [*network.encoder.levels[1], *network.encoder.levels[2], *network.fc]:
        expected = (2 / layer.weight[0].numel()) ** 0.5
        assert abs(layer.weight.std().item() / expected - 1) < 5 / (2 * layer.weight.numel()) ** 0.5
        assert (layer.bias == 0).all()
    assert (network.score.weight != 0).all()
    assert all((parameter == 0).all() for parameter in network.skip_scores.parameters())


@pytest.mark.parametrize("upsampling", ["learned", "fixed"])
@pytest.mark.parametrize("name", FCNS)
def test_gradient_reaches_all_parameters_and_weight_decay_does_not_change_fixed_layers(name, upsampling):
    network = build(name, upsampling=upsampling, dropout=0.0)
    size = network.geometry.input_size(3 * network.geometry.stride)
    image = torch.rand(1, 1, size, size, dtype=torch.double)
    optimizer = make_optimizer(network, Settings(iterations=1, tile=size, optimizer="sgd", weight_decay=0.5))
    output = network(image)
    truth = torch.randint(0, 2, (1, *output.shape[2:]))
    nn.functional.cross_entropy(output, truth).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, key
    optimizer.step()
    x = torch.rand(1, 2, 4, 4, dtype=torch.double)
    factor = network.plan.enlargement
    expected = nn.functional.interpolate(x, scale_factor=factor, mode="bilinear")
    expected = expected[..., factor // 2 : -(factor // 2), factor // 2 : -(factor // 2)]
    assert torch.equal(network.enlarge(x), expected) == (upsampling == "fixed")


def test_computing_activations_twice_gives_the_same_gradient():
    gradients = []
    for checkpointing in (False, True):
        network = build("fcn16s").train()
        network.checkpointing = checkpointing
        size = network.geometry.smallest
        torch.manual_seed(1)
        network(torch.rand(1, 1, size, size, dtype=torch.double)).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_dropout_follows_each_fully_connected_layer():
    network = build("fcn32s", dropout=0.5).train()
    seen = []
    for layer in [*network.fc, network.score]:
        layer.register_forward_hook(lambda _, x, __: seen.append((x[0] == 0).double().mean().item()))
    size = network.geometry.smallest
    network.fc[0].bias.data += 100  # so that only drop-out gives 0
    network.fc[1].weight.data.abs_()
    network(torch.rand(1, 1, size + 80, size + 80, dtype=torch.double))
    assert 0.4 < seen[1] < 0.6 and 0.4 < seen[2] < 0.6
    network.eval()
    image = torch.rand(1, 1, size, size, dtype=torch.double)
    assert torch.equal(network(image), network(image))


def test_model_file_keeps_lists_and_parameters(tmp_path):
    plan = networks.plan("fcn8s", **SMALL)
    images = [np.arange(60, dtype=np.uint8).reshape(1, 1, 6, 10)]
    model = Model(plan, with_drawn_parameters(plan.build()), measure("mean_std", images))
    model.save(tmp_path / "model.pt")
    loaded = Model.load(tmp_path / "model.pt")
    assert loaded.plan == plan and loaded.plan.channels == (3, 4, 5)
    assert torch.load(tmp_path / "model.pt", weights_only=True)["arguments"]["channels"] == [3, 4, 5]
    image = torch.rand(1, 1, plan.geometry.smallest, plan.geometry.smallest)
    assert torch.equal(loaded.network.eval()(image), model.network.eval()(image))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("fcn8s", {"channels": []}, r"network\.channels: found \[\], expected a list of at least 1 and at"),
        ("fcn8s", {"channels": [4, 0, 4]}, r"found \[4, 0, 4\], .* each a whole number at least 1"),
        ("fcn8s", {"channels": 4}, r"network\.channels: found 4, expected a list"),
        ("fcn8s", {"fc_channels": [4.5]}, r"network\.fc_channels: found \[4\.5\], expected a list"),
        (
            "fcn8s",
            {"channels": [4, 4], "convolutions": [1]},
            r"network\.channels: found 2 levels, expected at least 3 for fcn8s",
        ),
        ("fcn16s", {"convolutions": [2, 2]}, r"network\.convolutions: found 2 numbers, .* the 3 levels"),
        ("fcn32s", {"kernel_sizes": [3, 4, 3]}, r"network\.kernel_sizes: .* of level 2 .* Use odd kernels"),
    ],
)
def test_settings_that_make_no_network_are_rejected(name, settings, message):
    with pytest.raises(InputError, match=message):
        networks.plan(name, **SMALL | settings)


@pytest.mark.parametrize(
    ("size", "context"), [((5, 9), 3), ((5, 9), 20), ((1, 1), 4), ((40, 30), 0), ((7, 30), 7)]
)
def test_mirrored_share_is_counted_pixel_by_pixel(size, context):
    seen = inside = 0
    for y in range(size[0]):
        for x in range(size[1]):
            rows = np.arange(y - context, y + context + 1)
            columns = np.arange(x - context, x + context + 1)
            seen += len(rows) * len(columns)
            inside += np.isin(rows, range(size[0])).sum() * np.isin(columns, range(size[1])).sum()
    assert networks.Geometry(1, 1, context).mirrored(*size) == pytest.approx(1 - inside / seen)


# settings -> measured values per px in a pass, in float32 and bfloat16, and bytes per px of a training step
MEASURED = [
    ({"channels": [16, 32, 64, 64], "fc_channels": [64]}, (33, 38), (361, 243)),
    ({"channels": [64, 128, 256], "fc_channels": [64]}, (128, 146), (1500, 999)),
    ({"channels": [4, 8, 16, 16], "fc_channels": [16]}, (9, 11), (111, 81)),
    ({"channels": [4, 8, 16, 16], "fc_channels": [16], "classes": 21}, (52, 54), (525, 343)),
    ({"channels": [16, 32, 64, 64], "convolutions": [1], "fc_channels": [64]}, (29, 38), (257, 167)),
]


@pytest.mark.parametrize(("settings", "values", "step"), MEASURED)
def test_memory_is_an_upper_limit_that_is_not_far_too_high(settings, values, step):
    plan = networks.plan("fcn8s", **{"convolutions": [2], "fc_size": 3} | settings)
    assert max(values) <= plan.values_per_pixel <= 1.35 * max(values)
    for precision, measured in zip(("float32", "bfloat16"), step, strict=True):
        assert measured <= plan.step_bytes_per_pixel(precision) <= 1.35 * measured
