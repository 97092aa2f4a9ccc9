"""Reads a command's arguments with argparse, and reports errors as one line like all of bnexp."""

from __future__ import annotations

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """The argument parser of ``bnexp <name>``; wrong arguments raise a ValueError with one line."""

    def error(self, message: str) -> NoReturn:
        """Raise the error instead of printing it and ending the process."""
        command = self.prog.split()[1]
        raise ValueError(f"{command}: {message} (bnexp {command} --help)")


def take_imports(options: argparse.ArgumentParser) -> None:
    """Have a command take the modules that the user trusts: those that a folder names are not imported otherwise."""
    about = "modules of your own that the folder names; without this, none of them is imported"
    options.add_argument("--imports", type=lambda text: text.split(","), default=[], metavar="MODULE,...", help=about)


def parser(name: str, text: str) -> Parser:
    """The parser of a command; options cannot be abbreviated."""
    return Parser(prog=f"bnexp {name}", description=text, allow_abbrev=False)
