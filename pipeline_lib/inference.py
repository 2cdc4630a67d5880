"""One section through a network, tile by tile; which device, and in which precision."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pipeline_lib.errors import InputError
from pipeline_lib.normalisation import Normalisation
from pipeline_lib.tiling import Geometry, Tile, mirror, read_mirrored, tiles

# Peak bytes per input pixel and base channel of a forward pass: the skip connection, the concatenation and
# two convolutions' outputs of the top level, in float32
_BYTES_PER_PIXEL_AND_CHANNEL = 24
_LARGEST_TILE = 2048  # px; beyond it, the rim that tiles compute twice is under 2 % of the work


def choose_device(device: str) -> torch.device:
    """`cpu`, `cuda`, or `auto`: the CUDA device with the most free memory where there is one.

    Raises `InputError` where `cuda` is asked for and there is none.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError(
            "device: `cuda` was asked for, but torch sees no such device. Set `device: auto`, run where a "
            "GPU is, or install the CUDA build of torch (README, Installation)."
        )
    free = [torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())]
    return torch.device("cuda", free.index(max(free)))


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


def choose_tile(tile: int | str, geometry: Geometry, base_channels: int, device: torch.device) -> int:
    """A tile size in px: the setting, checked, or for `auto` the largest that memory holds.

    A quarter of a GPU's free memory or of the machine's whole memory is used (what is free changes from run
    to run, and with the tile the rounding), and no more than `_LARGEST_TILE` px.
    """
    if tile != "auto":
        geometry.output_size(tile)
        return tile
    if device.type == "cuda":
        memory = torch.cuda.mem_get_info(device)[0]
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    side = min(int((memory / 4 / (_BYTES_PER_PIXEL_AND_CHANNEL * base_channels)) ** 0.5), _LARGEST_TILE)
    least = geometry.input_size(geometry.stride)
    return max(side - (side - geometry.smallest) % geometry.stride, least)


def tile_probabilities(
    network: nn.Module,
    raw: Any,
    section: int,
    normalisation: Normalisation,
    tile: int,
    device: torch.device,
    precision: torch.dtype,
    average_orientations: bool = False,
) -> Iterator[tuple[Tile, Tensor]]:
    """Probabilities (classes, y, x) float32 of each tile of `raw` (c, z, y, x; numpy or h5py) in `section`.

    With `average_orientations` the probabilities are averaged over the 8 rotations and mirror images of the
    tile. The network must be in evaluation mode.
    """
    for part in tiles(raw.shape[2:], tile, network.geometry):
        rows, columns = (mirror(*span, size) for span, size in zip(part.read, raw.shape[2:], strict=True))
        image = torch.from_numpy(
            normalisation.apply(read_mirrored(raw, section, rows, columns), rows, columns)
        ).to(device)
        total: Tensor | float = 0.0
        orientations = range(8) if average_orientations else range(1)
        with torch.inference_mode(), autocast(device, precision):
            for orientation in orientations:
                turned = _turn(image, orientation)[None].contiguous(memory_format=torch.channels_last)
                total = total + _turn_back(network(turned)[0].float().softmax(0), orientation)
        yield part, (total / len(orientations))[(slice(None), *part.crop)]


def _turn(image: Tensor, orientation: int) -> Tensor:
    mirrored = image.flip(-1) if orientation >= 4 else image
    return mirrored.rot90(orientation % 4, (-2, -1))


def _turn_back(image: Tensor, orientation: int) -> Tensor:
    image = image.rot90(-(orientation % 4), (-2, -1))
    return image.flip(-1) if orientation >= 4 else image
