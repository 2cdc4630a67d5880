"""Runs of Snakemake and Python without the start-up time.

A server process imports Snakemake and the packages that jobs need once. Each run of Snakemake, each of its
jobs, and what these start with `python script.py` or `python -m module`, is a process that is forked from the
server. Dry runs take half a second of CPU time instead of two and a half, and small runs a third of their
time. The server does not import our own modules: runs and jobs import them as usual.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
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
PACKAGES = [
    "PIL.PngImagePlugin",
    "h5py",
    "imagecodecs",
    "jinja2",
    "jsonschema",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "nbformat",
    "numba",
    "packaging.version",
    "pandas",
    "platformdirs",
    "requests",
    "scipy.ndimage",
    "scipy.spatial",
    "smart_open",
    "tifffile",
    "torch._dynamo",  # which the first optimizer imports
    "torch.distributed.run",
    "torch.nn",
    "torch.utils.checkpoint",
    "tqdm",
    "xml.etree.ElementTree",
    "yte",
    *(f"snakemake.{name}" for name in ("cli", "dag", "executors.dryrun", "executors.local", "jobs")),
    *(f"snakemake.{name}" for name in ("linting", "script", "workflow")),
    *(f"snakemake.report.{name}" for name in ("html_reporter", "rulegraph_spec")),
]
SOCKET = "BORDURE_TEST_SERVER"  # environment variable: where the server listens
# What is started instead of Python. It hands its files and arguments to the server, and waits.
CLIENT = f"""#!{sys.executable} -IS
import json, os, signal, socket, sys
arguments = sys.argv[1:]
if arguments[:1] == ["-u"]:
    del arguments[0]
if "{SOCKET}" not in os.environ or not (arguments and (arguments[0] == "-m" or arguments[0].endswith(".py"))):
    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect(os.environ["{SOCKET}"])
job = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(job).to_bytes(8, "big")], [0, 1, 2])
server.sendall(job)
answer = server.makefile()
job = int(answer.readline())
def forward(number, _):
    try:
        os.kill(job, number)
    except ProcessLookupError:  # it has just ended
        pass
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, forward)
status = int(answer.readline())
if status < 0:
    if status != -signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


def snakemake(
    *arguments: str | Path, folder: Path | None = None, **variables: str
) -> subprocess.CompletedProcess:
    """Run `snakemake` in a folder.

    Parameters
    ----------
    arguments
        Arguments of `snakemake`.
    folder : Path, optional
        Working folder. By default that of this process.
    **variables
        Environment variables to add to those of this process.

    Returns
    -------
    subprocess.CompletedProcess
        The same as from `subprocess.run` with `capture_output` and `text`.
    """
    command = [python(), "-m", "snakemake", *map(str, arguments)]
    environment = os.environ | {SOCKET: str(_server())} | variables
    # files, since processes that outlive the run would keep a pipe open
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": errors}
        run = subprocess.run(command, cwd=folder, env=environment, timeout=SECONDS, check=False, **streams)
        for file in (output, errors):
            file.seek(0)
        return subprocess.CompletedProcess(command, run.returncode, output.read(), errors.read())


def environment(*folders: str) -> dict[str, str]:
    """Return variables for other programs, so that their Python processes are forked as here.

    `folders` are added to the module path.
    """
    paths = filter(None, [str(_folder()), *folders, os.environ.get("PYTHONPATH")])
    return {SOCKET: str(_server()), "PYTHONPATH": os.pathsep.join(paths)}


def python() -> str:
    """Return the program to start instead of Python, with the variables of `environment`."""
    return str(_folder() / "python")


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
def _server() -> Path:
    """Start the server, and return the socket on which it listens."""
    path = _folder() / "socket"
    command = [sys.executable, __file__, python(), str(path)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)  # closes the standard input of the server, which ends it
    assert server.stdout.readline() == "ready\n"
    return path


def serve(path: str) -> None:
    """Fork a process for each client that connects to the socket `path`, until standard input closes."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(64)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()  # what is imported is garbage in no process
    print("ready", flush=True)
    while True:
        client, _ = listening.accept()
        if not os.fork():  # waits for the job, so that the server need not
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            with contextlib.suppress(ConnectionError):  # the client was killed
                wait_for_job(client)
            os._exit(0)
        client.close()


def wait_for_job(client: socket.socket) -> None:
    """Run a job in another process, and tell the client its process number and exit status."""
    size, files, _, _ = socket.recv_fds(client, 8, 3)
    size = int.from_bytes(size, "big")
    content = client.recv(size, socket.MSG_WAITALL)
    if not size or len(content) < size:
        return  # the client was killed
    if not (job := os.fork()):
        client.close()
        run_job(files, *json.loads(content))
    for file in files:
        os.close(file)
    threading.Thread(target=kill_without, args=(client, job), daemon=True).start()
    with contextlib.suppress(ConnectionError):  # the job must be waited for also without a client
        client.sendall(f"{job}\n".encode())
    status = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
    client.sendall(f"{status}\n".encode())


def run_job(files: list[int], arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Do the same as `python script.py` or `python -m module`."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    module = arguments[0] == "-m"
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    first = folder if module else str(Path(arguments[0]).parent)
    del sys.path[0]  # the folder of this file
    sys.path[:0] = [first, *(path for path in paths if path and path not in sys.path)]
    importlib.invalidate_caches()
    sys.argv = arguments[module:]
    if module:
        _end_after(lambda: runpy.run_module(arguments[1], run_name="__main__", alter_sys=True))
    _end_after(lambda: runpy.run_path(arguments[0], run_name="__main__"))


def kill_without(client: socket.socket, job: int) -> None:
    """Kill a job when its client has ended."""
    with contextlib.suppress(ConnectionError):  # the client was killed before it read what it was sent
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
    sys.executable, path = sys.argv[1:]
    sys.dont_write_bytecode = False  # whatever the environment says: our modules are compiled once
    for package in PACKAGES:
        importlib.import_module(package)
    sys.modules["snakemake.cli"].get_argument_parser()  # searches for plugins
    # sets up the compiler, which is also needed to read compiled functions
    sys.modules["numba"].njit(lambda: 0)()
    serve(path)
