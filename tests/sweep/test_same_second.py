"""Commands that begin in the same second have folders of their own."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import hydra.core.utils
import pytest
from conftest import SMALL_RUN, composed
from omegaconf import OmegaConf

from bnexp.cli import train
from bnexp.config import compose
from bnexp.config.checks import RunFailedError
from bnexp.experiment.job import Job


@pytest.fixture
def one_second(tmp_path, monkeypatch):
    """A working folder where it is always noon."""

    class Noon(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 12, 0, 0)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hydra.core.utils, "datetime", Noon)
    return tmp_path


def runs(place: Path) -> dict[str, str]:
    return {
        path.parent.relative_to(place).as_posix(): json.loads(path.read_text())["status"]
        for path in sorted(place.rglob("run.json"))
    }


def test_two_equal_runs(bnexp, one_second, monkeypatch):
    words = ("train", *SMALL_RUN, "norm=ln")
    first = "outputs/2026-01-02/12-00-00-" + "model=mlp,"
    assert [bnexp(*words).code for _ in range(2)] == [0, 0]
    names = list(runs(one_second))
    assert len(names) == 2
    assert names[0].startswith(first)
    assert names[1] == f"{names[0]}-2"


def test_a_run_that_is_made_between_the_name_and_the_training(bnexp, one_second, monkeypatch):
    """Both have found the name free when they composed their configs; one is faster."""
    plain, begun = compose.plain, []

    def meanwhile(config):
        if not begun:
            begun.append(True)
            taken = Path(compose.output_folder())
            taken.mkdir(parents=True)
            (taken / "run.json").write_text("not mine")
        return plain(config)

    monkeypatch.setattr(compose, "plain", meanwhile)
    answer = bnexp("train", *SMALL_RUN)
    assert answer.code == 0, answer
    mine, theirs = sorted(one_second.rglob("run.json"), key=lambda path: path.parent.name, reverse=True)
    assert mine.parent.name == f"{theirs.parent.name}-2"
    assert theirs.read_text() == "not mine"
    assert f"run: {mine.parent.relative_to(one_second)}\n" in answer.out


def test_the_folder_that_was_really_taken_is_named_where_nothing_can_be_printed(one_second, monkeypatch):
    def full(text, *, end="", also=""):
        raise RunFailedError(f"full{also}")

    taken = Path("taken")
    job = Job(compose.plain(composed(*SMALL_RUN)), one_second / taken, "taken", [], {}, fresh=True)
    taken.mkdir()
    (taken / "run.json").write_text("not mine")
    monkeypatch.setattr(train, "say", full)
    with pytest.raises(RunFailedError, match=r"^full; run: taken-2 \(finished\)$"):
        train.do(job)


@pytest.mark.parametrize("launcher", ["local", "basic"])
@pytest.mark.slow
def test_two_equal_sweeps(bnexp, one_second, launcher):
    words = ("train", "-m", *SMALL_RUN, "norm=none,ln", f"hydra/launcher={launcher}")
    answers = [bnexp(*words) for _ in range(2)]
    assert [answer.code for answer in answers] == [0, 0], answers
    folders = [f"outputs/sweeps/2026-01-02_12-00-00{end}" for end in ("", "-2")]
    assert runs(one_second) == {f"{folder}/norm={norm}": "finished" for folder in folders for norm in ("ln", "none")}
    assert f"results: bnexp compare {folders[1]}\n" in answers[1].out


def test_a_folder_of_ones_own_is_gone_on_with(bnexp, one_second):
    words = ("train", *SMALL_RUN, "hydra.run.dir=mine")
    assert [bnexp(*words).code for _ in range(2)] == [0, 0]
    assert list(runs(one_second)) == ["mine"]
    given = OmegaConf.create({"dir": "mine"})
    assert not compose.is_fresh(given)
