"""``bnexp runs``: the runs below a folder as a list; and the removal of those that are not needed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bnexp.cli.arguments import parser, take_format, take_selection, whole
from bnexp.cli.output import answer, say
from bnexp.compare.lookup import require_metric, resolve, selected
from bnexp.compare.notes import about_set_aside, about_skips
from bnexp.compare.overview import listing
from bnexp.config.metrics import larger_is_better
from bnexp.runs.arms import natural
from bnexp.runs.collect import Run, collect
from bnexp.runs.prune import KINDS, remove, require_free, require_within, size

_METRIC = "test/accuracy"


def runs(arguments: list[str]) -> int:
    """``bnexp runs [FOLDER]``."""
    given = _options().parse_args(arguments)
    found, skips = collect([given.folder])
    chosen, aside = selected(found, where=given.where, tags=given.tag, everything=given.all)
    if given.metric != _METRIC:  # runs that are not over may lack the default, which nobody has asked for
        require_metric("--metric", given.metric, chosen)
    listed = _sorted(chosen, given.sort)[: given.number]
    if given.prune:
        return _prune(given.folder, listed, given.prune, sure=given.yes)
    notes = [*about_set_aside(aside), *about_skips(skips, given.verbose)]
    answer(listing(listed, given.metric, notes, skips), given.format)
    return 0


def _options() -> argparse.ArgumentParser:
    options = parser("runs", "List the runs below a folder, the newest first.")
    add = options.add_argument
    add("folder", type=Path, nargs="?", default=Path("outputs"), help="searched to the bottom; default: outputs")
    take_selection(options)
    add("--sort", metavar="KEY", help="by this setting, or by this metric with the best first")
    add("--metric", default=_METRIC, help="the result that is shown (default: %(default)s)")
    add("-n", "--number", type=whole(1, 10**9), metavar="N", help="only the first N rows")
    add("-v", "--verbose", action="store_true", help="name the folders that could not be read")
    add("--prune", choices=list(KINDS), help="remove the checkpoints or the folders of the listed runs; asks first")
    add("--yes", action="store_true", help="with --prune: do not ask")
    take_format(options)
    return options


def _sorted(runs: Sequence[Run], key: str | None) -> list[Run]:
    """The newest first; or by a setting, or by a metric with the best first, and runs without it at the end.

    Raises:
        ValueError: no run has such a setting or metric.
    """
    newest = sorted(runs, key=lambda run: (run.started, str(run.folder)), reverse=True)
    if key is None or not runs:
        return newest
    if any(key in run.final for run in runs):
        sign = -1 if larger_is_better(key) else 1
        return sorted(newest, key=lambda run: (key not in run.final, sign * run.final.get(key, 0.0)))
    if "/" in key:
        require_metric("--sort", key, runs)
    path = resolve("--sort", key, runs)
    return sorted(newest, key=lambda run: (path not in run.settings, natural(run.settings.get(path))))


def _prune(root: Path, runs: Sequence[Run], kind: str, *, sure: bool) -> int:
    """Remove files of runs below a folder, after the user has agreed.

    Raises:
        ValueError: a run is in use, or behind a link, or there is nobody to ask.
    """
    folders = [run.folder for run in runs]
    require_within(root, folders)
    require_free(folders)
    many = f"{len(folders)} run{'s' * (len(folders) != 1)}"
    what = f"the {kind} of {many} ({size(folders, kind) / 2**20:.1f} MiB)"
    if not sure and not _agreed(f"Remove {what} for good? [y/N] "):
        say("nothing was removed", end="\n")
        return 0
    left = [folder for folder in folders if not remove(folder, kind)]
    say(f"removed {what}", end="\n")
    for folder in left:
        say(f"left: {folder}, in which there are files of others", end="\n")
    return 0


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise ValueError("--prune: asks before it removes, and nobody is there to answer; --yes does not ask")
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
