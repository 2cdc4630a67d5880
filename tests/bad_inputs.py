"""Malformed and hostile inputs, and what bordure says to each: the table tests/bad_inputs.md.

    python -m tests.bad_inputs

writes it anew. Each case is met as a run meets it: by the checks of the dry run and, where those find
nothing, by the stage that reads the file. tests/test_bad_inputs.py holds the table to the code.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import socket
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
import tifffile

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "workflow")]

from bordure import settings  # noqa: E402

from pipeline_lib import networks  # noqa: E402
from pipeline_lib.data import volumes  # noqa: E402
from pipeline_lib.networks import modelfile  # noqa: E402
from pipeline_lib.runtime.errors import InputError  # noqa: E402

DOCS = ROOT / "tests/bad_inputs.md"
HEADER = "volume\timages\tannotation\tsections\tsplit\n"
SOUND_ROWS = "learn\timages.tif\tlabels.tif\t0\ttrain\nchoose\timages.tif\tlabels.tif\t1\tvalidation\n"
CONFIG = "volumes: volumes.tsv\ndata_dir: .\nnetwork: {depth: 1, base_channels: 2}\ntraining: {tile: 44}\n"
DRY_RUN = "dry run"


@dataclass(frozen=True)
class Case:
    """`make` writes the input into the working folder, which holds a sound run, `my.yaml`."""

    group: str
    what: str
    make: Callable[[], None]
    user: int | None = None  # as whom it is met, where the tests run as root


CASES: list[Case] = []


def case(group: str, what: str, **more):
    def add(make):
        CASES.append(Case(group, what, make, **more))
        return make

    return add


# ----------------------------------------------------------------------------------------- meeting a case


def sound_run(dtype: type = np.uint8) -> None:
    """Images, labels, table and config of a run without faults, in the working folder."""
    stack = np.random.default_rng(0).integers(0, 120, (3, 32, 32)).astype(dtype)
    tifffile.imwrite("images.tif", stack, photometric="minisblack")
    tifffile.imwrite("labels.tif", np.repeat(cells()[None], 3, axis=0), photometric="minisblack")
    Path("volumes.tsv").write_text(HEADER + SOUND_ROWS)
    Path("my.yaml").write_text(CONFIG)


def dry_run() -> tuple[list[volumes.Volume], dict[str, Any]]:
    """What `snakemake -n --configfile my.yaml` checks (workflow/rules/common.smk); volumes and settings."""
    config = settings.complete(settings.read_config("my.yaml"))
    networks.plan(**config["network"]).require_tile(config["training"]["tile"], "training.tile")
    rows = volumes.read_table(config["volumes"], config.get("data_dir", "."))
    volumes.check_files(rows, config["dataset"]["channels"], config["memory_gb"])
    return rows, config


def meet(found: Case) -> tuple[str, str]:
    """Where the case is met, and the message, from within an empty working folder."""
    sound_run()
    found.make()
    where = DRY_RUN
    try:
        with as_user(found.user):
            rows, config = dry_run()
            if os.path.lexists("model.pt"):
                where = "prediction"
                _load("model.pt")
                where = "report"
                modelfile.describe("model.pt")
            else:
                where = "dataset"
                _build(rows[-1], config["dataset"])
    except InputError as error:
        left = [str(path) for path in Path("results").rglob("*") if path.is_file()]
        assert not left, f"{found.what}: left {left} half-written"
        return where, str(error)
    raise AssertionError(f"{found.what}: taken without a word")


def _build(volume: volumes.Volume, given: dict[str, Any]) -> None:
    from pipeline_lib.stages.dataset import build_dataset

    build_dataset(output=Path("results", f"{volume.volume}.h5"), **volume.source(), **given)


def _load(path: str) -> None:
    from pipeline_lib.networks.model import Model

    Model.load(path)


@contextlib.contextmanager
def as_user(user: int | None):
    """Root may read everything: for this once, be somebody else."""
    if user is not None and os.geteuid() == 0:
        os.seteuid(user)
    try:
        yield
    finally:
        if os.geteuid() != os.getuid():
            os.seteuid(os.getuid())


def meet_all() -> list[tuple[Case, str, str]]:
    """Every case with where it is met and its message."""
    answers = []
    for found in CASES:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            os.chmod(folder, 0o755)
            answers.append((found, *meet(found)))
    return answers


# ---------------------------------------------------------------------------------------- files to go wrong


def cells(size: int = 32) -> np.ndarray:
    """Square cells in a grid: membranes 0, cells 255."""
    y, x = np.mgrid[:size, :size]
    return np.where((y % 16 < 3) | (x % 16 < 3), 0, 255).astype(np.uint8)


def row(
    images: str = "images.tif", annotation: str = "", sections: str = "", split: str = "predict", name="bad"
):
    Path("volumes.tsv").write_text(
        f"{HEADER}{SOUND_ROWS}{name}\t{images}\t{annotation}\t{sections}\t{split}\n"
    )


def gray(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 120, shape).astype(dtype)


def image(name: str, content: bytes) -> None:
    Path(name).write_bytes(content)
    row(name)


def tiff(
    name: str = "a.tif",
    array: np.ndarray | None = None,
    change: Callable[[bytes], bytes] | None = None,
    **how,
):
    """A TIFF as images of the volume `bad`, its bytes changed."""
    tifffile.imwrite(
        name, gray(3, 32, 32) if array is None else array, **({"photometric": "minisblack"} | how)
    )
    content = Path(name).read_bytes()
    image(name, change(content) if change else content)


def with_tag(content: bytes, code: int, value: int, of_page: int = 0, kind: tuple = (4, 1)) -> bytes:
    """A little-endian TIFF with the value of one page's tag changed; `kind` is its type (LONG) and count."""
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        at = file.pages[of_page].tags[code].offset
    return content[: at + 2] + struct.pack("<HII", *kind, value) + content[at + 12 :]


