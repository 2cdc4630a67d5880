"""Plan of the patch classifier, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from pipeline_lib.networks.encoder import EncoderPlan
from pipeline_lib.networks.plan import Geometry, setting
from pipeline_lib.runtime.errors import InputError

if TYPE_CHECKING:
    from pipeline_lib.networks.patch_classifier.module import PatchClassifier

# Memory of a forward pass in relation to the values in use. Measured: 0.9 to 1.8 with 2 to 4 levels of 16 to
# 64 channels and fully connected layers of 8 to 200.
FRAGMENTATION = 2
# Memory of a training step in relation to the float32 values that are kept for the gradient. Measured for the
# same networks: 0.8 to 1.1, in bfloat16 0.5 to 0.9.
STEP_BYTES = {"float32": 1.1, "bfloat16": 0.9}


@dataclass(frozen=True)
class PatchClassifierPlan(EncoderPlan):
    """Plan of a network that classifies each pixel from the window around it.

    Each level has unpadded convolutions with ReLU and then a 2x2 max pooling. Fully connected layers with
    ReLU and drop-out follow, and a last layer computes the logits of the window's centre pixel. See
    `networks.patch_classifier.module.PatchClassifier`.

    The defaults are the layers of the network N4 of [1]_.

    Parameters
    ----------
    input_channels : int, default 1
        Number of channels of the input.
    classes : int, default 2
        Number of channels of the output: the number of classes of the task.
    context_sections : int, default 0
        Number of neighbouring sections on each side that the network sees.
    channels : sequence of int, default (48, 48, 48, 48)
        Number of channels of each level.
    convolutions : sequence of int, default (1,)
        Number of convolutions of each level. A single number holds for all levels.
    kernel_sizes : sequence of int, default (4, 5, 4, 4)
        Size of the kernels of each level (px of the level). A single number holds for all levels.
    fc_channels : sequence of int, default (200,)
        Number of channels of each fully connected layer.
    dropout : float, default 0.5
        Drop-out rate after each fully connected layer, 0 <= `dropout` < 1.
    window : int, default 95
        Side of the window (px). The first fully connected layer takes all pixels of the lowest level that the
        window gives. The centre of an even window is the pixel `(window - 1) // 2`.

    Raises
    ------
    InputError
        If a setting has the wrong type or is out of range, if lists do not have one number per level, or if
        the poolings would leave pixels of the window unused.

    References
    ----------
    .. [1] D. C. Ciresan, A. Giusti, L. M. Gambardella, J. Schmidhuber, "Deep neural networks segment neuronal
       membranes in electron microscopy images", NIPS, 2843-2851, 2012.

    Examples
    --------
    >>> from pipeline_lib.networks.patch_classifier import PatchClassifierPlan
    >>> plan = PatchClassifierPlan()
    >>> plan.fc_size
    3
    >>> plan.geometry
    Geometry(stride=1, smallest=95, context=47)
    """

    name: ClassVar[str] = "patch_classifier"
    smaller: ClassVar[str] = "lower the numbers of `network.channels` or `network.fc_channels`"

    channels: tuple[int, ...] = setting(
        (48, 48, 48, 48),
        "Number of channels of each level. A 2x2 max pooling follows each level.",
        maxItems=7,
    )
    convolutions: tuple[int, ...] = setting(
        (1,), "Number of convolutions of each level. A single number holds for all levels."
    )
    kernel_sizes: tuple[int, ...] = setting(
        (4, 5, 4, 4), "Size of the kernels of each level. A single number holds for all levels."
    )
    fc_channels: tuple[int, ...] = setting((200,), "Number of channels of each fully connected layer.")
    window: int = setting(
        95,
        "Side of the window around a pixel from which its class is predicted. A window that does not fit the "
        "layers is refused with the nearest sizes that fit.",
        minimum=1,
        unit="px",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        smallest = self.levels_input(1)
        steps, rest = divmod(self.window - smallest, self.output_stride)
        if rest or steps < 0:
            sizes = [smallest + step * self.output_stride for step in range(3)]
            below = smallest + max(steps, 0) * self.output_stride
            raise InputError(
                f"network.window: a window of {self.window} px does not fit the layers: poolings would leave "
                f"pixels unused. Sizes that fit are {', '.join(map(str, sizes))}, ... px. Use {below} or "
                f"{below + self.output_stride}."
            )

    @property
    def fc_size(self) -> int:
        """Size of the kernel of the first fully connected layer (px of the lowest level)."""
        return (self.window - self.levels_input(1)) // self.output_stride + 1

    @property
    def geometry(self) -> Geometry:
        """Valid input sizes and context.

        Each pixel has its own window, so the stride is 1. An even window reaches one pixel further to the
        right and bottom than to the left and top; the context is the larger of the two.
        """
        context = self.window // 2
        return Geometry(stride=1, smallest=2 * context + 1, context=context)

    @property
    def parameters(self) -> int:
        """Number of parameters: kernels and biases."""
        return self.encoder_parameters

    @property
    def values_per_pixel(self) -> float:
        """Largest number of values in memory per input pixel in a forward pass (measured).

        A pooling holds its input, its output and 64-bit indices, and another layer its input and its output.
        """
        widths = [self.channels[-1], *self.fc_channels]
        layers = [before + after for before, after in pairwise(widths)]
        return FRAGMENTATION * max(4 * max(self.channels), *layers)

    def step_bytes_per_pixel(self, precision: str) -> float:
        """Return the peak memory of a training step per input pixel.

        It was measured, for tiles that are larger than a window. The results of convolutions and poolings,
        the indices of poolings and the masks of drop-out, kept for the gradient, are nearly all of it.

        Parameters
        ----------
        precision : str
            "float32", "bfloat16" or "auto". "auto" counts as "float32".

        Returns
        -------
        float
            Bytes per pixel of the input tile.
        """
        levels = sum(level.channels * (4 * level.convolutions + 4 + 8) for level in self.levels)
        kept = levels + sum(12 * channels for channels in self.fc_channels)
        return STEP_BYTES.get(precision, STEP_BYTES["float32"]) * kept

    def build(self) -> PatchClassifier:
        """Return a new patch classifier with random initial parameters. This method imports torch.

        Returns
        -------
        PatchClassifier
            Torch module (`networks.patch_classifier.module.PatchClassifier`) on the CPU.
        """
        from pipeline_lib.networks.patch_classifier import module

        return module.PatchClassifier(self)
