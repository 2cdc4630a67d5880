"""Check settings against their schema, fill in defaults, and write the schema as Markdown tables.

`PYTHONPATH=. python workflow/bordure/settings.py` updates the tables of `config/README.md` and
`docs/reference/volumes.md` from the schemas.
"""

from __future__ import annotations

import copy
import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator as Validator

from pipeline_lib import networks
from pipeline_lib.data.folds import ANNOTATED
from pipeline_lib.data.volumes import Volume
from pipeline_lib.instances.methods import method_of
from pipeline_lib.networks import modelfile
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import require_file
from pipeline_lib.runtime.types import Json

WORKFLOW_FOLDER = Path(__file__).resolve().parents[1]
REPOSITORY = WORKFLOW_FOLDER.parent
LARGEST_CONFIG = 2**20  # bytes of a config file, and number of values in it
SETTINGS_PAGE, COLUMNS_PAGE = (
    REPOSITORY / "config/README.md",
    REPOSITORY / "docs/reference/volumes.md",
)  # with generated tables
# Sections that a run with a trained model does not use
OF_TRAINING = (
    "network",
    "normalisation",
    "weight_map",
    "augmentation",
    "training",
    "segmentation",
    "detection",
    "seeds",
    "folds",
    "ensemble",
    "study",
)
TYPES = {
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
}
LIMITS = {
    "minimum": "of at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "multipleOf": "a multiple of",
}


def read_schema(name: str) -> Json:
    """Return the JSON Schema `workflow/schemas/<name>.schema.yaml`.

    The keywords `unit` and `physical` are additions of this project; all others are standard. `physical` is
    the unit in which a number of pixels can be given instead, as a text such as `0.5 um`.
    """
    return copy.deepcopy(_schema(name))


@cache
def _schema(name: str) -> Json:
    """Read a schema once; it takes 0.06 s."""
    return yaml.safe_load((WORKFLOW_FOLDER / f"schemas/{name}.schema.yaml").read_text())


def config_schema(network: str | None = None) -> Json:
    """Return the JSON Schema of a config file, including the settings of one network.

    Parameters
    ----------
    network : str, optional
        Name of the network whose settings are included. If it is None or unknown, the default network of the
        schema is used; an unknown name is reported when the config is checked.

    Returns
    -------
    dict
        The schema. The section `network` is completed by `networks.plan_type(network).schema()`.
    """
    schema = read_schema("config")
    section = schema["properties"]["network"]["properties"]
    section["name"]["enum"] = networks.names()
    if network is None or network not in section["name"]["enum"]:
        network = str(section["name"]["default"])
    section |= networks.plan_type(network).schema()
    return schema


