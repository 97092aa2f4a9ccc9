"""``bnexp claim list|new|run|power|report``."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from bnexp.claims import declaration, power, store, sweeps
from bnexp.claims.declaration import PROFILES, Claim
from bnexp.claims.design import design
from bnexp.claims.draft import SETTINGS, draft, words_of
from bnexp.cli.arguments import parser, take_format, take_own, take_words, whole
from bnexp.cli.claim_run import FOLDER, composer, default_profile, pilots, run
from bnexp.cli.output import answer
from bnexp.compare.blocks import Cell, Document, Table
from bnexp.compare.cells import number
from bnexp.compare.data import records
from bnexp.compare.terminal import beside, terminal_width
from bnexp.config.shipped import configs_folder
from bnexp.runs.storage import write_atomically


def main(arguments: list[str]) -> int:
    """Run the command.

    Raises:
        ValueError: a claim, profile, key or value does not exist, in one line; nothing has been run.
    """
    given, configs = _options().parse_args(arguments), configs_folder()
    commands = {"list": _list, "new": _new, "run": run, "power": pilots, "report": _report}
    return commands[given.command](given, configs)


def _options() -> argparse.ArgumentParser:
    options = parser("claim", "Test claims about normalization.")
    commands = options.add_subparsers(dest="command", required=True, metavar="{list,new,run,power,report}")
    listed = commands.add_parser("list", help="the claims, with sources and minutes", allow_abbrev=False)
    new = commands.add_parser("new", help="write the yaml of a claim of your own", allow_abbrev=False)
    _take_draft(new)
    ran = commands.add_parser("run", help="run and judge claims; again: only what is missing", allow_abbrev=False)
    ran.add_argument("claims", nargs="*", metavar="CLAIM", help="as in the list, or the path of a yaml")
    ran.add_argument("--all", action="store_true", help="every claim of the list")
    _take_running(ran)
    ran.add_argument("--smoke", action="store_true", help="a few steps of everything, in seconds; no verdict")
    ran.add_argument("--dry-run", action="store_true", help="runs, minutes and operations; nothing is run")
    ran.add_argument("--jobs", type=whole(1, 1000), metavar="N", help="claims at once; default: as cores, at most 4")
    piloted = commands.add_parser("power", help="the seeds that a verdict needs, from a pilot", allow_abbrev=False)
    piloted.add_argument("claims", nargs="+", metavar="CLAIM", help="as in the list, or the path of a yaml")
    _take_running(piloted)
    most, about = power.FIRST_TUNING_SEED - power.FIRST_SEED, f"of the pilot; default: {power.SEEDS}"
    piloted.add_argument("--pilot-seeds", type=whole(2, most), default=power.SEEDS, metavar="N", help=about)
    report = commands.add_parser("report", help="all results as pages, with figures", allow_abbrev=False)
    about = f"of a profile, and of others whose answers stand beside; default: {FOLDER}/<profile>"
    report.add_argument("folders", type=Path, nargs="*", metavar="FOLDER", help=about)
    report.add_argument("--to", type=Path, metavar="DIR", help="default: the first folder")
    for command in (new, ran, piloted):
        take_own(command, "modules of your own that the claim's runs import")
    for command in (listed, new, ran, piloted, report):
        take_format(command)
    return options


def _take_running(options: argparse.ArgumentParser) -> None:
    options.add_argument("--profile", choices=PROFILES, help="default: gpu where there is one, else quick")
    options.add_argument("--retry-failed", action="store_true", help="run again what has failed")


def _take_draft(options: argparse.ArgumentParser) -> None:
    options.add_argument("name", metavar="NAME", help="of the claim, and of its file NAME.yaml")
    about = 'what is compared, such as "none=[norm=none]" "bn=[norm=bn]"; the first one is the baseline'
    take_words(options, "--arms", "ARM=[WORDS]", about, required=True)
    options.add_argument("--metric", default="test/accuracy", metavar="TAG", help="default: test/accuracy")
    take_words(options, "--settings", "WORD", "of every run; default: small ones")
    options.add_argument("--threshold", type=float, help="the smallest difference that matters; accuracies: 0.01")
    options.add_argument("--to", type=Path, default=Path(), metavar="DIR", help="default: this folder")


def _list(given: argparse.Namespace, configs: Path) -> int:
    claims = [declaration.load(declaration.find(name, configs)) for name in declaration.ids(configs)]
    width = terminal_width()
    lines = [
        f"{beside(label, text, 22, width)}\n"
        for claim in claims
        for label, text in ((claim.id, claim.sentence), ("", f"{_minutes(claim)}; {'; '.join(claim.sources)}"))
    ]
    rows: list[list[str | Cell]] = [
        [
            claim.id,
            claim.sentence,
            *(_planned(claim, name) for name in PROFILES),
            "; ".join(claim.sources),
            claim.without("quick") if _lacks_quick(claim) else "",
        ]
        for claim in claims
    ]
    header = ["claim", "sentence", *(f"{name} minutes" for name in PROFILES), "sources", "remark"]
    table = Table(header, rows)
    answer(Document([table], table, {"claims": records(table)}, "".join(lines)), given.format)
    return 0


def _lacks_quick(claim: Claim) -> bool:
    return bool(claim.tests) and "quick" not in claim.profiles


def _planned(claim: Claim, profile: str) -> Cell:
    return number(claim.profiles[profile].minutes if profile in claim.profiles else None, 1)


def _minutes(claim: Claim) -> str:
    times = ", ".join(f"{name} {profile.minutes:g} min" for name, profile in claim.profiles.items())
    return "; ".join([*([claim.without("quick")] if _lacks_quick(claim) else []), times or "seconds"])


def _new(given: argparse.Namespace, configs: Path) -> int:
    path = given.to / f"{given.name}.yaml"
    if given.name != path.stem or "/" in given.name or given.name.startswith("."):
        raise ValueError(f"claim new: {given.name}: expected a name such as my-claim, without folder and ending")
    if path.exists():
        raise ValueError(f"{path}: is there already; choose another name, or --to DIR")
    settings = given.settings or list(SETTINGS)
    settings += [f"imports=[{','.join(given.imports)}]"] if given.imports else []
    text = draft(given.name, _arms(given.arms), given.metric, settings, given.threshold)
    claim = declaration.loads(given.name, text)
    composes = composer(given, configs)
    sweeps.check([design(claim, "quick")], composes)
    given.to.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())
    table = Table(["file"], [[str(path)]])
    tries = shlex.join(["bnexp", "claim", "run", str(path), "--smoke", *composes.own_words])
    said = f'{path}\nfill in what "say ..." asks for; {tries} tries it in seconds\n'
    answer(Document([table], table, {"file": str(path)}, said), given.format)
    return 0


def _arms(given: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """The arms of words such as ``bn=[norm=bn]``.

    Raises:
        ValueError: a word is none, or names an arm again.
    """
    arms: dict[str, Sequence[str]] = {}
    for word in given:
        name, _, settings = word.partition("=")
        inner = settings.removeprefix("[").removesuffix("]")
        if not name or f"[{inner}]" != settings:
            raise ValueError(f"--arms {word}: expected NAME=[SETTING=VALUE, ...], such as bn=[norm=bn]")
        if name in arms:
            raise ValueError(f"--arms {word}: {name} stands twice")
        arms[name] = words_of(inner)
    return arms


def _report(given: argparse.Namespace, configs: Path) -> int:
    from bnexp.claims.report import page as report

    folders = given.folders or [FOLDER / default_profile()]
    for folder in given.folders:
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder")
    results = {_named(folder, folders): store.read_all(folder) for folder in folders}
    known, shipped = {result.claim for some in results.values() for result in some}, declaration.ids(configs)
    missing = [name for name in shipped if name not in known] if known & set(shipped) else []
    untried = [declaration.load(declaration.find(name, configs)) for name in missing]
    paths = report.write(given.to or folders[0], results, untried=untried)
    table = Table(["file"], [[str(path)] for path in paths])
    text = "".join(f"{path}\n" for path in paths)
    answer(Document([table], table, {"files": [str(path) for path in paths]}, text), given.format)
    return 0


def _named(folder: Path, folders: Sequence[Path]) -> str:
    """What a report calls a folder: by its name, or by its path where another one has the same name."""
    name = folder.resolve().name
    return name if [each.resolve().name for each in folders].count(name) == 1 else str(folder)
