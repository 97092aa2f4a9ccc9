"""The command line: what works prints what is promised, what is wrong costs one line and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT, SMALL, SMALL_RUN, start

MLP1 = "model=mlp batch_size=1"

WRONG = {
    # words: what the line must say
    "norm=bx": "norm=bx: not known; did you mean bn?",
    "norm=": "norm=: not known (allowed: bn,",
    "norm.grops=4": "norm.grops: there is no such setting",
    "norm=gn norm.grops=4": "did you mean norm.groups?",
    "+norm.grops=4": "norm.grops: bn has no such option",
    "sed=1": "did you mean seed?",
    "model=resnet depth=20": "did you mean model.depth?",
    "foo": "foo: not understood; settings are given as name=value",
    "seed=1,2": "needs -m",
    "--hellp": "did you mean --help?",
    "optim.lr=abc": "optim.lr=abc: expected a number",
    "epochs=1.5": "epochs=1.5: expected a whole number",
    "seed=1.5": "seed=1.5: expected a whole number",
    "optim.lr=-1": "optim.lr=-1.0: out of range; allowed is above 0",
    "optim.lr=nan": "optim.lr=nan: expected a finite number",
    "optim.lr=1e999": "optim.lr=inf: expected a finite number",
    "optim.momentum=1": "optim.momentum=1.0: out of range",
    "model=mlp model.dropout=2": "model.dropout=2.0: out of range",
    "norm.eps=-1": "norm.eps=-1.0: out of range",
    "norm=gn norm.groups=0": "norm.groups=0: out of range",
    "batch_size=0": "batch_size=0: out of range",
    "batch_size=5000": "batch_size=5000: larger than the 1167 training images",
    "batch_size=99999999999999999999": "larger than the 1167 training images",
    "epochs=0": "epochs=0: out of range",
    "steps=0": "steps=0: out of range",
    "seed=-1": "seed=-1: out of range",
    "seed=9223372036854775808": "seed=9223372036854775808: out of range",
    "activation=rellu": "did you mean relu?",
    MLP1: "norm=bn",
    "model=mlp data.validation=0 batch_size=144": "(layer hidden1.norm)",
    "norm=in model=mlp": "norm=in: undefined on vectors, and model=mlp has nothing else",
    "norm=in norm.vectors=refuse": "(layer hidden1.norm)",
    "norm=in model=resnet18 model.small_stem=false data.size=32": "1x1 maps",
    "norm=gn norm.uneven=refuse": "norm.groups=8: does not divide 6 channels",
    "data.size=8": "model=lenet: 8x8 images are too small",
    "model=resnet model.depth=21": "model.depth=21: not 6n + 2",
    "model=resnet placement=after": "placement=after",
    "model=mlp model.width=100000000": "GiB",
    "device=cuda:99": "device=cuda:99: this machine has",
    "device=tpu": "device=tpu: not known",
    "precision=fp8": "precision=fp8: not known",
    "data=mnist data.root=/nowhere/at/all": "data.root=/nowhere/at/all",
    "data=npz data.path=/nowhere.npz": "data.path=/nowhere.npz",
    "norm._target_=os.system": "norm._target_: there is no such setting",
    "+norm._target_=os.system": "norm._target_: bn has no such option",
    "imports=[no_such_module]": "imports=[no_such_module]",
    "experiment=nope": "experiment=nope: not known",
    "schedule=step schedule.milestones=[2]": "schedule.milestones=2.0: out of range",
    "optim.lr=${oc.env:NO_SUCH_VARIABLE}": "NO_SUCH_VARIABLE",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_input_costs_one_line_and_leaves_nothing(bnexp, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    answer = bnexp("train", *words.split(" "))
    assert answer.code == 2, answer
    (line,) = answer.err.splitlines()
    assert line.startswith("bnexp: ")
    assert WRONG[words] in line
    assert answer.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_that_cannot_be_made(bnexp, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    answer = bnexp("train", *SMALL_RUN, f"hydra.run.dir={tmp_path}/file/run")
    assert answer.code in (1, 2)
    assert len(answer.err.splitlines()) == 1
    assert "file" in answer.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("tran", "did you mean train?"),
        ("resume", "the following arguments are required: run"),
        ("resume nowhere", "nowhere: not a run (it has no run.json)"),
        ("evaluate nowhere", "nowhere: not a run"),
        ("list norn", "did you mean norm?"),
        ("board nowhere", "nowhere: no such folder"),
        ("evaluate --splitt x", "bnexp evaluate --help"),
    ],
)
def test_other_commands_complain_in_one_line_too(bnexp, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    answer = bnexp(*words.split())
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert said in line


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A finished run with batch norm."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    process = start("train", *SMALL_RUN, f"hydra.run.dir={folder}", cwd=folder.parent)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    return folder, out, err


def test_a_run_says_accuracy_time_and_where_it_is(run_folder):
    _, out, err = run_folder
    finished, run, curves = out.splitlines()
    assert finished.startswith("finished: test accuracy 0.")
    assert "with precise statistics" in finished
    assert "21 steps in" in finished
    assert (run, curves) == ("run: run", "curves: bnexp board run")
    lines = err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("epoch ") and "test/accuracy_precise" in line for line in lines)


def test_what_a_run_leaves(run_folder):
    folder = run_folder[0]
    assert {path.name for path in folder.iterdir()} >= {
        *("run.json", "metrics.csv", "timing.csv", "train.log", "checkpoint.pt", "checkpoint.previous.pt", ".hydra")
    }
    run = json.loads((folder / "run.json").read_text())
    assert run["status"] == "finished"
    assert run["config"]["norm"]["name"] == "bn"
    assert run["final"]["test/accuracy"] == run["final"]["test/accuracy"]
    assert run["provenance"]["device"] == "cpu"
    assert "epoch 3" in (folder / "train.log").read_text()


def test_starting_a_finished_run_again_does_nothing(bnexp, run_folder):
    folder = run_folder[0]
    before = (folder / "metrics.csv").stat().st_mtime_ns
    answer = bnexp("train", *SMALL_RUN, f"hydra.run.dir={folder}")
    assert answer.code == 0
    assert answer.out.startswith("finished")
    assert (folder / "metrics.csv").stat().st_mtime_ns == before
    assert bnexp("resume", str(folder)).code == 0


def test_another_config_in_the_folder_of_a_run_is_refused_with_the_difference(bnexp, run_folder):
    answer = bnexp("train", *SMALL_RUN, "seed=1", "norm.eps=0.1", f"hydra.run.dir={run_folder[0]}")
    assert answer.code == 2
    assert "seed: 0 -> 1" in answer.err
    assert "norm.eps: 1e-05 -> 0.1" in answer.err
    assert json.loads((run_folder[0] / "run.json").read_text())["status"] == "finished"


def test_evaluate_shows_the_three_statistics_side_by_side(bnexp, run_folder):
    answer = bnexp("evaluate", str(run_folder[0]))
    rows = [line.split() for line in answer.out.splitlines() if line.startswith(("train", "validation", "test"))]
    assert [(split, kind) for split, kind, *_ in rows] == [
        (split, kind) for split in ("train", "validation", "test") for kind in ("running", "precise", "batch")
    ]
    final = json.loads((run_folder[0] / "run.json").read_text())["final"]
    table = {(split, kind): (float(accuracy), float(loss)) for split, kind, accuracy, loss in rows}
    assert table["test", "running"][0] == pytest.approx(final["test/accuracy"], abs=1e-4)
    assert table["test", "precise"][1] == pytest.approx(final["test/loss_precise"], abs=1e-4)
    one = bnexp("evaluate", str(run_folder[0]), "--split", "validation")
    assert "test" not in one.out.split("\n", 1)[1]


def test_a_run_that_is_open_elsewhere_is_refused(bnexp, run_folder, tmp_path):
    from bnexp.storage import held

    with held(run_folder[0]):
        (run_folder[0] / "run.json").rename(tmp_path / "aside")  # so that it does not count as finished
        answer = bnexp("train", *SMALL_RUN, f"hydra.run.dir={run_folder[0]}")
        (tmp_path / "aside").rename(run_folder[0] / "run.json")
    assert answer.code == 2
    assert "in use by another bnexp process" in answer.err


def test_divergence_is_a_result(bnexp, tmp_path):
    folder = tmp_path / "run"
    answer = bnexp("train", *SMALL, "norm=none", "optim.lr=1e30", "epochs=2", f"hydra.run.dir={folder}")
    assert answer.code == 0
    run = json.loads((folder / "run.json").read_text())
    assert run["status"] == "diverged"
    assert f"diverged: the loss of step {run['diverged_at']} is not finite" in answer.out
    assert 1 < run["diverged_at"] <= 10
    assert "NaN" not in (folder / "run.json").read_text()
    assert bnexp("resume", str(folder)).out.startswith("diverged")


FAULTY = """
import torch
from bnexp.norms.base import NORMS
from bnexp.norms.none import Shift

