"""What the user names: settings and values, looked up in the runs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

from bnexp.config.checks import instead
from bnexp.config.schema import SET_ASIDE
from bnexp.runs.arms import ABSENT
from bnexp.runs.collect import Run, Setting, short, show

# The dotted path of a setting -> the texts of the values that are asked for.
Wanted = Mapping[str, tuple[str, ...]]

_BETWEEN = re.compile(r",(?![^\[]*\])")  # the commas that stand outside of lists


def resolve(option: str, key: str, runs: Iterable[Run]) -> str:
    """The dotted path that a typed key means.

    Raises:
        ValueError: no run has such a setting.
    """
    paths = list(dict.fromkeys(path for run in runs for path in run.settings))
    for path in (f"{key}.name", key):
        if path in paths:
            return path
    leaves = [short(path) for path in paths if short(path).rpartition(".")[2] == key]
    hint = f"; did you mean {leaves[0]}?" if leaves else instead(key, [short(path) for path in paths])
    raise ValueError(f"{option}={key}: these runs have no such setting{hint}")


def assignments(option: str, texts: Sequence[str], runs: Sequence[Run]) -> Wanted:
    """``["norm=bn", ...]`` as path -> texts of the values, of which there are several after ``norm=bn,ln``.

    Raises:
        ValueError: a text without ``=``, an unknown key, a value that no run has, or two values of a key.
    """
    chosen: dict[str, tuple[str, ...]] = {}
    for text in itertools.chain.from_iterable(_single(text, runs) for text in texts):
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{option} {text}: expected KEY=VALUE, such as norm=bn")
        path = resolve(option, key, runs)
        seen = sorted({show(run.settings[path]) for run in runs if path in run.settings})
        values = (value,) if value in seen else tuple(_BETWEEN.split(value))
        for one in values:
            if not any(agrees(run, {path: (one,)}) for run in runs):
                raise ValueError(f"{option} {key}={one}: no run has it{instead(one, seen)}")
        if (first := chosen.setdefault(path, values)) != values:
            either = ",".join((*first, value))
            raise ValueError(
                f"{option} {key}={','.join(first)} and {text}: no run has both; name one, or {key}={either} for either"
            )
    return chosen


def _single(text: str, runs: Sequence[Run]) -> list[str]:
    """The assignments in a text: an arm's label is several, as norm=bn,optim.lr=0.1; a path may only look like one."""
    key, _, value = text.partition("=")
    known = any(show(run.settings.get(path)) == value for run in runs for path in (key, f"{key}.name"))
    return [text] if known else re.split(r",(?=[\w.]+=)", text)


def selected(
    runs: Sequence[Run], *, where: Sequence[str] = (), tags: Sequence[str] = (), everything: bool = False
) -> tuple[list[Run], int]:
    """The runs that were asked for, and how many were left out because a claim or a smoke test made them.

    Args:
        runs: all there are.
        where: ``KEY=VALUE`` that the runs must have; of ``KEY=VALUE,VALUE`` one.
        tags: words that the runs must be tagged with; naming claim or smoke takes the runs that are left out otherwise.
        everything: leave none out.

    Raises:
        ValueError: no run has such a setting, value or tag, or none has all of this.
    """
    wanted = assignments("--where", where, runs) if runs else {}
    hidden = set() if everything else set(SET_ASIDE) - set(tags)
    known = sorted({tag for run in runs for tag in run.tags})
    for tag in tags:
        if runs and tag not in known:
            raise ValueError(f"--tag {tag}: no run has it{instead(tag, known) if known else ''}")
    asked = [run for run in runs if agrees(run, wanted) and set(tags) <= set(run.tags)]
    chosen = [run for run in asked if not hidden & set(run.tags)]
    if runs and not asked:
        raise ValueError(f"{' '.join(['--where', *where, *tags])}: no run has all of this; ask for less")
    if asked and not chosen:
        raise ValueError(f"{len(asked)} runs of claims and smoke tests, and no others; --all takes them too")
    return chosen, len(asked) - len(chosen)


def agrees(run: Run, wanted: Wanted) -> bool:
    """Whether the run's settings are what was asked for."""
    return all(
        any(_means(run.settings[path], text) for text in texts) if path in run.settings else ABSENT in texts
        for path, texts in wanted.items()
    )


def _means(value: Setting, text: str) -> bool:
    """Whether a typed text names this value; numbers compare as numbers (0.10 is 0.1)."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(text) == value
        except ValueError:
            return False
    return show(value) == text


def require_metric(option: str, metric: str, runs: Iterable[Run]) -> None:
    """Refuse a metric that none of the runs has, if they have any.

    Raises:
        ValueError: no run has it; names those that there are.
    """
    seen = sorted({tag for run in runs for tag in run.final})
    if seen and metric not in seen:
        raise ValueError(f"{option}={metric}: no run has it{instead(metric, seen)}")
