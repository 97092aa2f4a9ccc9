"""The values of ``--format``, and the writer of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bnexp.compare.blocks import Document
from bnexp.compare.data import as_csv, as_json
from bnexp.compare.latex import as_latex
from bnexp.compare.markdown import as_markdown
from bnexp.compare.terminal import as_text, terminal_width

FORMATS: Mapping[str, Callable[[Document], str]] = {
    "table": lambda document: as_text(document.blocks, terminal_width()) if document.text is None else document.text,
    "csv": as_csv,
    "json": as_json,
    "markdown": lambda document: as_markdown(document.blocks),
    "latex": lambda document: as_latex(document.blocks),
}
