"""Tests of the commands that run benchmarks (without measuring anything) and of their drawn images."""

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
from benchmarks import bench_detection, bench_large, bench_many, drawing
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
    """Run the command on modules {name: code}; return exit status, output, and stored results."""
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
        stored = json.loads(files[0].read_text()) if files else {}
        assert [file.name for file in files] in ([], ["amd-epyc-9b14-kvm-2-cores.json"])
        return status, capsys.readouterr(), stored

    return call


def module(**changes):
    """Return the code of a module that measures one row."""
    return f"import json, sys; assert sys.argv[1:] == ['--json']; print({json.dumps([ROW | changes])!r})"


def test_all_rows_are_printed_and_stored_with_their_origin(run):
    status, output, stored = run({"one": module(), "two": module(what="a leap", value=2.0, reached=False)})
    assert status == 0
    assert [line.split()[:2] for line in output.out.splitlines()[:2]] == [["a", "step"], ["a", "leap"]]
    assert "MISSED" in output.out
    assert list(stored) == ["one", "two"]
    assert stored["one"]["rows"] == [ROW]
    assert stored["one"]["machine"] == MACHINE
    assert stored["one"]["command"] == "python -m benchmarks.bench_one"
    assert "benchmarks.bench_one ... " in output.err


def test_rows_not_measured_again_are_kept_and_rows_of_deleted_modules_are_not(run):
    run({"one": module(), "two": module(), "gone": module()})
    (benchmarks.FOLDER / "bench_gone.py").unlink()
    status, output, stored = run(
        {"one": module(value=0.7), "two": "raise SystemExit('not requested')"}, "one"
    )
    assert status == 0
    assert {name: entry["rows"][0]["value"] for name, entry in stored.items()} == {"one": 0.7, "two": 0.5}
    assert len(output.out.splitlines()) == 2  # the measured row, and the path of the results


def test_a_failing_module_is_reported_and_the_others_run(run):
    status, output, stored = run({"one": "raise RuntimeError('no such GPU')", "two": module()})
    assert status == 1
    assert output.err.splitlines()[-1] == "RuntimeError: no such GPU"
    assert "error: one: " in output.err
    assert list(stored) == ["two"] and "a step" in output.out


def test_output_that_contains_no_rows_is_a_failure(run):
    status, output, stored = run({"one": "print('hello')", "two": module()})
    assert status == 1 and "error: one: " in output.err and list(stored) == ["two"]


def test_an_unknown_name_is_reported_with_the_known_names(run):
    status, output, stored = run({"one": module()}, "won")
    assert status == 1 and stored == {}
    assert output.err == "error: no benchmark won. Expected one of one.\n"


def test_long_benchmarks_are_not_run_by_this_command(run):
    status, _, stored = run({"one": module(), "large": "raise SystemExit('long')"})
    assert status == 0 and list(stored) == ["one"]
    assert run({}, "large")[0] == 1


def test_the_gpu_is_part_of_the_file_name():
    assert benchmarks.slug(MACHINE | {"gpu": "NVIDIA H200"}) == "amd-epyc-9b14-kvm-2-cores-nvidia-h200"


# ----------------------------------------------------------------------------------------------- the drawing

WHOLE = draw_region(slice(0, 400), slice(0, 400), 2000, seed=3)


@settings(deadline=None)
@given(rows=st.tuples(*[st.integers(0, 399)] * 2), columns=st.tuples(*[st.integers(0, 399)] * 2))
def test_a_region_does_not_depend_on_the_blocks_in_which_it_is_drawn(rows, columns):
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
    # `per_row` only changes the numbers
    pairs = np.unique(np.stack([labels, expected], axis=-1).reshape(-1, 2), axis=0)
    assert len(pairs) == len(np.unique(labels)) == len(np.unique(expected))
    np.testing.assert_array_equal(labels > 0, expected > 0)


def test_cells_are_separate_have_dark_borders_and_the_expected_density():
    image, labels = WHOLE
    for here, there in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        assert not ((here != there) & (here > 0) & (there > 0)).any()
    assert image[labels == 0].mean() < 0.6 * image[labels > 0].mean()
    assert len(np.unique(labels)) - 1 == pytest.approx((400 / 44) ** 2, rel=0.35)


def test_distant_cells_have_different_numbers_and_seeds_give_different_images():
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
    modules = bench_large, bench_detection
    return [job for module in modules for job in [*module.preparation(), *module.measured(4096)]]


@pytest.mark.parametrize("job", every_job(), ids=lambda job: job.name)
def test_arguments_of_jobs_match_the_functions_of_stages(job):
    module, _, name = job.function.rpartition(".")
    inspect.signature(getattr(import_module(module), name)).bind(*job.files, **job.settings)


@pytest.fixture
def stages(monkeypatch):
    """Replace the processes of stages by a function that creates their files and returns a log."""
    called = []

    def call(command, folder):
        threads, function, files, given = json.loads(command[-1])
        assert threads == bench_large.CORES and given.get("size", 0) <= 200
        for file in filter(None, np.hstack([np.array(file, object) for file in files])):
            (folder / file).write_bytes(bytes(40_000))
        called.append(function.rpartition(".")[2])
        return "12:00:00 drew 33 cells in it\n12:00:01 done in 1.00 s, 300 MB at most"

    monkeypatch.setattr(bench_large, "call", call)
    monkeypatch.setattr(bench_large, "TRAINING_SIZE", 100)
    return called


def test_every_section_is_processed_by_every_stage(stages, tmp_path, capsys):
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


def test_figures_are_relative_to_the_smallest_section():
    small = bench_large.Figures("predict", 100, 1.0, 400, 4.0, None)
    large = bench_large.Figures("predict", 200, 6.0, 500, 4.0, None)
    memory, time, to_labels, largest = bench_large.rows([small, large])
    assert memory.value == 1.25
    assert (to_labels.value, to_labels.reached) == (1.25, False)
    assert (time.value, time.reached) == (1.5, False)
    assert (largest.value, largest.anchor, largest.reached) == (0.5, "predict, 200 px", True)


def test_a_disk_that_is_too_small_is_reported_beforehand(stages, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_large.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100_000))
    with pytest.raises(SystemExit, match=r"at most 0\.0 GB for sections of 200 px, .*--folder"):
        bench_large.measure([100, 200], tmp_path)
    assert stages == []


def test_the_message_of_a_failing_stage_is_shown(tmp_path):
    job = bench_large.Job(
        "weight map", "pipeline_lib.stages.dataset.build_weight_map", ["a.h5", "no.json", "b.h5"]
    )
    with pytest.raises(SystemExit, match=r"error: a\.h5: no such file"):
        bench_large.run(job, tmp_path)


def test_the_table_of_many_volumes_contains_every_split_and_its_files(tmp_path):
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