def without_tag(content: bytes, code: int) -> bytes:
    """A little-endian TIFF whose first page has a tag of no meaning instead of that of `code`."""
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        at = file.pages[0].tags[code].offset
    return content[:at] + struct.pack("<H", 65000) + content[at + 2 :]


def with_next(content: bytes, of_page: int, offset: int) -> bytes:
    """A little-endian TIFF of which one page is followed by what lies at `offset`."""
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        at = file.pages[of_page].offset
    at += 2 + 12 * struct.unpack("<H", content[at : at + 2])[0]
    return content[:at] + struct.pack("<I", offset) + content[at + 4 :]


def png(array: np.ndarray | None = None) -> bytes:
    return imagecodecs.png_encode(gray(32, 32) if array is None else array)


def png_header(
    content: bytes, *, width: int | None = None, height: int | None = None, rest: bytes = b""
) -> bytes:
    """A PNG with another header, of right checksum."""
    old = struct.unpack(">II", content[16:24])
    header = struct.pack(">II", width or old[0], height or old[1]) + (rest or content[24:29])
    return content[:16] + header + zlib.crc32(b"IHDR" + header).to_bytes(4, "big") + content[33:]


@contextlib.contextmanager
def hdf5(dataset: str = "raw", name: str = "a.h5"):
    with h5py.File(name, "w") as file:
        yield file
    row(f"{name}:/{dataset}")


def annotation(array: np.ndarray, kind: str = "auto", **how) -> None:
    """An annotation of the volume `bad`, all sections."""
    tifffile.imwrite("a.tif", array, **({"photometric": "minisblack"} | how))
    row(annotation="a.tif", sections="2", split="test")
    if kind != "auto":
        config(f"dataset: {{annotation_kind: {kind}}}\n")


