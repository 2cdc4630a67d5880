"""Runs of Snakemake without the start-up time of Python.

A server process imports Snakemake once. Each run is a process that is forked from it and executes Snakemake's
command line. A second server imports the packages that jobs need once, and each job is forked from that one.
Dry runs take one second of CPU time instead of two and a half, and small runs half of their time. The servers
do not import our own modules: runs and jobs import them as usual.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NoReturn

SECONDS = 600  # after which a run counts as a hang
PACKAGES = {
    "runs": [
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
        *(f"snakemake.{name}" for name in ("cli", "dag", "executors.dryrun", "executors.local", "jobs")),
        *(f"snakemake.{name}" for name in ("linting", "script", "workflow")),
        *(f"snakemake.report.{name}" for name in ("html_reporter", "rulegraph_spec")),
    ],
    "jobs": [
        "h5py",
        "imagecodecs",
        "matplotlib.backends.backend_agg",
        "matplotlib.figure",
        "numba",
        "pandas",
        "scipy.ndimage",
        "scipy.spatial",
        "snakemake.script",
        "tifffile",
        "torch.distributed.run",
        "torch.nn",
        "torch.utils.checkpoint",
        "tqdm",
    ],
}
SOCKET = "BORDURE_TEST_JOBS"  # environment variable: where the server of the jobs listens
# What Snakemake starts instead of Python. It hands its files and arguments to the server, and waits.
CLIENT = f"""#!{sys.executable} -IS
import json, os, signal, socket, sys
if not (sys.argv[1:] and sys.argv[1].endswith(".py") and "{SOCKET}" in os.environ):
    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect(os.environ["{SOCKET}"])
job = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(job).to_bytes(8, "big")], [0, 1, 2])
server.sendall(job)
answer = server.makefile()
job = int(answer.readline())
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda number, _: os.kill(job, number))
status = int(answer.readline())
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


def snakemake(
    *arguments: str | Path, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess:
    """Run `snakemake` in a folder.

    Parameters
    ----------
    arguments
        Arguments of `snakemake`.
    folder : Path, optional
        Working folder. By default that of this process.
    **environment
        Variables to add to the environment of this process.

    Returns
    -------
    subprocess.CompletedProcess
        The same as from `subprocess.run` with `capture_output` and `text`. SIGALRM ends a run that hangs.
    """
    arguments = [str(argument) for argument in arguments]
    server = _server("runs", str(_folder() / "python"))
    variables = dict(os.environ) | environment
    if not {"-n", "--lint", "--list-rules", "--report", "--rulegraph"} & {*arguments}:
        variables[SOCKET] = str(_jobs())
    with tempfile.TemporaryDirectory() as streams:
        files = [str(Path(streams, name)) for name in ("stdout", "stderr")]
        run = [arguments, str(folder or Path.cwd()), variables, files]
        server.stdin.write(json.dumps(run) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(arguments, status, *(Path(path).read_text() for path in files))


def environment() -> dict[str, str]:
    """Return variables for other programs that run Snakemake, so that its jobs are forked as here."""
    paths = filter(None, [str(_folder()), os.environ.get("PYTHONPATH")])
    return {SOCKET: str(_jobs()), "PYTHONPATH": os.pathsep.join(paths)}


@cache
def _server(kind: str, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, __file__, kind, *arguments]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)  # closes the standard input of the server, which ends it
    return server


@cache
def _folder() -> Path:
    """Return a folder with a short path for the socket, the client, and what makes Python use the client."""
    folder = tempfile.TemporaryDirectory(prefix="warm")
    atexit.register(folder.cleanup)
    client = Path(folder.name, "python")
    client.write_text(CLIENT)
    client.chmod(0o755)
    Path(folder.name, "sitecustomize.py").write_text(f"import sys\nsys.executable = {str(client)!r}\n")
    return Path(folder.name)


@cache
def _jobs() -> Path:
    """Start the server of the jobs, and return the socket on which it listens."""
    path = _folder() / "socket"
    assert _server("jobs", str(path)).stdout.readline() == "ready\n"
    return path


def _start(folder: str, environment: dict[str, str], first: str) -> None:
    """Give this process folder, environment and module path of a new Python."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [first, *(path for path in paths if path and path not in sys.path)]
    importlib.invalidate_caches()


def serve_runs(client: str) -> None:
    """Fork a process for each run described on standard input, and print its exit status."""
    sys.modules["snakemake.cli"].get_argument_parser()  # searches for plugins
    for line in sys.stdin:
        if not (child := os.fork()):
            run(client, *json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def run(
    client: str, arguments: list[str], folder: str, environment: dict[str, str], streams: list[str]
) -> None:
    """Do the same as `python -m snakemake`, with standard output and error in the files `streams`."""
    signal.alarm(SECONDS)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    _start(folder, environment, folder)
    cli = sys.modules["snakemake.cli"]
    sys.argv = [cli.__file__.replace("cli.py", "__main__.py"), *arguments]
    if SOCKET in environment:
        sys.executable = client
    _end_after(cli.main)


def serve_jobs(path: str) -> None:
    """Fork a process for each job that connects to the socket `path`, until standard input closes."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(64)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    while True:
        client, _ = listening.accept()
        if not os.fork():  # waits for the job, so that the server need not
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            wait_for_job(client)
        client.close()


def wait_for_job(client: socket.socket) -> None:
    """Run a job in another process, tell the client its process number and exit status, and end."""
    size, files, _, _ = socket.recv_fds(client, 8, 3)
    content = client.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
    if not (job := os.fork()):
        client.close()
        run_job(files, *json.loads(content))
    for file in files:
        os.close(file)
    client.sendall(f"{job}\n".encode())
    # a client that was killed closes its end
    threading.Thread(target=kill_without, args=(client, job), daemon=True).start()
    status = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
    client.sendall(f"{status}\n".encode())
    os._exit(0)


def run_job(files: list[int], arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Do the same as `python script.py`."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    _start(folder, environment, str(Path(arguments[0]).parent))
    sys.argv = arguments
    _end_after(lambda: runpy.run_path(arguments[0], run_name="__main__"))


def kill_without(client: socket.socket, job: int) -> None:
    """Kill a job when its client has ended."""
    client.recv(1)
    with contextlib.suppress(ProcessLookupError):  # the usual end
        os.kill(job, signal.SIGKILL)


def _end_after(main: Callable[[], object]) -> NoReturn:
    """Call a function, and end this process as Python does."""
    status: object = 1
    try:
        main()
        status = 0
    except SystemExit as ended:
        status = ended.code or 0
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    kind, path = sys.argv[1:]
    for package in PACKAGES[kind]:
        importlib.import_module(package)
    {"runs": serve_runs, "jobs": serve_jobs}[kind](path)
