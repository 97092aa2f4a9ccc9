"""A document as Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from bnexp.compare.blocks import Block, Cell, Figure, Fold, Group, Heading, Items, Table, Text
from bnexp.compare.html import quoted


def as_markdown(blocks: Iterable[Block]) -> str:
    """Paragraphs, one under another."""
    return "\n\n".join(_written(block) for block in blocks) + "\n"


def _written(block: Block) -> str:
    match block:
        case Heading():
            anchor = f'<a id="{block.anchor}"></a>\n\n' if block.anchor else ""
            return f"{anchor}{'#' * block.level} {_plain(block.text)}"
        case Text():
            return _bold(block.title, " ") + _plain(block.text)
        case Table():
            return _bold(block.title, "\n\n") + _table(block)
        case Figure():
            return f"![{_plain(block.caption)}]({quoted(block.file)})"
        case Items():
            return "\n".join(f"{'1.' if block.ordered else '-'} {_plain(item)}" for item in block.items)
        case Fold():
            return _fold(block)


def _bold(title: str, end: str) -> str:
    return f"**{_plain(title)}**{end}" if title else ""


def _fold(fold: Fold) -> str:
    code = f"\n```yaml\n{fold.code.rstrip()}\n```\n" if fold.code else ""
    links = "\n".join(f"- [{_plain(text)}]({quoted(to)})" for text, to in fold.links)
    return f"<details><summary>{html.escape(fold.title)}</summary>\n{code}\n{links}\n\n</details>"


def _table(table: Table) -> str:
    shown, numeric = table.texts, table.numeric
    head = [_plain(table.header[index]) for index in shown]
    rules = ["---:" if numeric[index] else "---" for index in shown]
    lines = [head, rules, *(_row(row, shown) for row in table.cells)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _row(row: Sequence[Cell] | Group, shown: Sequence[int]) -> list[str]:
    """Texts of a row. A cell's link is left out: its goal is an anchor of another cell, which Markdown has not."""
    if isinstance(row, Group):
        first = f"**[{_plain(row.text)}]({row.link})**{_note(row.note)}"
        return [first, *[""] * (len(shown) - 1)]
    return [_plain(row[index].text) + _note(row[index].note) for index in shown]


def _note(note: str) -> str:
    return f" ({_plain(note)})" if note else ""


def _plain(text: str) -> str:
    """In one line, with nothing in it that Markdown would take for a mark."""
    return re.sub(r"([|*_<`\\])", r"\\\1", " ".join(text.split()))
