"""Imports run downward only, and heavy libraries stay where they are needed."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "pipeline_lib"
STAGES = {
    "synthesis",
    "dataset",
    "training",
    "prediction",
    "threshold",
    "segmentation",
    "joining",
    "evaluation",
    "report",
    "provenance_page",
}
GROUND = {"locks", "signals", "errors", "files", "log", "blocks", "layout", "imageio"}
HOME = {  # library -> the modules that may import it
    "torch": {
        "augment",
        "losses",
        "patches",
        "networks",
        "inference",
        "devices",
        "processes",
        "training",
        "prediction",
    },
    "matplotlib": {"figures"},
    "snakemake": set(),
}


def read_imports() -> dict[str, set[str]]:
    """Module (a subpackage counts as one) -> our modules and the libraries it imports, by first name."""
    imports: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        found = imports.setdefault(module, set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}: relative import; write `from pipeline_lib...`"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                parts = name.split(".")
                found.add(parts[1] if parts[0] == PACKAGE.name else parts[0])
    return imports


IMPORTS = read_imports()
MODULES = IMPORTS.keys()


def test_modules_do_not_import_each_other_in_circles():
    graphlib.TopologicalSorter({m: (names & MODULES) - {m} for m, names in IMPORTS.items()}).prepare()


def test_stages_meet_only_in_files():
    assert {m: names & STAGES for m, names in IMPORTS.items() if names & STAGES} == {}


def test_the_ground_rests_on_nothing():
    assert {m: IMPORTS[m] & MODULES - GROUND for m in GROUND if IMPORTS[m] & MODULES - GROUND} == {}


def test_libraries_stay_at_home():
    for library, home in HOME.items():
        assert {module for module, names in IMPORTS.items() if library in names} <= home


def test_what_the_dry_run_imports_is_free_of_torch():
    code = "import sys; from pipeline_lib import baselines, tiling, volumes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=False).returncode == 0
