"""What was declared before the first run, and that changes of it are told: in a claim's folder, and in git."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from bnexp.claims.declaration import loads
from bnexp.claims.declared import NAME, declare, digest, read
from bnexp.claims.design import design
from bnexp.claims.draft import SETTINGS, draft

TEXT = draft("small", {"none": ["norm=none"], "bn": ["norm=bn"]}, "test/accuracy", SETTINGS)
CODE = {"bnexp": "0.1", "git_commit": "abc", "git_dirty": False, "torch": "2"}
# Gave all claims 12 seeds and primary tests, which docs/claims/protocol.md says once for all of them.
SECOND_EDITION = "1fd3460"


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("sentence: Say", "sentence: Do say", False),
        ("supported: Say", "supported: Now say", False),
        ("says: the", "says: the final", False),
        ("minutes: 5", "minutes: 9", False),
        ("figure: {kind: curves, metric: test/accuracy}", "", False),
        ("# What", "# Whatever", False),
        ("sources:", "changes: [{date: 2026-11-26, what: a, why: b}]\nsources:", False),
        ("  quick:", "  full: {seeds: 20, minutes: 5}\n  quick:", False),
        ("seeds: 12", "seeds: 13", True),
        ("threshold: 0.01", "threshold: 0.02", True),
        ("norm=bn", "norm=ln", True),
        ("holds_if: [tuned", "holds_if: [equal", True),
        ("values: [0.03, ", "values: [", True),
        ("sources:", "exact: [bias_growth]\nsources:", True),
        ("sources:", "a_part_of_tomorrow: 3\nsources:", True),
    ],
)
def test_the_digest_is_of_what_decides_the_verdict(old, new, counts):
    changed = TEXT.replace(old, new)
    assert changed != TEXT
    assert (digest(changed, "quick") != digest(TEXT, "quick")) == counts


def test_a_change_after_the_first_run_is_kept_with_its_date_and_said(tmp_path, capsys):
    changed = TEXT.replace("threshold: 0.01", "threshold: 0.02")
    first, other = (design(loads("small", text), "quick") for text in (TEXT, changed))
    assert [each.runs for each in declare(tmp_path / "a", first, CODE)] == [0]
    for number in range(3):
        run = tmp_path / "a/runs" / str(number)
        run.mkdir(parents=True)
        (run / "run.json").touch()
    assert len(declare(tmp_path / "a", first, CODE)) == 1
    assert capsys.readouterr().err == ""
    history = declare(tmp_path / "a", other, CODE)
    assert [(each.digest, each.runs) for each in history] == [(digest(TEXT, "quick"), 0), (digest(changed, "quick"), 3)]
    said = r"small: its declaration of \d{4}-\d\d-\d\d was changed after 3 runs; its result will say so\n"
    assert re.fullmatch(said, capsys.readouterr().err)
    assert len(declare(tmp_path / "a", first, CODE)) == 3  # changed back is changed
    assert read(tmp_path / "a" / NAME)[1] == history[1]
    assert history[1].git_commit == "abc"


def test_runs_without_a_declaration_before_them_are_counted(tmp_path):
    (tmp_path / "runs/x").mkdir(parents=True)
    (tmp_path / "runs/x/run.json").touch()
    (only,) = declare(tmp_path, design(loads("small", TEXT), "quick"), CODE)
    assert only.runs == 1


def test_a_changed_file_is_refused_in_one_line(tmp_path):
    made = design(loads("small", TEXT), "quick")
    declare(tmp_path, made, CODE)
    path = tmp_path / NAME
    path.write_text(path.read_text().replace('"runs": 0', '"runs": 7'))
    with pytest.raises(ValueError, match=r"declaration.json: cannot be read \(changed since it was written"):
        declare(tmp_path, made, CODE)


# --- against git ------------------------------------------------------------------------------------------------------


def git(root: Path, *words: str, **more: str) -> str:
    who = {f"GIT_{role}_{what}": "a@b.c" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, env=os.environ | who | more)
    return done.stdout if done.returncode == 0 else ""


def untold(root: Path, first: str) -> Iterator[str]:
    """Claims that were changed after they were in a report, and whose ``changes`` say nothing of that time.

    Between each two reports, and after the last one, the digest of the declaration is compared.
    """
    reports = git(root, "log", "--reverse", "--format=%H", f"{first}..", "--", "docs/claims/claims.md").split()
    for before, after in pairwise([first, *reports, ""]):
        known = re.findall(r'<a id="([\w-]+)">', git(root, "show", f"{before}:docs/claims/claims.md"))
        known += re.findall(r"^([\w-]+),", git(root, "show", f"{before}:docs/claims/seeds.csv"), re.MULTILINE)
        days = [git(root, "show", "-s", "--format=%cs", each).strip() if each else "9" for each in (before, after)]
        for path in sorted((root / "configs/claim").glob("*.yaml")):
            old, new = (_yaml(root, each, path) for each in (before, after))
            if path.stem in known and old and new and digest(old, "quick") != digest(new, "quick"):
                told = yaml.load(new, yaml.BaseLoader).get("changes", [])
                if not any(days[0] <= change["date"] <= days[1] for change in told):
                    yield f"{path.stem}: changed after the report of {days[0]}; say so under changes"


def _yaml(root: Path, commit: str, path: Path) -> str:
    return git(root, "show", f"{commit}:{path.relative_to(root)}") if commit else path.read_text()


@pytest.mark.slow
def test_declarations_that_changed_after_their_results_say_so():
    if not git(ROOT, "rev-parse", "--verify", f"{SECOND_EDITION}^{{commit}}"):
        pytest.skip("needs git's history since the second edition; this is a shallow clone, or no checkout")
    assert list(untold(ROOT, SECOND_EDITION)) == []


def test_a_change_that_is_not_told_is_found_however_it_is_committed(tmp_path):
    path, page = tmp_path / "configs/claim/small.yaml", tmp_path / "docs/claims/claims.md"
    for folder in (path.parent, page.parent):
        folder.mkdir(parents=True)

    def commit(day: str, text: str, report: str = "") -> str:
        path.write_text(text)
        if report:
            page.write_text(f'<a id="small"></a> {report}')
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-m", "x", GIT_COMMITTER_DATE=f"{day}T12:00:00Z")
        return git(tmp_path, "rev-parse", "HEAD").strip()

    def told(text: str, day: str) -> str:
        return f"{text}changes: [{{date: {day}, what: the seeds, why: power}}]\n"

    git(tmp_path, "init")
    first = commit("2026-01-01", TEXT, "the first report")
    fault = ["small: changed after the report of 2026-01-01; say so under changes"]
    prose, more = TEXT.replace("sentence: Say", "sentence: Do say"), TEXT.replace("seeds: 12", "seeds: 20")
    path.write_text(prose)
    assert list(untold(tmp_path, first)) == []
    path.write_text(more)
    assert list(untold(tmp_path, first)) == fault
    path.write_text(told(more, "2025-12-31"))  # of an earlier change
    assert list(untold(tmp_path, first)) == fault
    path.write_text(told(more, "2026-01-01"))
    assert list(untold(tmp_path, first)) == []
    commit("2026-02-01", more, "with the results of the changed claim")
    assert list(untold(tmp_path, first)) == fault
    commit("2026-02-02", TEXT)  # back, after a second report
    assert len(list(untold(tmp_path, first))) == 2
