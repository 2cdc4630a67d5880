"""Compare runs with different numbers of threads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from pipeline_lib import layout, provenance
from pipeline_lib.networks.model import Model
from pipeline_lib.runtime.files import read_json
from tests.soak.project import Project, Reference
from tests.soak.rows import Row

COUNTS = (1, 4)  # compared with the two threads of the undisturbed run
PARALLEL = (  # rules with several threads, except training
    "predict_train",
    "predict_validation",
    "predict_test",
    "choose_postprocessing",
    "choose_postprocessing_baselines",
    "evaluate_held_out",
    "evaluate_baselines",
)
ROUNDING = 1e-5  # largest allowed difference of probabilities of one model
MODEL = "models/unet/model.pt"
# precision -> iterations after which trainings are compared
STEPS = {"float32": (1, 20, 300), "bfloat16": (1, 20)}


def soak(make: Callable[..., Project]) -> Iterator[Row]:
    """Compare numbers of threads; `make(name, **training)` makes a project with settings of training."""
    yield _of_all(make)
    yield _of_all_but_the_training(make)
    yield from _of_the_training(make)


def _of_all(make: Callable[..., Project]) -> Row:
    """Change the threads of all rules; files that do not depend on a trained network must be identical."""
    project = make("all")
    reference, wrong, figures = Reference.of(project), [], {}
    two, figures["2 threads"] = _parameters(project), _quality(project)
    trained = _trained(project)
    for count in COUNTS:
        answer = _run(project, count, train=count)
        if answer:
            wrong.append(answer)
            continue
        if different := sorted({*reference.unlike(project.files())} - trained):
            wrong.append(f"{count} threads: {', '.join(different)}")
        figures[f"{count} threads"] = _quality(project)
        figures[f"{count} threads, parameters"] = _apart(two, _parameters(project))
    figures["files without a trained network, byte-identical"] = len(reference.digests) - len(trained)
    return Row("other numbers of threads for all", len(COUNTS), len(COUNTS) - len(wrong), figures, wrong)


def _of_all_but_the_training(make: Callable[..., Project]) -> Row:
    """Change the threads of all rules but training; only probabilities may differ, by rounding."""
    project = make("all-but-training")
    reference, wrong, largest = Reference.of(project), [], 0.0
    kept = project.folder / "kept"
    shutil.copytree(project.results / "prediction", kept)
    for count in COUNTS:
        if answer := _run(project, count, train=2):
            wrong.append(answer)
            continue
        apart = [
            np.abs(
                _probability(path) - _probability(project.results / "prediction" / path.relative_to(kept))
            ).max()
            for path in kept.rglob("*.h5")
        ]
        largest = max(largest, *map(float, apart))
        same = {MODEL, *(name for name in reference.digests if name.endswith(("_labels.tif", ".csv")))}
        if different := sorted(same & {*reference.unlike(project.files())}):
            wrong.append(f"{count} threads: {', '.join(different)}")
        if largest > ROUNDING:
            wrong.append(f"{count} threads: probabilities differ by up to {largest:.1e}")
    figures = {
        "probabilities apart at most": f"{largest:.1e}",
        "labels and scores, byte-identical": len(same) - 1,
    }
    return Row("... for all but the training", len(COUNTS), len(COUNTS) - len(wrong), figures, wrong)


def _of_the_training(make: Callable[..., Project]) -> Iterator[Row]:
    """Measure how much trainings with different numbers of threads differ; there is no limit for that."""
    for precision, steps in STEPS.items():
        wrong, figures = [], {}
        for iterations in steps:
            found = {}
            for count in (*COUNTS, 2):
                project = make("training", precision=precision, iterations=iterations, warm_up=0)
                if answer := _run(project, 4, count, project.name_of(MODEL)):
                    wrong.append(answer)
                else:
                    found[count] = _parameters(project)
                # also deletes the checkpoint, from which the next training would resume
                shutil.rmtree(project.results / "models")
            figures |= {
                f"after {iterations} iterations, {count} and 2 threads": _apart(found[2], found[count])
                for count in COUNTS
                if not wrong
            }
        times = len(steps) * len(COUNTS)
        yield Row(f"... for the training, {precision}", times, times - len(wrong), figures, wrong)


def _run(project: Project, count: int, train: int, *targets: str) -> str:
    """Run, from the beginning if there are no `targets`; return the output if the run failed."""
    if not targets:
        project.clear()
    threads = ["--set-threads", f"train_model={train}", *(f"{rule}={count}" for rule in PARALLEL)]
    answer = project.run(*targets, *threads, "--cores", str(max(count, train)))
    return answer.output[-3000:] if answer.status else ""


def _trained(project: Project) -> set[str]:
    """Return the files that depend on a trained network, according to their records."""
    before, names = Path.cwd(), project.files()
    os.chdir(project.folder)  # recorded paths are relative to it
    try:
        chains = {name: provenance.chain(project.name_of(name)) for name in names}
    finally:
        os.chdir(before)
    return {name for name, links in chains.items() if "train" in _stages(links)}


def _stages(links: Mapping[str, provenance.Link]) -> set[str]:
    return {(link.record or {}).get("stage", "") for link in links.values()}


def _parameters(project: Project) -> dict[str, np.ndarray]:
    network = Model.load(project.results / MODEL).network
    return {name: tensor.detach().numpy().astype(np.float64) for name, tensor in network.named_parameters()}


def _apart(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> str:
    apart = np.concatenate([(one[name] - other[name]).ravel() for name in one])
    return f"largest {np.abs(apart).max():.0e}, rms {np.sqrt((apart**2).mean()):.0e}"


def _probability(path: Path) -> np.ndarray:
    with h5py.File(path, "r", locking=False) as file:
        return file[layout.CELL_PROBABILITY.name][:].astype(np.float64)


def _quality(project: Project) -> str:
    """Return V-Rand (thinned): the best in validation, and that of the test volumes at the threshold."""
    best = pd.read_csv(project.results / "models/unet/history.csv")["validation_v_rand_thin"].max()
    chosen = read_json(project.results / "postprocessing/unet.json")["threshold"]
    scores = pd.read_csv(project.results / "scores.csv")
    wanted = {"split": "test", "network": "unet", "metric": "v_rand_thin"}
    rows = np.logical_and.reduce([scores[column] == value for column, value in wanted.items()])
    value = scores["value"][rows & np.isclose(scores["threshold"], chosen)].mean()
    return f"V-Rand {best:.4f} in validation, {value:.4f} on the test volume"
