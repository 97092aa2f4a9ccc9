"""``bnexp claim run`` and ``bnexp claim power``: claims and pilots are run, judged, and told."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bnexp.claims import cost, declaration, power, sweeps, trial
from bnexp.claims.declaration import FEWEST_SEEDS, Claim
from bnexp.claims.design import Design, design
from bnexp.claims.draft import require_words
from bnexp.claims.lanes import side_by_side
from bnexp.claims.report.reading import reading
from bnexp.claims.report.words import effect, in_points
from bnexp.claims.result import Result, TestResult
from bnexp.claims.sweeps import Means
from bnexp.claims.trial import Ended
from bnexp.claims.verdicts import MATTERS
from bnexp.cli.output import answer, message_file, only_the_answer
from bnexp.compare.blocks import Cell, Document, Table
from bnexp.compare.cells import duration, number
from bnexp.compare.data import records
from bnexp.config.compose import JobComposer
from bnexp.config.defaults import usual
from bnexp.config.names import counted
from bnexp.runs.json_file import without_nan
from bnexp.runs.paths import RunPaths
from bnexp.stopping import Stop
from bnexp.sweep.fork_server import ForkServer
from bnexp.sweep.preflight import cores

FOLDER = Path("outputs/claims")
# Exit code where a claim would be refused.
_CANNOT_RUN = 2
# Exit codes above this come from signals, after which no further claim is started.
_SIGNALLED = 128
# Claims that run at the same time by default; each has a fork server, which holds torch and the data.
_MOST_LANES = 4


def run(given: argparse.Namespace, configs: Path) -> int:
    """Run and judge claims, or with ``--dry-run`` tell what they cost.

    Raises:
        ValueError: a declaration or a word in it is wrong; nothing has been run.
    """
    start = time.monotonic()
    with contextlib.closing(ForkServer()) as server, only_the_answer(given.format):
        lanes = _lanes(given)
        if lanes == 1:
            server.begin()  # the server imports torch while the declarations are read and composed
        means = Means(composer(given, configs), server, retry_failed=given.retry_failed)
        designs = _designs(given, configs, means.composer)
        if given.dry_run:
            costs = _costs(designs, means)
        else:
            _tell_cost(designs)
            code, results = _all_tried(designs, means, min(lanes, len(designs)))
    if given.dry_run:
        answer(cost_table(costs), given.format)
        return _CANNOT_RUN if any(each.operations is None for each in costs) else 0
    if code <= _SIGNALLED and given.format != "table":
        answer(_results(results), given.format)
    elif code <= _SIGNALLED:
        if len(designs) > 1:
            print(f"{len(designs)} claims in {duration(time.monotonic() - start).text}", flush=True)
        if results:
            print(f"in words, with pictures: bnexp claim report {FOLDER / designs[0].profile}", flush=True)
    return code


def composer(given: argparse.Namespace, configs: Path) -> JobComposer:
    """What composes the runs of claims, with the yaml files and modules that the user has named."""
    return JobComposer(configs, given.config_dir, given.imports)


def _lanes(given: argparse.Namespace) -> int:
    """How many claims run at the same time: one where they share a GPU, whose memory a sweep plans with."""
    import torch

    if given.jobs is not None:
        return int(given.jobs)
    several = given.all or len(given.claims) > 1
    return min(_MOST_LANES, cores()) if several and not torch.cuda.is_available() else 1


# --- what is run ------------------------------------------------------------------------------------------------------


def _designs(given: argparse.Namespace, configs: Path, composer: JobComposer) -> list[Design]:
    """The designs of the claims to run, checked.

    Raises:
        ValueError: a declaration or one of its settings is wrong.
    """
    from bnexp.claims.exact import EXACT  # imports torch

    names = declaration.ids(configs) if given.all else list(dict.fromkeys(given.claims))
    if not names or (given.all and given.claims):
        raise ValueError("claim run: name claims, or give --all (bnexp claim list shows them)")
    profile = given.profile or default_profile()
    claims = [declaration.load(declaration.find(name, configs)) for name in names]
    if not (given.smoke or given.dry_run):
        for claim in claims:
            require_words(claim)
    if given.all:
        claims = list(_with_profile(claims, profile))
    designs = [design(claim, profile, smoke=given.smoke) for claim in claims]
    for made in designs:
        for name in made.claim.exact:
            EXACT[name]
    sweeps.check(designs, composer)
    for made in designs:
        if made.tests and made.profile != "smoke" and len(made.seeds) < FEWEST_SEEDS:
            few = f"{counted(len(made.seeds), 'seed')}, and a verdict needs {FEWEST_SEEDS}: there will be none"
            print(f"{made.claim.id}: {few}", file=sys.stderr, flush=True)
    return designs


def _with_profile(claims: Sequence[Claim], profile: str) -> Iterator[Claim]:
    """The claims that have the profile; the others are told."""
    for claim in claims:
        if not claim.tests or profile in claim.profiles:
            yield claim
        else:
            print(f"{claim.id}: left out: {claim.without(profile)}", file=sys.stderr, flush=True)


def default_profile() -> str:
    """Of a machine: gpu where there is one."""
    import torch

    return "gpu" if torch.cuda.is_available() else "quick"


# --- what it costs ----------------------------------------------------------------------------------------------------


def _tell_cost(designs: Sequence[Design]) -> None:
    costs = [cost.cost(made) for made in designs]
    runs, most = sum(each.runs for each in costs), sum(each.most for each in costs)
    if not runs:
        return
    grown = f" (up to {most} where grids grow)" if most > runs else ""
    minutes = sum(each.minutes or 0.0 for each in costs)
    told = f", some {minutes:g} minutes as declared" if minutes else ""
    claims = f"{len(designs)} claims, " if len(designs) > 1 else ""
    fetched = sorted({name for made in designs if (name := _downloaded(made))})
    data = f", {' and '.join(fetched)} from BNEXP_DATA or ./data (downloaded if missing)" if fetched else ""
    print(
        f"{claims}{runs} runs{grown}{told}{data}; what is there already is not run again", file=sys.stderr, flush=True
    )


def _downloaded(made: Design) -> str | None:
    """The data set of a claim's runs, unless it is part of bnexp."""
    names = [word.partition("=")[2] for word in made.settings if word.startswith("data=")]
    return names[-1] if names and "data.root" in usual({"data.name": names[-1]}) else None


