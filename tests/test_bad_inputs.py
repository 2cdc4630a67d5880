"""Every malformed input is told of in words, in time, within memory, and in tests/bad_inputs.md as in the code."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import bad_inputs
import dry_runs
import h5py
import numpy as np
import psutil
import pytest
import tifffile

from pipeline_lib import imageio
from pipeline_lib.imageio import apart
from pipeline_lib.runtime.errors import InputError

ROOT = Path(__file__).parents[1]
SECONDS = 60  # until a case counts as a hang; the slowest takes five on a busy machine
BOMBS = [case for case in bad_inputs.CASES if re.search("bomb|claims|million|unpacks|never ends", case.what)]
PEAK = 400e6  # bytes; Python with torch and the libraries for images has 330e6
ROWS = [row for row in bad_inputs.DOCS.read_text().splitlines() if row.startswith("|")]
IDS = [f"{case.group}: {case.what}" for case in bad_inputs.CASES]


@pytest.fixture
def folder():
    """An empty working folder that other users may look into."""
    with tempfile.TemporaryDirectory() as path, contextlib.chdir(path):
        os.chmod(path, 0o755)
        yield Path(path)


def _hangs(*_):
    raise AssertionError(f"no answer within {SECONDS} s")


@pytest.mark.parametrize("case", bad_inputs.CASES, ids=IDS)
def test_is_told_in_words_and_runs_nothing(case, folder):
    before = signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(SECONDS)
    try:
        where, message = bad_inputs.meet(case)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert not (folder / "harmed").exists()
    assert "Traceback" not in message and "\n" not in message
    row = bad_inputs.line(case, where, message)
    assert row in ROWS, f"run `python -m tests.bad_inputs` if this is meant: {row}"


def test_the_docs_have_each_case_and_no_other():
    whats = [
        row.split(" | ")[0].removeprefix("| ") for row in ROWS if not row.startswith(("| input", "| ---"))
    ]
    assert whats == [
        bad_inputs.line(case, "", "").split(" | ")[0].removeprefix("| ") for case in bad_inputs.CASES
    ]
    assert len(set(IDS)) == len(bad_inputs.CASES) >= 60


def test_memory_stays_bounded():
    """All bombs in one process, whose peak is that of the largest."""
    code = (
        "import contextlib, sys, tempfile; from tests import bad_inputs\n"
        "from pipeline_lib.runtime.log import peak_memory\n"
        "from pipeline_lib.networks.model import Model\n"
        "for number in map(int, sys.argv[1:]):\n"
        "    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):\n"
        "        bad_inputs.meet(bad_inputs.CASES[number])\n"
        "print(peak_memory())"
    )
    numbers = [str(bad_inputs.CASES.index(case)) for case in BOMBS]
    assert len(numbers) >= 10
    run = subprocess.run(
        [sys.executable, "-c", code, *numbers], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(run.stdout) < PEAK + 512e6  # HDF5 may take what it keeps of chunks before it is stopped


# --------------------------------------------------------------------- what only a real run can show


def snakemake(*arguments):
    arguments = ["-s", ROOT / "Snakefile", "--cores", "1", *arguments]
    if "-n" in arguments:
        return dry_runs.snakemake(*arguments)
    command = [sys.executable, "-m", "snakemake", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


REAL = (
    "cut within its pixels",
    "a named pipe",
    "a link to another file",
    "a name that leads elsewhere (`..`)",
    "a key twice",
    "a list at its top",
    "an object of Python",
)


@pytest.mark.slow
@pytest.mark.parametrize("what", REAL)
def test_a_real_dry_run_ends_in_the_message_alone(what, folder):
    bad_inputs.sound_run()
    next(case for case in bad_inputs.CASES if case.what == what).make()
    answer = snakemake("-n", "--configfile", "my.yaml")
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr + answer.stdout
    assert re.match(r"error: |Config file ", (answer.stderr + answer.stdout).strip().splitlines()[-1])
    assert not (folder / "results").exists() and not (folder / "harmed").exists()


@pytest.mark.slow
def test_a_real_job_names_volume_and_file_and_leaves_nothing(folder):
    bad_inputs.sound_run()
    next(case for case in bad_inputs.CASES if case.what == "a damaged strip").make()
    answer = snakemake("--configfile", "my.yaml", "--", "results/dataset/bad.h5")
    assert answer.returncode == 1
    after = answer.stderr.partition("Exiting because a job execution failed")[2]
    assert "error: volumes.tsv, line 4, volume bad: a.tif: cannot be read (DeflateError" in after
    assert "Traceback" not in answer.stderr
    assert [*(folder / "results").rglob("*.h5")] == []


@pytest.mark.slow
def test_paths_are_never_taken_for_commands(folder):
    bad_inputs.sound_run()
    odd = "im ag;es '$(touch harmed)' \"`touch harmed`\" * & | x"
    os.mkdir(odd)
    os.rename("images.tif", f"{odd}/images.tif")
    rows = bad_inputs.SOUND_ROWS.replace("images.tif", odd.replace('"', '""') + "/images.tif")
    cells = (line.split("\t") for line in rows.splitlines())
    quoted = "".join("\t".join([cell[0], f'"{cell[1]}"', *cell[2:]]) + "\n" for cell in cells)
    bad_inputs.table(bad_inputs.HEADER + quoted)
    answer = snakemake("--configfile", "my.yaml", "--", "results/dataset/learn.h5")
    assert answer.returncode == 0, answer.stderr
    assert (folder / "results/dataset/learn.h5").exists() and not (folder / "harmed").exists()


@pytest.mark.slow
def test_no_output_takes_the_place_of_an_input(folder):
    bad_inputs.sound_run()
    os.makedirs("results/segmentation")
    os.rename("images.tif", "results/segmentation/choose_labels.tif")
    os.symlink("results", "elsewhere")
    taken = bad_inputs.SOUND_ROWS.replace("images.tif", "elsewhere/segmentation/choose_labels.tif")
    bad_inputs.table(bad_inputs.HEADER + taken)
    answer = snakemake("-n", "--configfile", "my.yaml")
    assert answer.returncode == 1
    assert re.search(
        r"error: elsewhere/.*choose_labels.tif: the run would overwrite this file with .* results/",
        answer.stderr,
    )


# ------------------------------------------------------------ headers looked at in a process of their own


@pytest.fixture
def paths(folder):
    for name in ("a.tif", "b.tif", "c.tif"):
        tifffile.imwrite(name, np.zeros((2, 8, 9), np.uint8), photometric="minisblack")
    return ["a.tif", "b.tif", "c.tif"]


def test_headers_are_told_as_they_are(paths):
    assert list(imageio.inspect_apart(paths, 1.0)) == [imageio.inspect(path) for path in paths]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), r"crashed the library that reads them \(SIGSEGV\)"),
        (lambda: os._exit(3), "ended the process that read them"),
        (lambda: all(True for _ in iter(int, 1)), "took more than 0.2 seconds of CPU time"),
    ],
    ids=("crash", "exit", "hang"),
)
def test_a_file_that_harms_its_reader_is_named(paths, monkeypatch, harm, words):
    """The second file does to its reader what damaged files do to HDF5's library."""
    sound = apart.inspect
    monkeypatch.setattr(apart, "SECONDS", 0.2)
    monkeypatch.setattr(apart, "inspect", lambda path: harm() if path == "b.tif" else sound(path))
    told = imageio.inspect_apart(paths, 1.0)
    assert next(told) == sound("a.tif")
    with pytest.raises(InputError, match=f"^b.tif: reading its headers {words}"):
        next(told)


