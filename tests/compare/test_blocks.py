"""The document model: one document as terminal text, Markdown, HTML, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json

import pytest

from bnexp.compare.blocks import Box, Cell, Code, Document, Figure, Group, Heading, Items, Links, Table, Text
from bnexp.compare.cells import decimals, duration, number, probability
from bnexp.compare.formats import FORMATS
from bnexp.compare.html import as_html, quoted
from bnexp.compare.markdown import as_markdown
from bnexp.compare.terminal import WIDTH, as_text, beside

TABLE = Table(
    ["arm", "", "loss", "n"],
    [
        Group("A & b", "c"),
        [Cell("x", "x", note="y"), Cell("", picture="<svg/>"), Cell("0.3 ± 0.1", 0.3125), "long"],
        ["a_b", "", Cell("-"), ""],
    ],
    title="Losses <1",
    pictures=(1,),
)


def test_a_terminal_has_aligned_columns_under_a_title():
    assert as_text([TABLE]).splitlines() == [
        "Losses <1",
        "arm       loss  n",
        "--------------------",
        "A & b",
        "x    0.3 ± 0.1  long",
        "a_b          -",
    ]


def test_a_terminal_wraps_sentences_and_leaves_out_what_it_cannot_show():
    long = " ".join(["word"] * 40)
    blocks = [
        Heading(1, "Title"),
        Figure("<svg/>", "caption"),
        Text("one", title="First."),
        Links("more", [("x", "y")]),
        Box("kind", [Code("bnexp list")]),
        Items([long, "b"], ordered=True),
    ]
    head, text, code, items = as_text(blocks).split("\n\n")
    assert (head, text, code) == ("Title", "First. one", "bnexp list")
    first, *wrapped, last = items.splitlines()
    assert first.startswith("1. word word")
    assert all(line.startswith("  word") for line in wrapped)
    assert max(map(len, items.splitlines())) <= WIDTH
    assert last == "2. b"


def test_markdown_escapes_names_and_leaves_out_pictures_and_links_between_cells():
    linked = Table(["a|b"], [[Cell("*c*", link="#arm-1")]])
    assert as_markdown([TABLE, linked]).splitlines() == [
        r"**Losses \<1**",
        "",
        "| arm | loss | n |",
        "| --- | ---: | --- |",
        "| **A & b** (c) |  |  |",
        "| x (y) | 0.3 ± 0.1 | long |",
        r"| a\_b | - |  |",
        "",
        r"| a\|b |",
        "| --- |",
        r"| \*c\* |",
    ]


def test_html_has_classes_for_sides_and_kinds_and_a_region_under_a_title():
    text = as_html([TABLE])
    assert text.startswith('<section><h2>Losses &lt;1</h2><div class="scroll" role="region" aria-label="Losses &lt;1"')
    assert '<tr class="group"><th colspan="4">A &amp; b <small>c</small></th></tr>' in text
    assert '<td>x <small>y</small></td><td><svg/></td><td class="number">0.3 ± 0.1</td><td>long</td>' in text
    kinds = as_html([Table(["a"], [[Cell("b", link="c", anchor="d", kind="e")]], kind="f")])
    assert '<table class="f">' in kinds
    assert '<td id="d" data-label="a"><span class="e"><a href="c">b</a></span></td>' in kinds


def test_figures_links_code_and_boxes_are_written_alike_as_html_and_markdown():
    blocks = [
        Box("pair", [Figure("", "a < b", "f/a.svg", 300), Links("See:", [("x_y", "a.md#1"), ("z", "../z")])]),
        Code("bnexp list\nbnexp runs <a>"),
        Table(["a"], [[Cell("b", link="pages/b.md")]]),
    ]
    assert as_html(blocks[:2]).splitlines() == [
        '<div class="pair">',
        '<figure style="max-width: 300px"><img src="f/a.svg" alt="a &lt; b" loading="lazy">'
        "<figcaption>a &lt; b</figcaption></figure>",
        '<p class="links"><b>See:</b> <a href="a.md#1">x_y</a> · <a href="../z">z</a></p>',
        "</div>",
        "<pre>bnexp list",
        "bnexp runs &lt;a&gt;</pre>",
    ]
    figure, links, code, table = as_markdown(blocks).strip().split("\n\n")
    assert figure == r"![a \< b](f/a.svg)"
    assert links == r"**See:** [x\_y](a.md#1) · [z](../z)"
    assert code == "    bnexp list\n    bnexp runs <a>"
    assert table.splitlines()[-1] == "| [b](pages/b.md) |"


def test_sortable_html_carries_the_values_at_full_precision():
    text = as_html([TABLE], sortable=True)
    assert text.count('<th scope="col" class="word" aria-sort="none"><button type="button">') == 3
    assert '<td class="number" data-sort="0.3125">0.3 ± 0.1</td>' in text
    assert '<td class="number" data-sort="">-</td>' in text
    assert '<td class="word" data-sort="a_b">a_b</td>' in text


def test_machines_get_values_without_groups():
    document = Document([TABLE], TABLE)
    assert list(csv.reader(io.StringIO(FORMATS["csv"](document)))) == [
        ["arm", "", "loss", "n"],
        ["x", "", "0.3125", "long"],
        ["a_b", "", "", ""],
    ]
    assert json.loads(FORMATS["json"](document)) == [
        {"arm": "x", "": None, "loss": 0.3125, "n": "long"},
        {"arm": "a_b", "": None, "loss": None, "n": None},
    ]


def test_json_prefers_the_facts_and_refuses_what_is_no_json():
    assert json.loads(FORMATS["json"](Document([], TABLE, {"a": [1]}))) == {"a": [1]}
    with pytest.raises(ValueError, match="JSON"):
        FORMATS["json"](Document([], TABLE, {"a": float("nan")}))


def test_an_address_is_no_scheme_whatever_its_name():
    assert quoted("javascript:x/a b") == "javascript%3Ax/a%20b"
    assert quoted("\udcff") == "%FF"


@pytest.mark.parametrize(
    ("cell", "text", "value"),
    [
        (number(0.12345, 2), "0.12", 0.12345),
        (number(-1.5, 1, "+"), "-1.5", -1.5),
        (number(1e7, 2), "1e+07", 1e7),
        (number(None, 2), "-", None),
        (probability(0.00001), "< 0.0001", 0.00001),
        (probability(0.0312), "0.031", 0.0312),
        (probability(0.456), "0.46", 0.456),
        (probability(None), "-", None),
        (duration(0.0123), "0.012 s", 0.0123),
        (duration(119), "119.0 s", 119),
        (duration(120), "2.0 min", 120),
        (duration(7200), "2.0 h", 7200),
        (duration(None), "-", None),
    ],
)
def test_numbers_are_short_for_people_and_whole_for_machines(cell, text, value):
    assert (cell.text, cell.value) == (text, value)


@pytest.mark.parametrize(("half", "digits"), [(0.0123, 3), (0.5, 2), (1.0, 1), (42.0, 0), (1e-9, 10), (0.0, 4)])
def test_an_interval_has_two_significant_digits(half, digits):
    assert decimals(half, 4) == digits


NARROW = Table(
    ["started", "what differs", "test accuracy", "folder"],
    [
        ["today", "norm=bn,optim.lr=0.1,seed=3", Cell("0.9375", 0.9375), "outputs/2026-11-26/norm=bn"],
        Group("a group"),
        ["", "norm=ln", Cell("0.5000", 0.5), "outputs/b"],
    ],
    whole=[3],
)


def test_a_table_fits_the_terminal_and_paths_stay_whole():
    assert as_text([NARROW], 48).splitlines() == [
        "started  what differs              test accuracy",
        "------------------------------------------------",
        "today    norm=bn,optim.lr=0.1,            0.9375",
        "         seed=3",
        "  outputs/2026-11-26/norm=bn",
        "a group",
        "         norm=ln                          0.5000",
        "  outputs/b",
    ]
    wide = as_text([NARROW]).splitlines()
    assert wide[2] == "today    norm=bn,optim.lr=0.1,seed=3         0.9375  outputs/2026-11-26/norm=bn"
    assert as_text([NARROW], len(wide[1])) == as_text([NARROW])


def test_a_table_that_cannot_fit_is_left_as_it_is():
    numbers = Table(["first", "second"], [[Cell("1.23456", 1.23456), Cell("2.34567", 2.34567)]])
    assert as_text([numbers], 10) == as_text([numbers])


def test_a_command_that_goes_on_below_can_still_be_pasted():
    command = "bnexp train norm=bn model=mlp model.width=50 epochs=8"
    table = Table(["run", "r1"], [["command", command]])
    *_, one, two = as_text([table], 40).splitlines()
    assert [one, two] == ["command  bnexp train norm=bn model=mlp \\", "         model.width=50 epochs=8"]
    assert one.removeprefix("command").rstrip("\\").split() + two.split() == command.split()


def test_a_text_stands_beside_its_label():
    assert beside("bn", "Batch normalization of a layer's inputs", 6, 30).splitlines() == [
        *("bn    Batch normalization of a", "      layer's inputs"),
    ]
    assert beside("bn", "", 6, 30) == "bn"
    assert beside("bn", "Batch normalization", 6, None) == "bn    Batch normalization"