def _costs(designs: Sequence[Design], means: Means) -> list[cost.Cost]:
    stop, costs = Stop(), list[cost.Cost]()
    with stop.listening():
        operations = cost.counted(designs, means, stop)
    for made, found in zip(designs, operations, strict=True):
        if isinstance(found, str):
            print(f"{made.claim.id}: cannot run: {found}", file=sys.stderr, flush=True)
        costs.append(cost.cost(made, None if isinstance(found, str) else found))
    return costs


def cost_table(costs: Sequence[cost.Cost]) -> Document:
    """A row a claim."""
    header = ["claim", "runs", "at most", "minutes declared", "operations", "minutes at 1e13/s"]
    rows: list[list[str | Cell]] = [
        [
            each.claim,
            number(each.runs, 0),
            number(each.most, 0),
            number(each.minutes, 1),
            number(each.operations, 0),
            number(None if each.operations is None else each.operations / cost.GPU_RATE / 60, 1),
        ]
        for each in costs
    ]
    table = Table(header, rows)
    return Document([table], table, {"claims": [asdict(each) for each in costs]})


# --- running ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Work:
    """Tries a claim, in this process or in a lane."""

    means: Means
    code: dict[str, Any]
    lanes: int

    def __call__(self, made: Design, lane: int) -> Ended:
        folder = FOLDER / made.profile / made.claim.id
        if self.lanes == 1:
            return trial.tried(made, folder, self.means, self.code)
        share = cores() * (lane + 1) // self.lanes - cores() * lane // self.lanes
        means = replace(self.means, processes=max(1, share))
        with _into_its_log(folder):
            return trial.tried(made, folder, means, self.code)


