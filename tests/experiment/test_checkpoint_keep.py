"""How many checkpoints stay, and how much disk they take."""

from __future__ import annotations

import json

import pytest
from conftest import SMALL_RUN
from test_check import answer_for, config

from bnexp.config.schema import to_dict
from bnexp.runs import checkpoint
from bnexp.sweep import preflight
from bnexp.sweep.plan import entries

BOTH = ["checkpoint.previous.pt", "checkpoint.pt"]


@pytest.mark.parametrize(("keep", "left"), [("two", BOTH), ("last", BOTH[1:]), ("none", [])])
def test_what_stays(bnexp, tmp_path, monkeypatch, keep, left):
    monkeypatch.chdir(tmp_path)
    assert bnexp("train", *SMALL_RUN, f"checkpoint_keep={keep}", "hydra.run.dir=run").code == 0
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint*")) == left
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["status"] == "finished"
    evaluated = bnexp("evaluate", "run")
    assert evaluated.code == (0 if left else 2)
    assert evaluated.err == ("" if left else evaluated.err.partition("\n")[0] + "\n")
    # It is the same run, which is done.
    again = bnexp("train", *SMALL_RUN, "hydra.run.dir=run")
    assert (again.code, "finished" in again.out) == (0, True)


def test_one_checkpoint_is_as_safe_as_two(tmp_path):
    checkpoint.save(tmp_path, {"step": 1})
    checkpoint.save(tmp_path, {"step": 2}, both=False)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert checkpoint.load(tmp_path) == {"step": 2}
    checkpoint.remove(tmp_path)
    assert not checkpoint.exists(tmp_path)


@pytest.mark.parametrize("optim", ["sgd", "adam"])
def test_the_size_that_is_foretold_is_that_of_the_file(bnexp, tmp_path, monkeypatch, optim):
    monkeypatch.chdir(tmp_path)
    given = config("model.width=400", "model.depth=3", "norm=bn", f"optim={optim}")
    (shape,) = answer_for(given)["shapes"].values()
    words = ("model.width=400", "model.depth=3", "norm=bn", f"optim={optim}", "steps=1", "hydra.run.dir=run")
    assert bnexp("train", *SMALL_RUN, *words).code == 0
    assert (tmp_path / "run" / "checkpoint.pt").stat().st_size == pytest.approx(shape["saved"], rel=0.02)


@pytest.mark.parametrize(("keep", "gib"), [("two", "1.5"), ("last", None), ("none", None)])
def test_a_large_sweep_says_how_much_disk_it_takes(bnexp, tmp_path, monkeypatch, capsys, keep, gib):
    given = [config(f"seed={seed}", f"checkpoint_keep={keep}") for seed in range(3)]
    answer = answer_for(*given)
    for shape in answer["shapes"].values():
        shape["saved"] = 2**28
    preflight._tell_disk(entries(([f"seed={each.seed}"], to_dict(each)) for each in given), answer["shapes"])
    said = f"checkpoints of 3 jobs: {gib} GiB; checkpoint_keep=last keeps one a job, checkpoint_keep=none none\n"
    assert capsys.readouterr().err == (said if gib else "")


def test_the_gpus_of_apple_are_answered_in_a_line(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for sweep in ([], ["-m", "seed=0,1"]):
        answer = bnexp("train", *sweep, *SMALL_RUN, "device=mps")
        assert (answer.code, answer.out) == (2, "")
        assert answer.err == "bnexp: device=mps: bnexp does not use the GPUs of Apple; use device=cpu\n"
