"""Data sets that a process prepares before it forks, so that its children need not read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bnexp.data.base import Data
from bnexp.data.prepare import load as prepared

_kept: dict[str, Data] = {}


def load(options: Mapping[str, Any], device: torch.device | str = "cpu") -> Data:
    """The data set of a config's ``data`` group, on a device: the kept one, or one that is read and prepared now.

    Nobody writes into its tensors. Raises as ``prepare.load``.
    """
    kept = _kept.get(_key(options))
    if kept is None:
        return prepared(options, device)
    return kept if torch.device(device).type == "cpu" else kept.to(device)


def keep(wanted: Sequence[Mapping[str, Any]]) -> None:
    """Read and prepare data sets now, and forget all others; forked processes share the memory of these tensors.

    Raises as ``prepare.load``.
    """
    named = {_key(options): options for options in wanted}
    for key in _kept.keys() - named.keys():
        del _kept[key]
    for key in named.keys() - _kept.keys():
        _kept[key] = prepared(named[key])


def _key(options: Mapping[str, Any]) -> str:
    return json.dumps(options, sort_keys=True)
