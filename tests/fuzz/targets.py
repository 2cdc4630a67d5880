"""Targets for fuzzing. Each one reads bytes as one kind of input file and may raise only `InputError`.

Files are written to `FOLDER`.
"""

import atexit
import io
import itertools
import json
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bordure import settings

from pipeline_lib import imageio
from pipeline_lib.data import volumes
from pipeline_lib.kernels.blocks import blocks
from pipeline_lib.networks import modelfile
from pipeline_lib.networks.model import Model
from pipeline_lib.runtime.errors import InputError

MEMORY_GB = 0.05  # limit for one strip, tile, chunk or PNG file
BLOCKS = 4  # number of blocks of an image that are read
SCHEMA = settings.config_schema()
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)


def _read_blocks(path: str, channels: int) -> None:
    with imageio.open_images(path, channels=channels) as images:
        imageio.require_memory(path, images.info, MEMORY_GB)
        areas = itertools.product(range(len(images.numbers)), blocks(images.shape[2:], 512))
        for z, area in itertools.islice(areas, BLOCKS):
            region = images.read(z, *area.read)
            assert region.shape[1:] == tuple(part.stop - part.start for part in area.read)


def _image(name: str, dataset: str = "") -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        (FOLDER / name).write_bytes(data)
        path = f"{FOLDER / name}{dataset}"
        info = imageio.inspect(path)
        imageio.require_memory(path, info, MEMORY_GB)
        _read_blocks(path, info.channels)

    return read


def annotation(data: bytes) -> None:
    """Read an annotation, whose format, kind and other settings are chosen by the first byte."""
    name = ("a.tif", "a.png", "a.h5")[data[0] % 3]
    kind = imageio.ANNOTATION_KINDS[data[0] // 3 % 5]
    others = ({}, {"ignore": 0}, {"ignore": 255, "relabel": True}, {"masks": True})[data[0] // 15 % 4]
    classes = {"background": 0, "cell": 255, "border": [1, 2]} if kind == "classes" else None
    (FOLDER / name).write_bytes(data[1:])
    path = f"{FOLDER / name}{':/labels' if name == 'a.h5' else ''}"
    info = imageio.inspect(path)
    imageio.require_memory(path, info, MEMORY_GB)
    if info.height * info.width * info.sections > 2**22:  # all of it is read, so this limits time, not memory
        return
    with imageio.open_annotation(path, kind=kind, classes=classes, **others) as regions:
        array = regions.read(0, slice(None), slice(None))
        assert array.dtype.kind == "u" and array.dtype == regions.dtype
        assert not array[regions.read_ignore(0, slice(None), slice(None))].any()


def table(data: bytes) -> None:
    path = FOLDER / "volumes.tsv"
    path.write_bytes(data)
    rows = volumes.read_table(path, "data")
    assert all("/" not in row.volume and not row.volume.startswith(".") for row in rows)


def config(data: bytes) -> None:
    path = FOLDER / "my.yaml"
    path.write_bytes(data)
    complete = settings.complete(settings.read_config(path))
    assert json.dumps(complete, allow_nan=False)


def model(data: bytes) -> None:
    """Read a model. The first byte chooses: whole file, or pickle or description in a valid archive."""

    path = FOLDER / "model.pt"
    kind, data = data[0] % 3, data[1:]
    if kind:
        changed = ("archive/data.pkl", f"archive/{modelfile.NAME}")[kind - 1]
        data = _with_member(_valid_model(), changed, data)
    path.write_bytes(data)
    with suppress(InputError):
        assert isinstance(modelfile.describe(path), dict)
    Model.load(path)


def _valid_model(kept: list[bytes] = []) -> bytes:  # noqa: B006
    if not kept:
        from tests.fuzz.corpus import small_model

        kept.append(small_model(FOLDER))
    return kept[0]


def _with_member(archive: bytes, name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(out, "w") as target:
        for entry in source.infolist():
            target.writestr(entry, content if entry.filename == name else source.read(entry))
    return out.getvalue()


def with_checksums(data: bytes) -> bytes:
    """Return a PNG file with correct checksums of its chunks, so that their content is decoded."""
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        end = at + 8 + int.from_bytes(out[at : at + 4], "big")
        if end + 4 > len(out):
            break
        out[end : end + 4] = zlib.crc32(out[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(out)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "tiff": _image("a.tif"),
    "png": _image("a.png"),
    "hdf5": _image("a.h5", ":/raw"),
    "annotation": annotation,
    "table": table,
    "config": config,
    "model": model,
}


def _heap_is_valid(data: bytes) -> bool:
    """Return whether the heaps of strings in an HDF5 file are valid.

    For free space of length 0, the HDF5 library loops forever (H5HG__cache_heap_deserialize). The dry run
    survives that (`imageio.inspect_apart`). Fuzzing skips such files, in order to find other errors.
    """
    at = data.find(b"GCOL")
    while at >= 0:
        place, end = at + 16, at + int.from_bytes(data[at + 8 : at + 16], "little")
        while place + 16 <= min(end, len(data)):
            length = int.from_bytes(data[place + 8 : place + 16], "little")
            place += 16 - (-length // 8) * 8 if any(data[place : place + 2]) else length  # else free space
            if length == 0 or place > end:
                return False
        at = data.find(b"GCOL", at + 4)
    return True


def contained(target: str, data: bytes) -> bool:
    """Return whether the dry run reports an error for a file that crashes or hangs a decoder."""
    kind = {"tiff": 0, "png": 1, "hdf5": 2}.get(target, data[0] % 3)
    name, dataset = (("a.tif", ""), ("a.png", ""), ("a.h5", ":/raw" if target == "hdf5" else ":/labels"))[
        kind
    ]
    (FOLDER / name).write_bytes(data[1:] if target == "annotation" else data)
    try:
        list(imageio.inspect_apart([f"{FOLDER / name}{dataset}"], MEMORY_GB))
    except InputError:
        return True
    return False


def check(target: str, data: bytes) -> None:
    """Run one input. Any exception but `InputError` is raised, and is a finding."""
    if data and _heap_is_valid(data):
        with suppress(InputError):
            TARGETS[target](data)
