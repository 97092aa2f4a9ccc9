"""Number formats of a step: fp64, fp32, TF32 matrix products, autocast to bf16, and to fp16 with loss scaling."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor

# Formats of 16 bits.
SHORT = ("bf16", "fp16")
# GradScaler's numbers (torch.amp): start at 2^16, halve on an overflow, double after 2000 steps without one.
_START, _PATIENCE = 2.0**16, 2000
# Below this scale every step overflows at any scale: the member has diverged.
_LEAST = 2.0**-24
# The largest power of two in float32; a scale that became infinite could not shrink again.
_MOST = 2.0**127


def dtype_of(precision: str) -> torch.dtype:
    """The type of weights, statistics and images; formats below fp32 are those of single operations."""
    return torch.float64 if precision == "fp64" else torch.float32


def allow_tf32(allow: bool) -> None:
    """Allow or forbid CUDA to round the inputs of matrix products and convolutions to TF32."""
    torch.backends.cuda.matmul.fp32_precision = "tf32" if allow else "ieee"
    torch.backends.cudnn.conv.fp32_precision = "tf32" if allow else "ieee"  # type: ignore[attr-defined]


def tf32_allowed() -> bool:
    """Whether CUDA may round the inputs of convolutions to TF32."""
    return bool(torch.backends.cudnn.conv.fp32_precision == "tf32")  # type: ignore[attr-defined]


@contextlib.contextmanager
def measuring(precision: str) -> Iterator[None]:
    """The formats of an evaluation: for a training in 16 bits, products in TF32, which is finer than these."""
    if precision not in SHORT:
        yield
        return
    allow_tf32(True)
    try:
        yield
    finally:
        allow_tf32(False)


def as_autocast(x: Tensor | None) -> Tensor | None:
    """X in the number format of autocast, where that is on: autocast converts for functions of torch alone."""
    if x is None or x.dtype == torch.float64 or not torch.is_autocast_enabled(x.device.type):
        return x
    return x.to(torch.get_autocast_dtype(x.device.type))


class Precision:
    """The number formats of a step.

    Args:
        name: fp64, fp32, tf32, bf16 or fp16.
        members: M.
        device: the device that the members train on.

    Attributes:
        scale_M: factors of the losses before the backward pass (1 except in fp16); kept on the device.
        calm_M: steps since a member's last overflow.
    """

    def __init__(self, name: str, members: int, device: torch.device) -> None:
        self.name, self.device = name, device
        self.scaled = name == "fp16"
        self.scale_M = torch.full((members,), _START if self.scaled else 1.0, device=device)
        self.calm_M = torch.zeros(members, device=device)

    def forward(self) -> AbstractContextManager[object]:
        """The context of a forward pass: autocast in bf16 and fp16, nothing in the wider formats."""
        if self.name not in SHORT:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.name == "bf16" else torch.float16)

    def unscale(self, gradient_MP: Tensor, frozen_MP: Tensor | None = None) -> Tensor | None:
        """Undo the scale in place, and judge which members can step; an overflow makes a member's scale smaller.

        Args:
            gradient_MP: of the scaled losses.
            frozen_MP: where parameters are not trained, so that an overflow there is no matter.

        Returns:
            False for the members whose gradient overflowed, bool [M]; None where nothing is scaled and all step.
        """
        if not self.scaled:
            return None
        gradient_MP.div_(self.scale_M.unsqueeze(1))
        finite_MP = torch.isfinite(gradient_MP)
        sound_M = (finite_MP if frozen_MP is None else finite_MP | frozen_MP).all(1)
        self.calm_M.add_(1).mul_(sound_M)
        grow_M = self.calm_M >= _PATIENCE
        self.scale_M.mul_(torch.where(sound_M, torch.where(grow_M, 2.0, 1.0), 0.5)).clamp_(max=_MOST)
        self.calm_M.mul_(~grow_M)
        return sound_M

    def judged(self, loss_M: Tensor) -> Tensor:
        """The losses; nan for a member whose gradients overflow at any scale."""
        return torch.where(self.scale_M < _LEAST, torch.nan, loss_M) if self.scaled else loss_M

    def state(self, row: int) -> dict[str, float]:
        """One member's scale as plain numbers."""
        return {"scale": self.scale_M[row].item(), "calm": self.calm_M[row].item()}

    def load(self, row: int, state: dict[str, float]) -> None:
        """Restore a member's scale."""
        self.scale_M[row], self.calm_M[row] = state["scale"], state["calm"]
