import json
import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pipeline_lib
from pipeline_lib import layout, provenance
from pipeline_lib.kernels import blocks
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.stages.dataset import build_dataset, build_weight_map, measure_statistics
from pipeline_lib.stages.provenance_page import read_files
from pipeline_lib.stages.synthesis import draw_volume

ROOT = Path(__file__).parents[1]


def digest(path):
    return sha256(Path(path).read_bytes()).hexdigest()


def flip(path, position=None):
    """Flip one bit of the file, and keep its modification time."""
    content, status = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2 if position is None else position] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A drawn volume, its dataset, statistics and weight map, with relative paths as in the workflow."""
    monkeypatch.chdir(tmp_path)
    draw_volume("raw/images.tif", "raw/labels.tif", sections=1, size=96, cell_diameter=20, seed=7)
    shutil.rmtree("raw/.provenance")  # as images of a user have no record
    build_dataset("raw/images.tif", "raw/labels.tif", Path("results/a.h5"), separation_border_width=1)
    measure_statistics([Path("results/a.h5")], Path("results/statistics.json"))
    build_weight_map(Path("results/a.h5"), Path("results/statistics.json"), Path("results/w.h5"), sigma=3.0)
    return tmp_path


def test_version_names_release_and_commit():
    found = provenance.version()
    assert found.startswith(pipeline_lib.__version__)
    if (ROOT / ".git").exists():
        command = ["git", "-C", ROOT, "rev-parse", "HEAD"]
        head = subprocess.run(command, capture_output=True, text=True)
        commit = re.search(r"\(([0-9a-f]+)(-dirty)?\)", found)[1]
        assert head.stdout.startswith(commit)


def test_records_contain_stage_settings_inputs_and_packages_and_what_varies_is_not_embedded(made):
    embedded, full = (
        read(Path("results/w.h5")) for read in (provenance.embedded_record, provenance.find_record)
    )
    assert embedded["stage"] == "build_weight_map" and embedded["version"] == provenance.version()
    assert embedded["settings"] == {"w0": 10.0, "sigma": 3.0, "class_balance": True}
    assert embedded["inputs"] == {
        f"results/{name}": digest(f"results/{name}") for name in ("a.h5", "statistics.json")
    }
    assert embedded["packages"]["numpy"] == np.__version__ and embedded["device"] == "cpu"
    varying = {name: full.pop(name) for name in ("seconds", "peak_memory", "threads", "finished")}
    assert full == embedded | {
        "file": "results/w.h5",
        "sha256": digest("results/w.h5"),
        "bytes": os.path.getsize("results/w.h5"),
    }
    assert varying["seconds"] > 0 and varying["peak_memory"] > 2**20


def test_files_that_are_made_again_are_byte_identical(made, tmp_path):
    for name in ("results/a.h5", "results/statistics.json"):
        assert provenance.embedded_record(Path(name))["inputs"]
    before = {path: digest(path) for path in Path("results").glob("[a-z]*.*")}
    build_dataset("raw/images.tif", "raw/labels.tif", Path("results/a.h5"), separation_border_width=1)
    measure_statistics([Path("results/a.h5")], Path("results/statistics.json"))
    build_weight_map(Path("results/a.h5"), Path("results/statistics.json"), Path("results/w.h5"), sigma=3.0)
    assert {path: digest(path) for path in Path("results").glob("[a-z]*.*")} == before


@pytest.mark.parametrize("name", ["a.h5", "statistics.json"])
def test_a_flipped_bit_is_reported_and_fixed_by_making_the_file_again(made, name):
    path = Path("results", name)
    whole, weights = path.read_bytes(), digest("results/w.h5")
    flip(path)
    arguments = Path("results/a.h5"), Path("results/statistics.json"), Path("results/w.h5")
    stage = {"a.h5": "build_dataset", "statistics.json": "measure_statistics"}[name]
    expected = rf"^results/{re.escape(name)}: not what {stage} wrote, .*`rm -f results/{re.escape(name)}`"
    with pytest.raises(InputError, match=expected):
        build_weight_map(*arguments, sigma=3.0)
    assert digest("results/w.h5") == weights  # the previous output is unchanged
    path.write_bytes(whole)
    build_weight_map(*arguments, sigma=3.0)


def test_a_missing_input_is_reported_with_the_command_to_make_it_again(made):
    Path("results/statistics.json").unlink()
    with pytest.raises(InputError, match=r"statistics.json: no such file. To make only this file again"):
        build_weight_map(Path("results/a.h5"), Path("results/statistics.json"), Path("results/w.h5"))


def test_a_killed_stage_leaves_no_record_of_an_earlier_output(made):
    """Otherwise a complete file would be compared with the record of an earlier one."""
    with pytest.raises(KeyboardInterrupt), provenance.making("s", ["results/a.h5"], []):
        Path("results/a.h5").write_bytes(b"new")
        raise KeyboardInterrupt
    assert not provenance.record_path("results/a.h5").exists()


def test_a_flipped_bit_in_a_file_that_jobs_share_is_detected(made):
    """Such files are not hashed by every job."""
    with h5py.File("results/a.h5") as file:
        place = file["raw"].id.get_chunk_info(0)
    flip(Path("results/a.h5"), place.byte_offset + place.size // 2)
    with (
        pytest.raises(InputError, match=r"^results/a.h5: not what build_dataset wrote"),
        provenance.making("predict", ["results/p.h5"], [], ["results/a.h5"]),
        layout.require("results/a.h5", layout.RAW) as file,
    ):
        file["raw"][:]


def test_files_that_jobs_share_are_identified_by_their_embedded_records(tmp_path):
    def shared(name, **settings):
        with (
            provenance.making("s", [tmp_path / name], [], **settings) as record,
            layout.create(tmp_path / name, record) as file,
        ):
            layout.add(file, layout.LABELS, (1, 4, 4))
        with provenance.making("t", [], [], [tmp_path / name]) as record:
            return record["records"][str(tmp_path / name)]

    assert shared("a.h5", sigma=5) == shared("b.h5", sigma=5) != shared("c.h5", sigma=6)


class TestChain:
    def test_leads_back_to_the_raw_images(self, made):
        links = provenance.chain("results/w.h5")
        assert next(iter(links)) == "results/w.h5"
        assert {name: link.state for name, link in links.items()} == dict.fromkeys(
            ["results/w.h5", "results/a.h5", "results/statistics.json", "raw/images.tif", "raw/labels.tif"],
            "unchanged",
        )
        assert (
            links["raw/images.tif"].record["stage"] == "draw_volume"
        )  # from the record embedded in the file

    def test_does_not_depend_on_the_working_directory(self, made, tmp_path_factory, monkeypatch):
        monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
        links = provenance.chain(made / "results/w.h5")
        assert {link.state for link in links.values()} == {"unchanged"} and len(links) == 5

    def test_detects_changed_raw_images(self, made):
        flip(Path("raw/images.tif"))
        links = provenance.chain("results/w.h5")
        assert links["raw/images.tif"].state == "changed"
        assert links["results/a.h5"].inputs == {"raw/images.tif": False, "raw/labels.tif": True}
        assert links["results/a.h5"].state == "unchanged"

    def test_detects_an_input_that_was_made_again_with_other_settings(self, made):
        build_dataset("raw/images.tif", "raw/labels.tif", Path("results/a.h5"), separation_border_width=4)
        links = provenance.chain("results/w.h5")
        assert links["results/a.h5"].state == "unchanged"  # it equals its own record
        assert links["results/w.h5"].inputs == {"results/a.h5": False, "results/statistics.json": True}

    def test_detects_that_also_for_a_file_that_jobs_share(self, made):
        """Such files are not hashed; their records are compared, also for the provenance page."""
        part = Path("results/p.h5")
        with (
            provenance.making("predict", [part], [], ["results/a.h5"]) as record,
            layout.create(part, record) as file,
        ):
            layout.add(file, layout.CELL_PROBABILITY, (1, 4, 4))
        assert provenance.chain(part)[str(part)].inputs == {"results/a.h5": True}
        assert read_files([part])[str(part)].outdated == set()
        build_dataset("raw/images.tif", "raw/labels.tif", Path("results/a.h5"), separation_border_width=4)
        assert provenance.chain(part)[str(part)].inputs == {"results/a.h5": False}
        assert read_files([part])[str(part)].outdated == {"results/a.h5"}

    def test_continues_behind_a_missing_file(self, made):
        Path("results/a.h5").unlink()
        links = provenance.chain("results/w.h5")
        assert links["results/a.h5"].state == "missing" and "raw/images.tif" in links

    def test_of_a_copied_file_is_read_from_its_embedded_record(self, made, tmp_path):
        shutil.copy("results/w.h5", tmp_path / "mine.h5")
        links = provenance.chain("mine.h5")
        assert links["mine.h5"].state == "unknown"
        assert links["results/a.h5"].state == "unchanged" and len(links) == 5


def command(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "pipeline_lib.cli", "provenance", *arguments],
        capture_output=True,
        text=True,
        env=environment,
    )


def test_the_command_shows_device_precision_and_threads(made):
    with provenance.making("train", ["results/model.pt"], ["results/a.h5"]) as record:
        record["environment"] = {"precision": "bfloat16"}  # added by the stage
        Path("results/model.pt").write_bytes(b"m")
    threads = json.loads(provenance.record_path("results/a.h5").read_text())["threads"]
    output = command("results/model.pt").stdout
    assert re.search(rf"\| train, cpu, bfloat16, {threads} threads?, 0\.\d\d s, \d+ MB, finished 20", output)


def test_the_command_shows_the_chain_and_fails_if_a_file_has_changed(made):
    found = command("results/w.h5")
    assert found.returncode == 0 and found.stderr == ""
    assert "|-- results/a.h5\n|   | build_dataset, cpu" in found.stdout
    assert "`-- results/statistics.json" in found.stdout
    assert found.stdout.endswith("5 files: 5 unchanged\n")
    flip(Path("results/a.h5"))
    found = command("results/w.h5")
    assert found.returncode == 1
    assert "results/a.h5   CHANGED since it was written" in found.stdout
    assert found.stdout.endswith("5 files: 4 unchanged, 1 changed\n")


@pytest.mark.parametrize("name, message", [("none.h5", "no such file"), ("raw/note.txt", "has no record")])
def test_the_command_reports_files_without_a_record(made, name, message):
    Path("raw/note.txt").write_text("mine")
    found = command(name)
    assert found.returncode == 1 and re.match(rf"error: {name}: {message}.*\n$", found.stderr)


def test_records_are_plain_json(made):
    record = json.loads(provenance.record_path("results/a.h5").read_text())
    assert record["settings"]["separation_border_width"] == 1


def test_a_damaged_part_of_a_joined_file_is_named(made):
    parts = [Path("results/parts/1.h5"), Path("results/parts/2.h5")]
    for path in parts:
        with provenance.making("predict", [path], []) as record, layout.create(path, record) as file:
            layout.add(file, layout.CELL_PROBABILITY, (1, 128, 128))[:] = 0.5
    joined = Path("results/joined.h5")
    shown = zip(blocks.parts((2, 128, 128), 2), parts, strict=True)
    with provenance.making("join_predictions", [joined], parts) as record:
        layout.join(joined, [layout.CELL_PROBABILITY], (2, 128, 128), shown, record)
    with h5py.File(parts[1]) as file:
        place = file["cell_probability"].id.get_chunk_info(0)
    flip(parts[1], place.byte_offset)
    with (
        pytest.raises(InputError, match=r"^results/parts/2.h5: not what predict wrote"),
        provenance.making("evaluate", ["results/scores.csv"], [joined]),
        layout.require(joined, layout.CELL_PROBABILITY) as file,
    ):
        file["cell_probability"][:]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_flipped_bit_in_an_hdf5_file_never_changes_the_values_read(tmp_path, data):
    path = tmp_path / "a.h5"
    with layout.create(path, {}) as file:
        layout.add(file, layout.LABELS, (2, 300, 300))[:] = np.arange(180000).reshape(2, 300, 300)
    with layout.require(path, layout.LABELS) as file:
        expected = file["labels"][:]
    position = data.draw(st.integers(0, path.stat().st_size - 1))
    flip(path, position)
    try:
        with layout.require(path, layout.LABELS) as file:
            found = file["labels"][:]
    except (InputError, OSError, KeyError, RuntimeError, ValueError):
        return
    np.testing.assert_array_equal(found, expected)


def test_a_file_that_is_not_hashed_cannot_be_exchanged_unnoticed(made):
    """For instance for a file of another volume with the same size and shape."""
    other = Path("results/b.h5")
    build_dataset("raw/images.tif", "raw/labels.tif", other, separation_border_width=1, sections="0")
    shutil.copy(other, "results/a.h5")
    with (
        pytest.raises(InputError, match=r"^results/a.h5: not what build_dataset wrote, but another file"),
        provenance.making("predict_part", ["results/p.h5"], [], ["results/a.h5"]),
    ):
        pass


def test_moved_results_are_checked_at_their_current_location(made):
    shutil.copytree("results", "archive/of/mine")
    flip(Path("archive/of/mine/a.h5"))
    links = provenance.chain("archive/of/mine/w.h5")
    assert links["results/a.h5"].path.samefile("archive/of/mine/a.h5")
    assert links["results/a.h5"].state == "changed" and links["raw/images.tif"].state == "unchanged"


@pytest.mark.parametrize("content", [b"\xff\xfe{", b"[1]", b"{}", b""])
def test_a_damaged_record_is_reported_with_the_command_to_type(made, content):
    provenance.record_path("results/a.h5").write_bytes(content)
    with pytest.raises(
        InputError,
        match=r"a.h5.json: damaged, expected the record of .* `rm -f results/.provenance/a.h5.json`",
    ):
        build_weight_map(
            Path("results/a.h5"), Path("results/statistics.json"), Path("results/w.h5"), sigma=3.0
        )


def test_paths_with_spaces_are_quoted_in_commands(made):
    shutil.copytree("results", "my results")
    build_dataset("raw/images.tif", "raw/labels.tif", Path("my results/a.h5"))
    flip(Path("my results/a.h5"))
    with pytest.raises(InputError, match=r"type `rm -f 'my results/a.h5'` .*` -- 'my results/a.h5'`"):
        measure_statistics([Path("my results/a.h5")], Path("my results/statistics.json"))


def test_no_message_says_to_delete_results_of_another_run(made):
    """For instance labels that were proof-read."""
    shutil.copytree("results", "other")
    flip(Path("other/a.h5"), 3000)
    with (
        pytest.raises(
            InputError, match=r"If it was edited on purpose, .*json`\. Otherwise, copy it again[^`]*$"
        ),
        provenance.making("s", [], ["other/a.h5"]),
    ):
        pass


def test_raw_images_have_no_record_but_must_not_be_missing(made):
    with h5py.File("raw/new.h5", "w") as file:
        file["raw"] = np.zeros((2, 64, 64), np.uint8)
    build_dataset("raw/new.h5:/raw", None, Path("results/n.h5"))
    assert command("results/n.h5").returncode == 0
    Path("raw/new.h5").unlink()
    found = command("results/n.h5")
    assert found.returncode == 1 and found.stdout.endswith("2 files: 1 unchanged, 1 missing\n")


def ome_set():
    """Write an OME set of two files, of which only the first is named in the table."""
    for name in ("s0.ome.tif", "s1.ome.tif"):
        plane = np.full((64, 64), ord(name[1]), np.uint8)
        tifffile.imwrite(f"raw/{name}", plane, photometric="minisblack", metadata=None)
    uuid = "urn:uuid:00000000-0000-0000-0000-00000000000"
    planes = "".join(
        f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="s{z}.ome.tif">{uuid}{z}</UUID>'
        "</TiffData>"
        for z in range(2)
    )
    xml = (
        f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{uuid}0">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="64" SizeY="64" '
        'SizeZ="2" SizeC="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
        f"{planes}</Pixels></Image></OME>"
    )
    plane = tifffile.imread("raw/s0.ome.tif")
    tifffile.imwrite("raw/s0.ome.tif", plane, description=xml, photometric="minisblack", metadata=None)
    return "raw/s0.ome.tif", Path("raw/s1.ome.tif")


def virtual():
    """Write an HDF5 file with a virtual dataset whose values are in another file."""
    with h5py.File("raw/part.h5", "w") as file:
        file["raw"] = np.arange(2 * 64 * 64).reshape(2, 64, 64).astype(np.uint16)
    layout = h5py.VirtualLayout((2, 64, 64), np.uint16)
    layout[:] = h5py.VirtualSource("part.h5", "raw", (2, 64, 64))
    with h5py.File("raw/all.h5", "w") as file:
        file.create_virtual_dataset("raw", layout)
    return "raw/all.h5:/raw", Path("raw/part.h5")


@pytest.mark.parametrize("write", [ome_set, virtual])
def test_all_files_of_a_raw_image_are_recorded(made, write):
    images, other = write()
    build_dataset(images, None, Path("results/n.h5"))
    assert set(provenance.find_record("results/n.h5")["inputs"]) == {images.partition(":")[0], str(other)}
    flip(other)
    assert not provenance.chain("results/n.h5")["results/n.h5"].still_holds


def test_a_truncated_drawn_image_is_reported_as_changed_output(made):
    draw_volume("drawn/images.tif", "drawn/labels.tif", sections=1, size=96, cell_diameter=20, seed=7)
    os.truncate("drawn/images.tif", 1000)
    with pytest.raises(InputError, match=r"drawn/images.tif: not what draw_volume wrote"):
        build_dataset("drawn/images.tif", "drawn/labels.tif", Path("results/d.h5"))
