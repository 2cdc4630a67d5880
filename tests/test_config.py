"""Settings: error messages, defaults, and agreement of schema, code, README and the configs in config/."""

import inspect
import math
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml
from bordure import settings
from hypothesis import given
from hypothesis import strategies as st
from snakemake.cli import parse_config

from pipeline_lib import imageio, networks
from pipeline_lib.data import normalisation, volumes
from pipeline_lib.networks.model import Model
from pipeline_lib.networks.unet import UNetPlan
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.stages import dataset, postprocessing, prediction, synthesis
from pipeline_lib.stages.detection import choose_score
from pipeline_lib.tasks.detection.patches import BoxAugmentation
from pipeline_lib.training.schedule import Settings

ROOT = Path(__file__).parents[1]
SCHEMA = settings.config_schema()
SECTIONS = {key: part["properties"] for key, part in SCHEMA["properties"].items() if "properties" in part}
CONFIGS = sorted((ROOT / "config").glob("*.yaml"))

# Section -> function that receives its settings, and the arguments of that function that are not settings
FUNCTIONS = {
    "drawing": (synthesis.draw_volume, {"images", "annotation", "seed"}),
    "dataset": (
        dataset.build_dataset,
        {"images", "annotation", "ignore_mask", "output", "sections", "rows", "block", "memory_gb"},
    ),
    "weight_map": (dataset.build_weight_map, {"dataset", "statistics", "output", "block"}),
    "network": (UNetPlan, {"input_channels", "classes", "context_sections"}),
    "training": (Settings, set()),
    "augmentation": (BoxAugmentation, set()),
    "prediction": (
        prediction.predict,
        {"dataset", "model", "output", "part", "jobs", "memory_gb", "threads"},
    ),
    "segmentation": (
        postprocessing.choose_postprocessing,
        {"datasets", "predictions", "targets", "output", "tried", "memory_gb", "threads"},
    ),
    "detection": (choose_score, {"datasets", "detections", "output"}),
}


def complete(**given_settings):
    return settings.complete({"volumes": "my.tsv", **given_settings})


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"weight_map": {"sigm": 3}}, "`weight_map.sigm`: unknown. Did you mean `weight_map.sigma`?"),
        ({"trainning": {"tile": 572}}, "`trainning`: unknown. Did you mean `training`?"),
        ({"sigma": 3}, "`sigma`: unknown. Did you mean `weight_map.sigma`?"),
        ({"weight_map": {"tile": 572}}, "`weight_map.tile`: unknown. Did you mean `training.tile`?"),
        ({"xyzzy": 1}, "`xyzzy`: unknown. Known keys are volumes, data_dir, "),
        (
            {"training": {"iterations": "many"}},
            '`training.iterations`: found "many". Expected an integer of at',
        ),
        (
            {"training": {"iterations": 0}},
            "`training.iterations`: found 0. Expected an integer of at least 1",
        ),
        ({"training": {"iterations": True}}, "`training.iterations`: found true. Expected an integer"),
        ({"training": {"iterations": 1.5}}, "`training.iterations`: found 1.5. Expected an integer"),
        (
            {"network": {"dropout": 1}},
            "`network.dropout`: found 1. Expected a number of at least 0 and below 1",
        ),
        ({"network": {"name": "vnet"}}, '`network.name`: found "vnet". Expected fcn32s or '),
        (
            {"network": {"name": "fcn8s", "channels": []}},
            "`network.channels`: found []. Expected a list of 1 to 7, each an integer of at least 1",
        ),
        (
            {"network": {"name": "fcn8s", "convolutions": [0]}},
            "`network.convolutions`: found [0]. Expected a list of an integer of at least 1",
        ),
        ({"training": 5}, "`training`: found 5. Expected a section with tile, "),
        (
            {"drawing": {"membrane_width": [2]}},
            "`drawing.membrane_width`: found [2]. Expected a list of 2, each",
        ),
        ({"prediction": {"tile": "big"}}, '`prediction.tile`: found "big". Expected auto or an integer'),
        ({"report": {"title": None}}, "`report.title`: found null. Expected text"),
        ({"seeds": 3}, "`seeds`: found 3. Expected a list without repetitions, each an integer of at least"),
        ({"seeds": [1, 2, 1]}, "`seeds`: found [1, 2, 1]. Expected a list without repetitions"),
        ({"seeds": ["1", 1]}, "`seeds`: found [1, 1]. Expected a list without repetitions"),
        ({"seeds": [-1]}, "`seeds`: found [-1]. Expected a list"),
    ],
)
def test_message_names_key_found_value_and_expected_values(given_settings, message):
    with pytest.raises(InputError) as caught:
        complete(**given_settings)
    assert str(caught.value).startswith(f"config key {message}")


