"""Tests of the comparison with other packages: export, contract, scores and tables. No peer is installed."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from benchmarks.peers import __main__ as peers
from benchmarks.peers import running, scoring, table
from benchmarks.peers.data import DATA_SETS, export
from benchmarks.peers.shared.contract import Run
from pipeline_lib import metrics
from pipeline_lib.runtime.errors import InputError

TABLE = "volume\timages\tannotation\tsections\tsplit\n"


def grid(size=48):
    """Return labels of 3 x 3 square cells with membranes of two pixels."""
    y, x = np.indices((size, size)) // (size // 3)
    inside = (np.indices((size, size)) % (size // 3) < size // 3 - 2).all(0)
    return np.where(inside, 3 * y + x + 1, 0).astype(np.uint16)


@pytest.fixture
def exported(tmp_path):
    """Return the temporary folder, those of the exported images and truth, and the cells of six sections."""
    rng = np.random.default_rng(0)
    cells = np.stack([np.roll(grid(), z, axis=1) for z in range(6)])
    tifffile.imwrite(tmp_path / "stack.tif", rng.integers(0, 255, cells.shape, np.uint8))
    tifffile.imwrite(tmp_path / "membranes.tif", np.where(cells, 255, 0).astype(np.uint8))
    lines = ["a\tstack.tif\tmembranes.tif\t0-2\ttrain", "b\tstack.tif\tmembranes.tif\t3\tvalidation"]
    lines += ["c\tstack.tif\tmembranes.tif\t4-5\ttest", "d\tstack.tif\t\t0-5\tpredict"]
    (tmp_path / "volumes.tsv").write_text(TABLE + "\n".join(lines))
    folder, truth = tmp_path / "images", tmp_path / "truth"
    export(DATA_SETS["isbi2012"], tmp_path, folder, truth, tmp_path / "volumes.tsv")
    return tmp_path, folder, truth, cells


def test_the_export_has_the_images_of_each_split_and_no_annotation_of_the_test_split(exported):
    tmp_path, folder, _, cells = exported
    files = {str(path.relative_to(folder)) for path in folder.rglob("*.tif")}
    names = {"train": ["a_000", "a_001", "a_002"], "validation": ["b_000"], "test": ["c_000", "c_001"]}
    expected = {f"{split}/images/{name}.tif" for split, own in names.items() for name in own}
    annotated = [f"{split}/{{}}/{name}.tif" for split in ("train", "validation") for name in names[split]]
    assert files == expected | {path.format(what) for path in annotated for what in ("labels", "cells")}
    described = json.loads((folder / "data.json").read_text())
    assert described == {"name": "isbi2012", "kind": "membranes", "images": names}
    stack = tifffile.imread(tmp_path / "stack.tif")
    np.testing.assert_array_equal(tifffile.imread(folder / "test/images/c_001.tif"), stack[5])
    np.testing.assert_array_equal(tifffile.imread(folder / "train/cells/a_001.tif"), cells[1] > 0)
    labels = tifffile.imread(folder / "validation/labels/b_000.tif")
    np.testing.assert_array_equal(labels, metrics.connected_components(cells[3]))


def test_cells_that_touch_are_separated_in_the_exported_cells_only(tmp_path):
    labels = np.zeros((3, 24, 24), np.uint16)
    labels[:, 4:20, 4:12], labels[:, 4:20, 12:20] = 1, 2
    tifffile.imwrite(tmp_path / "images.tif", labels.astype(np.uint8), photometric="minisblack")
    tifffile.imwrite(tmp_path / "labels.tif", labels, photometric="minisblack")
    lines = (
        f"{split}\timages.tif\tlabels.tif\t{z}\t{split}"
        for z, split in enumerate(("train", "validation", "test"))
    )
    (tmp_path / "volumes.tsv").write_text(TABLE + "\n".join(lines))
    export(DATA_SETS["nuclei"], tmp_path, tmp_path / "out", tmp_path / "truth", tmp_path / "volumes.tsv")
    written = tifffile.imread(tmp_path / "out/train/labels/train_000.tif")
    np.testing.assert_array_equal(written, labels[0])
    separated = tifffile.imread(tmp_path / "out/train/cells/train_000.tif")
    np.testing.assert_array_equal(separated, (labels[0] > 0) & ~np.isin(np.arange(24), (11, 12)))


def arguments(folder, out):
    return Run([str(folder), str(out), "--minutes", "2", "--seed", "1", "--threads", "1"])


def test_the_number_of_steps_follows_from_their_time(exported, monkeypatch):
    tmp_path, folder, *_ = exported
    run, now = arguments(folder, tmp_path / "run"), [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    durations = iter([50.0, 20.0, *[1.5] * 100])  # the first two steps warm up

    def step():
        now[0] += next(durations)

    assert run.iterations(step) == 80  # 120 s / 1.5 s
    assert run.seconds["measurement"] == 70 + 12  # a tenth of the minutes, 12 s, are measured


def test_perfect_labels_have_perfect_scores_and_touching_labels_are_not_merged(exported):
    tmp_path, folder, truth, cells = exported
    run = arguments(folder, tmp_path / "run")
    of_image = {"b_000": cells[3], "c_000": cells[4], "c_001": cells[5]}
    for split, names in run.names.items():
        for name in names if split != "train" else []:
            run.save(split, name, labels=metrics.connected_components(of_image[name]))
    found = scoring.score(DATA_SETS["isbi2012"], truth, run.out, ("validation", "test"))
    assert found["threshold"] is None
    for split in ("validation", "test"):
        assert found[split]["v_rand_thin"] == found[split]["seg"] == 1
        assert found[split]["pixel_error"] == found[split]["rand_error"] == 0


def test_the_threshold_is_chosen_on_the_validation_split_and_used_for_the_test_split(exported):
    tmp_path, folder, truth, cells = exported
    run = arguments(folder, tmp_path / "run")
    # membranes close above 0.3 in the validation image. In the test images they are best at 0.1.
    run.save("validation", "b_000", probability=np.where(cells[3], 0.9, 0.3))
    for z, name in ((4, "c_000"), (5, "c_001")):
        run.save("test", name, probability=np.where(cells[z], 0.4, 0.05))
    found = scoring.score(DATA_SETS["isbi2012"], truth, run.out, ("validation", "test"))
    assert found["threshold"] == 0.6  # the middle of 0.3, 0.35, ..., 0.85
    assert found["validation"]["v_rand_thin"] == 1 and found["validation"]["pixel_error"] == 0
    assert found["test"]["pixel_error"] == 1  # no cell is found


def test_the_threshold_follows_the_rule_of_bordure():
    """V-Rand may be lower by 0.005 if the pixel error is smaller, as in `choose_postprocessing`."""
    rows = {0.3: (0.986, 0.02), 0.4: (0.9875, 0.04), 0.5: (0.99, 0.05), 0.6: (0.99, 0.05), 0.7: (0.98, 0.01)}
    tried = {
        at: {"v_rand_thin": score, "seg": score, "pixel_error": error} for at, (score, error) in rows.items()
    }
    assert scoring.chosen_threshold(tried, "v_rand_thin") == 0.3
    assert scoring.chosen_threshold(tried, "seg") == 0.6


def test_components_smaller_than_the_minimum_of_the_config_are_removed(exported):
    tmp_path, folder, truth, cells = exported
    run = arguments(folder, tmp_path / "run")
    run.save("validation", "b_000", probability=np.where(cells[3], 0.9, 0.1))
    _, sizes = np.unique(metrics.connected_components(cells[3]), return_counts=True)
    data = DATA_SETS["isbi2012"]
    nuclei = replace(DATA_SETS["nuclei"], criterion=data.criterion)
    assert (data.minimum_size, nuclei.minimum_size) == (0, 20)
    found = [
        scoring.score(either, truth, run.out, ("validation",))["validation"]["cells_found"]
        for either in (data, nuclei)
    ]
    assert found == [len(sizes) - 1, (sizes[1:] >= 20).sum()] and found[0] > found[1]


@pytest.mark.parametrize("shape, message", [(None, "no prediction of b_000"), ((9, 9), r"shape \(9, 9\)")])
def test_a_missing_prediction_and_one_of_another_shape_are_errors(exported, shape, message):
    tmp_path, folder, truth, _ = exported
    run = arguments(folder, tmp_path / "run")
    if shape:
        run.save("validation", "b_000", labels=np.ones(shape))
    with pytest.raises(InputError, match=message):
        scoring.score(DATA_SETS["isbi2012"], truth, run.out, ("validation",))


def test_the_scores_of_components_are_those_of_the_map(exported):
    *_, cells = exported
    rng = np.random.default_rng(1)
    probability = np.clip(np.where(cells, 0.7, 0.3) + rng.normal(0, 0.15, cells.shape), 0, 1)
    labels = metrics.connected_components(cells)
    expected = metrics.isbi_scores(cells, probability, [0.5], labels=labels).set_index("metric").value
    predicted = metrics.connected_components(probability > 0.5)
    found = scoring.scores_of(scoring.Volume(labels, cells > 0, []), predicted)
    names = [*DATA_SETS["isbi2012"].metrics, *DATA_SETS["nuclei"].metrics]
    assert {name: found[name] for name in names} == pytest.approx(expected[names].to_dict())
    assert len(set(expected[names])) == len(names)


@settings(deadline=None, max_examples=300)
@given(arrays.arrays(np.int32, (1, 7, 6), elements=st.integers(0, 1)))
def test_labels_that_do_not_touch_are_thinned_as_a_binary_map(cells):
    found = scoring.thinned(metrics.connected_components(cells))
    np.testing.assert_array_equal(found, metrics.thin_borders(cells))


def test_labels_that_touch_stay_apart_when_they_are_thinned():
    np.testing.assert_array_equal(scoring.thinned(np.array([[[1, 1, 2, 2, 0, 0]]])), [[[1, 1, 2, 2, 2, 2]]])


# -------------------------------------------------------------------------------------- environments and runs

PROGRAM = """
import os, sys
sys.dont_write_bytecode = True
import numpy as np
from contract import Run
run = Run()
memory = bytearray(150_000_000)
memory[::4096] = b"1" * len(memory[::4096])
import time; time.sleep(1.5)
run.seconds["training"] = 60.0
run.predict(lambda image: {"labels": np.ones(image.shape)})
settings = {"cores": len(os.sched_getaffinity(0)), "threads": os.environ["OMP_NUM_THREADS"]}
run.finish(iterations=3, parameters=2_000_000, settings=settings, packages=("numpy",))
"""


@pytest.fixture
def peer(tmp_path, monkeypatch):
    """Replace the peers by one small program of the contract; return its folder."""
    folder = tmp_path / "peers"
    (folder / "small").mkdir(parents=True)
    (folder / "shared").symlink_to(Path(running.__file__).parent / "shared")
    (folder / "small/train.py").write_text(PROGRAM)
    monkeypatch.setattr(running, "FOLDER", folder)
    monkeypatch.setattr(running, "PEERS", {"small": ("isbi2012",)})
    monkeypatch.setattr(table, "NAMES", {"small": "Small"})
    return folder


def start(exported, threads=1, iterations=None):
    tmp_path, folder, *_ = exported
    given = {"minutes": 1, "seed": 0, "threads": threads, "iterations": iterations}
    return running.run("small", Path(sys.executable), folder, tmp_path / "run", **given)


def test_a_run_gets_its_cores_and_its_memory_and_times_are_stored(exported, peer):
    found = start(exported)
    assert found["settings"] == {"cores": 1, "threads": "1"}
    assert 150 < found["peak_memory_mb"] < 1000
    assert found["wall_seconds"] > 1.5 and 0 < found["cpu_seconds"] < found["wall_seconds"] + 1
    assert (exported[0] / "run/test/c_001_labels.tif").exists()
    (exported[0] / "run/log.txt").unlink()
    assert start(exported) == start(exported, iterations=3) == found  # is not run again
    assert not (exported[0] / "run/log.txt").exists()
    for other, named in (({"threads": 2}, "threads"), ({"iterations": 4}, "iterations")):
        with pytest.raises(InputError, match=f"run: was made with other {named}. Delete the folder"):
            start(exported, **other)
    (peer / "small/train.py").write_text(PROGRAM + "# other")
    with pytest.raises(InputError, match="run: was made with other program"):
        start(exported)


def test_a_program_that_fails_is_reported_with_its_log(exported, peer):
    (peer / "small/train.py").write_text("raise SystemExit('no such network')")
    with pytest.raises(InputError, match="small: ended with status 1") as error:
        start(exported)
    assert "no such network" in Path(str(error.value).split()[-1].rstrip(".")).read_text()
    (exported[0] / "run/left").touch()
    (peer / "small/train.py").write_text(PROGRAM)
    assert start(exported)["iterations"] == 3
    assert not (exported[0] / "run/left").exists()


@pytest.mark.slow  # makes environments
def test_an_environment_is_made_again_only_if_its_requirements_change(peer, tmp_path, capfd):
    assert running.python_of("small", tmp_path) == Path(sys.executable)  # has no requirements of its own
    for text, made in (("", True), ("", False), ("# none\n", True)):
        (peer / "small/requirements.txt").write_text(text)
        python = running.python_of("small", tmp_path / "environments")
        assert ("installing" in capfd.readouterr().err) == made
        assert python == tmp_path / "environments/small/bin/python" and python.exists()
    (peer / "small/requirements.txt").write_text("no such package\n")
    with pytest.raises(InputError, match="pip failed"):
        running.python_of("small", tmp_path / "environments")


def test_the_command_scores_the_test_split_only_if_asked(exported, peer, monkeypatch, capsys):
    tmp_path, folder, truth, _ = exported
    work = tmp_path / "work/isbi2012"
    work.mkdir(parents=True)
    folder.rename(work / "images")
    truth.rename(work / "truth")
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{table.BEGIN}\nold\n{table.END}\n\nEnd\n")
    monkeypatch.setattr(table, "PAGE", page)
    monkeypatch.setattr(peers.harness, "RESULTS", tmp_path / "results")
    command = ["--data-dir", str(tmp_path), "--work", str(work.parent), "--minutes", "1", "--threads", "1"]
    command += ["--seeds", "0", "--data", "isbi2012"]
    held_out = work / "truth/c.h5"
    held_out.rename(tmp_path / "elsewhere")
    assert peers.main(command) == 0
    (tmp_path / "elsewhere").rename(held_out)
    assert "validation split" in capsys.readouterr().out and "old" in page.read_text()
    assert not (tmp_path / "results").exists()
    assert peers.main([*command, "--test"]) == 0
    written = page.read_text()
    assert written.startswith("# Title\n") and written.endswith("\n\nEnd\n") and "old" not in written
    assert "**ISBI 2012, 1 minutes, test split**" in written and "numpy" in written
    [stored] = (tmp_path / "results").glob("peers-*.json")
    [row] = json.loads(stored.read_text())["rows"]
    assert row["scores"]["test"]["pixel_error"] > 0 and row["iterations"] == 3
    (work / "source.txt").write_text("/other/data")
    with pytest.raises(SystemExit):
        peers.main(command)
    assert "has the images of /other/data, not of" in capsys.readouterr().err


def test_longer_runs_take_their_iterations_from_stored_results_and_are_added_to_them(
    exported, peer, monkeypatch, capsys
):
    tmp_path, folder, truth, _ = exported
    for elsewhere in ("one", "two"):  # as on two machines of one kind, which share the repository only
        (tmp_path / elsewhere / "isbi2012").mkdir(parents=True)
        shutil.copytree(folder, tmp_path / elsewhere / "isbi2012/images")
        shutil.copytree(truth, tmp_path / elsewhere / "isbi2012/truth")
    page = tmp_path / "page.md"
    page.write_text(f"{table.BEGIN}\n{table.END}\n")
    monkeypatch.setattr(table, "PAGE", page)
    monkeypatch.setattr(peers.harness, "RESULTS", tmp_path / "results")
    command = ["--data-dir", str(tmp_path), "--seeds", "0", "--data", "isbi2012", "--threads", "1", "--test"]
    longer = [*command, "--work", str(tmp_path / "two"), "--minutes", "6", "--times-of", "2"]
    assert peers.main(longer) == 1
    assert "found no training of small on isbi2012 with seed 0" in capsys.readouterr().err
    assert peers.main([*command, "--work", str(tmp_path / "one"), "--minutes", "2"]) == 0
    (peer / "small/train.py").write_text(PROGRAM.replace("iterations=3", "iterations=run.given_iterations"))
    assert peers.main(longer) == 0
    [stored] = (tmp_path / "results").glob("peers-*.json")
    rows = json.loads(stored.read_text())["rows"]
    assert [(row["minutes"], row["iterations"]) for row in rows] == [(2, 3), (6, 9)]
    assert "2 minutes, test" in page.read_text() and "6 minutes, test" in page.read_text()
    assert peers.main(longer) == 0  # a repeated run replaces its row
    again = [*command, "--work", str(tmp_path / "two"), "--minutes", "2", "--times-of", "2"]
    assert peers.main(again) == 0  # on another folder, with the iterations of the stored run
    rows = json.loads(stored.read_text())["rows"]
    assert [(row["minutes"], row["iterations"]) for row in rows] == [(2, 3), (6, 9)]


# ------------------------------------------------------------------------------------------------------ table


def row(peer, seed, v_rand, error, data="isbi2012", minutes=10):
    scores = {"v_rand_thin": v_rand, "pixel_error": error, "rand_error": 0.1}
    return {
        "data": data,
        "peer": peer,
        "minutes": minutes,
        "seed": seed,
        "scores": {"test": scores},
        "iterations": 1000,
        "parameters": 1_940_000,
        "seconds": {"training": 594},
        "cpu_seconds": 300.0,
        "wall_seconds": 200.0,
        "peak_memory_mb": 1234,
        "settings": {"batch": 2},
        "versions": {"torch": "2.13.0"},
    }


def test_the_table_has_means_and_deviations_and_marks_the_best():
    rows = [row("bordure", 0, 0.95, 0.07), row("bordure", 1, 0.97, 0.07), row("nnunet", 0, 0.91, 0.06)]
    title, _, _, _, ours, theirs = table.markdown([*reversed(rows)], "test").splitlines()
    assert title == "**ISBI 2012, 10 minutes, test split**"
    ours, theirs = ([cell.strip() for cell in line.strip("|").split("|")] for line in (ours, theirs))
    assert ours[:3] == ["bordure", "**.960±.014**", ".070±.000"]
    assert theirs[:3] == ["nnU-Net v2", ".910", "**.060**"]
    assert ours[4:] == ["1,000", "1.94", "9.9", "1.50", "1.2"]
    assert table.markdown(rows[-1:], "test").splitlines()[-1].startswith("| nnU-Net v2 | .910 | .060 |")


def test_each_data_set_and_time_has_its_own_table():
    rows = [row("bordure", 0, 0.95, 0.07, minutes=minutes) for minutes in (60, 10)]
    assert table.markdown(rows, "test").count("| bordure |") == 2
    assert table.markdown(rows, "test").index("10 minutes") < table.markdown(rows, "test").index("60 minutes")
