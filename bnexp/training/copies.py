"""Copies of a device's tensors on the CPU that the training does not wait for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def to_cpu(tensors: Mapping[str, Tensor]) -> Callable[[], Mapping[str, Tensor]]:
    """Begin to copy tensors to the CPU; returns what waits for the copies.

    They have the numbers of now, whatever the device does next. Tensors of a CPU are not copied: there the caller has
    to use them before they change.
    """
    if all(each.device.type == "cpu" for each in tensors.values()):
        return lambda: tensors
    copies = {name: torch.empty_like(each, device="cpu", pin_memory=True) for name, each in tensors.items()}
    for name, each in tensors.items():
        copies[name].copy_(each, non_blocking=True)
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record()

    def arrived() -> Mapping[str, Tensor]:
        done.synchronize()
        return copies

    return arrived
