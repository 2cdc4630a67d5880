"""Inject a few real faults of each kind; `make soak` injects many more (docs/measurements/reliability.md)."""

import os
import random
import subprocess
import sys

import pytest
import warm

from pipeline_lib import provenance
from pipeline_lib.runtime.errors import InputError
from tests.soak import locks
from tests.soak.damage import flip_a_bit
from tests.soak.disk import namespace
from tests.soak.kills import Kills
from tests.soak.project import ROOT, Reference, drawn


def undisturbed(project):
    """The results of an undisturbed run, whose processes are forked from a server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.executable", warm.python())
        for name, value in warm.environment().items():
            patch.setenv(name, value)
        return Reference.of(project)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small project, and the results of an undisturbed run."""
    project = drawn(tmp_path_factory.mktemp("faults"), iterations=40)
    return project, undisturbed(project)


@pytest.mark.slow
def test_a_changed_bit_in_any_output_of_a_stage_is_reported(finished, tmp_path, monkeypatch):
    project, _ = finished
    monkeypatch.chdir(project.folder)
    files = [path.relative_to(project.folder) for path in project.files().values()]
    made = [path for path in files if provenance.record_path(path).exists()]
    assert {path.suffix for path in made} == {".tif", ".h5", ".json", ".pt", ".csv", ".svg", ".html"}
    for path in made:
        before, times = path.read_bytes(), path.stat()
        flip_a_bit(path, random.Random(0))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # so that Snakemake does not notice it
        with (
            pytest.raises(InputError, match=f"^{path}: .*rm -f {path}"),
            provenance.making("test", [tmp_path / "out"], [path]),
        ):
            pass
        path.write_bytes(before)


@pytest.mark.slow
class TestKilled:
    """A class, so that another process can run the other tests at the same time."""

    def test_a_run_that_is_killed_repeatedly_gives_the_same_results(self, tmp_path):
        """Up to the prediction, whose jobs are a third of all; `make soak` kills all of them."""
        project = drawn(tmp_path / "project", targets=("predict",), iterations=40)
        kills = Kills(random.Random(0))
        kills.kill_a_run(project, undisturbed(project), limit=3)
        assert kills.wrong == []
        assert set(kills.methods.values()) == {1}  # a stage, Snakemake, and both together
        assert kills.identical == 1


WRITE_AND_READ = """
import sys
from pathlib import Path
import numpy as np
from pipeline_lib import layout
from pipeline_lib.kernels.blocks import parts
folder, shape = Path(sys.argv[1]), (2, 4, 4)
sources = []
for number, part in enumerate(parts(shape, 2)):
    with layout.create(folder / f"{number}.h5", {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, (1, 4, 4))[:] = number
    sources.append((part, folder / f"{number}.h5"))
layout.join(folder / "joined.h5", [layout.CELL_PROBABILITY], shape, sources, {})
with layout.require(folder / "joined.h5", layout.CELL_PROBABILITY) as file:
    assert np.array_equal(file["cell_probability"][:, 0, 0], [0, 1])
"""


@pytest.mark.skipif(bool(locks.possible()), reason=locks.possible())
def test_hdf5_files_are_written_joined_and_read_on_a_file_system_without_locks(tmp_path):
    command = [sys.executable, "-c", WRITE_AND_READ, tmp_path]
    answer = subprocess.run(
        command, cwd=ROOT, preexec_fn=locks.refuse_locks, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr


@pytest.mark.skipif(bool(locks.possible()), reason=locks.possible())
def test_without_locks_jobs_in_the_queue_are_not_cancelled_as_orphans(finished, tmp_path):
    """They may belong to another run, which cannot be detected without locks."""
    project, _ = finished
    (tmp_path / "sbatch").write_text("#!/bin/sh\n")
    (tmp_path / "squeue").write_text(f"#!/bin/sh\n[ -e {tmp_path}/cancelled ] || echo 3 4\n")
    (tmp_path / "scancel").write_text(f"#!/bin/sh\ntouch {tmp_path}/cancelled\n")
    for command in tmp_path.iterdir():
        command.chmod(0o755)

    def before():
        locks.refuse_locks()
        os.environ["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"

    answer = project.start("--forcerun", "collect_scores", before=before).wait()
    assert answer.status == 1 and "Traceback" not in answer.output
    assert "its file system has no locks, and jobs for this folder are in the queue: 3 4." in answer.output
    assert not (tmp_path / "cancelled").exists()


FILL = """
import sys
from pathlib import Path
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.stages.synthesis import draw_volume
from tests.soak.disk import Disk
disk = Disk(Path(sys.argv[1]))
drawing = dict(sections=2, size=96, cell_diameter=24, membrane_width=(2.5, 6), noise=0.06, seed=0)
for left in (0, 8192, 20_480):
    disk.fill(left)
    try:
        draw_volume(disk.folder / "images.tif", disk.folder / "labels.tif", **drawing)
    except InputError as error:
        print(error)
    print("left:", *(path.name for path in disk.folder.iterdir() if path.is_file() and path != disk.filler))
    disk.free()
draw_volume(disk.folder / "images.tif", disk.folder / "labels.tif", **drawing)
"""


@pytest.mark.skipif(not namespace(), reason="nothing can be mounted here")
def test_a_full_disk_is_reported_and_leaves_no_incomplete_files(tmp_path):
    command = [*namespace(), sys.executable, "-c", FILL, tmp_path]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    images, labels = tmp_path / "images.tif", tmp_path / "labels.tif"
    messages = [line.partition(" is full; nothing was written")[0] for line in answer.stdout.splitlines()]
    assert messages == [f"{images}: the disk", "left:"] * 2 + [f"{labels}: the disk", "left: images.tif"]
