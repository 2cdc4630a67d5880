"""Define cases, run them, and write their messages to a page."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "workflow")]

from bordure import lengths, settings, starts, study  # noqa: E402

from pipeline_lib import networks  # noqa: E402
from pipeline_lib.data import folds, volumes  # noqa: E402
from pipeline_lib.networks import modelfile  # noqa: E402
from pipeline_lib.runtime.errors import InputError  # noqa: E402
from pipeline_lib.runtime.types import Json  # noqa: E402

from .sound import sound_run  # noqa: E402

MESSAGES = Path(__file__).with_name("messages.md")
DRY_RUN = "dry run"


@dataclass(frozen=True)
class Case:
    """A malformed input.

    Attributes
    ----------
    group : str
        Kind of the input, a section of the page.
    name : str
        What is wrong with the input.
    make : callable
        Writes the input into the working folder, which contains a sound run (`sound_run`).
    user : int or None
        User ID with which the input is read if the tests run as root, who may read everything.
    """

    group: str
    name: str
    make: Callable[[], object]
    user: int | None = None


Make = Callable[[], object]


class Group:
    """The `cases` of one kind of input."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cases: list[Case] = []

    def add(self, name: str, make: Callable[..., object], /, *arguments: Any, **keywords: Any) -> None:
        """Add a case that is made by one call, `make(*arguments, **keywords)`."""
        self.cases.append(Case(self.name, name, lambda: make(*arguments, **keywords)))

    def case(self, name: str, user: int | None = None) -> Callable[[Make], Make]:
        """Return a decorator that adds the case that a function makes."""

        def added(make: Make) -> Make:
            self.cases.append(Case(self.name, name, make, user))
            return make

        return added


class Answer(NamedTuple):
    """How a run ended because of a malformed input."""

    stage: str  # "dry run", or the stage that reads the file
    message: str


def dry_run() -> tuple[list[volumes.Volume], Json]:
    """Do the checks of `snakemake -n --configfile my.yaml` (workflow/rules/common.smk).

    Returns the volumes and the settings.
    """
    variants = study.variants(settings.read_config("my.yaml"))
    config = next(iter(variants.values()))
    if "model" in config:
        settings.use_model(config, config["model"])
    plan = networks.plan(**config["network"])
    plan.require_training(config["training"])
    rows = volumes.read_table(config["volumes"], config.get("data_dir", "."))
    dataset = config["dataset"]
    own = {row.volume: settings.of_volume(dataset, row.dataset, row.row) for row in rows}
    found = volumes.check_files(
        rows,
        {name: values["channels"] for name, values in own.items()},
        config["memory_gb"],
        dataset["pairing"],
        dataset.get("scale", dataset.get("offset")),
        own,
    )
    for variant in variants.values():
        settings.require_labels(variant, rows)
    in_files = {name: images.pixel_size for name, images in found.items()}
    variants = {name: lengths.convert(own, rows, in_files)[0] for name, own in variants.items()}
    config = next(iter(variants.values()))
    if "folds" in config:
        folds.divide(rows, {name: images.sections for name, images in found.items()}, config["folds"])
    learned = [row.volume for row in rows if row.split == "train"]
    models = study.models(variants, [(learned, [])], 1)
    for model in models.values() if learned else ():
        study.require_task(model.settings, model.plan)
        model.plan.require_neighbours(found[name].sections for name in model.train)
    if config.get("ensemble"):
        study.ensemble(models)
    starts.require_starts(models, config["results"], Path)
    return rows, config


def run_case(case: Case) -> Answer:
    """Make the input of a case in the working folder, which must be empty, and return how the run ends.

    The checks of the dry run come first. If they find nothing, the stage that reads the file follows.
    """
    sound_run()
    case.make()
    stage = DRY_RUN
    try:
        with as_user(case.user):
            rows, config = dry_run()
            if os.path.lexists("model.pt"):
                stage = "prediction"
                _load("model.pt")
                stage = "report"
                modelfile.describe("model.pt")
            else:
                stage = "dataset"
                build(rows[-1], config["dataset"])
                stage = "prediction"
                compare(rows, config["dataset"])
    except InputError as error:
        left = [str(path) for path in Path("results").rglob("*") if path.is_file()]
        left = [path for path in left if path not in str(error)]  # a picture that the message names
        # before a prediction there is a complete dataset
        assert stage == "prediction" or not left, f"{case.name}: the incomplete files {left} remain"
        return Answer(stage, str(error))
    raise AssertionError(f"{case.name}: accepted without an error")


