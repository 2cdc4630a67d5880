"""Forward passes over a section, tile by tile, and the choice of precision and tile size."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

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
from pipeline_lib.runtime.types import Stored

# Bytes that an automatically chosen tile may use: with the paper's network 1292 px in float32, 1820 px in
# bfloat16
_MEMORY_FOR_TILES = 4 * 2**30


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """Switch off TF32, and return the type in which convolutions are computed.

    TF32 is torch's default for convolutions on GPUs. It is switched off for the whole process, so that
    `float32` really is float32.

    Parameters
    ----------
    precision : {"auto", "float32", "bfloat16"}
        Setting of the user. "auto" is bfloat16 if the device has instructions for it, otherwise float32.
    device : torch.device
        Device that computes.

    Returns
    -------
    torch.dtype
        `torch.float32` or `torch.bfloat16`.

    Examples
    --------
    >>> import torch
    >>> from pipeline_lib.inference.passes import choose_precision
    >>> choose_precision("float32", torch.device("cpu"))
    torch.float32
    """
    torch.backends.cudnn.allow_tf32 = False
    if precision == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def autocast(device: torch.device, precision: torch.dtype) -> contextlib.AbstractContextManager[None]:
    """Return a context in which convolutions are computed in `precision`.

    Parameters and sums stay in float32.

    Parameters
    ----------
    device : torch.device
        Device that computes.
    precision : torch.dtype
        Type of the convolutions, see `choose_precision`.

    Returns
    -------
    context manager
        `torch.autocast`, or a context that does nothing for float32.
    """
    return torch.autocast(device.type, precision) if precision != torch.float32 else contextlib.nullcontext()


def current_precision(device: torch.device) -> torch.dtype:
    """Return the type of the convolutions in the present context, see `autocast`.

    Parameters
    ----------
    device : torch.device
        Device that computes.

    Returns
    -------
    torch.dtype
        Argument `precision` of `autocast`.
    """
    used = torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if used else torch.float32


def keep_memory() -> None:
    """Let this process keep freed memory for later use. It has an effect only with the C library glibc.

    By default, glibc requests each large tensor from the kernel and returns it when it is freed. The kernel
    then clears the memory page by page, which takes half of the time of a forward pass over a whole image on
    the CPU.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: request no single block from the kernel
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: never return memory to the kernel


