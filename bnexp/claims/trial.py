"""One claim from its declaration to its result: written down before the first run, run, judged, and concluded."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnexp.claims import declared, judging, store, sweeps
from bnexp.claims.declaration import Claim
from bnexp.claims.declared import Declared
from bnexp.claims.design import Design
from bnexp.claims.result import Result, conclude
from bnexp.claims.sweeps import Harvest, Means


@dataclass(frozen=True)
class Ended:
    """How the trial of a claim has ended.

    Attributes:
        claim: its id.
        code: 0; 1 if a run has failed, or lacks a metric in a smoke test; if ``stopped``, of what has stopped it.
        result: None for a smoke test, and where it was stopped.
        runs: how many have a result; ``failed`` have none.
        faults: what a smoke test has found.
        stopped: the same command goes on.
    """

    claim: str
    code: int
    result: Result | None = None
    runs: int = 0
    failed: int = 0
    faults: Sequence[str] = ()
    stopped: bool = False


def tried(design: Design, folder: Path, means: Means, code: Mapping[str, Any]) -> Ended:
    """Run and judge a claim; all but a smoke test is declared before and written down after.

    Args:
        design: the claim under a profile.
        folder: the claim's.
        means: what runs need.
        code: versions and commit of this package (``provenance.code``), and the ``modules`` of the user's.

    Raises:
        ValueError: a run's config is wrong, or a file in the folder is damaged.
    """
    if design.profile == "smoke":
        return _ended(design, folder, means)
    history = declared.declare(folder, design, code)
    ended = _ended(design, folder, means, history)
    if ended.result is not None:
        store.write(folder, ended.result)
    return ended


def piloted(design: Design, folder: Path, means: Means) -> Ended:
    """Run and judge a pilot (``power.pilot``), which declares nothing and leaves no result.

    Raises:
        ValueError: as ``tried``.
    """
    return _ended(design, folder, means)


def _ended(design: Design, folder: Path, means: Means, history: Sequence[Declared] = ()) -> Ended:
    """Carry out the sweeps of a claim and its exact checks, and judge them."""
    from bnexp.claims import exact  # imports torch

    start, name = time.monotonic(), design.claim.id
    try:
        harvest = sweeps.run(design, folder, means) if design.tests else Harvest({}, {}, 0, [])
    except sweeps.StoppedError as stop:
        return Ended(name, int(stop.args[0]), stopped=True)
    runs, failed = len(harvest.all), harvest.failed
    checks = {check: exact.check(check) for check in design.claim.exact}
    if design.profile == "smoke":
        faults = judging.missing_metrics(design, harvest)
        return Ended(name, int(bool(failed or faults)), None, runs, failed, faults)
    cases = judging.judged(design, harvest)
    command = [_named(design.claim, means.composer.configs), *means.composer.own_words]
    result = conclude(design, harvest, cases, checks, history, time.monotonic() - start, command)
    return Ended(name, int(failed > 0), result, runs, failed)


def _named(claim: Claim, configs: Path) -> str:
    """What a command calls the claim: its id if it is shipped, else the path of its yaml."""
    return claim.path if claim.path and Path(claim.path).parent != configs / "claim" else claim.id
