"""Plans of the fully convolutional networks FCN-32s, FCN-16s and FCN-8s, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline_lib.networks.encoder import EncoderPlan
from pipeline_lib.networks.plan import Geometry, setting
from pipeline_lib.runtime.errors import InputError

if TYPE_CHECKING:
    from pipeline_lib.networks.fcn.module import FCN

# Bytes of a training step per value of `FCNPlan.step_bytes_per_pixel`. Measured with 1 to 3 convolutions in 3
# to 5 levels of 4 to 512 channels and 2 to 21 classes: 3.3 to 4.1 and 2.2 to 2.7.
STEP_BYTES = {"float32": 4.2, "bfloat16": 2.8}


@dataclass(frozen=True)
class FCNPlan(EncoderPlan):
    """Base class of the plans of FCN-32s, FCN-16s and FCN-8s.

    The fully connected layers of a classifier, written as convolutions, give a coarse map of logits, one
    pixel per `output_stride` px. Transposed convolutions enlarge it to the resolution of the image. FCN-16s
    and FCN-8s first double it once or twice, and each time add logits of a higher level of the encoder.

    The names are right for the five levels of the paper. With four levels, the stride is 16 px, and the
    result is that of an "FCN-16s", "FCN-8s" or "FCN-4s".

    The paper pads images by 100 px and crops the result. Here nothing is padded: the crop removes what does
    not receive all its contributions, so that tiles have no seams.

    Parameters
    ----------
    input_channels : int, default 1
        Number of channels of the input.
    classes : int, default 2
        Number of channels of the output: the number of classes of the task.
    context_sections : int, default 0
        Number of neighbouring sections on each side that the network sees.
    channels, convolutions, kernel_sizes : sequence of int
        Levels of the encoder, see `networks.encoder.EncoderPlan`.
    fc_channels : sequence of int
        Channels of the fully connected layers, see `networks.encoder.EncoderPlan`.
    dropout : float, default 0.5
        Drop-out rate after each fully connected layer, 0 <= `dropout` < 1.
    fc_size : int, default 7
        Size of the kernel of the first fully connected layer (px of the lowest level).
    upsampling : {"learned", "fixed"}, default "learned"
        Whether the transposed convolutions, which start as bilinear interpolation, are trained.

    Raises
    ------
    InputError
        If the encoder has too few levels, or cannot be cropped symmetrically.

    References
    ----------
    Sections 3 and 4 of [1]_.

    .. [1] E. Shelhamer, J. Long, T. Darrell, "Fully convolutional networks for semantic segmentation", IEEE
       Transactions on Pattern Analysis and Machine Intelligence 39(4):640-651, 2017.
    """

    skips: ClassVar[int]  # number of levels whose logits are added
    smaller: ClassVar[str] = "lower the numbers of `network.channels` or `network.fc_channels`"

    fc_size: int = setting(
        7, "Size of the kernel of the first fully connected layer, in pixels of the lowest level.", minimum=1
    )
    upsampling: str = setting(
        "learned",
        "Whether the layers that enlarge the result, which start as bilinear interpolation, are trained.",
        enum=["learned", "fixed"],
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.channels) <= self.skips:
            raise InputError(
                f"network.channels: found {len(self.channels)} levels, expected at least {self.skips + 1} "
                f"for {self.name}."
            )
        for number, level in enumerate(self.levels, 1):
            if level.lost % 2:
                raise InputError(
                    f"network.kernel_sizes: the {level.convolutions} convolutions of level {number} with "
                    f"kernels of {level.kernel_size} px cut off an odd number of pixels. Use odd kernels, or "
                    "an even number of convolutions."
                )

    @property
    def skip_scales(self) -> tuple[float, ...]:
        """Factor of each level whose logits are added, from the lowest level."""
        return ()

    @property
    def enlargement(self) -> int:
        """Factor of the last upsampling."""
        return self.output_stride // 2**self.skips

    @property
    def geometry(self) -> Geometry:
        """Valid input sizes and context. With the defaults, FCN-32s maps 436 px to 32 px."""
        coarse = 1
        while self._output(coarse) < self.output_stride:  # the output of a tile is at least one stride
            coarse += 1
        before, after = self.encoder_input(coarse), self._output(coarse)
        return Geometry(stride=self.output_stride, smallest=before, context=(before - after) // 2)

    def _output(self, coarse: int) -> int:
        """Return the output size (px). Each upsampling by f cuts off f/2 px on each side."""
        for _ in range(self.skips):
            coarse = 2 * (coarse - 1)
        return self.enlargement * (coarse - 1)

    @property
    def parameters(self) -> int:
        """Number of parameters: of the encoder, the score layers and, if learned, of the upsampling."""
        added = self.channels[-1 - self.skips : -1]
        scores = sum((channels + 1) * self.classes for channels in added)
        kernels = [4] * self.skips + [2 * self.enlargement] if self.upsampling == "learned" else []
        return self.encoder_parameters + scores + sum(self.classes**2 * kernel**2 for kernel in kernels)

    def build(self) -> FCN:
        """Return a new network with random initial parameters. This method imports torch.

        Returns
        -------
        FCN
            Torch module (`networks.fcn.module.FCN`) on the CPU.
        """
        from pipeline_lib.networks.fcn import module

        return module.FCN(self)

    @property
    def values_per_pixel(self) -> float:
        """Largest number of values in memory per input pixel in a forward pass (measured)."""
        return 3 * max(self.classes, *(width for width, _ in self._widths()))

    def step_bytes_per_pixel(self, precision: str) -> float:
        """Return the peak memory of a training step per input pixel.

        It was measured. Nearly all of it is kept for the gradient: the results of convolutions, and for each
        pooling its result and the positions of the maxima.

        Parameters
        ----------
        precision : str
            "float32", "bfloat16" or "auto". "auto" counts as "float32".

        Returns
        -------
        float
            Bytes per pixel of the input tile.
        """
        widths = self._widths()
        kept = sum(width * (convolutions + 0.75) for width, convolutions in widths)
        kept += sum(self.fc_channels) / self.output_stride**2
        largest = max(width for width, _ in widths)
        values = kept + largest + 5 * self.classes
        return STEP_BYTES.get(precision, STEP_BYTES["float32"]) * values

    def _widths(self) -> list[tuple[float, int]]:
        """Return the channels per input pixel and the number of convolutions of each level."""
        return [(level.channels / 4**k, level.convolutions) for k, level in enumerate(self.levels)]


@dataclass(frozen=True)
class FCN32sPlan(FCNPlan):
    """Plan of FCN-32s: the coarse map of logits is enlarged to the image in one step, 32 times.

    Parameters
    ----------
    input_channels : int, default 1
        Number of channels of the input.
    classes : int, default 2
        Number of channels of the output: the number of classes of the task.
    context_sections : int, default 0
        Number of neighbouring sections on each side that the network sees.
    channels, convolutions, kernel_sizes : sequence of int
        Levels of the encoder, see `networks.encoder.EncoderPlan`.
    fc_channels : sequence of int
        Channels of the fully connected layers, see `networks.encoder.EncoderPlan`.
    dropout : float, default 0.5
        Drop-out rate after each fully connected layer, 0 <= `dropout` < 1.
    fc_size : int, default 7
        Size of the kernel of the first fully connected layer (px of the lowest level).
    upsampling : {"learned", "fixed"}, default "learned"
        Whether the transposed convolutions, which start as bilinear interpolation, are trained.

    Examples
    --------
    >>> from pipeline_lib.networks.fcn import FCN32sPlan
    >>> FCN32sPlan().geometry
    Geometry(stride=32, smallest=436, context=202)
    >>> f"{FCN32sPlan(classes=21, input_channels=3).parameters:,}"
    '136,152,917'
    """

    name: ClassVar[str] = "fcn32s"
    skips: ClassVar[int] = 0


@dataclass(frozen=True)
class FCN16sPlan(FCNPlan):
    """Plan of FCN-16s: logits are doubled, those of the fourth pooling added, and the sum enlarged 16 times.

    Parameters
    ----------
    input_channels : int, default 1
        Number of channels of the input.
    classes : int, default 2
        Number of channels of the output: the number of classes of the task.
    context_sections : int, default 0
        Number of neighbouring sections on each side that the network sees.
    channels, convolutions, kernel_sizes : sequence of int
        Levels of the encoder, see `networks.encoder.EncoderPlan`.
    fc_channels : sequence of int
        Channels of the fully connected layers, see `networks.encoder.EncoderPlan`.
    dropout : float, default 0.5
        Drop-out rate after each fully connected layer, 0 <= `dropout` < 1.
    fc_size : int, default 7
        Size of the kernel of the first fully connected layer (px of the lowest level).
    upsampling : {"learned", "fixed"}, default "learned"
        Whether the transposed convolutions, which start as bilinear interpolation, are trained.
    at_once : bool, default False
        If True, the results of poolings are scaled before their logits are computed: by 0.01 that of the
        second-lowest level, by 0.0001 that of the level above. The paper scales them to train all levels at
        once, instead of FCN-32s first, then FCN-16s from its parameters, then FCN-8s.

    Examples
    --------
    >>> from pipeline_lib.networks.fcn import FCN16sPlan
    >>> FCN16sPlan().geometry
    Geometry(stride=32, smallest=468, context=210)
    """

    name: ClassVar[str] = "fcn16s"
    skips: ClassVar[int] = 1

    at_once: bool = setting(
        False,
        "Whether results of poolings are scaled (by 0.01, and by 0.0001 one level above) before their logits "
        "are computed, as in the paper's training of all levels at once.",
    )

    @property
    def skip_scales(self) -> tuple[float, ...]:
        """Factor of each level whose logits are added, from the lowest level."""
        return tuple(0.01 ** (1 + skip) if self.at_once else 1.0 for skip in range(self.skips))


@dataclass(frozen=True)
class FCN8sPlan(FCN16sPlan):
    """Plan of FCN-8s: as FCN-16s, but doubled twice, with logits of the fourth and the third pooling.

    Parameters
    ----------
    input_channels : int, default 1
        Number of channels of the input.
    classes : int, default 2
        Number of channels of the output: the number of classes of the task.
    context_sections : int, default 0
        Number of neighbouring sections on each side that the network sees.
    channels, convolutions, kernel_sizes : sequence of int
        Levels of the encoder, see `networks.encoder.EncoderPlan`.
    fc_channels : sequence of int
        Channels of the fully connected layers, see `networks.encoder.EncoderPlan`.
    dropout : float, default 0.5
        Drop-out rate after each fully connected layer, 0 <= `dropout` < 1.
    fc_size : int, default 7
        Size of the kernel of the first fully connected layer (px of the lowest level).
    upsampling : {"learned", "fixed"}, default "learned"
        Whether the transposed convolutions, which start as bilinear interpolation, are trained.
    at_once : bool, default False
        If True, the results of poolings are scaled before their logits are computed: by 0.01 that of the
        second-lowest level, by 0.0001 that of the level above. The paper scales them to train all levels at
        once, instead of FCN-32s first, then FCN-16s from its parameters, then FCN-8s.

    Examples
    --------
    >>> from pipeline_lib.networks.fcn import FCN8sPlan
    >>> FCN8sPlan().geometry
    Geometry(stride=32, smallest=468, context=214)
    """

    name: ClassVar[str] = "fcn8s"
    skips: ClassVar[int] = 2
