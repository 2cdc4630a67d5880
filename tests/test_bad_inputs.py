"""Every malformed input ends in a clear message, within limits of time and memory.

The messages are compared with the snapshot in tests/bad_inputs/messages.md.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import bad_inputs
import h5py
import numpy as np
import psutil
import pytest
import tifffile
import warm
import yaml

from pipeline_lib import imageio
from pipeline_lib.imageio import apart
from pipeline_lib.runtime.errors import InputError

ROOT = Path(__file__).parents[1]
SECONDS = 60  # after which a case counts as a hang; the slowest takes five on a busy machine
BOMBS = [case for case in bad_inputs.CASES if re.search("bomb|claims|million|unpacks|never ends", case.name)]
PEAK = 400e6  # bytes; Python with torch and the image libraries needs 330e6
ROWS = [row for row in bad_inputs.MESSAGES.read_text().splitlines() if row.startswith("|")]
ROWS_OF_CASES = [row for row in ROWS if not row.startswith(("| input", "| ---"))]
IDS = [f"{case.group}: {case.name}" for case in bad_inputs.CASES]


def make(name):
    """Make the input of the first case with this name, in a folder with a sound run."""
    bad_inputs.sound_run()
    next(case for case in bad_inputs.CASES if case.name == name).make()


@pytest.fixture
def folder():
    """An empty working folder that other users may read."""
    with tempfile.TemporaryDirectory() as path, contextlib.chdir(path):
        os.chmod(path, 0o755)
        yield Path(path)


def _hangs(*_):
    raise AssertionError(f"no answer within {SECONDS} s")


@pytest.mark.parametrize("case", bad_inputs.CASES, ids=IDS)
def test_input_is_rejected_with_a_clear_message(case, folder):
    before = signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(SECONDS)
    try:
        answer = bad_inputs.run_case(case)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert not (folder / "harmed").exists()
    assert "Traceback" not in answer.message
    assert "\n" not in answer.message or "\npython -c " in answer.message  # a line to type
    row = bad_inputs.row(case, answer)
    assert row in ROWS, f"if the change is intended, run `python -m tests.bad_inputs`: {row}"


FIXES = re.compile(r"`dataset: (\{[^`]*\})`")  # settings that a message suggests
WITH_FIXES = [case for case, row in zip(bad_inputs.CASES, ROWS_OF_CASES, strict=True) if FIXES.search(row)]


@pytest.mark.parametrize("case", WITH_FIXES, ids=lambda case: case.name)
def test_settings_that_a_message_suggests_solve_the_problem(case, folder):
    suggested = FIXES.findall(bad_inputs.run_case(case).message)
    assert suggested
    for fix in map(yaml.safe_load, suggested):
        config = yaml.safe_load(Path("my.yaml").read_text())
        fixed = config | {"dataset": config.get("dataset", {}) | fix}
        Path("my.yaml").write_text(yaml.safe_dump(fixed))
        rows, settings = bad_inputs.dry_run()
        bad_inputs.build(rows[-1], settings["dataset"])
        Path("my.yaml").write_text(yaml.safe_dump(config))


SCALE = re.compile(r"column `(scale|offset)` of the table of volumes: (.*)")
OFFSET_AND_SCALE = re.compile(
    r"into the table of volumes: `offset`: (\S+?)(?: and `scale`: (\S+?))?, or only"
)
WITH_SCALE = [
    case
    for case, row in zip(bad_inputs.CASES, ROWS_OF_CASES, strict=True)
    if SCALE.search(row) or OFFSET_AND_SCALE.search(row)
]


@pytest.mark.parametrize("case", WITH_SCALE, ids=lambda case: case.name)
def test_factors_that_a_message_suggests_solve_the_problem(case, folder):
    message = bad_inputs.run_case(case).message
    if both := OFFSET_AND_SCALE.search(message):
        suggested = [(both[1], both[2] or "")]
    else:
        column, choices = SCALE.search(message).groups()
        numbers = re.findall(r"(?:^|, )(-?[0-9.e-]+[0-9])(?= if|,|$)", choices)
        assert numbers
        suggested = [("", number) if column == "scale" else (number, "") for number in numbers]
    header, *others, last = Path("volumes.tsv").read_text().splitlines()
    fitting = 0
    for offset, scale in [*suggested, ("", "1")]:
        table = [f"{header}\toffset\tscale", *others, f"{last}\t{offset}\t{scale}"]
        Path("volumes.tsv").write_text("\n".join(table))
        rows, settings = bad_inputs.dry_run()
        bad_inputs.build(rows[-1], settings["dataset"])
        try:
            bad_inputs.compare(rows, settings["dataset"])
            fitting += 1
        except InputError:  # of several scales that a type may have, only one is that of the pixels
            assert len(suggested) > 1
    assert fitting >= 2  # one of them, and the statement that the scale is the same


def test_there_are_messages_with_factors():
    assert len(WITH_SCALE) >= 7


def test_there_are_messages_with_settings():
    assert len(WITH_FIXES) >= 12


def test_snapshot_contains_each_case_and_no_other():
    names = [row.split(" | ")[0] for row in ROWS_OF_CASES]
    empty = bad_inputs.Answer("", "")
    assert names == [bad_inputs.row(case, empty).split(" | ")[0] for case in bad_inputs.CASES]
    assert len(set(IDS)) == len(bad_inputs.CASES) >= 60


def test_memory_stays_bounded():
    """All bombs run in one process, whose peak is that of the largest."""
    code = (
        "import contextlib, sys, tempfile; from tests import bad_inputs\n"
        "from pipeline_lib.runtime.log import peak_memory\n"
        "from pipeline_lib.networks.model import Model\n"
        "for number in map(int, sys.argv[1:]):\n"
        "    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):\n"
        "        bad_inputs.run_case(bad_inputs.CASES[number])\n"
        "print(peak_memory())"
    )
    numbers = [str(bad_inputs.CASES.index(case)) for case in BOMBS]
    assert len(numbers) >= 10
    run = subprocess.run(
        [sys.executable, "-c", code, *numbers], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(run.stdout) < PEAK + 512e6  # HDF5 may fill its chunk cache before it is stopped


# --------------------------------------------------------------------------- with Snakemake


def snakemake(*arguments):
    return warm.snakemake("-s", ROOT / "Snakefile", "--cores", "1", *arguments)


WITH_SNAKEMAKE = (
    "COCO without the image",
    "boxes for a network that learns pixels",
    "file cut off in the pixels",
    "named pipe",
    "link to another file",
    "name that leads to another folder (`..`)",
    "duplicate key",
    "list at the top level",
    "Python object",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_SNAKEMAKE)
def test_dry_run_of_snakemake_ends_with_the_message(name, folder):
    make(name)
    answer = snakemake("-n", "--configfile", "my.yaml")
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr + answer.stdout
    assert re.match(r"error: |Config file ", (answer.stderr + answer.stdout).strip().splitlines()[-1])
    assert not (folder / "results").exists() and not (folder / "harmed").exists()


@pytest.mark.slow
def test_failed_job_names_volume_and_file_and_leaves_no_output(folder):
    make("damaged strip")
    answer = snakemake("--configfile", "my.yaml", "--", "results/dataset/bad.h5")
    assert answer.returncode == 1
    after = answer.stderr.partition("Exiting because a job execution failed")[2]
    assert "error: volumes.tsv, line 4, volume bad: a.tif: cannot be read (DeflateError" in after
    assert "Traceback" not in answer.stderr
    assert [*(folder / "results").rglob("*.h5")] == []


@pytest.mark.slow
def test_paths_are_never_run_as_commands(folder):
    bad_inputs.sound_run()
    odd = "im ag;es '$(touch harmed)' \"`touch harmed`\" * & | x"
    os.mkdir(odd)
    os.rename("images.tif", f"{odd}/images.tif")
    rows = bad_inputs.SOUND_ROWS.replace("images.tif", odd.replace('"', '""') + "/images.tif")
    cells = (line.split("\t") for line in rows.splitlines())
    quoted = "".join("\t".join([cell[0], f'"{cell[1]}"', *cell[2:]]) + "\n" for cell in cells)
    bad_inputs.write_table(bad_inputs.HEADER + quoted)
    answer = snakemake("--configfile", "my.yaml", "--", "results/dataset/learn.h5")
    assert answer.returncode == 0, answer.stderr
    assert (folder / "results/dataset/learn.h5").exists() and not (folder / "harmed").exists()


@pytest.mark.slow
def test_no_output_overwrites_an_input(folder):
    bad_inputs.sound_run()
    os.makedirs("results/segmentation")
    os.rename("images.tif", "results/segmentation/choose_labels.tif")
    os.symlink("results", "elsewhere")
    rows = bad_inputs.SOUND_ROWS.replace("images.tif", "elsewhere/segmentation/choose_labels.tif")
    bad_inputs.write_table(bad_inputs.HEADER + rows)
    answer = snakemake("-n", "--configfile", "my.yaml")
    assert answer.returncode == 1
    assert re.search(
        r"error: elsewhere/.*choose_labels.tif: the run would overwrite this file with .* results/",
        answer.stderr,
    )


# ------------------------------------------------------------------------ headers read in a separate process


@pytest.fixture
def paths(folder):
    for name in ("a.tif", "b.tif", "c.tif"):
        tifffile.imwrite(name, np.zeros((2, 8, 9), np.uint8), photometric="minisblack")
    return ["a.tif", "b.tif", "c.tif"]


def test_headers_are_the_same_as_without_a_separate_process(paths):
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
def test_file_that_crashes_or_blocks_its_reader_is_named(paths, monkeypatch, harm, words):
    """The second file has the effect that damaged files can have on the HDF5 library."""
    sound = apart.inspect
    monkeypatch.setattr(apart, "SECONDS", 0.2)
    monkeypatch.setattr(apart, "inspect", lambda path: harm() if path == "b.tif" else sound(path))
    infos = imageio.inspect_apart(paths, 1.0)
    assert next(infos) == sound("a.tif")
    with pytest.raises(InputError, match=f"^b.tif: reading its headers {words}"):
        next(infos)


def test_file_that_makes_the_hdf5_library_loop_forever_is_named(folder, monkeypatch):
    """Found by fuzzing: the heap of strings of variable length has free space of length 0."""
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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_headers_may_not_use_all_memory(paths, monkeypatch):
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


def test_reader_ends_if_not_all_headers_are_read(paths):
    before = psutil.Process().children()  # of other tests
    infos = imageio.inspect_apart(paths * 1000, 1.0)
    next(infos)
    (reader,) = {*psutil.Process().children()} - {*before}
    infos.close()
    assert reader not in psutil.Process().children()
