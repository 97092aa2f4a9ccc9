"""``bnexp list``: what can be chosen, read from the yaml files without importing torch or the builders."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from bnexp.cli.arguments import parser, take_format, take_own
from bnexp.cli.output import answer
from bnexp.compare.blocks import Document, Table
from bnexp.compare.data import records
from bnexp.compare.terminal import WIDTH, beside, terminal_width
from bnexp.config.capabilities import Capabilities, Rank
from bnexp.config.checks import near_miss
from bnexp.config.descriptions import Description, descriptions
from bnexp.config.schema import LISTS
from bnexp.config.shipped import configs_folder, folder

_TEXT = 14  # the column in which texts begin
_UNKNOWN = "not known; imports=[MODULE] names the module that registers it"
# Case in benchmarks/norms.json -> how the cost is worded.
CASES = {"vectors": "on vectors", "maps": "on maps", "lenet": "in a LeNet step"}


GROUPS = (
    "norm",
    "affine",
    "model",
    "data",
    "init",
    "optim",
    "schedule",
    "probes",
    "evaluations",
    "experiment",
    "claim",
)
# The norms that most comparisons are about; lists start with them.
FIRST = ("none", "bn", "ln", "in", "gn")


@dataclass(frozen=True)
class Described:
    """What the source of a norm says of it: the first line of its builder's docstring, and what the norm can do."""

    formula: str
    capabilities: Capabilities


def described(paths: Iterable[Path]) -> dict[str, Described]:
    """The norms that modules register by ``@NORMS.register("name", Capabilities(...))``, by name."""
    found: dict[str, Described] = {}
    for path in paths:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                line = (ast.get_docstring(node) or "").partition("\n")[0]
                found |= {name: Described(line, record) for name, record in _registered(node)}
    return found


def _registered(node: ast.FunctionDef) -> Iterator[tuple[str, Capabilities]]:
    for decorator in node.decorator_list:
        match decorator:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="NORMS"), attr="register"),
                args=[ast.Constant(value=str(name)), *records],
            ):
                words = [word for record in records if isinstance(record, ast.Call) for word in record.keywords]
                yield name, Capabilities(**{str(word.arg): ast.literal_eval(word.value) for word in words})


def norm_blocks(choices: list[Description], norms: Mapping[str, Described], costs: Path) -> Iterator[str]:
    """A paragraph for each norm: formula, what it can do, source, cost and options.

    Args:
        choices: of the group ``norm``.
        norms: name -> what its source says. A norm of the user's whose module is not named is not among them.
        costs: ``benchmarks/norms.json``, which may be missing.
    """
    measured = json.loads(costs.read_text(encoding="utf-8"))["norms"] if costs.exists() else {}
    for choice in choices:
        norm = norms.get(choice.name)
        rows = {
            **({"formula": norm.formula, **abilities(norm.capabilities)} if norm else {"formula": _UNKNOWN}),
            "source": choice.source or "not given",
            "cost": cost(measured.get(choice.name)),
            **({"also called": ", ".join(choice.also)} if choice.also else {}),
        }
        head = _row(choice.name, choice.title, indent=0)
        yield "\n".join([head, *(_row(label, text) for label, text in rows.items()), *_options(choice)])


def abilities(norm: Capabilities) -> dict[str, str]:
    """Rows about what a norm can do: label -> text."""
    others = [rank for rank in get_args(Rank) if rank not in norm.ranks]
    on_vectors, on_maps = norm.batch_of_one
    stacked = f"stacked members ({'kernels of one' if norm.fused else 'by torch.func.vmap'})"
    works = {"graph=true": norm.graph, stacked: norm.stacks, "affine=identity": norm.restorable}
    needs = {"residual branches": norm.needs_branches, "the length of the run": norm.length_dependent}
    rows = {
        "ranks": "; ".join([", ".join(norm.ranks), *(f"{rank} are {norm.elsewhere}" for rank in others)]),
        "batch of 1": f"vectors {on_vectors}, maps {on_maps}",
        "works with": ", ".join(label for label, holds in works.items() if holds),
        "depends on": ", ".join(label for label, holds in needs.items() if holds),
    }
    return {label: text for label, text in rows.items() if text}


