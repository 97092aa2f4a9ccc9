"""Reads a command's arguments with argparse, and reports errors as one line like all of bnexp."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from bnexp.compare.formats import FORMATS


class Parser(argparse.ArgumentParser):
    """The argument parser of ``bnexp <name>``; wrong arguments raise a ValueError with one line."""

    def error(self, message: str) -> NoReturn:
        """Raise the error instead of printing it and ending the process."""
        command = self.prog.split()[1]
        raise ValueError(f"{command}: {message} (bnexp {command} --help)")


_TRUSTED = "modules of your own that the folder names; without this, none of them is imported"


def take_imports(options: argparse.ArgumentParser, about: str = _TRUSTED) -> None:
    """Have a command take modules of the user's: those that a folder names are not imported otherwise."""
    options.add_argument("--imports", type=lambda text: text.split(","), default=[], metavar="MODULE,...", help=about)


def take_own(options: argparse.ArgumentParser, about: str) -> None:
    """Have a command take what is the user's own: a folder of yaml files, and modules."""
    take_config_dir(options)
    take_imports(options, about)


def take_config_dir(options: argparse.ArgumentParser) -> None:
    """Have a command take a folder of the user's yaml files, by the words that ``bnexp train`` has for it."""
    options.add_argument("--config-dir", "-cd", type=Path, metavar="DIR", help="a folder with your yaml files")


def take_format(options: argparse.ArgumentParser) -> None:
    """Have a command print its answer in the format that the user names."""
    options.add_argument("--format", choices=list(FORMATS), default="table", help="of the answer; default: table")
    options.add_argument("--json", dest="format", action="store_const", const="json", help="short for --format json")


def format_apart(name: str, arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The format that a command of Hydra's is to answer in, and its other arguments.

    Raises:
        ValueError: there is no such format.
    """
    options = Parser(prog=f"bnexp {name}", add_help=False, allow_abbrev=False)
    take_format(options)
    given, rest = options.parse_known_args(arguments)
    return given.format, rest


def take_words(
    options: argparse.ArgumentParser, name: str, metavar: str, about: str, *, required: bool = False
) -> None:
    """Have a command take words after an option; where it stands twice, the words of both."""
    options.add_argument(name, nargs="+", action="extend", default=[], required=required, metavar=metavar, help=about)


def whole(least: int, most: int) -> Callable[[str], int]:
    """Reads a whole number between two others."""

    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text}: expected a whole number from {least} to {most}")
        return int(text)

    return read


def take_selection(options: argparse.ArgumentParser) -> None:
    """Have a command choose among the runs that it finds; see ``compare.lookup.selected``."""
    add = options.add_argument
    take_words(options, "--where", "KEY=VALUE", "only the runs with these settings; KEY=VALUE,VALUE: with either value")
    take_words(options, "--tag", "TAG", "only the runs with these tags")
    add("--all", action="store_true", help="also runs of claims and smoke tests, which are left out otherwise")


def parser(name: str, text: str) -> Parser:
    """The parser of a command; options cannot be abbreviated."""
    return Parser(prog=f"bnexp {name}", description=text, allow_abbrev=False)
