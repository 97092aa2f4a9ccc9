"""The folder of ``--config-dir``: its yaml files hold settings; nothing in them makes Hydra or bnexp run a program."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

# Errors of a damaged yaml file that Hydra does not catch.
YAML_FAULTS = (yaml.YAMLError, UnicodeDecodeError)

# What yaml files may set of Hydra's own settings, and which of its groups may have files: in all others, as in its
# loggers and callbacks, a word is the name of a program that Hydra calls.
_SETTINGS = ("mode", "run", "sweep", "sweeper")
_GROUPS = ("launcher", "sweeper")
_PACKAGE = re.compile(rb"#\s*@package\s+\S*hydra")


def refuse_programs(folder: Path) -> None:
    """Let nothing run because a yaml file says so: it may come from anywhere.

    Raises:
        ValueError: there is no such folder; or a file names a program or a module, or a logger, callback or launcher
            that could name one.
    """
    if not folder.is_dir():
        raise ValueError(f"--config-dir {folder}: there is no such folder")
    for path in _yaml_files(folder):
        if said := _program(path, folder):
            raise ValueError(f"{path}: {said}")


def _yaml_files(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "."]  # they hold no groups, but perhaps all of Python
        yield from (Path(place, name) for name in files if name.endswith(".yaml"))


def _program(path: Path, folder: Path) -> str | None:
    """What in a file could run a program, or None."""
    group = path.relative_to(folder).parts[:-1]
    if group[:1] == ("hydra",) and group[1:] not in [(known,) for known in _GROUPS]:
        return f"of Hydra's own groups only {' and '.join(_GROUPS)} can have files of yours"
    try:
        text = path.read_bytes()
        content = yaml.safe_load(text)
    except (OSError, *YAML_FAULTS):  # Hydra says what is wrong if it reads the file
        return None
    if _PACKAGE.search(text):
        return "its package is Hydra's own; a file of yours can have _global_ or its group"
    if "_target_" in _keys(content):
        return "has a key _target_, which names a program; only imports=[...] brings own code"
    return _at_the_top(content) if isinstance(content, Mapping) else None


def _at_the_top(content: Mapping[Any, Any]) -> str | None:
    """What the settings of all of bnexp, and the list of other files, could run."""
    if content.get("imports"):
        return "sets imports; modules are programs, so they are named where you type: imports=[...]"
    own = content.get("hydra", {})
    if refused := [key for key in own if key not in _SETTINGS] if isinstance(own, Mapping) else ["hydra"]:
        return f"sets hydra.{refused[0]}; a file can set {', '.join(_SETTINGS)} of Hydra, all else is typed"
    for entry in content.get("defaults") or []:
        for word in entry if isinstance(entry, Mapping) else [entry]:
            place, _, package = "".join(str(word).split()[-1:]).lstrip("/").partition("@")  # behind override, optional
            if "hydra" in package or (place.startswith("hydra/") and place != "hydra/sweeper"):
                return f"chooses {word}; a file can choose hydra/sweeper, all else of Hydra is typed"
    return None


def _keys(content: object) -> set[Any]:
    """The keys of all mappings in a yaml file, however deep. A yaml can refer to itself."""
    keys, nodes, seen = set[Any](), [content], set[int]()
    for node in nodes:  # grows meanwhile
        if id(node) not in seen and isinstance(node, Mapping | list):
            seen.add(id(node))
            keys |= set(node) if isinstance(node, Mapping) else set()
            nodes += node.values() if isinstance(node, Mapping) else node
    return keys
