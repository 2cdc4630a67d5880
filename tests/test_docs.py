"""The documentation: its code runs, its pages agree with the code, and the README stays short."""

import ast
import doctest
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import tifffile
import warm
import yaml
from bordure import settings, study

from pipeline_lib import layout, networks
from pipeline_lib.data import volumes
from pipeline_lib.networks import transfer

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LIBRARY = ROOT / "pipeline_lib"
LINKED = ("Makefile", "Snakefile", "environment.yml", "pipeline_lib", "profiles", "pyproject.toml")
LINKED += ("requirements.lock", "workflow")
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# What makes the runs of the tutorials short: a small network, few iterations, small images and few pictures.
SMALLER_DEMO = {
    "size: 256": "size: 96",
    "depth: 3": "depth: 1",
    "base_channels: 16": "base_channels: 4",
    "tile: 220": "tile: 80",
    "iterations: 1500": "iterations: 4",
    "validation_interval: 250": "validation_interval: 4",
    "title: Demo on a drawn volume": "volumes: 1",
}


# The same for the config that `bordure init` writes
SMALLER_INIT = r"""
import re
from pathlib import Path

config = Path("FOLDER/config.yaml")
text = config.read_text()
smaller = {"depth": 1, "base_channels": 4, "tile": 80, "iterations": 4, "validation_interval": 4}
smaller |= {"average_orientations": "false"}
for key, value in smaller.items():
    text, number = re.subn(f"(?m)^  {key}: .*", f"  {key}: {value}", text)
    assert number == 1, key
config.write_text(text.replace("  title: FOLDER", "  volumes: 1"))
"""
SMALLER_STUDY = {
    "size: 192": "size: 96",
    "depth: 3": "depth: 1",
    "base_channels: 8": "base_channels: 4",
    "tile: 188": "tile: 80",
    "iterations: 400": "iterations: 4",
    "validation_interval: 100": "validation_interval: 4",
}
SMALLER_DETECTOR = {
    "channels: [16, 32, 64, 64, 64]": "channels: [4, 4, 8, 8, 8]",
    "iterations: 1500": "iterations: 4",
    "validation_interval: 250": "validation_interval: 4",
}


def replaced(text: str, replacements: dict[str, str]) -> str:
    """`text` with each key replaced, which must occur once."""
    for before, after in replacements.items():
        assert text.count(before) == 1, f"{before!r} occurs {text.count(before)} times"
        text = text.replace(before, after)
    return text


def script(page: Path) -> str:
    """The `bash` and `python` blocks of a page as one shell script, which stops at the first error."""
    lines = ["set -euo pipefail"]
    for number, (language, code) in enumerate(BLOCK.findall(page.read_text()), 1):
        lines.append(f"echo '--- block {number} of {page.name}' >&2")
        lines.append(code if language == "bash" else f".venv/bin/python - <<'PYTHON'\n{code}PYTHON\n")
    return "\n".join(lines)


def copy_checkout(folder: Path) -> Path:
    """A copy of this checkout in `folder`, with the packages of this Python as its `.venv`.

    Only the configs are copied. The rest are links, so that compiled functions are found in their cache. The
    programs of Python are forked from a server (`warm`).
    """
    clone = folder / "bordure"
    clone.mkdir()
    shutil.copytree(ROOT / "config", clone / "config")
    for name in LINKED:
        (clone / name).symlink_to(ROOT / name)
    programs = clone / ".venv/bin"
    programs.mkdir(parents=True)
    for path in [*Path(sys.prefix).iterdir(), *Path(sys.prefix, "bin").iterdir()]:
        if path.name != "bin":
            (clone / ".venv" / path.relative_to(sys.prefix)).symlink_to(path)
    for name, module in {"python": "", "snakemake": "snakemake", "bordure": "pipeline_lib.cli"}.items():
        (programs / name).unlink()
        (programs / name).write_text(f'#!/bin/sh\nexec {warm.python()} {module and f"-m {module}"} "$@"\n')
        (programs / name).chmod(0o755)
    (programs / "activate").unlink()
    (programs / "activate").write_text(f'PATH={shlex.quote(str(programs))}:"$PATH"\n')
    installed = clone / ".venv/installed"  # make finds nothing to install
    installed.unlink(missing_ok=True)
    installed.touch()
    return clone


