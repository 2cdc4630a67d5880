"""Tests of the correction of probabilities after a training with class weights or class-balanced patches."""

from functools import partial

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from test_patches import CPU, GEOMETRY, STILL, TILE, ignoring, volumes  # noqa: F401 (a fixture)
from test_training import NETWORK, inputs, interrupted, run, same  # noqa: F401 (a fixture)

from pipeline_lib import layout, metrics, tasks
from pipeline_lib.data.augment import Augmentation, draw
from pipeline_lib.data.normalisation import measure
from pipeline_lib.data.patches import Patches
from pipeline_lib.data.sampling import ClassBalanced
from pipeline_lib.inference.tiling import Tile
from pipeline_lib.networks.model import Model, read_tensors
from pipeline_lib.networks.modelfile import describe
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json
from pipeline_lib.stages.dataset import build_weight_map
from pipeline_lib.stages.prediction import predict
from pipeline_lib.tasks.segmentation.task import PixelTruth
from pipeline_lib.tasks.segmentation.weights import class_weights
from pipeline_lib.training.prior import log_prior, trained_shares

TASK = tasks.load("segmentation")
CLASSIFIER = {
    "name": "patch_classifier",
    "channels": [4, 4],
    "kernel_sizes": [3],
    "fc_channels": [8],
    "dropout": 0.3,
    "window": 22,
}
PATCH_WISE = {"tile": 23, "batch": 8, "sampling": "class_balanced"}


def balanced_patches(volumes, tile=TILE, augmentation=STILL, seed=0):  # noqa: F811
    balanced = ClassBalanced([volume.truth for volume in volumes], TASK.classes)
    normalisation = measure("none", [volume.raw for volume in volumes])
    return Patches(volumes, normalisation, GEOMETRY.context, tile, augmentation, seed, balanced)


@pytest.mark.parametrize("tile", [TILE, GEOMETRY.context * 2 + 1])
def test_the_drawn_pixel_is_at_the_centre_of_a_deformed_patch(volumes, tile):  # noqa: F811
    """The weight of each pixel is its number. Tiles are larger than the sections, too."""
    augmentation = Augmentation(elastic_std=8)
    source = balanced_patches(volumes, tile, augmentation)
    middle = tile // 2 - GEOMETRY.context
    kinds = []
    for number in range(40):
        rng = np.random.default_rng([0, number])
        draw(augmentation, rng)
        volume, pixel = source.balanced.draw(rng)
        kind, place = source.move(source.read(number), CPU).truth[0, :, middle, middle]
        assert place == volumes[volume].truth.weight_map[pixel]
        kinds.append(int(kind))
    assert 10 < sum(kinds) < 30


def test_pixels_that_are_not_annotated_are_never_the_centre(volumes):  # noqa: F811
    rng = np.random.default_rng(1)
    ignores = [(rng.random(volume.truth.shape) < 0.7).astype(np.uint8) for volume in volumes]
    source = balanced_patches([ignoring(*pair) for pair in zip(volumes, ignores, strict=True)])
    middle = TILE // 2 - GEOMETRY.context
    found = torch.cat([source.move(source.read(k), CPU).truth[..., middle, middle] for k in range(200)])
    assert (found[:, 1] > 0).all()
    assert found[:, 0].mean().item() == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("weights", [(1, 1, 1), (0.2, 3, 7)])
def test_correction_gives_the_probabilities_of_all_pixels_for_any_number_of_classes(weights):
    """Pixels with five different appearances x and three classes, counted."""
    counts = np.random.default_rng(0).integers(1, 1000, (5, 3)) * [1, 10, 100]
    drawn = counts / counts.sum(0) * weights  # each class with the same share, times its weight
    network = np.log(drawn / drawn.sum(1, keepdims=True))  # logits of the best network
    logits = network + log_prior(counts.sum(0), [1 / 3] * 3, weights)
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(probability, counts / counts.sum(1, keepdims=True), rtol=1e-12)