@contextlib.contextmanager
def _into_its_log(folder: Path) -> Iterator[None]:
    """Write a claim's progress into its folder, while several claims run at the same time."""
    folder.mkdir(parents=True, exist_ok=True)
    log = message_file(RunPaths(folder).output_log)
    with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield


def _all_tried(designs: Sequence[Design], means: Means, lanes: int) -> tuple[int, list[Result]]:
    """Try claims and print what they come to; returns the exit code, and the results in the order of the designs."""
    from bnexp.experiment.imports import digests
    from bnexp.runs import provenance  # imports torch

    code_of_all = provenance.code() | {"modules": digests(means.composer.imports)}
    work, stop = _Work(means, code_of_all, lanes), Stop()
    code, results = 0, dict[str, Result]()
    with contextlib.ExitStack() as holds:
        pairs = _one_by_one(work, designs)
        if lanes > 1:
            stop()  # from here on a signal is for the lanes
            holds.enter_context(stop.listening())
            pairs = side_by_side(work, means.server.close, _longest_first(designs), lanes, stop)
            print(f"{lanes} claims at the same time; their progress: {FOLDER}/*/*/output.log", file=sys.stderr)
        for made, ended in pairs:
            _say(ended)
            code = max(code, ended.code)
            results |= {made.claim.id: ended.result} if ended.result else {}
    order = [made.claim.id for made in designs]
    return stop.exit_code if stop() else code, [results[name] for name in order if name in results]


def _one_by_one(work: _Work, designs: Sequence[Design]) -> Iterator[tuple[Design, Ended]]:
    for made in designs:
        ended = work(made, 0)
        yield made, ended
        if ended.code > _SIGNALLED:
            return


def _longest_first(designs: Sequence[Design]) -> list[Design]:
    """In an order that leaves no long claim to one lane at the end."""
    return sorted(designs, key=lambda made: -(cost.cost(made).minutes or 0.0))


def _say(ended: Ended) -> None:
    """Print what a claim has come to."""
    if ended.stopped:
        print(f"{ended.claim}: stopped; the same command goes on", file=sys.stderr, flush=True)
    elif ended.result is not None:
        print("\n".join(lines(ended.result)), flush=True)
    else:
        failed = f", {ended.failed} failed" if ended.failed else ""
        print(f"{ended.claim}: smoke test, {ended.runs} runs{failed}; no verdict", flush=True)
    for fault in ended.faults:
        print(f"  {fault}", file=sys.stderr)


# --- what is said of it -----------------------------------------------------------------------------------------------


def _results(results: Sequence[Result]) -> Document:
    """The verdicts; as facts, the results as their files hold them."""
    header = ["claim", "profile", "regime", "test", "verdict", "mean", "low", "high", "p", "n"]
    rows: list[list[str | Cell]] = [
        [result.claim, result.profile, test.regime, test.test, test.verdict]
        + [number(value, 4) for value in (test.mean, test.low, test.high, test.p)]
        + [number(test.n, 0)]
        for result in results
        for test in result.tests
    ]
    table = Table(header, rows)
    return Document([table], table, {"claims": [without_nan(asdict(result)) for result in results]})