def run(code: str, clone: Path) -> str:
    """Run a shell script in `clone` and return what it prints."""
    environment = os.environ | warm.environment(str(clone))
    found = subprocess.run(
        ["bash", "-c", code], cwd=clone, env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, f"{found.stdout}\n{found.stderr}"
    return found.stdout


@pytest.fixture(scope="class")
def finished_em(tmp_path_factory):
    """The copy in which the tutorial was followed, and what was printed."""
    clone = copy_checkout(tmp_path_factory.mktemp("em"))
    config = clone / "config/config.yaml"
    config.write_text(replaced(config.read_text(), SMALLER_DEMO))
    return clone, run(script(DOCS / "tutorials/em.md"), clone)


@pytest.mark.slow
class TestTutorialEM:
    def test_its_commands_run(self, finished_em):
        clone, printed = finished_em
        assert "open results/report.html in a browser" in printed
        assert "(2, 96, 96) uint32" in printed or "(2, 96, 96) uint16" in printed
        assert (clone / "results/report.html").exists()

    def test_hdf5_files_have_the_documented_arrays(self, finished_em):
        documented = generate().HDF5_FILES
        results = finished_em[0] / "results"
        found = [*results.rglob("*.h5")]
        assert found
        for path in found:
            folder, *model = path.relative_to(results).parts[:-1]
            pattern = "/".join([folder, *("MODEL" for _ in model), "VOLUME.h5"])
            with h5py.File(path) as file:
                # only if some pixels are not annotated, and only with more classes than background and cell
                optional = {array.name for array in (layout.IGNORE, layout.TARGET, layout.CLASS_PROBABILITY)}
                assert {*file} == {array.name for array in documented[pattern]} - optional, path

    def test_files_are_documented(self, finished_em):
        page = (DOCS / "reference/files.md").read_text()
        results = finished_em[0] / "results"
        names = {
            path.relative_to(results).as_posix()
            for path in results.rglob("*")
            if path.is_file() and not {".provenance", "logs", "benchmarks"} & {*path.parts}
        }
        for name in names - {".lock"}:
            pattern = re.sub(r"\b(train|validation|test)(?=[._])", "VOLUME", name)
            pattern = re.sub(r"\b(unet|constant|smoothed_raw)(?=\b|_tried)", "MODEL", pattern)
            assert f"`{pattern}`" in page, name


@pytest.fixture(scope="class")
def finished_nuclei(tmp_path_factory):
    """The copy in which the tutorial was followed, and what was printed."""
    clone = copy_checkout(tmp_path_factory.mktemp("nuclei"))
    code = script(DOCS / "tutorials/nuclei.md")
    return clone, run(with_smaller(code, "bordure init --example nuclei\n", "nuclei"), clone)


def with_smaller(code: str, init: str, folder: str) -> str:
    """A script in which the config that the command `init` writes into `folder` is made smaller."""
    return replaced(
        code, {init: f"{init}.venv/bin/python - <<'PYTHON'\n{SMALLER_INIT.replace('FOLDER', folder)}PYTHON\n"}
    )


@pytest.mark.slow
class TestTutorialNuclei:
    def test_its_commands_run(self, finished_nuclei):
        folder, printed = finished_nuclei
        shown = blocks("tutorials/nuclei.md", r"^```text\n(images .*?)^```$")[0]
        assert shown in printed  # what `init` prints, word for word
        assert "whole run     12 sections, 381 cells: about " in printed
        assert re.search("^next +bordure predict .*nuclei/results/model.pt NEW.tif", printed, re.MULTILINE)
        assert {path.name for path in (folder / "cells").glob("nuclei_022*")} == {
            "nuclei_022_labels.tif",
            "nuclei_022_cell_probability.tif",
            "nuclei_022_cells.csv",
        }
        assert "do not touch the edge of the image" in printed

    def test_the_model_gives_the_labels_of_the_run(self, finished_nuclei):
        folder = finished_nuclei[0]
        one, other = (
            tifffile.imread(folder / where / "nuclei_022_labels.tif")
            for where in ("cells", "nuclei/results/segmentation")
        )
        assert np.array_equal(one, other)

    def test_the_tutorial_on_new_images_continues_it(self, finished_nuclei):
        folder = finished_nuclei[0]
        printed = run(script(DOCS / "tutorials/new-images.md"), folder)
        assert "cells_matched" in printed and "probability_mean" in printed
        assert "new/nuclei_022.tif" in printed and "nuclei/results/model.pt" in printed  # provenance
        names = {path.name for path in (folder / "new-cells").iterdir()}
        assert {"nuclei_022_labels_rois.zip", "nuclei_022_labels_cells.geojson", "summary.csv"} <= names


@pytest.mark.slow
def test_the_tutorial_on_corrections_runs(tmp_path):
    clone = copy_checkout(tmp_path)
    code = script(DOCS / "tutorials/corrections.md")
    printed = run(with_smaller(code, "bordure init round0 --to project --minutes 5\n", "project"), clone)
    assert "accept" in printed
    report = (clone / "project/results-round1/report.html").read_text()
    assert "Before and after" in report
    table = (clone / "project/volumes-round1.tsv").read_text()
    assert table.count("round1/labels") == 6


@pytest.mark.slow
def test_the_tutorial_on_counting_runs(tmp_path):
    clone = copy_checkout(tmp_path)
    printed = run(replaced(script(DOCS / "tutorials/counting.md"), SMALLER_DETECTOR), clone)
    assert "section" in printed
    assert (clone / "counted/nuclei_022_detections.csv").exists()


@pytest.mark.slow
def test_the_tutorial_on_a_study_runs(tmp_path):
    clone = copy_checkout(tmp_path)
    config = clone / "config/study.yaml"
    config.write_text(replaced(config.read_text(), SMALLER_STUDY))
    printed = run(script(DOCS / "tutorials/study.md"), clone)
    assert re.search(r"^train_model +2$", printed, re.MULTILINE)  # the new variant alone, two seeds
    assert (clone / "results-study/comparison.html").exists()


def test_the_tutorial_on_a_study_shows_its_config():
    [shown] = blocks("tutorials/study.md", r"^```yaml\n(.*?)^```$")
    config = yaml.safe_load((ROOT / "config/study.yaml").read_text())
    assert yaml.safe_load(shown).items() <= config.items()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "fewer"),
    [
        ("python", {'"iterations": 300': '"iterations": 4'}),
        ("library", {'"iterations": 200': '"iterations": 4'}),
    ],
)
def test_code_for_notebooks_runs(page, fewer, tmp_path):
    """The code of a page in one session, with fewer iterations."""
    code = "\n".join(blocks(f"howto/{page}.md", r"^```python\n(.*?)^```$"))
    command = [sys.executable, "-c", replaced(code, fewer)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    found = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    printed = {"python": "area_um2", "library": "cells"}
    assert printed[page] in found.stdout


def blocks(page: str, pattern: str) -> list[str]:
    """The parts of a page in docs/ that match `pattern`."""
    return re.findall(pattern, (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def test_own_images_shows_a_valid_config():
    [shown] = blocks("howto/own-images.md", r"^```yaml\n(.*?)^```$")
    assert settings.complete(yaml.safe_load(shown))["segmentation"]["criterion"] == "seg"


def test_choose_network_shows_a_valid_config_and_the_context_of_its_networks():
    shown, of_neighbours = blocks("howto/choose-network.md", r"^```yaml\n(.*?)^```$")
    neighbours = settings.complete(yaml.safe_load(of_neighbours) | {"volumes": "my.tsv"})
    study.require_task(neighbours, networks.plan(**neighbours["network"]))
    config = settings.complete(yaml.safe_load(shown) | {"volumes": "my.tsv"})
    networks.plan(**config["network"]).require_tile(config["training"]["tile"], "training.tile")
    rows = blocks(
        "howto/choose-network.md", r"^\| (VGG16|\d levels).*? \| (\d) \| (\d+) \| (\d+) \| (\d+) \|$"
    )
    for layers, fc_size, *contexts in rows:
        chosen = {} if layers == "VGG16" else {"channels": [1] * int(layers[0]), "convolutions": [2]}
        for name, context in zip(("fcn32s", "fcn16s", "fcn8s"), contexts, strict=True):
            plan = networks.plan(name, **chosen, fc_size=int(fc_size))
            assert plan.geometry.context == int(context)
    assert len(rows) == 5


def test_start_from_model_shows_valid_configs_and_what_is_copied():
    page = "howto/start-from-model.md"
    shown = [yaml.safe_load(block) for block in blocks(page, r"^```yaml\n(.*?)^```$")]
    configs = [
        settings.complete({"volumes": "my.tsv", "network": shown[0]["network"]} | one) for one in shown
    ]
    for config in configs:
        if config["training"]["tile"] == 572:  # not shown
            config["training"]["tile"] = shown[0]["training"]["tile"]
        networks.plan(**config["network"]).require_training(config["training"])
    *_, classifier, fcn32s = (networks.plan(**config["network"]) for config in configs)
    assert (classifier.name, fcn32s.name) == ("patch_classifier", "fcn32s")
    layers = {key: value for key, value in configs[-1]["network"].items() if key != "name"}
    plans = [classifier, *(networks.plan(name, **layers) for name in ("fcn32s", "fcn16s", "fcn8s"))]
    rows = blocks(page, r"^\| `fcn\d+s` from .*? \| (.*?) \| (.*?) \|")
    for before, after, (copied, initialised) in zip(plans[:-1], plans[1:], rows, strict=True):
        found = transfer.match(before, after).summary()
        assert found["copied"] == re.findall("`(.*?)`", copied)
        assert found["initialised"] == re.findall("`(.*?)`", initialised)
        assert found["left_out"] == []
        after.require_tile(configs[-1]["training"]["tile"], "training.tile")
    assert len(rows) == 3


def test_patch_classifier_shows_a_valid_config_and_matching_layers():
    page = "explanation/patch-classifier.md"
    [shown] = blocks(page, r"^```yaml\n(.*?)^```$")
    config = settings.complete(yaml.safe_load(shown) | {"volumes": "my.tsv"})
    plan = networks.plan(**config["network"])
    assert plan.geometry.output_size(config["training"]["tile"]) == 1
    [tile] = blocks(page, r"`tile: (\d+)` and `batch: 1`")
    assert plan.geometry.output_size(int(tile)) == 128
    [(*layers, window, fc_size)] = blocks(
        page, r"`(channels: .*?)`, `(conv.*?)` and `(kernel.*?)`, .*?`window: (\d+)`.*?`fc_size: (\d)`"
    )
    layers = yaml.safe_load("\n".join(layers))
    classifier = networks.plan("patch_classifier", **layers, window=int(window))
    assert classifier.fc_size == int(fc_size)
    assert networks.plan("fcn32s", **layers, fc_size=int(fc_size)).encoder_input(1) == classifier.window


def test_script_of_own_images_writes_a_table(tmp_path, monkeypatch):
    names = [*(f"nuclei_{number:03}.tif" for number in range(12)), "a (1).png"]
    for folder, names_of in (("images", names), ("labels", [*names[:12], "a (1)_cp_masks.png"])):
        (tmp_path / "nuclei" / folder).mkdir(parents=True)
        for name in names_of:
            (tmp_path / "nuclei" / folder / name).touch()
    (tmp_path / "bordure").mkdir()
    monkeypatch.chdir(tmp_path / "bordure")
    [code] = [
        code
        for code in blocks("howto/own-images.md", r"^```python\n(.*?)^```$")
        if "number % 10 == 3" in code
    ]
    exec(code, {})
    rows = volumes.read_table("../nuclei/volumes.tsv", ".")
    splits = ["test", *2 * ["train"], "validation", "train", "test", *4 * ["train"], "test", *2 * ["train"]]
    assert [row.split for row in rows] == splits
    assert (rows[0].volume, rows[0].annotation) == ("a__1_", "labels/a (1)_cp_masks.png")


def test_documented_command_writes_a_table_of_volumes(tmp_path):
    [code] = blocks("reference/volumes.md", r"^```bash\n(.*?)^```$")
    subprocess.run(["bash", "-c", code], cwd=tmp_path, check=True)
    rows = volumes.read_table(tmp_path / "my.tsv", "data")
    assert [row.split for row in rows] == ["train", "validation", "test", "predict"]


def generate():
    """The module `docs/generate.py`."""
    return module_of_docs("generate")


def module_of_docs(name):
    """A module of the folder `docs`."""
    sys.path.insert(0, str(DOCS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(DOCS))


def modules_with_examples() -> list[str]:
    """Names of the library's modules whose docstrings have examples."""
    paths = sorted(path for path in LIBRARY.rglob("*.py") if ">>> " in path.read_text())
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted and not found.failed


def test_public_constants_are_described():
    public_api = module_of_docs("public_api")
    described = public_api.descriptions("pipeline_lib.metrics")
    assert described["IOU_THRESHOLDS"].startswith("Default thresholds")
    assert "INVERTED" not in described  # not public
    assert public_api.descriptions("pipeline_lib.layout")["RAW"].startswith('"raw", (c, z, y, x) array')


def test_each_object_has_one_page():
    """A class that two modules export is described once, and a function can have the name of a module."""
    pages = {name: generate().api_page(name, "Title") for name in module_of_docs("public_api").MODULES}
    described = [line for page in pages.values() for line in page.splitlines() if line.startswith(".. auto")]
    assert len(described) == len({*described})
    assert ".. autofunction:: pipeline_lib.networks.plan\n" in pages["pipeline_lib.networks"]
    assert ".. automodule:: pipeline_lib.networks.plan\n   :no-index:" in pages["pipeline_lib.networks.plan"]
    assert ".. autoclass:: pipeline_lib.networks.Plan" not in pages["pipeline_lib.networks"]


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("read_images", "pipeline_lib.imageio.read_images"),  # of the same module
        ("Images.read", "pipeline_lib.imageio.Images.read"),
        ("imageio.read_images()", "pipeline_lib.imageio.read_images"),
        ("InputError", "pipeline_lib.runtime.errors.InputError"),  # the only one of this name
        ("weight_map", "pipeline_lib.layout.WEIGHT_MAP"),  # an array, not the function
        ("sections", None),  # a parameter
        ("train", None),  # a word
        ("open_images", None),  # the object that is described
        ("torch.float32", None),
    ],
)
def test_names_in_docstrings_are_links(text, target):
    from docutils import nodes
    from sphinx import addnodes

    kinds = {
        "imageio.open_images": "function",
        "imageio.read_images": "function",
        "imageio.Images.read": "method",
        "layout.WEIGHT_MAP": "data",
        "runtime.errors.InputError": "class",
        "stages.training.train": "function",
        "stages.sections": "function",
        "tasks.segmentation.weights.weight_map": "function",
    }
    objects = {f"pipeline_lib.{name}": SimpleNamespace(objtype=kind) for name, kind in kinds.items()}
    signature = addnodes.desc_signature(module="pipeline_lib.imageio", fullname="open_images")
    code = nodes.literal(text=text)
    addnodes.desc("", signature, addnodes.desc_content("", code), domain="py", objtype="function")
    scope = module_of_docs("api_links").Scope(code, "reference/api/pipeline_lib.imageio", objects)
    assert scope.find(text) == target


def test_readme_can_be_read_in_three_minutes():
    assert len((ROOT / "README.md").read_text().split()) <= 900


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "config/README.md"])
def test_links_lead_to_files(page):
    """Pages outside docs/, whose links Sphinx does not check."""
    for link in re.findall(r"\]\(([^)#\s]+)", (ROOT / page).read_text()):
        if "://" not in link:
            assert (ROOT / page).parent.joinpath(link).exists(), link