class Faulty(Shift):
    calls = 0
    def forward(self, x):
        Faulty.calls += torch.is_grad_enabled()
        if Faulty.calls > 9:
            raise RuntimeError("the norm is broken")
        return super().forward(x)

@NORMS.register("faulty")
def faulty(channels: int) -> Shift:
    return Faulty(channels)
"""


def test_a_users_norm_needs_no_fork_and_its_failure_is_recorded(tmp_path):
    (tmp_path / "my_norms.py").write_text(FAULTY)
    (tmp_path / "my" / "norm").mkdir(parents=True)
    (tmp_path / "my" / "norm" / "faulty.yaml").write_text("name: faulty\n")
    words = ("train", "--config-dir", "my", "imports=[my_norms]", "norm=faulty", *SMALL_RUN, "hydra.run.dir=run")
    out, err = (process := start(*words, cwd=tmp_path)).communicate(timeout=120)
    assert process.returncode == 1, out + err
    assert "Traceback" not in err
    assert "the norm is broken" in err
    assert "error.log" in err
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["status"] == "failed"
    assert run["failure"]["reason"] == "RuntimeError: the norm is broken"
    assert "my_norms.py" in (tmp_path / "run" / "error.log").read_text()


def test_an_error_in_a_users_file_names_file_and_line(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_broken.py").write_text("x = 1\ny = x / 0\n")
    answer = bnexp("train", "imports=[my_broken]")
    assert answer.code == 2
    assert "my_broken.py:2: ZeroDivisionError" in answer.err
    assert not (tmp_path / "outputs").exists()


def test_help_version_and_list(bnexp):
    assert "bnexp train norm=bn" in bnexp().out
    assert bnexp("--help").out == bnexp().out
    assert bnexp("--version").out.startswith("bnexp 0.")
    listed = bnexp("list", "norms").out
    assert "Ioffe & Szegedy 2015" in listed
    assert "gn " in listed
    assert "lenet" not in listed


def test_train_help_names_the_groups_and_gives_examples(tmp_path):
    out, _ = start("train", "--help", cwd=tmp_path).communicate(timeout=60)
    assert "norm: bn, bn_scratch, gn, in, ln, ln_c, none" in out
    assert "bnexp train -m norm=none,bn,ln,in,gn seed=0,1,2" in out
    assert list(tmp_path.iterdir()) == []


def test_the_config_can_be_shown_without_a_run(tmp_path):
    out, _ = start("train", "--cfg", "job", "norm=gn", cwd=tmp_path).communicate(timeout=60)
    assert "name: gn" in out
    assert list(tmp_path.iterdir()) == []


def test_help_imports_nothing_heavy(tmp_path):
    program = (
        "import sys; sys.argv = ['bnexp', '--help']; from bnexp.cli import main; main();"
        "print([name for name in ('torch', 'hydra', 'omegaconf', 'numpy') if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.stdout.endswith("[]\n")


def test_bash_completion_offers_settings_behind_the_sub_command(tmp_path):
    line = "bnexp train norm=b"
    environment = {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    out, err = start("-sc", "query=bash", cwd=tmp_path, env=environment).communicate(timeout=60)
    assert out.split() == ["norm=bn", "norm=bn_scratch"], err
