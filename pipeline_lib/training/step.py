"""One training step: an update of the network, on one or several devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from pipeline_lib import memory
from pipeline_lib.data.patches import Patch
from pipeline_lib.inference.passes import autocast
from pipeline_lib.networks.module import Network
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.processes import ALONE, Processes
from pipeline_lib.tasks import Task
from pipeline_lib.training.randomness import DropoutByPatch, generator_of, loss_mask
from pipeline_lib.training.schedule import Settings, learning_rate, set_learning_rate


class TooLarge(Exception):
    """The memory of the device is too small even for the smallest tile.

    Parameters
    ----------
    tile : int
        Smallest tile (px).
    why : str
        Message of torch.
    """

    def __init__(self, tile: int, why: str) -> None:
        super().__init__(f"the memory of the device is too small even for tiles of {tile} px ({why})")


class Step:
    """Training step: one update of a network with a batch of patches.

    Parameters
    ----------
    net : Network
        Network to train, on its device.
    optimizer : torch.optim.Optimizer
        Optimiser of the parameters of `net`.
    task : Task
        Task whose loss is minimised.
    settings : Settings
        Settings of the training.
    seed : int
        Seed of the loss mask and of drop-out, together with the number of each patch.
    precision : torch.dtype, default torch.float32
        Type of the convolutions.
    processes : Processes, default one process
        Processes that share each batch.
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
        self.rim = 0  # px cut off on each side of a patch, if the memory is too small for whole patches
        # patches processed together; batch normalisation would mix their statistics
        self.at_once = 1 if _running_means(net) else memory.patches_at_once(settings.tile, settings.batch)

    @property
    def tile(self) -> int:
        """Side of the tiles (px). It is smaller than `settings.tile` if the memory was too small for that."""
        return self.settings.tile - 2 * self.rim

    def share(self, iteration: int) -> list[int]:
        """Return the numbers of the patches that this process handles in the batch of `iteration`."""
        batch = self.settings.batch
        return [iteration * batch + k for k in self.processes.share(batch)]

    def __call__(
        self, patches: Sequence[Patch], iteration: int, ending: Callable[[], bool] = lambda: False
    ) -> tuple[Tensor, bool]:
        """Update the network with a batch, of which this process handles its share.

        If the device runs out of memory, all processes repeat the step with less memory: first fewer patches
        are processed together, then activations are computed twice, then tiles become smaller.

        Parameters
        ----------
        patches : sequence of (image, truth)
            Patches of this process, in the order of `share`.
        iteration : int
            Number of the iteration, from 0.
        ending : callable, optional
            Function that returns True if this process received a signal to end.

        Returns
        -------
        loss : Tensor, float32
            Mean loss of the whole batch, as a scalar on the device, so that the CPU need not wait for it.
        any_ending : bool
            True if any process received a signal to end.

        Raises
        ------
        TooLarge
            If the memory is too small even for the smallest tile.
        """
        set_learning_rate(self.optimizer, learning_rate(iteration, self.settings))
        loss, out_of_memory = self._gradients(patches, iteration)
        short, any_ending = self.processes.any(bool(out_of_memory), ending())
        if short:
            self._save_memory(out_of_memory or "another process ran out of memory")
            return self(patches, iteration, lambda: any_ending)
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        self.processes.sum_([*gradients, *_running_means(self.net), loss])
        self.optimizer.step()
        return loss, any_ending

    def _gradients(self, patches: Sequence[Patch], iteration: int) -> tuple[Tensor, str]:
        """Compute the share of this process in the mean gradient and the running means of the batch.

        Both are left in the network. Returns the share in the mean loss, and the message of torch if memory
        ran out. Small patches are processed in groups, which is faster. Large patches are processed one at a
        time, so that the memory is that of one patch, and so are all patches if there is batch normalisation,
        so that it does not depend on the number of processes.
        """
        before = [buffer.clone() for buffer in self.net.buffers()]
        running = [torch.zeros_like(mean) for mean in _running_means(self.net)]
        device = next(self.net.parameters()).device
        total = torch.zeros((), device=device)
        reduction = self.net.plan.reduction
        counts = [self.task.count(self.net.plan, self.without_rim(truth, reduction)) for _, truth in patches]
        count = torch.tensor(float(sum(counts)), device=device)
        self.processes.sum_([count])
        count.clamp_(min=1)
        self.optimizer.zero_grad(set_to_none=True)
        try:
            numbered = [*zip(self.share(iteration), patches, strict=True)]
            for first in range(0, len(numbered), self.at_once):
                numbers, group = zip(*numbered[first : first + self.at_once], strict=True)
                image = torch.cat([self.without_rim(own) for own, _ in group])
                truth = torch.cat([self.without_rim(own, reduction) for _, own in group])
                mask, dropout = self._randomness(numbers, truth)
                _copy(before, self.net.buffers())
                with autocast(device, self.precision), dropout:
                    image = image.contiguous(memory_format=torch.channels_last)
                    output = self.task.forward(self.net, image, truth)
                loss = self.task.loss(output, truth, mask) / count
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

    def _randomness(self, numbers: Sequence[int], truth: Tensor) -> tuple[Tensor | None, DropoutByPatch]:
        """Return the loss mask of patches, and the context in which each has its own drop-out.

        Both depend on the seed and the numbers of the patches only.
        """
        generator, share = generator_of(truth.device), self.settings.loss_mask
        masks, states = [], []
        for number in numbers:
            torch.manual_seed(self.seed * 2**31 + number)
            if share is not None:
                masks.append(loss_mask(share, (truth.shape[2], truth.shape[3]), truth.device))
            states.append(generator.get_state())
        return torch.stack(masks) if masks else None, DropoutByPatch(states, truth.device)

    def without_rim(self, part: Tensor, reduction: int = 1) -> Tensor:
        """Cut the rim off `part` (..., y, x), the image of a patch, or its truth with the net's reduction."""
        rim = self.rim // reduction
        return part[..., rim : part.shape[-2] - rim, rim : part.shape[-1] - rim]

    def _save_memory(self, why: str) -> None:
        """Process fewer patches together, or else compute activations twice, or else use smaller tiles.

        Computing activations twice does not change the result. With batch normalisation it would, because
        each tile would count twice in the running means, so tiles become smaller at once.
        """
        if self.at_once > 1:
            logger.info(
                "the memory of the device is too small for %d patches together (%s). Smaller groups give the "
                "same model, up to rounding.",
                self.at_once,
                why,
            )
            self.at_once //= 2
            return
        geometry, tile = self.net.geometry, self.tile
        if not (self.net.checkpointing or _running_means(self.net)):
            self.net.checkpointing = True
            logger.info(
                "the memory of the device is too small for tiles of %d px (%s). Activations are now computed "
                "twice instead of kept: training takes longer and gives the same model.",
                tile,
                why,
            )
            return
        smaller = geometry.input_size(max(geometry.output_size(tile) * 3 // 4, 1))
        rim = -((smaller - tile) // 2)  # rounded up: with a stride of 1 px, the difference can be odd
        rim += -rim % self.net.plan.reduction
        if rim == 0 or tile - 2 * rim < geometry.smallest:
            raise TooLarge(tile, why)
        self.rim += rim
        logger.warning(
            "the memory of the device is too small for tiles of %d px (%s). Training continues with tiles of "
            "%d px, which gives a different model. Set `training.tile: %d` to start with them.",
            tile,
            why,
            self.tile,
            self.tile,
        )


def _running_means(net: nn.Module) -> list[Tensor]:
    """Return the running means and variances of batch normalisation (its counters are integers).

    Those of frozen parts, which are in evaluation mode, are not among them: they do not change.
    """
    learning = (module for module in net.modules() if module.training)
    buffers = (buffer for module in learning for buffer in module.buffers(recurse=False))
    return [buffer for buffer in buffers if buffer.is_floating_point()]


def _copy(source: Iterable[Tensor], target: Iterable[Tensor]) -> None:
    """Copy the values of each tensor of `source` to the tensor of `target` at the same place."""
    for a, b in zip(source, target, strict=True):
        b.copy_(a)