def test_every_output_of_a_rule_is_documented():
    page = (DOCS / "reference/files.md").read_text()
    names = {
        "volume": "VOLUME",
        "model": "MODEL",
        "MODEL": "MODEL",
        "FIRST": "MODEL",
        "part": "PART",
        "kind": "volume",
        "name": "VOLUME",
        "variant": "VARIANT",
        "speed": "step",
        "MAIN": "step",
        "dataset": "dataset",
        "statistics": "statistics",
        "weight_map": "weight_map",
        "boxes": "boxes",
    }
    for path in sorted((ROOT / "workflow/rules").glob("*.smk")):
        for text in re.findall(r'"<results>/([^"]+\.\w+)"', path.read_text()):
            pattern = re.sub(r"\{+(\w+)(?:\.\w+)?\}+", lambda match: names[match[1]], text)
            assert f"`{pattern}`" in page, f"{path.name}: {text}"


def texts_of_the_code() -> str:
    """All texts in the code of the library and the workflow, parts of f-strings on lines of their own."""
    found = []
    for path in [*LIBRARY.rglob("*.py"), *(ROOT / "workflow").rglob("*.py")]:
        nodes = ast.walk(ast.parse(path.read_text()))
        values = (node.value for node in nodes if isinstance(node, ast.Constant))
        found += [value for value in values if isinstance(value, str)]
    return "\n".join(found)


def messages() -> list[str]:
    """The messages on the page of messages."""
    return re.findall(r"^\| `(.+?)`(?: \(warning\))? \|", (DOCS / "reference/messages.md").read_text(), re.M)


def test_page_of_messages_is_short():
    assert 20 <= len(messages()) <= 30


def test_messages_are_those_of_the_code():
    code = texts_of_the_code()
    for message in messages():
        for part in message.split("…"):
            assert part.strip() in code, f"{message}: no text of the code has `{part.strip()}`"
