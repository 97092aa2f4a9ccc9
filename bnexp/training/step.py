"""One optimizer step of a population: eager, or replayed from a CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from bnexp.training.optim import Optimizer
from bnexp.training.population import Population
from bnexp.training.precision import Precision

log = logging.getLogger(__name__)

# Eager warm-up steps before CUDA-graph capture: libraries choose their kernels and allocate buffers in them.
_WARM_UP = 3


# A function called with the losses [M], the logits [M, B, K] and the classes [M, B] of each step.
Note = Callable[[Tensor, Tensor, Tensor], None]
# A step: (x_MB, y_MB, factor) -> losses [M].
Do = Callable[[Tensor, Tensor, Tensor], Tensor]
# Captures some work on the device, and returns a function that replays it on the same memory.
Recorder = Callable[[Callable[[], None]], Callable[[], None]]


class Step:
    """Forward, backward, update, and recording of the results; all on the device, and nothing waits for it.

    A member whose gradient overflows in fp16 is not updated, and its loss counts as in any other step.

    Args:
        population: updated in place.
        optimizer: updates the population.
        precision: number formats of the step.
        note: records the step's losses and logits.
        label_smoothing: of the loss, see ``mean_loss``.
        accumulate: parts that the batch is split into, see ``_learn``.
    """

    def __init__(
        self,
        population: Population,
        optimizer: Optimizer,
        precision: Precision,
        note: Note,
        *,
        label_smoothing: float = 0.0,
        accumulate: int = 1,
    ) -> None:
        self.population, self.optimizer, self.precision, self.note = population, optimizer, precision, note
        self._smoothing, self._parts = label_smoothing, accumulate

    def __call__(self, x_MB: Tensor, y_MB: Tensor, factor: Tensor) -> Tensor:
        """Train on a batch (x_MB..., y_MB) at ``factor`` (a scalar tensor) times the base rates; returns losses [M]."""
        loss_M, logits_MBK = self._learn(x_MB, y_MB)
        sound_M = self.precision.unscale(self.population.gradient_MP, self.optimizer.frozen_MP)
        self.optimizer.step(factor, sound_M)
        loss_M = self.precision.judged(loss_M)
        self.note(loss_M, logits_MBK, y_MB)
        return loss_M

    def _learn(self, x_MB: Tensor, y_MB: Tensor) -> tuple[Tensor, Tensor]:
        """Losses, logits and gradient of a batch: means over its images, summed up over one micro-batch after another.

        Only one micro-batch's graph lives at a time. Sizes differ by at most one image; the larger ones come first.
        """
        learn, gradient_MP = self.population.learn, self.population.gradient_MP
        if self._parts == 1:
            return learn(x_MB, y_MB, self.precision, self._smoothing)
        sum_MP, losses, logits = torch.zeros_like(gradient_MP), [], []
        for x_MC, y_MC in zip(x_MB.tensor_split(self._parts, 1), y_MB.tensor_split(self._parts, 1), strict=True):
            loss_M, logits_MCK = learn(x_MC, y_MC, self.precision, self._smoothing)
            share = y_MC.shape[1] / y_MB.shape[1]
            sum_MP.add_(gradient_MP, alpha=share)
            losses.append(loss_M * share)
            logits.append(logits_MCK)
        gradient_MP.copy_(sum_MP)
        return torch.stack(losses).sum(0), torch.cat(logits, 1)


class ReplayedStep:
    """A step captured as a CUDA graph and replayed: one launch instead of one per kernel, which limits small nets.

    Batches of another shape than the first run eagerly. If capture fails, all steps run eagerly, and the log says why:
    capture fails if a kernel waits for the device, as the eigenvectors of ``zca`` do.

    Args:
        step: the step to capture.
        recorder: captures it: ``cuda_graph``.
    """

    def __init__(self, step: Step, recorder: Recorder) -> None:
        self._step, self._recorder = step, recorder
        self._do: Do = step
        self._shape: torch.Size | None = None
        self._left = _WARM_UP

    def __call__(self, x_MB: Tensor, y_MB: Tensor, factor: Tensor) -> Tensor:
        """Call the step like ``Step``; the next step overwrites the losses."""
        self._shape = self._shape or x_MB.shape
        if x_MB.shape != self._shape:
            return self._step(x_MB, y_MB, factor)
        if self._left == 0:
            self._do = _recorded(self._step, self._recorder, x_MB, y_MB, factor)
        self._left -= 1
        return self._do(x_MB, y_MB, factor)


def _recorded(step: Step, recorder: Recorder, *given: Tensor) -> Do:
    """A function that replays the step on copies of its inputs, or the eager step if capture fails."""
    inputs = tuple(each.clone() for each in given)
    losses: list[Tensor] = []
    try:
        replay = recorder(lambda: losses.append(step(*inputs)))
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        log.warning("graph=true: CUDA graph capture failed (%s); running eagerly", reason)
        return step

    def do(*batch: Tensor) -> Tensor:
        for own, each in zip(inputs, batch, strict=True):
            own.copy_(each)
        replay()
        return losses[-1]

    return do


def cuda_graph(work: Callable[[], None]) -> Callable[[], None]:
    """Capture the kernels of ``work`` as a CUDA graph without running them; returns a function that replays them all.

    Raises:
        RuntimeError: ``work`` waits for the device, or allocates memory in a way that capture forbids.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
