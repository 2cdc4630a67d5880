import torch

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
