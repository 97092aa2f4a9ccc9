"""Probes measure the inside of a training, one family per file; importing the package registers them all."""

from importlib import import_module
from pkgutil import iter_modules

from bnexp.models.layers import Layer, layers
from bnexp.probes.base import PROBES, Moment, Probe, Signals, Values, answers, by_unit, recording, signals

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "PROBES",
    "Layer",
    "Moment",
    "Probe",
    "Signals",
    "Values",
    "answers",
    "by_unit",
    "layers",
    "recording",
    "signals",
]
