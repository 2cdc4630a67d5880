"""Plan of the U-Net, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline_lib.networks.plan import Geometry, Plan, setting

if TYPE_CHECKING:
    from pipeline_lib.networks.unet.module import UNet

# Pixels that each up-sampling step cuts off (both sides together), so that no output depends on padding.
UPSAMPLING_LOSS = {"up_convolution": 0, "nearest": 2, "bilinear": 4, "bed_of_nails": 2, "max_unpooling": 0}
# Largest number of values in memory during a forward pass, per input pixel and base channel. Five are in use
# at the end of the expanding path: the output of the up-convolution, both halves of the concatenation and the
# outputs of two convolutions. The rest is fragmentation of the memory. Measured: 3.9 to 10.1 at depths 2 to 5
# with 4 to 64 base channels, and 6.0 to 9.4 with the other ways of up-sampling.
TILE_VALUES = 10
STEP_BYTES = {"float32": 72, "bfloat16": 50}  # bytes per px of the tile and base channel, measured
RESIDUAL_STEP_BYTES = {"float32": 16, "bfloat16": 8}  # in addition, with residual blocks, measured
# For each channel of the output beyond two, in a forward pass and a training step: 3.5 values and 43 bytes
# per px with 12 affinities, measured
OUTPUT_VALUES, OUTPUT_STEP_BYTES = 4, 44


@dataclass(frozen=True)
class UNetPlan(Plan):
    """Plan of the U-Net.

    The defaults are the network of the paper: 23 convolutional layers and an input tile of 572 px for an
    output tile of 388 px.

    Parameters
    ----------
    input_channels : int, default 1
        Number of channels of the input.
    classes : int, default 2
        Number of channels of the output: the number of classes of the task, and of affinities, if any.
    context_sections : int, default 0
        Number of neighbouring sections on each side that the network sees.
    depth : int, default 4
        Number of 2x2 max poolings, 1 to 7.
    base_channels : int, default 64
        Channels of the first level. Each pooling doubles the number of channels.
    batch_normalisation : bool, default False
        If True, batch normalisation follows each 3x3 convolution.
    dropout : float, default 0.5
        Drop-out rate at the end of the contracting path (its two lowest levels), 0 <= `dropout` < 1.
    upsampling : {"up_convolution", "nearest", "bilinear", "bed_of_nails", "max_unpooling"}
        How the expanding path doubles the resolution, see `networks.unet.module.UNet`. The default
        is "up_convolution".
    residual : bool, default False
        If True, the two 3x3 convolutions of a level learn what is added to its input, see
        `networks.unet.module.Residual`.

    References
    ----------
    Section 2 and figure 1 of [1]_.

    .. [1] O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional networks for biomedical image
       segmentation", MICCAI, LNCS 9351:234-241, 2015.

    Examples
    --------
    >>> from pipeline_lib.networks.unet import UNetPlan
    >>> plan = UNetPlan()
    >>> plan.geometry.output_size(572)
    388
    >>> f"{plan.parameters:,}"
    '31,030,658'
    """

    name: ClassVar[str] = "unet"
    smaller: ClassVar[str] = "lower `network.depth` or `network.base_channels`"

    depth: int = setting(4, "Number of 2x2 max poolings.", minimum=1, maximum=7)
    base_channels: int = setting(
        64, "Number of channels of the first level. Each pooling doubles it.", minimum=1
    )
    batch_normalisation: bool = setting(False, "Whether batch normalisation follows each 3x3 convolution.")
    dropout: float = setting(
        0.5, "Drop-out rate at the end of the contracting path.", minimum=0, exclusiveMaximum=1
    )
    upsampling: str = setting(
        "up_convolution",
        "How the expanding path doubles the resolution: 2x2 up-convolution as in the paper; `nearest` or "
        "`bilinear` interpolation and a convolution; `bed_of_nails`, a 4x4 convolution of the pixels with "
        "zeros between them; `max_unpooling`, which puts values where the poolings found their maxima.",
        enum=[*UPSAMPLING_LOSS],
    )
    residual: bool = setting(
        False,
        "Whether a 1x1 convolution of the input of each level is added to the result of its two 3x3 "
        "convolutions (residual blocks). Without this setting, nothing is added.",
        optional=True,
    )

    @property
    def geometry(self) -> Geometry:
        """Valid input sizes and context. At depth 4, a tile of 572 px gives 388 px (figure 1)."""
        bottom = 5
        while self._sizes(bottom)[1] < 2**self.depth:  # the output of a tile is at least one stride
            bottom += 1
        before, after = self._sizes(bottom)
        return Geometry(stride=2**self.depth, smallest=before, context=(before - after) // 2)

    def _sizes(self, bottom: int) -> tuple[int, int]:
        """Return the input and output size (px) for a size of `bottom` px at the lowest level."""
        before, after = bottom, bottom - 4  # two unpadded 3x3 convolutions at the bottom
        for _ in range(self.depth):
            before = 2 * before + 4
            after = 2 * after - UPSAMPLING_LOSS[self.upsampling] - 4
        return before, after

    @property
    def supervised_levels(self) -> int:
        """Levels of the expanding path below the last one."""
        return self.depth - 1

    @property
    def parameters(self) -> int:
        """Number of parameters: kernels, biases, and scale and shift per channel of batch normalisation."""
        widths = [self.base_channels * 2**level for level in range(self.depth + 1)]
        kernels = {"up_convolution": 4, "nearest": 4, "bilinear": 9, "bed_of_nails": 16, "max_unpooling": 1}
        own = 2 if self.batch_normalisation else 1  # scale and shift replace the bias
        down = sum(
            9 * (before + after) * after + 2 * own * after
            for before, after in zip([self.input_channels, *widths], widths, strict=False)
        )
        kernel = kernels[self.upsampling]
        up = sum((kernel * 2 * c + 1) * c + 9 * 3 * c * c + 2 * own * c for c in widths[:-1])
        added = sum(a * b for a, b in zip([self.input_channels, *widths], widths, strict=False))
        added += sum(2 * c * c for c in widths[:-1])
        return down + up + self.residual * added + (self.base_channels + 1) * self.classes

    @property
    def values_per_pixel(self) -> float:
        """Largest number of values in memory per input pixel in a forward pass (measured)."""
        return TILE_VALUES * self.base_channels + OUTPUT_VALUES * max(self.classes - 2, 0)

    def step_bytes_per_pixel(self, precision: str) -> float:
        """Return the peak memory of a training step per input pixel.

        It was measured. Activations of the two highest levels, kept for the gradient, are nearly all of it.

        Parameters
        ----------
        precision : str
            "float32", "bfloat16" or "auto". "auto" counts as "float32".

        Returns
        -------
        float
            Bytes per pixel of the input tile.
        """
        of_output = OUTPUT_STEP_BYTES * max(self.classes - 2, 0)
        of_channel = STEP_BYTES.get(precision, STEP_BYTES["float32"])
        if self.residual:
            of_channel += RESIDUAL_STEP_BYTES.get(precision, RESIDUAL_STEP_BYTES["float32"])
        return of_channel * self.base_channels + of_output

    def build(self) -> UNet:
        """Return a new U-Net with random initial parameters. This method imports torch.

        Returns
        -------
        UNet
            Torch module (`networks.unet.module.UNet`) on the CPU.
        """
        from pipeline_lib.networks.unet import module

        return module.UNet(self)
