"""Copies that leave the device while the training goes on."""

from __future__ import annotations

import pytest
import torch

from bnexp.training.copies import to_cpu

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]


@pytest.mark.parametrize("device", DEVICES)
def test_copies_have_the_numbers_of_the_moment_when_they_were_asked_for(device: str) -> None:
    tensors = {"theta": torch.arange(2**20, device=device).view(4, -1), "seen": torch.tensor(3, device=device)}
    wanted = {name: each.cpu().clone() for name, each in tensors.items()}
    arrived = to_cpu(tensors)
    for each in tensors.values():
        each.zero_()
    found = arrived()
    assert {name: each.device.type for name, each in found.items()} == {"theta": "cpu", "seen": "cpu"}
    for name, each in wanted.items():
        assert torch.equal(found[name], each)


def test_nothing_to_copy() -> None:
    assert to_cpu({})() == {}
