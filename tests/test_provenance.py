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
    """One bit of the file is another, and the clock says nothing."""
    content, told = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2 if position is None else position] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A drawn volume, its dataset, statistics and weight map, with paths as the workflow has them."""
    monkeypatch.chdir(tmp_path)
    draw_volume("raw/images.tif", "raw/labels.tif", sections=1, size=96, cell_diameter=20, seed=7)
    shutil.rmtree("raw/.provenance")  # images of a user
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


def test_a_record_tells_stage_settings_inputs_packages_and_itself_what_varies(made):
    inside, beside = (
        read(Path("results/w.h5")) for read in (provenance.embedded_record, provenance.find_record)
    )
    assert inside["stage"] == "build_weight_map" and inside["version"] == provenance.version()
    assert inside["settings"] == {"w0": 10.0, "sigma": 3.0, "class_balance": True}
    assert inside["inputs"] == {
        f"results/{name}": digest(f"results/{name}") for name in ("a.h5", "statistics.json")
    }
    assert inside["packages"]["numpy"] == np.__version__ and inside["device"] == "cpu"
    varying = {name: beside.pop(name) for name in ("seconds", "peak_memory", "threads", "finished")}
    assert beside == inside | {
        "file": "results/w.h5",
        "sha256": digest("results/w.h5"),
        "bytes": os.path.getsize("results/w.h5"),
    }
    assert varying["seconds"] > 0 and varying["peak_memory"] > 2**20


def test_what_is_inside_every_kind_of_file_is_the_same_whenever_it_is_made(made, tmp_path):
    for name in ("results/a.h5", "results/statistics.json"):
        assert provenance.embedded_record(Path(name))["inputs"]
    before = {path: digest(path) for path in Path("results").glob("[a-z]*.*")}
    build_dataset("raw/images.tif", "raw/labels.tif", Path("results/a.h5"), separation_border_width=1)
    measure_statistics([Path("results/a.h5")], Path("results/statistics.json"))
    build_weight_map(Path("results/a.h5"), Path("results/statistics.json"), Path("results/w.h5"), sigma=3.0)
    assert {path: digest(path) for path in Path("results").glob("[a-z]*.*")} == before


@pytest.mark.parametrize("name", ["a.h5", "statistics.json"])
def test_a_flipped_bit_is_refused_named_and_put_right_by_making_that_file_anew(made, name):
    path = Path("results", name)
    whole, weights = path.read_bytes(), digest("results/w.h5")
    flip(path)
    arguments = Path("results/a.h5"), Path("results/statistics.json"), Path("results/w.h5")
    stage = {"a.h5": "build_dataset", "statistics.json": "measure_statistics"}[name]
    expected = rf"^results/{re.escape(name)}: not what {stage} wrote .*`rm -f results/{re.escape(name)}`"
    with pytest.raises(InputError, match=expected):
        build_weight_map(*arguments, sigma=3.0)
    assert digest("results/w.h5") == weights  # what was there is untouched
    path.write_bytes(whole)
    build_weight_map(*arguments, sigma=3.0)


def test_a_removed_input_is_named_with_what_makes_it_anew(made):
    Path("results/statistics.json").unlink()
    with pytest.raises(InputError, match=r"statistics.json: no such file. To make only this file again"):
        build_weight_map(Path("results/a.h5"), Path("results/statistics.json"), Path("results/w.h5"))


def test_a_stage_that_was_killed_before_its_record_leaves_no_record_of_what_it_wrote(made):
    """A record from before, of other bytes, would accuse a whole file."""
    with pytest.raises(KeyboardInterrupt), provenance.making("s", ["results/a.h5"], []):
        Path("results/a.h5").write_bytes(b"anew")
        raise KeyboardInterrupt
    assert not provenance.record_path("results/a.h5").exists()


def test_a_flipped_bit_in_pixels_that_are_read_in_part_is_seen_too(made):
    """Files that many jobs share are not hashed by each of them."""
    with h5py.File("results/a.h5") as file:
        place = file["raw"].id.get_chunk_info(0)
    flip(Path("results/a.h5"), place.byte_offset + place.size // 2)
    with (
        pytest.raises(InputError, match=r"^results/a.h5: not what build_dataset wrote"),
        provenance.making("predict", ["results/p.h5"], [], ["results/a.h5"]),
        layout.require("results/a.h5", layout.RAW) as file,
    ):
        file["raw"][:]


def test_what_many_jobs_share_is_told_by_its_own_record(tmp_path):
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
        assert links["raw/images.tif"].record["stage"] == "draw_volume"  # told by the file itself

    def test_is_found_from_any_folder(self, made, tmp_path_factory, monkeypatch):
        monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
        links = provenance.chain(made / "results/w.h5")
        assert {link.state for link in links.values()} == {"unchanged"} and len(links) == 5

    def test_tells_raw_images_that_are_others_now(self, made):
        flip(Path("raw/images.tif"))
        links = provenance.chain("results/w.h5")
        assert links["raw/images.tif"].state == "changed"
        assert links["results/a.h5"].inputs == {"raw/images.tif": False, "raw/labels.tif": True}
        assert links["results/a.h5"].state == "unchanged"

    def test_tells_a_file_that_was_made_anew_with_other_settings(self, made):
        build_dataset("raw/images.tif", "raw/labels.tif", Path("results/a.h5"), separation_border_width=4)
        links = provenance.chain("results/w.h5")
        assert links["results/a.h5"].state == "unchanged"  # it is what its own record says
        assert links["results/w.h5"].inputs == {"results/a.h5": False, "results/statistics.json": True}

    def test_tells_it_of_a_file_that_many_jobs_shared_too(self, made):
        """Such files are not hashed; their own records are compared, by the page too."""
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

    def test_goes_on_behind_a_file_that_is_no_longer_there(self, made):
        Path("results/a.h5").unlink()
        links = provenance.chain("results/w.h5")
        assert links["results/a.h5"].state == "missing" and "raw/images.tif" in links

    def test_of_a_file_handed_on_alone_is_what_it_carries(self, made, tmp_path):
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


def test_the_command_tells_device_precision_and_threads(made):
    with provenance.making("train", ["results/model.pt"], ["results/a.h5"]) as record:
        record["environment"] = {"precision": "bfloat16"}  # a stage's own
        Path("results/model.pt").write_bytes(b"m")
    threads = json.loads(provenance.record_path("results/a.h5").read_text())["threads"]
    told = command("results/model.pt").stdout
    assert re.search(rf"\| train, cpu, bfloat16, {threads} threads?, 0\.\d\d s, \d+ MB, finished 20", told)


def test_the_command_tells_the_chain_and_fails_where_a_link_is_broken(made):
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
def test_the_command_says_what_it_cannot_tell_of(made, name, message):
    Path("raw/note.txt").write_text("mine")
    found = command(name)
    assert found.returncode == 1 and re.match(rf"error: {name}: {message}.*\n$", found.stderr)


def test_records_are_plain_json(made):
    record = json.loads(provenance.record_path("results/a.h5").read_text())
    assert record["settings"]["separation_border_width"] == 1


def test_a_damaged_part_of_what_is_shown_as_one_is_named(made):
    parts = [Path("results/parts/1.h5"), Path("results/parts/2.h5")]
    for path in parts:
        with provenance.making("predict", [path], []) as record, layout.create(path, record) as file:
            layout.add(file, layout.CELL_PROBABILITY, (1, 128, 128))[:] = 0.5
    joined = Path("results/joined.h5")
    shown = zip(blocks.parts((2, 128, 128), 2), parts, strict=True)
    with provenance.making("join_predictions", [joined], parts) as record:
        layout.join(joined, layout.CELL_PROBABILITY, (2, 128, 128), shown, record)
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
def test_a_flipped_bit_anywhere_in_an_hdf5_file_shows_no_other_numbers(tmp_path, data):
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


def test_a_file_that_is_not_hashed_is_not_exchanged_for_another_unnoticed(made):
    """Of the same size and shape, say: another volume's."""
    other = Path("results/b.h5")
    build_dataset("raw/images.tif", "raw/labels.tif", other, separation_border_width=1, sections="0")
    shutil.copy(other, "results/a.h5")
    with (
        pytest.raises(InputError, match=r"^results/a.h5: not what build_dataset wrote, but another file"),
        provenance.making("predict_part", ["results/p.h5"], [], ["results/a.h5"]),
    ):
        pass


