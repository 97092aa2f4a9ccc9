"""The results of claims as pages: a first one, and one a claim, each as HTML and as Markdown."""

from __future__ import annotations

import html
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bnexp.claims.declaration import Claim
from bnexp.claims.report import figures, seeds, tables
from bnexp.claims.report.front import front
from bnexp.claims.report.place import Place
from bnexp.claims.report.reading import Reading, Scales, reading
from bnexp.claims.report.section import section
from bnexp.claims.result import Result
from bnexp.compare.blocks import Block
from bnexp.compare.drawing import Picture
from bnexp.compare.html import as_html
from bnexp.compare.markdown import as_markdown
from bnexp.compare.page import style

_HERE = Path(__file__)
_TITLE = "Claims about normalization, tested"
_FOLDERS = ("pages", "figures", "declarations")
_WRITERS = {".html": as_html, ".md": as_markdown}


def write(folder: Path, results: Mapping[str, Sequence[Result]], *, untried: Sequence[Claim] = ()) -> list[Path]:
    """Write all pages, with a figure and the declaration of each claim, and all tests and runs as tables.

    Args:
        folder: for the files.
        results: name of a folder -> its results, as ``store.read_all`` returns them; pages tell the first in full.
        untried: declared claims without a result.

    Returns:
        Paths of the first page, as HTML and as Markdown, and of the numbers of all seeds.

    Raises:
        ValueError: a result holds a declaration of another version.
    """
    for name in _FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    scales = _by_claim(results)
    readings = {name: next(iter(some.values())) for name, some in scales.items()}
    lessons = {name: figures.draw_small(one) for name, one in readings.items() if one.claim.lesson is not None}
    pictures = {name: _pictures(one) for name, one in readings.items()}
    for picture in (*filter(None, lessons.values()), *(picture for some in pictures.values() for picture in some)):
        figures.save(picture, folder / "figures")
    for ending in _WRITERS:
        top, below = Place(ending, "", folder), Place(ending, "../", folder)
        _save(folder / f"claims{ending}", _TITLE, top, front(list(scales.values()), lessons, untried, top))
        for name, some in scales.items():
            blocks = section(some, pictures[name], below)
            _save(folder / "pages" / f"{name}{ending}", readings[name].claim.sentence, below, blocks)
    _write_beside(folder, list(readings.values()))
    every = [result for some in results.values() for result in some]
    return [*(folder / f"claims{ending}" for ending in _WRITERS), seeds.write(folder, every)]


def _write_beside(folder: Path, readings: Sequence[Reading]) -> None:
    """Declarations, tables, and the style of the pages."""
    for one in readings:
        (folder / "declarations" / f"{one.claim.id}.yaml").write_text(one.result.declaration, encoding="utf-8")
    tables.write(folder, readings)
    css = _HERE.with_name("claims.css").read_text(encoding="utf-8")
    (folder / "claims.css").write_text(f"{style()}\n{css}", encoding="utf-8")


def _by_claim(results: Mapping[str, Sequence[Result]]) -> dict[str, Scales]:
    """Claim -> its readings, in the order of the folders; claims in the order of their names."""
    found: dict[str, dict[str, Reading]] = {}
    for name, some in results.items():
        for result in some:
            found.setdefault(result.claim, {})[name] = reading(result)
    return {name: found[name] for name in sorted(found)}


def _pictures(one: Reading) -> list[Picture]:
    return [picture for picture in (figures.draw(one), figures.draw_others(one)) if picture is not None]


def _save(path: Path, title: str, place: Place, blocks: Iterator[Block]) -> None:
    text = _WRITERS[place.ending](blocks)
    if place.ending == ".html":
        template = string.Template(_HERE.with_name("claims.html").read_text(encoding="utf-8"))
        text = template.substitute(title=html.escape(title), up=place.up, body=text)
    path.write_text(text, encoding="utf-8")
