"""Tests of the loss mask, of drop-out, and of steps that process several patches together."""

import numpy as np
import pytest
import torch
from test_training import step_of
from torch import nn

from pipeline_lib import memory, networks
from pipeline_lib.data.patches import Patch
from pipeline_lib.tasks.segmentation.losses import weighted_cross_entropy
from pipeline_lib.training.randomness import DropoutByPatch, dropout, generator_of, loss_mask
from pipeline_lib.training.schedule import Settings

CPU = torch.device("cpu")
CLASSIFIER = {"name": "patch_classifier", "channels": [3, 4], "kernel_sizes": [3], "window": 22}
NETWORKS = [
    CLASSIFIER | {"fc_channels": [6, 5], "dropout": 0.4},
    {"name": "unet", "depth": 1, "base_channels": 4, "dropout": 0.4, "input_channels": 2},
    {
        "name": "fcn32s",
        "channels": [3],
        "convolutions": [1],
        "fc_size": 1,
        "fc_channels": [6],
        "dropout": 0.3,
    },
]


def masks(share, size, number):
    torch.manual_seed(0)
    return torch.stack([loss_mask(share, size, CPU) for _ in range(number)])


@pytest.mark.parametrize(
    ("share", "expected", "by_expected_number"),
    [(0.5, 0.0473, 0.0577), (0.25, 0.0819, 0.101), (0.1, 0.142, 0.175)],
)
def test_masked_loss_is_unbiased_with_the_variance_of_the_theory(share, expected, by_expected_number):
    """Losses of 1000 pixels with the mean and the spread for which the numbers were computed."""
    losses = torch.from_numpy(np.random.default_rng(0).normal(size=1000)) ** 2
    square = by_expected_number**2 * share * 1000 / (1 - share)  # their mean square
    losses = (
        (losses - losses.mean()) / losses.std(correction=0) * expected * (share * 1000 / (1 - share)) ** 0.5
    )
    losses += (square - losses.var(correction=0)).sqrt()
    drawn = masks(share, (20, 50), 6000).flatten(1)
    sums = drawn.double() @ losses
    found = sums / drawn.sum(1)
    assert found.mean() == pytest.approx(losses.mean().item(), abs=4 * expected / 6000**0.5)
    assert found.std() == pytest.approx(expected, rel=0.04)
    assert (sums / (1000 * share)).std() == pytest.approx(by_expected_number, rel=0.04)


@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_each_pixel_is_drawn_with_the_same_probability_and_one_at_least(share):
    drawn = masks(share, (2, 3), 20_000)
    numbers = drawn.sum((1, 2))
    assert numbers.min() == (6 if share == 1 else 1)
    each = drawn.float().mean(0)
    expected = share + (1 - share) ** 6 / 6  # if none is drawn, one of the six is chosen
    np.testing.assert_allclose(each, expected, atol=0.015)
    twice = (drawn[:, 0, 0] & drawn[:, 1, 2]).float().mean()
    assert twice == pytest.approx(share**2, abs=0.01)


