"""Fuzzing itself needs atheris and time (`make fuzz`); what it starts from and files near it take seconds."""

import numpy as np
import pytest

from tests.fuzz import corpus, targets


@pytest.mark.parametrize("target", targets.TARGETS)
def test_sound_and_slightly_changed_files_make_no_finding(target, tmp_path):
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
def test_what_is_fuzzed_is_read_where_it_is_sound(target, tmp_path):
    """A target that refused all it is given would never find anything."""
    corpus.write(target, tmp_path)
    taken = 0
    for path in tmp_path.iterdir():
        try:
            targets.TARGETS[target](path.read_bytes())
            taken += 1
        except targets.InputError:
            pass
    assert taken >= 3
