"""``bnexp list``: what can be chosen, read from the yaml files without importing torch or the builders."""

from __future__ import annotations

import ast
import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnexp.cli.arguments import parser
from bnexp.config.checks import unknown
from bnexp.config.shipped import configs_folder, folder

_WIDTH = 100
_TEXT = 14  # the column in which texts begin
# The comment lines in a norm's yaml below the first, each `# Label: text`.
LABELS = ("Ranks", "Batch of 1", "Source")
# Case in benchmarks/norms.json -> how the cost is worded.
CASES = {"vectors": "on vectors", "maps": "on maps", "lenet": "in a LeNet step"}


GROUPS = ("norm", "affine", "model", "data", "init", "optim", "schedule", "probes", "experiment", "claim")


@dataclass(frozen=True)
class Description:
    """The description of a choice in its yaml.

    Attributes:
        name: the word to type.
        title: the first comment line.
        labels: label -> text, from comment lines `# Label: text`.
        options: the lines of the options, with their numbers.
    """

    name: str
    title: str
    labels: Mapping[str, str]
    options: tuple[str, ...]


def descriptions(folder: Path) -> list[Description]:
    """The yamls of a group's folder, by name."""
    return [read(path) for path in sorted(folder.glob("*.yaml"))]


def read(path: Path) -> Description:
    """Read a yaml's comments and options."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = [line.removeprefix("# ") for line in lines if line.startswith("# ") and not line.startswith("# @")]
    labels = dict(comment.split(": ", 1) for comment in comments if comment.startswith(tuple(f"{x}: " for x in LABELS)))
    options = tuple(line for line in lines if line and not line.startswith(("#", "name:")))
    return Description(path.stem, comments[0] if comments else "", labels, options)


def builder_lines(folder: Path, registry: str) -> dict[str, str]:
    """Registered name -> first line of the builder's docstring, from the sources of a folder.

    Args:
        folder: holds modules whose functions are decorated with ``@REGISTRY.register("name")``.
        registry: the name of the registry's variable, such as ``NORMS``.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                line = (ast.get_docstring(node) or "").partition("\n")[0]
                found |= {name: line for name in _registered(node, registry)}
    return found


def _registered(node: ast.FunctionDef | ast.ClassDef, registry: str) -> Iterator[str]:
    for decorator in node.decorator_list:
        match decorator:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=owner), attr="register"), args=[ast.Constant(value=str(name))]
            ) if owner == registry:
                yield name


def norm_blocks(norms: list[Description], formulas: Mapping[str, str], costs: Path) -> Iterator[str]:
    """A paragraph for each norm: formula, ranks, behaviour on a batch of one, source, cost and options.

    Args:
        norms: the choices of the group ``norm``.
        formulas: name -> first line of the builder's docstring.
        costs: ``benchmarks/norms.json``, which may be missing.
    """
    measured = json.loads(costs.read_text(encoding="utf-8"))["norms"] if costs.exists() else {}
    for norm in norms:
        rows = {
            "formula": formulas.get(norm.name, norm.title),
            **{label.lower(): norm.labels.get(label, "not said") for label in LABELS},
            "cost": cost(measured.get(norm.name)),
        }
        head = _row(norm.name, norm.title, indent=0)
        yield "\n".join([head, *(_row(label, text) for label, text in rows.items()), *_options(norm)])


def cost(measured: Mapping[str, Any] | None) -> str:
    """Time of a forward and backward pass relative to ``none``, as a sentence."""
    if measured is None:
        return "not measured"
    ratios = {CASES[case]: measured[case].get("ratio") for case in CASES}
    said = (f"{ratio['median']:.2f} {case}" if ratio else f"undefined {case}" for case, ratio in ratios.items())
    return f"times none: {', '.join(said)}"


def _row(label: str, text: str, *, indent: int = 2) -> str:
    first = " " * indent + label
    first = f"{first:<{_TEXT - 1}} "
    return textwrap.fill(text, _WIDTH, initial_indent=first, subsequent_indent=" " * _TEXT, break_on_hyphens=False)


def _options(described: Description) -> list[str]:
    labels = ["options", *[""] * len(described.options)]
    return [_row(label, line) for label, line in zip(labels, described.options, strict=False)]


def main(arguments: list[str]) -> int:
    """``bnexp list [GROUP]``: every choice with its first comment line; ``bnexp list norms``: a paragraph each."""
    options = parser("list", "What can be chosen, each with a line and its source.")
    options.add_argument("group", nargs="?", help=", ".join(GROUPS))
    group = options.parse_args(arguments).group
    aliases = {f"{name}s": name for name in GROUPS} | {"probe": "probes"}
    wanted = aliases.get(group, group)
    if wanted is not None and wanted not in GROUPS:
        raise unknown("list", wanted, GROUPS)
    if wanted == "norm":
        formulas = builder_lines(Path(__file__).parents[1] / "norms", "NORMS")
        costs = folder("benchmarks") / "norms.json"
        print("\n\n".join(norm_blocks(descriptions(configs_folder() / "norm"), formulas, costs)))
        return 0
    for name in [wanted] if wanted else GROUPS:
        print(name)
        found = descriptions(configs_folder() / name)
        width = max(18, *(len(each.name) + 2 for each in found))
        for each in found:
            print(f"  {each.name:{width}}{each.title}")
    return 0