def test_a_network_trained_with_class_weights_gives_the_frequencies_after_the_correction():
    """A network that knows five appearances, trained to convergence on pixels of three classes."""
    task = tasks.load("segmentation", ("background", "a", "b"), ("a", "b"))
    rng = np.random.default_rng(0)
    appearance = rng.integers(0, 5, 4000)
    target = np.array([rng.choice(3, p=[0.8 - 0.1 * x, 0.15, 0.05 + 0.1 * x]) for x in appearance])
    frequencies = np.bincount(target) / target.size
    w_c = class_weights(frequencies)
    logits = torch.zeros(1, 3, 5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def step():
        optimizer.zero_grad()
        pixels = logits[:, :, appearance][..., None], torch.from_numpy(target)[None, :, None]
        loss = task.loss(pixels[0], torch.stack([pixels[1], torch.from_numpy(w_c)[pixels[1]]], 1))
        loss.backward()
        return loss

    optimizer.step(step)
    observed = np.stack([np.bincount(target[appearance == x], minlength=3) for x in range(5)], 1)
    observed = observed / observed.sum(0)
    learned = logits.detach()[0]
    assert np.abs(learned.softmax(0).numpy() - observed).max() > 0.2
    corrected = learned + torch.tensor(log_prior(frequencies, frequencies, w_c))[:, None]
    np.testing.assert_allclose(corrected.softmax(0).numpy(), observed, atol=1e-6)


def test_correction_of_two_classes_multiplies_the_odds():
    """ISBI 2012 has 78 % cells: .22 of a network trained with as many pixels of both is one half."""
    zero, one = log_prior([22, 78], [0.5, 0.5])
    assert one - zero == pytest.approx(np.log((0.78 / 0.22) / (0.5 / 0.5)))
    image = torch.zeros(1, 3, 4)
    for net, calibrated in ((0.22, 0.5), (0.5, 0.78)):
        network = partial(constant, torch.tensor([1 - net, net]))
        torch.testing.assert_close(TASK.decode(network, image)[1], torch.full((3, 4), net))
        for orientations in (False, True):
            found = TASK.decode(network, image, orientations, (zero, one))
            torch.testing.assert_close(found[1], torch.full((3, 4), calibrated))


def constant(probabilities, x):
    """A network with the same probabilities everywhere, and any offset of its logits."""
    return (probabilities.log() + 3)[None, :, None, None].expand(1, 2, *x.shape[2:])


def test_a_class_that_does_not_occur_is_not_corrected():
    assert log_prior([10, 0, 30], [0.5, 0, 0.5]) == pytest.approx([np.log(0.5), 0, np.log(1.5)])


def test_shares_in_patches_of_one_pixel_are_those_of_the_centres(volumes):  # noqa: F811
    source = balanced_patches(volumes, 2 * GEOMETRY.context + 1, Augmentation(elastic_std=8))
    np.testing.assert_array_equal(trained_shares(source, TASK), [0.5, 0.5])


def test_shares_in_larger_patches_are_those_of_their_annotated_pixels(volumes):  # noqa: F811
    """Compared with the patches around every pixel, whose edges are mirrored. All patches count the same."""
    rng = np.random.default_rng(0)
    ignores = [(rng.random(volume.truth.shape) < 0.1).astype(np.uint8) for volume in volumes]
    clustered = []
    for volume, ignore in zip(volumes, ignores, strict=True):
        labels = np.zeros(volume.truth.shape, np.uint32)
        labels[:, :9, :12] = 1  # a small part of the section
        ignore[:, 9:16] = 1  # below it, nothing is annotated
        volume.truth.labels[:] = labels
        clustered.append(ignoring(volume, ignore))
    reach = 3
    source = balanced_patches(clustered, 2 * (GEOMETRY.context + reach) + 2)
    totals = np.zeros((2, 2))
    for volume in clustered:
        truth = volume.truth
        kinds = (truth.labels > 0) & (truth.separation_border == 0)
        width = ((0, 0), (reach + 1, reach), (reach + 1, reach))
        kinds, known = (np.pad(a, width, mode="reflect") for a in (kinds, truth.ignore == 0))
        for z, y, x in np.argwhere(truth.ignore == 0):
            window = (z, slice(y, y + 2 * reach + 2), slice(x, x + 2 * reach + 2))
            own = int(kinds[z, y + reach + 1, x + reach + 1])
            totals[own] += np.bincount(kinds[window][known[window]], minlength=2) / known[window].sum()
    expected = 0.5 * totals[0] / totals[0].sum() + 0.5 * totals[1] / totals[1].sum()
    assert 0.3 < expected[1] < 0.47, expected  # neither one half nor the share in the images
    np.testing.assert_allclose(trained_shares(source, TASK), expected, atol=0.02)


def test_model_predicts_corrected_probabilities(inputs, tmp_path):  # noqa: F811
    run(inputs, tmp_path, network=CLASSIFIER, **PATCH_WISE)
    path = tmp_path / "model.pt"
    model = Model.load(path)
    with layout.require(inputs[0][0]) as file:
        cell = (file["labels"][:] > 0) & (file["separation_border"][:] == 0)
    shares = np.array([1 - cell.mean(), cell.mean()])
    w_c = 1 / (2 * shares)
    assert model.log_prior == pytest.approx(np.log(2 * shares) - np.log(w_c))
    assert describe(path)["log_prior"] == list(model.log_prior)
    predict(inputs[2][0], path, tmp_path / "corrected.h5", precision="float32")
    prior, model.log_prior = model.log_prior, ()
    model.save(tmp_path / "plain.pt")
    assert "log_prior" not in describe(tmp_path / "plain.pt")
    predict(inputs[2][0], tmp_path / "plain.pt", tmp_path / "plain.h5", precision="float32")
    odds = []
    for name in ("corrected", "plain"):
        with h5py.File(tmp_path / f"{name}.h5") as file:
            p = file["cell_probability"][:].astype(float)
        odds.append(p / (1 - p))
    np.testing.assert_allclose(odds[0] / odds[1], np.exp(prior[1] - prior[0]), rtol=1e-3)
    # the training validates the corrected probabilities; its loss has the class weights
    with (
        h5py.File(tmp_path / "corrected.h5") as file,
        layout.require(inputs[2][0]) as truth,
        layout.require(inputs[3][0]) as weights,
    ):
        p = file["cell_probability"][:].astype(float)
        labels, border = truth["labels"][:], truth["separation_border"][:]
        cell = (labels > 0) & (border == 0)
        as_learned = p * w_c[1] / (p * w_c[1] + (1 - p) * w_c[0])
        loss = -(weights["weight_map"][:] * np.log(np.where(cell, as_learned, 1 - as_learned))).mean()
        apart = [metrics.connected_components(section) for section in cell]
    history = pd.read_csv(tmp_path / "history.csv")
    best = history.loc[history.validation_loss.idxmin()]
    assert loss == pytest.approx(best.validation_loss, rel=1e-4)
    of_thresholds = [
        np.mean([metrics.v_rand(own, metrics.thin_borders(q > t)) for own, q in zip(apart, p, strict=True)])
        for t in np.arange(1, 10) / 10
    ]
    assert max(of_thresholds) == pytest.approx(best.validation_v_rand_thin, abs=1e-3)


def test_class_weights_are_undone_with_the_numbers_of_the_training_split(inputs, tmp_path):  # noqa: F811
    run(inputs, tmp_path, iterations=1, validation_interval=1)
    frequencies = np.array(read_json(inputs[4])["class_frequencies"])
    w_c = 1 / (2 * frequencies)
    with h5py.File(inputs[1][0]) as file:
        np.testing.assert_array_equal(file["weight_map"].attrs["w_c"], w_c)
    assert Model.load(tmp_path / "model.pt").log_prior == pytest.approx(-np.log(w_c), abs=1e-12)


def test_without_class_balance_nothing_is_corrected(inputs, tmp_path):  # noqa: F811
    datasets = [inputs[0][0], inputs[2][0]]
    maps = [tmp_path / "train.h5", tmp_path / "validation.h5"]
    for path, weight_map in zip(datasets, maps, strict=True):
        build_weight_map(path, inputs[4], weight_map, class_balance=False)
    unweighted = [inputs[0], maps[:1], inputs[2], maps[1:], inputs[4]]
    run(unweighted, tmp_path, iterations=1, validation_interval=1)
    assert "log_prior" not in describe(tmp_path / "model.pt")
    run(unweighted, tmp_path / "balanced", iterations=1, validation_interval=1, sampling="class_balanced")
    assert len(Model.load(tmp_path / "balanced/model.pt").log_prior) == 2
    # maps of other settings do not belong together
    mixed = [2 * inputs[0], [maps[0], inputs[1][0]], inputs[2], maps[1:], inputs[4]]
    with pytest.raises(
        InputError, match=r"train_weight_map\.h5: its classes have the weights .*have \[1.0, 1.0\]"
    ):
        run(mixed, tmp_path / "mixed")
    (tmp_path / ".provenance/train.h5.json").unlink()  # else the changed file is refused as such
    with h5py.File(maps[0], "a") as file:
        del file["weight_map"].attrs["w_c"]
    with pytest.raises(InputError, match=r"train\.h5: its attribute `w_c` is \[\], expected the weight of"):
        run(unweighted, tmp_path / "damaged")


def test_validation_loss_of_corrected_probabilities_is_that_of_the_network():
    """For three classes (two belong to cells), and with pixels that are not annotated."""
    rng = np.random.default_rng(0)
    task = tasks.load("segmentation", ("background", "a", "b"), ("a", "b"))
    network, w_c = rng.dirichlet([1, 1, 1], (9, 12)), np.array([0.4, 2.0, 5.0])
    target = rng.integers(0, 3, (1, 9, 12)).astype(np.uint8)
    weights = (w_c[target] + (target == 0) * rng.random(target.shape)).astype(np.float32)
    weights[:, :2] = 0
    labels = (target > 0).astype(np.uint32)
    truth = PixelTruth(labels, np.zeros_like(target), weights, weights == 0, target, w_c)
    corrected = network / w_c
    corrected = (corrected / corrected.sum(-1, keepdims=True)).transpose(2, 0, 1).astype(np.float32)
    everywhere = slice(0, 9), slice(0, 12)
    tile = Tile(read=everywhere, write=everywhere, crop=everywhere)
    found = task.validate(truth, 0, iter([(tile, torch.from_numpy(corrected))]))
    own = np.take_along_axis(network, target[0, ..., None].astype(int), -1)[..., 0]
    assert found.energies == pytest.approx([-(weights[0] * np.log(own)).sum()], rel=1e-5)
    cells = metrics.connected_components((labels[0] > 0) & (weights[0] > 0))
    p, hidden = corrected[1:].sum(0), weights[0] == 0
    assert found.v_rand == [
        metrics.v_rand(cells, metrics.thin_borders(p > t, ignore=hidden)) for t in np.arange(1, 10) / 10
    ]


def test_uniform_sampling_changes_nothing(inputs, tmp_path):  # noqa: F811
    short = {"iterations": 2, "validation_interval": 2}
    plain = run(inputs, tmp_path / "plain", **short)
    assert same(run(inputs, tmp_path / "uniform", **short, sampling="uniform"), plain)
    assert not same(run(inputs, tmp_path / "balanced", **short, sampling="class_balanced"), plain)
    priors = [Model.load(tmp_path / name / "model.pt").log_prior for name in ("plain", "uniform", "balanced")]
    assert priors[0] == priors[1] != priors[2]


def test_validation_is_never_masked(inputs, tmp_path):  # noqa: F811
    still = {"iterations": 1, "validation_interval": 1, "learning_rate": 1e-30}
    still |= {"network": NETWORK | {"dropout": 0.0}}
    run(inputs, tmp_path / "all", **still)
    run(inputs, tmp_path / "masked", **still, loss_mask=0.1)
    every, masked = (pd.read_csv(tmp_path / name / "history.csv") for name in ("all", "masked"))
    assert every.validation_loss[0] == masked.validation_loss[0]
    assert every.training_loss[0] != masked.training_loss[0]
    assert every.training_loss[0] == pytest.approx(masked.training_loss[0], rel=0.5)


@pytest.mark.parametrize(
    "settings",
    [{"network": CLASSIFIER, **PATCH_WISE}, {"loss_mask": 0.2, "sampling": "class_balanced"}],
    ids=["patch-wise", "masked tiles"],
)
def test_interrupted_training_ends_with_the_same_bytes(inputs, tmp_path, monkeypatch, settings):  # noqa: F811
    run(inputs, tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        interrupted(patch, after=7)
        with pytest.raises(KeyboardInterrupt):
            run(inputs, tmp_path / "cut", **settings)
    assert read_tensors(tmp_path / "cut/model.checkpoint.pt")["training"]["iteration"] == 4
    run(inputs, tmp_path / "cut", **settings)
    for name in ("model.pt", "history.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    (tmp_path / "cut/model.pt").unlink()  # a finished training is not repeated, and has its correction
    run(inputs, tmp_path / "cut", **settings)
    assert (tmp_path / "cut/model.pt").read_bytes() == (tmp_path / "whole/model.pt").read_bytes()


@pytest.mark.parametrize("prior", [[0.0, float("nan")], [0.0, 0.0, 0.0]])
def test_a_model_with_a_wrong_correction_is_refused(inputs, tmp_path, prior):  # noqa: F811
    run(inputs, tmp_path, iterations=1, validation_interval=1)
    model = Model.load(tmp_path / "model.pt")
    model.log_prior = prior
    model.save(tmp_path / "wrong.pt")
    with pytest.raises(InputError, match=r"wrong\.pt: .*log_prior"):
        Model.load(tmp_path / "wrong.pt")
