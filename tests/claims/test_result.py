"""result.json: read back as it was written, or refused in one line."""

from __future__ import annotations

import json

import pytest
from results import case, content, exact

from bnexp.claims import store
from bnexp.claims.answers import Answer
from bnexp.claims.result import FigureResult, TunedResult

PANELS = {"equal": {"bn": [[3, 0.5, 0.4, 0.6], ["torch", 0.5, 0.4, 0.6]], "none": []}}
FULL = content(
    case(),
    case(verdict="no verdict", differences={}, sides={}, p=None, **dict.fromkeys(("mean", "low", "high"))),
    articles=["000-7", 3],
    answer=Answer("supported", "size open", ["equal/higher", "equal/lower"], 0.01),
    tuning=[TunedResult("tuned", "bn@0.1", [["0", None], ["0.5", 0.25]], "0.5", True)],
    exact={"check": [exact(), exact(measured=None, holds=False)]},
    figure=FigureResult("axis", {"equal": "test/accuracy"}, "optim.lr", PANELS),
)


def test_a_result_is_read_back_as_it_was_written(tmp_path):
    store.write(tmp_path / "a", FULL)
    assert store.read(tmp_path / "a/result.json") == FULL
    before = (tmp_path / "a/result.json").read_bytes()
    store.write(tmp_path / "a", store.read(tmp_path / "a/result.json"))
    assert (tmp_path / "a/result.json").read_bytes() == before


def test_the_file_has_a_format_and_no_adjustment_over_other_files(tmp_path):
    store.write(tmp_path / "a", content(case()))
    held = json.loads((tmp_path / "a/result.json").read_text())
    assert (held["format"], list(held)[:3]) == (4, ["format", "claim", "title"])
    assert held["answer"] == {"word": "supported", "detail": "", "tests": ["tuned/higher"], "p": 0.001}


def test_a_number_that_is_not_finite_is_kept_as_none(tmp_path):
    store.write(tmp_path / "a", content(exact={"check": [exact(measured=float("nan"), holds=False)]}))
    assert store.read(tmp_path / "a/result.json").exact["check"][0].measured is None


def test_holm_is_over_all_claims_and_what_decides_nothing_counts_as_one(tmp_path):
    words = {"a": "supported", "b": "negligible", "c": "inconclusive", "d": "no verdict"}
    for (claim, word), p in zip(words.items(), (0.01, 0.02, 0.001, None), strict=True):
        answer = Answer(word, "", ["equal/higher"], p)
        store.write(tmp_path / claim, content(case(), case(), claim=claim, answer=answer))
    store.write(tmp_path / "exact", content(claim="exact"))
    results = store.read_all(tmp_path)
    assert [result.claim for result in results] == [*words, "exact"]
    found = [result.answer and result.answer.p_holm for result in results]
    assert found == [pytest.approx(0.04), pytest.approx(0.06), 1.0, 1.0, None]
    assert [result.answer.survives for result in results[:4]] == [True, False, True, True]


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no results of claims in there; run bnexp claim run first"):
        store.read_all(tmp_path)


def changed(folder, changes) -> bytes:
    """The JSON of the full result with other values; ``...`` takes a key away."""

    def put(node: dict | list, path: list[str], value: object) -> None:
        key = int(path[0]) if isinstance(node, list) else path[0]
        if len(path) > 1:
            put(node[key], path[1:], value)
        elif value is ...:
            del node[key]
        else:
            node[key] = value

    store.write(folder, FULL)
    held = json.loads((folder / "result.json").read_text())
    for path, value in changes.items():
        put(held, path.split("__"), value)
    return json.dumps(held).encode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 1}, "not a result of this version of bnexp"),
        ({"format": ...}, "not written by bnexp"),
        ({"sentence": ...}, "result.sentence: missing"),
        ({"sentence": 3}, "result.sentence=3: expected a word"),
        ({"new": 3}, "result=new: not known"),
        ({"tests": {}}, "expected a list"),
        ({"tests__0": "level"}, "result.tests: expected keys"),
        ({"tests__0__mean": "high"}, "result.tests.mean=high: expected a number"),
        ({"tests__0__claims": "more"}, "result.tests.claims=more: not known"),
        ({"tests__0__sides__bn@3__values": [1]}, "result.tests.sides.bn@3.values=[1]: expected names with values"),
        ({"tests__0__sides__bn@3__values__0": "x"}, "result.tests.sides.bn@3.values.0=x: expected a number"),
        ({"figure__kind": ...}, "result.figure.kind: missing"),
        ({"run_seconds": float("nan")}, "expected a finite number"),
    ],
)
def test_a_changed_file_is_refused_in_one_line(tmp_path, changes, message):
    assert message in refusal(tmp_path, changed(tmp_path, changes))


@pytest.mark.parametrize("damaged", [b"", b"[1]", b'"x"', b"{", b"\xff", b"[" * 100_000], ids=range(6))
def test_a_damaged_file_is_refused_in_one_line(tmp_path, damaged):
    said = refusal(tmp_path, damaged)
    assert "cannot be read (empty, cut or not JSON)" in said or "cannot be read (not written by bnexp)" in said


def refusal(folder, held: bytes) -> str:
    """The one line in which a result.json with this text is refused."""
    (folder / "a").mkdir()
    (folder / "a/result.json").write_bytes(held)
    with pytest.raises(ValueError, match=r"result\.json: cannot be read \([^\n]+$") as error:
        store.read_all(folder)
    return str(error.value)
    assert str(error.value).endswith("; delete it and give bnexp claim run again")
    assert "\n" not in str(error.value)