def test_message_only_quotes_the_first_sentence_of_a_description():
    with pytest.raises(InputError) as caught:
        complete(weight_map=5)
    assert str(caught.value) == (
        "config key `weight_map`: found 5. Expected a section with w0, sigma, class_balance: Weight of each "
        "pixel in the loss, `w = w_c + w0 exp(-(d1 + d2)^2 / (2 sigma^2))` (Ronneberger et al. 2015, "
        "equation 2)."
    )


def test_missing_table_of_volumes_is_an_error():
    with pytest.raises(InputError, match="config key `volumes`: missing"):
        settings.complete({})


def test_only_missing_keys_get_defaults():
    completed = complete(weight_map={"sigma": 3})
    assert completed["weight_map"] == {"w0": 10.0, "sigma": 3, "class_balance": True}
    assert completed["network"]["base_channels"] == 64
    assert "drawing" not in completed  # a config without it does not draw


def test_default_of_a_list_is_a_list():
    found = complete(network={"name": "fcn8s", "channels": [4, 4, 4]})["network"]
    assert (found["channels"], found["kernel_sizes"], found["convolutions"]) == (
        [4] * 3,
        [3],
        [2, 2, 3, 3, 3],
    )


def test_section_with_all_lines_commented_out_gets_defaults():
    assert complete(**yaml.safe_load("drawing:\nweight_map:"))["weight_map"] == complete()["weight_map"]


def test_number_that_yaml_reads_as_text_is_a_number():
    assert complete(**yaml.safe_load("training: {learning_rate: 1e-3}"))["training"]["learning_rate"] == 0.001
    assert complete(**yaml.safe_load("training: {iterations: 2e3}"))["training"]["iterations"] == 2000
    assert complete(seeds=["1", "2"])["seeds"] == [1, 2]  # as `--config 'seeds=[1,2]'` passes them


def test_command_line_gives_the_settings_of_a_file():
    """Snakemake passes `network={batch_normalisation: false}` with the text "false"."""
    for text in (
        "network: {batch_normalisation: true, depth: 3, dropout: 0.25}",
        "augmentation: {mirror: false, rotate: True, gain: 1e-1}",
        "prediction: {average_orientations: False, tile: 220}",
        "dataset: {pixel_size: [0.5, 0.4], relabel: true, ignore: 255}",
        "dataset: {annotation_kind: classes, classes: {background: 0, cell: [1, 2]}}",
        "training: {learning_rate_factors: {down: 0.1}, freeze: [up]}",
        "replace: true",
        "seeds: [1, 2]",
    ):
        found, expected = (
            complete(**given) for given in (parse_config([text.replace(": ", "=", 1)]), yaml.safe_load(text))
        )
        assert found == expected and repr(found) == repr(expected)  # 1 == True
    for other in ("yes", "null", "0", "tRue"):
        with pytest.raises(InputError, match=f'found "{other}". Expected true or false'):
            complete(**parse_config([f"network={{batch_normalisation: {other}}}"]))


TEXT = st.sampled_from(["auto", "1e3", "", "cpu", "nan"])
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
SECTION = st.dictionaries(st.sampled_from(["tile", "sigma", "device", "iterations", "x"]), PLAIN)