def table(content: str | bytes) -> None:
    Path("volumes.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())


def config(more: str, sound: str = CONFIG) -> None:
    Path("my.yaml").write_text(sound + more)


def model(**changes) -> None:
    """A sound model but for `changes` of what it holds."""
    import torch

    from pipeline_lib.networks.model import write_tensors

    write_model()
    content = torch.load("model.pt", weights_only=True) | changes
    write_tensors("model.pt", content, {key: content[key] for key in modelfile.KEYS if key in content})


def write_model() -> None:
    from pipeline_lib.data.normalisation import Normalisation
    from pipeline_lib.networks.model import Model

    arguments = {"input_channels": 1, "depth": 1, "base_channels": 2}
    normalisation = Normalisation("mean_std", "uint8", np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    plan = networks.plan("unet", **arguments)
    Model(plan, plan.build(), normalisation).save("model.pt")


def rezip(change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """`model.pt` with the files inside changed."""
    write_model()
    with zipfile.ZipFile("model.pt") as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile("model.pt", "w", compression) as target:
        for name, content in members.items():
            target.writestr(name, change(name, content))


class Harm:
    """A pickle that would create a file."""

    def __reduce__(self):
        return (open, ("harmed", "w"))


# --------------------------------------------------------------------------------------------------- TIFF

TIFF, PNG, HDF5, ANNOTATIONS, TABLES, CONFIGS, MODELS = (
    "Images: TIFF",
    "Images: PNG, folders and what is no file",
    "Images: HDF5",
    "Annotations",
    "Tables of volumes",
    "Configs",
    "Models",
)


def simple(group: str, what: str, **more):
    """A case of one call: `simple(group, what)(function, arguments ...)`."""

    def add(function, *arguments, **settings):
        CASES.append(Case(group, what, lambda: function(*arguments, **settings), **more))

    return add


simple(TIFF, "not there")(row, "imagse.tif")
simple(TIFF, "of 0 bytes")(image, "a.tif", b"")
simple(TIFF, "a text, named .tif")(image, "a.tif", b"These are no images.\n")
simple(TIFF, "a PNG, named .tif")(image, "a.tif", png())
simple(TIFF, "a JPEG, with its right name")(image, "a.jpg", imagecodecs.jpeg8_encode(gray(32, 32)))
simple(TIFF, "cut within its header")(tiff, change=lambda content: content[:6])
simple(TIFF, "cut within the tables of its first page")(tiff, change=lambda content: content[:30])
simple(TIFF, "cut within its pixels")(tiff, change=lambda content: content[:-100])
simple(TIFF, "compressed, cut within its last strip")(
    tiff, array=gray(32, 32), compression="zlib", metadata=None, change=lambda content: content[:-100]
)
simple(TIFF, "a page's strips said to lie beyond the end")(
    tiff, metadata=None, change=lambda content: with_tag(content, 273, 2**31)
)
simple(TIFF, "a page's tables lie beyond the end")(
    tiff, metadata=None, change=lambda content: with_next(content, 0, 2**30)
)
simple(TIFF, "its chain of pages runs in a circle")(
    tiff, metadata=None, change=lambda content: with_next(content, 1, 8)
)
simple(TIFF, "a page's tables reach beyond the end, where the last bytes name a page")(
    tiff,
    metadata=None,
    change=lambda content: content[:8] + struct.pack("<H", 4000) + content[10:-4] + struct.pack("<I", 8),
)
simple(TIFF, "no page at all")(image, "a.tif", b"II*\0\0\0\0\0")
simple(TIFF, "strips of 0 rows")(
    tiff,
    array=gray(32, 32),
    compression="zlib",
    metadata=None,
    change=lambda content: with_tag(content, 278, 0),
)
simple(TIFF, "without a height, and with bytes for the rows of a strip: 4 of them, 2,147,483,648 times")(
    tiff,
    array=gray(32, 32),
    compression="zlib",
    metadata=None,
    change=lambda content: with_tag(with_tag(without_tag(content, 257), 256, 2**31), 278, 32, kind=(1, 4)),
)
simple(TIFF, "fewer strips than its height needs")(
    tiff,
    array=gray(32, 32),
    compression="zlib",
    metadata=None,
    change=lambda content: with_tag(content, 278, 1),
)
simple(TIFF, "a kilobyte that claims 2,147,483,648 x 2,147,483,648 px")(
    tiff,
    array=gray(32, 32),
    compression="zlib",
    metadata=None,
    change=lambda content: with_tag(with_tag(with_tag(content, 256, 2**31), 257, 2**31), 278, 2**31),
)
simple(TIFF, "a strip of zeros that unpacks to 8 GB")(
    tiff,
    array=gray(32, 32),
    compression="zlib",
    metadata=None,
    rowsperstrip=32,
    change=lambda content: (
        with_tag(with_tag(with_tag(content, 256, 90_000), 257, 90_000), 278, 90_000) + bytes(2**21)
    ),
)
simple(TIFF, "a damaged strip")(
    tiff,
    array=gray(32, 32),
    compression="zlib",
    metadata=None,
    change=lambda content: content[:-400] + bytes(400),
)


@case(TIFF, "a strip that unpacks to more than its size: a deflate bomb")
def _():
    bomb = zlib.compress(bytes(10**8), 9)

    def change(content: bytes) -> bytes:
        return with_tag(with_tag(content, 273, len(content)), 279, len(bomb)) + bomb

    tiff(array=gray(32, 32), compression="zlib", metadata=None, change=change)


@case(TIFF, "a tile that holds a JPEG 2000 of 3,000 x 3,000 px: a bomb")
def _():
    bomb = imagecodecs.jpeg2k_encode(np.zeros((3000, 3000), np.uint8))

    def change(content: bytes) -> bytes:
        return with_tag(with_tag(content, 324, len(content)), 325, len(bomb)) + bomb

    tiff(array=gray(32, 32), compression="jpeg2000", tile=(32, 32), metadata=None, change=change)


simple(TIFF, "compressed with WebP, whose size is not known beforehand")(
    tiff, array=gray(32, 32, 3), photometric="rgb", compression="webp"
)

simple(TIFF, "compressed with JPEG XR, whose decoder crashes on damaged images")(
    tiff, array=gray(32, 32), compression="jpegxr", metadata=None
)


@case(TIFF, "images of two sizes")
def _():
    with tifffile.TiffWriter("a.tif") as writer:
        writer.write(gray(32, 32))
        writer.write(gray(16, 16))
    row("a.tif")


@case(TIFF, "images of two types")
def _():
    with tifffile.TiffWriter("a.tif") as writer:
        writer.write(gray(32, 32))
        writer.write(gray(32, 32, dtype=np.uint16))
    row("a.tif")


simple(TIFF, "three channels (RGB)")(tiff, array=gray(32, 32, 3), photometric="rgb")
simple(TIFF, "RGB whose channels are equal")(
    tiff, array=np.repeat(gray(32, 32, 1), 3, axis=2), photometric="rgb"
)
simple(TIFF, "four inks (CMYK)")(tiff, array=gray(32, 32, 4), photometric="separated")
simple(TIFF, "a stack over time and depth")(
    tiff, array=gray(2, 3, 32, 32), imagej=True, metadata={"axes": "TZYX"}
)


@case(TIFF, "of another type than the other images")
def _():
    tiff(array=gray(3, 32, 32, dtype=np.uint16))


def floats(value: float) -> None:
    sound_run(np.float32)
    stack = gray(3, 32, 32, dtype=np.float32)
    stack[1, 5, 7] = value
    tiff(array=stack)


simple(TIFF, "NaN among its values")(floats, np.nan)
simple(TIFF, "infinity among its values")(floats, np.inf)


@case(TIFF, "complex numbers")
def _():
    tiff(array=gray(3, 32, 32).astype(np.complex64))


def ome(planes: str) -> None:
    xml = (
        '<OME UUID="urn:uuid:1"><Image><Pixels DimensionOrder="XYZCT" Type="uint8" SizeX="32" SizeY="32" '
        f'SizeZ="3" SizeC="1" SizeT="1"><Channel SamplesPerPixel="1"/>{planes}</Pixels></Image></OME>'
    )
    tiff(name="a.ome.tif", description=xml, metadata=None)


simple(TIFF, "an OME set that names a file in another folder")(
    ome, '<TiffData IFD="0" FirstZ="0"><UUID FileName="/dev/zero">urn:uuid:2</UUID></TiffData>'
)
simple(TIFF, "an OME set of which a file is missing")(
    ome, '<TiffData IFD="0" FirstZ="0"><UUID FileName="b.ome.tif">urn:uuid:2</UUID></TiffData>'
)
simple(TIFF, "OME metadata that are no XML")(
    tiff, name="a.ome.tif", description="<OME><Image></OME>", metadata=None
)

# ----------------------------------------------------------------- PNG, folders, and what is no file

simple(PNG, "PNG, cut within its pixels")(image, "a.png", png()[:-60])
simple(PNG, "PNG, cut within its header")(image, "a.png", png()[:20])
simple(PNG, "a TIFF, named .png")(image, "a.png", b"II*\0" + bytes(100))
simple(PNG, "PNG with a damaged header")(image, "a.png", png()[:20] + b"\1" + png()[21:])
simple(PNG, "PNG with damaged pixels")(image, "a.png", png()[:100] + bytes(8) + png()[108:])
simple(PNG, "a kilobyte that claims 100,000 x 100,000 px")(
    image, "a.png", png_header(png(), width=100_000, height=100_000)
)
simple(PNG, "a bomb: 8 GB of zeros in 8 MB")(
    image,
    "a.png",
    png_header(png(), width=90_000, height=90_000)[:33]
    + struct.pack(">I", 2**23)
    + b"IDAT"
    + bytes(2**23 + 4)
    + png()[-12:],
)
simple(PNG, "PNG of indexed colours")(image, "a.png", png_header(png(), rest=b"\x08\x03\0\0\0"))
simple(PNG, "PNG with transparency")(image, "a.png", png(gray(32, 32, 2)))
simple(PNG, "PNG of an unknown colour type")(image, "a.png", png_header(png(), rest=b"\x08\x05\0\0\0"))


def folder(names: list[str], shape: tuple[int, ...] = (32, 32)) -> None:
    Path("slices").mkdir()
    for name in names:
        if name.endswith(".tif"):
            tifffile.imwrite(f"slices/{name}", gray(*shape), photometric="minisblack")
        else:
            Path("slices", name).write_bytes(png(gray(*shape)))
    row("slices")


simple(PNG, "an empty folder")(folder, [])
simple(PNG, "a folder without images")(folder, ["notes.txt"])
simple(PNG, "a folder of PNG and TIFF")(folder, ["s1.png", "s2.tif"])
simple(PNG, "a folder in which a number appears twice")(folder, ["s1.png", "s01.png", "s2.png"])
simple(PNG, "a folder of files with several sections")(folder, ["s1.tif", "s2.tif"], (2, 32, 32))


@case(PNG, "a folder of slices of two sizes")
def _():
    folder(["s1.png", "s2.png"])
    Path("slices/s2.png").write_bytes(png(gray(16, 32)))


@case(PNG, "a folder in which a slice is broken")
def _():
    folder(["s1.png", "s2.png"])
    Path("slices/s2.png").write_bytes(b"broken")


@case(PNG, "a folder within the folder of slices")
def _():
    folder(["s1.png", "s2.png"])
    Path("slices/s3.png").mkdir()


@case(PNG, "a named pipe")
def _():
    os.mkfifo("a.tif")
    row("a.tif")


@case(PNG, "a device that never ends")
def _():
    os.symlink("/dev/zero", "a.tif")
    row("a.tif")


@case(PNG, "a socket")
def _():
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("a.tif")
    row("a.tif")


@case(PNG, "a link to itself")
def _():
    os.symlink("a.tif", "a.tif")
    row("a.tif")


@case(PNG, "a link to what is gone")
def _():
    os.symlink("gone.tif", "a.tif")
    row("a.tif")


@case(PNG, "a file that may not be read", user=65534)
def _():
    tiff()
    os.chmod("a.tif", 0)


simple(PNG, "a name of 5,000 characters")(row, f"{'a' * 5000}.tif")

# --------------------------------------------------------------------------------------------------- HDF5

simple(HDF5, "a text, named .h5")(lambda: (image("a.h5", b"text"), row("a.h5:/raw")))


@case(HDF5, "no dataset named")
def _():
    with hdf5() as file:
        file["raw"] = gray(3, 32, 32)
    row("a.h5")


@case(HDF5, "a dataset that is not there")
def _():
    with hdf5("row") as file:
        file["raw"] = gray(3, 32, 32)


@case(HDF5, "a group in place of a dataset")
def _():
    with hdf5("volumes") as file:
        file["volumes/raw"] = gray(3, 32, 32)


@case(HDF5, "one dimension")
def _():
    with hdf5() as file:
        file["raw"] = gray(32)


@case(HDF5, "five dimensions")
def _():
    with hdf5() as file:
        file["raw"] = gray(1, 2, 2, 32, 32)


@case(HDF5, "a single number")
def _():
    with hdf5() as file:
        file["raw"] = 5


@case(HDF5, "a dataset without shape")
def _():
    with hdf5() as file:
        file["raw"] = h5py.Empty("u1")


@case(HDF5, "sections without pixels")
def _():
    with hdf5() as file:
        file["raw"] = np.zeros((3, 0, 32), np.uint8)


@case(HDF5, "text in place of gray levels")
def _():
    with hdf5() as file:
        file["raw"] = np.full((3, 32, 32), b"a")


@case(HDF5, "objects in place of gray levels")
def _():
    with hdf5() as file:
        file.create_dataset("raw", (3, 32, 32), h5py.string_dtype())[0, 0, 0] = "a"


@case(HDF5, "records in place of gray levels")
def _():
    with hdf5() as file:
        file["raw"] = np.zeros((3, 32, 32), [("x", "u1"), ("y", "u1")])


@case(HDF5, "a link to another file")
def _():
    with hdf5(name="b.h5") as file:
        file["raw"] = gray(3, 32, 32)
    with hdf5() as file:
        file["raw"] = h5py.ExternalLink("b.h5", "/raw")


@case(HDF5, "a link to nothing")
def _():
    with hdf5() as file:
        file["raw"] = h5py.SoftLink("/gone")


@case(HDF5, "a virtual dataset whose source is missing")
def _():
    with hdf5() as file:
        shown = h5py.VirtualLayout((3, 32, 32), np.uint8)
        shown[:] = h5py.VirtualSource("gone.h5", "raw", (3, 32, 32))
        file.create_virtual_dataset("raw", shown)


@case(HDF5, "data in another file that is missing")
def _():
    with hdf5() as file:
        file.create_dataset("raw", (3, 32, 32), np.uint8, external=[("gone.raw", 0, 3 * 32 * 32)])
    Path("gone.raw").unlink(missing_ok=True)


@case(HDF5, "nothing ever written into it")
def _():
    with hdf5() as file:
        file.create_dataset("raw", (3, 32, 32), np.uint8, chunks=(1, 32, 32))


@case(HDF5, "a chunk of 12 GB")
def _():
    with hdf5() as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((1, 50_000, 60_000))
        plist.set_deflate(1)
        space = h5py.h5s.create_simple((1, 50_000, 60_000))
        dataset = h5py.h5d.create(file.id, b"raw", h5py.h5t.NATIVE_UINT8, space, plist)
        dataset.write_direct_chunk((0, 0, 0), zlib.compress(bytes(10**7)))
    config("memory_gb: 4\n")


@case(HDF5, "a chunk of 3 kB that unpacks to 2 GB: a bomb")
def _():
    packer = zlib.compressobj(9)
    start, block = (packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    bomb = start + 127 * block + packer.flush()
    with hdf5() as file:
        dataset = file.create_dataset("raw", (3, 32, 32), np.uint8, chunks=(3, 32, 32), compression="gzip")
        dataset.id.write_direct_chunk((0, 0, 0), bomb)


@case(HDF5, "a million million pixels and one chunk")
def _():
    with hdf5() as file:
        file.create_dataset("raw", (1, 2**30, 2**30), np.uint8, chunks=(1, 32, 32))[0, :32, :32] = 1


@case(HDF5, "packed with a filter that is not installed")
def _():
    with hdf5() as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((3, 32, 32))
        plist.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (0,))
        space = h5py.h5s.create_simple((3, 32, 32))
        h5py.h5d.create(file.id, b"raw", h5py.h5t.NATIVE_UINT8, space, plist).write_direct_chunk(
            (0, 0, 0), bytes(3072)
        )


@case(HDF5, "cut off")
def _():
    with hdf5() as file:
        file["raw"] = gray(3, 32, 32)
    content = Path("a.h5").read_bytes()
    Path("a.h5").write_bytes(content[: len(content) // 2])


@case(HDF5, "a damaged chunk")
def _():
    with hdf5() as file:
        file.create_dataset(
            "raw", data=gray(3, 32, 32), compression="gzip", fletcher32=True, chunks=(3, 32, 32)
        )
        at = file["raw"].id.get_chunk_info(0).byte_offset
    content = Path("a.h5").read_bytes()
    Path("a.h5").write_bytes(content[: at + 50] + b"\0\1\2\3" + content[at + 54 :])


@case(HDF5, "a folder, named .h5")
def _():
    Path("a.h5").mkdir()
    row("a.h5:/raw")


# -------------------------------------------------------------------------------------------- annotations

stack3 = lambda array: np.repeat(np.asarray(array)[None], 3, axis=0)  # noqa: E731
simple(ANNOTATIONS, "gray levels")(annotation, gray(3, 32, 32))


@case(ANNOTATIONS, "smoothed membranes")
def _():
    smooth = cells().astype(float)
    for axis in (0, 1):
        smooth = (np.roll(smooth, 1, axis) + 2 * smooth + np.roll(smooth, -1, axis)) / 4
    annotation(stack3(smooth.astype(np.uint8)))


simple(ANNOTATIONS, "another size than its images")(annotation, gray(3, 32, 31))
simple(ANNOTATIONS, "fewer sections than its images")(annotation, gray(2, 32, 32))
simple(ANNOTATIONS, "fractions")(annotation, stack3(cells() / np.float32(2)))
simple(ANNOTATIONS, "NaN")(annotation, stack3(np.where(cells() > 0, np.float32(np.nan), np.float32(0))))
simple(ANNOTATIONS, "negative labels")(annotation, stack3(cells().astype(np.int16) - 255))
simple(ANNOTATIONS, "labels of 2**32 and more")(annotation, stack3(cells().astype(np.uint64) * 2**40))
simple(ANNOTATIONS, "all background")(annotation, np.zeros((3, 32, 32), np.uint8))
simple(ANNOTATIONS, "all one cell")(annotation, np.full((3, 32, 32), 255, np.uint8))
simple(ANNOTATIONS, "RGB")(annotation, gray(3, 32, 32, 3), photometric="rgb")
simple(ANNOTATIONS, "two values, none of them 0")(annotation, stack3(cells() // 255 + 1))
simple(ANNOTATIONS, "labels where membranes are said")(
    annotation, stack3((np.arange(32) // 8 * np.ones((32, 1))).astype(np.uint8)), "black_membranes"
)


@case(ANNOTATIONS, "three classes in place of cells")
def _():
    sound_run()
    wide = np.where(cells(256) == 0, 0, np.where(np.arange(256) < 128, 1, 2)).astype(np.uint8)
    tifffile.imwrite("images.tif", gray(3, 256, 256), photometric="minisblack")
    tifffile.imwrite("labels.tif", stack3(cells(256)), photometric="minisblack")
    annotation(stack3(wide))


@case(ANNOTATIONS, "a label for each pixel: noise of 32 bits")
def _():
    noise = np.random.default_rng(0).integers(0, 2**32, (3, 32, 32), dtype=np.uint32)
    annotation(noise, "instances")


# ------------------------------------------------------------------------------------------------- tables

simple(TABLES, "not there")(lambda: Path("volumes.tsv").unlink())
simple(TABLES, "empty")(table, "")
simple(TABLES, "a header alone")(table, HEADER)
simple(TABLES, "a folder in its place")(lambda: (Path("volumes.tsv").unlink(), Path("volumes.tsv").mkdir()))
simple(TABLES, "a named pipe in its place")(lambda: (Path("volumes.tsv").unlink(), os.mkfifo("volumes.tsv")))
simple(TABLES, "larger than any table")(lambda: os.truncate("volumes.tsv", 2**30))
simple(TABLES, "separated by commas")(table, (HEADER + SOUND_ROWS).replace("\t", ","))
simple(TABLES, "separated by spaces")(table, (HEADER + SOUND_ROWS).replace("\t", "  "))


@case(TABLES, "a workbook of Excel, named .tsv")
def _():
    with zipfile.ZipFile("volumes.tsv", "w") as workbook:
        workbook.writestr(zipfile.ZipInfo("xl/worksheets/sheet1.xml"), np.random.default_rng(0).bytes(300))


simple(TABLES, "in Latin-1")(table, (HEADER + SOUND_ROWS).replace("images", "bildér").encode("latin-1"))
simple(TABLES, "UTF-16 cut within a character")(table, (HEADER + SOUND_ROWS).encode("utf-16")[:-1])
simple(TABLES, "a column missing")(
    table, (HEADER + SOUND_ROWS).replace("images\t", "").replace("images.tif\t", "")
)
simple(TABLES, "an unknown column")(table, (HEADER + SOUND_ROWS).replace("sections", "section"))
simple(TABLES, "a column twice")(table, (HEADER + SOUND_ROWS).replace("annotation\t", "images\t", 1))
simple(TABLES, "a cell too many")(table, HEADER + SOUND_ROWS.replace("train\n", "train\tx\n"))
simple(TABLES, "a volume twice")(
    lambda: row(split="test", annotation="labels.tif", sections="2", name="Learn")
)
for what, name in {
    "a name that leads elsewhere (`..`)": "..",
    "a name with a slash": "../../etc/passwd",
    "a name with a space": "a b",
    "a name not in ASCII": "zelle_ä",
    "a name that Windows keeps for itself": "con",
    "a name of 300 characters": "a" * 300,
    "a name that begins with a dash": "-rf",
    "a name that begins with a dot": ".a",
    "a name that ends with a dot": "a.",
    "a wildcard as name": "*",
    "braces in a name": "{volume}",
    "a command in a name": "a;rm -rf x",
    "a name in quotes within": "a'b",
    "no name": "",
}.items():
    simple(TABLES, what)(row, name=name)
simple(TABLES, "a quote without its partner")(lambda: row(name='"bad'))
simple(TABLES, "NUL in a path")(row, "a\0b.tif")
simple(TABLES, "braces in a path")(row, "{volume}.tif")
simple(TABLES, "a cell of 200,000 characters")(row, "a" * 200_000)
simple(TABLES, "no images")(row, "")
simple(TABLES, "an unknown split")(row, split="tset")
simple(TABLES, "no annotation to learn from")(row, split="train")
simple(TABLES, "no volume to train on")(table, HEADER + SOUND_ROWS.replace("train", "test"))
simple(TABLES, "no volume to validate on")(table, HEADER + SOUND_ROWS.replace("validation", "test"))
for what, sections in {
    "sections that there are not": "2-9",
    "sections backwards": "2-1",
    "sections twice": "1-2,2",
    "sections that a spreadsheet made a date": "02. Jan",
    "negative sections": "-3",
    "a thousand million sections": "0-999999999",
}.items():
    simple(TABLES, what)(row, sections=sections)
simple(TABLES, "sections both trained on and tested")(
    row, annotation="labels.tif", sections="0,2", split="test"
)
simple(TABLES, "the same, the file under another name")(
    lambda: (os.symlink("images.tif", "other.tif"), row("other.tif", "labels.tif", "0", "test"))
)
simple(TABLES, "the same, through a hard link")(
    lambda: (os.link("images.tif", "other.tif"), row("other.tif", "labels.tif", "0", "test"))
)


@case(TABLES, "the same, a dataset of HDF5 written in two ways")
def _():
    with hdf5() as file:
        file["raw"] = gray(3, 32, 32)
    rows = SOUND_ROWS.replace("images.tif\tlabels.tif\t0", "a.h5:/raw\tlabels.tif\t0")
    table(f"{HEADER}{rows}bad\ta.h5:raw\tlabels.tif\t0\ttest\n")


# ------------------------------------------------------------------------------------------------ configs

simple(CONFIGS, "not there")(lambda: Path("my.yaml").unlink())
simple(CONFIGS, "a folder in its place")(lambda: (Path("my.yaml").unlink(), Path("my.yaml").mkdir()))
simple(CONFIGS, "empty")(config, "", "")
simple(CONFIGS, "larger than any config")(lambda: os.truncate("my.yaml", 2**30))
simple(CONFIGS, "not a text")(lambda: Path("my.yaml").write_bytes(b"\x89PNG\xff\xfe\0"))
simple(CONFIGS, "a list at its top")(config, "- volumes\n- data_dir\n", "")
simple(CONFIGS, "one word at its top")(config, "volumes", "")
simple(CONFIGS, "indented by a tab")(config, "prediction:\n\ttile: auto\n")
simple(CONFIGS, "a bracket without its partner")(config, "report: {title: [a}\n")
simple(CONFIGS, "a key twice")(config, "seed: 1\nseed: 2\n")
simple(CONFIGS, "a key twice within a section")(config, "report: {title: a, title: b}\n")
simple(CONFIGS, "a key twice, in JSON")(config, '{"volumes": "volumes.tsv", "seed": 1, "seed": 2}', "")
simple(CONFIGS, "an object of Python")(config, 'report: !!python/object/apply:os.system ["touch harmed"]\n')
simple(CONFIGS, "expressions of Python (YTE)")(config, "__use_yte__: true\n")
simple(CONFIGS, "nested 3,000 deep")(config, f"report: {'[' * 3000}{']' * 3000}\n")
simple(CONFIGS, "an alias within itself")(config, "report: &a {title: *a}\n")
simple(CONFIGS, "aliases that stand for 10,000,000,000 values")(
    config,
    "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 11)),
)
simple(CONFIGS, "an unknown key")(config, "trainning: {}\n")
simple(CONFIGS, "an unknown key in a section")(config, "weight_map: {sigm: 3}\n")
simple(CONFIGS, "a key that is a list")(config, "? [a, b]\n: c\n")
simple(CONFIGS, "no table of volumes")(config, "seed: 1\n", "")
simple(CONFIGS, "a number as name of the table")(config, "volumes: 5\n", "")
simple(CONFIGS, "text in place of a number")(config, "seed: many\n")
simple(CONFIGS, "a fraction in place of a whole number")(config, "block: 128.5\n")
simple(CONFIGS, "a number out of range")(config, "seed: -1\n")
simple(CONFIGS, "NaN")(config, "weight_map: {sigma: .nan}\n")
simple(CONFIGS, "infinity")(config, "weight_map: {w0: .inf}\n")
simple(CONFIGS, "an integer of 5,000 digits")(config, f"seed: {'9' * 5000}\n")
simple(CONFIGS, "a border wider than any")(config, "dataset: {separation_border_width: 1000000}\n")
simple(CONFIGS, "a list in place of a section")(config, "report: [a]\n")
simple(CONFIGS, "an unknown choice")(config, "normalisation: median\n")
simple(CONFIGS, "a tile that the network cannot take")(config, "", CONFIG.replace("tile: 44", "tile: 45"))
simple(CONFIGS, "a table that is not there")(config, "", CONFIG.replace("volumes.tsv", "none.tsv"))
simple(CONFIGS, "NUL in a path")(config, 'results: "a\\0b"\n')
simple(CONFIGS, "braces in the results folder")(config, 'results: "{volume}"\n')

# ------------------------------------------------------------------------------------------------- models

simple(MODELS, "a text")(lambda: Path("model.pt").write_text("no model"))
simple(MODELS, "of 0 bytes")(lambda: Path("model.pt").write_bytes(b""))
simple(MODELS, "a folder in its place")(lambda: Path("model.pt").mkdir())
simple(MODELS, "a named pipe in its place")(lambda: os.mkfifo("model.pt"))
simple(MODELS, "cut in half")(
    lambda: (write_model(), os.truncate("model.pt", Path("model.pt").stat().st_size // 2))
)
simple(MODELS, "a pickle that would run code")(lambda: Path("model.pt").write_bytes(pickle.dumps(Harm())))
simple(MODELS, "an archive of torch whose pickle would run code")(
    rezip, lambda name, content: pickle.dumps(Harm(), 2) if name.endswith("data.pkl") else content
)
simple(MODELS, "no archive of torch")(rezip, lambda name, content: b"")
simple(MODELS, "a compressed archive: a ZIP bomb")(
    rezip, lambda name, content: bytes(10**7) if name.endswith("/data/0") else content, zipfile.ZIP_DEFLATED
)
simple(MODELS, "one flipped byte")(lambda: (write_model(), flip("model.pt")))


def flip(name: str) -> None:
    content = bytearray(Path(name).read_bytes())
    with zipfile.ZipFile(name) as archive:
        at = archive.getinfo(next(n for n in archive.namelist() if n.endswith("/data/0"))).header_offset
    name_length, extra = struct.unpack("<HH", content[at + 26 : at + 30])
    content[at + 30 + name_length + extra] ^= 1
    Path(name).write_bytes(content)


@case(MODELS, "tensors of torch, but no model")
def _():
    import torch

    torch.save({"a": torch.zeros(3)}, "model.pt")


@case(MODELS, "a tensor longer than its file")
def _():
    def change(name: str, content: bytes) -> bytes:
        return content.replace(b"K\x12", b"J\xff\xff\xff\x7f") if name.endswith("data.pkl") else content

    rezip(change)


simple(MODELS, "of a later format")(lambda: model(format_version=99))
simple(MODELS, "another network")(lambda: model(name="vnet"))
simple(MODELS, "an argument that the network does not take")(lambda: model(arguments={"width": 3}))
simple(MODELS, "a depth of a million")(lambda: model(arguments={"depth": 10**6}))
simple(MODELS, "a million channels")(lambda: model(arguments={"depth": 1, "base_channels": 10**6}))
simple(MODELS, "text in place of arguments")(lambda: model(arguments="depth"))
simple(MODELS, "no arguments")(lambda: model(arguments=None))
simple(MODELS, "another depth than its parameters")(
    lambda: model(arguments={"input_channels": 1, "depth": 2, "base_channels": 2})
)
simple(MODELS, "no normalisation")(lambda: model(normalisation={}))


def parameters(change: Callable) -> None:
    import torch

    write_model()
    state = torch.load("model.pt", weights_only=True)["state_dict"]
    model(state_dict={name: change(tensor) for name, tensor in state.items()})


simple(MODELS, "NaN among its parameters")(lambda: parameters(lambda tensor: tensor * np.nan))
simple(MODELS, "parameters of whole numbers")(lambda: parameters(lambda tensor: tensor.int()))


def description(content: bytes) -> None:
    rezip(lambda name, old: content if name.endswith(modelfile.NAME) else old)


simple(MODELS, "a description nested 100,000 deep")(description, b"[" * 100_000)
simple(MODELS, "a description that lacks all")(description, b"{}")
simple(MODELS, "a description that is no JSON")(description, b"{'name': 'unet'}")
simple(MODELS, "a description of 300 MB in 300 kB")(
    rezip,
    lambda name, old: bytes(300_000_000) if name.endswith(modelfile.NAME) else old,
    zipfile.ZIP_DEFLATED,
)


# --------------------------------------------------------------------------------------------------- docs


NOTES = {
    CONFIGS: (
        "",
        "Snakemake reads a config before bordure does: of one that is no YAML it speaks first, in its own "
        "words. And one with `__use_yte__: true` is a program that Snakemake runs on reading it: look into a "
        "config from elsewhere before you run it.",
    )
}


def markdown(answers: list[tuple[Case, str, str]]) -> str:
    """The page tests/bad_inputs.md."""
    met_early = sum(where == DRY_RUN for _, where, _ in answers)
    lines = [
        "# What is said to malformed and hostile input",
        "",
        f"{len(answers)} inputs, each made and met by `python -m tests.bad_inputs`, which writes this page, "
        f"and by tests/test_bad_inputs.py, which holds it to the code. {met_early} are met by the dry run "
        "(`snakemake -n`), before anything is computed, the others by the stage that reads the file; none "
        "leaves an output behind. Messages are shown as they end the run, after `error: `; what stands in "
        "brackets with the name of an exception is said by a library, as of the versions in the lock file.",
    ]
    group = None
    for found, where, message in answers:
        if found.group != group:
            group = found.group
            lines += ["", f"## {group}", *NOTES.get(group, ())]
            lines += ["", "| input | met by | message |", "| --- | --- | --- |"]
        lines.append(line(found, where, message))
    return "\n".join(lines) + "\n"


def line(found: Case, where: str, message: str) -> str:
    """The row of one case."""
    return f"| {_cell(found.what)} | {where} | {_cell(_shortened(message))} |"


def _shortened(message: str) -> str:
    """Without the middle of names that go on and on."""
    return message if len(message) < 900 else f"{message[:300]} [...] {message[-300:]}"


def _cell(text: str) -> str:
    text = text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


if __name__ == "__main__":
    DOCS.write_text(markdown(meet_all()))
    print(f"{len(CASES)} cases in {DOCS}")
