"""``bnexp diff``: two runs side by side."""

from __future__ import annotations

from pathlib import Path

from bnexp.cli.arguments import parser, take_format
from bnexp.cli.output import answer
from bnexp.compare.overview import side_by_side


def diff(arguments: list[str]) -> int:
    """``bnexp diff RUN RUN``."""
    options = parser("diff", "Show the settings in which two runs differ, and their results.")
    options.add_argument("runs", type=Path, nargs=2, metavar="RUN", help="the folder of a run")
    take_format(options)
    given = options.parse_args(arguments)
    answer(side_by_side(given.runs), given.format)
    return 0