@given(st.dictionaries(st.sampled_from([*SCHEMA["properties"], "x"]), PLAIN | SECTION | st.lists(PLAIN)))
def test_any_config_is_completed_or_rejected_with_the_key(content):
    try:
        completed = settings.complete(content)
    except InputError as error:
        assert str(error).startswith("config key `")
    else:
        jsonschema.validate(completed, SCHEMA)
        assert settings.complete(completed) == completed


def test_schema_is_valid_and_describes_every_key():
    for name in ("config", "volumes"):
        schema = settings.read_schema(name)
        jsonschema.Draft202012Validator.check_schema(schema)
        parts = [schema, *(part for part in schema["properties"].values() if "properties" in part)]
        assert all(part["additionalProperties"] is False for part in parts)
        assert all(key["description"] for part in parts for key in part["properties"].values())


@pytest.mark.parametrize("section", FUNCTIONS)
def test_section_has_the_parameters_and_defaults_of_its_function(section):
    function, others = FUNCTIONS[section]
    parameters = inspect.signature(function).parameters.values()
    of_function = {p.name: p.default for p in parameters if p.name not in others}
    defaults = {key: part.get("default") for key, part in SECTIONS[section].items()}
    if section == "network":  # without a default of neighbours, earlier configs remain equal as settings
        assert UNetPlan().context_sections == 0
        of_function |= {"name": "unet", "context_sections": None}
    lists = {key: [*value] for key, value in of_function.items() if isinstance(value, tuple)}
    assert of_function | lists == defaults


def test_choices_match_the_code():
    assert SECTIONS["dataset"]["annotation_kind"]["enum"] == list(imageio.ANNOTATION_KINDS)
    assert SECTIONS["network"]["name"]["enum"] == networks.names()
    assert SECTIONS["segmentation"]["criterion"]["enum"] == list(postprocessing.CRITERIA)
    assert SECTIONS["segmentation"]["method"]["enum"] == list(postprocessing.METHODS)
    assert SCHEMA["properties"]["normalisation"]["enum"] == list(normalisation.KINDS)


def test_columns_of_the_table_match_the_code():
    schema = settings.read_schema("volumes")
    assert list(schema["properties"]) == list(volumes.COLUMNS)
    assert set(volumes.COLUMNS) - set(schema["required"]) == set(volumes.OPTIONAL_COLUMNS)
    assert schema["properties"]["split"]["enum"] == list(volumes.SPLITS)
    assert {*volumes.DATASET_COLUMNS} < {*SECTIONS["dataset"]}


def test_columns_replace_settings_of_the_section_dataset():
    given = {"annotation_kind": "auto", "ignore": 255, "channels": 1}
    own = {
        "annotation_kind": "classes",
        "classes": "{background: 0, cell: [1, 2]}",
        "ignore": "-1",
        "relabel": "true",
        "scale": "1e-3",
    }
    assert settings.of_volume(given, own, "my.tsv, line 2") == {
        "annotation_kind": "classes",
        "classes": {"background": 0, "cell": [1, 2]},
        "ignore": -1,
        "relabel": True,
        "scale": 0.001,
        "channels": 1,
    }
    assert settings.of_volume(given, {}, "") == given
    for cell, channels in (("[2]", [2]), ("[DAPI, 1]", ["DAPI", 1]), ("3.0", 3), ("['488']", ["488"])):
        found = settings.of_volume(given, {"channels": cell}, "")["channels"]
        assert found == channels and type(found) is type(channels)
    for key, cell in (
        ("ignore", "white"),
        ("relabel", "7"),
        ("classes", "{background: a}"),
        ("classes", "[1"),
        ("scale", "0"),
        ("channels", "DAPI"),
        ("channels", "[]"),
        ("channels", "0"),
        ("empty_sections", "no"),
        ("pairing", "{a: 1, a: 2}"),
    ):
        with pytest.raises(InputError, match=rf"my\.tsv, line 2, column `{key}`: found `{re.escape(cell)}`"):
            settings.of_volume(given, {key: cell}, "my.tsv, line 2")