def test_results_that_were_moved_are_looked_at_where_they_are_now(made):
    shutil.copytree("results", "archive/of/mine")
    flip(Path("archive/of/mine/a.h5"))
    links = provenance.chain("archive/of/mine/w.h5")
    assert links["results/a.h5"].path.samefile("archive/of/mine/a.h5")
    assert links["results/a.h5"].state == "changed" and links["raw/images.tif"].state == "unchanged"


@pytest.mark.parametrize("content", [b"\xff\xfe{", b"[1]", b"{}", b""])
def test_a_damaged_record_is_named_with_what_to_type(made, content):
    provenance.record_path("results/a.h5").write_bytes(content)
    with pytest.raises(
        InputError, match=r"a.h5.json: damaged, expected the record of .* `rm -f results/.provenance/a.h5.json`"
    ):
        build_weight_map(
            Path("results/a.h5"), Path("results/statistics.json"), Path("results/w.h5"), sigma=3.0
        )


def test_paths_with_spaces_are_quoted_in_what_to_type(made):
    shutil.copytree("results", "my results")
    build_dataset("raw/images.tif", "raw/labels.tif", Path("my results/a.h5"))
    flip(Path("my results/a.h5"))
    with pytest.raises(InputError, match=r"type `rm -f 'my results/a.h5'` .*` -- 'my results/a.h5'`"):
        measure_statistics([Path("my results/a.h5")], Path("my results/statistics.json"))


