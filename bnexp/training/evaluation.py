"""Loss, accuracy and calibration in evaluation mode, under the statistics that the norms are set to.

Batch norms evaluate with *running* averages of their training batches, with *precise* statistics
(``bnexp.training.statistics``), or with those of each evaluated batch. Norms without batch statistics are not affected.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bnexp.data import Split
from bnexp.models.layers import batch_norms
from bnexp.training.losses import accuracy, each_loss, right, wide
from bnexp.training.passes import Pass, filled_up, places
from bnexp.training.population import Population

Measures = dict[str, list[float]]
Forward = Callable[[Tensor], Tensor]
# (population, inputs (M, B, ...), classes [M, B]) -> changed inputs.
Attack = Callable[[Population, Tensor, Tensor], Tensor]
# Intervals of the confidence in which the calibration error compares it to the accuracy (Guo et al. 2017, sec. 5).
_BINS = 15


def evaluate(
    population: Population,
    split: Split,
    batch_size: int,
    *,
    attack: Attack | None = None,
    calibrated: bool = False,
    classes: tuple[int, ...] | None = None,
    forward: Forward | None = None,
) -> Measures:
    """Mean cross-entropy (nats) and ``accuracy`` (0 to 1) of every member on all of a split: {quantity: [M]}.

    Args:
        population: the members.
        split: the images.
        batch_size: images per forward pass.
        attack: changes the inputs, batch by batch.
        calibrated: measure ``ece`` too, see ``_gaps``.
        classes: those among which the population answers, and to which all images belong; None means all classes.
        forward: answers with logits [M, B, K] instead of the population; used in this pass alone.
    """
    moved = any(layer.source == "batch" or layer.own for layer in batch_norms(population.members[0]))
    given = split, batch_size, attack, calibrated, classes, moved
    scores = population.kept(_Scores, *given) if forward is None else _Scores(population, *given, forward)
    with population.evaluating():
        return scores()


class _Scores:
    """The sums of losses and hits of a population over a split."""

    def __init__(
        self,
        population: Population,
        split: Split,
        batch_size: int,
        attack: Attack | None,
        calibrated: bool,
        classes: tuple[int, ...] | None,
        moved: bool,
        forward: Forward | None = None,
    ) -> None:
        self._population, self._images, members = population, len(split), len(population)
        self._attack, self._forward = attack, forward or population
        self._loss_M = torch.zeros(members, dtype=torch.float64, device=split.y.device)
        self._hits_M = torch.zeros_like(self._loss_M)
        self._classes_K = None if classes is None else torch.tensor(classes, device=split.y.device)
        self._gap_MQ = self._loss_M.new_zeros(members, _BINS) if calibrated else None
        # What moves statistics, or learns as it goes on, has a state of its own, and looks at a batch as a whole.
        record = None if moved or forward is not None else population.recording_of_passes
        batches = places(split, batch_size, population.members[0])
        if record is not None:  # no norm looks at a batch as a whole, so that the last one can be filled up
            batches = filled_up(len(split), batch_size)
        self._pass = Pass(split, members, batches, self._add, record, padded=record is not None)

    @torch.no_grad()
    def __call__(self) -> Measures:
        for sums in self._sums():
            sums.zero_()
        self._pass()
        shares_M = accuracy(self._hits_M, self._loss_M, self._images)
        loss = (self._loss_M / self._images).tolist()  # waits for the device
        measures = {"loss": loss, "accuracy": shares_M.tolist()}
        if self._gap_MQ is not None:
            measures["ece"] = (self._gap_MQ.abs().sum(1) / self._images).tolist()
        return measures

    def _sums(self) -> list[Tensor]:
        return [each for each in (self._loss_M, self._hits_M, self._gap_MQ) if each is not None]

    def _add(self, x_MB: Tensor, y_MB: Tensor, inside_B: Tensor | None) -> None:
        x_MB = x_MB if self._attack is None else self._attack(self._population, x_MB, y_MB)
        logits_MBK = self._forward(x_MB)
        if self._classes_K is not None:
            logits_MBK = logits_MBK[:, :, self._classes_K]
            y_MB = (y_MB.unsqueeze(2) == self._classes_K).long().argmax(2)
        loss_MB, right_MB = each_loss(wide(logits_MBK), y_MB).double(), right(logits_MBK, y_MB)
        if inside_B is not None:
            loss_MB, right_MB = torch.where(inside_B, loss_MB, 0.0), right_MB & inside_B
        self._loss_M += loss_MB.sum(1)
        self._hits_M += right_MB.sum(1)
        if self._gap_MQ is not None:
            self._gap_MQ += _gaps(logits_MBK, right_MB, inside_B)


def _gaps(logits_MBK: Tensor, right_MB: Tensor, inside_B: Tensor | None) -> Tensor:
    """Hits minus confidences, summed over the images of each interval of the confidence, [M, Q].

    The expected calibration error (Guo et al. 2017, eq. 3) is the sum of the intervals' absolute gaps, divided by the
    number of images. The confidence is the largest probability; interval q of Q is ((q - 1) / Q, q / Q].
    """
    confidence_MB = logits_MBK.double().softmax(2).amax(2)
    interval_MB = (confidence_MB * _BINS).ceil() - 1
    gap_MB = right_MB.double() - confidence_MB
    gap_MB = gap_MB if inside_B is None else torch.where(inside_B, gap_MB, 0.0)
    intervals_Q = torch.arange(_BINS, device=gap_MB.device)
    return torch.where(interval_MB.unsqueeze(2) == intervals_Q, gap_MB.unsqueeze(2), 0.0).sum(1)
