"""From the rows of a population to the kernels of a stack, and back, in few copies.

A row holds one member's parameters. Kernels that take the members as channels need a parameter of all members in one
piece. Copied one by one, the many small parameters of a network would take more kernels than its forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

# Parameters with at most so many numbers a member are gathered in one kernel, which also reads each number's place.
_SMALL = 2**14
# A parameter begins at a multiple of so many numbers: 256 bytes in float32, torch's own alignment on a GPU.
_ALIGNMENT = 64
# A matrix laid out as the rows -> the parameters of all members, [M, ...], as views of it.
Views = Callable[[Tensor], Iterable[tuple[str, Tensor]]]


def aligned(numbers: int) -> int:
    """The room that a parameter of so many numbers takes."""
    return -(-numbers // _ALIGNMENT) * _ALIGNMENT


class Adjacent:
    """Parameters [M, ...] with the members adjacent in memory where kernels take them as channels.

    Batched matrix products take the weights of linear maps as they lie. Small parameters are gathered in one kernel.

    Args:
        theta_MP: the rows.
        views: see ``Views``.
    """

    def __init__(self, theta_MP: Tensor, views: Views) -> None:
        self._theta_MP = theta_MP
        self._parameters = [each for _, each in views(theta_MP)]
        apart = [n for n, each in enumerate(self._parameters) if each.ndim != 3]
        self._small = [n for n in apart if self._parameters[n][0].numel() <= _SMALL]
        self._large = [n for n in apart if self._parameters[n][0].numel() > _SMALL]
        self._sizes = [aligned(self._parameters[n].numel()) for n in self._small]
        places = [_places(self._parameters[n], size) for n, size in zip(self._small, self._sizes, strict=True)]
        self._places = torch.cat(places) - theta_MP.storage_offset() if places else None

    def __call__(self) -> list[Tensor]:
        """All parameters, in their order."""
        found = list(self._parameters)
        for n in self._large:
            found[n] = torch.empty_like(found[n], memory_format=torch.contiguous_format)
        if self._large:
            torch._foreach_copy_([found[n] for n in self._large], [self._parameters[n] for n in self._large])
        if self._places is not None:
            gathered = torch.split(self._theta_MP.take(self._places), self._sizes)
            for n, each in zip(self._small, gathered, strict=True):
                found[n] = each[: found[n].numel()].view_as(found[n])
        return found


def _places(view: Tensor, size: int) -> Tensor:
    """Where a view has its numbers in the memory, in its own order; places that nobody reads fill it up to ``size``."""
    where = torch.full((), view.storage_offset(), device=view.device)
    for length, stride in zip(view.shape, view.stride(), strict=True):
        where = where.unsqueeze(-1) + stride * torch.arange(length, device=view.device)
    return F.pad(where.flatten(), (0, size - view.numel()), value=int(view.storage_offset()))


class Rows:
    """Writes what belongs to the parameters, such as their gradients, into rows.

    Args:
        matrix_MP: the rows; what lies between parameters becomes 0.
        views: see ``Views``.
    """

    def __init__(self, matrix_MP: Tensor, views: Views) -> None:
        self._matrix_MP, (members, width) = matrix_MP, matrix_MP.shape
        starts = [each.storage_offset() - matrix_MP.storage_offset() for _, each in views(matrix_MP)]
        sizes = [each[0].numel() for _, each in views(matrix_MP)]
        gaps = [end - start - size for (start, end), size in zip(pairwise([*starts, width]), sizes, strict=True)]
        zeros = matrix_MP.new_zeros(members * max(gaps))
        self._between = [zeros[: members * gap].view(members, gap) for gap in gaps]

    def write(self, found: Sequence[Tensor]) -> None:
        """Write tensors [M, ...] of the shapes of the parameters, in their order."""
        members = len(self._matrix_MP)
        parts = [
            part
            for each, between in zip(found, self._between, strict=True)
            for part in (each.reshape(members, -1), between)
            if part.shape[1]
        ]
        torch.cat(parts, 1, out=self._matrix_MP)
