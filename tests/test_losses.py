import torch

from pipeline_lib import tasks
from pipeline_lib.tasks.segmentation.losses import weighted_cross_entropy


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


def test_the_loss_of_a_patch_is_the_mean_over_its_annotated_pixels():
    """Weights of pixels that are not annotated are 0. Complete patches have the very loss of equation 1."""
    task, generator = tasks.load("segmentation"), torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 8, 9, generator=generator)
    target = torch.randint(0, 2, (3, 8, 9), generator=generator)
    weights = 0.5 + torch.rand(3, 8, 9, generator=generator)
    whole = torch.stack([target.float(), weights], 1)
    assert torch.equal(task.loss(logits, whole), 3 * weighted_cross_entropy(logits, target, weights))
    weights[0, 2:], weights[1, :, 3:] = 0, 0
    cut = logits[:1, :, :2], target[:1, :2], weights[:1, :2]
    narrow = logits[1:2, :, :, :3], target[1:2, :, :3], weights[1:2, :, :3]
    expected = sum(
        weighted_cross_entropy(*own) for own in (cut, narrow, (logits[2:], target[2:], weights[2:]))
    )
    torch.testing.assert_close(task.loss(logits, torch.stack([target.float(), weights], 1)), expected)
    nothing = torch.zeros(1, 2, 8, 9)
    assert task.loss(logits[:1], nothing) == 0
