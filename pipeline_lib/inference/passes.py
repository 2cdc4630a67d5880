"""A section through a network, tile by tile, and the choice of precision and tile size."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline_lib import memory
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.inference.tiling import Tile, mirror, read_mirrored, tiles
from pipeline_lib.kernels.blocks import BLOCK
from pipeline_lib.networks import Geometry, Plan
from pipeline_lib.networks.module import Network
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger

_MEMORY_FOR_TILES = 4 * 2**30  # bytes; for the paper's network 1292 px in float32, 1820 in bfloat16


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """`float32`, `bfloat16`, or `auto`: bfloat16 where the device multiplies in it, else float32.

    Convolutions in float32 are that on a GPU too: TF32, torch's default there, is switched off.
    """
    torch.backends.cudnn.allow_tf32 = False
    if precision == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def autocast(device: torch.device, precision: torch.dtype) -> contextlib.AbstractContextManager:
    """Compute convolutions in `precision`; parameters and what is summed over stay in float32."""
    return torch.autocast(device.type, precision) if precision != torch.float32 else contextlib.nullcontext()


def keep_memory() -> None:
    """Let this process keep the memory it frees until it ends, where the C library is glibc.

    Every large tensor is else taken from the kernel and given back, which clears it page by page each time:
    half of the time of a forward pass over a whole image on the CPU.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no block straight from the kernel
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: nothing given back


def choose_tile(
    tile: int | str,
    plan: Plan,
    device: torch.device,
    precision: torch.dtype,
    memory_gb: float,
) -> int:
    """A tile size in px: the setting, checked, or for `auto` the largest that memory holds.

    No larger than for an output of `blocks.BLOCK` px, or half of that where the network's context is small,
    whose memory is the same for every larger image; than a quarter of a GPU's free memory, or of what this
    process may use of the machine's (what is free there
    changes from run to run), and than `_MEMORY_FOR_TILES`; on the CPU, where the tiles' memory is the
    process's own, so that it stays below `memory_gb`. A set tile that would take more than there is gives way
    to that of `auto`, with a line saying so: the result does not depend on it. Raises `InputError` where
    `memory_gb` does not hold the smallest tile.
    """
    geometry = plan.geometry
    pixel = plan.values_per_pixel * precision.itemsize
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what an earlier volume's tiles left to torch is free for these
        there = torch.cuda.mem_get_info(device)[0]
        share = there / 4
    else:
        machine = _machine_memory()
        allowed = (memory_gb * 1e9 - memory.TORCH_PROCESS_BYTES) / memory.KEPT
        there, share = min(machine, allowed), min(machine / 4, allowed)
        if geometry.smallest**2 * pixel > allowed:
            needed = geometry.smallest**2 * pixel * memory.KEPT + memory.TORCH_PROCESS_BYTES
            raise InputError(
                f"config key `memory_gb`: {memory_gb:g} is too little for this network's smallest tile, "
                f"{geometry.smallest} px. Set it to {math.ceil(needed / 1e9)}."
            )
    if tile != "auto":
        geometry.output_size(tile)
        if tile**2 * pixel <= there:
            return tile
    side = math.isqrt(int(min(share, _MEMORY_FOR_TILES) / pixel))
    # larger ones gain nothing (docs/measurements/performance.md): the context is a small part of them
    side = min(side, geometry.input_size(min(BLOCK, max(BLOCK // 2, 48 * geometry.context))))
    side = max(side - (side - geometry.smallest) % geometry.stride, geometry.smallest)
    if tile != "auto":
        logger.warning(
            "a tile of %d px takes %.1f GB, and %s has %.1f: tiles of %d px, with the same result",
            tile,
            tile**2 * pixel / 1e9,
            device,
            there / 1e9,
            side,
        )
    return side


def _machine_memory(system: Path = Path("/")) -> int:
    """Bytes this process may use: the machine's, or what its container or job is allowed (cgroup v2)."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError):  # not Linux
        group = (system / "proc/self/cgroup").read_text().rpartition("::/")[2].strip()
        innermost = system / "sys/fs/cgroup" / group
        for folder in (innermost, *innermost.parents):
            with contextlib.suppress(OSError, ValueError):  # no file, or `max`: no limit
                memory = min(memory, int((folder / "memory.max").read_text()))
    return memory


class InHalves(nn.Module):
    """`network`, over no more of an image at a time than the GPU's memory holds.

    A pass that runs out of memory is made over one half of the output and then the other, and so is each
    later one of its size; the result is the same. `InputError` where not even the smallest fits.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.too_large = math.inf  # px

    @property
    def geometry(self) -> Geometry:
        """That of the network."""
        return self.network.geometry

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        if height * width < self.too_large:
            try:
                return self.network(image)
            except torch.cuda.OutOfMemoryError:
                self.too_large = height * width
                logger.warning(
                    "%s has no memory for %d x %d px at a time: in halves, with the same result",
                    image.device,
                    height,
                    width,
                )
        # not inside `except`: the error holds on to all the failed pass had computed
        axis, size = max(enumerate((height, width), 2), key=lambda side: side[1])
        half = self.geometry.output_size(size) // 2
        half -= half % self.geometry.stride
        if half == 0:
            raise InputError(
                f"{image.device} has no memory for {height} x {width} px, the least this network takes. "
                "Set `device: cpu`, or wait until the GPU is free."
            )
        first = self(image.narrow(axis, 0, self.geometry.input_size(half))).narrow(axis, 0, half)
        return torch.cat([first, self(image.narrow(axis, half, size - half))], axis)


def tile_outputs(
    network: Network | InHalves,
    raw: Any,
    section: int,
    normalisation: Normalisation,
    tile: int,
    device: torch.device,
    precision: torch.dtype,
    decode: Callable[[Callable[[Tensor], Tensor], Tensor], Any],
    rows: slice = slice(None),
) -> Iterator[tuple[Tile, Any]]:
    """Each tile of a section, and what a task makes of the network's output there.

    Parameters
    ----------
    network : Network or InHalves
        In evaluation mode.
    raw : array, (c, z, y, x)
        Numpy or h5py.
    section : int
        Which section of `raw`.
    normalisation, tile, device, precision
        Of the network's input. A tile has at most `tile` x `tile` pixels.
    decode : callable
        The task's `decode`, called with the network and the normalised tile, float32 (c, y, x).
    rows : slice
        Only this band of rows, from whose first row the tiles count. It begins at a multiple of the network's
        stride.

    Yields
    ------
    Tile, object
        Where the tile lies, and what `decode` returned for it.
    """
    height, width = raw.shape[2:]
    band = range(height)[rows]
    for part in tiles((len(band), width), tile, network.geometry):
        (top, bottom), (left, right) = part.read
        rows = mirror(band.start + top, band.start + bottom, height)
        columns = mirror(left, right, width)
        image = torch.from_numpy(
            normalisation.apply(read_mirrored(raw, section, rows, columns), rows, columns)
        ).to(device)
        with torch.inference_mode(), autocast(device, precision):
            output = decode(network, image)
        yield part, output


def turned(image: Tensor, orientation: int) -> Tensor:
    """`image` (..., y, x) in one of the 8 orientations, 0..7: 0 as it is, from 4 on mirrored."""
    mirrored = image.flip(-1) if orientation >= 4 else image
    return mirrored.rot90(orientation % 4, (-2, -1))


def turned_back(image: Tensor, orientation: int) -> Tensor:
    """Undo `turned`."""
    image = image.rot90(-(orientation % 4), (-2, -1))
    return image.flip(-1) if orientation >= 4 else image
