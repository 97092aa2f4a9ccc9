"""The model of a document: blocks, and tables of cells. It knows nothing of how a document is written.

``terminal``, ``markdown``, ``latex``, ``html`` and ``data`` write documents; ``formats`` names the writers for
``--format``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Heading:
    """A heading; ``anchor`` is its name for links."""

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
    """A table's cell.

    Attributes:
        text: for people.
        value: for sorting and for machines, at full precision; None where there is no value.
        link: the address of the text, in HTML.
        anchor: the cell's name for links.
        kind: the text's class in HTML.
        picture: an SVG that HTML shows instead of the text.
        note: a remark under the text.
    """

    text: str
    value: float | str | None = None
    link: str = ""
    anchor: str = ""
    kind: str = ""
    picture: str = ""
    note: str = ""


@dataclass(frozen=True)
class Group:
    """A row with one cell over all columns; it names the subject of the rows below it."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells; a bare text is a cell whose value is the text.

    Attributes:
        pictures: columns that only HTML can show.
        kind: the table's class in HTML.
        whole: columns whose texts are copied by people, such as paths; a narrow terminal shows them below their row.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell] | Group]
    title: str = ""
    pictures: Sequence[int] = ()
    kind: str = ""
    whole: Sequence[int] = ()

    @property
    def cells(self) -> list[list[Cell] | Group]:
        """The rows, with every bare text as a cell."""
        return [row if isinstance(row, Group) else [_cell(given) for given in row] for row in self.rows]

    @property
    def records(self) -> list[list[Cell]]:
        """The rows without the groups."""
        return [row for row in self.cells if not isinstance(row, Group)]

    @property
    def texts(self) -> list[int]:
        """The columns that can be written as text."""
        return [index for index in range(len(self.header)) if index not in self.pictures]

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers, which are written flush right."""
        records = self.records
        return [_all_numbers([row[index].value for row in records]) for index in range(len(self.header))]


def _cell(given: str | Cell) -> Cell:
    return given if isinstance(given, Cell) else Cell(given, given or None)


def _all_numbers(values: Sequence[float | str | None]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and not any(isinstance(value, str) for value in known)


@dataclass(frozen=True)
class Figure:
    """A picture, at most ``width`` pixels wide: an SVG in HTML, and where there is none, the file beside the page."""

    svg: str
    caption: str
    file: str = ""
    width: int | None = None


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    items: Sequence[str]
    ordered: bool = False


@dataclass(frozen=True)
class Code:
    """Lines to be typed."""

    text: str


@dataclass(frozen=True)
class Links:
    """Links (text, address) in a line, with a title before them; addresses are quoted as they have to be."""

    title: str
    links: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Box:
    """Blocks that HTML lays out together; ``kind`` is their class."""

    kind: str
    blocks: Sequence[Block]


Block = Heading | Text | Table | Figure | Items | Code | Links | Box


@dataclass(frozen=True)
class Document:
    """The answer of a command.

    Attributes:
        blocks: for people.
        table: for CSV, at full precision; for JSON too unless there are ``facts``.
        facts: for JSON.
        text: for a terminal, where it is laid out by hand; else the blocks are shown.
    """

    blocks: Sequence[Block]
    table: Table
    facts: Mapping[str, Any] | None = None
    text: str | None = None
