"""Links between the pages of this repository lead to files in it."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.html")])


def outgoing(page: Path) -> set[str]:
    """The relative links of a page, without their anchors."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL) if page.suffix == ".md" else text
    pattern = r'(?:href|src)="([^"]+)"' if page.suffix == ".html" else r"\]\(([^)\s]+)\)"
    links = {link.partition("#")[0] for link in re.findall(pattern, text)}
    return {unquote(link) for link in links if link and not re.match(r"[a-z]+:", link)}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_of_a_page_lead_to_files_of_the_repository(page):
    goals = {link: (page.parent / link).resolve() for link in outgoing(page)}
    assert [link for link, goal in goals.items() if not (goal.exists() and goal.is_relative_to(ROOT))] == []


def test_pages_have_links():
    assert sum(len(outgoing(page)) for page in PAGES) > 500