class _Loader(yaml.SafeLoader):
    """YAML loader that rejects Python objects and duplicate keys; PyYAML would keep the last of these."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            keys = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]  # `<<: *name`
            lines = [key.start_mark.line + 1 for key in keys]
            _require_unique([self.construct_object(key, deep=True) for key in keys], lines)
        return super().construct_mapping(node, deep)


def _require_unique(keys: list[Any], lines: list[int] | None = None) -> None:
    for place, key in enumerate(keys):
        if key in keys[:place]:
            where = f", in lines {lines[keys.index(key)]} and {lines[place]}" if lines else ""
            raise InputError(f"the key `{key}` appears twice{where}. Keep one.")


def _unique_pairs(pairs: list[tuple[str, Any]]) -> Json:
    _require_unique([key for key, _ in pairs])
    return dict(pairs)


def read_config(path: str | Path) -> Json:
    """Read a config file in YAML or JSON, more strictly than Snakemake does.

    Parameters
    ----------
    path : str or Path
        The config file, in UTF-8 and of at most `LARGEST_CONFIG` bytes.

    Returns
    -------
    dict
        The settings as they are in the file, without defaults.

    Raises
    ------
    InputError
        If the file cannot be read, is neither YAML nor JSON, has a key twice, or contains Python objects or
        expressions.
    """
    try:
        require_file(path, LARGEST_CONFIG)
        text = Path(path).read_bytes().decode()
    except UnicodeDecodeError as error:
        found = f"{error.reason} at byte {error.start}"
        raise InputError(f"{path}: not a text file in UTF-8 ({found}). Save it as plain text.") from error
    except OSError as error:
        reason = error.strerror
        raise InputError(f"{path}: the config cannot be read ({reason}). Correct `--configfile`.") from error
    try:
        try:
            settings = json.loads(text, object_pairs_hook=_unique_pairs)
        except json.JSONDecodeError:
            settings = yaml.load(text, _Loader)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = " Indent with spaces, not with tabs." if "\t" in str(error) else ""
        line = mark.line + 1 if mark else 1
        raise InputError(f"{path}, line {line}: not valid YAML ({error.problem}).{hint}") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())[:200]}).") from error
    if not isinstance(settings, dict):
        kinds = {type(None): "nothing", str: "text", list: "a list"}
        found = kinds.get(type(settings), "a single value")
        raise InputError(f"{path}: contains {found}, expected keys with values, such as `volumes: my.tsv`.")
    if "__use_yte__" in settings:
        raise InputError(
            f"{path}: `__use_yte__` is not allowed, because it lets a config run Python code. Remove it and "
            "write all values directly."
        )
    return settings


def complete(settings: Json) -> Json:
    """Check settings key by key and fill in the defaults of the schema.

    Parameters
    ----------
    settings : dict
        Settings as read from a config file.

    Returns
    -------
    dict
        All settings of the schema. Optional keys without a default are included only if they are in
        `settings`.

    Raises
    ------
    InputError
        If a key is unknown (the message names the most similar one) or missing, if a value has the wrong type
        or is out of range, or if a setting belongs to another network than the chosen one.

    Examples
    --------
    >>> complete({"volumes": "my.tsv", "weight_map": {"sigma": 3}})["weight_map"]
    {'w0': 10.0, 'sigma': 3, 'class_balance': True}
    """
    _require_small(settings)
    section = settings.get("network")
    network = section.get("name") if isinstance(section, dict) else None
    schema = config_schema(network if isinstance(network, str) else None)
    known = [*_names(schema)]
    for name in _given(settings, schema):
        if name not in known:
            hint = _other_network_hint(name, schema) or _hint(name, known)
            raise InputError(f"config key `{name}`: unknown. {hint} config/README.md explains every key.")
    return _complete(settings, schema, "")


def use_model(settings: Json, path: str | Path, given: Json | None = None) -> str:
    """Take network, channels and post-processing of a trained model over into complete settings.

    Parameters
    ----------
    settings : dict
        Result of `complete`, which is changed.
    path : str or Path
        The model file.
    given : dict, optional
        The config as it was written. It may state `prediction.average_orientations`; otherwise this is as in
        the training.

    Returns
    -------
    str
        The path.

    Raises
    ------
    InputError
        If it is not a complete model file, or was trained on another number of channels than are chosen.
    """
    described = modelfile.describe(path)
    application = modelfile.application(described, path)
    arguments = described["arguments"]
    network = {key: arguments[key] for key in arguments if key not in ("input_channels", "classes")}
    settings["network"] = {"name": described["name"], **network}
    needed, channels = len(described["normalisation"]["scale"]), settings["dataset"]["channels"]
    if isinstance(channels, int):  # not stated which
        channels = application.get("channels", needed)
    elif len(channels) != needed:
        raise InputError(
            f"config key `dataset.channels`: chooses {len(channels)}, but {path} was trained on {needed}. "
            f"Choose {needed}, in the order of the training, or remove the key."
        )
    settings["dataset"]["channels"] = channels
    if "average_orientations" not in ((given or {}).get("prediction") or {}):
        settings["prediction"]["average_orientations"] = application["average_orientations"]
    chosen = application["postprocessing"]
    settings["detection"]["one_per_section"] = chosen.get("one_per_section", False)
    settings["segmentation"]["method"] = method_of(chosen)
    if "offsets" in described:
        settings["training"]["affinities"] = described["offsets"]
    return str(path)


def of_volume(settings: Json, own: Mapping[str, str], row: str) -> Json:
    """Return the settings of the section `dataset` for one volume.

    Parameters
    ----------
    settings : dict
        The section `dataset` of the config.
    own : mapping of str to str
        Cells of the volume's row that replace settings (`data.volumes.Volume.dataset`).
    row : str
        File and line of the row, for messages.

    Returns
    -------
    dict
        Settings of the volume.

    Raises
    ------
    InputError
        If a cell is not a valid value.
    """
    found = dict(settings)
    section = _dataset_keys() if own else {}  # most volumes have no such cells
    for key, cell in own.items():
        try:
            value = _convert(yaml.load(cell, _Loader), section[key])
            valid = Validator(section[key]).is_valid(value) and _finite(value)
        except (yaml.YAMLError, InputError):
            valid = False
        if not valid:
            in_pixels = {name: part for name, part in section[key].items() if name != "physical"}
            raise InputError(f"{row}, column `{key}`: found `{cell:.100}`. {_expectation(in_pixels)}")
        found[key] = value
    return found


def require_labels(settings: Json, volumes: Iterable[Volume]) -> None:
    """Raise `InputError` if a network that learns pixels would be trained on, or scored with, boxes.

    Scores of masks are left out for volumes that are annotated by boxes, so a test volume may be.

    Parameters
    ----------
    settings : dict
        Result of `complete`.
    volumes : iterable of Volume
        Rows of the table of volumes. Those of the split predict are not scored, so they may have boxes.

    Raises
    ------
    InputError
        With the row of the first volume that is annotated by boxes.
    """
    name = settings["network"]["name"]
    if networks.plan_type(name).task == "segmentation":
        splits: tuple[str, ...] = (*ANNOTATED, "test")
        reason = (
            f"the network {name} learns pixels and is scored with them. Choose a detector with `network: "
            "{name: ssd}`"
        )
    elif settings["network"]["masks"]:
        splits = ANNOTATED
        reason = "with `network.masks: true` a detector learns the pixels of each object. Remove this setting"
    else:
        return
    for volume in volumes:
        if volume.split in splits and volume.has_boxes:
            raise InputError(
                f"{volume.row}, volume {volume.volume}: {volume.annotation}: found boxes, but {reason}, or "
                "name an annotation that has the pixels of each cell."
            )


@cache
def _dataset_keys() -> Json:
    """Return the schema of each key of the section `dataset`; reading it takes 0.06 s."""
    return read_schema("config")["properties"]["dataset"]["properties"]


def _other_network_hint(name: str, schema: Json) -> str:
    """Return a hint if `name` is a setting of another network, else an empty text."""
    section, _, key = name.rpartition(".")
    if section != "network":
        return ""
    owners = [other for other in networks.names() if key in networks.plan_type(other).schema()]
    own = ", ".join(other for other in schema["properties"]["network"]["properties"] if other != "name")
    return f"It is a setting of {' and '.join(owners)}; the chosen network has {own}." if owners else ""


def _require_small(settings: Any) -> None:
    """Raise `InputError` if YAML aliases expand to too many values or contain themselves."""
    sizes: dict[int, float] = {}

    def size(value: Any) -> float:
        children = value.values() if isinstance(value, dict) else value
        if not isinstance(value, dict | list | tuple):
            return 1
        if id(value) not in sizes:
            sizes[id(value)] = math.inf  # counts if the value contains itself
            sizes[id(value)] = 1 + sum(map(size, children))
        return sizes[id(value)]

    if size(settings) > LARGEST_CONFIG:
        raise InputError(
            f"config: its aliases (`*name`) expand to more than {LARGEST_CONFIG:,} values. Write the values "
            "out instead."
        )


def _complete(settings: Json, schema: Json, section: str) -> Json:
    completed: Json = {}
    for key, part in schema["properties"].items():
        name = section + key
        if key not in settings and key in schema.get("required", []):
            raise InputError(f"config key `{name}`: missing. {_expectation(part)}")
        if key not in settings and "default" not in part:
            continue
        value = _convert(settings.get(key, part.get("default")), part)
        # the keys of a section are checked one by one later, so that messages name them
        allowed = Validator({"type": "object"} if "properties" in part else part).is_valid(value)
        allowed &= "properties" in part or _finite(value)
        if not (allowed or length(value, part)):
            raise InputError(f"config key `{name}`: found {_shown(value)}. {_expectation(part)}")
        completed[key] = _complete(value, part, f"{name}.") if "properties" in part else value
    return completed


_UNITS = {"nm": 1e-3, "um": 1.0, "\xb5m": 1.0, "\u03bcm": 1.0, "mm": 1e3}
_LENGTH = re.compile("([0-9.]+(?:[eE][+-]?[0-9]+)?) *([a-z\xb5\u03bc]+)(|2|\\^2|\xb2)")


def length(value: Any, part: Json) -> float:
    """Return the length (um) or area (um2) that a value states in physical units.

    Parameters
    ----------
    value : object
        Value of a key, for instance the text `0.5 um`.
    part : dict
        JSON Schema of the key.

    Returns
    -------
    float
        Length or area; 0 if the value states none, or the key accepts none.

    Examples
    --------
    >>> length("500 nm", {"physical": "um"}), length("20 um2", {"physical": "um2"})
    (0.5, 20.0)
    >>> length(3, {"physical": "um"}), length("20 um", {"physical": "um2"})
    (0.0, 0.0)
    """
    found = _LENGTH.fullmatch(value.strip()) if isinstance(value, str) and "physical" in part else None
    if not found or found[2] not in _UNITS or bool(found[3]) != (power(part) == 2):
        return 0.0
    with suppress(ValueError):
        return float(found[1]) * _UNITS[found[2]] ** power(part)
    return 0.0


def power(part: Json) -> int:
    """Return 2 for a key whose value is an area, 1 for a length.

    Parameters
    ----------
    part : dict
        JSON Schema of the key.

    Returns
    -------
    int
        Power of the unit.
    """
    return 2 if part["physical"] == "um2" else 1


def _convert(value: Any, part: Json) -> Any:
    """Correct misreadings: by YAML, `1e-3` as text, and a section with all lines commented out as null.

    And by Snakemake's `--config`, which passes all values inside `{}` and `[]` as text.
    """
    if value is None and part.get("type") == "object":
        return {}
    if isinstance(value, dict) and "additionalProperties" in part and "properties" not in part:
        return {str(name): _convert(item, part["additionalProperties"]) for name, item in value.items()}
    if isinstance(value, list) and "items" in part:
        return [_convert(item, part["items"]) for item in value]
    if "anyOf" in part and not (isinstance(value, dict | list) and Validator(part).is_valid(value)):
        for option in part["anyOf"]:
            value = _convert(value, option)
    if part.get("type") == "boolean" and value in ("true", "True", "false", "False"):
        return value in ("true", "True")
    if part.get("type") in ("number", "integer"):
        if isinstance(value, str):
            with suppress(ValueError):
                value = float(value)
        if part["type"] == "integer" and isinstance(value, float) and value.is_integer():
            value = int(value)
    return value


def _finite(value: Any) -> bool:
    """Return whether all numbers are finite; NaN passes the limits of a schema."""
    if isinstance(value, list | dict):
        return all(map(_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _names(schema: Json, section: str = "") -> Iterator[str]:
    """Yield the name of every key of the schema, `section.key` in sections."""
    for key, part in schema["properties"].items():
        yield section + key
        if "properties" in part:
            yield from _names(part, f"{section}{key}.")


def _given(settings: Json, schema: Json, section: str = "") -> Iterator[str]:
    """Yield the name of every key in `settings`, `section.key` in sections."""
    for key, value in settings.items():
        yield f"{section}{key}"
        part = schema["properties"].get(key, {})
        if "properties" in part and isinstance(value, dict):
            yield from _given(value, part, f"{section}{key}.")


def _hint(name: str, known: list[str]) -> str:
    def similarity(other: str) -> float:  # of the whole name, or of the key if it is in the wrong section
        pairs = ((name, other), (name.rpartition(".")[2], other.rpartition(".")[2]))
        return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    nearest = max(known, key=similarity)
    if similarity(nearest) > 0.6:
        return f"Did you mean `{nearest}`?"
    return f"Known keys are {', '.join(other for other in known if '.' not in other)}."


def _expectation(part: Json) -> str:
    """Return the values that a key accepts and the first sentence of its description."""
    first = re.split(r"\. (?=[A-Z`])", _one_line(part["description"]))[0]
    return f"Expected {expected(part)}: {first.removesuffix('.')}."


def expected(part: Json) -> str:
    """Return the values that a key accepts as a phrase.

    Parameters
    ----------
    part : dict
        JSON Schema of the key.

    Examples
    --------
    >>> expected({"type": "integer", "minimum": 1})
    'an integer of at least 1'
    >>> expected({"enum": ["auto", "cpu"]})
    'auto or cpu'
    """
    if "enum" in part:
        return " or ".join(map(_plain, part["enum"]))
    if "anyOf" in part:
        return " or ".join(map(expected, part["anyOf"]))
    if "properties" in part:
        return "a section with " + ", ".join(part["properties"])
    if part["type"] == "object":
        if "additionalProperties" not in part:
            return "settings"
        return f"names, each with {expected(part['additionalProperties'])}"
    if part["type"] == "array":
        if "minItems" in part and "maxItems" not in part:
            return f"a list of {expected(part['items'])}"
        fewest, most = part.get("minItems"), part.get("maxItems")
        count = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        which = "without repetitions" if part.get("uniqueItems") else f"of {count}"
        return f"a list {which}, each {expected(part['items'])}"
    return limits(part) + (f" (px), or a text such as `5 {part['physical']}`" if "physical" in part else "")


def limits(part: Json) -> str:
    """Return type and range of a single value as a phrase.

    Parameters
    ----------
    part : dict
        JSON Schema of the key.

    Returns
    -------
    str
        Phrase, such as `a number above 0`.
    """
    within = " and ".join(f"{words} {part[limit]}" for limit, words in LIMITS.items() if limit in part)
    return f"{TYPES[part['type']]} {within}".strip()


def settings_tables() -> str:
    """Return the config schema as Markdown: a table of the top-level keys, then one for each section."""
    keys = read_schema("config")["properties"]
    keys["network"]["properties"]["name"]["enum"] = networks.names()
    plain = {key: part for key, part in keys.items() if "properties" not in part}
    sections = {key: part for key, part in keys.items() if "properties" in part}
    tables = [f"## Keys outside sections\n\n{_table(plain)}"]
    for key, part in sections.items():
        table = _table(part["properties"])
        tables.append(f"## Section `{key}`\n\n{_one_line(part['description'])}\n\n{table}")
        if key == "network":
            for name in networks.names():
                own = _table(networks.plan_type(name).schema())
                tables.append(f"With `name: {name}`:\n\n{own}")
    return "\n".join(tables)


def column_table() -> str:
    """Return the columns of the table of volumes as a Markdown table."""
    columns = read_schema("volumes")["properties"].items()
    rows = [(f"`{name}`", _one_line(part["description"])) for name, part in columns]
    return _markdown(("column", "meaning"), rows)


def _table(keys: Json) -> str:
    """Return two columns: the key with its default, values and unit below it, and the meaning."""
    rows = []
    for key, part in keys.items():
        default = f"default: `{_plain(part['default'])}`" if "default" in part else "no default"
        values = " or ".join(f"`{_plain(value)}`" for value in part.get("enum", ())) or expected(part)
        if "unit" in part and "physical" not in part:
            values += f", in {part['unit']}"
        rows.append((f"`{key}`<br>{default}<br>{values}", _one_line(part["description"])))
    return _markdown(("key", "meaning"), rows)


def _markdown(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


START, END = "<!-- table: made by workflow/bordure/settings.py -->\n", "<!-- end of table -->\n"


def pages() -> dict[Path, str]:
    """Return the text of each page that has a generated table, with the table made from the schema."""
    tables = {SETTINGS_PAGE: settings_tables(), COLUMNS_PAGE: column_table()}
    return {path: _with_table(path.read_text(), table) for path, table in tables.items()}


def _with_table(page: str, table: str) -> str:
    before, _, rest = page.partition(START)
    return f"{before}{START}\n{table}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
