"""Packages that bnexp uses where they are installed, each by the extra that installs it."""

from __future__ import annotations

import importlib
from typing import Any


def extra(module: str, name: str) -> Any:
    """Import a module that an extra installs.

    Args:
        module: what to import.
        name: the extra.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name}: not installed; pip install 'bnexp[{name}]'") from None
