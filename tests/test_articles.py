"""docs/articles.md has a row for every statement of the source articles, and all that its rows name exists.

Claims say in ``articles`` which statements they answer; the page and the claims must agree in both directions.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from bnexp.cli.commands import COMMANDS

PAGE = ROOT / "docs" / "articles.md"
TEXT = PAGE.read_text(encoding="utf-8")
# How many statements each article makes.
STATEMENTS = {"000": 18, "001": 22, "002": 14, "003": 10, "004": 17}
IDS = [f"{article}-{number + 1}" for article, count in STATEMENTS.items() for number in range(count)]
ROWS = re.findall(r'^\| <a id="(\d{3}-\d+)"></a>\*\*\1\*\* ([^|]+) \| ([^|]+) \| ([^|]+) \|$', TEXT, re.MULTILINE)
ERRATA = re.findall(r'^\| <a id="(erratum-\w+)"></a>\d{3} \| [^|]+ \| [^|]+ \| ([^|]+) \|$', TEXT, re.MULTILINE)
ANSWERS = {name: answers for name, *_, answers in [*ROWS, *ERRATA]}
CLAIMS = {
    path.stem: yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    for path in sorted((ROOT / "configs" / "claim").glob("*.yaml"))
}

OF_A_CLAIM = re.compile(r"\[`([\w.-]+)/([\w.-]+)`\]\[\1\]( \(full profile\))?")
EXACT = re.compile(r"\[`(\w+)`\]\[exact\]")
UNIT_TEST = re.compile(r"\*\[([^\]]+)\]\((\.\./tests/[\w/]+\.py)\)\*")
COMMAND = re.compile(r"`bnexp ([^`]+)`")
KINDS = (OF_A_CLAIM, EXACT, UNIT_TEST, COMMAND)


def test_every_statement_has_one_row_and_the_rows_are_in_order():
    assert [name for name, *_ in ROWS] == IDS


@pytest.mark.parametrize(("says", "condition"), [row[1:3] for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_row_is_a_sentence_and_one_more_that_says_when_it_holds_and_fails(says, condition):
    assert says[0].isupper()
    assert says.endswith((".", "?"))
    assert re.fullmatch(r"Holds .+; fails .+\.", condition)
    assert ". " not in condition.replace("et al. ", "")


@pytest.mark.parametrize("name", ANSWERS)
def test_all_that_answers_a_statement_exists(name):
    answers = ANSWERS[name]
    assert all(any(kind.fullmatch(answer) for kind in KINDS) for answer in answers.split("<br>"))
    for claim, test, remark in OF_A_CLAIM.findall(answers):
        assert test in [*CLAIMS[claim].get("tests", {}), *CLAIMS[claim].get("exact", [])], f"{claim}/{test}"
        skipped = CLAIMS[claim].get("profiles", {}).get("quick", {}).get("skip_tests", [])
        assert bool(remark) == (test in skipped), f"{claim}/{test}"
    for check in EXACT.findall(answers):
        assert f'@EXACT.register("{check}")' in (ROOT / "bnexp" / "claims" / "exact.py").read_text(encoding="utf-8")
    for sentence, file in UNIT_TEST.findall(answers):
        assert f"def test_{sentence.replace(' ', '_')}(" in (PAGE.parent / file).read_text(encoding="utf-8")
    for command in COMMAND.findall(answers):
        check_command(*command.split())


def check_command(name: str, *words: str) -> None:
    """Check that there is the command, and that the choices and options that it names are those of a yaml."""
    assert name in COMMANDS
    for key, _, choice in (word.partition("=") for word in words if "=" in word):
        group, _, option = key.partition(".")
        yamls = [ROOT / "configs" / group / f"{each}.yaml" for each in choice.split(",") if not option]
        assert all(path.exists() for path in yamls), f"{key}={choice}"
        options = [path.read_text(encoding="utf-8") for path in (ROOT / "configs" / group).glob("*.yaml") if option]
        assert not option or any(f"\n{option}:" in text for text in options), key


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_and_the_page_agree_on_what_it_answers(claim):
    said = [str(name) for name in CLAIMS[claim].get("articles", [])]
    assert len(said) == len(set(said))
    assert set(said) <= set(IDS)
    named = {name for name, *_, answers in ROWS if claim in [found for found, *_ in OF_A_CLAIM.findall(answers)]}
    assert named == set(said)


def test_a_statement_that_is_wrong_leads_to_its_erratum_and_every_erratum_is_led_to():
    assert set(re.findall(r"\(#(erratum-\w+)\)", TEXT)) == {name for name, _ in ERRATA}


def test_every_link_leads_somewhere():
    given = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", TEXT, re.MULTILINE))
    used = set(re.findall(r"\]\[([^\]]+)\]", TEXT))
    assert used == set(given)
    for link in [*given.values(), *re.findall(r"\]\(([^)\s]+)\)", TEXT)]:
        place, _, anchor = link.partition("#")
        target = PAGE.parent / place if place else PAGE
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """What a link can lead to in a page: its headings, as GitHub names them, and ids in its HTML."""
    text = page.read_text(encoding="utf-8")
    heads = [re.sub(r"[^\w -]", "", head.lower()) for head in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
    return {*(head.replace(" ", "-") for head in heads), *re.findall(r'id="([^"]+)"', text)}
