"""Documents as LaTeX: nothing in a name is a command, and the tables are whole."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from bnexp.compare.blocks import Box, Cell, Code, Figure, Group, Heading, Items, Links, Table, Text
from bnexp.compare.latex import as_latex, escaped

NASTY = "\\ { } $ & # ^ _ % ~ < > | \" ' ` -- --- 0.3 ± 0.1 ≥ 3 x²"
BLOCKS = [
    Heading(2, "A & B"),
    Text("50 % of $x_1$", title="Note"),
    Table(
        ["norm", "test/accuracy"],
        [Group("g_1", "n"), ["a_b-1", Cell("-0.5 ± 1e-05", 0.5)], ["[1,-2]", Cell("[-.3, +1]", 1)]],
        title="T_1",
    ),
    Items(["one_1", "[two, three]: 4"], ordered=True),
    Figure("<svg/>", "caption_1", file="a_b.pdf"),
    Box("kind", [Code("bnexp list a_b\nbnexp runs"), Links("", [("hidden", "x")])]),
]


def test_special_characters_are_escaped():
    assert escaped("\\{}$&#_%") == r"\textbackslash{}\{\}\$\&\#\_\%"
    assert escaped("a^b~c<d>e|f") == r"a\textasciicircum{}b\textasciitilde{}c\textless{}d\textgreater{}e\textbar{}f"
    assert escaped("-1 -- ---") == "-1 -{}- -{}-{}-"
    assert escaped("0.3 ± 0.1\n≥ 2") == r"0.3 $\pm$ 0.1 $\geq$ 2"


def test_no_special_character_is_left_bare():
    bare = re.sub(r"\\text[a-z]+\{\}|\$\\[a-z]+\$|\\[{}$&#_%]|-\{\}", "", escaped(NASTY))
    assert not re.search(r"[\\{}$&#^_%~<>|\"'`]|--", bare)


def test_a_table_is_a_booktabs_tabular_with_numbers_flush_right():
    text = as_latex(BLOCKS)
    table = text[text.index("\\begin{tabular}") : text.index("\\end{tabular}")]
    assert table.splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"norm & test/accuracy \\",
        r"\midrule",
        r"\multicolumn{2}{l}{\textbf{g\_1} (n)} \\",
        r"a\_b-1 & $-$0.5 $\pm$ 1e-05 \\",
        r"{[}1,$-$2] & {[}$-$.3, +1] \\",
        r"\bottomrule",
    ]
    assert r"\subsection*{A \& B}" in text
    assert "\\begin{enumerate}\n\\item one\\_1\n\\item {[}two, three]: 4\n\\end{enumerate}" in text
    assert "\\texttt{bnexp list a\\_b}\\\\\n\\texttt{bnexp runs}" in text
    assert "hidden" not in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_pdflatex_takes_it(tmp_path):
    body = as_latex([*BLOCKS[:4], Text(NASTY)])
    head = "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{textcomp,booktabs}\\begin{document}"
    (tmp_path / "page.tex").write_text(f"{head}\n{body}\\end{{document}}\n")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stdout
