"""Where the files of a report lie, as seen from one of its pages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnexp.compare.html import quoted

# All statements of the source articles; their numbers are the anchors.
_ARTICLES = "docs/articles.md"
_DOCUMENTS = (
    ("how claims are judged, and how often that is wrong", "docs/claims/protocol.md"),
    ("every statement of the source articles, with its answer", _ARTICLES),
)


@dataclass(frozen=True)
class Place:
    """A page of a report.

    Attributes:
        ending: of all pages of its kind, such as ``.html``.
        up: the way from the page to the folder of the report: empty, or ``../``.
        folder: of the report.
    """

    ending: str
    up: str
    folder: Path

    def page(self, claim: str) -> str:
        """The address of a claim's page."""
        return f"{self.up}pages/{quoted(claim)}{self.ending}"

    def figure(self, name: str) -> str:
        """The address of a figure."""
        return f"{self.up}figures/{quoted(name)}.svg"

    def file(self, name: str) -> str:
        """The address of a file in the report's folder."""
        return self.up + quoted(name)

    def articles(self, numbers: Sequence[Any]) -> list[tuple[str, str]]:
        """Links to statements of the source articles; none where their file is not there."""
        to = self._outside(_ARTICLES)
        return [(str(number), f"{to}#{str(number).lower()}") for number in numbers] if to else []

    @property
    def further(self) -> list[tuple[str, str]]:
        """Links to what explains the report, and to its numbers."""
        known = [(text, to) for text, name in _DOCUMENTS if (to := self._outside(name))]
        return [*known, *((f"all {name}", self.file(f"{name}.csv")) for name in ("tests", "seeds", "runs"))]

    def _outside(self, name: str) -> str | None:
        """The address of a file of the repository that the report lies in; None where it is not there."""
        folder = self.folder.resolve()
        path = next((above / name for above in folder.parents if (above / name).exists()), None)
        return None if path is None else self.up + quoted(os.path.relpath(path, folder))
