import functools
import itertools
import math
import re
import signal
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from pipeline_lib import layout, metrics, networks, provenance, tasks
from pipeline_lib.data.augment import Augmentation
from pipeline_lib.data.gray import summary
from pipeline_lib.data.labels import cells_apart, separation_border
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.data.patches import Patches, open_volumes
from pipeline_lib.networks.model import Model, read_tensors, write_tensors
from pipeline_lib.networks.unet import module
from pipeline_lib.runtime import progress
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json
from pipeline_lib.stages import training
from pipeline_lib.stages.dataset import build_weight_map, measure_statistics
from pipeline_lib.tasks.segmentation.losses import weighted_cross_entropy
from pipeline_lib.training import state
from pipeline_lib.training.schedule import Settings, learning_rate, make_optimizer
from pipeline_lib.training.step import Step

NETWORK = {"name": "unet", "depth": 1, "base_channels": 4, "dropout": 0.3, "batch_normalisation": True}
TRAINING = {
    "tile": 52,
    "iterations": 12,
    "optimizer": "adam",
    "learning_rate": 1e-2,
    "warm_up": 3,
    "validation_interval": 4,
    "precision": "float32",
    "device": "cpu",
}
AUGMENTATION = {"elastic_std": 3.0}


def write_dataset(path, seed, sections=2):
    """Write a dataset of bright squares on dark background, some only 1 px apart."""
    rng = np.random.default_rng(seed)
    cells = np.zeros((sections, 60, 64), bool)
    for section in cells:
        for y in range(2, 50, 13):
            for x in range(2, 50, 13):
                section[y : y + rng.integers(7, 13), x : x + rng.integers(7, 13)] = True
    labels = metrics.connected_components(cells)
    raw = np.clip(cells * 90 + rng.normal(80, 15, cells.shape), 0, 255).astype(np.uint8)
    with layout.create(path, {"seed": seed}) as file:
        layout.add(file, layout.RAW, (1, *raw.shape), raw.dtype)[0] = raw
        layout.write_findings(file, {"gray": summary(raw[None]), "annotation": None})
        layout.add(file, layout.LABELS, raw.shape)[:] = labels
        layout.add(file, layout.SEPARATION_BORDER, raw.shape)[:] = [
            separation_border(section, 2) for section in labels
        ]
    return path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    datasets = {
        name: write_dataset(folder / f"{name}.h5", seed) for seed, name in enumerate(["train", "validation"])
    }
    measure_statistics([datasets["train"]], folder / "statistics.json")
    for name, path in datasets.items():
        build_weight_map(path, folder / "statistics.json", folder / f"{name}_weight_map.h5")
    return [
        [folder / "train.h5"],
        [folder / "train_weight_map.h5"],
        [folder / "validation.h5"],
        [folder / "validation_weight_map.h5"],
        folder / "statistics.json",
    ]


def run(inputs, folder, network=NETWORK, seed=0, **settings):
    folder.mkdir(exist_ok=True)
    training.train(
        *inputs,
        folder / "model.pt",
        folder / "history.csv",
        network=network,
        training=TRAINING | settings,
        augmentation=AUGMENTATION,
        seed=seed,
    )
    return Model.load(folder / "model.pt").network.state_dict()


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def step_of(settings, net):
    return Step(net.train(), make_optimizer(net, settings), tasks.load("segmentation"), settings, seed=0)


def test_training_improves_the_scores(inputs, tmp_path):
    run(inputs, tmp_path, iterations=400, validation_interval=200, network=NETWORK | {"dropout": 0.0})
    history = pd.read_csv(tmp_path / "history.csv")
    assert list(history.iteration) == [200, 400]
    assert history.validation_v_rand_thin.max() > 0.95
    assert history.validation_loss.iloc[-1] < 0.5 * history.training_loss.iloc[0]


def test_fcn8s_learns(inputs, tmp_path):
    network = {
        "channels": [8, 12, 16],
        "convolutions": [1],
        "fc_size": 3,
        "fc_channels": [32],
        "dropout": 0.0,
    }
    tile = networks.plan("fcn8s", **network).geometry.input_size(40)
    run(
        inputs,
        tmp_path,
        network={"name": "fcn8s", **network},
        tile=tile,
        iterations=200,
        validation_interval=100,
    )
    history = pd.read_csv(tmp_path / "history.csv")
    assert history.validation_loss.iloc[-1] < 0.5 * history.training_loss.iloc[0]


