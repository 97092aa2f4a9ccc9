"""Passes over the images of a split, batch after batch; on a GPU recorded at the first, and replayed by later ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bnexp.data import Split
from bnexp.models.layers import least_values

# Batches of such sizes suit the tiles of a GPU's kernels.
_MULTIPLE = 8

# Does something with a batch of all members: inputs (M, B, ...), classes [M, B], and which of its places are images of
# the split, [B]; None means all.
Work = Callable[[Tensor, Tensor, Tensor | None], None]
# See ``Population.record``.
Record = Callable[[Callable[[], None]], Callable[[], None] | None]


def places(split: Split, batch_size: int, model: nn.Module) -> list[slice]:
    """The places of all batches in order; a rest too small for the statistics of the norms joins the last batch."""
    least = least_values(model)
    full, rest = divmod(len(split), batch_size)
    sizes = [batch_size] * full + [rest] * (rest > 0)
    if 0 < rest < least and full:
        sizes[-2:] = [batch_size + rest]
    ends = list(itertools.accumulate(sizes))
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def filled_up(images: int, most: int) -> list[slice]:
    """The places of the fewest batches of one size, at most ``most``; the last batch is filled up with few of them."""
    size = min(most, -(-images // -(-images // most) // _MULTIPLE) * _MULTIPLE)
    return [slice(start, start + size) for start in range(0, images, size)]


class Pass:
    """Some work on every batch of a split.

    A recording holds the whole work: it takes its batch by a number on the device, which it then increases. So it needs
    work that changes nothing but tensors, in place, and batches of one size. The first batch is done eagerly: in it
    libraries choose their kernels.

    Args:
        split: the images.
        members: M.
        batches: their places.
        work: does the work; it must not wait for the device.
        record: records the work on a full batch; None does everything eagerly.
        padded: the last batch is filled up to the size of the first, and ``work`` told which places are images.
    """

    def __init__(
        self,
        split: Split,
        members: int,
        batches: list[slice],
        work: Work,
        record: Record | None,
        *,
        padded: bool = False,
    ) -> None:
        self._split, self._members, self._batches, self._work = split, members, batches, work
        self._record, self._padded = record, padded
        self._size = batches[0].stop
        self._replay: Callable[[], None] | None = None
        self._tried = False
        device = split.y.device
        self._number_1 = torch.zeros(1, dtype=torch.int64, device=device)
        self._within_B = torch.arange(self._size, device=device)

    def __call__(self) -> None:
        """Do the work on all batches, in order."""
        self._number_1.zero_()
        for at in self._batches:
            if self._record is None or not (self._padded or at.stop - at.start == self._size):
                self._work(*self._split.batch(at, self._members), None)
            elif self._replay is not None:
                self._replay()
            else:
                self._recorded()
                if at.start == 0 and len(self._batches) > 1 and not self._tried:
                    self._tried = True
                    self._replay = self._record(self._recorded)

    def _recorded(self) -> None:
        at_B = self._number_1 * self._size + self._within_B
        inside_B = at_B < len(self._split) if self._padded else None
        self._work(*self._split.batch(at_B.clamp(max=len(self._split) - 1), self._members), inside_B)
        self._number_1.add_(1)