def test_the_only_pixel_of_a_patch_is_always_drawn():
    assert masks(0.01, (1, 1), 100).all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_dropout_keeps_each_value_with_the_same_probability_and_the_mean(rate, dtype, layout):
    x = torch.full((3, 5, 101, 67), 8.0, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    torch.manual_seed(0)
    y = dropout(x, rate)
    assert y.dtype == dtype and y.is_contiguous(memory_format=layout)
    kept = y != 0
    scale = torch.tensor(1 / (1 - rate), dtype=dtype)
    torch.testing.assert_close(y[kept], (8 * scale).expand(int(kept.sum())), rtol=1e-4, atol=0)
    error = 4 * (rate * (1 - rate)) ** 0.5
    for axes in ((0, 1, 2, 3), (1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2)):  # of all, each image, channel ...
        share = kept.double().mean(axes)
        assert (share - (1 - rate)).abs().max() < error / (x.numel() / share.numel()) ** 0.5
    for axis in range(4):  # neighbours are independent
        one, two = (kept.double().narrow(axis, first, x.shape[axis] - 1) for first in (0, 1))
        assert (one * two).mean() == pytest.approx((1 - rate) ** 2, abs=0.005)
    y.sum().backward()
    torch.testing.assert_close(x.grad, kept * scale, rtol=1e-4, atol=0)
    torch.manual_seed(0)
    assert torch.equal(dropout(x, rate), y)
    assert not torch.equal(dropout(x, rate), y)


def test_dropout_that_keeps_all_or_nothing():
    x = torch.rand(7, 9)
    assert dropout(x, 0.5, training=False) is x
    assert torch.equal(dropout(x, 0.0), x)
    assert torch.equal(dropout(x, 1.0), torch.zeros_like(x))
    assert dropout(x[:0]).shape == (0, 9)


def test_training_replaces_the_dropout_of_torch():
    x = torch.rand(2, 3, 8, 8)
    states = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        states.append(generator_of(CPU).get_state())
    with DropoutByPatch(states, CPU):
        found = nn.Dropout(0.3)(x)
    for seed, part, one in zip((5, 6), found, x, strict=True):
        torch.manual_seed(seed)
        assert torch.equal(part, dropout(one[None], 0.3)[0])


def random_patches(plan, number, outputs):
    rng = torch.Generator().manual_seed(1)
    size = plan.geometry.input_size(outputs)
    out = plan.geometry.output_size(size)
    images = torch.rand(number, plan.input_channels, size, size, generator=rng, dtype=torch.float64)
    target = torch.randint(0, 2, (number, 1, out, out), generator=rng).double()
    weights = torch.rand(number, 1, out, out, generator=rng, dtype=torch.float64) + 0.5
    truth = torch.cat([target, weights], 1)
    return size, [Patch(*pair) for pair in zip(images.split(1), truth.split(1), strict=True)]


def gradients(network, at_once, *, batch=7, outputs=1, iteration=3, **settings):
    """Return the loss and the gradients of a step in float64, for `at_once` patches together."""
    torch.manual_seed(0)
    plan = networks.plan(**network)
    size, patches = random_patches(plan, batch, outputs)
    net = plan.build().double()
    step = step_of(Settings(tile=size, batch=batch, **settings), net)
    if at_once is not None:
        step.at_once = at_once
    inputs = []
    net.register_forward_pre_hook(lambda _, arguments: inputs.append(len(arguments[0])))
    loss, _ = step(patches, iteration)
    return loss, [p.grad for p in net.parameters()], inputs


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("share", [None, 0.3])
def test_patches_together_give_the_gradient_of_one_at_a_time(network, share):
    """With drop-out and loss masks, which each patch has for itself, and groups of unequal size."""
    loss, one_at_a_time, inputs = gradients(network, 1, outputs=4, loss_mask=share)
    assert inputs == [1] * 7
    for at_once, sizes in ((3, [3, 3, 1]), (None, [7])):
        together, found, inputs = gradients(network, at_once, outputs=4, loss_mask=share)
        assert inputs == sizes
        torch.testing.assert_close(together, loss, rtol=1e-6, atol=0)
        for a, b in zip(found, one_at_a_time, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-13)
    assert max(g.abs().max() for g in one_at_a_time) > 1e-3


@pytest.mark.parametrize("network", NETWORKS)
def test_drop_out_and_mask_differ_between_patches_and_iterations(network):
    other = gradients(network, None, iteration=4, outputs=4)[1]
    assert any(
        (a - b).abs().max() > 1e-6 for a, b in zip(gradients(network, None, outputs=4)[1], other, strict=True)
    )
    still = network | {"dropout": 0.0}
    one, two = (gradients(still, None, iteration=k, outputs=4, loss_mask=0.5)[1] for k in (3, 4))
    assert any((a - b).abs().max() > 1e-6 for a, b in zip(one, two, strict=True))


def test_loss_is_the_mean_over_the_pixels_of_the_mask():
    network = NETWORKS[1] | {"dropout": 0.0}
    batch, iteration = 3, 5
    loss, *_ = gradients(network, None, batch=batch, outputs=4, iteration=iteration, loss_mask=0.4)
    torch.manual_seed(0)
    plan = networks.plan(**network)
    _, patches = random_patches(plan, batch, 4)
    net = plan.build().double()
    expected = []
    for number, (image, truth) in enumerate(patches, iteration * batch):
        torch.manual_seed(number)  # of a training with the seed 0
        mask = loss_mask(0.4, truth.shape[2:], CPU)
        assert 0 < mask.sum() < mask.numel()
        target, weights = truth[:, 0].long(), truth[:, 1]
        losses = nn.functional.cross_entropy(net(image), target, reduction="none") * weights
        expected.append(losses[0][mask].mean().item())
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-6)


