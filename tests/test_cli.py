"""The command `bordure`, as it is typed; what each subcommand prints is tested with what it calls."""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from pipeline_lib import __version__, cli

ROOT = Path(__file__).resolve().parent.parent


def bordure(*words, cwd=ROOT):
    command = [sys.executable, "-m", "pipeline_lib.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def test_the_installed_command_is_this_one():
    with open(ROOT / "pyproject.toml", "rb") as file:
        scripts = tomllib.load(file)["project"]["scripts"]
    assert EntryPoint("bordure", scripts["bordure"], "console_scripts").load() is cli.main


@pytest.mark.parametrize("words", [(), ("evaluate",), ("provenance",)])
def test_the_help_fits_on_a_screen(words, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([*words, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 100
    for command in () if words else cli.COMMANDS:
        assert any(command.__name__.rpartition(".")[2] in line for line in lines)


def test_the_help_needs_none_of_the_heavy_libraries():
    code = "import sys; from pipeline_lib import cli; print({'torch', 'numba', 'pandas'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == "set()"


def test_version_unknown_words_and_errors():
    assert bordure("--version").stdout.strip() == f"bordure {__version__}"
    unknown = bordure("evalaute")
    assert unknown.returncode == 2 and "evaluate" in unknown.stderr and not unknown.stdout
    wrong = bordure("provenance", "nothing.h5")
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: nothing.h5: no such file. ")