def test_same_seed_gives_the_same_model_and_another_seed_another(inputs, tmp_path):
    first, again, other = (
        run(inputs, tmp_path / "a"),
        run(inputs, tmp_path / "b"),
        run(inputs, tmp_path / "c", seed=1),
    )
    assert same(first, again)
    assert not same(first, other)


def interrupted(monkeypatch, after):
    """Let the process die after `after` updates, without any clean-up, as if it was killed."""
    step = Step.__call__

    def dying(self, patches, iteration, *args):
        if iteration == after:
            raise KeyboardInterrupt
        return step(self, patches, iteration, *args)

    monkeypatch.setattr(Step, "__call__", dying)


def recorded_steps(monkeypatch):
    """Return a list that receives the iterations of all later steps."""
    steps = []
    step = Step.__call__
    monkeypatch.setattr(Step, "__call__", lambda self, *args: (steps.append(args[1]), step(self, *args))[1])
    return steps


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_interrupted_training_ends_with_the_same_bytes(inputs, tmp_path, monkeypatch, optimizer):
    whole = run(inputs, tmp_path / "whole", optimizer=optimizer)
    with monkeypatch.context() as patch:
        interrupted(patch, after=7)
        with pytest.raises(KeyboardInterrupt):
            run(inputs, tmp_path / "cut", optimizer=optimizer)
    checkpoint = tmp_path / "cut/model.checkpoint.pt"
    assert checkpoint.exists() and not (tmp_path / "cut/model.pt").exists()
    steps = recorded_steps(monkeypatch)
    assert same(run(inputs, tmp_path / "cut", optimizer=optimizer), whole)
    assert steps == list(range(4, 12))
    for name in ("model.pt", "history.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def set_version(monkeypatch, version):
    """Pretend that bordure has this version."""
    for name in ("pipeline_lib.provenance.version", "pipeline_lib.provenance.record.version"):
        monkeypatch.setattr(name, lambda: version)


def test_provenance_lists_all_versions_that_trained_a_model(inputs, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupted(patch, after=7)
        set_version(patch, "0.0 (old)")
        with pytest.raises(KeyboardInterrupt):
            run(inputs, tmp_path)
    set_version(monkeypatch, "0.1 (new)")
    run(inputs, tmp_path)
    record = Model.load(tmp_path / "model.pt").provenance
    assert record["version"] == "0.1 (new)" and record["versions"] == ["0.0 (old)", "0.1 (new)"]


def test_full_device_is_reported(inputs, tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB.\nMore")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(
        InputError, match=r"^training: .* \(CUDA out of memory. Tried to allocate 2 MiB.\).*nvidia-smi"
    ):
        run(inputs, tmp_path)


def test_checkpoint_with_other_settings_is_ignored(inputs, tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        interrupted(patch, after=7)
        with pytest.raises(KeyboardInterrupt):
            run(inputs, tmp_path / "a", learning_rate=0.5)
    resumed = run(inputs, tmp_path / "a")
    assert "belongs to other settings or data" in caplog.text
    assert same(resumed, run(inputs, tmp_path / "b"))
    (tmp_path / "a/model.checkpoint.pt").write_bytes(b"cut short")
    assert same(run(inputs, tmp_path / "a"), resumed)


def scores(loss, v_rand_thin):
    return {"loss": loss, "v_rand_thin": v_rand_thin}


@pytest.mark.parametrize("best_by", ["loss", "v_rand_thin"])
def test_model_has_the_best_state_by_validation(inputs, tmp_path, monkeypatch, best_by):
    """With simulated scores: loss and V-Rand select different states, and neither selects the last one."""
    values = {4: scores(0.5, 0.9), 8: scores(0.3, 0.6), 12: scores(0.9, 0.1)}
    iterations = iter(values)
    monkeypatch.setattr(training, "validate", lambda *_: values[next(iterations)])
    kept = run(inputs, tmp_path / "whole", best_by=best_by, decay="constant")
    best = {"loss": 8, "v_rand_thin": 4}[best_by]
    assert Model.load(tmp_path / "whole/model.pt").provenance["best_iteration"] == best
    monkeypatch.undo()
    assert same(
        kept, run(inputs, tmp_path / "short", decay="constant", iterations=best, validation_interval=best)
    )


def test_a_resumed_training_remembers_the_best_state(inputs, tmp_path, monkeypatch):
    values = {4: scores(0.1, 0.5), 8: scores(0.3, 0.5), 12: scores(0.2, 0.5)}
    with monkeypatch.context() as patch:
        patch.setattr(training, "validate", lambda net, *_: values[4])
        interrupted(patch, after=7)
        with pytest.raises(KeyboardInterrupt):
            run(inputs, tmp_path)
    iterations = iter([8, 12])
    monkeypatch.setattr(training, "validate", lambda *_: values[next(iterations)])
    run(inputs, tmp_path)
    assert Model.load(tmp_path / "model.pt").provenance["best_iteration"] == 4


def test_training_killed_before_the_model_was_saved_writes_its_history_again(inputs, tmp_path, monkeypatch):
    """It is killed between the last checkpoint and the model, and the workflow has deleted the history."""
    save = Model.save

    def dying(self, path, **more):
        if path.name == "model.pt":
            raise KeyboardInterrupt
        save(self, path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Model, "save", dying)
        with pytest.raises(KeyboardInterrupt):
            run(inputs, tmp_path)
    (tmp_path / "history.csv").unlink()
    run(inputs, tmp_path)
    assert list(pd.read_csv(tmp_path / "history.csv").iteration) == [4, 8, 12]


def test_finished_training_is_not_repeated(inputs, tmp_path, monkeypatch, caplog):
    """The workflow was killed before it recorded the job, and deletes the results of an unknown job."""
    caplog.set_level("INFO", "bordure")
    run(inputs, tmp_path)
    written = {path: path.read_bytes() for path in tmp_path.glob("[!.]*")}
    seconds = read_tensors(tmp_path / "model.checkpoint.pt")["training"]["seconds"]
    for name in ("model.pt", "history.csv"):
        (tmp_path / name).unlink()
    interrupted(monkeypatch, after=0)
    run(inputs, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.glob("[!.]*")} == written
    assert re.search(
        r"model\.checkpoint\.pt contains a finished training\. Delete this file to train again\.", caplog.text
    )
    assert provenance.find_record(tmp_path / "model.pt")["seconds"] > seconds > 0
    monkeypatch.undo()
    (tmp_path / "model.checkpoint.pt").unlink()
    run(inputs, tmp_path)
    assert all(path.read_bytes() == content for path, content in written.items() if "check" not in path.name)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_step_follows_the_formulas_of_the_optimisers(tmp_path, optimizer):
    """Two steps of two weights, compared with explicit formulas of SGD and Adam."""
    settings = Settings(optimizer=optimizer, learning_rate=0.1, momentum=0.9, weight_decay=0.01, warm_up=4)
    net = torch.nn.Conv2d(1, 2, 1, bias=False)
    net.plan = SimpleNamespace(reduction=1)
    torch.nn.init.constant_(net.weight, 0.5)
    step = step_of(settings, net)
    patch = torch.ones(1, 1, 1, 1), torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)  # image; class and weight
    w, velocity, m, v = np.array([0.5, 0.5]), 0.0, 0.0, 0.0
    for iteration in (1, 2):
        step([patch], iteration - 1)
        p = np.exp(w) / np.exp(w).sum()
        gradient = 3.0 * (p - [0, 1]) + 0.01 * w
        rate = 0.1 * iteration / 4
        if optimizer == "sgd":
            velocity = 0.9 * velocity + gradient
            w = w - rate * velocity
        else:
            m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            w = w - rate * (m / (1 - 0.9**iteration)) / (np.sqrt(v / (1 - 0.999**iteration)) + 1e-8)
        np.testing.assert_allclose(net.weight.detach().numpy().ravel(), w, rtol=1e-5)


def test_key_of_a_checkpoint_depends_only_on_what_affects_the_result():
    record = {
        "settings": {"seed": 1, "training": {"tile": 52, "start_from": "a.pt"}},
        "inputs": {"a.h5": "12"},
        "environment": {"device": "cuda", "threads": 1},
        "version": "1",
    }
    key = training.key_of(record)
    assert key == training.key_of(record | {"version": "2", "inputs": {"moved/a.h5": "12"}})
    assert key == training.key_of(record | {"environment": {"device": "cuda", "threads": 8}})
    assert key == training.key_of(record | {"environment": record["environment"] | {"processes": 4}})
    assert key != training.key_of(record | {"inputs": {"a.h5": "34"}})
    settings = record["settings"]
    assert key != training.key_of(record | {"settings": settings | {"seed": 2}})
    assert key != training.key_of(record | {"settings": settings | {"training": {"tile": 60}}})
    assert key == training.key_of(
        record | {"settings": settings | {"training": {"tile": 52, "start_from": "moved/a.pt"}}}
    )
    assert key != training.key_of(record | {"environment": {"device": "cpu"}})


def test_validation_images_with_another_type_are_rejected_before_training(inputs, tmp_path):
    with layout.require(inputs[2][0]) as source, layout.create(tmp_path / "other.h5", {}) as file:
        layout.add(file, layout.RAW, source["raw"].shape, np.uint16)[:] = source["raw"][:]
        layout.write_findings(file, {"gray": summary(file["raw"]), "annotation": None})
        for array in (layout.LABELS, layout.SEPARATION_BORDER):
            layout.add(file, array, source[array.name].shape)[:] = source[array.name][:]
    with pytest.raises(InputError, match=r"other\.h5: uint16 gray levels from .* training images are uint8"):
        run([*inputs[:2], [tmp_path / "other.h5"], *inputs[3:]], tmp_path)


def test_validation_scores_are_weighted_cross_entropy_and_v_rand(inputs, tmp_path):
    """They are computed independently, over whole sections; the class weights are undone for V-Rand only."""
    run(inputs, tmp_path, iterations=4)
    model = Model.load(tmp_path / "model.pt")
    net = model.network.eval()
    with layout.require(inputs[2][0]) as data, layout.require(inputs[3][0]) as weights:
        raw, labels, border, w = (
            data["raw"][0],
            data["labels"][:],
            data["separation_border"][:],
            weights["weight_map"][:],
        )
        w_c = weights["weight_map"].attrs["w_c"]
    context = net.geometry.context
    energy, v_rand = [], []
    for z in range(2):
        size = [net.geometry.input_size(n) for n in raw.shape[1:]]
        padding = [(context, s - context - n) for s, n in zip(size, raw.shape[1:], strict=True)]
        image = model.normalisation.apply(
            np.pad(raw[z], padding, mode="reflect")[None], np.arange(size[0]), np.arange(size[1])
        )
        with torch.no_grad():
            log_p = net(torch.from_numpy(image)[None])[0, :, :60, :64].log_softmax(0).numpy()
        target = (labels[z] > 0) & (border[z] == 0)
        energy.append(-(w[z] * np.where(target, log_p[1], log_p[0])).mean())
        odds = np.exp(log_p[1].astype(float) - log_p[0]) * w_c[0] / w_c[1]
        scores = metrics.isbi_scores(
            cells_apart(labels[z], border[z]), odds / (1 + odds), thresholds=np.arange(1, 10) / 10
        )
        v_rand.append(scores[scores.metric == "v_rand_thin"].value.to_numpy())
    history = pd.read_csv(tmp_path / "history.csv")
    assert history.validation_loss.iloc[-1] == pytest.approx(np.mean(energy), rel=1e-5)
    assert history.validation_v_rand_thin.iloc[-1] == pytest.approx(np.mean(v_rand, axis=0).max(), rel=1e-5)


class Cramped(module.UNet):
    """A network on a simulated device with `limit` bytes of memory for activations."""

    limit = 0

    def forward(self, x):
        kept = []

        def keep(tensor):
            kept.append(tensor.untyped_storage().nbytes())
            if sum(kept) > self.limit:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate much.")
            return tensor

        if not self.training:
            return super().forward(x)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            return super().forward(x)


@pytest.fixture
def cramped(monkeypatch, caplog):
    caplog.set_level("INFO", "bordure")
    monkeypatch.setattr(module, "UNet", Cramped)
    return functools.partial(monkeypatch.setattr, Cramped, "limit")


PLAIN = NETWORK | {"batch_normalisation": False}


def test_with_little_memory_activations_are_computed_twice_and_the_model_is_the_same(
    inputs, tmp_path, cramped, caplog
):
    cramped(10**9)
    whole = run(inputs, tmp_path / "whole", network=PLAIN)
    cramped(300_000)
    assert same(run(inputs, tmp_path / "cramped", network=PLAIN), whole)
    assert "computed twice instead of kept" in caplog.text and "continues with tiles" not in caplog.text


def test_with_very_little_memory_tiles_are_smaller_with_a_warning(inputs, tmp_path, cramped, caplog):
    cramped(150_000)
    trained = run(inputs, tmp_path / "cramped", network=PLAIN)
    record = Model.load(tmp_path / "cramped/model.pt").provenance
    (size,) = set(re.findall(r"Set `training.tile: (\d+)`", caplog.text))
    assert record["smallest_tile"] == int(size)
    # not the same: the patches have the centres of patches of the full size
    assert not same(trained, run(inputs, tmp_path / "small", network=PLAIN, tile=int(size)))
    cramped(0)
    with pytest.raises(InputError, match=r"too small even for tiles of \d+ px .* lower `network.depth` or"):
        run(inputs, tmp_path / "none", network=PLAIN)


def test_state_is_saved_if_memory_runs_out_during_training(inputs, tmp_path, cramped, monkeypatch):
    """Another process fills the GPU at iteration 6. Later, training resumes and gives the same result."""
    cramped(10**9)
    whole = run(inputs, tmp_path / "whole", network=PLAIN)
    step = Step.__call__

    def occupied(self, patches, iteration, *args):
        if iteration == 6:
            cramped(0)
        return step(self, patches, iteration, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", occupied)
        with pytest.raises(
            InputError, match=r"even for tiles .*\.checkpoint\.pt contains the state of iteration 6 "
        ):
            run(inputs, tmp_path / "cut", network=PLAIN)
    cramped(10**9)
    assert same(run(inputs, tmp_path / "cut", network=PLAIN), whole)


def test_running_out_of_memory_in_validation_is_reported(inputs, tmp_path, monkeypatch):
    def full(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")

    monkeypatch.setattr(training, "validate", full)
    with pytest.raises(
        InputError, match=r"cpu ran out of memory \(CUDA .* 2 GiB\.\)\. Free its memory and run"
    ):
        run(inputs, tmp_path)


def test_smaller_tile_is_the_centre_of_the_patch(tmp_path):
    """A patch that is cropped by hand gives the same loss and the same step."""
    rng = torch.Generator().manual_seed(0)
    image, weights = torch.rand(1, 1, 52, 52, generator=rng), torch.rand(1, 36, 36, generator=rng)
    truth = torch.stack([torch.randint(0, 2, (1, 36, 36), generator=rng), weights], dim=1)
    patch, by_hand = (image, truth), (image[..., 4:48, 4:48], truth[..., 4:32, 4:32])
    losses, states = [], []
    for rim, batch in ((4, patch), (0, by_hand)):
        torch.manual_seed(0)
        net = networks.plan("unet", depth=1, base_channels=4).build()
        step = step_of(Settings(tile=52, optimizer="adam"), net)
        step.rim = rim
        losses.append(step([batch], 0)[0])
        states.append(net.state_dict())
    assert torch.equal(*losses) and same(*states)


@pytest.mark.parametrize("rim", [0, 4])
def test_batch_is_one_update_with_the_mean_gradient_of_its_patches(tmp_path, rim):
    """Compared with all patches in one pass, by plain SGD with rate 1, whose update is the gradient."""
    rng = torch.Generator().manual_seed(0)
    images, weights = torch.rand(3, 1, 52, 52, generator=rng), torch.rand(3, 36, 36, generator=rng)
    targets = torch.randint(0, 2, (3, 36, 36), generator=rng)
    settings = Settings(tile=52, batch=3, learning_rate=1.0, momentum=0.0, warm_up=0, decay="constant")
    plan = networks.plan("unet", depth=1, base_channels=4, dropout=0.0)
    step = step_of(settings, plan.build())
    step.rim = rim
    before = {name: p.detach().clone() for name, p in step.net.named_parameters()}
    loss, _ = step([*zip(images.split(1), torch.stack([targets, weights], 1).split(1), strict=True)], 0)
    joined = plan.build()
    joined.load_state_dict(before)
    inner = (..., slice(rim, 36 - rim), slice(rim, 36 - rim))
    expected = weighted_cross_entropy(
        joined(images[..., rim : 52 - rim, rim : 52 - rim]), targets[inner], weights[inner]
    )
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    for name, p in joined.named_parameters():
        update = before[name] - step.net.get_parameter(name).detach()
        torch.testing.assert_close(update, p.grad, rtol=1e-4, atol=1e-6)


def test_batch_normalisation_counts_a_batch_as_one_update(inputs, tmp_path):
    """The running mean moves by a tenth towards the mean over the patches of the batch."""
    still = {"iterations": 1, "learning_rate": 1e-30}
    together = run(inputs, tmp_path / "both", batch=2, **still)
    separate = []
    for number in (0, 1):  # the same patches, one at a time, and the same initial parameters
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Step, "share", lambda *_, number=number: [number])
            separate.append(run(inputs, tmp_path / str(number), **still))
    for name, found in together.items():
        if "running" in name:
            torch.testing.assert_close(found, (separate[0][name] + separate[1][name]) / 2)
            assert not torch.equal(separate[0][name], separate[1][name])
        if "tracked" in name:
            assert found == 1


def test_batch_normalisation_counts_each_tile_once(inputs, tmp_path, cramped, caplog):
    cramped(500_000)
    trained = run(inputs, tmp_path)
    assert "continues with tiles" in caplog.text and "computed twice" not in caplog.text
    assert all(count == TRAINING["iterations"] for name, count in trained.items() if "tracked" in name)


def patches_of(inputs, network):
    """Return the patches that `run` trains on."""
    with ExitStack() as stack:
        volumes = open_volumes(stack, tasks.load("segmentation").open, *inputs[:2])
        normalisation = Normalisation.from_dict(read_json(inputs[4])["normalisation"])
        context = network.geometry.context
        patches = Patches(
            volumes, normalisation, context, TRAINING["tile"], Augmentation(**AUGMENTATION), seed=0
        )
        return [patches.move(patches.read(number), torch.device("cpu")) for number in range(5)]


def test_statistics_of_the_model_are_means_over_tiles(inputs, tmp_path):
    """Compared with those of single tiles, which torch computes if each replaces the one before."""
    run(inputs, tmp_path, batch_normalisation_tiles=5, best_by="loss")
    network = Model.load(tmp_path / "model.pt").network
    found = {name: buffer.clone() for name, buffer in network.named_buffers()}
    tiles = [patch.image for patch in patches_of(inputs, network)]
    network.dropout.p = 0.0
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.momentum = 1.0
    of_tiles = []
    for tile in tiles:
        network.train()(tile)
        of_tiles.append({name: buffer.clone() for name, buffer in network.named_buffers()})
    for name in filter(re.compile("running").search, found):
        expected = torch.stack([statistics[name] for statistics in of_tiles]).mean(0)
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)
        assert (of_tiles[0][name] - expected).abs().max() > 1e-3  # tiles differ
    torch.optim.swa_utils.update_bn(tiles, network)
    for name, buffer in network.named_buffers():
        if "running" in name:
            torch.testing.assert_close(found[name], buffer, rtol=1e-5, atol=1e-6)


def test_estimated_statistics_change_nothing_else(inputs, tmp_path):
    """Neither do those of earlier validations: the last one has the same scores without them."""
    settings = {"validation_interval": 12, "batch_normalisation_tiles": 3}
    plain = run(inputs, tmp_path / "plain", validation_interval=12)
    assert same(run(inputs, tmp_path / "off", **settings | {"batch_normalisation_tiles": 0}), plain)
    estimated = run(inputs, tmp_path / "estimated", **settings)
    for name in plain:
        assert torch.equal(plain[name], estimated[name]) == ("running" not in name), name
    run(inputs, tmp_path / "often", **settings | {"validation_interval": 4})
    once, often = (pd.read_csv(tmp_path / name / "history.csv") for name in ("estimated", "often"))
    assert list(often.iteration) == [4, 8, 12] and list(once.iteration) == [12]
    assert often.validation_loss.iloc[-1] == once.validation_loss.iloc[-1]


@pytest.mark.parametrize("when", ["estimate_statistics", "validate"])
def test_training_interrupted_in_a_validation_ends_with_the_same_bytes(inputs, tmp_path, monkeypatch, when):
    """In the second one, before and after the statistics are replaced."""
    whole = run(inputs, tmp_path / "whole", batch_normalisation_tiles=3)
    original, calls = getattr(training, when), []

    def ending(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return original(*arguments)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # torch's launcher replaces it
    with monkeypatch.context() as patch:
        patch.setattr(training, when, ending)
        with pytest.raises(KeyboardInterrupt):
            run(inputs, tmp_path / "cut", batch_normalisation_tiles=3)
    signal.signal(signal.SIGINT, before)
    assert read_tensors(tmp_path / "cut/model.checkpoint.pt")["training"]["iteration"] == 8
    assert same(run(inputs, tmp_path / "cut", batch_normalisation_tiles=3), whole)


def test_statistics_are_those_of_tiles_as_small_as_memory_allows(inputs, tmp_path, cramped, monkeypatch):
    original, sizes = training.estimate_statistics, set()

    def recording(net, tiles, *others):
        tiles = list(tiles)
        sizes.update(image.shape[-1] for _, image in tiles)
        original(net, tiles, *others)

    monkeypatch.setattr(training, "estimate_statistics", recording)
    cramped(500_000)
    run(inputs, tmp_path, batch_normalisation_tiles=2)
    assert sizes == {Model.load(tmp_path / "model.pt").provenance["smallest_tile"]}


def test_tiles_for_statistics_need_batch_normalisation(inputs, tmp_path):
    with pytest.raises(
        InputError,
        match=r"training\.batch_normalisation_tiles: found 3, but this network has no batch normalisation\. "
        r"To solve this, set `network\.batch_normalisation: true`, or remove the key\.",
    ):
        run(inputs, tmp_path, network=PLAIN, batch_normalisation_tiles=3)


def test_nan_loss_is_reported_with_what_to_change(inputs, tmp_path):
    with pytest.raises(InputError, match=r"loss became nan in .*training\.learning_rate. \(now 1e\+30\)"):
        run(
            inputs,
            tmp_path,
            learning_rate=1e30,
            warm_up=0,
            optimizer="sgd",
            network=NETWORK | {"batch_normalisation": False},
        )
    assert not (tmp_path / "model.pt").exists() and not (tmp_path / "model.checkpoint.pt").exists()


def spoiled(monkeypatch, iteration, spoil):
    """Call `spoil` after this iteration."""
    step = Step.__call__

    def spoiling(self, patches, before, *args):
        loss, ending = step(self, patches, before, *args)
        if before + 1 == iteration:
            spoil(self, loss)
        return loss, ending

    monkeypatch.setattr(Step, "__call__", spoiling)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_or_infinite_loss_is_detected_and_the_last_good_state_is_kept(
    inputs, tmp_path, monkeypatch, value
):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    monkeypatch.setattr(state, "SECONDS_BETWEEN_SAVES", 0)
    spoiled(monkeypatch, 7, lambda _, loss: loss.fill_(value))
    kept = r"contains the state of iteration 6 and the best model so far \(iteration 4\);"
    with pytest.raises(InputError, match=rf"the loss became {value} in iteration 7\..* {kept}"):
        run(inputs, tmp_path)
    checkpoint = tmp_path / "model.checkpoint.pt"
    assert read_tensors(checkpoint)["training"]["iteration"] == 6
    found = Model.load(checkpoint)
    monkeypatch.undo()
    run(inputs, tmp_path / "four")  # the same model until iteration 4
    with monkeypatch.context() as patch:
        interrupted(patch, after=5)
        with pytest.raises(KeyboardInterrupt):
            run(inputs, tmp_path / "five")
    best = read_tensors(tmp_path / "five/model.checkpoint.pt")["training"]["net"]
    assert found.provenance["best_iteration"] == 4 and same(found.network.state_dict(), best)


def test_infinite_parameters_are_not_saved(inputs, tmp_path, monkeypatch):
    """The loss of the iteration in which they became infinite is still finite."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    monkeypatch.setattr(state, "SECONDS_BETWEEN_SAVES", 0)
    spoiled(monkeypatch, 7, lambda step, _: next(step.net.parameters()).data[0].fill_(math.inf))
    with pytest.raises(InputError, match=r"parameters became infinite in iteration 7.*state of iteration 6"):
        run(inputs, tmp_path)
    assert read_tensors(tmp_path / "model.checkpoint.pt")["training"]["iteration"] == 6


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.01, [15, 30, 45, 60, 75, 90]),  # at each log line
        (0.25, [15, 45, 76]),  # at the first log line after 100 times the duration of a save
        (60, [15, 376, 737]),  # every 300 s, however long a save takes (here 60 s)
    ],
)
def test_interval_between_saves_depends_on_their_duration(inputs, tmp_path, monkeypatch, seconds, expected):
    """With a simulated clock: an iteration takes 1 s and a save `seconds`."""
    now, saves = [0.0], []

    def step(*_):
        now[0] += 1
        return torch.tensor(0.5), False

    def write(path, content, *_):
        saves.append(round(now[0]))
        now[0] += seconds

    for part in (progress, state):
        monkeypatch.setattr(part, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Step, "__call__", step)
    monkeypatch.setattr(state, "write_tensors", write)
    count = 800 if seconds == 60 else 100
    interrupted(monkeypatch, after=count)
    with pytest.raises(KeyboardInterrupt):
        run(inputs, tmp_path, iterations=2000, validation_interval=2000)
    assert saves == expected


def test_times_of_interrupted_trainings_are_added(inputs, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupted(patch, after=7)
        with pytest.raises(KeyboardInterrupt):
            run(inputs, tmp_path)
    checkpoint = tmp_path / "model.checkpoint.pt"
    content = read_tensors(checkpoint)
    assert 0 < content["training"]["seconds"] < 1000
    content["training"]["seconds"] = 1000.0
    write_tensors(checkpoint, content)
    run(inputs, tmp_path)
    assert 1000 < provenance.find_record(tmp_path / "model.pt")["seconds"] < 1100


def test_damaged_checkpoint_is_reported_and_training_starts_from_the_beginning(
    inputs, tmp_path, monkeypatch, caplog
):
    whole = run(inputs, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupted(patch, after=7)
        with pytest.raises(KeyboardInterrupt):
            run(inputs, tmp_path / "cut")
    checkpoint = tmp_path / "cut/model.checkpoint.pt"
    content = bytearray(checkpoint.read_bytes())
    net = read_tensors(checkpoint)["training"]["net"]
    content[content.index(net["score.weight"].numpy().tobytes()) + 1] ^= 1
    checkpoint.write_bytes(content)
    assert torch.load(checkpoint, weights_only=True)["training"]["iteration"] == 4  # torch does not notice
    assert same(run(inputs, tmp_path / "cut"), whole)
    assert re.search(r"checkpoint\.pt: not a readable .* checksum .* starts from the beginning", caplog.text)


def test_invalid_tile_is_rejected_before_training(inputs, tmp_path):
    with pytest.raises(InputError, match="51 px is not valid"):
        run(inputs, tmp_path, tile=51)


def test_learning_rate_warms_up_and_decays():
    settings = Settings(learning_rate=2.0, warm_up=4, iterations=12, decay="cosine")
    rates = [learning_rate(i, settings) for i in range(12)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0 and rates[8] == pytest.approx(1.0)
    assert all(a > b > 0 for a, b in itertools.pairwise(rates[4:]))
    linear = Settings(learning_rate=2.0, warm_up=4, iterations=12, decay="linear")
    assert [learning_rate(i, linear) for i in (4, 8, 11)] == pytest.approx([2.0, 1.0, 0.25])
    constant = Settings(learning_rate=2.0, warm_up=0, iterations=12, decay="constant")
    assert {learning_rate(i, constant) for i in range(12)} == {2.0}


def test_a_score_that_is_not_known_is_never_the_best():
    """V-Rand is NaN in a validation that finds no cell, for example at the beginning."""
    settings = Settings(best_by="v_rand_thin", iterations=50)
    trained, net = state.State(smallest_tile=100), torch.nn.Linear(1, 1)
    kept = []
    for number, value in enumerate((math.nan, math.nan, 0.5, math.nan, 0.4, 0.7), 1):
        trained.iteration = number
        trained.keep(settings, 1.0, {"loss": 1.0, "v_rand_thin": value}, True, net)
        kept.append(trained.best_iteration)
    assert kept == [1, 2, 3, 3, 3, 6]


def test_a_batch_that_processes_cannot_share_and_an_unknown_score_are_refused(inputs, tmp_path):
    with pytest.raises(InputError, match=r"3 patches cannot be divided evenly .* `training\.batch: 6`"):
        training.train(
            *inputs,
            tmp_path / "model.pt",
            tmp_path / "history.csv",
            network=NETWORK,
            training=TRAINING | {"batch": 3},
            augmentation=AUGMENTATION,
            seed=0,
            processes=SimpleNamespace(number=2),
        )
    with pytest.raises(InputError, match=r"training\.best_by: found `seg`, expected .*: loss, v_rand_thin"):
        run(inputs, tmp_path, best_by="seg")


def test_training_volumes_with_other_weights_of_classes_are_refused():
    truths = [SimpleNamespace(class_weights=own) for own in (None, np.array([1.0, 2.0]))]
    assert training._class_weights(truths[:1] * 2, ["a.h5", "b.h5"], 2).tolist() == [1, 1]
    assert training._class_weights(truths[1:] * 2, ["a.h5", "b.h5"], 2).tolist() == [1, 2]
    with pytest.raises(
        InputError, match=r"^b\.h5: its classes have the weights \[1\.0, 2\.0\], but those of a"
    ):
        training._class_weights(truths, ["a.h5", "b.h5"], 2)
