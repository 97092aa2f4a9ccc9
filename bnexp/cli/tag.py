"""``bnexp tag``: tags of a run, changed after it was trained."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated

from bnexp.cli.arguments import parser
from bnexp.cli.output import say
from bnexp.config.checks import Tag, checked
from bnexp.runs.tags import retag


def tag(arguments: list[str]) -> int:
    """``bnexp tag RUN +good -tried``."""
    options = parser("tag", "Add tags to a run, and take tags away. Nothing else of the run changes.")
    options.add_argument("run", type=Path, help="the folder of a run")
    # The rest of the line, because -tried is no option.
    options.add_argument("words", nargs=argparse.REMAINDER, metavar="+TAG | -TAG", help="+good adds, -tried takes away")
    given = options.parse_args(arguments)
    for word in given.words:
        if word[:1] not in ("+", "-"):
            raise ValueError(f"tag: {word}: expected +TAG to add a tag, or -TAG to take it away")
        checked("tags", word[1:], Annotated[str, Tag()])
    if not given.words:
        raise ValueError("tag: expected +TAG to add a tag, or -TAG to take it away")
    add, drop = ([word[1:] for word in given.words if word[0] == sign] for sign in "+-")
    say(f"tags of {given.run}: {' '.join(retag(given.run, add, drop)) or 'none'}", end="\n")
    return 0
