"""Imports go only to lower layers, and heavy libraries are imported only where they are needed.

The docstring of `pipeline_lib` lists the layers. Each folder, and each module next to the folders, is in one.
"""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline_lib

PACKAGE = Path(pipeline_lib.__file__).parent
LAYERS = [
    re.findall(r"\w+", line) for line in re.findall(r"^    ([\w, ]+?)  .*$", pipeline_lib.__doc__, re.M)
]
LEVEL = {folder: level for level, folders in enumerate(LAYERS) for folder in folders}
IMPORTERS = {  # library -> folders or modules that may import it
    "torch": r"data\.(augment|patches)|inference|networks\.(cost|exporting|folding|model|transfer|\w*module)"
    r"|networks\.\w+\.(module|dense|masks)|runtime\.(devices|processes)|stages\.(export_model|masks|prediction|training)|tasks\.\w+\.(task|losses|masks|patches)|training",
    "matplotlib": r"figures",
    "jinja2": r"pages",
    "snakemake": r"cli",
}


def read_imports() -> dict[str, set[str]]:
    """Return what each module imports: full names in this package, first names of other packages.

    Imports only for type hints do not count.
    """
    imports: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        found = imports.setdefault(module, set())
        tree = ast.parse(path.read_text())
        hints = {
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            names = []
            if node not in hints and isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}: relative import; write `from pipeline_lib...`"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif node not in hints and isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                inside, _, rest = name.partition(".")
                found.add(rest if inside == PACKAGE.name else inside)
    return {module: names for module, names in imports.items() if module != "__init__"}


def folder_of(name: str) -> str:
    """Return the folder, or the module next to the folders, that contains `name`."""
    return name.partition(".")[0]


IMPORTS = read_imports()
ARROWS = {
    (module, name)
    for module, names in IMPORTS.items()
    for name in names
    if folder_of(name) in LEVEL and folder_of(name) != folder_of(module)
}


def test_every_folder_is_in_a_layer():
    assert {folder_of(module) for module in IMPORTS} == LEVEL.keys()


def test_imports_go_to_lower_layers():
    assert [(a, b) for a, b in sorted(ARROWS) if LEVEL[folder_of(a)] >= LEVEL[folder_of(b)]] == []


def test_there_are_no_circular_imports():
    graph = {
        module: {
            other
            for other in IMPORTS
            if other != module and any(f"{n}.".startswith(f"{other}.") for n in names)
        }
        for module, names in IMPORTS.items()
    }
    packages = {module for module in IMPORTS if any(other.startswith(f"{module}.") for other in IMPORTS)}
    # A package and its own modules count as one, because it re-exports what they define.
    graphlib.TopologicalSorter(
        {m: found - packages for m, found in graph.items() if m not in packages}
    ).prepare()


def test_stages_do_not_import_each_other():
    between = {
        (a, b) for a, names in IMPORTS.items() for b in names if folder_of(a) == folder_of(b) == "stages"
    }
    assert between == set()


def test_figures_do_not_import_readers_of_result_files():
    files = {"h5py", "imageio", "layout", "provenance"}
    found = {(a, b) for a, names in IMPORTS.items() for b in names if folder_of(a) == "figures"}
    assert {(a, b) for a, b in found if folder_of(b) in files} == set()


@pytest.mark.parametrize("library", IMPORTERS)
def test_libraries_are_imported_only_where_allowed(library):
    found = {module for module, names in IMPORTS.items() if library in names}
    assert {module for module in found if not re.match(rf"({IMPORTERS[library]})(\.|$)", module)} == set()


def test_the_dry_run_does_not_import_torch_or_numba():
    code = """
import sys
from pipeline_lib import memory, networks
from pipeline_lib.data import volumes
from pipeline_lib.tasks.segmentation import baselines
networks.plan("unet")
sys.exit({"torch", "numba"} & sys.modules.keys() != set())
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=False).returncode == 0
