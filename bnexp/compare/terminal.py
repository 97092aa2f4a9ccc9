"""A document as plain text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from bnexp.compare.blocks import Block, Group, Heading, Items, Table, Text

WIDTH = 100


def as_text(blocks: Iterable[Block]) -> str:
    """Aligned tables and wrapped sentences. Figures and folded parts are left out."""
    return "\n\n".join(filter(None, map(_written, blocks))).rstrip() + "\n"


def _written(block: Block) -> str:
    match block:
        case Heading():
            return block.text
        case Text():
            return _wrapped(f"{block.title} {block.text}".strip())
        case Table():
            return _aligned(block)
        case Items():
            marks = [f"{number}. " if block.ordered else "" for number in range(1, len(block.items) + 1)]
            return "\n".join(_wrapped(mark + item, "  ") for mark, item in zip(marks, block.items, strict=True))
        case _:
            return ""


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False)


def _aligned(table: Table) -> str:
    shown, rows = table.texts, table.cells
    lines = [[table.header[index] for index in shown]]
    lines += [[row[index].text for index in shown] for row in rows if not isinstance(row, Group)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [table.numeric[index] for index in shown]
    head, *body = (
        "  ".join(
            text.rjust(width) if flush else text.ljust(width)
            for text, width, flush in zip(line, widths, right, strict=True)
        )
        for line in lines
    )
    records = iter(body)
    below = [row.text if isinstance(row, Group) else next(records).rstrip() for row in rows]
    return "\n".join([*filter(None, [table.title]), head.rstrip(), "-" * len(head), *below])
