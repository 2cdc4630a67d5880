"""One update of a network, on one device or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from pipeline_lib.data.patches import Patch
from pipeline_lib.inference.passes import autocast
from pipeline_lib.networks.module import Network
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.processes import ALONE, Processes
from pipeline_lib.tasks import Task
from pipeline_lib.training.schedule import Settings, learning_rate


class TooLarge(Exception):
    """Even the smallest tile does not fit into the device's memory."""

    def __init__(self, tile: int, why: str) -> None:
        super().__init__(f"even tiles of {tile} px do not fit into the device's memory ({why})")


class Step:
    """Updates a network with batches of patches.

    Parameters
    ----------
    net : Network
        On its device.
    optimizer : torch.optim.Optimizer
        Of the parameters of `net`.
    task : Task
        Whose loss is minimised.
    settings : Settings
    seed : int
        Of the drop-out, with the number of each patch.
    precision : torch.dtype
        Of the convolutions.
    processes : Processes
        Those that share each batch.
    """

    def __init__(
        self,
        net: Network,
        optimizer: torch.optim.Optimizer,
        task: Task,
        settings: Settings,
        seed: int,
        precision: torch.dtype = torch.float32,
        processes: Processes = ALONE,
    ) -> None:
        self.net, self.optimizer, self.task, self.settings = net, optimizer, task, settings
        self.seed, self.precision, self.processes = seed, precision, processes
        self.rim = 0  # px taken off each side of a patch that the device's memory does not hold

    @property
    def tile(self) -> int:
        """Side in px of the tiles that the device's memory holds."""
        return self.settings.tile - 2 * self.rim

    def share(self, iteration: int) -> list[int]:
        """The numbers of this process's patches in the batch of `iteration`."""
        batch = self.settings.batch
        return [iteration * batch + k for k in self.processes.share(batch)]

    def __call__(
        self, patches: Sequence[Patch], iteration: int, ending: Callable[[], bool] = lambda: False
    ) -> tuple[Tensor, bool]:
        """One update with this process's share of the batch of `iteration`.

        If the device's memory does not hold a patch, all processes begin again with less: activations are
        computed twice, then tiles are smaller.

        Parameters
        ----------
        patches : sequence of (image, truth)
            In the order of `share`.
        iteration : int
            0-based.
        ending : callable
            Returns whether this process was asked to end.

        Returns
        -------
        Tensor, bool
            Mean loss of the whole batch, which stays on the device so that the CPU need not wait for it, and
            whether any process was asked to end.

        Raises
        ------
        TooLarge
            If the smallest tile does not fit.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(iteration, self.settings)
        loss, out_of_memory = self._gradients(patches, iteration)
        short, any_ending = self.processes.any(bool(out_of_memory), ending())
        if short:
            self._save_memory(out_of_memory or "that of another process")
            return self(patches, iteration, lambda: any_ending)
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        self.processes.sum_([*gradients, *_running_means(self.net), loss])
        self.optimizer.step()
        return loss, any_ending

    def _gradients(self, patches: Sequence[Patch], iteration: int) -> tuple[Tensor, str]:
        """Leave this process's share of the batch's mean gradient and running means in the network.

        Returns its share of the mean loss, and why memory ran out where it did. One patch at a time: as much
        memory as one takes, and what batch normalisation sees does not depend on how patches are shared out.
        """
        before = [buffer.clone() for buffer in self.net.buffers()]
        running = [torch.zeros_like(mean) for mean in _running_means(self.net)]
        device = next(self.net.parameters()).device
        total = torch.zeros((), device=device)
        self.optimizer.zero_grad(set_to_none=True)
        try:
            for number, (image, truth) in zip(self.share(iteration), patches, strict=True):
                torch.manual_seed(self.seed * 2**31 + number)  # drop-out, too, is a function of the patch
                _copy(before, self.net.buffers())
                with autocast(device, self.precision):
                    output = self.net(self._middle(image).contiguous(memory_format=torch.channels_last))
                loss = self.task.loss(output, self._middle(truth)) / self.settings.batch
                del output
                loss.backward()
                total += loss.detach()
                for mean, seen in zip(running, _running_means(self.net), strict=True):
                    mean += seen / self.settings.batch
        except torch.cuda.OutOfMemoryError as error:
            _copy(before, self.net.buffers())
            return total, str(error).splitlines()[0]
        _copy(running, _running_means(self.net))
        return total, ""

    def _middle(self, part: Tensor) -> Tensor:
        """`part` (..., y, x) of a patch without the rim."""
        return part[..., self.rim : part.shape[-2] - self.rim, self.rim : part.shape[-1] - self.rim]

    def _save_memory(self, why: str) -> None:
        """Compute activations twice instead of keeping them; where that is not enough, take smaller tiles.

        The first changes no number, but for batch normalisation, which would count every tile twice.
        """
        geometry, tile = self.net.geometry, self.tile
        if not (self.net.checkpointing or _running_means(self.net)):
            self.net.checkpointing = True
            logger.info(
                "tiles of %d px do not fit into the device's memory (%s): activations are computed twice "
                "instead of kept, which takes longer and gives the same model",
                tile,
                why,
            )
            return
        smaller = geometry.input_size(max(geometry.output_size(tile) * 3 // 4, 1))
        if smaller == tile:
            raise TooLarge(tile, why)
        self.rim += (tile - smaller) // 2
        logger.warning(
            "tiles of %d px do not fit into the device's memory (%s): going on with tiles of %d px, which "
            "gives another model; set `training.tile: %d` to begin with them",
            tile,
            why,
            smaller,
            smaller,
        )


def _running_means(net: nn.Module) -> list[Tensor]:
    """What batch normalisation averages over the updates; its number of updates is a whole number."""
    return [buffer for buffer in net.buffers() if buffer.is_floating_point()]


def _copy(source: Iterable[Tensor], target: Iterable[Tensor]) -> None:
    for a, b in zip(source, target, strict=True):
        b.copy_(a)
