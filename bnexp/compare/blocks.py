"""A document as a list of blocks, and those as HTML and as Markdown."""

from __future__ import annotations

import html
import re
import urllib.parse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Heading:
    """A heading; ``anchor`` is what links lead to."""

    level: int
    text: str
    anchor: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph; ``title`` stands before it in bold, ``kind`` is its class in HTML."""

    text: str
    title: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Cell:
    """A table's cell; ``kind`` is its class, ``picture`` an SVG instead of the text, ``note`` stands under it."""

    text: str
    link: str = ""
    kind: str = ""
    picture: str = ""
    note: str = ""


@dataclass(frozen=True)
class Group:
    """A row of one cell over all columns, that names what the rows below it are about."""

    text: str
    link: str
    note: str


@dataclass(frozen=True)
class Table:
    """Columns of text or cells; ``numbers`` are the columns that stand flush right, ``pictures`` those in HTML only."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell] | Group]
    numbers: Sequence[int] = ()
    pictures: Sequence[int] = ()
    kind: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture: an SVG for HTML, as wide as ``width`` pixels, and a file beside the page for Markdown."""

    svg: str
    file: str
    caption: str
    width: int


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    items: Sequence[str]
    ordered: bool = False


@dataclass(frozen=True)
class Fold:
    """What is shown on demand: code, or links (text, address)."""

    title: str
    code: str = ""
    links: Sequence[tuple[str, str]] = field(default=())


Block = Heading | Text | Table | Figure | Items | Fold


# --- HTML -------------------------------------------------------------------------------------------------------------


def as_html(blocks: Iterable[Block]) -> str:
    """Elements, one under another."""
    return "\n".join(_html(block) for block in blocks)


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        anchor = f' id="{html.escape(block.anchor)}"' if block.anchor else ""
        return f"<h{block.level}{anchor}>{html.escape(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        title = f"<b>{html.escape(block.title)}</b> " if block.title else ""
        return f"<p{_class(block.kind)}>{title}{html.escape(block.text)}</p>"
    if isinstance(block, Table):
        return _html_table(block)
    if isinstance(block, Figure):
        width = f' style="max-width: {block.width}px"'
        return f"<figure{width}>{block.svg}<figcaption>{html.escape(block.caption)}</figcaption></figure>"
    if isinstance(block, Items):
        tag = "ol" if block.ordered else "ul"
        return f"<{tag}>" + "".join(f"<li>{html.escape(item)}</li>" for item in block.items) + f"</{tag}>"
    return _html_fold(block)


def _class(kind: str) -> str:
    return f' class="{html.escape(kind)}"' if kind else ""


def _html_table(table: Table) -> str:
    side = ["number" if index in table.numbers else "" for index in range(len(table.header))]
    head = "".join(
        f'<th scope="col"{_class(kind)}>{html.escape(name)}</th>' for name, kind in zip(table.header, side, strict=True)
    )
    body = "\n".join(_html_row(row, side) for row in table.rows)
    return (
        f'<div class="scroll" tabindex="0"><table{_class(table.kind)}><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _html_row(row: Sequence[str | Cell] | Group, side: Sequence[str]) -> str:
    if isinstance(row, Group):
        name = f'<a href="{html.escape(row.link)}">{html.escape(row.text)}</a>'
        return f'<tr class="group"><th colspan="{len(side)}">{name}{_html_note(row.note)}</th></tr>'
    return "<tr>" + "".join(_html_cell(cell, kind) for cell, kind in zip(row, side, strict=True)) + "</tr>"


def _html_note(note: str) -> str:
    return f" <small>{html.escape(note)}</small>" if note else ""


def _html_cell(cell: str | Cell, side: str) -> str:
    cell = Cell(cell) if isinstance(cell, str) else cell
    shown = cell.picture or html.escape(cell.text)
    linked = f'<a href="{html.escape(cell.link)}">{shown}</a>' if cell.link else shown
    marked = f"<span{_class(cell.kind)}>{linked}</span>" if cell.kind else linked
    return f"<td{_class(side)}>{marked}{_html_note(cell.note)}</td>"


def _html_fold(fold: Fold) -> str:
    code = f"<pre>{html.escape(fold.code)}</pre>" if fold.code else ""
    links = "".join(f'<li><a href="{html.escape(_quoted(to))}">{html.escape(text)}</a></li>' for text, to in fold.links)
    listed = f"<ul>{links}</ul>" if links else ""
    return f"<details><summary>{html.escape(fold.title)}</summary>{code}{listed}</details>"


def _quoted(address: str) -> str:
    """An address in which no name can be taken for a scheme."""
    return urllib.parse.quote(address, safe="/")


# --- Markdown ---------------------------------------------------------------------------------------------------------


def as_markdown(blocks: Iterable[Block]) -> str:
    """Paragraphs, one under another."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        anchor = f'<a id="{block.anchor}"></a>\n\n' if block.anchor else ""
        return f"{anchor}{'#' * block.level} {_plain(block.text)}"
    if isinstance(block, Text):
        return (f"**{_plain(block.title)}** " if block.title else "") + _plain(block.text)
    if isinstance(block, Table):
        return _markdown_table(block)
    if isinstance(block, Figure):
        return f"![{_plain(block.caption)}]({_quoted(block.file)})"
    if isinstance(block, Items):
        return "\n".join(f"{'1.' if block.ordered else '-'} {_plain(item)}" for item in block.items)
    code = f"\n```yaml\n{block.code.rstrip()}\n```\n" if block.code else ""
    links = "\n".join(f"- [{_plain(text)}]({_quoted(to)})" for text, to in block.links)
    return f"<details><summary>{html.escape(block.title)}</summary>\n{code}\n{links}\n\n</details>"


def _markdown_table(table: Table) -> str:
    shown = [index for index in range(len(table.header)) if index not in table.pictures]
    head = [_plain(table.header[index]) for index in shown]
    rules = ["---:" if index in table.numbers else "---" for index in shown]
    lines = [head, rules, *(_markdown_row(row, shown) for row in table.rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _markdown_row(row: Sequence[str | Cell] | Group, shown: Sequence[int]) -> list[str]:
    if isinstance(row, Group):
        first = f"**{_markdown_cell(Cell(row.text, row.link))}**{_markdown_note(row.note)}"
        return [first, *[""] * (len(shown) - 1)]
    return [_markdown_cell(row[index]) for index in shown]


def _markdown_note(note: str) -> str:
    return f" ({_plain(note)})" if note else ""


def _markdown_cell(cell: str | Cell) -> str:
    if isinstance(cell, str):
        return _plain(cell)
    text = f"[{_plain(cell.text)}]({cell.link})" if cell.link else _plain(cell.text)
    return text + _markdown_note(cell.note)


def _plain(text: str) -> str:
    return re.sub(r"([|*_<`\\])", r"\\\1", " ".join(text.split()))
