import pytest
import torch

from pipeline_lib import networks, tasks
from pipeline_lib.tasks.segmentation.losses import (
    LOSSES,
    at_coarse_pixels,
    pixel_loss,
    weighted_cross_entropy,
)


def example(scale=1.0):
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.double)
    target = torch.randint(3, (2, 5, 4), generator=generator)
    return logits, target, torch.rand(2, 5, 4, generator=generator)


def test_loss_is_equation_1_of_the_paper():
    logits, target, weights = example()
    energy = 0.0
    for n in range(2):
        for y in range(5):
            for x in range(4):
                a = logits[n, :, y, x].exp()
                energy -= weights[n, y, x] * (a[target[n, y, x]] / a.sum()).log()
    torch.testing.assert_close(
        weighted_cross_entropy(logits, target, weights).double(), energy / 40, rtol=1e-6, atol=0
    )


def test_large_logits_give_a_finite_and_exact_loss():
    logits = torch.tensor([[[[2000.0, -2000.0]], [[0.0, 0.0]]]])
    target, weights = torch.tensor([[[1, 1]]]), torch.ones(1, 1, 2)
    assert weighted_cross_entropy(logits, target, weights) == 1000.0
    assert weighted_cross_entropy(logits.half() / 4, target, weights) == 250.0


def test_half_precision_logits_are_summed_in_float32():
    logits, target, weights = example()
    expected = weighted_cross_entropy(logits.bfloat16().double(), target, weights)
    torch.testing.assert_close(
        weighted_cross_entropy(logits.bfloat16(), target, weights), expected.float(), rtol=1e-6, atol=0
    )


def test_gradient_is_weight_times_probability_minus_truth():
    logits, target, weights = example()
    logits.requires_grad_()
    weighted_cross_entropy(logits, target, weights).backward()
    one_hot = torch.nn.functional.one_hot(target, 3).permute(0, 3, 1, 2)
    expected = weights[:, None] * (logits.softmax(1) - one_hot) / 40
    torch.testing.assert_close(logits.grad, expected.detach(), rtol=1e-5, atol=1e-8)


def by_definition(kind, logits, target, weights, cells, mask):
    """Mean over the images of the loss of `kind`, pixel by pixel."""
    total = 0.0
    for n in range(len(logits)):
        p = logits[n].softmax(0)
        pixels = [(y, x) for y in range(p.shape[1]) for x in range(p.shape[2]) if mask[n, y, x]]
        energy, sums = 0.0, [[0.0, 0.0], [0.0, 0.0]]
        for y, x in pixels:
            own = p[target[n, y, x], y, x]
            energy -= weights[n, y, x] * own.log() * ((1 - own) ** 2 if kind == "focal" else 1)
            if weights[n, y, x] > 0:
                inside, truth = sum(p[k, y, x] for k in cells), float(target[n, y, x] in cells)
                for of_one, a, b in zip(sums, (inside, 1 - inside), (truth, 1 - truth), strict=True):
                    of_one[0] += 2 * a * b
                    of_one[1] += a**2 + b**2
        total += energy / len(pixels)
        if kind == "cross_entropy_dice":
            total += 1 - sum(both / parts for both, parts in sums) / 2
    return total / len(logits)


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_are_those_of_their_definitions(kind):
    logits, target, weights = example()
    weights[0, 1:3] = 0
    mask = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(1)) < 0.7
    for cells in ([1], [1, 2]):
        for own in (mask, torch.ones_like(mask)):
            expected = by_definition(kind, logits, target, weights, cells, own)
            found = pixel_loss(kind, logits, target, weights, cells, None if own.all() else own)
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_a_patch_without_cells_has_a_finite_gradient():
    logits = example()[0].requires_grad_()
    target, weights = torch.zeros(2, 5, 4, dtype=int), torch.ones(2, 5, 4)
    pixel_loss("cross_entropy_dice", logits, target, weights, [1]).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", LOSSES)
def test_the_task_sums_its_loss_over_the_patches(kind):
    logits, target, weights = example()
    truth = torch.stack([target.double(), weights], 1)
    task = tasks.load("segmentation", ("background", "a", "b"), ("b",), pixel_loss=kind)
    expected = 2 * pixel_loss(kind, logits, target, weights, [2])
    torch.testing.assert_close(task.loss(logits, truth), expected, rtol=0, atol=0)


@pytest.mark.parametrize("upsampling", ["up_convolution", "nearest", "bilinear"])
def test_coarser_levels_learn_the_truth_of_their_place(upsampling):
    """A network copies its input, the number of each row and column, to all levels by skip connections."""
    plan = networks.plan("unet", depth=3, base_channels=2, upsampling=upsampling, dropout=0.0)
    net = plan.build().train()
    net.supervise()
    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.zeros_(layer.weight)
            middle = tuple((k - 1) // 2 for k in layer.kernel_size)
            layer.weight.data[0, 0][middle] = 1  # the first channel that is merged is that of the skip
    size = plan.geometry.input_size(24)
    numbers = torch.arange(float(size))
    context = plan.geometry.context
    for along in (numbers[:, None].expand(size, size), numbers.expand(size, size)):
        outputs = net(along[None, None])
        assert len(outputs) == 3
        inside = along[context : size - context, context : size - context]
        torch.testing.assert_close(outputs[0][0, 0], inside)
        for level, output in enumerate(outputs[1:], 1):
            stride = 2**level
            last, truth = at_coarse_pixels(output[:, :1], inside[None, None], stride)
            # a max pooling keeps the largest number of a square
            torch.testing.assert_close(truth, last - stride + 1 + stride // 2)
            assert stride * truth.shape[-1] > len(inside) - 2 * stride


@pytest.mark.parametrize("masked", [False, True])
def test_losses_of_coarser_levels_count_by_their_resolution(masked):
    torch.manual_seed(0)
    outputs = [torch.randn(2, 2, side, side) for side in (16, 10, 7)]
    truth = torch.stack([torch.randint(2, (2, 16, 16)).float(), torch.rand(2, 16, 16)], 1)
    mask = torch.rand(2, 16, 16) < 0.5 if masked else None
    task, expected = tasks.load("segmentation"), 0.0
    for stride, output, first, count in (
        (1, outputs[0], 0, 16),
        (2, outputs[1], 1, 8),
        (4, outputs[2], 4, 3),
    ):
        # 2 * 10 - 16 is 2 px on each side, or one pixel; 4 * 7 - 16 is 6 px, so two pixels are left out
        rim = (output.shape[-1] - count) // 2
        own = output[..., rim : rim + count, rim : rim + count]
        at = slice(first, first + stride * count, stride)
        expected += task.loss(own, truth[..., at, at], mask if mask is None else mask[:, at, at]) / stride
    torch.testing.assert_close(task.loss(outputs, truth, mask), expected)


def test_a_mask_without_pixels_gives_no_loss():
    logits, target, weights = example()
    mask = torch.zeros(2, 5, 4, dtype=torch.bool)
    assert weighted_cross_entropy(logits, target, weights, mask) == 0
