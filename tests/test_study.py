"""Variants of the settings, their models and the workflow of a study."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from bordure import starts, study
from test_workflow import ROOT, counts, snakemake

from pipeline_lib.provenance import find_record
from pipeline_lib.runtime.errors import InputError

BASE = {"volumes": "my.tsv", "training": {"tile": 204}}


def models(variants=None, folds=1, **settings):
    """Return the models of a run with these settings."""
    given = BASE | settings | ({"study": {"variants": variants}} if variants else {})
    blocks = [([f"t{fold}"], [f"v{fold}"]) for fold in range(folds)]
    return study.models(study.variants(given), blocks, channels=1)


def test_names_of_models():
    assert [*models()] == ["unet"]
    assert [*models(seeds=[1])] == ["unet", "unet-seed1"]
    names = ["a", "a-seed1", "a-fold1", "a-fold1-seed1", "b", "b-seed1", "b-fold1", "b-fold1-seed1"]
    found = models({"a": {}, "b": {"augmentation": {"noise": 0}}}, folds=2, seeds=[1])
    assert [*found] == names
    last = found["b-fold1-seed1"]
    assert (last.variant, last.seed, last.fold, last.train, last.validation) == ("b", 1, 1, ["t1"], ["v1"])


VARIANTS = {
    "plain": {},
    "rigid": {"augmentation": {"elastic_std": 0}},
    "sharp": {"weight_map": {"sigma": 2}},
    "sharp_too": {"weight_map": {"sigma": 2}, "network": {"depth": 3}},
    "centred": {"normalisation": "mean"},
    "three": {"dataset": {"target": "cell_border"}},
    "slower": {"training": {"learning_rate": 0.1, "start_from": "plain"}, "weight_map": {"w0": 3}},
}


def shared(kind, **settings):
    """Return the groups of variants that share a kind of files, and its name for each model."""
    names = {name: getattr(model, kind) for name, model in models(VARIANTS, **settings).items()}
    return {tuple(name for name in names if names[name] == value) for value in names.values()}, names


def test_models_share_what_they_have_in_common():
    assert shared("dataset")[0] == {
        ("plain", "rigid", "sharp", "sharp_too", "centred", "slower"),
        ("three",),
    }
    assert shared("statistics")[0] == {
        ("plain", "rigid", "sharp", "sharp_too", "slower"),
        ("centred",),
        ("three",),
    }
    groups, names = shared("weight_map")
    assert groups == {("plain", "rigid"), ("sharp", "sharp_too"), ("centred",), ("three",), ("slower",)}
    assert names["plain"] == "weight_map" and re.fullmatch("weight_map-[0-9a-f]{8}", names["sharp"])
    assert shared("speed")[0] == {
        ("plain", "sharp", "centred", "slower"),
        ("rigid",),
        ("sharp_too",),
        ("three",),
    }
    found = models(VARIANTS)
    assert [len(found[name].classes) for name in ("plain", "three")] == [2, 3]
    assert found["three"].plan.classes == 3


def test_folds_have_their_own_statistics_and_weight_maps():
    found = models({"plain": {}, "rigid": VARIANTS["rigid"]}, folds=2, seeds=[1])
    for kind in ("statistics", "weight_map"):
        names = {name: getattr(model, kind) for name, model in found.items()}
        first, other = names["plain"], names["plain-fold1"]
        assert first == kind and other != first
        assert {names[name] for name in names if "fold1" in name} == {other}
        assert {names[name] for name in names if "fold1" not in name} == {first}
    assert {model.dataset for model in found.values()} == {"dataset"}
    assert found["plain"].speed == found["plain-fold1-seed1"].speed == "step"


def test_a_further_variant_changes_no_name_of_the_others():
    """Otherwise they would be trained again."""
    before = {name: model.paths for name, model in models(VARIANTS, folds=2).items()}
    new = {"new": {"weight_map": {"sigma": 2}, "augmentation": {"elastic_std": 0}}}
    first, *others = VARIANTS.items()
    after = {
        name: model.paths for name, model in models(dict([first, *new.items(), *others[1:]]), folds=2).items()
    }
    assert {name: after[name] for name in after if name in before} == {
        name: before[name] for name in before if not name.startswith("rigid")
    }


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        (
            {"a": {"volumes": "other.tsv"}},
            "config key `study.variants.a.volumes`: the same for all variants.",
        ),
        ({"a": {"dataset": {"channels": 3}}}, "config key `study.variants.a.dataset.channels`: the same for"),
        (
            {"a": {"network": {"dept": 3}}},
            "study.variants.a: config key `network.dept`: unknown. Did you mean",
        ),
        (
            {"a": {"network": {"name": "fcn8s", "depth": 3}}},
            "study.variants.a: config key `network.depth`: un",
        ),
        ({"a": {"dataset": True}}, "study.variants.a: config key `dataset`: found true. Expected a section"),
        ({"a": {"dataset": {"typo": 1}}}, "study.variants.a: config key `dataset.typo`: unknown. "),
        (
            {"a": {"seeds": [1]}},
            "config key `study.variants.a.seeds`: the same for all variants. Variants can",
        ),
        (
            {"a-seed1": {}},
            "config key `study.variants`: found the name `a-seed1`, expected a text of letters,",
        ),
        (
            {True: {}},
            "config key `study.variants`: found the name `True`, expected a text of letters, digits",
        ),
        (
            {"a": {}, "A": {}},
            "config key `study.variants`: found the name `A`, which differs from another one",
        ),
        ({"constant": {}}, "config key `study.variants`: found the name `constant`, which is a name of the"),
        ({}, "config key `study.variants`: found {}. Expected names, each with settings"),
        ({"a": 3}, 'config key `study.variants`: found {"a": 3}. Expected names, each with settings'),
    ],
)
def test_mistakes_stop_the_dry_run(variants, message):
    with pytest.raises(InputError) as error:
        study.variants(BASE | {"study": {"variants": variants}})
    assert str(error.value).startswith(message)


def test_a_variant_without_settings_is_the_config():
    given = yaml.safe_load("{volumes: my.tsv, study: {variants: {a: , b: {training: }}}}")
    a, b = study.variants(given).values()
    assert a == b and a["training"]["tile"] == 572


def test_settings_without_effect_and_twice_the_same_are_named():
    given = BASE | {"study": {"minutes": 1, "variants": {"a": None, "b": {"training": {"iterations": 3}}}}}
    found = study.models(study.variants(given), [([], [])], channels=1)
    assert study.warnings(found, given) == ["study.minutes: training.iterations has no effect"]
    balanced = BASE | {"training": {"tile": 204, "sampling": "class_balanced", "iterations": 4}}
    [warning] = study.warnings(study.models(study.variants(balanced), [([], [])], channels=1), balanced)
    assert warning.startswith("warning: rare classes count more by `training.sampling: class_balanced`, and")
    alone = balanced | {"weight_map": {"class_balance": False}}
    assert not study.warnings(study.models(study.variants(alone), [([], [])], channels=1), alone)


@pytest.mark.parametrize("page", ["docs/howto/study.md", *map(str, ROOT.glob("config/study*.yaml"))])
def test_documented_studies_pass_the_dry_run(page):
    text = (ROOT / page).read_text()
    block = re.search("```yaml\n(.*?)```", text, re.DOTALL)
    given = yaml.safe_load(block[1] if block else text)
    found = study.models(study.variants(given), [([], [])], channels=1)
    starts.require_starts(found, "results", str)
    assert len(found) == len(given["study"]["variants"]) * (1 + len(given["seeds"]))
    for model in found.values():
        model.plan.require_training(model.settings["training"])


CONFIG = """
volumes: config/demo.tsv
drawing: {sections: 12, size: 96, cell_diameter: 24}
network: {depth: 1, base_channels: 4}
training: {tile: 60, iterations: 6, validation_interval: 3, optimizer: adam, warm_up: 1, device: cpu}
folds: 2
study:
  minutes: 0.002
  variants:
    plain:
    broken: {training: {optimizer: sgd, learning_rate: 1.0e+30}}
    three: {dataset: {target: cell_border}, training: {start_from: plain}}
