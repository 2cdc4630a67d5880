"""The public part of `pipeline_lib`: what users import, and what the API pages show.

    python docs/public_api.py

checks the docstrings of all of it with numpydoc's validation and lists what is missing.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from numpydoc.validate import validate
from sphinx.pycode import ModuleAnalyzer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pipeline_lib import layout  # noqa: E402

# Groups of the reference, and in each the module and the title of its page, in order.
GROUPS = {
    "What users import": {
        "pipeline_lib.api": "Train, segment, score, measure",
        "pipeline_lib.projects.setup": "Table and config for a folder",
        "pipeline_lib.metrics": "Scores",
        "pipeline_lib.metrics.differences": "Differences between variants",
        "pipeline_lib.imageio": "Image files",
        "pipeline_lib.imageio.boxes": "Files of boxes",
        "pipeline_lib.layout": "HDF5 files",
        "pipeline_lib.networks": "Networks",
        "pipeline_lib.networks.model": "Model files",
        "pipeline_lib.networks.modelfile": "Descriptions of model files",
        "pipeline_lib.inference.passes": "Inference",
        "pipeline_lib.instances.postprocessing": "Post-processing",
        "pipeline_lib.instances.mutex_watershed": "Affinities and mutex watershed",
        "pipeline_lib.instances.classes": "Class maps",
        "pipeline_lib.tasks.segmentation.classes": "Classes of pixels",
        "pipeline_lib.instances.measurement": "Measurements of cells",
        "pipeline_lib.data.labels": "Labels and separation border",
        "pipeline_lib.data.normalisation": "Normalisation",
        "pipeline_lib.tasks.segmentation.weights": "Weight map",
        "pipeline_lib.scores": "Tables of scores",
        "pipeline_lib.runtime.errors": "Exception",
    },
    "Stages": {
        "pipeline_lib.stages.synthesis": "Stage: synthesis",
        "pipeline_lib.stages.dataset": "Stage: dataset",
        "pipeline_lib.stages.check": "Stage: check",
        "pipeline_lib.stages.acceptance": "Stage: acceptance",
        "pipeline_lib.stages.training": "Stage: training",
        "pipeline_lib.stages.prediction": "Stage: prediction",
        "pipeline_lib.stages.baselines": "Stage: baselines",
        "pipeline_lib.stages.postprocessing": "Stage: post-processing",
        "pipeline_lib.stages.segmentation": "Stage: segmentation",
        "pipeline_lib.stages.ensemble": "Stage: ensemble",
        "pipeline_lib.stages.joining": "Stage: joining",
        "pipeline_lib.stages.boxes": "Stage: boxes",
        "pipeline_lib.stages.detection": "Stage: detection",
        "pipeline_lib.stages.masks": "Stage: masks",
        "pipeline_lib.stages.evaluation": "Stage: evaluation",
        "pipeline_lib.stages.packaging": "Stage: packaging",
        "pipeline_lib.stages.measurement": "Stage: measurement",
        "pipeline_lib.stages.pictures": "Stage: pictures",
        "pipeline_lib.stages.detection_figures": "Stage: pictures of detections",
        "pipeline_lib.stages.report": "Stage: report",
        "pipeline_lib.stages.speed": "Stage: speed",
        "pipeline_lib.stages.comparison": "Stage: comparison",
        "pipeline_lib.stages.provenance_page": "Stage: provenance page",
    },
    "For contributors": {
        "pipeline_lib.projects.layouts": "Layouts of folders",
        "pipeline_lib.projects.survey": "Survey of images",
        "pipeline_lib.projects.splits": "Splits",
        "pipeline_lib.projects.proposal": "Proposal of settings",
        "pipeline_lib.data.volumes": "Table of volumes",
        "pipeline_lib.data.folds": "Folds of a cross-validation",
        "pipeline_lib.data.resolution": "Pixel sizes of volumes",
        "pipeline_lib.data.augment": "Augmentation",
        "pipeline_lib.data.patches": "Training patches",
        "pipeline_lib.data.sampling": "Class-balanced patches",
        "pipeline_lib.data.boxes": "Boxes of labels",
        "pipeline_lib.data.correspondence": "Correspondence of annotation and image",
        "pipeline_lib.training.schedule": "Training schedule",
        "pipeline_lib.training.average": "Average of the parameters",
        "pipeline_lib.training.speed": "Training speed",
        "pipeline_lib.training.statistics": "Statistics of batch normalisation",
        "pipeline_lib.training.randomness": "Loss mask and drop-out",
        "pipeline_lib.training.prior": "Corrected probabilities",
        "pipeline_lib.tasks": "Tasks",
        "pipeline_lib.tasks.segmentation.losses": "Losses",
        "pipeline_lib.tasks.segmentation.baselines": "Baselines",
        "pipeline_lib.tasks.detection.found": "Boxes that were found",
        "pipeline_lib.tasks.detection.losses": "MultiBox loss",
        "pipeline_lib.tasks.detection.masks": "Masks on boxes",
        "pipeline_lib.tasks.detection.matching": "Default boxes and objects",
        "pipeline_lib.tasks.detection.patches": "Patches with boxes",
        "pipeline_lib.tasks.detection.truth": "Annotated boxes",
        "pipeline_lib.networks.plan": "Plan of a network",
        "pipeline_lib.networks.module": "Module of a network",
        "pipeline_lib.networks.encoder": "Encoder: plan",
        "pipeline_lib.networks.encoder_module": "Encoder: module",
        "pipeline_lib.networks.fcn": "FCN: plans",
        "pipeline_lib.networks.fcn.module": "FCN: module",
        "pipeline_lib.networks.cost": "Operations of a network",
        "pipeline_lib.networks.folding": "Folding of batch normalisation",
        "pipeline_lib.networks.parts": "Parts of a network",
        "pipeline_lib.networks.transfer": "Start from a trained network",
        "pipeline_lib.networks.patch_classifier": "Patch classifier: plan",
        "pipeline_lib.networks.patch_classifier.module": "Patch classifier: module",
        "pipeline_lib.networks.patch_classifier.dense": "Patch classifier: every pixel",
        "pipeline_lib.networks.ssd": "SSD: plan",
        "pipeline_lib.networks.ssd.module": "SSD: module",
        "pipeline_lib.networks.ssd.masks": "SSD: mask head",
        "pipeline_lib.networks.unet": "U-Net: plan",
        "pipeline_lib.networks.unet.module": "U-Net: module",
        "pipeline_lib.inference.tiling": "Overlap-tile",
        "pipeline_lib.inference.neighbours": "Neighbouring sections",
        "pipeline_lib.inference.averaging": "Mean of networks",
        "pipeline_lib.inference.resampling": "Resampling",
        "pipeline_lib.instances.labelling": "Labelling",
        "pipeline_lib.kernels.blocks": "Blocks and parts",
        "pipeline_lib.kernels.boxes": "Boxes",
        "pipeline_lib.memory": "Memory",
        "pipeline_lib.provenance": "Provenance",
        "pipeline_lib.runtime.files": "Files",
    },
}
MODULES = {name: title for group in GROUPS.values() for name, title in group.items()}
# What numpydoc's own style asks for and this project does not: a summary on the line after the quotes, in the
# imperative; an extended summary, See Also and Examples everywhere.
NOT_CHECKED = {"GL01", "GL02", "GL09", "SS05", "SS06", "ES01", "SA01", "SA02", "SA03", "SA04", "EX01"}


def members(name: str) -> list[str]:
    """Return the public names of a module.

    Parameters
    ----------
    name : str
        Name of the module, for instance `pipeline_lib.metrics`.

    Returns
    -------
    list of str
        Its `__all__`. Without it, the functions and classes that the module defines and its constants that
        are described, in the order of their definition.
    """
    module = importlib.import_module(name)
    if hasattr(module, "__all__"):
        return list(module.__all__)
    described = descriptions(name)
    return [key for key, value in vars(module).items() if key in described or _defined(key, value, module)]


def _defined(key: str, value: object, module: ModuleType) -> bool:
    wrapped = hasattr(value, "py_func") or hasattr(value, "__wrapped__")  # by numba, by a cache
    is_code = inspect.isfunction(value) or inspect.isclass(value) or wrapped
    return is_code and not key.startswith("_") and getattr(value, "__module__", None) == module.__name__


def is_constant(value: object) -> bool:
    """Return whether a public name is a constant, not a function or class."""
    return not callable(value)


def descriptions(name: str) -> dict[str, str]:
    """Return the descriptions of the constants of a module.

    Parameters
    ----------
    name : str
        Name of the module.

    Returns
    -------
    dict of str to str
        Constant -> the text of the comment `#:` before it, also where a package imports it from one of its
        modules. Arrays of `pipeline_lib.layout` are described by their fields.
    """
    module = importlib.import_module(name)
    found = {}
    for source in [name, *_imported(module)]:
        for (owner, key), lines in ModuleAnalyzer.for_module(source).find_attr_docs().items():
            if not owner and key in vars(module) and (source == name or key in module.__all__):
                found[key] = " ".join(lines).strip()
    for key, value in vars(module).items():
        if isinstance(value, layout.Array):
            kind = f"({', '.join(value.axes)}) array{f' of {value.dtype}' if value.dtype else ''}"
            found[key] = f'"{value.name}", {kind}, unit "{value.unit}": {value.meaning}.'
    return found


def _imported(module: ModuleType) -> list[str]:
    """Return the names of the modules from which a package with `__all__` imports."""
    if not hasattr(module, "__all__"):
        return []
    nodes = ast.walk(ast.parse(inspect.getsource(module)))
    names = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return [name for name in names if name.startswith(f"{module.__name__}.")]


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
    for name in MODULES:
        module, described = importlib.import_module(name), descriptions(name)
        for key in members(name):
            if is_constant(getattr(module, key)) and key not in described:
                yield f"{name}.{key}: no description. Write a comment `#:` on the line before it."
    seen = set()
    for name in objects():
        found = validate(name)
        place = f"{Path(found['file'] or '?').resolve()}:{found['file_line']}"
        for code, message in found["errors"]:
            if code not in NOT_CHECKED and (place, code, message) not in seen:
                seen.add((place, code, message))
                yield f"{place.removeprefix(f'{ROOT}/')}: {name}: {code} {message}"


if __name__ == "__main__":
    shortcomings = list(findings())
    print(*shortcomings, sep="\n", end="\n" if shortcomings else "")
    sys.exit(f"{len(shortcomings)} shortcomings of docstrings" if shortcomings else 0)
