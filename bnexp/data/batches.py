"""Training batches of a population, as a pure function of (seeds, step)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from bnexp.data.base import Data
from bnexp.randomness import generator


def _drawing_thread(device: torch.device) -> ThreadPoolExecutor:
    """A thread that names the GPU for which it pins memory: one that names none begins the first GPU, too."""
    begin = partial(torch.cuda.set_device, device) if device.type == "cuda" else None
    return ThreadPoolExecutor(1, initializer=begin)


class Batches:
    """Batches for M members that read the same data set, each in an order that its seed determines.

    A member's batch depends only on its seed and the step: not on the other members, nor on earlier calls. Every epoch
    visits each sample once; with ``drop_last`` it leaves out the samples that do not fill a batch. With
    ``data.order=sorted`` the samples of an epoch are in the order of their labels, and shuffled within each label.

    Args:
        data: what the members see (``seen_by``); batches come from its training split, and are on the same device.
        seeds: one a member.
        batch_size: samples a member sees in a step.
        drop_last: leave the smaller last batch of an epoch out.
        ahead: while an epoch is used, draw the random choices of the next one on another thread.

    Attributes:
        per_epoch: batches an epoch.
        full: those of them that have ``batch_size`` samples.

    Raises:
        ValueError: the training split is smaller than a batch.
    """

    def __init__(
        self, data: Data, seeds: Sequence[int], *, batch_size: int, drop_last: bool, ahead: bool = False
    ) -> None:
        total = len(data.train)
        if batch_size > total:
            raise ValueError(f"batch_size={batch_size}: larger than the {total} training images; at most {total}")
        self.per_epoch = total // batch_size if drop_last else -(-total // batch_size)
        self._images, self._shape = data.train.x, data.shape
        self._augment, self._sorted = data.augmentation, data.order == "sorted"
        self._y_MN = data.train.y.cpu().expand(len(seeds), -1)
        self._rows_MN = torch.arange(total).expand(len(seeds), -1) if data.train.rows is None else data.train.rows.cpu()
        self._seeds, self._batch_size = tuple(seeds), batch_size
        self._remainder = 0 if drop_last else total % batch_size
        self.full = total // batch_size
        self._within_B = torch.arange(batch_size, device=self._images.device)
        self._first_B = self._within_B.clone()  # the places of step 0, were the open epoch the only one
        self._open: int | None = None
        self._plan_KMN = torch.empty(0)
        self._is_recorded = False
        self._thread = _drawing_thread(self._images.device) if ahead else None
        self._next: tuple[int, Future[Tensor]] | None = None

    def sizes(self) -> set[int]:
        """The batch sizes that occur."""
        return {self._batch_size, self._remainder or self._batch_size}

    def size(self, step: int) -> int:
        """Samples a member sees in a step, counted from 0 over all epochs."""
        return self._remainder if step % self.per_epoch == self.full else self._batch_size

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of a step, counted from 0 over all epochs.

        Returns:
            x_MBCHW (or x_MBF), float32, and y_MB, int64.
        """
        self.open(step)
        start = step % self.per_epoch * self._batch_size
        return self._batch(self._plan_KMN[:, :, start : start + self._batch_size])

    def open(self, step: int) -> int:
        """Make the epoch of a step the one that ``recorded`` reads; returns its full batches from this step's on."""
        epoch, batch = divmod(step, self.per_epoch)
        if epoch != self._open:
            plan_KMN = self._planned(epoch).to(self._images.device, non_blocking=True)
            if self._is_recorded:  # a recording reads the memory that it was made with
                self._plan_KMN.copy_(plan_KMN)
            else:  # labels of earlier batches may be views of the old plan
                self._plan_KMN = plan_KMN.long()
            torch.sub(self._within_B, epoch * self.per_epoch * self._batch_size, out=self._first_B)
            self._open = epoch
        return self.full - batch

    def recorded(self, step_S: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The full batches of steps of the open epoch; the steps' numbers, [S], are read on the device alone."""
        self._is_recorded = True
        for at_B in torch.add(self._first_B, step_S.unsqueeze(1), alpha=self._batch_size):
            yield self._batch(self._plan_KMN.index_select(2, at_B))

    def _batch(self, plan_KMB: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels by the random choices of a batch."""
        rows, y, *decisions = plan_KMB.flatten(1).unbind()  # [M * B], one member after another
        x = self._images.index_select(0, rows)
        if decisions:
            x = self._augment(x, *decisions)
        members = len(self._seeds)
        return x.view(members, -1, *self._shape), y.view(members, -1)

    def _planned(self, epoch: int) -> Tensor:
        """``_drawn``, perhaps by the other thread before it was asked for."""
        if self._thread is None:
            return self._drawn(epoch)
        known, drawn = self._next or (None, None)
        plan_KMN = drawn.result() if drawn is not None and known == epoch else self._drawn(epoch)
        self._next = epoch + 1, self._thread.submit(self._drawn, epoch + 1)
        return plan_KMN

    def _drawn(self, epoch: int) -> Tensor:
        """The random choices of an epoch, [K, M, N], on the CPU: int32, half the bytes on their way to the device."""
        plan_KMN = torch.stack([self._decisions(member, epoch).int() for member in range(len(self._seeds))], dim=1)
        # A copy from pageable memory would wait for the device.
        return plan_KMN.pin_memory() if self._images.device.type == "cuda" else plan_KMN

    def _decisions(self, member: int, epoch: int) -> Tensor:
        """A member's images and labels in their order in an epoch, [2, N], and the ``Augmentation.decisions``."""
        seed, y = self._seeds[member], self._y_MN[member]
        order = torch.randperm(len(y), generator=generator(seed, "order", epoch))
        if self._sorted:
            order = order[y[order].argsort(stable=True)]
        chosen = torch.stack([self._rows_MN[member, order], y[order]])
        return torch.cat([chosen, self._augment.decisions(seed, epoch, len(y), self._shape)])