def build(volume: volumes.Volume, dataset: Json) -> None:
    """Run the dataset stage for a volume."""
    from pipeline_lib.stages.dataset import build_dataset

    own = settings.of_volume(dataset, volume.dataset, volume.row)
    build_dataset(output=Path("results", f"{volume.volume}.h5"), **volume.source(), **own)


def compare(rows: list[volumes.Volume], dataset: Json) -> None:
    """Compare the last volume, of which a dataset was built, with the first one, as training images."""
    from pipeline_lib import layout
    from pipeline_lib.data.normalisation import measure
    from pipeline_lib.stages.dataset import build_dataset

    trained, new = Path("trained.h5"), Path("results", f"{rows[-1].volume}.h5")
    build_dataset(output=trained, **rows[0].source(), **settings.of_volume(dataset, rows[0].dataset, ""))
    with layout.require(trained) as first, layout.require(new) as last:
        normalisation = measure("mean_std", [first["raw"]], [layout.findings(first)["gray"]])
        normalisation.check(last["raw"], new, layout.findings(last)["gray"])


def _load(path: str) -> None:
    from pipeline_lib.networks.model import Model

    Model.load(path)


@contextlib.contextmanager
def as_user(user: int | None) -> Iterator[None]:
    """Change the effective user if this process runs as root."""
    if user is not None and os.geteuid() == 0:
        os.seteuid(user)
    try:
        yield
    finally:
        if os.geteuid() != os.getuid():
            os.seteuid(os.getuid())


def run_all(cases: Iterable[Case]) -> list[tuple[Case, Answer]]:
    """Run each case in a new folder."""
    answers = []
    for case in cases:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            os.chmod(folder, 0o755)
            answers.append((case, run_case(case)))
    return answers


NOTES = {
    "Configs": "Snakemake reads a config before bordure does and reports invalid YAML itself, in its own "
    "words. A config with `__use_yte__: true` is a program that Snakemake runs when it reads the file. "
    "Therefore check a config from somebody else before you use it."
}


def page(answers: list[tuple[Case, Answer]]) -> str:
    """Return the page with the message of each case."""
    early = sum(answer.stage == DRY_RUN for _, answer in answers)
    lines = [
        "# Messages for malformed input",
        "",
        "This file is a snapshot of messages. tests/test_bad_inputs.py compares it with the messages of the "
        "code, and `python -m tests.bad_inputs` writes it: do not edit it. docs/reference/messages.md "
        "explains the most frequent messages.",
        "",
        f"There are {len(answers)} inputs. The dry run (`snakemake -n`) detects {early} of them, before "
        "anything is computed; the stage that reads the file detects the others. No input leaves an output "
        "file. In a run, `error: ` precedes each message. Text in parentheses that starts with the name of "
        "an exception comes from a library, in the version of the lock file.",
    ]
    group = None
    for case, answer in answers:
        if case.group != group:
            group = case.group
            lines += ["", f"## {group}"]
            lines += ["", NOTES[group]] if group in NOTES else []
            lines += ["", "| input | detected by | message |", "| --- | --- | --- |"]
        lines.append(row(case, answer))
    return "\n".join(lines) + "\n"


def row(case: Case, answer: Answer) -> str:
    """Return the row of one case in the table of its group."""
    return f"| {_cell(case.name)} | {answer.stage} | {_cell(_shortened(answer.message))} |"


def _shortened(message: str) -> str:
    """Leave out the middle of a very long message, which contains a very long name."""
    return message if len(message) < 900 else f"{message[:300]} [...] {message[-300:]}"


def _cell(text: str) -> str:
    text = text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
