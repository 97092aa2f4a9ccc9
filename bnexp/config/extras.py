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
        raise missing(str(error.name), name) from None


def missing(what: str, name: str) -> ValueError:
    """Says that something needs an extra, and how to install it, with uv or pip, in a checkout.

    Args:
        what: the module that is not there, or the setting that needs one.
        name: the extra.
    """
    return ValueError(f"{what}: not installed; uv run --extra {name} bnexp ..., or pip install -e '.[{name}]'")
