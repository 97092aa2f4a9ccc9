"""A document as plain text for a terminal."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from bnexp.compare.blocks import Block, Box, Code, Group, Heading, Items, Table, Text

# Of sentences, where standard output is no terminal; tables are as wide there as they need to be.
WIDTH = 100
_GAP = "  "
# A text column is not made narrower than this.
_LEAST = 12


def terminal_width() -> int | None:
    """The columns of the terminal that standard output is; None where it is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def beside(label: str, text: str, column: int, width: int | None) -> str:
    """A label, and a text that begins in a column and goes on there in further lines; in one line if width is None."""
    first = f"{label:<{column - 1}} "
    if width is None or not text:
        return (first + text).rstrip()
    return textwrap.fill(
        text,
        max(width, column + _LEAST),
        initial_indent=first,
        subsequent_indent=" " * column,
        break_on_hyphens=False,
        break_long_words=False,
    )


def as_text(blocks: Iterable[Block], width: int | None = None) -> str:
    """Aligned tables and wrapped sentences. Figures and links are left out.

    Args:
        blocks: of a document.
        width: the columns that tables and sentences must fit; None for a file or a pipe.
    """
    return "\n\n".join(filter(None, (_written(block, width) for block in blocks))).rstrip() + "\n"


def _written(block: Block, width: int | None) -> str:
    match block:
        case Heading():
            return block.text
        case Text():
            return _wrapped(f"{block.title} {block.text}".strip(), width)
        case Table():
            return _aligned(block, width)
        case Items():
            marks = [f"{number}. " if block.ordered else "" for number in range(1, len(block.items) + 1)]
            return "\n".join(_wrapped(mark + item, width, "  ") for mark, item in zip(marks, block.items, strict=True))
        case Code():
            return block.text
        case Box():
            return as_text(block.blocks, width).rstrip()
        case _:
            return ""


def _wrapped(text: str, width: int | None, indent: str = "") -> str:
    return textwrap.fill(
        text, min(width or WIDTH, WIDTH), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _aligned(table: Table, width: int | None) -> str:
    columns = table.texts
    if width is not None and _total(_widths(table, columns)) > width:
        columns = [column for column in columns if column not in table.whole]
    below = [column for column in table.texts if column not in columns]
    widths, right = _widths(table, columns), [table.numeric[column] for column in columns]
    if width is not None:
        widths = _fitted(widths, _least_widths(table, columns), width)
    lines = [*filter(None, [table.title]), _line([table.header[column] for column in columns], widths, right)]
    lines.append("-" * _total(widths))
    for row in table.cells:
        if isinstance(row, Group):
            lines.append(row.text)
        else:
            lines.append(_line([row[column].text for column in columns], widths, right))
            lines += [_GAP + row[column].text for column in below]
    return "\n".join(lines)


def _widths(table: Table, columns: Sequence[int]) -> list[int]:
    """The widths that columns need."""
    return [max(len(table.header[column]), *_lengths(table, column)) for column in columns]


def _least_widths(table: Table, columns: Sequence[int]) -> list[int]:
    """The widths below which columns are not made narrower: numbers stay whole."""
    return [max(_lengths(table, column)) if table.numeric[column] else _LEAST for column in columns]


def _lengths(table: Table, column: int) -> list[int]:
    return [0, *(len(row[column].text) for row in table.records)]


def _total(widths: Sequence[int]) -> int:
    """The width of a line with columns of these widths."""
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _fitted(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Widths of columns, the widest made narrower until a line fits into the room; as they were if none fits."""
    fitted = list(widths)
    while _total(fitted) > room:
        free = [index for index, width in enumerate(fitted) if width > least[index]]
        if not free:
            return list(widths)
        fitted[max(free, key=lambda index: fitted[index])] -= 1
    return fitted


def _line(texts: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    """The cells of a row side by side; a text that is wider than its column goes on below."""
    parts = [_folded(text, width) for text, width in zip(texts, widths, strict=True)]
    return "\n".join(
        _GAP.join(
            part.rjust(width) if flush else part.ljust(width)
            for part, width, flush in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in zip_longest(*parts, fillvalue="")
    )


def _folded(text: str, width: int) -> list[str]:
    """The lines of a text. Settings and paths break behind commas and slashes, commands as a shell lets them."""
    if len(text) <= width:
        return [text]
    words, end = (text.split(" "), " \\") if text.startswith("bnexp ") else (re.findall(r"[^ ,/]*[ ,/]?", text), "")
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word.rstrip()) + len(end) + bool(end) > width:
            lines.append("")
        lines[-1] += f" {word}" if end and lines[-1] else word
    *first, last = [line.rstrip() for line in lines]
    return [*(line + end for line in first), last]