def cost(measured: Mapping[str, Any] | None) -> str:
    """Time of a forward and backward pass relative to ``none``, as a sentence."""
    if measured is None:
        return "not measured"
    ratios = {CASES[case]: measured[case].get("ratio") for case in CASES}
    said = (f"{ratio['median']:.2f} {case}" if ratio else f"undefined {case}" for case, ratio in ratios.items())
    return f"times none: {', '.join(said)}"


def _row(label: str, text: str, *, indent: int = 2) -> str:
    return beside(" " * indent + label, text, _TEXT, min(terminal_width() or WIDTH, WIDTH))


def _options(described: Description) -> list[str]:
    labels = ["options", *[""] * len(described.options)]
    return [_row(label, line) for label, line in zip(labels, described.options, strict=False)]


def main(arguments: list[str]) -> int:
    """``bnexp list [GROUP|NAME]``: every choice with its first comment line; norms have a paragraph each."""
    options = parser("list", "What can be chosen, each with a line and its source.")
    options.add_argument("group", nargs="?", help=f"{', '.join(GROUPS)}; or the name of a choice, such as gn")
    take_own(options, "modules of your own, whose norms are described; nothing is imported")
    take_format(options)
    given = options.parse_args([_as_option(word) for word in arguments])
    aliases = {f"{name}s": name for name in GROUPS} | {kind: name for name, kind in LISTS.items()}
    wanted = aliases.get(given.group, given.group)
    if given.config_dir and not given.config_dir.is_dir():
        raise ValueError(f"--config-dir {given.config_dir}: there is no such folder")
    folders = [*([given.config_dir] if given.config_dir else []), configs_folder()]
    groups = {name: _choices(name, folders) for name in ([wanted] if wanted in GROUPS else GROUPS)}
    found = groups if wanted in (None, *GROUPS) else _named(wanted, groups)
    text = [_text(name, some, wanted, given.imports) for name, some in found.items()]
    answer(_document(found, "\n".join(text) + "\n"), given.format)
    return 0


def _named(wanted: str, groups: Mapping[str, list[Description]]) -> dict[str, list[Description]]:
    """The choices with a name, or another name of theirs, by group.

    Raises:
        ValueError: no choice has it.
    """
    chosen = {name: [each for each in some if wanted in (each.name, *each.also)] for name, some in groups.items()}
    if not any(chosen.values()):
        names = [*groups, *(each.name for some in groups.values() for each in some)]
        raise ValueError(f"list={wanted}: neither a group ({', '.join(groups)}) nor a choice{near_miss(wanted, names)}")
    return {name: some for name, some in chosen.items() if some}


def _as_option(word: str) -> str:
    """``imports=[a,b]``, as one types it for ``bnexp train``, as the option ``--imports=a,b``."""
    key, equals, names = word.partition("=")
    return f"--imports={names.strip('[]')}" if (key, equals) == ("imports", "=") else word


def _choices(group: str, folders: list[Path]) -> list[Description]:
    """The choices of a group by name, those of ``FIRST`` before the others."""
    found = descriptions(folder / group for folder in folders)
    first = FIRST if group == "norm" else ()
    return sorted(found, key=lambda each: first.index(each.name) if each.name in first else len(first))


def _document(found: Mapping[str, list[Description]], text: str) -> Document:
    rows = [
        [group, each.name, each.title, each.source, "; ".join(each.options), ", ".join(each.also)]
        for group, some in found.items()
        for each in some
    ]
    table = Table(["group", "name", "title", "source", "options", "also"], rows)
    return Document([table], table, {"choices": records(table)}, text)


def _text(group: str, choices: list[Description], wanted: str | None, imports: list[str]) -> str:
    """The choices of a group: norms in full, if they are asked for; of a choice that is asked for, the options too."""
    if group == "norm" and wanted is not None:
        return _norms(choices, imports)
    options = [line for each in choices for line in _options(each)] if wanted not in (None, group) else []
    return "\n".join([_group(group, choices), *options])


def _norms(choices: list[Description], imports: list[str]) -> str:
    own = []
    if imports:
        from bnexp.experiment.imports import sources

        own = sources(imports)
    norms = described([*sorted((Path(__file__).parents[1] / "norms").glob("*.py")), *own])
    return "\n\n".join(norm_blocks(choices, norms, folder("benchmarks") / "norms.json"))


def _group(name: str, choices: list[Description]) -> str:
    width = max(18, *(len(each.name) + 2 for each in choices))
    return "\n".join([name, *(beside(f"  {each.name}", each.title, width + 2, terminal_width()) for each in choices)])
