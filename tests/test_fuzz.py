"""Run the fuzz targets on their initial inputs and small changes of them, without atheris."""

import numpy as np
import pytest

from tests.fuzz import __main__ as fuzz
from tests.fuzz import corpus, targets


@pytest.mark.parametrize("target", targets.TARGETS)
def test_valid_and_slightly_changed_files_give_no_finding(target, tmp_path):
    random = np.random.default_rng(0)
    assert corpus.write(target, tmp_path) == len([*tmp_path.iterdir()]) >= 3
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        targets.check(target, content)
        for _ in range(3):
            changed = bytearray(content)
            changed[random.integers(len(content))] = random.integers(256)
            targets.check(target, bytes(changed))
            targets.check(target, content[: random.integers(len(content))])


@pytest.mark.parametrize("target", ("tiff", "png", "hdf5", "table", "config"))
def test_targets_can_read_valid_files(target, tmp_path):
    """A target that rejects every input would never find an error."""
    corpus.write(target, tmp_path)
    count = 0
    for path in tmp_path.iterdir():
        try:
            targets.TARGETS[target](path.read_bytes())
            count += 1
        except targets.InputError:
            pass
    assert count >= 3


@pytest.mark.parametrize("target", ("hdf5", "annotation", "config"))
def test_files_that_the_dry_run_refuses_are_no_findings(target, tmp_path, monkeypatch):
    corpus.write(target, tmp_path)
    content = next(path for path in sorted(tmp_path.iterdir())).read_bytes()
    (tmp_path / "sound").write_bytes(content)
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    figures = fuzz.sort_findings(target, {"sound", "cut"}, tmp_path)
    refused = [] if target == "config" else ["cut"]
    assert figures == {"findings": sorted({"sound", "cut"} - {*refused}), "refused by the dry run": refused}
    for names in (figures["findings"], refused):
        found = fuzz.sort_findings(target, {*names}, tmp_path)
        monkeypatch.setattr(fuzz, "fuzz", lambda *_, found=found: found)
        monkeypatch.setattr("sys.argv", ["fuzz", target, "--folder", str(tmp_path)])
        assert fuzz.main() == bool(found["findings"])


def test_an_input_that_alone_needs_little_memory_is_no_finding(tmp_path, monkeypatch):
    """The fuzzer counts the memory of the process, which grows with the number of inputs."""
    corpus.write("table", tmp_path)
    name = "table-oom-1"
    next(path for path in sorted(tmp_path.iterdir())).rename(tmp_path / name)
    monkeypatch.setattr(fuzz, "RSS_LIMIT", 800)
    held = np.ones(800 * 2**20, np.uint8)  # by this process, which must not count
    assert fuzz.sort_findings("table", {name}, tmp_path)["findings"] == []
    del held
    monkeypatch.setattr(fuzz, "RSS_LIMIT", 10)
    assert fuzz.sort_findings("table", {name}, tmp_path)["findings"] == [name]
