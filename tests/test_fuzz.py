"""Run the fuzz targets on their initial inputs and small changes of them, without atheris."""

import numpy as np
import pytest

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
