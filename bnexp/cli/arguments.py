"""Reading a command's arguments with argparse, complaining as everything here does."""

from __future__ import annotations

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """The arguments of ``bnexp <name>``; what is wrong with them is a ValueError in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise the complaint instead of printing it and ending the process."""
        command = self.prog.split()[1]
        raise ValueError(f"{command}: {message} (bnexp {command} --help)")


def take_imports(options: argparse.ArgumentParser) -> None:
    """Have a command take the modules that the user trusts: those that a folder names are not imported otherwise."""
    about = "modules of your own that the folder names; without this, none of them is imported"
    options.add_argument("--imports", type=lambda text: text.split(","), default=[], metavar="MODULE,...", help=about)


def parser(name: str, text: str) -> Parser:
    """The parser of a command, which takes no abbreviated options."""
    return Parser(prog=f"bnexp {name}", description=text, allow_abbrev=False)
