"""Random training patches from dataset files."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline_lib.data import augment
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.data.sampling import ClassBalanced
from pipeline_lib.memory import CHUNK_CACHE_BYTES
from pipeline_lib.runtime.files import allow_open_files
from pipeline_lib.runtime.types import Stored

PREFETCH = 4  # batches prepared ahead; preparing is much faster than a step, a few hide its variation


class Truth(Protocol):
    """What a task compares the output of the network with. Each task has its own class.

    Attributes
    ----------
    shape : tuple of int
        Shape of the volume, (z, y, x).
    ignore : (z, y, x) array or None
        Non-zero where nothing is known; no patch has its centre there. None if there are no such pixels.
    """

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def ignore(self) -> Stored | None: ...


class PixelwiseTruth(Truth, Protocol):
    """Truth with numbers for each pixel.

    Attributes
    ----------
    class_weights : (classes,) array of float64, or None
        Weight w_c of each class in the loss. None if it is 1 for all classes.
    """

    @property
    def class_weights(self) -> npt.NDArray[np.float64] | None: ...

    def read(self, section: int, window: tuple[slice, slice]) -> np.ndarray:
        """Return the truth in a window of a section.

        Parameters
        ----------
        section : int
            Number of the section in the volume.
        window : tuple of slice
            Rows and columns.

        Returns
        -------
        (k, y, x) array of float32
            The task's k numbers for each pixel, for instance class and weight.
        """

    def classes(self, section: int, window: tuple[slice, slice]) -> npt.NDArray[np.uint8]:
        """Return the class of each pixel in a window of a section, for `sampling.ClassBalanced`.

        Parameters
        ----------
        section : int
            Number of the section in the volume.
        window : tuple of slice
            Rows and columns.

        Returns
        -------
        (y, x) array of uint8
            Number of the class, from 0. Any class where nothing is known. The array is a new one.
        """


class Volume(NamedTuple):
    """An annotated volume that is open for training or validation.

    Parameters
    ----------
    raw : (c, z, y, x) array or HDF5 dataset
        Gray levels of the images; for networks that see several sections `inference.neighbours.Neighbours`.
    truth : Truth
        What the output of the network is compared with.
    """

    raw: Stored
    truth: Truth


class Patch(NamedTuple):
    """A training patch on the device of the network.

    Parameters
    ----------
    image : (1, c, tile, tile) Tensor of float32
        Normalised and augmented images, with the channels of all sections that the network sees.
    truth : (1, k, out, out) Tensor of float32
        Truth of the middle of the patch; out = tile - 2 * context is the side of the network's output.
    """

    image: Tensor
    truth: Tensor


@dataclass(frozen=True)
class Region:
    """The part of a section from which one patch is made; `Patches.read` creates it.

    It contains all pixels of the section that the patch can reach. A patch that reaches beyond the section is
    filled with the mirror image of the section.

    Parameters
    ----------
    image : (c, y, x) Tensor of float32
        Normalised images.
    truth : (k, y, x) Tensor of float32
        Truth of the same pixels.
    centre : tuple of float
        Row and column in the region of the centre of the patch.
    transform : augment.Transform
        Augmentation of the patch.
    seed : int
        Seed of the noise.
    """

    image: Tensor
    truth: Tensor
    centre: tuple[float, float]
    transform: augment.Transform
    seed: int

    def pinned(self) -> Region:
        """Return a copy in page-locked memory, from which a GPU copies without the CPU.

        Returns
        -------
        Region
            The copy.
        """
        return replace(self, image=self.image.pin_memory(), truth=self.truth.pin_memory())


class Patches:
    """Random training patches. Each patch depends only on the seed and its number.

    Every pixel of the volumes is the centre of a patch with equal probability, except for pixels that
    `Truth.ignore` excludes. With `balanced`, every class is at the centre with equal probability, and all
    pixels of a class are equally likely; elastic deformation then leaves the centre in place. Outside of a
    section the image is mirrored.

    Parameters
    ----------
    volumes : sequence of Volume
        Training volumes.
    normalisation : Normalisation
        Normalisation of the images.
    context : int
        How much smaller than its input the output of the network is on each side, in px.
    tile : int
        Side of a patch in px.
    augmentation : augment.Augmentation
        Ranges of the augmentation.
    seed : int
        Seed of all patches.
    balanced : ClassBalanced, optional
        Draws the centres of the patches instead of a uniform distribution over all pixels.
    """

    def __init__(
        self,
        volumes: Sequence[Volume],
        normalisation: Normalisation,
        context: int,
        tile: int,
        augmentation: augment.Augmentation,
        seed: int,
        balanced: ClassBalanced | None = None,
    ) -> None:
        self.volumes = volumes
        self.normalisation = normalisation
        self.context = context
        self.tile = tile
        self.augmentation = augmentation
        self.seed = seed
        self.balanced = balanced
        self.sections = volumes[0].raw.shape[0] // len(normalisation.scale)  # that the network sees
        pixels = np.array([np.prod(truth.shape, dtype=float) for _, truth in volumes])
        self.share = pixels / pixels.sum()

    def read(self, number: int) -> Region:
        """Draw a patch and read its pixels; `move` augments it.

        Parameters
        ----------
        number : int
            Number of the patch, from 0.

        Returns
        -------
        Region
            The pixels and the transform of the patch, in the memory of the CPU.
        """
        rng = np.random.default_rng([self.seed, number])
        transform = augment.draw(self.augmentation, rng, self.sections)
        if self.balanced:
            transform = augment.keep_centre(transform, self.tile)
        (raw, truth), (section, row, column) = self._centre(rng)
        reach = augment.reach(transform, self.tile)
        first_row, first_column = max(row - reach, 0), max(column - reach, 0)
        window = slice(first_row, row + reach + 1), slice(first_column, column + reach + 1)
        truth = cast("PixelwiseTruth", truth)
        rows, columns = (np.arange(size)[part] for size, part in zip(truth.shape[1:], window, strict=True))
        image = self.normalisation.apply(raw[(slice(None), section, *window)], rows, columns)
        return Region(
            torch.from_numpy(image),
            torch.from_numpy(truth.read(section, window)),
            (row - first_row, column - first_column),
            transform,
            int(rng.integers(2**62)),
        )

    def _centre(self, rng: np.random.Generator) -> tuple[Volume, tuple[int, int, int]]:
        """Draw a volume and a pixel (z, y, x) of it. Pixels that are not annotated are drawn again."""
        if self.balanced:
            number, pixel = self.balanced.draw(rng)
            return self.volumes[number], pixel
        while True:
            volume = self.volumes[rng.choice(len(self.volumes), p=self.share)]
            section, row, column = (int(rng.integers(size)) for size in volume.truth.shape)
            if volume.truth.ignore is None or not volume.truth.ignore[section, row, column]:
                return volume, (section, row, column)

    def move(self, region: Region, device: torch.device) -> Patch:
        """Move a patch to a device and augment it there.

        Parameters
        ----------
        region : Region
            Result of `read`.
        device : torch.device
            Device of the training.

        Returns
        -------
        Patch
            Image and truth of the patch.
        """
        context = self.context
        terms, basis = self._positions(region, device)
        inner = basis[context : self.tile - context]
        truth = augment.sample(region.truth.to(device, non_blocking=True), terms, inner, "nearest")
        return Patch(self.image(region, device)[None], truth[None])

    def image(self, region: Region, device: torch.device) -> Tensor:
        """Return the image of a patch on a device, augmented.

        Parameters
        ----------
        region : Region
            Result of `read`.
        device : torch.device
            Device of the training.

        Returns
        -------
        (c, tile, tile) Tensor of float32
            The image.
        """
        terms, basis = self._positions(region, device)
        mode = self.augmentation.interpolation or "bicubic"
        image = region.image.to(device, non_blocking=True)
        if region.transform.shifts is None:
            image = augment.sample(image, terms, basis, mode)
        else:
            shifted = (augment.shifted(terms, shift) for shift in region.transform.shifts)
            pairs = zip(image.chunk(self.sections), shifted, strict=True)
            image = torch.cat([augment.sample(section, own, basis, mode) for section, own in pairs])
        generator = torch.Generator(device).manual_seed(region.seed)
        return augment.vary_gray(image, region.transform, generator)

    def _positions(self, region: Region, device: torch.device) -> tuple[np.ndarray, Tensor]:
        """Return the coefficients and functions of the positions of a patch, see `augment.sample`."""
        terms = augment.placement(region.transform, region.centre)
        return terms, augment.basis(self.tile, region.transform.nodes.shape[-1], device)

    def batches(self, numbers: Iterable[Sequence[int]], device: torch.device) -> Iterator[list[Patch]]:
        """Yield batches of patches, which a separate thread prepares ahead of the training.

        If the training runs on the CPU, the thread uses cores that the training step leaves idle.

        Parameters
        ----------
        numbers : iterable of sequence of int
            Numbers of the patches of each batch.
        device : torch.device
            Device of the training.

        Yields
        ------
        list of Patch
            The patches of a batch, in the order of their numbers.
        """

        def prepare(batch: Sequence[int]) -> list[Patch]:
            regions = map(self.read, batch)
            pinned = (region.pinned() for region in regions) if device.type == "cuda" else regions
            return [self.move(region, device) for region in pinned]

        # Threads of its own would compete with those of the training, which then wait longer for each other.
        threads = torch.get_num_threads()
        with ExitStack() as stack:
            stack.callback(torch.set_num_threads, threads)  # also for threads that start later
            preparer = stack.enter_context(
                ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
            )
            ahead: deque[Future[list[Patch]]] = deque()
            for batch in numbers:
                ahead.append(preparer.submit(prepare, batch))
                if len(ahead) > PREFETCH:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()


def open_volumes(
    stack: ExitStack,
    open_volume: Callable[[ExitStack, str | Path, str | Path, int], Volume],
    datasets: Sequence[str | Path],
    weight_maps: Sequence[str | Path],
) -> list[Volume]:
    """Open the dataset and weight map files of annotated volumes.

    Parameters
    ----------
    stack : ExitStack
        The files stay open until it is closed.
    open_volume : callable
        Method `open` of a task: takes the stack, a dataset, a weight map and the size of a cache in bytes.
    datasets : sequence of str or Path
        Dataset file of each volume.
    weight_maps : sequence of str or Path
        Weight map file of each volume.

    Returns
    -------
    list of Volume
        The volumes in the given order.

    Raises
    ------
    InputError
        If a file cannot be read, or the system does not allow this process to open that many files.
    """
    allow_open_files(2 * len(datasets), "training", "make the images sections of fewer volumes")
    # `CHUNK_CACHE_BYTES` are for all volumes together: many patches read the same decompressed chunks
    cache = CHUNK_CACHE_BYTES // max(5 * len(datasets), 1)
    return [open_volume(stack, *paths, cache) for paths in zip(datasets, weight_maps, strict=True)]
