"""The commands that run the benchmarks, on stages of our own that measure nothing; what is drawn for them."""

import inspect
import json
import math
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import __main__ as benchmarks
from benchmarks import bench_large, bench_many, drawing
from benchmarks.drawing import draw_labels, draw_region

ROW = {
    "what": "a step",
    "anchor": "a slow step",
    "value": 0.5,
    "unit": "x the time",
    "aim": 1.0,
    "higher_is_better": False,
    "details": {},
    "reached": True,
}
MACHINE = {"processor": "AMD EPYC 9B14 (KVM)", "cores": 2, "gpu": None, "python": "3.11.7"}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command on modules {name: code}; returns its exit status, what it printed and what it kept."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.setattr(benchmarks, "FOLDER", folder)
    monkeypatch.setattr(benchmarks.harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(benchmarks.harness, "machine", lambda: MACHINE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def call(modules, *names):
        for name, code in modules.items():
            (folder / f"bench_{name}.py").write_text(code)
        status = benchmarks.main(names)
        files = [*(tmp_path / "results").glob("*")]
        kept = json.loads(files[0].read_text()) if files else {}
        assert [file.name for file in files] in ([], ["amd-epyc-9b14-kvm-2-cores.json"])
        return status, capsys.readouterr(), kept

    return call


def telling(**changes):
    """A module that measures one row."""
    return f"import json, sys; assert sys.argv[1:] == ['--json']; print({json.dumps([ROW | changes])!r})"


def test_all_rows_are_printed_and_kept_with_their_origin(run):
    status, said, kept = run({"one": telling(), "two": telling(what="a leap", value=2.0, reached=False)})
    assert status == 0
    assert [line.split()[:2] for line in said.out.splitlines()[:2]] == [["a", "step"], ["a", "leap"]]
    assert "MISSED" in said.out
    assert list(kept) == ["one", "two"]
    assert kept["one"]["rows"] == [ROW]
    assert kept["one"]["machine"] == MACHINE
    assert kept["one"]["command"] == "python -m benchmarks.bench_one"
    assert "benchmarks.bench_one ... " in said.err


def test_what_is_not_measured_again_stays_and_what_is_no_more_goes(run):
    run({"one": telling(), "two": telling(), "gone": telling()})
    (benchmarks.FOLDER / "bench_gone.py").unlink()
    status, said, kept = run({"one": telling(value=0.7), "two": "raise SystemExit('not asked for')"}, "one")
    assert status == 0
    assert {name: entry["rows"][0]["value"] for name, entry in kept.items()} == {"one": 0.7, "two": 0.5}
    assert len(said.out.splitlines()) == 2  # the row measured, and where it is kept


def test_a_failing_module_is_told_and_the_others_run(run):
    status, said, kept = run({"one": "raise RuntimeError('no such GPU')", "two": telling()})
    assert status == 1
    assert said.err.splitlines()[-1] == "RuntimeError: no such GPU"
    assert "error: one: " in said.err
    assert list(kept) == ["two"] and "a step" in said.out


def test_output_that_is_no_row_is_a_failure(run):
    status, said, kept = run({"one": "print('hello')", "two": telling()})
    assert status == 1 and "error: one: " in said.err and list(kept) == ["two"]


def test_an_unknown_name_is_answered_with_those_there_are(run):
    status, said, kept = run({"one": telling()}, "won")
    assert status == 1 and kept == {}
    assert said.err == "error: no benchmark won. There are one.\n"


def test_the_long_ones_run_by_commands_of_their_own_alone(run):
    status, _, kept = run({"one": telling(), "large": "raise SystemExit('long')"})
    assert status == 0 and list(kept) == ["one"]
    assert run({}, "large")[0] == 1


def test_a_gpu_is_part_of_the_name():
    assert benchmarks.slug(MACHINE | {"gpu": "NVIDIA H200"}) == "amd-epyc-9b14-kvm-2-cores-nvidia-h200"


# ----------------------------------------------------------------------------------------------- the drawing

WHOLE = draw_region(slice(0, 400), slice(0, 400), 2000, seed=3)


@settings(deadline=None)
@given(rows=st.tuples(*[st.integers(0, 399)] * 2), columns=st.tuples(*[st.integers(0, 399)] * 2))
def test_a_region_is_the_same_in_whatever_blocks_it_is_drawn(rows, columns):
    region = tuple(slice(min(span), max(span) + 1) for span in (rows, columns))
    for part, whole in zip(draw_region(*region, 2000, seed=3), WHOLE, strict=True):
        np.testing.assert_array_equal(part, whole[region])


def test_every_pixel_belongs_to_the_nearest_centre_or_a_membrane(monkeypatch):
    monkeypatch.setattr(drawing, "WAVE_HEIGHT", 0.0)
    size, diameter, seed = 150, 30.0, 5
    labels = draw_labels(size, diameter, seed)
    grid = range(-3, math.ceil(size / diameter) + 3)
    ends = grid[0], grid[0], grid[-1], grid[-1]
    y, x, numbers, *_ = drawing._place_cells(*ends, 10, diameter, np.uint64(seed))
    rows, columns = np.indices(labels.shape)
    distances = np.hypot(rows[..., None] - y.ravel(), columns[..., None] - x.ravel())
    nearest, second = np.sort(distances, axis=-1)[..., :2].transpose(2, 0, 1)
    expected = np.where(second - nearest > drawing.MEMBRANE, numbers.ravel()[distances.argmin(-1)], 0)
    # `per_row` only renumbers
    pairs = np.unique(np.stack([labels, expected], axis=-1).reshape(-1, 2), axis=0)
    assert len(pairs) == len(np.unique(labels)) == len(np.unique(expected))
    np.testing.assert_array_equal(labels > 0, expected > 0)


def test_cells_are_apart_darkly_bordered_and_as_many_as_said():
    image, labels = WHOLE
    for here, there in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        assert not ((here != there) & (here > 0) & (there > 0)).any()
    assert image[labels == 0].mean() < 0.6 * image[labels > 0].mean()
    assert len(np.unique(labels)) - 1 == pytest.approx((400 / 44) ** 2, rel=0.35)


def test_cells_far_from_each_other_differ_in_number_and_seeds_in_everything():
    size = slice(0, 100)
    far = slice(1900, 2000)
    corners = [draw_region(rows, columns, 2000)[1] for rows in (size, far) for columns in (size, far)]
    numbers = np.concatenate([np.unique(corner[corner > 0]) for corner in corners])
    assert len(set(numbers)) == len(numbers)
    for one, other in zip(draw_region(size, size, 2000, seed=1), draw_region(size, size, 2000), strict=True):
        assert (one != other).mean() > 0.5


@pytest.mark.parametrize("which, draw", [(0, drawing.draw_images), (1, drawing.draw_annotation)])
def test_files_are_drawn_tile_by_tile(which, draw, tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "FILE_TILE", 128)
    regions = []

    def recorded(rows, columns, *arguments, **settings):
        regions.append((rows.stop - rows.start, columns.stop - columns.start))
        return draw_region(rows, columns, *arguments, **settings)

    monkeypatch.setattr(drawing, "draw_region", recorded)
    draw(tmp_path / "drawn.tif", 300, seed=4)
    with tifffile.TiffFile(tmp_path / "drawn.tif") as file:
        assert file.is_bigtiff and file.pages.first.tile == (128, 128)
        array = file.asarray()
    np.testing.assert_array_equal(array, draw_region(slice(0, 300), slice(0, 300), 300, seed=4)[which])
    assert regions == [(128, 128)] * 9


# ------------------------------------------------------------------------------------- large and many images


def every_job():
    return [*bench_large.preparation(), *bench_large.measured(4096)]


@pytest.mark.parametrize("job", every_job(), ids=lambda job: job.name)
def test_each_stage_takes_what_it_is_given(job):
    module, _, name = job.function.rpartition(".")
    inspect.signature(getattr(import_module(module), name)).bind(*job.files, **job.settings)


@pytest.fixture
def stages(monkeypatch):
    """Stands for the processes of the stages: touches what they may write, says what they took."""
    taken = []

    def call(command, folder):
        threads, function, files, given = json.loads(command[-1])
        assert threads == bench_large.CORES and given.get("size", 0) <= 200
        for file in filter(None, np.hstack([np.array(file, object) for file in files])):
            (folder / file).write_bytes(bytes(40_000))
        taken.append(function.rpartition(".")[2])
        return "12:00:00 drew 33 cells in it\n12:00:01 done in 1.00 s, 300 MB at most"

    monkeypatch.setattr(bench_large, "call", call)
    monkeypatch.setattr(bench_large, "TRAINING_SIZE", 100)
    return taken


def test_every_section_goes_through_every_stage_in_processes_of_their_own(stages, tmp_path, capsys):
    found = bench_large.measure([200, 100], tmp_path)
    once = [job.function.rpartition(".")[2] for job in bench_large.measured(100)]
    assert stages[-2 * len(once) :] == [*once, *once] and "train" in stages
    assert [figures.side for figures in found] == [100] * len(once) + [200] * len(once)
    assert [figures.bytes_per_pixel for figures in found if figures.stage == "write_tiffs"] == [8.0, 2.0]
    left = {path.name for path in tmp_path.iterdir()}
    assert not left & {
        "images.tif",
        "annotation.tif",
        "dataset.h5",
        "prediction.h5",
        "segmentation.h5",
        "labels.tif",
        "weight_map.h5",
    }
    assert "MB" in capsys.readouterr().out


def test_figures_become_ratios_to_the_smallest_section():
    small = bench_large.Figures("predict", 100, 1.0, 400, 4.0, None)
    large = bench_large.Figures("predict", 200, 6.0, 500, 4.0, None)
    memory, time, to_labels, largest = bench_large.rows([small, large])
    assert memory.value == 1.25
    assert (to_labels.value, to_labels.reached) == (1.25, False)
    assert (time.value, time.reached) == (1.5, False)
    assert (largest.value, largest.anchor, largest.reached) == (0.5, "predict, 200 px", True)


def test_too_small_a_disk_is_refused_beforehand(stages, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_large.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100_000))
    with pytest.raises(SystemExit, match=r"at most 0\.0 GB for sections of 200 px, .*--folder"):
        bench_large.measure([100, 200], tmp_path)
    assert stages == []


def test_a_stage_that_fails_says_why(tmp_path):
    job = bench_large.Job(
        "weight map", "pipeline_lib.stages.dataset.build_weight_map", ["a.h5", "no.json", "b.h5"]
    )
    with pytest.raises(SystemExit, match=r"error: a\.h5: no such file"):
        bench_large.run(job, tmp_path)


def test_the_table_of_many_volumes_has_every_split_and_its_files(tmp_path):
    bench_many.draw(tmp_path, 21)
    _, *lines = (tmp_path / "volumes.tsv").read_text().splitlines()
    splits = [line.split("\t")[4] for line in lines]
    assert {split: splits.count(split) for split in splits} == {
        "train": 3,
        "validation": 2,
        "predict": 8,
        "test": 8,
    }
    for line in lines:
        _, images, annotation, _, split = line.split("\t")
        assert tifffile.imread(tmp_path / images).shape == (64, 64)
        assert bool(annotation) == (split != "predict")
        if annotation:
            assert len(np.unique(tifffile.imread(tmp_path / annotation))) > 2
