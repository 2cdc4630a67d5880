"""Image files for tests. Each writer stores a stack (z, y, x) in another format and returns the path."""

import h5py
import imagecodecs
import numpy as np
import tifffile
from scipy import ndimage

DTYPES = (np.uint8, np.uint16, np.int16, np.uint32, np.int32, np.float32, np.float64, np.bool_)


def gray(shape=(5, 7, 11), dtype=np.uint8, seed=0):
    values = np.random.default_rng(seed).integers(0, 2 if dtype == np.bool_ else 120, shape)
    return values.astype(dtype)


def drawn_cells(size=64, period=16, width=3):
    """Square cells in a grid: membranes 0, cells 255."""
    y, x = np.mgrid[:size, :size]
    return np.where((y % period < width) | (x % period < width), 0, 255).astype(np.uint8)


def instances(size=64):
    return ndimage.label(drawn_cells(size))[0].astype(np.uint16)


def multi_page(folder, stack):
    tifffile.imwrite(folder / "a.tif", stack, metadata=None, photometric="minisblack")
    return folder / "a.tif"


def shaped(folder, stack):
    tifffile.imwrite(folder / "a.tif", stack, photometric="minisblack")
    return folder / "a.tif"


def compressed(folder, stack):
    tifffile.imwrite(folder / "a.tiff", stack, photometric="minisblack", compression="lzw", predictor=True)
    return folder / "a.tiff"


def tiled_big_endian_bigtiff(folder, stack):
    tifffile.imwrite(
        folder / "A.TIF",
        stack,
        photometric="minisblack",
        tile=(16, 16),
        bigtiff=True,
        byteorder=">",
        compression="zlib",
    )
    return folder / "A.TIF"


def one_page_for_all(folder, stack):
    """Like ImageJ for stacks above 4 GiB: one page, and the other sections follow as plain bytes."""
    tifffile.imwrite(folder / "a.tif", stack, photometric="minisblack", truncate=True, byteorder=">")
    return folder / "a.tif"


def one_page_with_depth(folder, stack):
    tifffile.imwrite(folder / "a.tif", stack, photometric="minisblack", volumetric=True, tile=(16, 16, 16))
    return folder / "a.tif"


def imagej(folder, stack):
    tifffile.imwrite(folder / "a.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    return folder / "a.tif"


def imagej_frames(folder, stack):
    """Fiji treats a stack as a time series by default: TYX."""
    tifffile.imwrite(folder / "a.tif", stack, imagej=True, metadata={"axes": "TYX"})
    return folder / "a.tif"


def ome(folder, stack):
    tifffile.imwrite(folder / "a.ome.tif", stack, photometric="minisblack", metadata={"axes": "ZYX"})
    return folder / "a.ome.tif"


def hdf5(folder, stack):
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("volumes/raw", data=stack, chunks=(1, 4, 4), compression="gzip")
    return f"{folder / 'a.h5'}:/volumes/raw"


def ilastik(folder, stack):
    axes = '{"axes": [{"key": "t"}, {"key": "z"}, {"key": "y"}, {"key": "x"}, {"key": "c"}]}'
    with h5py.File(folder / "a.hdf5", "w") as file:
        file.create_dataset("exported_data", data=stack[None, ..., None]).attrs["axistags"] = axes
    return f"{folder / 'a.hdf5'}:exported_data"


def transposed_hdf5(folder, stack):
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("raw", data=stack.transpose(2, 1, 0)).attrs["axes"] = "xyz"
    return f"{folder / 'a.h5'}:/raw"


def tiff_slices(folder, stack):
    for z, section in enumerate(stack):  # slice8, slice9, slice10: in alphabetical order, 10 would come first
        tifffile.imwrite(folder / f"slice{z + 8}.tif", section)
    (folder / "._slice8.tif").write_bytes(b"not an image")
    (folder / "Thumbs.db").write_bytes(b"not an image")
    return folder


def png_slices(folder, stack):
    for z, section in enumerate(stack):
        (folder / f"Slice {z + 98}.PNG").write_bytes(imagecodecs.png_encode(section))
    return folder


WRITERS = (
    multi_page,
    shaped,
    compressed,
    tiled_big_endian_bigtiff,
    one_page_for_all,
    hdf5,
    ilastik,
    transposed_hdf5,
    tiff_slices,
)
