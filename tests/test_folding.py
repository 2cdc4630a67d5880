import copy

import numpy as np
import pytest
import torch
from torch import nn

from pipeline_lib import layout, networks
from pipeline_lib.data.gray import summary
from pipeline_lib.data.normalisation import measure
from pipeline_lib.networks.folding import fold
from pipeline_lib.networks.model import Model
from pipeline_lib.runtime.files import sha256
from pipeline_lib.stages.prediction import predict

CONVOLUTIONS = {
    "plain": lambda: nn.Conv2d(3, 6, 3),
    "without bias": lambda: nn.Conv2d(3, 6, 3, bias=False),
    "padded": lambda: nn.Conv2d(3, 6, 3, padding=1),
    "grouped": lambda: nn.Conv2d(6, 4, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(3, 6, 2, stride=2),
    "transposed, square": lambda: nn.ConvTranspose2d(6, 6, 4, stride=2, padding=2, bias=False),
}


def draw_statistics(network):
    """Give the batch normalisations of a network the parameters and statistics of a trained one."""
    rng = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, *module.parameters()):
                tensor.data.normal_(0.5, 1, generator=rng)
            module.running_var.uniform_(0.1, 3, generator=rng)
    return network.eval()


def same_up_to(tolerance, network, image):
    with torch.no_grad():
        expected = network(image)
        fold(network)
        found = network(image)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * expected.abs().max().item())
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("convolution", [nn.Conv2d(1, 1, 1), nn.ConvTranspose2d(1, 1, 1)])
def test_kernel_and_bias_are_those_computed_by_hand(convolution):
    """The factor is 3 / sqrt(9) = 1, and (0.5 - 4) * 1 + 1 = -2.5."""
    layers = nn.Sequential(convolution, nn.BatchNorm2d(1, eps=1e-5)).double().eval()
    values = {"0.weight": 2, "0.bias": 0.5, "1.weight": 3, "1.bias": 1, "1.running_mean": 4}
    values["1.running_var"] = 9 - 1e-5
    for name, tensor in layers.state_dict().items():
        tensor.fill_(values.get(name, 0))
    fold(layers)
    assert layers[0].weight.item() == pytest.approx(2, abs=1e-15)
    assert layers[0].bias.item() == pytest.approx(-2.5, abs=1e-15)
    assert isinstance(layers[1], nn.Identity)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_output_is_the_same_up_to_rounding(kind, affine):
    torch.manual_seed(0)
    convolution = CONVOLUTIONS[kind]()
    layers = nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels, affine=affine), nn.ReLU())
    draw_statistics(layers)
    image = torch.randn(2, convolution.in_channels, 9, 12)
    assert not same_up_to(1e-14, copy.deepcopy(layers).double(), image.double())
    assert not same_up_to(1e-5, layers, image)


def test_parameters_are_rounded_once_from_float64():
    torch.manual_seed(0)
    layers = draw_statistics(nn.Sequential(nn.Conv2d(2, 50, 3), nn.BatchNorm2d(50)))
    convolution, normalisation = (copy.deepcopy(layer).double() for layer in layers)
    factor = normalisation.weight / (normalisation.running_var + normalisation.eps).sqrt()
    fold(layers)
    weight = (convolution.weight * factor[:, None, None, None]).float()
    bias = ((convolution.bias - normalisation.running_mean) * factor + normalisation.bias).float()
    torch.testing.assert_close(layers[0].weight, weight, rtol=1e-7, atol=0)
    torch.testing.assert_close(layers[0].bias, bias, rtol=1e-7, atol=0)
    assert layers[0].weight.dtype == torch.float32


def test_batch_normalisation_that_does_not_follow_a_convolution_stays():
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(4) for _ in range(3)]
    grouped = nn.ConvTranspose2d(4, 4, 2, groups=2)
    layers = nn.Sequential(
        norms[0], nn.Conv2d(4, 4, 3), nn.ReLU(), norms[1], nn.Sequential(grouped, norms[2])
    )
    draw_statistics(layers)
    assert same_up_to(0, layers, torch.randn(1, 4, 9, 9)) == norms


def test_convolution_in_two_places_is_folded_in_each():
    torch.manual_seed(0)
    shared = nn.Conv2d(4, 4, 3)
    layers = nn.Sequential(*(nn.Sequential(shared, nn.BatchNorm2d(4)) for _ in range(2)))
    draw_statistics(layers)
    assert not same_up_to(1e-5, layers, torch.randn(1, 4, 9, 9))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_prediction_folds_and_the_model_file_stays_as_it_is(tmp_path, monkeypatch, precision):
    torch.manual_seed(0)
    plan = networks.plan("unet", depth=1, base_channels=4, batch_normalisation=True)
    network, context = draw_statistics(plan.build()), plan.geometry.context
    size = plan.geometry.output_size(plan.geometry.input_size(40))
    raw = np.random.default_rng(0).integers(0, 255, (1, 1, size, size), np.uint8)
    with layout.create(tmp_path / "dataset.h5", {}) as file:
        layout.add(file, layout.RAW, raw.shape, raw.dtype)[:] = raw
        layout.write_findings(file, {"gray": summary(raw), "annotation": None})
    Model(plan, network, measure("none", [raw])).save(tmp_path / "model.pt")
    before = sha256(tmp_path / "model.pt")
    mirrored = np.pad(raw[0] / np.float32(255), [(0, 0), (context, context), (context, context)], "reflect")
    with torch.inference_mode():
        expected = network(torch.from_numpy(mirrored)[None]).softmax(1)[0]

    def forward(*_):
        raise AssertionError("batch normalisation was not folded")

    monkeypatch.setattr(nn.BatchNorm2d, "forward", forward)
    predict(tmp_path / "dataset.h5", tmp_path / "model.pt", tmp_path / "prediction.h5", precision=precision)
    with layout.require(tmp_path / "prediction.h5", layout.CELL_PROBABILITY) as file:
        found = file["cell_probability"][0]
    np.testing.assert_allclose(found, expected[1], atol=1e-5 if precision == "float32" else 0.05)
    assert sha256(tmp_path / "model.pt") == before
    assert any("running_mean" in name for name in Model.load(tmp_path / "model.pt").network.state_dict())
