"""Data sets that a process has prepared beforehand for those that are forked from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bnexp.data.base import Data
from bnexp.data.preparation import load as prepared

_kept: dict[str, Data] = {}


def load(options: Mapping[str, Any]) -> Data:
    """The data set of a config's ``data`` group, on the CPU: the one that is kept, or else read and prepared.

    Nobody writes into its tensors. Raises as that does.
    """
    kept = _kept.get(_key(options))
    return prepared(options) if kept is None else kept


def keep(options: Mapping[str, Any]) -> None:
    """Read and prepare a data set now; forked processes then have it at once, in memory that they share."""
    _kept[_key(options)] = prepared(options)


def _key(options: Mapping[str, Any]) -> str:
    return json.dumps(options, sort_keys=True)
