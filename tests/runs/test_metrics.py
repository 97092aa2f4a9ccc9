"""metrics.csv and timing.csv: one reader, so that all that read a torn file read the same."""

from __future__ import annotations

import math
import os

import pytest

from bnexp.runs.metrics import METRICS_HEADER, Rows, curve, curves, points, seconds

HEADER = b"step,epoch,metric,value\n"
# What a line that is no row looks like: torn, or with letters where numbers belong.
BROKEN = (
    b"2,0.2,a",
    b"2,0.2,a,",
    b"2,0.2,a,0.9,1",
    b"x,0.2,a,0.9",
    b"2.5,0.2,a,0.9",
    b"2,?,a,0.9",
    b"\xff\x00,a,",
    b"",
)


def write(folder, content: bytes):
    (folder / "metrics.csv").write_bytes(content)
    return folder


def after_resuming(folder, step: int) -> bytes:
    Rows(folder / "metrics.csv", METRICS_HEADER, after=step).close()
    return (folder / "metrics.csv").read_bytes()


@pytest.mark.parametrize("broken", BROKEN)
def test_every_reader_passes_over_a_line_that_is_no_row(tmp_path, broken):
    rows = HEADER + b"1,0.1,a,0.5\n" + broken + b"\n3,0.3,a,0.7\n"
    write(tmp_path, rows)
    assert curve(tmp_path, "a") == curves(tmp_path)["a"] == {1: 0.5, 3: 0.7}
    assert list(points(tmp_path)) == [(1, "a", 0.5), (3, "a", 0.7)]
    assert after_resuming(tmp_path, 3) == HEADER + b"1,0.1,a,0.5\n3,0.3,a,0.7\n"


def test_the_end_of_a_number_may_be_missing_at_the_end_of_a_file(tmp_path):
    write(tmp_path, HEADER + b"1,0.1,a,0.5\n2,0.2,a,0.9")  # torn out of 0.95
    assert curve(tmp_path, "a") == curves(tmp_path)["a"] == {1: 0.5}
    assert after_resuming(tmp_path, 2) == HEADER + b"1,0.1,a,0.5\n"
    (tmp_path / "timing.csv").write_bytes(b"step,seconds,images_per_s\n1,2.125,80.0\n2,31")
    assert seconds(tmp_path) == 2.125


def test_a_step_counts_as_last_written_and_only_finite_values_make_a_curve(tmp_path):
    write(tmp_path, HEADER + b"1,0,a,0.1\n1,0,a,0.2\n2,0,a,nan\n3,0,a,1e200\n3,0,ab,0.3\n4,0,a,-inf\n5,0,b/a,0.4\n")
    assert curve(tmp_path, "a") == {1: 0.2}
    assert dict(curves(tmp_path)) == {"a": {1: 0.2}, "ab": {3: 0.3}, "b/a": {5: 0.4}}
    assert [value for _, tag, value in points(tmp_path) if tag == "a"] == [
        0.1,
        0.2,
        pytest.approx(math.nan, nan_ok=True),
        1e200,
        -math.inf,
    ]


def test_a_tag_may_hold_a_comma(tmp_path):
    rows = Rows(tmp_path / "metrics.csv", METRICS_HEADER, after=None)
    rows.append(1, repr(0.1), "probe/a,b", repr(0.5))
    rows.append(2, repr(0.2), "probe/a,b", repr(0.6))
    rows.close()
    written = (tmp_path / "metrics.csv").read_bytes()
    assert curve(tmp_path, "probe/a,b") == curves(tmp_path)["probe/a,b"] == {1: 0.5, 2: 0.6}
    assert after_resuming(tmp_path, 2) == written


def test_without_a_file_there_is_no_curve_and_a_claim_is_told(tmp_path):
    assert curve(tmp_path, "a") == {}
    assert seconds(tmp_path) == 0.0
    assert after_resuming(tmp_path, 5) == HEADER
    with pytest.raises(ValueError, match=r"metrics\.csv: cannot be read \(No such file or directory\)"):
        curves(tmp_path / "none")


def test_curves_are_kept_until_the_file_changes(tmp_path):
    write(tmp_path, HEADER + b"1,0,a,0.1\n")
    first = curves(tmp_path)
    assert curves(tmp_path) is first
    write(tmp_path, HEADER + b"1,0,a,0.2\n")
    os.utime(tmp_path / "metrics.csv", (0, 0))
    assert curves(tmp_path)["a"] == {1: 0.2}


def test_resuming_leaves_a_file_alone_from_which_nothing_is_removed(tmp_path):
    write(tmp_path, HEADER + b"1,0.1,a,0.5\n2,0.2,a,0.7\n")
    before = (tmp_path / "metrics.csv").stat()
    assert after_resuming(tmp_path, 2).count(b"\n") == 3
    after = (tmp_path / "metrics.csv").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert after_resuming(tmp_path, 1).count(b"\n") == 2
