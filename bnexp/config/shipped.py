"""Where the files are that come with the program."""

from __future__ import annotations

from pathlib import Path


def folder(name: str) -> Path:
    """A folder that comes with the program: in the wheel inside the package, in a checkout at the top."""
    package = Path(__file__).parent.parent
    return package / name if (package / name).is_dir() else package.parent / name


def configs_folder() -> Path:
    """Where the yaml files are."""
    return folder("configs")
