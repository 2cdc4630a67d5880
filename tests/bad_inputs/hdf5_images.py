"""Malformed HDF5 images."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from .harness import Group
from .sound import bad_image, bad_row, gray, write_config

GROUP = Group("Images: HDF5")
add, case = GROUP.add, GROUP.case


@contextlib.contextmanager
def write_hdf5(dataset: str = "raw", name: str = "a.h5") -> Iterator[h5py.File]:
    """Open a new HDF5 file, and use its `dataset` as the images of the volume `bad`."""
    with h5py.File(name, "w") as file:
        yield file
    bad_row(f"{name}:/{dataset}")


add("text file named .h5", lambda: (bad_image("a.h5", b"text"), bad_row("a.h5:/raw")))


@case("no dataset named")
def _():
    with write_hdf5() as file:
        file["raw"] = gray(3, 32, 32)
    bad_row("a.h5")


@case("missing dataset")
def _():
    with write_hdf5("row") as file:
        file["raw"] = gray(3, 32, 32)


@case("group instead of a dataset")
def _():
    with write_hdf5("volumes") as file:
        file["volumes/raw"] = gray(3, 32, 32)


@case("one dimension")
def _():
    with write_hdf5() as file:
        file["raw"] = gray(32)


@case("five dimensions")
def _():
    with write_hdf5() as file:
        file["raw"] = gray(1, 2, 2, 32, 32)


@case("sections last, without axes")
def _():
    with write_hdf5() as file:
        file["raw"] = gray(32, 32, 3)


@case("axes and dimension labels that contradict each other")
def _():
    with write_hdf5() as file:
        file["raw"] = gray(3, 32, 32)
        file["raw"].attrs["axes"] = "zyx"
        for dimension, label in zip(file["raw"].dims, "xyz", strict=True):
            dimension.label = label


@case("array of MATLAB, without axes")
def _():
    with write_hdf5() as file:
        file["raw"] = gray(3, 32, 32)
        file["raw"].attrs["MATLAB_class"] = np.bytes_("uint8")


@case("image with row 0 at the bottom")
def _():
    with write_hdf5() as file:
        file["raw"] = gray(3, 32, 32)
        file["raw"].attrs["DISPLAY_ORIGIN"] = "LL"


@case("values with a scale factor")
def _():
    with write_hdf5() as file:
        file["raw"] = gray(3, 32, 32)
        file["raw"].attrs["scale_factor"] = 0.5


@case("time and depth")
def _():
    with write_hdf5() as file:
        file["raw"] = gray(2, 3, 32, 32)
        file["raw"].attrs["axes"] = "tzyx"


@case("scalar")
def _():
    with write_hdf5() as file:
        file["raw"] = 5


@case("dataset without a shape")
def _():
    with write_hdf5() as file:
        file["raw"] = h5py.Empty("u1")


@case("sections without pixels")
def _():
    with write_hdf5() as file:
        file["raw"] = np.zeros((3, 0, 32), np.uint8)


@case("text instead of gray values")
def _():
    with write_hdf5() as file:
        file["raw"] = np.full((3, 32, 32), b"a")


@case("objects instead of gray values")
def _():
    with write_hdf5() as file:
        file.create_dataset("raw", (3, 32, 32), h5py.string_dtype())[0, 0, 0] = "a"


@case("records instead of gray values")
def _():
    with write_hdf5() as file:
        file["raw"] = np.zeros((3, 32, 32), [("x", "u1"), ("y", "u1")])


@case("link to another file")
def _():
    with write_hdf5(name="b.h5") as file:
        file["raw"] = gray(3, 32, 32)
    with write_hdf5() as file:
        file["raw"] = h5py.ExternalLink("b.h5", "/raw")


@case("link to a missing dataset")
def _():
    with write_hdf5() as file:
        file["raw"] = h5py.SoftLink("/gone")


@case("virtual dataset with a missing source")
def _():
    with write_hdf5() as file:
        shown = h5py.VirtualLayout((3, 32, 32), np.uint8)
        shown[:] = h5py.VirtualSource("gone.h5", "raw", (3, 32, 32))
        file.create_virtual_dataset("raw", shown)


@case("external data file that is missing")
def _():
    with write_hdf5() as file:
        file.create_dataset("raw", (3, 32, 32), np.uint8, external=[("gone.raw", 0, 3 * 32 * 32)])
    Path("gone.raw").unlink(missing_ok=True)


@case("dataset that was never written")
def _():
    with write_hdf5() as file:
        file.create_dataset("raw", (3, 32, 32), np.uint8, chunks=(1, 32, 32))


@case("chunk of 12 GB")
def _():
    with write_hdf5() as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((1, 50_000, 60_000))
        plist.set_deflate(1)
        space = h5py.h5s.create_simple((1, 50_000, 60_000))
        dataset = h5py.h5d.create(file.id, b"raw", h5py.h5t.NATIVE_UINT8, space, plist)
        dataset.write_direct_chunk((0, 0, 0), zlib.compress(bytes(10**7)))
    write_config("memory_gb: 4\n")


@case("chunk of 3 kB that unpacks to 2 GB (bomb)")
def _():
    packer = zlib.compressobj(9)
    start, block = (packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    bomb = start + 127 * block + packer.flush()
    with write_hdf5() as file:
        dataset = file.create_dataset("raw", (3, 32, 32), np.uint8, chunks=(3, 32, 32), compression="gzip")
        dataset.id.write_direct_chunk((0, 0, 0), bomb)


@case("a million million million pixels and one chunk")
def _():
    with write_hdf5() as file:
        file.create_dataset("raw", (1, 2**30, 2**30), np.uint8, chunks=(1, 32, 32))[0, :32, :32] = 1


@case("filter that is not installed")
def _():
    with write_hdf5() as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((3, 32, 32))
        plist.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (0,))
        space = h5py.h5s.create_simple((3, 32, 32))
        h5py.h5d.create(file.id, b"raw", h5py.h5t.NATIVE_UINT8, space, plist).write_direct_chunk(
            (0, 0, 0), bytes(3072)
        )


@case("file cut in half")
def _():
    with write_hdf5() as file:
        file["raw"] = gray(3, 32, 32)
    content = Path("a.h5").read_bytes()
    Path("a.h5").write_bytes(content[: len(content) // 2])


@case("damaged chunk")
def _():
    with write_hdf5() as file:
        file.create_dataset(
            "raw", data=gray(3, 32, 32), compression="gzip", fletcher32=True, chunks=(3, 32, 32)
        )
        at = file["raw"].id.get_chunk_info(0).byte_offset
    content = Path("a.h5").read_bytes()
    Path("a.h5").write_bytes(content[: at + 50] + b"\0\1\2\3" + content[at + 54 :])


@case("folder named .h5")
def _():
    Path("a.h5").mkdir()
    bad_row("a.h5:/raw")
