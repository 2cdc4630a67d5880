"""pyproject.toml, requirements.lock and environment.yml name the same tools, and all the code imports."""

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
PYPI_NAME = {"pytorch": "torch"}  # where conda-forge calls it differently
LIBRARY = [*(ROOT / "pipeline_lib").rglob("*.py")]
WORKFLOW = [*(ROOT / "workflow").rglob("*.py")]


def declared(*extras: str) -> dict[str, Requirement]:
    texts = sum((PROJECT["optional-dependencies"][extra] for extra in extras), PROJECT["dependencies"])
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, texts)}


def lines(lock: str) -> list[str]:
    """The pins of a lock file."""
    return [line for line in (ROOT / lock).read_text().splitlines() if not line.startswith("#")]


def pins(lock: str) -> dict[str, str]:
    """Versions by name."""
    return {canonicalize_name(line.split("==")[0]): line.split("==")[-1] for line in lines(lock)}


LOCK = pins("requirements.lock")
BESIDE = {"requirements-crosscheck.lock": ["crosscheck"], "requirements-dev.lock": ["docs", "lint"]}
ALL = declared(*sorted(PROJECT["optional-dependencies"].keys() - {*chain(*BESIDE.values())}))


def imported(*files: Path) -> set[str]:
    """Distributions behind the top-level imports of `files`, the standard library and our own left out."""
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    top = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    top -= {"pipeline_lib", "bordure"}  # our own
    distributions = packages_distributions()
    return {canonicalize_name(distributions.get(name, [name])[0]) for name in top}


@pytest.mark.parametrize("line", [*chain(*map(lines, ["requirements.lock", *BESIDE]))])
def test_lock_has_exact_versions_from_any_index(line):
    # no host, no path, no local build such as +cpu
    assert re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line)


@pytest.mark.parametrize("name", ALL)
def test_lock_satisfies_pyproject(name):
    assert LOCK[name] in ALL[name].specifier


@pytest.mark.parametrize("lock", BESIDE)
def test_locks_beside_it_satisfy_pyproject_and_agree_with_it(lock):
    for extra in BESIDE[lock]:
        for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
            assert pins(lock)[canonicalize_name(requirement.name)] in requirement.specifier
    assert not pins(lock).keys() & LOCK.keys()


def test_conda_pins_are_those_of_the_lock():
    python, *given = CONDA
    assert python == f"python {PROJECT['requires-python']}"
    pinned = dict(pin.split(" =") for pin in given)
    assert {PYPI_NAME.get(name, name): pinned[name] for name in pinned} == {name: LOCK[name] for name in ALL}


def test_library_declares_what_it_imports():
    assert imported(*LIBRARY) <= declared().keys()


def test_workflow_declares_what_it_imports():
    assert imported(*WORKFLOW) <= declared("workflow").keys()


def test_every_declared_tool_is_used():
    tools = {"snakemake"}  # a command
    tools |= {"imagecodecs", "pytest-xdist"}  # tifffile's decoders, and what `make test` adds to pytest
    tools |= {name for name in ALL if name.startswith("snakemake-executor-plugin-")}  # which profiles name
    assert ALL.keys() <= imported(*LIBRARY, *WORKFLOW, *(ROOT / "tests").glob("*.py")) | tools


def test_changelog_tells_of_this_version():
    assert f"## {pipeline_lib.__version__}" in (ROOT / "CHANGELOG.md").read_text()
