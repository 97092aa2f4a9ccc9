"""``bnexp claim list``, ``bnexp claim run`` and ``bnexp claim report``."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bnexp.claims import declaration, judging, store, sweeps
from bnexp.claims.declaration import PROFILES, Claim
from bnexp.claims.design import Design, design
from bnexp.claims.report.reading import reading
from bnexp.claims.report.words import effect
from bnexp.claims.result import Result, conclude
from bnexp.claims.sweeps import Harvest
from bnexp.cli.arguments import parser, take_format
from bnexp.cli.output import answer, only_the_answer
from bnexp.compare.blocks import Cell, Document, Table
from bnexp.compare.cells import duration, number
from bnexp.compare.data import records
from bnexp.compare.terminal import beside, terminal_width
from bnexp.config.shipped import configs_folder
from bnexp.runs.json_file import without_nan
from bnexp.sweep.fork_server import ForkServer

FOLDER = Path("outputs/claims")
# Exit codes above this come from signals, after which no further claim is started.
_SIGNALLED = 128


def main(arguments: list[str]) -> int:
    """Run the command.

    Raises:
        ValueError: a claim, profile, key or value does not exist, in one line; nothing has been run.
    """
    given, configs = _options().parse_args(arguments), configs_folder()
    if given.command == "list":
        return _list(configs, given.format)
    if given.command == "run":
        return _run(given, configs)
    return _report(given, configs)


_FOLDERS = f"of a profile, and of others whose answers stand beside; default: {FOLDER}/<profile>"


def _options() -> argparse.ArgumentParser:
    options = parser("claim", "Test claims about normalization.")
    commands = options.add_subparsers(dest="command", required=True, metavar="{list,run,report}")
    listed = commands.add_parser("list", help="the claims, with sources and minutes", allow_abbrev=False)
    run = commands.add_parser("run", help="run and judge claims; again: only what is missing", allow_abbrev=False)
    run.add_argument("claims", nargs="*", metavar="CLAIM", help="as in the list, or the path of a yaml")
    run.add_argument("--all", action="store_true", help="every claim of the list")
    run.add_argument("--profile", choices=PROFILES, help="default: gpu where there is one, else quick")
    run.add_argument("--smoke", action="store_true", help="a few steps of everything, in seconds; no verdict")
    run.add_argument("--retry-failed", action="store_true", help="run again what has failed")
    report = commands.add_parser("report", help="all results as pages, with figures", allow_abbrev=False)
    report.add_argument("folders", type=Path, nargs="*", metavar="FOLDER", help=_FOLDERS)
    report.add_argument("--to", type=Path, metavar="DIR", help="default: the same folder")
    for command in (listed, run, report):
        take_format(command)
    return options


def _list(configs: Path, form: str) -> int:
    claims = [declaration.load(declaration.find(name, configs)) for name in declaration.ids(configs)]
    width = terminal_width()
    lines = [
        f"{beside(label, text, 22, width)}\n"
        for claim in claims
        for label, text in ((claim.id, claim.sentence), ("", f"{_minutes(claim)}{'; '.join(claim.sources)}"))
    ]
    rows: list[list[str | Cell]] = [
        [claim.id, claim.sentence, *(_planned(claim, name) for name in PROFILES), "; ".join(claim.sources)]
        for claim in claims
    ]
    table = Table(["claim", "sentence", *(f"{name} minutes" for name in PROFILES), "sources"], rows)
    answer(Document([table], table, {"claims": records(table)}, "".join(lines)), form)
    return 0


def _planned(claim: Claim, profile: str) -> Cell:
    return number(claim.profiles[profile].minutes if profile in claim.profiles else None, 1)


def _minutes(claim: Claim) -> str:
    times = ", ".join(f"{name} {profile.minutes:g} min" for name, profile in claim.profiles.items())
    return f"{times}; " if times else "seconds; "


def _run(given: argparse.Namespace, configs: Path) -> int:
    start, code, results = time.monotonic(), 0, list[Result]()
    with contextlib.closing(ForkServer()) as server, only_the_answer(given.format):
        server.begin()  # the server imports torch while the declarations are read and composed
        designs = _designs(given, configs)
        for made in designs:
            ended, result = _one(made, configs, server, retry_failed=given.retry_failed)
            results += [result] if result else []
            if ended > _SIGNALLED:
                return ended
            code = max(code, ended)
    if given.format != "table":
        answer(_results(results), given.format)
    elif len(designs) > 1:
        print(f"{len(designs)} claims in {duration(time.monotonic() - start).text}", flush=True)
    return code


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


def _designs(given: argparse.Namespace, configs: Path) -> list[Design]:
    """The designs of the claims to run, checked.

    Raises:
        ValueError: a declaration or one of its settings is wrong.
    """
    from bnexp.claims.exact import EXACT  # imports torch

    names = declaration.ids(configs) if given.all else given.claims
    if not names or (given.all and given.claims):
        raise ValueError("claim run: name claims, or give --all (bnexp claim list shows them)")
    profile = given.profile or _default_profile()
    claims = [declaration.load(declaration.find(name, configs)) for name in names]
    if given.all:
        claims = [claim for claim in claims if not claim.tests or profile in claim.profiles]
    designs = [design(claim, profile, smoke=given.smoke) for claim in claims]
    for made in designs:
        for name in made.claim.exact:
            EXACT[name]
    sweeps.check(designs, configs)
    return designs


def _default_profile() -> str:
    import torch

    return "gpu" if torch.cuda.is_available() else "quick"


def _one(made: Design, configs: Path, server: ForkServer, *, retry_failed: bool) -> tuple[int, Result | None]:
    """Run and judge a claim, and print its verdicts; returns the exit code, and the result if there is one."""
    from bnexp.claims import exact  # imports torch

    start, folder = time.monotonic(), FOLDER / made.profile / made.claim.id
    harvest = Harvest({}, {}, 0, [])
    try:
        if made.tests:
            harvest = sweeps.run(made, folder, configs, server=server, retry_failed=retry_failed)
    except sweeps.StoppedError as stop:
        print(f"{made.claim.id}: stopped; the same command goes on", file=sys.stderr, flush=True)
        return int(stop.args[0]), None
    checks = {name: exact.check(name) for name in made.claim.exact}
    if made.profile == "smoke":
        return _smoked(made.claim.id, harvest, judging.missing_metrics(made, harvest)), None
    concluded = conclude(made, harvest, judging.judged(made, harvest), checks, time.monotonic() - start)
    store.write(folder, concluded)
    print("\n".join(lines(concluded)), flush=True)
    return int(harvest.failed > 0), concluded


def _smoked(name: str, harvest: Harvest, faults: Sequence[str]) -> int:
    failed = f", {harvest.failed} failed" if harvest.failed else ""
    print(f"{name}: smoke test, {len(harvest.all)} runs{failed}; no verdict", flush=True)
    for fault in faults:
        print(f"  {fault}", file=sys.stderr)
    return int(bool(harvest.failed or faults))


def lines(result: Result) -> list[str]:
    """A result for a terminal: lines for the claim, its answer, each test in a regime, and each exact check."""
    failed = f", {result.failed} failed" if result.failed else ""
    head = f"{result.claim} ({result.profile}): {result.runs} runs{failed}, {result.seconds:.0f} s"
    claim, answer = reading(result).claim, result.answer
    said = [f"  claim: {_word(answer.word, answer.detail)}: {' and '.join(answer.tests)}"] if answer is not None else []
    tests = [
        ", ".join(filter(None, [_word(test.verdict, test.detail), effect(claim, test), f"n = {test.n}"]))
        for test in result.tests
    ]
    judged = [f"  {test.regime}/{test.test}: {text}" for test, text in zip(result.tests, tests, strict=True)]
    exact = [
        f"  {name}: {'holds exactly' if all(row.holds for row in rows) else 'does NOT hold'} ({len(rows)} numbers)"
        for name, rows in result.exact.items()
    ]
    return [head, *said, *judged, *exact]


def _word(word: str, detail: str) -> str:
    return f"{word} ({detail})" if detail else word


def _report(given: argparse.Namespace, configs: Path) -> int:
    from bnexp.claims.report import page as report

    folders = given.folders or [FOLDER / _default_profile()]
    for folder in given.folders:
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder")
    names = [str(folder) for folder in folders]
    if len({folder.name for folder in folders}) == len(folders):
        names = [folder.resolve().name for folder in folders]
    results = {name: store.read_all(folder) for name, folder in zip(names, folders, strict=True)}
    known = {result.claim for some in results.values() for result in some}
    declared = [
        declaration.load(declaration.find(name, configs)) for name in declaration.ids(configs) if name not in known
    ]
    paths = report.write(given.to or folders[0], results, root=Path.cwd(), untried=declared)
    table = Table(["file"], [[str(path)] for path in paths])
    text = "".join(f"{path}\n" for path in paths)
    answer(Document([table], table, {"files": [str(path) for path in paths]}, text), given.format)
    return 0
