"""The installed package, without a checkout."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import warm
import yaml

from pipeline_lib import __version__

ROOT = Path(__file__).parents[1]


def test_files_state_the_same_release():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (heading, *_) = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation["version"] == __version__
    assert heading in ("Unreleased", f"{__version__} ({citation['date-released']})")


@pytest.mark.slow
def test_the_wheel_contains_the_workflow(tmp_path):
    source = tmp_path / "source"  # setuptools would leave a folder `build` in the checkout
    for folder in ("pipeline_lib", "workflow", "profiles"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "environment.yml"):
        shutil.copy(ROOT / file, source)
    # with the installed setuptools, instead of a virtual environment for it
    build = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--quiet"]
    subprocess.run([*build, "--wheel-dir", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {*archive.namelist()}
        archive.extractall(tmp_path / "site")
    files = [path for folder in ("workflow", "profiles") for path in (source / folder).rglob("*")]
    listed = {str(path.relative_to(source)) for path in files if path.is_file()} | {"environment.yml"}
    assert {f"pipeline_lib/{name}" for name in listed} <= names
    library = {path.relative_to(source) for path in (source / "pipeline_lib").rglob("*") if path.is_file()}
    assert {str(path) for path in library} <= names
    run = tmp_path / "elsewhere"
    run.mkdir()
    for name in ("config.yaml", "demo.tsv"):
        text = (ROOT / "config" / name).read_text()
        (run / name).write_text(text.replace("volumes: config/", "volumes: "))
    command = [warm.python(), "-m", "pipeline_lib.cli", "run", "config.yaml", "dataset"]
    answer = subprocess.run(
        command,
        cwd=run,
        env=os.environ | warm.environment(str(tmp_path / "site")),
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    assert f"--snakefile {tmp_path}/site/pipeline_lib/workflow/Snakefile" in answer.stderr
    assert (run / "results/dataset/train.h5").exists()
