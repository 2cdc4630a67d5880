import errno
import hashlib
import subprocess

import pytest

from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json, replacing, sha256, write_json


def test_a_file_is_written_completely_or_not_at_all(tmp_path):
    path = tmp_path / "folder/a.txt"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert temporary.suffix == ".txt" and not path.exists()
    assert path.read_text() == "whole"
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("ha")
        raise RuntimeError
    assert path.read_text() == "whole"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full; nothing was written"),
        (OSError("Can't write data (errno = 28, No space left on device)"), "disk is full"),
        (RuntimeError("Can't decrement id ref count (errno = 28, No space left on device)"), "disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be written.*`results:`"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot be written"),
    ],
)
def test_errors_of_the_disk_name_the_file(tmp_path, error, message):
    with pytest.raises(InputError, match=f"a.h5: .*{message}"), replacing(tmp_path / "a.h5") as temporary:
        temporary.write_text("half")
        raise error
    assert not list(tmp_path.iterdir())


def test_a_full_device_is_reported():
    full = open("/dev/full", "w")  # noqa: SIM115
    with pytest.raises(InputError, match="disk is full"), replacing("unused.txt"), full:
        full.write("x")


def test_other_errors_of_the_system_are_unchanged(tmp_path):
    with pytest.raises(TimeoutError), replacing(tmp_path / "a"):
        raise TimeoutError(errno.ETIMEDOUT, "timed out")


def test_hashes_depend_on_the_bytes_of_a_file_and_on_all_files_of_a_folder(tmp_path):
    for name, content in (("b", b"2"), ("a", b"1")):
        (tmp_path / name).write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"1").hexdigest()
    before = sha256(tmp_path)
    (tmp_path / "b").write_bytes(b"3")
    assert sha256(tmp_path) != before
    (tmp_path / "b").write_bytes(b"2")
    assert sha256(tmp_path) == before


def test_the_hash_of_a_folder_covers_everything_below_it(tmp_path):
    """Important for Zarr arrays, where the chunks and the hidden file `.zarray` define the data."""
    for name in ("a.zarr/.zarray", "a.zarr/0/0", "a.zarr/0/1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    found = {sha256(tmp_path)}
    for name in ("a.zarr/0/1", "a.zarr/.zarray"):
        (tmp_path / name).write_bytes(b"edited")
        found.add(sha256(tmp_path))
    (tmp_path / "a.zarr/0/1").rename(tmp_path / "a.zarr/1")
    assert len(found | {sha256(tmp_path)}) == 4
    before = sha256(tmp_path)
    for name in ("a.zarr/.DS_Store", "a.zarr/0/._0", "@eaDir/a", ".provenance/a.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert sha256(tmp_path) == before


def test_json_is_read_as_written_and_errors_name_the_file(tmp_path):
    write_json(tmp_path / "a.json", {"x": [1, 2.5]})
    assert read_json(tmp_path / "a.json") == {"x": [1, 2.5]}
    (tmp_path / "a.json").write_text('{"x": ')
    with pytest.raises(InputError, match=r"a\.json: not valid JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"b\.json: cannot be read"):
        read_json(tmp_path / "b.json")


def test_temporary_files_of_killed_processes_are_deleted(tmp_path):
    with subprocess.Popen(["sleep", "60"]) as process:
        running, other = tmp_path / f".a.partial-{process.pid}.h5", tmp_path / ".b.partial-1.h5"
        for path in (running, other):
            path.write_text("half")
        with replacing(tmp_path / "a.h5") as temporary:
            temporary.write_text("whole")
        names = {"a.h5", running.name, other.name}
        assert {path.name for path in tmp_path.iterdir()} == names
        process.kill()
    with replacing(tmp_path / "a.h5") as temporary:
        temporary.write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == names - {running.name}


def test_a_path_below_a_file_or_of_a_folder_is_explained(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder/inside").mkdir(parents=True)
    for path in (tmp_path / "file/a.txt", tmp_path / "folder"):
        with pytest.raises(InputError, match=r"Choose another name"), replacing(path) as temporary:
            temporary.write_text("new")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "inside"]