def choose_tile(
    tile: int | Literal["auto"],
    plan: Plan,
    device: torch.device,
    precision: torch.dtype,
    memory_gb: float,
) -> int:
    """Return the tile size for inference.

    The result of inference does not depend on it, up to rounding (1e-5). With "auto", this is the largest
    valid size within the following limits:

    - A tile needs at most 4 GiB.
    - On a GPU, a tile needs at most a quarter of the free memory.
    - On the CPU, a tile needs at most a quarter of the memory of the machine, container or job (not of the
      free memory, which changes from run to run), and the process stays below `memory_gb`.
    - The output has at most `kernels.blocks.BLOCK` px on each side, or half of that if the context of the
      network is small. Larger tiles gain no speed, and with this limit the memory does not grow with the
      image.

    If a given tile needs more memory than is available, the size for "auto" is used instead, with a warning.

    Parameters
    ----------
    tile : int or "auto"
        Setting of the user: side of the input tile (px).
    plan : Plan
        Plan of the network.
    device : torch.device
        Device that computes.
    precision : torch.dtype
        Type of the convolutions, see `choose_precision`.
    memory_gb : float
        Memory that the process may use on the CPU, in GB (10^9 bytes).

    Returns
    -------
    int
        Side of the input tile (px), a valid size of the network.

    Raises
    ------
    InputError
        If `tile` is not a valid size, or `memory_gb` is too small for the smallest valid tile.
    """
    geometry = plan.geometry
    pixel = plan.tile_bytes_per_pixel(precision.itemsize)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # memory that torch kept from the tiles of earlier volumes is available, too
        available: float = torch.cuda.mem_get_info(device)[0]
        share = available / 4
    else:
        machine = _machine_memory()
        allowed = (memory_gb * 1e9 - memory.TORCH_PROCESS_BYTES) / memory.KEPT
        available, share = min(machine, allowed), min(machine / 4, allowed)
        if geometry.smallest**2 * pixel > allowed:
            needed = geometry.smallest**2 * pixel * memory.KEPT + memory.TORCH_PROCESS_BYTES
            raise InputError(
                f"config key `memory_gb`: {memory_gb:g} GB is too small for the smallest tile of this "
                f"network ({geometry.smallest} px). Set it to {math.ceil(needed / 1e9)} or more."
            )
    if tile != "auto":
        geometry.output_size(tile)
        if tile**2 * pixel <= available:
            return tile
    side = math.isqrt(int(min(share, _MEMORY_FOR_TILES) / pixel))
    # the context is a small part of larger tiles, so they gain no speed (docs/measurements/performance.md)
    side = min(side, geometry.input_size(min(BLOCK, max(BLOCK // 2, 48 * geometry.context))))
    side = max(side - (side - geometry.smallest) % geometry.stride, geometry.smallest)
    if tile != "auto":
        logger.warning(
            "a tile of %d px needs %.1f GB, but %s has %.1f GB. Using tiles of %d px, with the same result.",
            tile,
            tile**2 * pixel / 1e9,
            device,
            available / 1e9,
            side,
        )
    return side


def _machine_memory(system: Path = Path("/")) -> int:
    """Return the bytes that this process may use: memory of the machine, container or job (cgroup v2)."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError):  # not Linux
        group = (system / "proc/self/cgroup").read_text().rpartition("::/")[2].strip()
        innermost = system / "sys/fs/cgroup" / group
        for folder in (innermost, *innermost.parents):
            with contextlib.suppress(OSError, ValueError):  # no file, or the word `max`: no limit
                memory = min(memory, int((folder / "memory.max").read_text()))
    return memory


class SplitIfTooLarge(nn.Module):
    """A network that splits its input into halves if the memory of the GPU is too small for it.

    If a forward pass runs out of memory, it is repeated for each half of the output, and so on recursively.
    Later inputs of this size or larger are split at once. The result is the same up to rounding (1e-5).

    Parameters
    ----------
    network : Network
        Network to apply.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.too_large = math.inf  # px, size of the smallest input that ran out of memory

    @property
    def plan(self) -> Plan:
        """Settings of the network."""
        return self.network.plan

    @property
    def geometry(self) -> Geometry:
        """Valid input sizes of the network, and its context."""
        return self.network.geometry

    def forward(self, image: Tensor) -> Tensor:
        """Compute the output of the network.

        Parameters
        ----------
        image : (n, c, y, x) Tensor of float32
            Normalised images. Height and width must be valid sizes (`geometry`).

        Returns
        -------
        (n, classes, y - 2 context, x - 2 context) Tensor
            Logits of the classes.

        Raises
        ------
        InputError
            If the memory is too small even for the smallest valid size.
        """
        height, width = image.shape[2:]
        if height * width < self.too_large:
            try:
                return self.network(image)
            except torch.cuda.OutOfMemoryError:
                self.too_large = height * width
                logger.warning(
                    "%s: not enough memory for %d x %d px. Processing them in halves, with the same result.",
                    image.device,
                    height,
                    width,
                )
        # outside of `except`, because the exception keeps all tensors of the failed pass in memory
        axis, size = max(enumerate((height, width), 2), key=lambda side: side[1])
        half = self.geometry.output_size(size) // 2
        half -= half % self.geometry.stride
        if half == 0:
            raise InputError(
                f"{image.device}: not enough memory for {height} x {width} px, the smallest tile of "
                "this network. Set `device: cpu`, or wait until the GPU is free."
            )
        own = half // self.plan.reduction
        first = self(image.narrow(axis, 0, self.geometry.input_size(half))).narrow(axis, 0, own)
        return torch.cat([first, self(image.narrow(axis, half, size - half))], axis)


def tile_outputs(
    network: Network | SplitIfTooLarge,
    raw: Stored,
    section: int,
    normalisation: Normalisation,
    tile: int,
    device: torch.device,
    precision: torch.dtype,
    decode: Callable[[Callable[[Tensor], Tensor], Tensor], Any],
    rows: slice = slice(None),
) -> Iterator[tuple[Tile, Any]]:
    """Yield the decoded output of a network for each tile of a section.

    Parameters
    ----------
    network : Network or SplitIfTooLarge
        Network on `device`, in evaluation mode.
    raw : (c, z, y, x) array
        Gray levels, numpy or h5py.
    section : int
        Index of the section in `raw`.
    normalisation : Normalisation
        Normalisation of the gray levels.
    tile : int
        Largest tile, given as the side of a square (px): a tile has at most `tile` x `tile` px.
    device : torch.device
        Device that computes.
    precision : torch.dtype
        Type of the convolutions, see `choose_precision`.
    decode : callable
        Method `decode` of the task. It is called with the network and the normalised tile, (c, y, x) float32.
    rows : slice, optional
        Band of rows to process, by default all. It must start at a multiple of the network's stride.
        Positions of the tiles are relative to its first row.

    Yields
    ------
    part : Tile
        Position of the tile.
    output : object
        Result of `decode` for the tile.

    References
    ----------
    Section 2 and figure 2 of [1]_: overlap-tile strategy.

    .. [1] O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional networks for biomedical image
       segmentation", MICCAI, LNCS 9351:234-241, 2015.
    """
    height, width = raw.shape[2:]
    band = range(height)[rows]
    for part in tiles((len(band), width), tile, network.geometry):
        (top, bottom), columns = part.read
        rows_read = band.start + top, band.start + bottom
        image = read(raw, section, normalisation, rows_read, columns).to(device)
        with torch.inference_mode(), autocast(device, precision):
            output = decode(network, image)
        yield part, output


def read(
    raw: Stored,
    section: int,
    normalisation: Normalisation,
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> Tensor:
    """Read a part of a section for a network.

    Parameters
    ----------
    raw : (c, z, y, x) array
        Gray levels, numpy or h5py.
    section : int
        Index of the section in `raw`.
    normalisation : Normalisation
        Normalisation of the gray levels.
    rows, columns : (start, stop)
        Position of the part (px). Beyond the section, the image is mirrored.

    Returns
    -------
    (c, y, x) Tensor of float32
        Normalised images.
    """
    height, width = raw.shape[2:]
    y, x = mirror(*rows, height), mirror(*columns, width)
    return torch.from_numpy(normalisation.apply(read_mirrored(raw, section, y, x), y, x))


def orient(image: Tensor, orientation: int) -> Tensor:
    """Rotate and mirror an image into one of its 8 orientations.

    Parameters
    ----------
    image : (..., y, x) Tensor
        Image in its original orientation.
    orientation : int
        0 to 7. The image is mirrored if it is 4 or more, then rotated `orientation % 4` times by 90 degrees.

    Returns
    -------
    (..., y, x) or (..., x, y) Tensor
        Image in the new orientation.

    Examples
    --------
    >>> import torch
    >>> from pipeline_lib.inference.passes import orient
    >>> orient(torch.tensor([[1, 2], [3, 4]]), 1)
    tensor([[2, 4],
            [1, 3]])
    """
    mirrored = image.flip(-1) if orientation >= 4 else image
    return mirrored.rot90(orientation % 4, (-2, -1))


def turned_back(offset: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return an offset in the original orientation of an image.

    Parameters
    ----------
    offset : (int, int)
        Offset (rows, columns) between two pixels of the image in an orientation.
    orientation : int
        This orientation, 0 to 7, see `orient`.

    Returns
    -------
    (int, int)
        Offset between the same pixels of the image in its original orientation.

    Examples
    --------
    >>> from pipeline_lib.inference.passes import turned_back
    >>> turned_back((-9, 4), 1)
    (4, 9)
    """
    dy, dx = offset
    for _ in range(orientation % 4):
        dy, dx = dx, -dy
    return dy, -dx if orientation >= 4 else dx


def orient_back(image: Tensor, orientation: int) -> Tensor:
    """Return an image to its original orientation (inverse of `orient`).

    Parameters
    ----------
    image : (..., y, x) Tensor
        Result of `orient`.
    orientation : int
        Orientation of `image`, 0 to 7.

    Returns
    -------
    (..., y, x) or (..., x, y) Tensor
        Image in its original orientation.

    Examples
    --------
    >>> import torch
    >>> from pipeline_lib.inference.passes import orient_back
    >>> orient_back(torch.tensor([[2, 4], [1, 3]]), 1)
    tensor([[1, 2],
            [3, 4]])
    """
    image = image.rot90(-(orientation % 4), (-2, -1))
    return image.flip(-1) if orientation >= 4 else image
