"""The public part of `pipeline_lib`: what users import, and what the API pages show.

    python docs/public_api.py

checks the docstrings of all of it with numpydoc's validation and lists what is missing.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from numpydoc.validate import validate

ROOT = Path(__file__).parents[1]
# Module and title of its page, in the order of the reference.
MODULES = {
    "pipeline_lib.metrics": "Scores",
    "pipeline_lib.imageio": "Image files",
    "pipeline_lib.layout": "HDF5 files",
    "pipeline_lib.data.volumes": "Table of volumes",
    "pipeline_lib.data.labels": "Labels and separation border",
    "pipeline_lib.data.normalisation": "Normalisation",
    "pipeline_lib.data.augment": "Augmentation",
    "pipeline_lib.data.patches": "Training patches",
    "pipeline_lib.tasks": "Tasks",
    "pipeline_lib.tasks.segmentation.weights": "Weight map",
    "pipeline_lib.tasks.segmentation.losses": "Losses",
    "pipeline_lib.networks": "Networks",
    "pipeline_lib.networks.plan": "Plan of a network",
    "pipeline_lib.networks.module": "Module of a network",
    "pipeline_lib.networks.unet": "U-Net: plan",
    "pipeline_lib.networks.unet.module": "U-Net: module",
    "pipeline_lib.networks.model": "Model files",
    "pipeline_lib.inference.tiling": "Overlap-tile",
    "pipeline_lib.inference.passes": "Inference",
    "pipeline_lib.instances.postprocessing": "Post-processing",
    "pipeline_lib.instances.labelling": "Labelling",
    "pipeline_lib.stages.dataset": "Stage: dataset",
    "pipeline_lib.stages.training": "Stage: training",
    "pipeline_lib.stages.prediction": "Stage: prediction",
    "pipeline_lib.stages.baselines": "Stage: baselines",
    "pipeline_lib.stages.postprocessing": "Stage: post-processing",
    "pipeline_lib.stages.segmentation": "Stage: segmentation",
    "pipeline_lib.stages.joining": "Stage: joining",
    "pipeline_lib.stages.evaluation": "Stage: evaluation",
    "pipeline_lib.stages.pictures": "Stage: pictures",
    "pipeline_lib.stages.report": "Stage: report",
    "pipeline_lib.stages.provenance_page": "Stage: provenance page",
    "pipeline_lib.stages.synthesis": "Stage: synthesis",
}
# What numpydoc's own style asks for and this project does not: a summary on the line after the quotes, in the
# imperative; an extended summary, See Also and Examples everywhere.
NOT_CHECKED = {"GL01", "GL02", "GL09", "SS05", "SS06", "ES01", "SA01", "SA02", "SA03", "SA04", "EX01"}


def members(name: str) -> list[str]:
    """Return the public names of a module: its `__all__`, or the functions and classes it defines.

    Parameters
    ----------
    name : str
        Name of the module, for instance `pipeline_lib.metrics`.

    Returns
    -------
    list of str
        Names of its members, in the order of `__all__` or of their definition.
    """
    module = importlib.import_module(name)
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [key for key, value in vars(module).items() if _defined(key, value, module)]


def _defined(key: str, value: object, module: ModuleType) -> bool:
    is_code = inspect.isfunction(value) or inspect.isclass(value) or hasattr(value, "py_func")  # numba
    return is_code and not key.startswith("_") and getattr(value, "__module__", None) == module.__name__


def objects() -> Iterator[str]:
    """Yield the full names of all public functions, classes and their public methods."""
    for name in MODULES:
        module = importlib.import_module(name)
        for member in members(name):
            value = getattr(module, member)
            if inspect.isclass(value):
                # Protocols are not created; numpydoc asks for the parameters of their artificial __init__.
                if not getattr(value, "_is_protocol", False):
                    yield f"{name}.{member}"
                for key, method in vars(value).items():
                    if inspect.isfunction(method) and not key.startswith("_"):
                        yield f"{name}.{member}.{key}"
            elif callable(value):
                yield f"{name}.{member}"


def findings() -> Iterator[str]:
    """Yield one line for each shortcoming of a docstring: file, line, object, code and message."""
    seen = set()
    for name in objects():
        found = validate(name)
        place = f"{Path(found['file'] or '?').resolve()}:{found['file_line']}"
        for code, message in found["errors"]:
            if code not in NOT_CHECKED and (place, code, message) not in seen:
                seen.add((place, code, message))
                yield f"{place.removeprefix(f'{ROOT}/')}: {name}: {code} {message}"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    shortcomings = list(findings())
    print(*shortcomings, sep="\n", end="\n" if shortcomings else "")
    sys.exit(f"{len(shortcomings)} shortcomings of docstrings" if shortcomings else 0)
