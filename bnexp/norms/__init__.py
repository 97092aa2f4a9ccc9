"""Normalization layers, one family a file. ``NORMS`` finds them by name."""

# The families are imported so that their builders register.
from bnexp.norms import batch, group, instance, layer, none, scratch
from bnexp.norms.base import NORMS, Branch, Norm
from bnexp.norms.batch import BatchStatistics

__all__ = ["NORMS", "BatchStatistics", "Branch", "Norm", "batch", "group", "instance", "layer", "none", "scratch"]