def test_a_file_over_which_the_library_of_hdf5_loops_for_ever_is_named(folder, monkeypatch):
    """Found by fuzzing: strings of variable length lie in a heap, of which free space has the length 0."""
    with h5py.File("a.h5", "w") as file:
        file.create_dataset("raw", data=np.ones((2, 8, 9), np.uint8)).attrs["axes"] = "zyx"
    content = bytearray(Path("a.h5").read_bytes())
    free = content.index(b"GCOL") + 16 + 16 + 8  # after the heap's head, and that one string and its head
    assert content[free : free + 2] == b"\0\0"
    content[free + 8 : free + 16] = bytes(8)
    Path("a.h5").write_bytes(content)
    monkeypatch.setattr(apart, "SECONDS", 1)
    with pytest.raises(InputError, match=r"^a\.h5:/raw: reading its headers took more than 1 seconds"):
        list(imageio.inspect_apart(["a.h5:/raw"], 1.0))


@pytest.mark.skipif(sys.platform != "linux", reason="no other system limits a process's memory")
def test_headers_may_not_take_all_memory(paths, monkeypatch):
    sound = imageio.formats.open_tiff

    @contextlib.contextmanager
    def hungry(path):
        bytearray(5 * 10**8)
        with sound(path) as opened:
            yield opened

    monkeypatch.setattr(imageio.formats, "open_tiff", hungry)
    assert list(imageio.inspect_apart(["a.tif"], 1.0))
    with pytest.raises(InputError, match=r"a\.tif: cannot be read \(MemoryError: not enough memory\)"):
        list(imageio.inspect_apart(["a.tif"], 0.25))


def test_nothing_is_left_running_where_not_all_is_asked_for(paths):
    before = psutil.Process().children()  # of other tests
    told = imageio.inspect_apart(paths * 1000, 1.0)
    next(told)
    (reader,) = {*psutil.Process().children()} - {*before}
    told.close()
    assert reader not in psutil.Process().children()
