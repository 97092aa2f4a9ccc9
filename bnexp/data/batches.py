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
    visits each sample once; with ``drop_last`` it leaves out the samples that do not fill a batch. With
    ``data.order=sorted`` the samples of an epoch are in the order of their labels, and shuffled within each label.

    Args:
        data: what the members see (``seen_by``); batches come from its training split, and are on the same device.
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
        self._images, self._shape = data.train.x, data.shape
        self._augment, self._sorted = data.augmentation, data.order == "sorted"
        self._y_MN = data.train.y.cpu().expand(len(seeds), -1)
        self._rows_MN = torch.arange(total).expand(len(seeds), -1) if data.train.rows is None else data.train.rows.cpu()
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
        rows, y, *decisions = self._plan(epoch)[batch]
        x = self._images.index_select(0, rows)
        if decisions:
            x = self._augment(x, *decisions)
        members = len(self._seeds)
        return x.view(members, -1, *self._shape), y.view(members, -1)

    def _plan(self, epoch: int) -> list[tuple[Tensor, ...]]:
        """The random choices of every batch of an epoch, on the device; kept until another epoch is asked for.

        Each choice is [M * B], one member after another. All batches are split at once, so that a step has little to
        do.
        """
        if epoch != self._epoch:
            plan_KMN = torch.stack([self._decisions(member, epoch) for member in range(len(self._seeds))], dim=1)
            device = self._images.device
            if device.type == "cuda":
                plan_KMN = plan_KMN.pin_memory()  # a copy from pageable memory would wait for the device
            batches = plan_KMN.to(device, non_blocking=True).split(self._batch_size, dim=2)  # type: ignore[no-untyped-call]
            self._epoch, self._planned = epoch, [batch_KMB.flatten(1).unbind() for batch_KMB in batches]
        return self._planned

    def _decisions(self, member: int, epoch: int) -> Tensor:
        """A member's images and labels in their order in an epoch, [2, N], and the ``Augmentation.decisions``."""
        seed, y = self._seeds[member], self._y_MN[member]
        order = torch.randperm(len(y), generator=generator(seed, "order", epoch))
        if self._sorted:
            order = order[y[order].argsort(stable=True)]
        chosen = torch.stack([self._rows_MN[member, order], y[order]])
        return torch.cat([chosen, self._augment.decisions(seed, epoch, len(y), self._shape)])
