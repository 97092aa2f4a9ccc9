"""A document as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from bnexp.compare.blocks import Block, Box, Cell, Code, Figure, Group, Heading, Items, Links, Table, Text


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
            return f"![{_plain(block.caption)}]({block.file})"
        case Items():
            return "\n".join(f"{'1.' if block.ordered else '-'} {_plain(item)}" for item in block.items)
        case Code():
            return "\n".join(f"    {line}" for line in block.text.splitlines())
        case Links():
            return _bold(block.title, " ") + " · ".join(_link(*link) for link in block.links)
        case Box():
            return "\n\n".join(map(_written, block.blocks))


def _bold(title: str, end: str) -> str:
    return f"**{_plain(title)}**{end}" if title else ""


def _link(text: str, to: str) -> str:
    return f"[{_plain(text)}]({to})"


def _table(table: Table) -> str:
    shown, numeric = table.texts, table.numeric
    head = [_plain(table.header[index]) for index in shown]
    rules = ["---:" if numeric[index] else "---" for index in shown]
    lines = [head, rules, *(_row(row, shown) for row in table.cells)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _row(row: Sequence[Cell] | Group, shown: Sequence[int]) -> list[str]:
    if isinstance(row, Group):
        return [_bold(row.text, "") + _note(row.note), *[""] * (len(shown) - 1)]
    return [_cell(row[index]) for index in shown]


def _cell(cell: Cell) -> str:
    """A cell's text. A link to an anchor is left out: its goal is another cell, which has no anchor in Markdown."""
    linked = cell.link and not cell.link.startswith("#")
    return (_link(cell.text, cell.link) if linked else _plain(cell.text)) + _note(cell.note)


def _note(note: str) -> str:
    return f" ({_plain(note)})" if note else ""


def _plain(text: str) -> str:
    """In one line, with nothing in it that Markdown would take for a mark."""
    return re.sub(r"([|*_<`\\])", r"\\\1", " ".join(text.split()))
