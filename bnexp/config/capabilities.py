"""What a norm can do: the record beside each builder, in plain Python so that ``bnexp list`` reads it without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rank = Literal["vectors", "sequences", "maps"]
Alone = Literal["same", "differ", "refused"]


@dataclass(frozen=True)
class Capabilities:
    """What a norm can do, with the options that its yaml gives it.

    Attributes:
        ranks: the inputs on which the norm is defined: vectors (B, C), sequences (B, C, L) and maps (B, C, H, W).
        elsewhere: other inputs are ``refused``, or ``skipped``: they pass unnormalized.
        batch_of_one: output in training for a batch of one vector, and of one map: the ``same`` as for this sample in a
            larger batch, numbers that ``differ``, or ``refused``: the norm raises an error.
        graph: no step waits for the device, so a CUDA graph can capture it.
        stacks: the norm runs under ``torch.func.vmap``, as the members of a stack do.
        fused: a stack's step has the kernels of one member's (at most a tenth more), which write no more bytes than
            those of its members (a twentieth more): torch's functions that the norm calls have rules in
            ``training/kernels/rules.py``, or need none. Other norms are as right, and slower.
        restorable: ``affine=identity`` finds a gain and a bias with which the norm answers its first batch with itself.
        as_bn: evaluation normalizes by running means and variances as ``bn`` does, so that a run may start from a run
            with another such norm (``init_from``).
        bias_in_linear: activations are not normalized, and the linear map has the bias instead of the norm.
        length_dependent: what the norm answers at a step depends on how many steps the run has.
        needs_branches: the norm is defined by residual branches; elsewhere it normalizes nothing.
    """

    ranks: tuple[Rank, ...] = ("vectors", "sequences", "maps")
    elsewhere: Literal["refused", "skipped"] = "refused"
    batch_of_one: tuple[Alone, Alone] = ("same", "same")
    graph: bool = True
    stacks: bool = True
    fused: bool = True
    restorable: bool = False
    as_bn: bool = False
    bias_in_linear: bool = False
    length_dependent: bool = False
    needs_branches: bool = False