def lines(result: Result) -> list[str]:
    """A result for a terminal: lines for the claim, its sentence and answer, each test in a regime, exact checks."""
    failed = f", {result.failed} failed" if result.failed else ""
    head = f"{result.claim} ({result.profile}): {result.runs} runs{failed}, {result.seconds:.0f} s"
    claim, answer = reading(result).claim, result.answer
    said = [f"  {claim.sentence}"]
    said += (
        [f"  claim: {_word(answer.word, answer.detail)}: {' and '.join(answer.tests)}"] if answer is not None else []
    )
    told = [
        ", ".join(filter(None, [_word(test.verdict, test.detail), effect(claim, test), f"n = {test.n}"]))
        for test in result.tests
    ]
    tests = [f"  {test.regime}/{test.test}: {text}" for test, text in zip(result.tests, told, strict=True)]
    exact = [
        f"  {name}: {'holds exactly' if all(row.holds for row in rows) else 'does NOT hold'}"
        f" ({counted(len(rows), 'number')})"
        for name, rows in result.exact.items()
    ]
    return [head, *said, *tests, *exact]


def _word(word: str, detail: str) -> str:
    return f"{word} ({detail})" if detail else word


# --- power ------------------------------------------------------------------------------------------------------------


def pilots(given: argparse.Namespace, configs: Path) -> int:
    """Run the pilots of claims, and tell the seeds that their verdicts need.

    Raises:
        ValueError: a declaration is wrong, or has no primary test; nothing has been run.
    """
    profile, found = given.profile or default_profile(), list[power.Power]()
    with contextlib.closing(ForkServer()) as server, only_the_answer(given.format):
        server.begin()
        means = Means(composer(given, configs), server, retry_failed=given.retry_failed)
        claims = [declaration.load(declaration.find(name, configs)) for name in given.claims]
        designs = [design(claim, profile) for claim in claims]
        tried = [power.pilot(made, given.pilot_seeds) for made in designs]
        sweeps.check(tried, means.composer)
        code = 0
        for made, small in zip(designs, tried, strict=True):
            ended = trial.piloted(small, FOLDER / "power" / profile / made.claim.id, means)
            code = max(code, ended.code)
            if ended.result is None:
                _say(ended)
                return code
            found += power.powers(made, ended.result)
    answer(power_table(found), given.format)
    return code


def power_table(found: Sequence[power.Power]) -> Document:
    """A row a primary test; as text, what a verdict needs in sentences."""
    header = ["claim", "profile", "test", "pilot", "effect seen", "sd", "smallest effect", "seeds for it"]
    rows: list[list[str | Cell]] = [
        [
            each.claim.id,
            each.profile,
            f"{each.test.regime}/{each.test.test}",
            number(each.test.n, 0),
            *(number(value, 4) for value in (each.test.mean, each.test.sd, each.test.threshold)),
            number(each.test.needed_for_delta, 0),
            number(each.test.needed, 0),
            number(each.declared, 0),
        ]
        for each in found
    ]
    table = Table([*header, "seeds for the effect seen", "declared"], rows)
    text = "".join(f"{line}\n" for each in found for line in _power_lines(each))
    return Document([table], table, {"tests": records(table)}, text)


def _power_lines(each: power.Power) -> Iterator[str]:
    test = each.test
    head = f"{each.claim.id} ({each.profile}), {test.regime}/{test.test}"
    yield f"{head}: pilot of {test.n} seeds; {each.declared} are declared"
    if test.mean is None or test.sd is None:
        yield f"  nothing can be said: {test.detail or 'one seed has no spread'}"
        return
    yield f"  seen: {effect(each.claim, test)}, with a standard deviation of {_spread(test)}"
    matters = MATTERS[test.claims]
    least = f"{matters:g} times the smallest effect of interest" if matters else "no difference"
    needed = f"{_seeds(test.needed_for_delta)} for {least}, and {_seeds(test.needed)} for the effect seen"
    yield f"  a verdict needs {needed}"


def _spread(test: TestResult) -> str:
    assert test.sd is not None
    if in_points(test):
        return f"{100 * test.sd:.2g} points"
    return f"{test.sd:.2g}" + (f" ({test.scale})" if test.scale != "linear" else "")


def _seeds(needed: int | None) -> str:
    return "more seeds than anybody runs" if needed is None else f"{needed} seeds"
