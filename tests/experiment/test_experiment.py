"""Whole runs under settings of the machine: number formats, layout, compilation change the speed and not the result."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from conftest import SMALL, composed

from bnexp.config.compose import plain
from bnexp.experiment.job import Job
from bnexp.experiment.restore import evaluate_run
from bnexp.experiment.run import run
from bnexp.experiment.setup import build

MAPS = ("model=resnet", "model.depth=8", "model.width=4", *SMALL[3:])


def final(folder, *words):
    config = plain(composed("epochs=2", *words))
    (outcome,) = run([Job(config, folder, "test")], stop=lambda: False)
    assert outcome.status == "finished"
    return outcome.facts["final"]


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [("channels_last=true", 1e-4), ("deterministic=true", 0), ("precision=tf32", 0), ("precision=bf16", 0.1)],
)
def test_a_setting_of_the_machine_leaves_the_result_alone(tmp_path, words, tolerance):
    plainly, otherwise = final(tmp_path / "a", *MAPS), final(tmp_path / "b", *MAPS, words)
    assert otherwise["train/loss"] == pytest.approx(plainly["train/loss"], rel=tolerance, abs=0)
    assert tolerance > 0 or otherwise == plainly


def test_fp16_trains_with_a_scaled_loss(tmp_path):
    plainly, otherwise = final(tmp_path / "a", *SMALL), final(tmp_path / "b", *SMALL, "precision=fp16")
    assert otherwise["train/loss"] == pytest.approx(plainly["train/loss"], rel=0.05)
    assert otherwise != plainly


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of torch.compile's own making
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_agrees_with_an_eager_one(tmp_path):
    plainly, otherwise = final(tmp_path / "a", *SMALL), final(tmp_path / "b", *SMALL, "compile=true")
    for metric in ("train/loss", "test/loss", "test/loss_precise"):
        assert otherwise[metric] == pytest.approx(plainly[metric], rel=1e-4)


def test_a_norm_without_batch_statistics_has_one_kind(tmp_path):
    words = (*SMALL, "norm=ln", "epochs=2")
    metrics = final(tmp_path / "run", *words[:-1])
    assert metrics["test/accuracy_precise"] == metrics["test/accuracy"]
    step, rows = evaluate_run(Job(plain(composed(*words)), tmp_path / "run", "test"), "test")
    assert step == 14
    assert [(row.split, row.statistics) for row in rows] == [("test", "-")]
    with pytest.raises(ValueError, match="has no checkpoint"):
        evaluate_run(Job(plain(composed(*words)), tmp_path / "empty", "test"), None)


def test_a_split_that_the_data_do_not_have_is_refused(tmp_path):
    words = (*SMALL, "data.validation=0")
    final(tmp_path / "run", *words)
    with pytest.raises(ValueError, match="--split=validation: this run's data have none"):
        evaluate_run(Job(plain(composed(*words, "epochs=2")), tmp_path / "run", "test"), "validation")


@pytest.mark.slow
def test_real_data_train_with_batch_norm_above_a_linear_model(real_data, tmp_path):
    words = ("data=fashion_mnist", f"data.root={real_data}", "data.train_limit=3000", "batch_size=100")
    words = (*words, "eval_every=1000")
    assert final(tmp_path / "run", *words)["test/accuracy_precise"] > 0.7


def test_evaluations_read_all_classes_of_data_that_are_sorted_by_class(tmp_path):
    digits = build([plain(composed(*SMALL))], stacked=False).data
    arrays = {}
    for part, split in (("train", digits.train), ("test", digits.test)):
        order = split.y.argsort(stable=True)
        arrays |= {f"x_{part}": split.x[order].numpy(), f"y_{part}": split.y[order].numpy()}
    np.savez(tmp_path / "sorted.npz", **arrays)
    words = ("data=npz", f"data.path={tmp_path}/sorted.npz", *SMALL[:3], "eval_train=100", "epochs=15")
    metrics = final(tmp_path / "run", *words)
    assert metrics["test/accuracy"] > 0.8
    assert metrics["test/accuracy_precise"] == pytest.approx(metrics["test/accuracy"], abs=0.05)
    _, rows = evaluate_run(Job(plain(composed(*words)), tmp_path / "run", "test"), "test")
    assert {row.statistics: row.measured["accuracy"] for row in rows}["batch"] > 0.75


def test_what_a_norm_says_at_the_start_stands_in_the_log(tmp_path):
    final(tmp_path / "run", "norm=in", *SMALL[3:4], "batch_size=50")
    assert "nothing is normalized at hidden1.norm, hidden2.norm" in (tmp_path / "run" / "train.log").read_text()


def test_weights_that_have_run_away_in_the_last_step_are_divergence(tmp_path):
    config = plain(composed(*SMALL, "norm=none", "optim.lr=3e38", "steps=1"))
    (outcome,) = run([Job(config, tmp_path, "test")], stop=lambda: False)
    assert (outcome.status, outcome.facts["diverged_at"]) == ("diverged", 1)
    assert "test/accuracy" not in outcome.facts["final"]
    assert not (tmp_path / "checkpoint.pt").exists()
