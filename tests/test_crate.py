"""A run as RO-Crate: its files, their hashes, and the run that made them."""

import hashlib
import json
import zipfile

import pytest

from pipeline_lib import cli, provenance
from pipeline_lib.provenance.crate import METADATA, write_crate
from pipeline_lib.runtime.errors import InputError


@pytest.fixture
def results(tmp_path):
    """The files of a run, with records from a raw image to the report."""
    (tmp_path / "a.tif").write_bytes(b"image")
    folder = tmp_path / "results"
    (folder / "segmentation").mkdir(parents=True)
    (folder / "dataset").mkdir()
    with provenance.making("build_dataset", [folder / "dataset/a.h5"], [tmp_path / "a.tif"]):
        (folder / "dataset/a.h5").write_bytes(b"dataset")
    labels = folder / "segmentation/a_labels.tif"
    with provenance.making("segment", [labels], [folder / "dataset/a.h5"]):
        labels.write_bytes(b"labels")
    report = folder / "report.html"
    settings = {"seed": 3, "report": {"title": "Fibres"}}
    with provenance.making("report", [report], [labels, folder / "dataset/a.h5"], **settings):
        report.write_text("<html>")
    (folder / "scores.csv").write_text("a\n")
    return folder


def read(path):
    archive = zipfile.ZipFile(path)
    graph = json.loads(archive.read(METADATA))["@graph"]
    return archive, {entity["@id"]: entity for entity in graph}


def test_the_crate_describes_every_file_in_it(results, tmp_path):
    (tmp_path / "Snakefile").write_text("rule all:")
    assert write_crate(results, tmp_path / "out.zip", tmp_path / "Snakefile") == 4
    archive, entities = read(tmp_path / "out.zip")
    files = {*archive.namelist()} - {METADATA}
    assert files == {
        "workflow/Snakefile",
        "results/report.html",
        "results/scores.csv",
        "results/segmentation/a_labels.tif",
    }
    root = entities["./"]
    assert {part["@id"] for part in root["hasPart"]} == files and root["name"] == "Fibres"
    for name in files:
        assert entities[name]["sha256"] == hashlib.sha256(archive.read(name)).hexdigest()
    assert entities[root["mainEntity"]["@id"]]["@type"][-1] == "ComputationalWorkflow"


def test_the_run_has_its_inputs_settings_and_times(results, tmp_path):
    (tmp_path / "Snakefile").write_text("rule all:")
    write_crate(results, tmp_path / "out.zip", tmp_path / "Snakefile")
    _, entities = read(tmp_path / "out.zip")
    run = entities["#run"]
    given = [entities[one["@id"]] for one in run["object"]]
    (image,) = (entity for entity in given if entity["@type"] == "CreativeWork")
    assert (image["name"], image["sha256"]) == ("a.tif", hashlib.sha256(b"image").hexdigest())
    settings = {entity["name"]: entity["value"] for entity in given if entity["@type"] == "PropertyValue"}
    assert settings == {"seed": "3", "report": '{"title": "Fibres"}'}
    assert run["startTime"] <= run["endTime"] and run["instrument"] == {"@id": "workflow/Snakefile"}
    assert {one["@id"] for one in run["result"]} < {*entities}
    for entity in entities.values():  # nothing names what is not described
        for value in entity.values():
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, dict) and not one["@id"].startswith("http"):
                    assert one["@id"] in entities


def test_the_same_results_give_the_same_bytes(results, tmp_path):
    (tmp_path / "Snakefile").write_text("rule all:")
    for name in ("a.zip", "b.zip"):
        write_crate(results, tmp_path / name, tmp_path / "Snakefile")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_incomplete_and_changed_results_are_refused(results, tmp_path, capsys):
    (results / "segmentation/a_labels.tif").write_bytes(b"edited")
    assert cli.main(["export", str(results), "--to", "ro-crate"]) == 1
    assert "a_labels.tif: has changed since it was written" in capsys.readouterr().err
    (results / "report.html").unlink()
    with pytest.raises(InputError, match=r"has no report\.html, so the run is not complete"):
        write_crate(results, tmp_path / "out.zip", tmp_path / "Snakefile")
    assert not [*tmp_path.glob("*.zip")]


@pytest.fixture
def table(results):
    """A table of cells, from which the report is not made."""
    made = results / "segmentation/a_cells.csv"
    with provenance.making("measure_cells", [made], [results / "segmentation/a_labels.tif"]):
        made.write_text("label\n1\n")
    return made


def test_results_beside_the_report_are_checked(results, table, capsys):
    assert cli.main(["export", str(results), "--to", "ro-crate"]) == 0
    table.write_text("label\n2\n")
    assert cli.main(["export", str(results), "--to", "ro-crate"]) == 1
    assert "a_cells.csv: has changed since it was written" in capsys.readouterr().err
    table.unlink()
    assert cli.main(["export", str(results), "--to", "ro-crate"]) == 1
    assert "a_cells.csv: is missing, so the run is not complete" in capsys.readouterr().err


def test_results_of_an_earlier_run_are_refused(results, table, capsys):
    dataset, labels, report = (
        results / name for name in ("dataset/a.h5", "segmentation/a_labels.tif", "report.html")
    )
    for output, source in ((labels, dataset), (report, labels)):
        with provenance.making("again", [output], [source]):
            output.write_bytes(b"new")
    assert cli.main(["export", str(results), "--to", "ro-crate"]) == 1
    assert "a_cells.csv: was made from another version of " in capsys.readouterr().err


def test_results_of_volumes_that_were_removed_are_left_out(results, table, tmp_path):
    report, labels = results / "report.html", results / "segmentation/a_labels.tif"
    with provenance.making("segment", [results / "segmentation/b_labels.tif"], [results / "dataset/a.h5"]):
        (results / "segmentation/b_labels.tif").write_bytes(b"labels")
    for names, left in ((["a", "b"], True), (["a"], False)):
        with provenance.making("report", [report], [labels], volume_names=names):
            report.write_text("<html>")
        write_crate(results, tmp_path / "a.zip", __file__)
        files = {*read(tmp_path / "a.zip")[1]}
        assert {"results/segmentation/a_labels.tif", "results/segmentation/a_cells.csv"} < files
        assert ("results/segmentation/b_labels.tif" in files) == left


def test_the_command_writes_beside_the_folder(results, capsys):
    assert cli.main(["export", str(results), "--to", "ro-crate"]) == 0
    assert capsys.readouterr().out == f"{results}_crate.zip: 4 files\n"
