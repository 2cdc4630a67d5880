"""pyproject.toml, requirements.lock and environment.yml list the same packages, including all imports."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pipeline_lib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
PYPI_NAME = {"pytorch": "torch"}  # if the name on conda-forge differs
LIBRARY = [*(ROOT / "pipeline_lib").rglob("*.py")]
WORKFLOW = [*(ROOT / "workflow").rglob("*.py")]


def declared(*extras: str) -> dict[str, Requirement]:
    texts = sum((PROJECT["optional-dependencies"][extra] for extra in extras), PROJECT["dependencies"])
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, texts)}


def lines(lock: str) -> list[str]:
    """Return the lines of a lock file that pin versions."""
    return [line for line in (ROOT / lock).read_text().splitlines() if not line.startswith("#")]


def pins(lock: str) -> dict[str, str]:
    """Return the pinned versions by name."""
    return {canonicalize_name(line.split("==")[0]): line.split("==")[-1] for line in lines(lock)}


LOCK = pins("requirements.lock")
OTHER_LOCKS = {
    "requirements-crosscheck.lock": ["crosscheck"],
    "requirements-dev.lock": ["docs", "lint", "onnx", "zarr"],
}
ALL = declared(*sorted(PROJECT["optional-dependencies"].keys() - {*chain(*OTHER_LOCKS.values())}))


def imported(*files: Path) -> set[str]:
    """Return the distributions that `files` import, except the standard library and bordure."""
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    top = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    top -= {"pipeline_lib", "bordure"}
    distributions = packages_distributions()
    return {canonicalize_name(distributions.get(name, [name])[0]) for name in top}


@pytest.mark.parametrize("line", [*chain(*map(lines, ["requirements.lock", *OTHER_LOCKS]))])
def test_lock_pins_exact_versions_without_an_index(line):
    # no host, no path, no local build such as +cpu
    assert re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line)


@pytest.mark.parametrize("name", ALL)
def test_lock_satisfies_pyproject(name):
    assert LOCK[name] in ALL[name].specifier


@pytest.mark.parametrize("lock", OTHER_LOCKS)
def test_other_locks_satisfy_pyproject_and_do_not_overlap(lock):
    for extra in OTHER_LOCKS[lock]:
        for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
            assert pins(lock)[canonicalize_name(requirement.name)] in requirement.specifier
    assert not pins(lock).keys() & LOCK.keys()


def test_conda_pins_equal_those_of_the_lock():
    python, *given = CONDA
    assert python == f"python {PROJECT['requires-python']}"
    pinned = dict(pin.split(" =") for pin in given)
    assert {PYPI_NAME.get(name, name): pinned[name] for name in pinned} == {name: LOCK[name] for name in ALL}


def test_library_declares_its_imports():
    assert imported(*LIBRARY) <= declared("onnx", "zarr").keys()


def test_workflow_declares_its_imports():
    assert imported(*WORKFLOW) <= declared().keys()


def test_every_declared_package_is_used():
    tools = {"snakemake"}  # a command
    tools |= {"imagecodecs", "pytest-xdist"}  # decoders of tifffile; needed by `make test`
    tools |= {name for name in ALL if name.startswith("snakemake-executor-plugin-")}  # named in profiles
    assert ALL.keys() <= imported(*LIBRARY, *WORKFLOW, *(ROOT / "tests").glob("*.py")) | tools


def test_changelog_has_an_entry_for_this_version():
    assert f"## {pipeline_lib.__version__}" in (ROOT / "CHANGELOG.md").read_text()
