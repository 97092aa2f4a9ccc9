"""The commands by name; the module of a command is imported when it is used."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from bnexp.config.checks import unknown

# Sub-command -> module and function, imported when the command is used.
COMMANDS = {
    "train": "bnexp.cli.train:train",
    "resume": "bnexp.cli.resume:resume",
    "runs": "bnexp.cli.runs:runs",
    "show": "bnexp.cli.show:show",
    "diff": "bnexp.cli.diff:diff",
    "tag": "bnexp.cli.tag:tag",
    "evaluate": "bnexp.cli.evaluate:evaluate",
    "compare": "bnexp.cli.compare:main",
    "claim": "bnexp.cli.claim:main",
    "bench": "bnexp.cli.bench:bench",
    "export": "bnexp.cli.export:export",
    "board": "bnexp.cli.board:board",
    "list": "bnexp.cli.list:main",
}


def command(name: str) -> Callable[[list[str]], int]:
    """The function of a sub-command.

    Raises:
        ValueError: there is no such command.
    """
    if "=" in name or name in ("-m", "--multirun"):
        raise ValueError(f"{name}: a command comes first: bnexp train {name} ... (allowed: {', '.join(COMMANDS)})")
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    module, _, function = COMMANDS[name].partition(":")
    found: Callable[[list[str]], int] = getattr(importlib.import_module(module), function)
    return found
