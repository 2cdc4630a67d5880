"""Settings and sizes of networks that classify with an encoder and fully connected layers, without torch.

Their torch modules are in `networks.encoder_module`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from pipeline_lib.networks.plan import Plan, setting
from pipeline_lib.runtime.errors import InputError


class Level(NamedTuple):
    """One level of an encoder: convolutions, then a 2x2 max pooling.

    Parameters
    ----------
    channels : int
        Number of channels.
    convolutions : int
        Number of convolutions.
    kernel_size : int
        Size of their kernels (px of the level).
    """

    channels: int
    convolutions: int
    kernel_size: int

    @property
    def lost(self) -> int:
        """Pixels of the level that its convolutions cut off, both sides together."""
        return self.convolutions * (self.kernel_size - 1)


@dataclass(frozen=True)
class EncoderPlan(Plan):
    """Base class of the plans of networks with an encoder and fully connected layers.

    Each level of the encoder has unpadded convolutions with ReLU and then a 2x2 max pooling. The fully
    connected layers are written as convolutions: the first one has a kernel of `fc_size` x `fc_size`, the
    others one of 1x1. ReLU and drop-out follow each. A 1x1 convolution computes the logits of the classes.
    The result is a coarse map, with one pixel per `output_stride` px of the image.

    The defaults are the layers of VGG16 (configuration D of [1]_).

    Parameters
    ----------
    input_channels : int, default 1
        Number of channels of the input.
    classes : int, default 2
        Number of channels of the output: the number of classes of the task.
    context_sections : int, default 0
        Number of neighbouring sections on each side that the network sees.
    channels : sequence of int, default (64, 128, 256, 512, 512)
        Number of channels of each level.
    convolutions : sequence of int, default (2, 2, 3, 3, 3)
        Number of convolutions of each level. A single number holds for all levels.
    kernel_sizes : sequence of int, default (3,)
        Size of the kernels of each level (px of the level). A single number holds for all levels.
    fc_channels : sequence of int, default (4096, 4096)
        Number of channels of each fully connected layer.
    dropout : float, default 0.5
        Drop-out rate after each fully connected layer, 0 <= `dropout` < 1.

    Raises
    ------
    InputError
        If a setting has the wrong type or is out of range, or if lists do not have one number per level.

    References
    ----------
    .. [1] K. Simonyan, A. Zisserman, "Very deep convolutional networks for large-scale image recognition",
       ICLR, 2015.
    """

    channels: tuple[int, ...] = setting(
        (64, 128, 256, 512, 512),
        "Number of channels of each level. A 2x2 max pooling follows each level.",
        maxItems=7,
    )
    convolutions: tuple[int, ...] = setting(
        (2, 2, 3, 3, 3), "Number of convolutions of each level. A single number holds for all levels."
    )
    kernel_sizes: tuple[int, ...] = setting(
        (3,), "Size of the kernels of each level. A single number holds for all levels."
    )
    fc_channels: tuple[int, ...] = setting((4096, 4096), "Number of channels of each fully connected layer.")
    dropout: float = setting(
        0.5, "Drop-out rate after each fully connected layer.", minimum=0, exclusiveMaximum=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("convolutions", "kernel_sizes"):
            count = len(getattr(self, key))
            if count not in (1, len(self.channels)):
                raise InputError(
                    f"network.{key}: found {count} numbers, expected one for each of the "
                    f"{len(self.channels)} levels of `network.channels`, or a single one for all of them."
                )

    @property
    @abstractmethod
    def fc_size(self) -> int:
        """Size of the kernel of the first fully connected layer (px of the lowest level)."""

    @property
    def levels(self) -> list[Level]:
        """Levels of the encoder, from the highest resolution to the lowest."""
        count = len(self.channels)
        each = (
            values if len(values) == count else values * count
            for values in (self.convolutions, self.kernel_sizes)
        )
        return [Level(*level) for level in zip(self.channels, *each, strict=True)]

    @property
    def output_stride(self) -> int:
        """Distance in the image between neighbouring pixels of the coarse map (px)."""
        return int(2 ** len(self.channels))

    def encoder_input(self, coarse: int) -> int:
        """Return the input size for which encoder and fully connected layers give a coarse map of a size.

        Parameters
        ----------
        coarse : int
            Size of the coarse map (px), at least 1.

        Returns
        -------
        int
            Size of the input (px). With 1, it is the window that a pixel of the coarse map sees.
        """
        return self.levels_input(coarse + self.fc_size - 1)

    def levels_input(self, pixels: int) -> int:
        """Return the input size for which the last level gives `pixels` pixels.

        Parameters
        ----------
        pixels : int
            Size of the result of the last level.

        Returns
        -------
        int
            Size of the input (px).
        """
        for level in reversed(self.levels):
            pixels = 2 * pixels + level.lost
        return pixels

    @property
    def encoder_parameters(self) -> int:
        """Number of parameters of encoder, fully connected layers and score layer, with their biases."""
        widths = [self.input_channels]
        kernels = []
        for level in self.levels:
            widths += [level.channels] * level.convolutions
            kernels += [level.kernel_size] * level.convolutions
        widths += [*self.fc_channels, self.classes]
        kernels += [self.fc_size] + [1] * len(self.fc_channels)
        return sum(
            (before * kernel**2 + 1) * after
            for (before, after), kernel in zip(pairwise(widths), kernels, strict=True)
        )
