"""Plan of the single shot detector SSD, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from pipeline_lib import memory
from pipeline_lib.networks.plan import Geometry, Plan, setting
from pipeline_lib.runtime.errors import InputError

if TYPE_CHECKING:
    from pipeline_lib.networks.ssd.module import SSD

OFFSETS = 4  # numbers that place a box: its centre and its size, relative to a default box
ROI = 14  # cells of the mask head's input along each axis
MASK = 2 * ROI  # cells of a mask along each axis
MASK_CONVOLUTIONS = 4  # of the mask head
MASKS_AT_ONCE = 64  # boxes that the mask head processes together in a prediction
#: Side of the largest area of a section whose features a prediction of masks has in memory (px).
MASK_WINDOW = 640
# Bytes of a training step per value of `SSDPlan.step_bytes_per_pixel`, measured (`tests/test_memory.py`)
STEP_BYTES = {"float32": 7.8, "bfloat16": 5.6}
MASK_STEP_BYTES = {"float32": 4.2, "bfloat16": 2.8}  # the same for the mask head


@dataclass(frozen=True)
class SSDPlan(Plan):
    """Settings of a single shot detector (SSD) and what follows from them.

    An encoder of unpadded convolutions halves the resolution from level to level. At each of the last `heads`
    levels, a 3x3 convolution predicts for several default boxes at each pixel of the level: logits of the
    classes, and how the box of the object differs from the default box.

    The paper pads its convolutions. Here nothing is padded, so that tiles have no seams. The pixels of a
    level then lie on a regular grid on the section, whatever tile they are computed in: pixel (i, j) of a
    level with stride s has its centre at ((i + 1/2) s, (j + 1/2) s) px.

    Parameters
    ----------
    input_channels : int, default 1
        Number of channels of the input.
    classes : int, default 2
        Number of classes of the task, including the background.
    context_sections : int, default 0
        Number of neighbouring sections on each side that the network sees.
    channels : sequence of int, default (64, 128, 256, 512, 512)
        Number of channels of each level.
    convolutions : int, default 2
        Number of convolutions of each level.
    heads : int, default 3
        Number of levels, from the lowest one, that predict boxes.
    sizes : sequence of float, optional
        Sizes of the default boxes (px), from the highest level that predicts boxes to the lowest one, the
        same number for each level. By default they are chosen from the training objects.
    size_range : sequence of float, optional
        Sizes of the first default box of the highest and of the lowest level that predicts boxes (px). The
        others follow from the paper's formula, see `formula_sizes`. By default it is not used.
    sizes_per_level : int, default 2
        Number of sizes of each level if they are not stated.
    aspect_ratios : sequence of float, default (1.0, 2.0)
        Ratio of width and height of the default boxes. Boxes of a ratio other than 1 also exist turned by 90
        degrees.
    batch_normalisation : bool, default False
        Whether batch normalisation follows each convolution of the encoder.
    scaled_norm : bool, default False
        Whether the features of the highest level that predicts boxes are divided by their norm and multiplied
        by a learned factor for each channel, as the paper does for its layer conv4_3.
    masks : bool, default False
        Whether a further head predicts which pixels of a box belong to its object, as Mask R-CNN does [3]_.
        Its features are those of the highest level that predicts boxes, and its layers are as wide. Other
        layers start with the same parameters as without it.

    Raises
    ------
    InputError
        If a setting has the wrong type or is out of range, or the numbers do not fit each other.

    References
    ----------
    Sections 2 and 3 of [1]_. The layer of `scaled_norm` is that of [2]_.

    .. [1] W. Liu, D. Anguelov, D. Erhan, C. Szegedy, S. Reed, C.-Y. Fu, A. C. Berg, "SSD: Single shot
       MultiBox detector", ECCV, LNCS 9905:21-37, 2016.

    .. [2] W. Liu, A. Rabinovich, A. C. Berg, "ParseNet: Looking wider to see better", arXiv:1506.04579, 2015.

    .. [3] K. He, G. Gkioxari, P. Dollar, R. Girshick, "Mask R-CNN", ICCV, 2961-2969, 2017.

    Examples
    --------
    >>> from pipeline_lib.networks.ssd import SSDPlan
    >>> plan = SSDPlan(channels=(16, 32, 64, 64, 64), sizes=(6, 13, 20, 26, 31, 58))
    >>> plan.geometry
    Geometry(stride=16, smallest=172, context=78)
    >>> plan.strides, plan.boxes_per_cell
    ([4, 8, 16], 126)
    """

    name: ClassVar[str] = "ssd"
    task: ClassVar[str] = "detection"
    smaller: ClassVar[str] = "lower the numbers of `network.channels`"

    channels: tuple[int, ...] = setting(
        (64, 128, 256, 512, 512),
        "Number of channels of each level. A 2x2 max pooling lies between two levels.",
        minItems=1,
        maxItems=8,
    )
    convolutions: int = setting(2, "Number of convolutions of each level.", minimum=1)
    heads: int = setting(3, "Number of levels, from the lowest one, that predict boxes.", minimum=1)
    sizes: tuple[float, ...] = setting(
        (),
        "Sizes of the default boxes, from the highest level that predicts boxes to the lowest one, the same "
        "number for each level. An empty list means that they are chosen from the training objects.",
        unit="px",
        minItems=0,
    )
    size_range: tuple[float, ...] = setting(
        (),
        "Smallest and largest size of the default boxes, from which the paper's formula makes equal steps "
        "from level to level. The paper has 0.2 and 0.9 of the side of its images, 60 and 270 px. An empty "
        "list means that the sizes are chosen from the training objects.",
        unit="px",
        minItems=0,
        maxItems=2,
    )
    sizes_per_level: int = setting(2, "Number of sizes of each level if `sizes` is empty.", minimum=1)
    aspect_ratios: tuple[float, ...] = setting(
        (1.0, 2.0),
        "Ratios of width and height of the default boxes. Boxes of a ratio other than 1 also exist turned by "
        "90 degrees.",
    )
    batch_normalisation: bool = setting(
        False, "Whether batch normalisation follows each convolution of the encoder."
    )
    scaled_norm: bool = setting(
        False,
        "Whether features of the highest level that predicts boxes are divided by their norm and multiplied "
        "by learned factors, as in the paper.",
    )
    masks: bool = setting(
        False, "Whether a further head predicts the pixels of each object in its box, as in Mask R-CNN."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads > len(self.channels):
            raise InputError(
                f"network.heads: found {self.heads}, but `network.channels` has {len(self.channels)} levels. "
                "Use fewer heads or more levels."
            )
        if len(self.sizes) % self.heads:
            raise InputError(
                f"network.sizes: found {len(self.sizes)} numbers for {self.heads} levels (`network.heads`), "
                "expected the same number of sizes for each level."
            )
        if self.size_range:
            self._require_range()

    def _require_range(self) -> None:
        """Check that the paper's formula can be applied to `size_range`."""
        found = f"network.size_range: found {[*self.size_range]}"
        if len(self.size_range) != 2 or self.size_range[0] >= self.size_range[1]:
            raise InputError(f"{found}, expected the smallest and the largest size, such as [60, 270].")
        if self.heads == 1:
            raise InputError(
                f"{found} for a single level (`network.heads: 1`), but the formula spreads sizes over "
                "several levels. Set `network.sizes` instead."
            )
        if self.sizes:
            raise InputError(f"{found}, but `network.sizes` states the sizes. Remove one of them.")

    @property
    def geometry(self) -> Geometry:
        """Valid input sizes and context. The output of the smallest tile is one pixel of the lowest level."""
        stride = 2 ** (len(self.channels) - 1)
        # each 3x3 convolution of a level cuts off one of its pixels on each side, and so does the head
        context = self.convolutions * (2 * stride - 1) + stride
        return Geometry(stride=stride, smallest=stride + 2 * context, context=context)

    @property
    def reduction(self) -> int:
        """Side of the square of the image that one pixel of the output describes (px)."""
        return self.geometry.stride

    @property
    def strides(self) -> list[int]:
        """Stride of each level that predicts boxes (px), from the highest level."""
        levels = len(self.channels)
        return [2**level for level in range(levels - self.heads, levels)]

    @property
    def margin(self) -> int:
        """Number of pixels by which the highest level that predicts boxes is smaller, on each side (px)."""
        return self.convolutions * (2 * self.strides[0] - 1)

    @property
    def shapes_per_pixel(self) -> int:
        """Number of default boxes at each pixel of a level."""
        return (len(self.sizes) // self.heads or self.sizes_per_level) * len(self._ratios)

    @property
    def boxes_per_cell(self) -> int:
        """Number of default boxes in the square of the image that one pixel of the output describes."""
        return sum((self.reduction // stride) ** 2 for stride in self.strides) * self.shapes_per_pixel

    @property
    def output_channels(self) -> int:
        """Number of channels of the output: logits and offsets of each default box."""
        return self.boxes_per_cell * (self.classes + OFFSETS)

    def with_sizes(self, sizes: Sequence[float]) -> Self:
        """Return the plan with sizes of default boxes.

        Parameters
        ----------
        sizes : sequence of float
            Sizes for `sizes` (px).

        Returns
        -------
        SSDPlan
            Plan with these sizes, and without `size_range`.
        """
        return replace(self, sizes=tuple(sizes), size_range=())

    def formula_sizes(self) -> list[float]:
        """Return the sizes of default boxes that the paper's formula makes of `size_range`.

        The first size of level k of m is s_k = s_min + (s_max - s_min) (k - 1) / (m - 1). With two sizes for
        each level, the second one is the geometric mean of s_k and s_(k+1). With any number, the ratio of
        neighbouring sizes is the same from s_k to s_(k+1). The series continues to s_(m+1).

        Returns
        -------
        list of float
            Sizes (px), from the highest level to the lowest one.

        References
        ----------
        Section 2.2 of [1]_.

        .. [1] W. Liu, D. Anguelov, D. Erhan, C. Szegedy, S. Reed, C.-Y. Fu, A. C. Berg, "SSD: Single shot
           MultiBox detector", ECCV, LNCS 9905:21-37, 2016.

        Examples
        --------
        Those of the paper, whose images have 300 px and whose networks have six levels:

        >>> from pipeline_lib.networks.ssd import SSDPlan
        >>> plan = SSDPlan(channels=(8,) * 6, heads=6, size_range=(0.2 * 300, 0.9 * 300))
        >>> [round(size, 1) for size in plan.formula_sizes()][:6]
        [60.0, 78.2, 102.0, 121.2, 144.0, 163.7]
        """
        smallest, largest = self.size_range
        step = (largest - smallest) / (self.heads - 1)
        first = smallest + step * np.arange(self.heads + 1)
        shares = np.arange(self.sizes_per_level) / self.sizes_per_level
        return [float(size * (next_ / size) ** share) for size, next_ in pairwise(first) for share in shares]

    def example(self) -> Self:
        """Return the plan with some sizes of default boxes, if they are not known yet.

        Returns
        -------
        SSDPlan
            Plan with sizes.
        """
        some = tuple(8.0 * number for number in range(1, self.heads * self.sizes_per_level + 1))
        return self.with_sizes(self.sizes or some)

    @property
    def _ratios(self) -> list[float]:
        """Ratios of width and height, also those of boxes turned by 90 degrees."""
        return [value for ratio in self.aspect_ratios for value in {ratio: None, 1 / ratio: None}]

    @property
    def default_boxes(self) -> npt.NDArray[np.float64]:
        """Default boxes of the pixel (0, 0) of the output, (boxes_per_cell, 4): y0, x0, y1, x1 (px).

        Their order is that of the channels of the output: by level, then shape (size, then ratio), then row
        and column in the level. Those of pixel (i, j) of the output are moved by (i, j) times `reduction`.

        Raises
        ------
        InputError
            If the sizes are not known yet.
        """
        found = []
        for stride, shapes in zip(self.strides, self.shapes, strict=True):
            centres = np.arange(self.reduction // stride) * stride + stride / 2
            y, x = np.meshgrid(centres, centres, indexing="ij")
            centre = np.stack([y, x], axis=-1).reshape(1, -1, 2)
            half = shapes[:, None] / 2
            found.append(np.concatenate([centre - half, centre + half], axis=2).reshape(-1, 4))
        return np.concatenate(found)

    @property
    def shapes(self) -> list[npt.NDArray[np.float64]]:
        """Height and width (px) of the default boxes of each level that predicts boxes, (shapes, 2) arrays.

        Raises
        ------
        InputError
            If the sizes are not known yet.
        """
        if not self.sizes:
            raise InputError("network.sizes: not chosen yet. Give the plan the sizes of `choose_boxes`.")
        return [
            np.array([(size / r**0.5, size * r**0.5) for size in sizes for r in self._ratios])
            for sizes in np.reshape(self.sizes, (self.heads, -1))
        ]

    @property
    def parameters(self) -> int:
        """Number of parameters: kernels, biases, and scales and shifts of normalisation."""
        own = 2 if self.batch_normalisation else 1  # scale and shift replace the bias
        widths = [self.input_channels] + [c for c in self.channels for _ in range(self.convolutions)]
        encoder = sum(9 * before * after + own * after for before, after in pairwise(widths))
        predicted = self.shapes_per_pixel * (self.classes + OFFSETS)
        heads = sum((9 * width + 1) * predicted for width in self.channels[-self.heads :])
        width = self.channels[-self.heads]
        masks = MASK_CONVOLUTIONS * (9 * width + 1) * width  # then the transposed and the last convolution
        masks += (4 * width + 1) * width + (width + 1) * (self.classes - 1)
        return encoder + heads + self.scaled_norm * width + self.masks * masks

    @property
    def values_per_pixel(self) -> float:
        """Largest number of values in memory per input pixel in a forward pass."""
        return max(
            3 * max(width / 4**level for level, width in enumerate(self.channels)),
            3 * self.output_channels / self.reduction**2,
        )

    def step_bytes_per_pixel(self, precision: str) -> float:
        """Return the peak memory of a training step per input pixel.

        Parameters
        ----------
        precision : str
            "float32", "bfloat16" or "auto". "auto" counts as "float32".

        Returns
        -------
        float
            Bytes per pixel of the input tile.
        """
        kept = sum(
            width / 4**level * (self.convolutions * (3 if self.batch_normalisation else 1) + 0.75)
            for level, width in enumerate(self.channels)
        )
        largest = max(width / 4**level for level, width in enumerate(self.channels))
        values = kept + largest + 6 * self.output_channels / self.reduction**2
        return STEP_BYTES.get(precision, STEP_BYTES["float32"]) * values

    def training_memory(
        self, tile: int, *, precision: str, on_gpu: bool, batch: int, volumes: int, pixels: int
    ) -> memory.Need:
        """Return the main memory that a training needs, with that of the mask head.

        Parameters
        ----------
        tile : int
            Side of the patches (px).
        precision : str
            "float32", "bfloat16" or "auto".
        on_gpu : bool
            True if the steps run on a GPU.
        batch : int
            Patches per iteration.
        volumes : int
            Number of training and validation volumes.
        pixels : int
            Number of pixels of all training and validation volumes.

        Returns
        -------
        memory.Need
            Bytes that training needs, and advice for the case that this is too much.
        """
        need = super().training_memory(
            tile, precision=precision, on_gpu=on_gpu, batch=batch, volumes=volumes, pixels=pixels
        )
        if not self.masks:
            return need
        width = self.channels[-self.heads]
        together = 1 if self._normalises() else memory.patches_at_once(tile, batch)
        masks = (self.geometry.output_size(tile) // self.reduction) ** 2  # at most one for each pixel
        values = width * (ROI**2 * (1 + MASK_CONVOLUTIONS) + 5 * MASK**2) + 6 * (self.classes - 1) * MASK**2
        # measured: up to 14 % less
        of_mask = MASK_STEP_BYTES.get(precision, MASK_STEP_BYTES["float32"]) * values
        step = 0 if on_gpu else of_mask * masks * together
        ahead = 24 * batch * masks * MASK**2  # targets of up to six batches
        return replace(need, bytes=need.bytes + ahead + step)

    def prediction_memory(self) -> memory.Need:
        """Return the memory that prediction needs with the smallest valid tile, or that of masks if larger.

        Returns
        -------
        memory.Need
            Bytes that prediction needs, and advice for the case that this is too much.
        """
        need = super().prediction_memory()
        if not self.masks:
            return need
        levels = enumerate(self.channels[: len(self.channels) - self.heads + 1])
        values = 3 * max(width / 4**level for level, width in levels)
        pixels = (MASK_WINDOW + 2 * self.margin + 8 * self.strides[0]) ** 2
        of_mask = self.channels[-self.heads] * (3 * ROI**2 + 2 * MASK**2) + 3 * (self.classes - 1) * MASK**2
        of_window = (4 * values + self.neighbour_bytes_per_pixel) * pixels
        masks = memory.KEPT * (of_window + 4 * MASKS_AT_ONCE * of_mask)
        of_masks = memory.Need("prediction of masks", memory.TORCH_PROCESS_BYTES + masks, self.smaller)
        return max(need, of_masks, key=lambda each: each.bytes)

    def build(self) -> SSD:
        """Return a new SSD with random initial parameters. This method imports torch.

        Returns
        -------
        SSD
            Torch module (`networks.ssd.module.SSD`) on the CPU.
        """
        from pipeline_lib.networks.ssd import module

        return module.SSD(self)
