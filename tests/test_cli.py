"""The command line of `bordure`. The output of a subcommand is tested with the library that it calls."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import warm

from pipeline_lib import __version__, cli
from pipeline_lib.cli import run
from pipeline_lib.runtime import log

ROOT = Path(__file__).resolve().parent.parent


def bordure(*words, cwd=ROOT):
    command = [warm.python(), "-m", "pipeline_lib.cli", *words]
    environment = os.environ | warm.environment()
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def test_the_installed_command_is_this_one():
    with open(ROOT / "pyproject.toml", "rb") as file:
        scripts = tomllib.load(file)["project"]["scripts"]
    assert EntryPoint("bordure", scripts["bordure"], "console_scripts").load() is cli.main


NAMES = [command.__name__.rpartition(".")[2] for command in cli.COMMANDS]


@pytest.mark.parametrize("words", [(), *((name,) for name in NAMES)])
def test_the_help_is_complete_and_short(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        cli.main([*words, "--help"])
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert len(lines) <= 50 and max(map(len, lines)) <= 81
    assert "exit codes: 0 " in text and "example:    bordure " in text
    assert "output: " in text if words else all(name in text for name in NAMES)


SAID = 'print("torch" in sys.modules, os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"])'
COMMAND = f"""
import os, sys
from pipeline_lib import cli
from pipeline_lib.cli import measure
def run(options):
    {SAID}
    return 0
measure.run = run
cli.main(["measure", "a.tif"])
"""
TRAINING = f"""
import os, sys
from pipeline_lib import api
try:
    api.train([], [], validation=([], []), model=os.devnull)
except Exception as error:
    assert "exists" in str(error)
    {SAID}
"""


@pytest.mark.parametrize("program", [COMMAND, TRAINING], ids=["command", "api"])
def test_threads_sleep_before_torch_is_imported(program):
    """torch reads the variables when it is imported. Without them, `init` finds a busy machine very slow."""
    environment = {key: value for key, value in os.environ.items() if key not in log.WAITING}
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout
    assert said.split() == ["False", *log.WAITING.values()]


def test_the_help_imports_no_heavy_library():
    code = "import sys; from pipeline_lib import cli; print({'torch', 'numba', 'pandas'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == "set()"


def test_exit_codes_of_version_wrong_command_and_missing_file():
    assert bordure("--version").stdout.strip() == f"bordure {__version__}"
    unknown = bordure("evalaute")
    assert unknown.returncode == 2 and "evaluate" in unknown.stderr and not unknown.stdout
    wrong = bordure("provenance", "nothing.h5")
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: nothing.h5: no such file. ")


@pytest.mark.parametrize(("command", "rule"), [("check", "check"), ("run", "package_model")])
def test_the_workflow_runs_from_any_folder_and_its_command_is_printed(tmp_path, command, rule):
    (tmp_path / "my.yaml").write_text((ROOT / "config/config.yaml").read_text())
    answer = bordure(command, "my.yaml", "-n", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    first = answer.stderr.splitlines()[0]
    assert first.startswith("snakemake --snakefile ") and re.search(
        r"--configfile my.yaml .* -n( -- check)?$", first
    )
    assert re.search(rf"^{rule} +1$", answer.stdout + answer.stderr, re.MULTILINE)
    missing = bordure(command, cwd=tmp_path)
    assert missing.returncode == 1 and missing.stderr.startswith("error: config.yaml: no such config file")
    (tmp_path / "my.yaml").rename(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text("unknown: 1\n")
    assert "`unknown`: unknown" in bordure(command, cwd=tmp_path).stderr
    missing = bordure(command, "gone.yaml", cwd=tmp_path)
    assert missing.returncode == 1 and missing.stderr.startswith("error: gone.yaml: no such config file")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["replace=True"]),
        (["--config", "seed=3"], ["replace=True", "seed=3"]),
        (["-C", "seed=3", "x=1"], ["replace=True", "seed=3", "x=1"]),
        (["--config=seed=3"], ["replace=True", "seed=3"]),
        (["-Cseed=3"], ["replace=True", "seed=3"]),
        (["--config", "a=1", "--config", "seed=3"], ["replace=True", "seed=3"]),
    ],
)
def test_replacing_keeps_the_settings_of_the_command(monkeypatch, words, expected):
    """As Snakemake itself reads its arguments."""
    from snakemake.cli import get_argument_parser

    given = []
    monkeypatch.setattr(run.workflow, "run_workflow", lambda config, arguments: given.extend(arguments) or 0)
    assert cli.main(["run", "a.yaml", "--replace", *words]) == 0
    assert get_argument_parser().parse_args(given).config == expected