def test_generated_tables_are_up_to_date():
    for path, text in settings.pages().items():
        assert path.read_text() == text, f"{path}: run `PYTHONPATH=. python workflow/bordure/settings.py`"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_is_valid_and_its_tile_fits_its_network(path):
    completed = settings.complete(yaml.safe_load(path.read_text()))
    networks.plan(**completed["network"]).require_training(completed["training"])
    assert volumes.read_table(ROOT / completed["volumes"], "data")
    assert ("drawing" in completed) != ("data_dir" in completed)


def test_configs_write_to_different_folders():
    results = [yaml.safe_load(path.read_text())["results"] for path in CONFIGS]
    assert len(set(results)) == len(results)


def test_paper_config_has_the_settings_of_the_paper():
    completed = settings.complete(yaml.safe_load((ROOT / "config/isbi2012-paper.yaml").read_text()))
    paper = {
        "network": {
            "name": "unet",
            "depth": 4,
            "base_channels": 64,
            "batch_normalisation": False,
            "upsampling": "up_convolution",
        },
        "weight_map": {"w0": 10.0, "sigma": 5.0, "class_balance": True},
        "training": {"tile": 572, "optimizer": "sgd", "momentum": 0.99},
        "augmentation": {"rotate": True, "elastic_std": 10.0, "elastic_grid": 3},
    }
    assert {section: completed[section] | keys for section, keys in paper.items()} == {
        section: completed[section] for section in paper
    }


def test_splits_of_isbi_are_adjacent_sections():
    table = volumes.read_table(ROOT / "config/isbi2012.tsv", "data")
    assert {(row.split, row.sections) for row in table if row.annotation} == {
        ("train", "0-19"),
        ("validation", "20-23"),
        ("test", "24-29"),
    }


def test_every_fifth_image_of_nuclei_is_a_test_image():
    numbers = {split: [] for split in volumes.SPLITS}
    for row in volumes.read_table(ROOT / "config/nuclei.tsv", "data"):
        numbers[row.split].append(int(row.volume.removeprefix("nuclei_")))
    assert numbers["test"] == [*range(0, 60, 5)]
    assert numbers["validation"] == [*range(3, 60, 10)]
    assert len(numbers["train"]) == 42


def test_the_schema_is_read_once_for_all_volumes(monkeypatch):
    """A table can have thousands of rows, and each dry run checks all of them."""
    read, names = settings.read_schema, []
    monkeypatch.setattr(settings, "read_schema", lambda name: names.append(name) or read(name))
    settings._dataset_keys.cache_clear()
    for _ in range(3):
        assert settings.of_volume({}, {}, "") == {}
    assert names == []
    for _ in range(3):
        assert settings.of_volume({}, {"relabel": "true"}, "") == {"relabel": True}
    assert names == ["config"]


@pytest.mark.parametrize("factor", [0, -1, math.nan, math.inf, "much", True])
def test_factors_of_parts_are_finite_numbers_above_0(factor):
    with pytest.raises(InputError, match=r"config key `training\.learning_rate_factors`: found"):
        complete(training={"learning_rate_factors": {"down": factor}})
    found = complete(training={"learning_rate_factors": {"down": "1e-1"}, "freeze": ["up"]})["training"]
    assert found["learning_rate_factors"] == {"down": 0.1} and found["freeze"] == ["up"]
    assert "start_from" not in found and "keep_normalisation" not in found


@pytest.mark.parametrize(("stated", "expected"), [({}, True), ({"average_orientations": False}, False)])
def test_orientations_of_a_trained_model_can_be_changed(tmp_path, stated, expected):
    plan = networks.plan("unet", depth=1, base_channels=2)
    gray = normalisation.Normalisation("mean_std", "uint8", np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    application = {"average_orientations": True, "postprocessing": {"threshold": 0.5, "minimum_size": 0}}
    model = Model(plan, plan.build(), gray, classes=("background", "cell"), application=application)
    model.save(tmp_path / "model.pt")
    config = {"volumes": "v.tsv", "model": str(tmp_path / "model.pt"), "prediction": stated}
    complete = settings.complete(config)
    settings.use_model(complete, complete["model"], config)
    assert complete["prediction"]["average_orientations"] is expected
