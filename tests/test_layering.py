"""Imports run downward only, and heavy libraries stay where they are needed.

The docstring of `pipeline_lib` shows the layers; a folder, or a module beside the folders, is in one of them.
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
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
HOME = {  # library -> the rooms, or the modules in them, that may import it
    "torch": r"data\.(augment|patches)|inference|networks\.(model|module|\w+\.module)"
    r"|runtime\.(devices|processes)|stages\.(prediction|training)|tasks\.\w+\.(task|losses)|training",
    "matplotlib": r"figures",
    "jinja2": r"pages",
    "snakemake": r"cli",
}


def read_imports() -> dict[str, set[str]]:
    """Module -> what it imports, by its full name within our package, with the first name elsewhere.

    What is imported for type hints alone does not count.
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


def room(name: str) -> str:
    return name.partition(".")[0]


IMPORTS = read_imports()
ARROWS = {
    (module, name)
    for module, names in IMPORTS.items()
    for name in names
    if room(name) in LEVEL and room(name) != room(module)
}


def test_every_folder_and_module_has_its_layer():
    assert {room(module) for module in IMPORTS} == LEVEL.keys()


def test_imports_run_downward():
    assert [(a, b) for a, b in sorted(ARROWS) if LEVEL[room(a)] >= LEVEL[room(b)]] == []


def test_modules_of_a_folder_do_not_import_each_other_in_circles():
    graph = {
        module: {
            other
            for other in IMPORTS
            if other != module and any(f"{n}.".startswith(f"{other}.") for n in names)
        }
        for module, names in IMPORTS.items()
    }
    packages = {module for module in IMPORTS if any(other.startswith(f"{module}.") for other in IMPORTS)}
    # a package and its own modules are one: it shows what they define
    graphlib.TopologicalSorter(
        {m: found - packages for m, found in graph.items() if m not in packages}
    ).prepare()


def test_stages_meet_only_in_files():
    between = {(a, b) for a, names in IMPORTS.items() for b in names if room(a) == room(b) == "stages"}
    assert between == set()


def test_figures_turn_arrays_into_pictures_and_open_no_files_of_results():
    files = {"h5py", "imageio", "layout", "provenance"}
    found = {(a, b) for a, names in IMPORTS.items() for b in names if room(a) == "figures"}
    assert {(a, b) for a, b in found if room(b) in files} == set()


@pytest.mark.parametrize("library", HOME)
def test_libraries_stay_at_home(library):
    found = {module for module, names in IMPORTS.items() if library in names}
    assert {module for module in found if not re.match(rf"({HOME[library]})(\.|$)", module)} == set()


def test_what_the_dry_run_imports_is_free_of_torch_and_numba():
    code = """
import sys
from pipeline_lib import memory, networks
from pipeline_lib.data import volumes
from pipeline_lib.tasks.segmentation import baselines
networks.plan("unet")
sys.exit({"torch", "numba"} & sys.modules.keys() != set())
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=False).returncode == 0
