"""Tests of SSD: where default boxes lie, that tiles have no seams, and the settings."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline_lib import networks
from pipeline_lib.networks.ssd.module import ScaledNorm
from pipeline_lib.runtime.errors import InputError


def small(**settings):
    defaults = {"channels": [2, 3, 4, 4], "convolutions": 1, "heads": 3, "sizes": [4, 8, 16]}
    return networks.plan("ssd", **defaults | settings)


def test_default_boxes_of_the_first_cell():
    """Golden: 64 px, 2 x 2 cells, s = .25 and s' = sqrt(.125), ratio 2 for s."""
    plan = networks.plan(
        "ssd", channels=[2] * 6, heads=1, sizes=[0.25 * 64, 0.125**0.5 * 64], aspect_ratios=[1.0, 2.0]
    )
    boxes = plan.default_boxes
    assert plan.reduction == 32
    expected = [
        (8, 8, 24, 24),
        (10.343, 4.686, 21.657, 27.314),  # wide: height s / sqrt 2, width s sqrt 2
        (4.686, 10.343, 27.314, 21.657),
        (4.686, 4.686, 27.314, 27.314),
    ]
    np.testing.assert_allclose(boxes[:4], expected, atol=1e-3)
    assert len(boxes) == plan.boxes_per_cell == 6


def test_sizes_of_the_formula_are_those_of_the_paper():
    """Golden, for images of 300 px: 0.2 0.34 0.48 0.62 0.76 0.9, and between them 0.2608 to 0.827."""
    plan = networks.plan("ssd", channels=[2] * 6, heads=6, size_range=[60, 270])
    first = 300 * np.array([0.2, 0.34, 0.48, 0.62, 0.76, 0.9])
    second = 300 * np.array([0.2608, 0.404, 0.5455, 0.6864, 0.827])
    np.testing.assert_allclose(plan.formula_sizes()[::2], first, rtol=1e-12)
    np.testing.assert_allclose(plan.formula_sizes()[1:-1:2], second, atol=0.05)
    assert plan.formula_sizes()[-1] == pytest.approx(300 * (0.9 * 1.04) ** 0.5)
    with_three = networks.plan(**{"name": "ssd", "size_range": [10, 40], "sizes_per_level": 3, "heads": 2})
    ratios = np.array([1, 4 ** (1 / 3), 16 ** (1 / 3), 4, 4 * 1.75 ** (1 / 3), 4 * 1.75 ** (2 / 3)])
    np.testing.assert_allclose(with_three.formula_sizes(), 10 * ratios)


def test_a_level_covers_the_cell_with_its_stride():
    plan = small()
    assert (plan.strides, plan.reduction) == ([2, 4, 8], 8)
    boxes = plan.default_boxes
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2).round(9)
    shapes = plan.shapes_per_pixel
    first = {tuple(centre) for centre in centres[: 16 * shapes].tolist()}
    assert first == {(y, x) for y in (1, 3, 5, 7) for x in (1, 3, 5, 7)}
    assert centres[-1].tolist() == [4, 4]


def test_outputs_of_default_boxes_see_the_image_at_their_centre():
    """With equal positive kernels, the response to one bright pixel is largest, and centred, around it."""
    plan = small(aspect_ratios=[1.0])
    network = plan.build().double()
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.1 if parameter.ndim > 1 else 0.0)
    size = plan.geometry.input_size(12 * plan.reduction)
    image = torch.zeros(1, 1, size, size, dtype=torch.float64)
    spot = plan.geometry.context + 6 * plan.reduction  # four pixels around a corner of cells
    image[..., spot - 1 : spot + 1, spot - 1 : spot + 1] = 1
    with torch.inference_mode():
        output = network(image)[0]
    cells = np.array(output.shape[1:])
    response = output.reshape(plan.boxes_per_cell, -1, *cells)[:, 0].numpy()
    centres = (plan.default_boxes[:, :2] + plan.default_boxes[:, 2:]) / 2
    corner = np.stack(np.meshgrid(*map(np.arange, cells), indexing="ij"), axis=-1) * plan.reduction
    positions = centres[:, None, None] + corner
    for level in (slice(0, 16), slice(16, 20), slice(20, 21)):
        weights = response[level][..., None]
        mean = (weights * positions[level]).sum((0, 1, 2)) / weights.sum()
        np.testing.assert_allclose(mean, 6 * plan.reduction, atol=1e-9)


@pytest.mark.parametrize(
    "settings", [{}, {"heads": 1, "sizes": [9]}, {"convolutions": 2}, {"scaled_norm": True}]
)
def test_tiles_have_the_output_of_the_whole_image(settings):
    torch.manual_seed(0)
    plan = small(**settings)
    network, step, context = plan.build().double().eval(), plan.reduction, plan.geometry.context
    image = torch.rand(1, 1, *(plan.geometry.input_size(k * step) for k in (5, 7)), dtype=torch.float64)
    with torch.inference_mode():
        whole = network(image)
        for row, column, height, width in ((0, 0, 1, 1), (2, 3, 3, 2), (4, 0, 1, 7)):
            rows = slice(row * step, (row + height) * step + 2 * context)
            columns = slice(column * step, (column + width) * step + 2 * context)
            tile = network(image[..., rows, columns])
            expected = whole[..., row : row + height, column : column + width]
            torch.testing.assert_close(tile, expected, rtol=0, atol=1e-12)


def test_norm_of_each_pixel_is_scaled():
    norm = ScaledNorm(3, scale=5.0)
    features = torch.tensor([[3.0, 0], [4, 2], [0, 0]]).reshape(1, 3, 1, 2)
    expected = torch.tensor([[3.0, 0], [4, 5], [0, 0]]).reshape(1, 3, 1, 2)
    torch.testing.assert_close(norm(features), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 5}, "network.heads: found 5, but `network.channels` has 4 levels"),
        ({"sizes": [4, 8]}, "network.sizes: found 2 numbers for 3 levels"),
        ({"sizes": [4, 8, -1]}, "network.sizes: found .*expected a list"),
        ({"size_range": [8, 4], "sizes": []}, r"network.size_range: found \[8, 4\], expected the smallest"),
        ({"size_range": [8], "sizes": []}, r"network.size_range: found \[8\], expected the smallest and the"),
        ({"size_range": [1, 2, 3]}, "network.size_range: found .*expected a list of .*at most 2"),
        ({"size_range": [4, 8]}, "network.size_range: found .* but `network.sizes` states the sizes"),
        ({"size_range": [4, 8], "heads": 1, "sizes": []}, "network.size_range: .*for a single level"),
        ({"aspect_ratios": []}, "network.aspect_ratios: found .*expected a list of at least 1"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(InputError, match=message):
        small(**settings)


def test_boxes_need_sizes():
    with pytest.raises(InputError, match="not chosen yet"):
        _ = small(sizes=[]).default_boxes
