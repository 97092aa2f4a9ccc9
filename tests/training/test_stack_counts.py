"""A stack is one model's kernels over M*C channels: counted, without a clock."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from conftest import from_yaml

MEMBERS = 3


@cache
def case(count_stack: Any, model: str) -> Any:
    return count_stack.case(model, "in")


def ratios(count_stack: Any, model: str, norm: str, **settings: Any) -> tuple[float, float]:
    """Kernels of a stack over those of one member, and bytes over those of its members."""
    options = from_yaml("norm", norm)
    config = case(count_stack, model)
    if norm != "in":
        config = replace(config, norm=options)
    kernels, written = count_stack.ratios(replace(config, **settings), MEMBERS)
    return kernels, written


@pytest.mark.parametrize("norm", ["none", "bn", "ln", "gn", "in"])
@pytest.mark.parametrize("model", ["mlp", "lenet", "resnet"])
def test_a_stack_takes_the_kernels_of_one_member_and_the_bytes_of_its_members(count_stack, model, norm):
    kernels, written = ratios(count_stack, model, norm)
    assert (kernels <= 1.1, written <= 1.05) == (True, True), (kernels, written)


@pytest.mark.parametrize("settings", [{"channels_last": True}, {"precision": "bf16"}], ids=str)
def test_layouts_and_number_formats_copy_no_maps(count_stack, settings):
    kernels, written = ratios(count_stack, "resnet", "gn", **settings)
    assert (kernels <= 1.1, written <= 1.05) == (True, True), (kernels, written)


def test_views_and_mere_memory_do_not_count_and_a_kernel_counts_by_what_it_writes(count_stack):
    x, out = torch.ones(2, 3), torch.ones(6, dtype=torch.float64)
    with count_stack.Count() as count:
        torch.empty(100)
        y = x.t().reshape(-1)  # a copy of 6 float32
        y.view(2, 3).t()
        out.add_(y)
        torch.mul(out, 2, out=out)
        torch._foreach_copy_([x, out], [x + 0, out])
    assert dict(count.kernels) == {"clone": 1, "add_": 1, "mul": 1, "add": 1, "_foreach_copy_": 1}
    assert dict(count.bytes) == {"clone": 24, "add_": 48, "mul": 48, "add": 24, "_foreach_copy_": 72}


def test_an_operation_on_lists_counts_once_where_all_lie_densely_and_alike(count_stack):
    """Else torch has a kernel for each tensor."""
    rows = torch.zeros(3, 10)
    parts = [rows[:, :4], rows[:, 4:]]
    with count_stack.Count() as count:
        torch._foreach_copy_(parts, [torch.ones(3, 4), torch.ones(3, 6)])
        torch._foreach_zero_([torch.empty(2, 3).t(), torch.empty(4)])
        torch._foreach_copy_([torch.empty(2, 3)], [torch.ones(3, 2).t()])
    assert count.kernels["_foreach_copy_"] == 2 + 1
    assert count.kernels["_foreach_zero_"] == 1
