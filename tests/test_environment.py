"""pyproject.toml, requirements.lock and environment.yml name the same tools, and all the code imports."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pipeline_lib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK_TEXT = (ROOT / "requirements.lock").read_text()
LOCK_LINES = [line for line in LOCK_TEXT.splitlines() if not line.startswith("#")]
LOCK = {canonicalize_name(line.split("==")[0]): line.split("==")[-1] for line in LOCK_LINES}
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
PYPI_NAME = {"pytorch": "torch"}  # where conda-forge calls it differently
LIBRARY = [*(ROOT / "pipeline_lib").rglob("*.py")]
WORKFLOW = [*(ROOT / "workflow").rglob("*.py")]


def declared(*extras: str) -> dict[str, Requirement]:
    texts = sum((PROJECT["optional-dependencies"][extra] for extra in extras), PROJECT["dependencies"])
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, texts)}


CROSSCHECK_LINES = (ROOT / "requirements-crosscheck.lock").read_text().splitlines()
CROSSCHECK = dict(line.split("==") for line in CROSSCHECK_LINES if not line.startswith("#"))
ALL = declared(*sorted(PROJECT["optional-dependencies"].keys() - {"crosscheck"}))


def imported(*files: Path) -> set[str]:
    """Distributions behind the top-level imports of `files`, the standard library and our own left out."""
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    top = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    top -= {"pipeline_lib", "bordure"}  # our own
    distributions = packages_distributions()
    return {canonicalize_name(distributions.get(name, [name])[0]) for name in top}


@pytest.mark.parametrize("line", LOCK_LINES)
def test_lock_has_exact_versions_from_any_index(line):
    # no host, no path, no local build such as +cpu
    assert re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line)


@pytest.mark.parametrize("name", ALL)
def test_lock_satisfies_pyproject(name):
    assert LOCK[name] in ALL[name].specifier


def test_lock_of_the_cross_checks_satisfies_pyproject_and_agrees_with_the_lock():
    for name in PROJECT["optional-dependencies"]["crosscheck"]:
        assert CROSSCHECK[Requirement(name).name] in Requirement(name).specifier
    assert all(LOCK.get(canonicalize_name(name), version) == version for name, version in CROSSCHECK.items())


def test_conda_pins_are_those_of_the_lock():
    python, *pins = CONDA
    assert python == f"python {PROJECT['requires-python']}"
    pinned = dict(pin.split(" =") for pin in pins)
    assert {PYPI_NAME.get(name, name): pinned[name] for name in pinned} == {name: LOCK[name] for name in ALL}


def test_library_declares_what_it_imports():
    assert imported(*LIBRARY) <= declared().keys()


def test_workflow_declares_what_it_imports():
    assert imported(*WORKFLOW) <= declared("workflow").keys()


def test_every_declared_tool_is_used():
    tools = {"ruff", "snakefmt", "snakemake"}  # commands
    tools |= {"imagecodecs", "pytest-xdist"}  # tifffile's decoders, and what `make test` adds to pytest
    tools |= {name for name in ALL if name.startswith("snakemake-executor-plugin-")}  # which profiles name
    assert ALL.keys() <= imported(*LIBRARY, *WORKFLOW, *(ROOT / "tests").glob("*.py")) | tools


def test_changelog_tells_of_this_version():
    assert f"## {pipeline_lib.__version__}" in (ROOT / "CHANGELOG.md").read_text()
