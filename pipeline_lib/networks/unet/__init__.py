"""The U-Net (Ronneberger, Fischer & Brox 2015, figure 1) without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline_lib.networks.plan import Geometry, Plan, setting

if TYPE_CHECKING:
    from torch import nn

# px lost per up-sampling step so that nothing depends on what lies beyond the edge of a tile
UPSAMPLING_LOSS = {"up_convolution": 0, "nearest": 2, "bilinear": 4}
# What a forward pass holds at most per input pixel and base channel: five at the top of the way up (the
# up-convolution's output, both halves of the concatenation, two convolutions' outputs), and gaps between what
# was freed and what is asked for next. Measured: 3.9 to 10.1, at depths 2 to 5 and 4 to 64 base channels.
TILE_VALUES = 10
STEP_BYTES = {"float32": 72, "bfloat16": 50}  # per px of the tile and base channel, measured


@dataclass(frozen=True)
class UNetPlan(Plan):
    """The U-Net: `depth` 2x2 max-poolings, `base_channels` doubled at each.

    4 and 64 are the paper's network of 23 convolutional layers, 572 -> 388 px.
    """

    name: ClassVar[str] = "unet"
    smaller: ClassVar[str] = "lower `network.depth` or `network.base_channels`"

    depth: int = setting(4, "Number of 2x2 poolings.", minimum=1, maximum=7)
    base_channels: int = setting(64, "Channels of the first level, doubled at each pooling.", minimum=1)
    batch_normalisation: bool = setting(False, "Batch normalisation after each 3x3 convolution.")
    dropout: float = setting(
        0.5, "Drop-out rate at the end of the contracting path.", minimum=0, exclusiveMaximum=1
    )
    upsampling: str = setting(
        "up_convolution",
        "The way up, 2x2 up-convolution or interpolation followed by a convolution.",
        enum=[*UPSAMPLING_LOSS],
    )

    @property
    def geometry(self) -> Geometry:
        """Depth 4 takes 572 px and gives 388 (Ronneberger et al. 2015, figure 1)."""
        bottom = 5
        while self._sizes(bottom)[1] < 2**self.depth:  # tiles move on by whole strides
            bottom += 1
        before, after = self._sizes(bottom)
        return Geometry(stride=2**self.depth, smallest=before, context=(before - after) // 2)

    def _sizes(self, bottom: int) -> tuple[int, int]:
        """Input and output size (px) for a size of `bottom` px at the lowest level."""
        before, after = bottom, bottom - 4  # two unpadded 3x3 convolutions at the bottom
        for _ in range(self.depth):
            before = 2 * before + 4
            after = 2 * after - UPSAMPLING_LOSS[self.upsampling] - 4
        return before, after

    @property
    def parameters(self) -> int:
        """Convolutions' kernels and biases, and two numbers per channel in batch normalisation."""
        widths = [self.base_channels * 2**level for level in range(self.depth + 1)]
        kernel = {"up_convolution": 4, "nearest": 4, "bilinear": 9}[self.upsampling]
        own = 2 if self.batch_normalisation else 1  # scale and shift in place of the bias
        down = sum(
            9 * (before + after) * after + 2 * own * after
            for before, after in zip([self.input_channels, *widths], widths, strict=False)
        )
        up = sum((kernel * 2 * c + 1) * c + 9 * 3 * c * c + 2 * own * c for c in widths[:-1])
        return down + up + (self.base_channels + 1) * self.classes

    @property
    def values_per_pixel(self) -> float:
        """As measured, at the top of the way up."""
        return TILE_VALUES * self.base_channels

    def step_bytes_per_pixel(self, precision: str) -> float:
        """As measured; nearly all is kept for the gradient at the two highest levels."""
        return STEP_BYTES.get(precision, STEP_BYTES["float32"]) * self.base_channels

    def build(self) -> nn.Module:
        """A new U-Net with random parameters."""
        from pipeline_lib.networks.unet import module

        return module.UNet(self)
