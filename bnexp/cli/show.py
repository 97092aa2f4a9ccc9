"""``bnexp show``: a run on one screen."""

from __future__ import annotations

from pathlib import Path

from bnexp.cli.arguments import parser, take_format
from bnexp.cli.newest import newest_run
from bnexp.cli.output import answer
from bnexp.compare.overview import single


def show(arguments: list[str]) -> int:
    """``bnexp show [RUN]``."""
    options = parser("show", "Show a run: its command, what differs from the defaults, results, and how to go on.")
    options.add_argument("run", type=Path, nargs="?", help="the folder of a run; default: the newest in outputs")
    take_format(options)
    given = options.parse_args(arguments)
    answer(single(given.run or newest_run()), given.format)
    return 0
