"""One answer from the primary tests of a claim."""

from __future__ import annotations

import pytest

from bnexp.claims.answers import answer
from bnexp.claims.judging import Judged
from bnexp.claims.verdicts import Verdict


def case(word: str, p: float | None, detail: str = "") -> Judged:
    return Judged("faster", "tuned", Verdict(word, detail, p=p), {}, {}, None)


@pytest.mark.parametrize(
    ("primary", "word", "detail", "p"),
    [
        ([case("supported", 0.01)], "supported", "", 0.01),
        ([case("supported", 0.01), case("supported", 0.03, "size open")], "supported", "size open", 0.03),
        ([case("supported", 0.001), case("negligible", 0.02)], "negligible", "", 0.04),
        ([case("negligible", 0.001), case("contradicted", 0.02, "reversed")], "contradicted", "reversed", 0.04),
        ([case("contradicted", 0.9, "lower"), case("inconclusive", 0.3)], "contradicted", "lower", 1.0),
        ([case("supported", 0.001), case("inconclusive", 0.2, "grid edge")], "inconclusive", "grid edge", 0.2),
        (
            [case("inconclusive", 0.2), case("no verdict", None, "check failed: x")],
            "no verdict",
            "check failed: x",
            0.2,
        ),
        ([case("no verdict", None, "no seed has all values")], "no verdict", "no seed has all values", None),
    ],
)
def test_a_claim_holds_if_all_of_its_primary_tests_do(primary, word, detail, p):
    found = answer(primary)
    assert (found.word, found.detail, found.p) == (word, detail, p)
    assert found.tests == ["tuned/faster"] * len(primary)
