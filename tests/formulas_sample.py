"""Independent formulas of whitening and the sample family, for the common tests in test_norms.py."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from bnexp.norms import Norm

# name -> (norm in training mode, x) -> y, in loops or closed formulas that share no code with the layer.
FORMULAS: dict[str, Callable[[Norm, Tensor], Tensor]] = {}
# (name, "2-D", "3-D" or "4-D") on which the norm is refused.
UNDEFINED: set[tuple[str, str]] = set()
# law -> the norms whose definition contradicts it, each with its reason behind it.
EXEMPT: dict[str, set[str]] = {}
