"""Normalization layers, one family a file. ``NORMS`` finds them by name."""

from bnexp.config.capabilities import Capabilities

# The families are imported so that their builders register.
from bnexp.norms import (
    batch,
    cosine,
    detached,
    dyt,
    frn,
    frozen,
    ghost,
    group,
    group_batch,
    instance,
    iterative,
    layer,
    moment_only,
    noisy,
    none,
    norm_free,
    renorm,
    rms,
    scratch,
    switchable,
    sync,
    weights,
    whitening,
)
from bnexp.norms.base import NORMS, Branch, Norm
from bnexp.norms.batch import BatchStatistics

__all__ = [
    "NORMS",
    "BatchStatistics",
    "Branch",
    "Capabilities",
    "Norm",
    "batch",
    "cosine",
    "detached",
    "dyt",
    "frn",
    "frozen",
    "ghost",
    "group",
    "group_batch",
    "instance",
    "iterative",
    "layer",
    "moment_only",
    "noisy",
    "none",
    "norm_free",
    "renorm",
    "rms",
    "scratch",
    "switchable",
    "sync",
    "weights",
    "whitening",
]
