"""Finds the folders that come with the program."""

from __future__ import annotations

from pathlib import Path


def folder(name: str) -> Path:
    """A folder that comes with the program: inside the package in a wheel, at the top level in a checkout."""
    package = Path(__file__).parent.parent
    return package / name if (package / name).is_dir() else package.parent / name


def configs_folder() -> Path:
    """The folder of the yaml files."""
    return folder("configs")
