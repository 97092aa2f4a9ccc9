"""Copies of tensors on the CPU that the training does not wait for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def to_cpu(tensors: Mapping[str, Tensor]) -> Callable[[], Mapping[str, Tensor]]:
    """Begin to copy tensors to the CPU; returns what waits for the copies, on any thread.

    They have the numbers of now, whatever happens to the tensors next: a GPU copies before it does what it is told
    later, and the caller need not wait for it.
    """
    copies = {name: torch.empty_like(each, device="cpu", pin_memory=each.is_cuda) for name, each in tensors.items()}
    for name, each in tensors.items():
        copies[name].copy_(each, non_blocking=True)
    if not any(each.is_cuda for each in tensors.values()):
        return lambda: copies
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record()

    def arrived() -> Mapping[str, Tensor]:
        done.synchronize()
        return copies

    return arrived
