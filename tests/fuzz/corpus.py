"""Initial inputs for fuzzing: small valid files of every format, and some invalid ones."""

import io
import tempfile
from pathlib import Path

import h5py
import imagecodecs
import numpy as np
import tifffile
from image_files import WRITERS, drawn_cells, gray, imagej, instances, ome, one_page_with_depth
from PIL import Image

from tests.fuzz import ROOT


def small_model(folder: Path) -> bytes:
    """Return the bytes of a model file of a U-Net with few parameters."""
    from pipeline_lib import networks
    from pipeline_lib.data.normalisation import Normalisation
    from pipeline_lib.networks.model import Model

    arguments = {"input_channels": 1, "depth": 1, "base_channels": 2}
    normalisation = Normalisation("mean_std", "uint8", np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    path = folder / "valid.pt"
    plan = networks.plan("unet", **arguments)
    Model(plan, plan.build(), normalisation).save(path)
    return path.read_bytes()


def tiffs(folder: Path):
    for write in (*WRITERS, imagej, ome, one_page_with_depth):
        path = write(folder, gray((2, 6, 8)))
        if ".tif" in str(path).lower() and Path(path).is_file():
            yield Path(path).read_bytes()
    for compression in ("zlib", "lzw", "packbits", "zstd", "lzma", "jpeg", "jpeg2000", "png"):
        tifffile.imwrite(folder / "c.tif", gray((16, 16)), compression=compression, tile=(16, 16))
        yield (folder / "c.tif").read_bytes()
    for array in (gray((2, 5, 6), np.float32), gray((5, 6, 3)), gray((5, 6, 4)), gray((5, 6)) > 50):
        tifffile.imwrite(folder / "c.tif", array)
        yield (folder / "c.tif").read_bytes()
    colours = {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}
    for options in ({"photometric": "miniswhite"}, colours, {"extratags": [(274, 3, 1, 6, False)]}):
        tifffile.imwrite(folder / "c.tif", gray((5, 6)), **options)
        yield (folder / "c.tif").read_bytes()


def pngs():
    for array in (gray((5, 6)), gray((5, 6), np.uint16), gray((5, 6, 3)), gray((5, 6, 2)), gray((5, 6, 4))):
        yield imagecodecs.png_encode(array)
    for mode, options in (("P", {}), ("P", {"transparency": 0}), ("L", {"transparency": 3}), ("1", {})):
        buffer = io.BytesIO()
        Image.fromarray(gray((5, 6))).convert(mode).save(buffer, "png", **options)
        yield buffer.getvalue()


def hdf5s(name: str, arrays):
    for array in arrays:
        for options in ({}, {"chunks": True, "compression": "gzip", "shuffle": True}, {"chunks": True}):
            for version in ("earliest", "latest"):
                buffer = io.BytesIO()
                with h5py.File(buffer, "w", libver=version) as file:
                    dataset = file.create_dataset(name, data=array, **options)
                    dataset.attrs["axes"] = "zyx"[-array.ndim :]
                    for dimension, label in zip(dataset.dims, "zyx"[-array.ndim :], strict=True):
                        dimension.label = label
                yield buffer.getvalue()


def configs():
    for path in sorted((ROOT / "config").glob("*.yaml")):
        yield path.read_bytes()
    yield b'{"volumes": "a.tsv", "seed": 1}'
    yield b"volumes: a.tsv\nx: &a [1]\ny: *a\nz: !!python/object:os.x {}\n<<: {seed: .nan}\n"


def tables():
    for path in sorted((ROOT / "config").glob("*.tsv")):
        yield b"\n".join(path.read_bytes().splitlines()[:6])
    text = "volume\timages\tannotation\tsections\tsplit\na\tx.h5:/r\ty\t0-3,5\ttrain\n"
    text += 'b\tx\t"y"\tall\tvalidation\n'
    yield text.encode("utf-16")
    yield text.replace("\n", "\r\n").encode("utf-8-sig")


def models(folder: Path):
    import zipfile

    valid = small_model(folder)
    yield b"\0" + valid
    with zipfile.ZipFile(io.BytesIO(valid)) as archive:
        yield b"\1" + archive.read("archive/data.pkl")
        yield b"\2" + archive.read("archive/description.json")


def write(target: str, folder: Path) -> int:
    """Write the initial inputs of `target` into `folder`, and return their number."""
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp())
    cells, labels = drawn_cells(32), instances(32)
    if target == "annotation":
        tifffile.imwrite(scratch / "c.tif", cells)
        tifffile.imwrite(scratch / "i.tif", labels, compression="zlib")
        contents = [
            bytes([0]) + (scratch / "c.tif").read_bytes(),
            bytes([9 + 30]) + (scratch / "i.tif").read_bytes(),
            bytes([1]) + imagecodecs.png_encode(cells),
            bytes([4]) + imagecodecs.png_encode(cells),
            *(bytes([2]) + data for data in hdf5s("labels", [labels])),
        ]
    else:
        contents = {
            "tiff": lambda: tiffs(scratch),
            "png": pngs,
            "hdf5": lambda: hdf5s("raw", [gray((4, 5)), gray((2, 4, 5), np.uint16)]),
            "table": tables,
            "config": configs,
            "model": lambda: models(scratch),
        }[target]()
    number = 0
    for number, content in enumerate(contents, 1):
        (folder / f"seed{number:02}").write_bytes(content)
    return number