"""


@pytest.mark.slow
class TestStudy:
    """A study with two folds, in which the trainings of one variant fail."""

    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("study")
        (folder / "study.yaml").write_text(CONFIG)
        arguments = ["--configfile", str(folder / "study.yaml")]
        return folder, arguments, snakemake(folder, *arguments, "--keep-going")

    def test_the_dry_run_lists_the_folds(self, run):
        answer = snakemake(run[0], *run[1], "-n")
        assert "fold 0: train" in answer.stderr

    def test_the_others_are_complete_and_the_page_names_what_is_missing(self, run):
        folder, _, answer = run
        assert answer.returncode == 1
        page = (folder / "results/comparison.html").read_text()
        assert "<b>broken</b> lacks 2 models: broken, broken-fold1. The training did not end" in page
        assert 'href="comparison.html"' in (folder / "results/report.html").read_text()
        assert {path.stem for path in folder.glob("results/variants/*.pt")} == {"plain", "three"}
        table = pd.read_csv(folder / "results/comparison.csv")
        assert {*table.variant} == {"plain", "three"}
        assert {*table.models} == {2}

    def test_iterations_are_those_of_the_measured_speed(self, run):
        results = run[0] / "results"
        for variant, speed in (("plain", "step"), ("three", "step-*")):
            [path] = (results / "speed").glob(f"{speed}.json")
            schedule = json.loads(path.read_text())["schedule"]
            for model in (variant, f"{variant}-fold1"):
                history = pd.read_csv(results / f"models/{model}/history.csv")
                assert history.iteration.iloc[-1] == schedule["iterations"]
                assert history.iteration.iloc[0] == schedule["validation_interval"]

    def test_each_fold_is_validated_on_its_own_block(self, run):
        validated = {}
        for fold, name in enumerate(("plain", "plain-fold1")):
            tables = [pd.read_csv(path) for path in (run[0] / f"results/scores/{name}").glob("*.csv")]
            table = pd.concat(tables)
            assert {*table.fold} == {fold} and {*table.split} == {"validation", "test"}
            validated[name] = {*table.volume[table.split == "validation"]}
            assert {*table.volume[table.split == "test"]} == {"test"}
        # the row of the validation split is much shorter than that of the training, which is divided
        assert validated == {"plain": {"train-fold0"}, "plain-fold1": {"train-fold1", "validation"}}

    def test_all_variants_are_scored_on_the_annotation_of_the_first_and_on_their_own_classes(self, run):
        results = run[0] / "results"
        table = pd.read_csv(results / "scores/three/test.csv")
        assert {"v_rand_thin", "mean_iou", "iou_border"} <= {*table.metric}
        inputs = {
            name: [
                Path(path).parent.name for path in find_record(results / f"scores/{name}/test.csv")["inputs"]
            ]
            for name in ("plain", "three")
        }
        assert inputs["plain"].count("dataset") == inputs["three"].count("dataset") == 1
        assert any(folder.startswith("dataset-") for folder in inputs["three"])
        assert "mean_iou" not in {*pd.read_csv(results / "comparison.csv").metric}

    def test_the_border_of_a_variant_is_given_back(self, run):
        """Though its threshold is chosen on the annotation of the first variant, which has no such class."""
        chosen = {
            name: json.loads((run[0] / f"results/postprocessing/{name}.json").read_text())
            for name in ("plain", "three", "three-fold1")
        }
        reach = {name: found.get("border_reach") for name, found in chosen.items()}
        assert reach == {"plain": None, "three": 1, "three-fold1": 1}

    def test_the_page_is_made_again_if_the_failed_variant_is_removed(self, run):
        folder = run[0]
        config = yaml.safe_load(CONFIG)
        del config["study"]["variants"]["broken"]
        (folder / "other.yaml").write_text(yaml.safe_dump(config))
        planned = counts(folder, "--configfile", str(folder / "other.yaml"))
        assert planned["compare"] == 1 and "train_model" not in planned

    def test_only_the_failed_variant_runs_again(self, run):
        folder, arguments, _ = run
        planned = counts(folder, *arguments)
        assert planned["train_model"] == 2 and "build_dataset_train" not in planned
        assert planned["compare"] == planned["collect_study"] == 1
        assert not {"measure_speed", "report", "collect_scores"} & planned.keys()