def test_nobody_is_told_to_delete_results_of_another_run(made):
    """Labels that were proof-read, say."""
    shutil.copytree("results", "other")
    flip(Path("other/a.h5"), 3000)
    with (
        pytest.raises(InputError, match=r"If it was edited on purpose, .*json`\. Otherwise, copy it again[^`]*$"),
        provenance.making("s", [], ["other/a.h5"]),
    ):
        pass


def test_a_raw_hdf5_image_has_no_record_and_a_raw_image_must_not_be_missing(made):
    with h5py.File("raw/new.h5", "w") as file:
        file["raw"] = np.zeros((2, 64, 64), np.uint8)
    build_dataset("raw/new.h5:/raw", None, Path("results/n.h5"))
    assert command("results/n.h5").returncode == 0
    Path("raw/new.h5").unlink()
    found = command("results/n.h5")
    assert found.returncode == 1 and found.stdout.endswith("2 files: 1 unchanged, 1 missing\n")


def ome_set():
    """Two files, of which the first is named in the table."""
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
    """A file that shows the sections of another."""
    with h5py.File("raw/part.h5", "w") as file:
        file["raw"] = np.arange(2 * 64 * 64).reshape(2, 64, 64).astype(np.uint16)
    layout = h5py.VirtualLayout((2, 64, 64), np.uint16)
    layout[:] = h5py.VirtualSource("part.h5", "raw", (2, 64, 64))
    with h5py.File("raw/all.h5", "w") as file:
        file.create_virtual_dataset("raw", layout)
    return "raw/all.h5:/raw", Path("raw/part.h5")


@pytest.mark.parametrize("write", [ome_set, virtual])
def test_all_files_of_a_raw_image_are_watched(made, write):
    images, other = write()
    build_dataset(images, None, Path("results/n.h5"))
    assert set(provenance.find_record("results/n.h5")["inputs"]) == {images.partition(":")[0], str(other)}
    flip(other)
    assert not provenance.chain("results/n.h5")["results/n.h5"].still_holds


def test_a_drawn_image_that_was_cut_is_made_anew_and_not_blamed_on_its_source(made):
    draw_volume("drawn/images.tif", "drawn/labels.tif", sections=1, size=96, cell_diameter=20, seed=7)
    os.truncate("drawn/images.tif", 1000)
    with pytest.raises(InputError, match=r"drawn/images.tif: not what draw_volume wrote"):
        build_dataset("drawn/images.tif", "drawn/labels.tif", Path("results/d.h5"))