def test_a_mask_leaves_out_the_other_pixels_of_each_image():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=rng, dtype=torch.float64)
    target = torch.randint(3, (2, 4, 5), generator=rng)
    weights = torch.rand(2, 4, 5, generator=rng, dtype=torch.float64)
    mask = torch.rand(2, 4, 5, generator=rng) < torch.tensor([0.2, 0.8])[:, None, None]
    losses = nn.functional.cross_entropy(logits, target, reduction="none") * weights
    expected = sum(losses[n][mask[n]].mean() for n in range(2)) / 2
    found = weighted_cross_entropy(logits, target, weights, mask)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    everything = weighted_cross_entropy(logits, target, weights, torch.ones_like(mask))
    torch.testing.assert_close(
        everything, weighted_cross_entropy(logits, target, weights), rtol=1e-12, atol=0
    )


def test_large_tiles_and_batch_normalisation_are_processed_one_at_a_time():
    assert memory.patches_at_once(572, 8) == memory.patches_at_once(257, 8) == 1
    assert memory.patches_at_once(256, 1) == 1
    normalised = NETWORKS[1] | {"batch_normalisation": True}
    assert gradients(normalised, None, outputs=4)[2] == [1] * 7


def test_patches_together_count_in_the_memory_of_the_dry_run():
    layers = {"dropout": 0.0, "base_channels": 8}
    needs = {}
    for normalised in (False, True):
        plan = networks.plan("unet", **layers, batch_normalisation=normalised)
        given = {"precision": "float32", "on_gpu": False, "volumes": 1, "pixels": 10**6}
        one, four = (plan.training_memory(252, batch=batch, **given).bytes for batch in (1, 4))
        needs[normalised] = (four - one - 3 * 70 * 252**2) / (plan.step_bytes_per_pixel("float32") * 252**2)
    assert needs == pytest.approx({False: 1, True: 0})  # two patches of 252 px together, not four


def test_fewer_patches_are_processed_together_if_memory_runs_out(caplog):
    caplog.set_level("INFO", "bordure")
    torch.manual_seed(0)
    plan = networks.plan(**NETWORKS[0])
    size, patches = random_patches(plan, 7, 1)
    net = plan.build().double()
    step = step_of(Settings(tile=size, batch=7, loss_mask=0.5), net)

    def cramped(_, arguments):
        if len(arguments[0]) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    net.register_forward_pre_hook(cramped)
    loss, _ = step(patches, 3)
    assert step.at_once == 1 and step.tile == size and not net.checkpointing
    assert "too small for 7 patches together" in caplog.text
    expected, one_at_a_time, _ = gradients(NETWORKS[0], 1, loss_mask=0.5)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for found, a in zip(net.parameters(), one_at_a_time, strict=True):
        torch.testing.assert_close(found.grad, a, rtol=0, atol=1e-13)
