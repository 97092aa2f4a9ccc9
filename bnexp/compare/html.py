"""A document as HTML elements; ``page`` and the report of the claims put them into a page."""

from __future__ import annotations

import html
import os
import urllib.parse
from collections.abc import Iterable, Sequence

from bnexp.compare.blocks import Block, Box, Cell, Code, Figure, Group, Heading, Items, Links, Table, Text


def as_html(blocks: Iterable[Block], *, sortable: bool = False) -> str:
    """Elements, one under another; the columns of ``sortable`` tables are what ``page.js`` sorts by."""
    return "\n".join(_written(block, sortable) for block in blocks)


def _written(block: Block, sortable: bool) -> str:
    match block:
        case Heading():
            anchor = f' id="{html.escape(block.anchor)}"' if block.anchor else ""
            return f"<h{block.level}{anchor}>{html.escape(block.text)}</h{block.level}>"
        case Text():
            title = f"<b>{html.escape(block.title)}</b> " if block.title else ""
            return f"<p{_class(block.kind)}>{title}{html.escape(block.text)}</p>"
        case Table():
            return _titled(block.title, _table(block, sortable))
        case Figure():
            return _figure(block)
        case Items():
            tag = "ol" if block.ordered else "ul"
            return f"<{tag}>" + "".join(f"<li>{html.escape(item)}</li>" for item in block.items) + f"</{tag}>"
        case Code():
            return f"<pre>{html.escape(block.text)}</pre>"
        case Links():
            title = f"<b>{html.escape(block.title)}</b> " if block.title else ""
            return f'<p class="links">{title}{" · ".join(_link(*link) for link in block.links)}</p>'
        case Box():
            return f"<div{_class(block.kind)}>\n{as_html(block.blocks, sortable=sortable)}\n</div>"


def _class(kind: str) -> str:
    return f' class="{html.escape(kind)}"' if kind else ""


def _titled(title: str, table: str) -> str:
    """The table in a box that scrolls, under its title where it has one."""
    if not title:
        return f'<div class="scroll" tabindex="0">{table}</div>'
    text = html.escape(title)
    box = f'<div class="scroll" role="region" aria-label="{text}" tabindex="0">{table}</div>'
    return f"<section><h2>{text}</h2>{box}</section>"


def _table(table: Table, sortable: bool) -> str:
    word = "word" if sortable else ""
    sides = ["number" if numeric else word for numeric in table.numeric]
    head = "".join(_head(name, side, sortable) for name, side in zip(table.header, sides, strict=True))
    labels = table.header if table.kind else [""] * len(sides)
    body = "\n".join(_row(row, sides, labels, sortable) for row in table.cells)
    return f"<table{_class(table.kind)}><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _head(name: str, side: str, sortable: bool) -> str:
    text = html.escape(name)
    if sortable:
        return f'<th scope="col"{_class(side)} aria-sort="none"><button type="button">{text}</button></th>'
    return f'<th scope="col"{_class(side)}>{text}</th>'


def _row(row: Sequence[Cell] | Group, sides: Sequence[str], labels: Sequence[str], sortable: bool) -> str:
    """A row; its cells bear ``labels``, which a style shows where cells stand under one another."""
    if isinstance(row, Group):
        return f'<tr class="group"><th colspan="{len(sides)}">{html.escape(row.text)}{_note(row.note)}</th></tr>'
    cells = zip(row, sides, labels, strict=True)
    return "<tr>" + "".join(_cell(cell, side, label, sortable) for cell, side, label in cells) + "</tr>"


def _cell(cell: Cell, side: str, label: str, sortable: bool) -> str:
    key = f' data-sort="{"" if cell.value is None else html.escape(str(cell.value))}"' if sortable else ""
    anchor = f' id="{html.escape(cell.anchor)}"' if cell.anchor else ""
    shown = cell.picture or html.escape(cell.text)
    linked = f'<a href="{html.escape(cell.link)}">{shown}</a>' if cell.link else shown
    marked = f"<span{_class(cell.kind)}>{linked}</span>" if cell.kind else linked
    labelled = f' data-label="{html.escape(label)}"' if label else ""
    return f"<td{_class(side)}{key}{anchor}{labelled}>{marked}{_note(cell.note)}</td>"


def _note(note: str) -> str:
    return f" <small>{html.escape(note)}</small>" if note else ""


def _figure(figure: Figure) -> str:
    width = f' style="max-width: {figure.width}px"' if figure.width else ""
    caption = html.escape(figure.caption)
    picture = figure.svg or f'<img src="{html.escape(figure.file)}" alt="{caption}" loading="lazy">'
    return f"<figure{width}>{picture}<figcaption>{caption}</figcaption></figure>"


def _link(text: str, to: str) -> str:
    return f'<a href="{html.escape(to)}">{html.escape(text)}</a>'


def quoted(address: str) -> str:
    """A relative address in which no name can be taken for a scheme."""
    return urllib.parse.quote(os.fsencode(address), safe="/")
