from __future__ import annotations

import pytest

from bnexp.config.names import run_name, shortened


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "default"),
        (["norm=gn", "seed=0"], "norm=gn,seed=0"),
        (["+norm.extra=1", "++seed=2", "~optim"], "norm.extra=1,seed=2,optim"),
        (["data.root=/somewhere", "imports=[mine]", "hydra.verbose=true", "hydra/launcher=local"], "default"),
        (["data.root=/somewhere", "lr=1"], "lr=1"),
        (["data.path=a.npz"], "data.path=a.npz"),
        (["data.rooted=1", "hydraulics=2"], "data.rooted=1,hydraulics=2"),
        (["experiment=a/b\\c"], "experiment=a_b_c"),
        (["../../etc=1"], "_.._etc=1"),
        (["-x=1"], "x=1"),
        ([".hidden=1"], "hidden=1"),
        ([" "], "default"),
        (["."], "default"),
        (["milestones=[0.5, 0.75]"], "milestones=[0.5,0.75]"),
        (["name=a\nb\0c"], "name=a_b_c"),
        (["name=\udcff"], "name=_"),
        (["name=größe"], "name=größe"),
    ],
)
def test_a_run_is_named_by_what_its_command_line_changes(overrides, name):
    assert run_name(overrides) == name


@pytest.mark.parametrize("letter", ["x", "é", "数", "😀"])
def test_a_long_name_is_cut_at_a_whole_letter_and_stays_distinct(letter):
    one, other = run_name([letter * 300 + "1"]), run_name([letter * 300 + "2"])
    assert one != other
    assert 140 < len(one.encode()) <= 150
    assert set(one[: one.rindex("-")]) == {letter}


@pytest.mark.parametrize(
    ("width", "shown"),
    [(21, "norm=bn,lr=0.1,seed=3"), (20, "norm=bn,lr=0...eed=3"), (12, "norm=b...d=3"), (3, "...")],
)
def test_a_name_that_is_too_long_for_a_screen_loses_its_middle(width, shown):
    assert shortened("norm=bn,lr=0.1,seed=3", width) == shown


def test_shortened_names_fit():
    assert [len(shortened("x" * 50, width)) for width in range(3, 60)] == [min(width, 50) for width in range(3, 60)]
