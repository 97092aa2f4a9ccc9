"""Training batches of a population, as a pure function of (seeds, step)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bnexp.data.base import Data
from bnexp.randomness import generator


class Batches:
    """Batches for M members that read the same data set, each in an order that its seed determines.

    A member's batch depends only on its seed and the step: not on the other members, nor on earlier calls. Every epoch
    visits each sample once; with ``drop_last`` it leaves out the samples that do not fill a batch.

    Args:
        data: batches come from its training split, and are on the same device.
        seeds: one a member.
        batch_size: samples a member sees in a step.
        drop_last: leave the smaller last batch of an epoch out.

    Attributes:
        per_epoch: batches an epoch.

    Raises:
        ValueError: the training split is smaller than a batch.
    """

    def __init__(self, data: Data, seeds: Sequence[int], *, batch_size: int, drop_last: bool) -> None:
        total = len(data.train)
        if batch_size > total:
            raise ValueError(f"batch_size={batch_size}: larger than the {total} training images; at most {total}")
        self.per_epoch = total // batch_size if drop_last else -(-total // batch_size)
        self._split, self._shape = data.train, data.shape
        self._augment = data.augmentation
        self._seeds, self._batch_size = tuple(seeds), batch_size
        self._remainder = 0 if drop_last else total % batch_size
        self._epoch: int | None = None
        self._planned: list[tuple[Tensor, ...]] = []

    def sizes(self) -> set[int]:
        """The batch sizes that occur."""
        return {self._batch_size, self._remainder or self._batch_size}

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of a step, counted from 0 over all epochs.

        Returns:
            x_MBCHW (or x_MBF), float32, and y_MB, int64.
        """
        epoch, batch = divmod(step, self.per_epoch)
        order, *decisions = self._plan(epoch)[batch]
        x = self._split.x.index_select(0, order)
        if decisions:
            x = self._augment(x, *decisions)
        members = len(self._seeds)
        return x.view(members, -1, *self._shape), self._split.y.index_select(0, order).view(members, -1)

    def _plan(self, epoch: int) -> list[tuple[Tensor, ...]]:
        """The random choices of every batch of an epoch, on the device; kept until another epoch is asked for.

        Each choice is [M * B], one member after another. All batches are split at once, so that a step has little to
        do.
        """
        if epoch != self._epoch:
            plan_KMN = torch.stack([self._decisions(seed, epoch) for seed in self._seeds], dim=1)
            device = self._split.x.device
            if device.type == "cuda":
                plan_KMN = plan_KMN.pin_memory()  # a copy from pageable memory would wait for the device
            batches = plan_KMN.to(device, non_blocking=True).split(self._batch_size, dim=2)  # type: ignore[no-untyped-call]
            self._epoch, self._planned = epoch, [batch_KMB.flatten(1).unbind() for batch_KMB in batches]
        return self._planned

    def _decisions(self, seed: int, epoch: int) -> Tensor:
        """The samples in their order in the epoch, [1, N], and below them the choices of ``Augmentation.decisions``."""
        total = len(self._split)
        order = torch.randperm(total, generator=generator(seed, "order", epoch)).unsqueeze(0)
        return torch.cat([order, self._augment.decisions(seed, epoch, total, self._shape)])
