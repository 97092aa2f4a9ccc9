"""Parameters of a stack beside each other in memory, and back into rows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from bnexp.training.rows import Adjacent, Rows

SHAPES = {
    "vectors": [(6,), (16,), (1,)],
    "linear": [(5, 7)],
    "mixed": [(3,), (6, 1, 5, 5), (4, 9), (), (70, 30, 3, 3), (2, 2, 2)],
    "with_gaps": [(65,), (3, 3, 1), (64,)],
}


def views_of(shapes: list[tuple[int, ...]], matrix: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Each parameter begins at a multiple of 64, as in a population."""
    start = 0
    for number, shape in enumerate(shapes):
        size = torch.Size(shape).numel()
        yield str(number), matrix[:, start : start + size].view(len(matrix), *shape)
        start += -(-size // 64) * 64


@pytest.mark.parametrize("members", [2, 5])
@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_themselves_beside_each_other(name, members):
    shapes = SHAPES[name]
    width = sum(-(-torch.Size(shape).numel() // 64) * 64 for shape in shapes)
    theta = torch.randn(members, width)
    adjacent = Adjacent(theta, lambda matrix: views_of(shapes, matrix))
    theta.mul_(2)  # they are read when they are asked for
    found = adjacent()
    for each, (_, wanted) in zip(found, views_of(shapes, theta), strict=True):
        assert torch.equal(each, wanted)
        if each.ndim != 3:  # the weights of linear maps lie as they are
            assert each.is_contiguous()
            assert each.storage_offset() % 64 == 0


@pytest.mark.parametrize("members", [2, 5])
@pytest.mark.parametrize("name", SHAPES)
def test_what_is_written_stands_in_the_rows_and_zeros_between(name, members):
    shapes = SHAPES[name]
    width = sum(-(-torch.Size(shape).numel() // 64) * 64 for shape in shapes) + 64
    matrix, wanted = torch.full((members, width), torch.nan), torch.zeros(members, width)
    found = [torch.randn(members, *shape) for shape in shapes]
    found = [each.transpose(-1, -2).contiguous().transpose(-1, -2) if each.ndim > 3 else each for each in found]
    for each, (_, view) in zip(found, views_of(shapes, wanted), strict=True):
        view.copy_(each)
    Rows(matrix, lambda rows: views_of(shapes, rows)).write(found)
    assert torch.equal(matrix, wanted)
