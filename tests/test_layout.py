import time

import h5py
import numpy as np
import pytest

from pipeline_lib import layout
from pipeline_lib.kernels import blocks
from pipeline_lib.runtime.errors import InputError


def test_datasets_have_a_description_and_chunks_for_patches(tmp_path):
    with layout.create(tmp_path / "a.h5", {"version": "1"}) as file:
        layout.add(file, layout.RAW, (2, 3, 300, 40), np.uint16)[:] = 7
        layout.add(file, layout.WEIGHT_MAP, (3, 300, 40))
    with layout.require(tmp_path / "a.h5", layout.RAW, layout.WEIGHT_MAP) as file:
        raw, weight_map = file["raw"], file["weight_map"]
        meaning = layout.RAW.meaning.encode()
        assert dict(raw.attrs) == {"axes": b"czyx", "unit": b"gray level", "meaning": meaning}
        assert (raw.dtype, weight_map.dtype) == (np.uint16, np.float32)
        assert raw.chunks == (1, 1, 128, 40) and weight_map.chunks == (1, 128, 40)
        assert raw.compression == weight_map.compression == "gzip"
        assert layout.provenance(file) == {"version": "1"}


def test_a_failed_stage_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError), layout.create(tmp_path / "a.h5", {}) as file:
        layout.add(file, layout.LABELS, (1, 4, 4))
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_messages_for_files_of_another_kind_or_version(tmp_path):
    path = tmp_path / "a.h5"
    with pytest.raises(InputError, match=r"a\.h5: no such file"), layout.require(path):
        pass
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"a\.h5: not a readable HDF5 file"), layout.require(path):
        pass
    with h5py.File(path, "w") as file:
        file["raw"] = np.zeros((1, 1, 4, 4))
    with pytest.raises(InputError, match=r"format version None, expected 4"), layout.require(path):
        pass
    with h5py.File(path, "a") as file:
        file.attrs.update(format=np.bytes_(b"bordure"), format_version=99)
    with pytest.raises(InputError, match=r"format version 99, expected 4"), layout.require(path):
        pass


def test_the_message_for_a_missing_array_lists_those_found(tmp_path):
    with layout.create(tmp_path / "a.h5", {}) as file:
        layout.add(file, layout.RAW, (1, 1, 4, 4), np.uint8)
    with (
        pytest.raises(InputError, match=r"has no `labels` \(found: raw\)"),
        layout.require(tmp_path / "a.h5", layout.RAW, layout.LABELS),
    ):
        pass


def test_a_shape_that_does_not_fit_the_axes_is_a_programming_error(tmp_path):
    with pytest.raises(ValueError, match="axes czyx"), layout.create(tmp_path / "a.h5", {}) as file:
        layout.add(file, layout.RAW, (3, 4, 4), np.uint8)


def test_joining_the_same_parts_gives_the_same_bytes_at_any_time(tmp_path):
    with layout.create(tmp_path / "1.h5", {}) as file:
        layout.add(file, layout.LABELS, (1, 4, 4))
    parts = [(blocks.parts((1, 4, 4), 1)[0], tmp_path / "1.h5")]

    def joined(name):
        layout.join(tmp_path / name, [layout.LABELS], (1, 4, 4), parts, {})
        return (tmp_path / name).read_bytes()

    before = joined("a.h5")
    time.sleep(1.1)  # time stamps of HDF5 have a resolution of 1 s
    assert joined("b.h5") == before
