r"""A document as LaTeX, to be taken into a paper by ``\input``; its first line names the packages that it needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from bnexp.compare.blocks import Block, Box, Cell, Code, Figure, Group, Heading, Items, Links, Table, Text

_HEAD = "% needs \\usepackage[T1]{fontenc}, \\usepackage{booktabs}; figures need \\usepackage{graphicx}"
_SECTIONS = ("section", "subsection", "subsubsection", "paragraph")
# Characters that LaTeX would take for a command, and signs that pdflatex has no letter for.
_ESCAPES = {
    "\\": r"\textbackslash{}",
    **{mark: "\\" + mark for mark in "{}$&#_%"},
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "\u00d7": r"$\times$",  # the sign of multiplication
    "\u2212": r"$-$",  # the minus sign
    "→": r"$\rightarrow$",
    "…": r"\ldots{}",
}
# The sign of a number, which is no hyphen.
_MINUS = re.compile(r"(?<![\w.)])-(?=\.?\d)")
# Behind ``\\item`` and ``\\\\`` they would be an option.
_OPTIONS = ("[", "*")
_SPECIAL = re.compile("|".join(map(re.escape, _ESCAPES)))


def as_latex(blocks: Iterable[Block]) -> str:
    """Sections, paragraphs and tables, one under another; links are left out."""
    return "\n\n".join([_HEAD, *filter(None, map(_written, blocks))]) + "\n"


def _written(block: Block) -> str:
    match block:
        case Heading():
            return f"\\{_SECTIONS[min(block.level, len(_SECTIONS)) - 1]}*{{{escaped(block.text)}}}"
        case Text():
            title = f"\\textbf{{{escaped(block.title)}}} " if block.title else ""
            return title + escaped(block.text)
        case Table():
            return _table(block)
        case Figure():
            return f"\\includegraphics[width=\\linewidth]{{\\detokenize{{{block.file}}}}}\\\\\n{escaped(block.caption)}"
        case Items():
            kind = "enumerate" if block.ordered else "itemize"
            return "\n".join([f"\\begin{{{kind}}}", *(f"\\item {escaped(x)}" for x in block.items), f"\\end{{{kind}}}"])
        case Code():
            return "\\\\\n".join(f"\\texttt{{{escaped(line)}}}" for line in block.text.splitlines())
        case Links():
            return ""
        case Box():
            return "\n\n".join(filter(None, map(_written, block.blocks)))


def _table(table: Table) -> str:
    shown = table.texts
    columns = "".join("r" if table.numeric[index] else "l" for index in shown)
    title = [f"\\textbf{{{escaped(table.title)}}}\\\\"] if table.title else []
    head = _line([escaped(table.header[index]) for index in shown])
    rows = [_row(row, shown) for row in table.cells]
    begin = f"\\begin{{tabular}}{{{columns}}}"
    return "\n".join([*title, begin, "\\toprule", head, "\\midrule", *rows, "\\bottomrule", "\\end{tabular}"])


def _row(row: Sequence[Cell] | Group, shown: Sequence[int]) -> str:
    if isinstance(row, Group):
        return f"\\multicolumn{{{len(shown)}}}{{l}}{{\\textbf{{{escaped(row.text)}}}{_note(row.note)}}} \\\\"
    return _line([_MINUS.sub("$-$", escaped(row[index].text)) + _note(row[index].note) for index in shown])


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _note(note: str) -> str:
    return f" ({escaped(note)})" if note else ""


def escaped(text: str) -> str:
    """The text on one line, with nothing in it that LaTeX would take for a command."""
    plain = _SPECIAL.sub(lambda found: _ESCAPES[found[0]], " ".join(text.split()))
    plain = re.sub("-(?=-)", "-{}", plain)  # two dashes in a row would become one long dash
    return f"{{{plain[0]}}}{plain[1:]}" if plain.startswith(_OPTIONS) else plain
