"""Dry runs of Snakemake without its start-up time, each in one second of CPU time instead of two and a half.

A server process imports Snakemake and the packages that a dry run needs once. Each dry run is a process that
is forked from the server and executes Snakemake's command line. The server does not import our own modules:
each dry run imports them as usual.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

SECONDS = 120  # after which a dry run counts as a hang
PACKAGES = [
    "h5py",
    "imagecodecs",
    "jinja2",
    "jsonschema",
    "nbformat",
    "packaging.version",
    "platformdirs",
    "requests",
    "smart_open",
    "tifffile",
    "xml.etree.ElementTree",
    "yte",
    *(f"snakemake.{name}" for name in ("cli", "dag", "executors.dryrun", "jobs", "linting", "workflow")),
    *(f"snakemake.report.{name}" for name in ("html_reporter", "rulegraph_spec")),
]


def snakemake(*arguments: str | Path) -> subprocess.CompletedProcess:
    """Run `snakemake -n` in the working folder and environment of this process.

    Parameters
    ----------
    arguments
        Arguments of `snakemake`. They must include `-n`.

    Returns
    -------
    subprocess.CompletedProcess
        The same as from `subprocess.run` with `capture_output` and `text`. SIGALRM ends a dry run that hangs.
    """
    arguments = [str(argument) for argument in arguments]
    assert "-n" in arguments, arguments
    server = _server()
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdout", "stderr")]
        dry_run = {
            "arguments": arguments,
            "folder": os.getcwd(),
            "environment": dict(os.environ),
            "streams": [str(path) for path in streams],
        }
        server.stdin.write(json.dumps(dry_run) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(arguments, status, *(path.read_text() for path in streams))


@cache
def _server() -> subprocess.Popen:
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.communicate)  # closes the standard input of the server, which ends it
    return server


def serve() -> None:
    """Fork a process for each dry run described on standard input, and print its exit status."""
    for package in PACKAGES:
        importlib.import_module(package)
    sys.modules["snakemake.cli"].get_argument_parser()  # searches for plugins
    for line in sys.stdin:
        if not (child := os.fork()):
            dry_run(**json.loads(line))
            return
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def dry_run(arguments: list[str], folder: str, environment: dict[str, str], streams: list[str]) -> None:
    """Do the same as `python -m snakemake`, with standard output and error in the files `streams`."""
    signal.alarm(SECONDS)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder
    cli = sys.modules["snakemake.cli"]
    sys.argv = [cli.__file__.replace("cli.py", "__main__.py"), *arguments]
    cli.main()


if __name__ == "__main__":
    serve()
