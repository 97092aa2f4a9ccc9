"""Where the files are that come with the program."""

from __future__ import annotations

from pathlib import Path


def folder(name: str) -> Path:
    """A folder that comes with the program: in the wheel beside this file, in a checkout at the top."""
    inside = Path(__file__).parent / name
    return inside if inside.is_dir() else Path(__file__).parent.parent / name


def configs_folder() -> Path:
    """Where the yaml files are."""
    return folder("configs")
