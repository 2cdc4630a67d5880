"""Networks that start from trained ones: what is copied and trained, and from a classifier to FCN-8s."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch
from bordure import starts, study
from test_training import TRAINING, interrupted, run, same, step_of
from test_training import inputs as inputs
from torch import nn

from pipeline_lib import networks, tasks
from pipeline_lib.data.normalisation import Normalisation, measure
from pipeline_lib.data.patches import open_volumes
from pipeline_lib.networks import parts, transfer
from pipeline_lib.networks.model import Model
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json
from pipeline_lib.training.schedule import Settings, make_optimizer
from pipeline_lib.training.statistics import estimate_statistics
from pipeline_lib.training.validation import validate

UNET = {"depth": 1, "base_channels": 4}
NORMALISED = {"name": "unet", **UNET, "batch_normalisation": True, "dropout": 0.5}
# of the small networks of a classifier, an FCN and the next FCN
ENCODER = {
    "channels": [6, 8, 12],
    "convolutions": [1],
    "kernel_sizes": [3],
    "fc_channels": [16],
    "dropout": 0.0,
}
CLASSIFIER = {**ENCODER, "window": 38}
FCN = {**ENCODER, "fc_size": 3}


def built(name, seed=0, **settings):
    torch.manual_seed(seed)
    net = networks.plan(name, **settings).build()
    with torch.no_grad():  # also what starts as 0 or 1
        for tensor in net.state_dict().values():
            tensor += (torch.rand_like(tensor) - 0.5) / 4 if tensor.is_floating_point() else 7
    return net


def started(source, target, same_classes=True):
    """Return what happens to each layer, after the parameters of `source` are copied to `target`."""
    found = transfer.match(source.plan, target.plan, same_classes)
    transfer.transfer(found, source, target)
    return found.summary()


def write_model(path, net, gray=None, **entries):
    images = np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8) if gray is None else gray
    images = np.repeat(images, net.plan.input_channels, axis=0)
    Model(net.plan, net, measure("mean_std", [images]), **entries).save(path)
    return str(path)


def saved(path):
    return Model.load(path).network.state_dict()


# ------------------------------------------------------------------------------------- what is copied


def test_equal_networks_are_the_same_afterwards_also_in_their_statistics():
    source, target = (built("unet", seed, **UNET, batch_normalisation=True) for seed in (0, 1))
    assert started(source, target) == {
        "copied": ["down", "up", "merge", "score"],
        "summed": [],
        "initialised": [],
        "left_out": [],
    }
    assert same(source.state_dict(), target.state_dict())
    assert {"down.0.1.running_var", "down.0.1.num_batches_tracked"} < {*source.state_dict()}


def test_other_layers_keep_their_initialisation_and_are_listed():
    """A deeper U-Net has one more level, and other layers where the channels of levels differ."""
    source, target = built("unet", 0, **UNET), built("unet", 1, depth=2, base_channels=4)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    assert started(source, target) == {
        "copied": ["down.0", "down.1", "score"],
        "summed": [],
        "initialised": ["down.2", "up", "merge"],
        "left_out": [],
    }
    for name, tensor in target.state_dict().items():
        copied = name.startswith(("down.0.", "down.1.", "score."))
        assert torch.equal(tensor, (source.state_dict() if copied else before)[name]), name


def test_a_layer_is_copied_as_a_whole_or_not_at_all():
    """The bias would fit the layer of another kernel size; alone it would make no sense."""
    source = built("unet", 0, **UNET, upsampling="nearest")
    target = built("unet", 1, **UNET, upsampling="bilinear")
    bias = target.up[0][2].bias if len(target.up[0]) > 2 else target.up[0][1].bias
    before = bias.clone()
    assert "up" in started(source, target)["initialised"]
    assert torch.equal(bias, before)


def test_what_has_no_place_is_left_out():
    source, target = built("unet", 0, depth=2, base_channels=4), built("unet", 1, **UNET)
    found = started(source, target)
    assert found["left_out"] == ["down.2", "up.1", "merge.1"]
    assert found["copied"] == ["down", "score"]


@pytest.mark.parametrize("other", [{"classes": 3}, {}])
def test_score_layer_is_drawn_anew_if_number_or_names_of_classes_differ(other):
    source, target = built("unet", 0, **UNET), built("unet", 1, **UNET, **other)
    drawn = target.score.weight.clone()
    found = started(source, target, same_classes=False)
    assert found["copied"] == ["down", "up", "merge"] and found["initialised"] == ["score"]
    assert torch.equal(target.score.weight, drawn)


def test_all_layers_of_classes_of_an_fcn_are_drawn_anew():
    source, target = built("fcn8s", 0, **FCN), built("fcn8s", 1, **FCN)
    found = started(source, target, same_classes=False)
    assert found["copied"] == ["encoder", "fc"]
    assert found["initialised"] == ["score", "skip_scores", "doublings", "enlarge"]


def test_classes_are_the_same_if_names_and_order_are_or_none_are_known():
    assert transfer.same_classes(["background", "cell"], ("background", "cell"))
    assert transfer.same_classes([], ("background", "cell"))
    assert not transfer.same_classes(["cell", "background"], ("background", "cell"))
    assert not transfer.same_classes(["background", "cell"], ("background", "cell", "border"))


@pytest.mark.parametrize("name, settings", [("unet", UNET), ("patch_classifier", CLASSIFIER)])
def test_gray_image_gives_what_it_gives_as_a_colour_image(name, settings):
    source = built(name, 0, **settings, input_channels=3).double().eval()
    target = built(name, 1, **settings).double().eval()
    found = started(source, target)
    first = "down.0.0" if name == "unet" else "encoder.levels.0"
    assert found["summed"] == [first] and found["initialised"] == []
    gray = torch.randn(1, 1, 44, 44, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(target(gray), source(gray.expand(1, 3, 44, 44)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("before, after", [(1, 3), (2, 1), (3, 2)])
def test_first_layer_of_other_channels_is_drawn_anew(before, after):
    source = built("unet", 0, **UNET, input_channels=before)
    found = started(source, built("unet", 1, **UNET, input_channels=after))
    assert found["initialised"] == ["down.0.0"] and found["summed"] == []


def test_kernels_are_summed_only_over_channels_of_the_image():
    """The score layer would fit, too: a U-Net of 3 base channels has 3 features where this one has 1."""
    source = built("unet", 0, depth=1, base_channels=3, input_channels=3)
    with pytest.raises(InputError, match="no layer"):
        transfer.match(source.plan, networks.plan("unet", depth=1, base_channels=1))


def test_networks_without_a_common_layer_are_refused():
    with pytest.raises(
        InputError,
        match=r"no layer of this patch_classifier .* unet of this config\. Its parts are encoder, fc, score; "
        r"those of the unet are down, up, merge, score\.",
    ):
        transfer.match(networks.plan("patch_classifier"), networks.plan("unet"))


# ---------------------------------------------------------------------------------- what is trained


def test_parts_end_at_dots():
    assert parts.contains("up", "up.0.weight") and parts.contains("up.0", "up.0")
    assert not parts.contains("up", "upper.0.weight") and not parts.contains("up.1", "up.10.weight")


@pytest.mark.parametrize(
    "part, message",
    [
        (
            "dwon",
            r"training\.freeze: found `dwon`, .* The parts of this network are down, up, merge, score\.",
        ),
        ("down.2", r"found `down\.2`, .* The parts of `down` are down\.0, down\.1\."),
        ("score.weights", r"The parts of `score` are score\.weight, score\.bias\."),
    ],
)
def test_parts_that_do_not_exist_are_refused_with_those_that_do(part, message):
    plan = networks.plan("unet", **UNET)
    with pytest.raises(InputError, match=message):
        plan.require_training(TRAINING | {"freeze": ["down.0", part]})
    with pytest.raises(InputError, match=message.replace("freeze", "learning_rate_factors")):
        plan.require_training(TRAINING | {"learning_rate_factors": {part: 0.1}})


def test_a_network_of_which_nothing_is_trained_is_refused():
    plan = networks.plan("unet", **UNET)
    plan.require_training(TRAINING | {"freeze": ["down", "up", "merge", "score.weight"]})
    with pytest.raises(InputError, match=r"training\.freeze: found down, up, merge, score, which are all"):
        plan.require_training(TRAINING | {"freeze": ["down", "up", "merge", "score"]})


def test_factors_of_frozen_parts_are_refused():
    plan = networks.plan("unet", **UNET)
    with pytest.raises(
        InputError, match=r"learning_rate_factors: found `down`.* network are up, merge, score"
    ):
        plan.require_training(TRAINING | {"freeze": ["down"], "learning_rate_factors": {"down": 0.1}})


def test_normalisation_is_kept_only_of_a_model():
    with pytest.raises(InputError, match=r"training\.keep_normalisation: has no meaning without"):
        networks.plan("unet", **UNET).require_training(TRAINING | {"keep_normalisation": False})


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("batch", [1, 3])
def test_frozen_parts_stay_to_the_bit_also_their_statistics(inputs, tmp_path, optimizer, batch):
    """Means over 3 patches of a constant are not exactly this constant."""
    start = write_model(tmp_path / "start.pt", built(**NORMALISED))
    settings = {"optimizer": optimizer, "weight_decay": 0.1, "batch": batch, "batch_normalisation_tiles": 2}
    found = run(
        inputs, tmp_path, NORMALISED, start_from=start, freeze=["down.0", "up"], iterations=4, **settings
    )
    before = saved(start)
    for name in found:
        frozen = name.startswith(("down.0.", "up."))
        assert torch.equal(found[name], before[name]) == frozen, name


def test_drop_out_of_a_frozen_network_stays_active():
    net = built(**NORMALISED | {"depth": 2})
    net.down[1].append(nn.Dropout(0.5))  # also within a frozen part
    net.train()
    net.freeze(["down"])
    assert net.dropout.training and net.down[1][-1].training and net.score.training
    assert not net.down[0][1].training and net.merge[0][1].training
    assert not net.eval().merge[0][1].training
    net.train()
    assert not net.down[0][1].training and net.merge[0][1].training
    tile = torch.randn(1, 1, net.geometry.smallest, net.geometry.smallest)
    assert not torch.equal(net(tile), net(tile))


def test_statistics_of_frozen_parts_are_not_estimated():
    net = built(**NORMALISED | {"dropout": 0.0})
    net.freeze(["down"])
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    tiles = [(n, torch.randn(1, 1, 44, 44)) for n in range(3)]
    estimate_statistics(net, tiles)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]) == ("merge" not in name or "running" not in name), name


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_learning_rate_factors_are_those_of_separate_trainings(optimizer):
    """The first step from the same parameters: the update is proportional to the learning rate."""
    factors = {"down": 0.1, "down.0": 0.01, "score": 3.0}

    def update(**more):
        settings = Settings(tile=44, optimizer=optimizer, learning_rate=1e-3, warm_up=0, iterations=2, **more)
        net = built("unet", **UNET).double()
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        optimiser = make_optimizer(net, settings)
        step = step_of(settings, net)
        step.optimizer = optimiser
        torch.manual_seed(1)
        truth = torch.stack([torch.randint(2, (28, 28)), torch.ones(28, 28)])[None]
        step([(torch.randn(1, 1, 44, 44, dtype=torch.double), truth)], 0)
        return {name: p.detach() - before[name] for name, p in net.named_parameters()}

    plain, changed = update(), update(learning_rate_factors=factors)
    for name in plain:
        factor = {"down.0": 0.01, "down.1": 0.1}.get(name[:6], 3.0 if name.startswith("score") else 1.0)
        torch.testing.assert_close(changed[name], plain[name] * factor, rtol=1e-9, atol=1e-15)
        assert plain[name].abs().max() > 0


def test_without_factors_all_parameters_are_one_group():
    net = built("unet", **UNET)
    [group] = make_optimizer(net, Settings()).param_groups
    assert all(a is b for a, b in zip(group["params"], net.parameters(), strict=True))


# ------------------------------------------------------------------------------------- training stage


def test_started_training_begins_with_the_copied_parameters(inputs, tmp_path):
    """A learning rate that changes nothing in float32 leaves the parameters of the start."""
    start = write_model(tmp_path / "start.pt", built(name="unet", **UNET), classes=CLASSES)
    settings = {"optimizer": "sgd", "learning_rate": 1e-30, "start_from": start}
    found = run(inputs, tmp_path, {"name": "unet", **UNET}, **settings)
    assert same(saved(start), found)
    other = write_model(tmp_path / "other.pt", built(name="unet", **UNET), classes=["dust", "cell"])
    drawn = run(inputs, tmp_path / "drawn", {"name": "unet", **UNET}, **settings | {"start_from": other})
    assert {name for name in drawn if not torch.equal(drawn[name], found[name])} == {
        "score.weight",
        "score.bias",
    }


CLASSES = tasks.load("segmentation").class_names


def test_log_and_provenance_list_what_became_of_the_layers(inputs, tmp_path, caplog):
    start = write_model(tmp_path / "start.pt", built("unet", depth=2, base_channels=4))
    with caplog.at_level(logging.INFO):
        run(inputs, tmp_path, {"name": "unet", **UNET}, start_from=start)
    lines = [record.getMessage() for record in caplog.records if "start" in record.getMessage()]
    assert lines[0] == f"starting from {start} (unet): copied: down, score"
    assert lines[1].endswith("or of another shape; initialised: up, merge")
    assert lines[2] == f"starting from {start} (unet): left out: down.2, up.1, merge.1"
    assert "normalisation (mean_std): that of the model to start from" in lines[3]
    record = Model.load(tmp_path / "model.pt").provenance
    assert record["start"] == {
        "network": "unet",
        "kept_normalisation": True,
        "copied": ["down", "score"],
        "summed": [],
        "initialised": ["up", "merge"],
        "left_out": ["down.2", "up.1", "merge.1"],
    }
    assert start in record["inputs"]


def test_normalisation_of_the_start_is_kept_unless_told_otherwise(inputs, tmp_path):
    start = write_model(tmp_path / "start.pt", built("unet", **UNET))
    measured = Normalisation.from_dict(read_json(inputs[4])["normalisation"])
    old = Model.load(start).normalisation
    assert old.scale != measured.scale
    for keep, expected in ((None, old), (True, old), (False, measured)):
        setting = {} if keep is None else {"keep_normalisation": keep}
        run(inputs, tmp_path / str(keep), {"name": "unet", **UNET}, start_from=start, iterations=1, **setting)
        assert Model.load(tmp_path / str(keep) / "model.pt").normalisation.to_dict() == expected.to_dict()


def test_normalisation_of_other_channels_is_measured(inputs, tmp_path):
    start = write_model(tmp_path / "start.pt", built("unet", **UNET, input_channels=3))
    run(inputs, tmp_path, {"name": "unet", **UNET}, start_from=start, iterations=1)
    model = Model.load(tmp_path / "model.pt")
    assert model.normalisation.to_dict() == read_json(inputs[4])["normalisation"]
    assert model.provenance["start"]["summed"] == ["down.0.0"]
    with pytest.raises(
        InputError, match=r"keep_normalisation: .* trained on 3 channels, and these .* have 1\."
    ):
        run(inputs, tmp_path, {"name": "unet", **UNET}, start_from=start, keep_normalisation=True)


def test_images_of_another_gray_scale_are_refused_with_both_ways_out(inputs, tmp_path):
    gray = np.arange(0, 64000, 1000, dtype=np.uint16).reshape(1, 1, 8, 8)
    start = write_model(tmp_path / "start.pt", built("unet", **UNET), gray=gray)
    with pytest.raises(
        InputError,
        match=r"train\.h5: uint8 gray levels.*training images are uint16.*column `scale`.*"
        r"`training\.keep_normalisation: false` measures it on the new images",
    ):
        run(inputs, tmp_path, {"name": "unet", **UNET}, start_from=start)
    run(inputs, tmp_path, {"name": "unet", **UNET}, start_from=start, keep_normalisation=False, iterations=1)


def test_interrupted_training_from_a_start_ends_with_the_same_bytes(inputs, tmp_path, monkeypatch):
    start = write_model(tmp_path / "start.pt", built(**NORMALISED))
    settings = {"start_from": start, "freeze": ["down.0"], "learning_rate_factors": {"up": 0.1}}
    run(inputs, tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        interrupted(patch, after=7)
        with pytest.raises(KeyboardInterrupt):
            run(inputs, tmp_path / "cut", **settings)
    run(inputs, tmp_path / "cut", **settings)
    for name in ("model.pt", "history.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_training_resumes_only_from_the_same_start(inputs, tmp_path, monkeypatch, caplog):
    """The content of the file counts, not its path."""
    start, moved = write_model(tmp_path / "start.pt", built(**NORMALISED)), tmp_path / "moved.pt"
    with monkeypatch.context() as patch:
        interrupted(patch, after=7)
        with pytest.raises(KeyboardInterrupt):
            run(inputs, tmp_path / "cut", start_from=start)
    checkpoint = (tmp_path / "cut/model.checkpoint.pt").read_bytes()
    moved.write_bytes((tmp_path / "start.pt").read_bytes())
    with caplog.at_level(logging.INFO):
        run(inputs, tmp_path / "cut", start_from=str(moved))
    assert "resuming at iteration 4" in caplog.text
    caplog.clear()
    (tmp_path / "cut/model.checkpoint.pt").write_bytes(checkpoint)
    other = write_model(tmp_path / "other.pt", built(seed=1, **NORMALISED))
    with caplog.at_level(logging.INFO):
        run(inputs, tmp_path / "cut", start_from=other)
    assert "belongs to other settings or data" in caplog.text


# ------------------------------------------------------------- from a patch classifier to FCN-8s


def cells_of(net, x):
    """Return the logits of the cells (coarse map) of an FCN."""
    return net.score_coarse(net.encoder(x)[-1])


def test_fcn_starts_with_the_coarse_map_of_the_classifier():
    """Each cell has the logits of the window that it sees, one in 8 px."""
    source, target = built("patch_classifier", 0, **CLASSIFIER), built("fcn32s", 1, **FCN)
    found = started(source, target)
    assert found["copied"] == ["encoder", "fc", "score"]
    assert found["initialised"] == ["enlarge"] and found["left_out"] == []
    x = torch.randn(1, 1, 62, 54)
    with torch.no_grad():
        windows = x.double()
        coarse = cells_of(target.double().eval(), windows)
        source.double().eval()
        for row in range(4):
            for column in range(3):
                window = windows[..., 8 * row : 8 * row + 38, 8 * column : 8 * column + 38]
                torch.testing.assert_close(
                    coarse[..., row, column], source.score_windows(window)[..., 0, 0], rtol=0, atol=1e-12
                )
    assert coarse.shape[2:] == (4, 3)


@pytest.mark.parametrize("before, after", [("fcn32s", "fcn16s"), ("fcn16s", "fcn8s")])
def test_next_fcn_starts_with_the_sum_of_the_one_before(before, after):
    """New skip connections start as 0, so what is enlarged is the earlier sum, doubled by interpolation."""
    source = built(before, 0, **FCN).double().eval()
    target = networks.plan(after, **FCN).build().double().eval()
    found = started(source, target)
    assert {"encoder", "fc", "score"} < {*found["copied"], "skip_scores.0", "doublings.0"}
    assert "enlarge" in found["initialised"] and found["left_out"] == []
    sums = {}
    for name, net in (("source", source), ("target", target)):
        net.enlarge.register_forward_pre_hook(lambda _, given, name=name: sums.update({name: given[0]}))
    x = torch.randn(1, 1, target.geometry.input_size(40), target.geometry.input_size(40), dtype=torch.double)
    with torch.no_grad():
        assert torch.equal(cells_of(source, x), cells_of(target, x))
        target(x)
        source(x)
    doubled = nn.functional.interpolate(sums["source"], scale_factor=2, mode="bilinear")[..., 1:-1, 1:-1]
    torch.testing.assert_close(sums["target"], doubled, rtol=0, atol=1e-12)
    assert sums["source"].std() > 0.1


def validation_loss(inputs, net, model):
    """Return the loss of a network that starts from a model, with its corrected probabilities."""
    from contextlib import ExitStack

    task = tasks.load("segmentation")
    with ExitStack() as stack:
        volumes = open_volumes(stack, task.open, *inputs[2:4])
        tile = net.geometry.input_size(64)
        cpu = torch.device("cpu")
        scores = validate(
            net, task, volumes, model.normalisation, tile, cpu, torch.float32, log_prior=model.log_prior
        )
    return scores["loss"]


@pytest.mark.slow
def test_from_patch_classifier_to_fcn8s(inputs, tmp_path):
    """Each stage begins about where the one before ended, and ends better."""
    fixed = FCN | {"upsampling": "fixed"}  # so nothing is lost with the last layer
    schedule = {"optimizer": "adam", "learning_rate": 3e-3, "decay": "constant", "validation_interval": 100}
    run(
        inputs,
        tmp_path / "patch",
        {"name": "patch_classifier", **CLASSIFIER},
        tile=networks.plan("patch_classifier", **CLASSIFIER).geometry.input_size(8),
        iterations=400,
        **schedule,
    )
    losses, begins, previous = {}, {}, "patch"
    for name in ("fcn32s", "fcn16s", "fcn8s"):
        plan = networks.plan(name, **fixed)
        model = Model.load(tmp_path / previous / "model.pt")
        torch.manual_seed(0)
        net = plan.build()
        transfer.transfer(transfer.match(model.plan, plan), model.network, net)
        begins[name] = validation_loss(inputs, net, model)
        run(
            inputs,
            tmp_path / name,
            {"name": name, **fixed},
            tile=plan.geometry.input_size(32),
            iterations=200,
            start_from=str(tmp_path / previous / "model.pt"),
            **schedule,
        )
        losses[name] = pd.read_csv(tmp_path / name / "history.csv").validation_loss.min()
        previous = name
    scratch = validation_loss(inputs, networks.plan("fcn32s", **fixed).build(), model)
    assert begins["fcn32s"] < 0.8 * scratch
    assert losses["fcn32s"] > losses["fcn16s"] > losses["fcn8s"]
    assert begins["fcn16s"] < 1.1 * losses["fcn32s"] and begins["fcn8s"] < 1.1 * losses["fcn16s"]


# ----------------------------------------------------------------------------------- models of a run


def models_of(config: dict, folds: int = 1, **variants: dict) -> dict[str, study.Model]:
    """Return the models of a run with these settings and variants."""
    given = {"volumes": "my.tsv"} | config | ({"study": {"variants": variants}} if variants else {})
    return study.models(study.variants(given), [([], [])] * folds, channels=1)


def test_models_of_a_run_are_preferred_to_files():
    config = {"training": {"start_from": "unet-seed3", "freeze": ["down"], "tile": 204}, "seeds": [3]}
    models = models_of(config)
    unet, further = models.values()
    found = "<results>/models/unet-seed3/model.pt"
    assert starts.start_file(unet, models, lambda path: f"found/{path}") == found
    assert starts.training_of(unet, models) == unet.settings["training"]
    assert starts.start_file(further, models, str) is None
    left_out = unet.settings["training"].keys() - starts.training_of(further, models).keys()
    assert left_out == {"start_from", "freeze"}
    models = models_of({"training": {"start_from": "old/model.pt"}})
    assert starts.start_file(models["unet"], models, lambda path: f"found/{path}") == "found/old/model.pt"
    models = models_of({})
    assert starts.start_file(models["unet"], models, str) is None


def test_a_variant_starts_from_the_model_with_the_same_seed():
    models = models_of({"seeds": [7]}, plain={}, second={"training": {"start_from": "plain"}})
    starts.require_starts(models, "results", str)
    assert {name: starts.start_file(model, models, str) for name, model in models.items()} == {
        "plain": None,
        "plain-seed7": None,
        "second": "<results>/models/plain/model.pt",
        "second-seed7": "<results>/models/plain-seed7/model.pt",
    }


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"a": {"training": {"start_from": "a"}}}, "study.variants.a: training.start_from: `a` is the model"),
        (
            {"a": {"training": {"start_from": "b"}}, "b": {"training": {"start_from": "a"}}},
            "study.variants.a: training.start_from: a circle, a starts from b starts from a. One of them",
        ),
        (
            {"a": {}, "b": {"network": {"name": "fcn32s"}, "training": {"start_from": "a"}}},
            "study.variants.b: training.start_from: a: no layer of this unet has the same name and shape",
        ),
        (
            {"a": {}, "b": {"training": {"start_from": "a-fold1"}}},
            "study.variants.b: training.start_from: a-fold1 learned from volumes that validate b. Name",
        ),
        (
            {"a": {"training": {"start_from": "c"}}},
            "study.variants.a: training.start_from: found no file `c`",
        ),
    ],
)
def test_impossible_starts_stop_the_dry_run(variants, message):
    with pytest.raises(InputError) as error:
        starts.require_starts(models_of({}, folds=2, **variants), "results", str)
    assert str(error.value).startswith(message)


def test_each_fold_starts_from_a_model_that_did_not_learn_from_its_validation_volumes():
    models = models_of({"seeds": [3], "training": {"start_from": "unet-seed3"}}, folds=3)
    starts.require_starts(models, "results", str)
    started = {name: starts.start_file(model, models, str) for name, model in models.items()}
    assert len(started) == 6
    for name, start in started.items():
        assert start == (None if "seed3" in name else f"<results>/models/{name}-seed3/model.pt")
        assert start is None or models[start.split("/")[2]].fold == models[name].fold


@pytest.mark.parametrize("name", ["a-fold1", "a-fold1-seed3"])
def test_the_models_of_all_folds_are_checked(name):
    variants = {"a": {}, "b": {"training": {"start_from": name}}}
    with pytest.raises(InputError, match=f"{name} learned from volumes that validate b"):
        starts.require_starts(models_of({"seeds": [3]}, folds=2, **variants), "results", str)


def test_the_variant_that_all_start_from_is_trained_from_random_parameters():
    models = models_of({"training": {"start_from": "a", "tile": 204}}, a={}, b={})
    starts.require_starts(models, "results", str)
    files = {name: starts.start_file(model, models, str) for name, model in models.items()}
    assert files == {"a": None, "b": "<results>/models/a/model.pt"}
