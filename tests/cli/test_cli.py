"""The command line: what works prints what is promised, what is wrong costs one line and leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import SMALL, SMALL_RUN, start

from bnexp.cli.output import message_file
from bnexp.norms.base import NORMS

MLP1 = "model=mlp batch_size=1"

WRONG = {
    # words: what the line must say
    "norm=bx": "norm=bx: not known; did you mean bn?",
    "norm=batchnorm": "norm=batchnorm: not known; did you mean bn?",
    "norm=GroupNrom": "norm=GroupNrom: not known; did you mean gn?",
    "data=fmnist": "did you mean fashion_mnist?",
    "--norm=bn": "--norm=bn: settings have no dashes; write norm=bn",
    "--batch-size=3": "write batch_size=3",
    "--lr=0.1": "write lr=0.1",
    "--norm bn": "write norm=...",
    "--confg-dir=x": "did you mean --config-dir?",
    "imports=[my] norm=mine": "needs its options in FOLDER/norm/mine.yaml, and --config-dir FOLDER",
    "norm=": "norm=: not known (allowed: batch_renorm, bn,",
    "probes=[1,2]": "probes=[1,2]: 1 is no name; bnexp list probes shows the names",
    "evaluations=[clean,TRUE]": "TRUE is no name; bnexp list evaluations shows the names",
    "evaluations=[fgsm] evaluations.fgsm.epsilons=[]": "epsilons=[]: empty; allowed is a list of one item or more",
    "norm.grops=4": "norm.grops: there is no such setting",
    "norm=gn norm.grops=4": "did you mean norm.groups?",
    "+norm.grops=4": "norm.grops: bn has no such option",
    "sed=1": "did you mean seed?",
    "model=resnet depth=20": "did you mean model.depth?",
    "tags=x": "tags=x: expected a list, such as tags=[a,b]",
    "epochs=null": "epochs=null: needs a value",
    "hydra.run.dir=o/${x}": "hydra.run.dir: Interpolation key 'x' not found",
    "name=ü,=ö": "name=ü,=ö: cannot be parsed; settings are given as name=value, and a value with marks or spaces",
    "foo": "foo: cannot be parsed; settings are given as name=value",
    "seed=1,2": "seed=1,2: several values make a sweep: bnexp train -m, or bnexp.train_all",
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
    "batch_size=99999999999999999999": "out of range",
    "epochs=0": "epochs=0: out of range",
    "steps=0": "steps=0: out of range",
    "seed=-1": "seed=-1: out of range",
    "seed=9223372036854775808": "seed=9223372036854775808: out of range",
    "activation=rellu": "did you mean relu?",
    MLP1: "norm=bn",
    "model=mlp data.validation=0 batch_size=144": "(layer hidden1.norm)",
    "norm=in model=mlp": "norm=in: undefined on vectors, and model=mlp has only vectors",
    "norm=in norm.vectors=refuse": "(layer hidden1.norm)",
    "norm=in model=resnet18 model.small_stem=false data.size=32": "1x1 maps",
    "norm=gn norm.uneven=refuse": "norm.groups=8: does not divide 6 channels",
    "data.size=8": "model=lenet: 8x8 images are too small",
    "model=resnet model.depth=21": "model.depth=21: not 6n + 2",
    "model=resnet placement=after": "placement=after",
    "model=mlp model.depth=3 model.width=1000000": "GiB",
    "device=cuda:99": "device=cuda:99: this machine has",
    "device=tpu": "device=tpu: not known",
    "precision=fp8": "precision=fp8: not known",
    "data=mnist data.root=/nowhere/at/all": "data.root=/nowhere/at/all",
    "data=npz data.path=/nowhere.npz": "data.path=/nowhere.npz",
    "data=npz data.path=/no=where/[a],{b}(c).npz": "data.path=/no=where/[a],{b}(c).npz: there is no such file",
    "model=mlp hydra.run.dir=/proc/norm=bn,seed=0": "/proc/norm=bn,seed=0: cannot be written",
    "-m seed=0,1 hydra.sweep.dir=/proc/a=b": "/proc/a=b",
    "activation=a=b": "activation=a=b: not known",
    "norm._target_=os.system": "norm._target_: there is no such setting",
    "+norm._target_=os.system": "norm._target_: bn has no such option",
    "imports=[no_such_module]": "imports=[no_such_module]",
    "experiment=nope": "experiment=nope: not known",
    "schedule=step schedule.milestones=[2]": "schedule.milestones=2.0: out of range",
    "optim.lr=${oc.env:NO_SUCH_VARIABLE}": "only data.root and data.path take environment variables",
    "+seed=${oc.${activation}:HOME}": "only data.root and data.path take environment variables",
    "data=mnist data.root=${oc.env:NO_SUCH_VARIABLE}": "NO_SUCH_VARIABLE",
    "+foo=1": "foo: there is no such setting (allowed: model, norm,",
    "++sed=1": "did you mean seed?",
    "-m +foo=1 seed=0,1": "foo: there is no such setting",
    "threads=100000": "threads=100000: out of range; allowed is at least 1 and at most 1024",
    "hydra.run.dir=": "hydra.run.dir=: expected a folder",
    "-m hydra.sweep.dir= seed=0,1": "hydra.sweep.dir=: expected a folder",
    "hydra.run.dir=${nowhere}": "nowhere",
    "hydra.run.dir=/proc/x": "/proc/x: cannot be written",
    "hydra.output_subdir=.h": "allowed: hydra.output_subdir=null",
    "hydra.job.chdir=true": "allowed: hydra.job.chdir=false",
    "--config-dir": "--config-dir/-cd: expected one argument",
    "-cd": "--config-dir/-cd: expected one argument",
    "--config-name": "--config-name/-cn: expected one argument",
    "--cfg": "--cfg/-c: expected one argument",
    "--cfg foo": "invalid choice: 'foo'",
    "norm=bn --cfg job seed=1": "seed=1: put all settings together",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_input_costs_one_line_and_leaves_nothing(bnexp, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    answer = bnexp("train", *words.split(" "))
    assert WRONG[words] in answer.complaint
    assert answer.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "place", ["o/ü", "o/a#b;c", "o/~x", "o/it's", ' o/"x" y ', "o/a b,c=ü", "o/(a)[b]{c}", "~", "ö,é"]
)
def test_any_name_of_a_folder_is_taken_literally(bnexp, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    for key in ("hydra.run.dir", "++hydra.run.dir"):
        assert bnexp("train", *SMALL_RUN, f"{key}={place}", "steps=1").code == 0
        assert (tmp_path / place / "run.json").exists()


def test_a_sweep_takes_several_places(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("ü", "a;b", "plain"):
        assert bnexp("train", *SMALL_RUN, f"hydra.run.dir={name}", "steps=1").code == 0
    answer = bnexp("train", "-m", *SMALL_RUN, "steps=1", "init_from=ü,a;b,plain", "hydra.sweep.dir=ö")
    assert answer.code == 0, answer
    runs = [json.loads(path.read_text()) for path in (tmp_path / "ö").glob("*/run.json")]
    assert {run["config"]["init_from"] for run in runs} == {"ü", "a;b", "plain"}


def test_of_a_setting_that_is_given_twice_the_first_is_said_to_have_no_effect(bnexp, tmp_path):
    words = (*SMALL, "steps=1", "norm=bn", "optim.lr=0.1", "norm=ln", "++optim.lr=0.2", "epochs=3")
    told = [
        "norm=bn: has no effect, norm=ln comes after it",
        "optim.lr=0.1: has no effect, ++optim.lr=0.2 comes after it",
        "epochs=3: has no effect beside steps=1",
    ]
    answer = bnexp("train", "-m", *words, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert (answer.code, answer.err.splitlines()[:3]) == (0, told)
    answer = bnexp("train", *words, f"hydra.run.dir={tmp_path / 'run'}")
    assert answer.code == 0, answer
    assert answer.err.splitlines()[:4] == [
        *told,
        "training mlp with norm=ln on digits, 200 images, 1 steps (0.1429 epochs), on cpu",
    ]


@pytest.mark.parametrize("place", ["file", "file/run", "dangling", "loop", "loop/run"])
def test_a_run_folder_that_cannot_be_made(bnexp, tmp_path, place):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    answer = bnexp("train", *SMALL_RUN, f"hydra.run.dir={tmp_path}/{place}")
    assert f"{tmp_path}/{place}: cannot be written" in answer.complaint
    assert {path.name for path in tmp_path.iterdir()} == {"file", "dangling", "loop"}


def test_a_working_folder_that_cannot_be_written(bnexp, monkeypatch):
    monkeypatch.chdir("/proc")
    answer = bnexp("train", *SMALL_RUN)
    assert "cannot be written" in answer.complaint


def test_a_full_disk_is_no_wrong_input(bnexp, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.mkdir", full)
    answer = bnexp("train", *SMALL_RUN, f"hydra.run.dir={tmp_path}/run")
    assert answer.code == 1
    assert "No space left on device" in answer.err


@pytest.mark.parametrize("words", ["seed=-1", "data=npz data.path=/nowhere.npz"])
def test_a_folder_that_the_user_has_made_stays(bnexp, tmp_path, words):
    (tmp_path / "mine").mkdir()
    assert bnexp("train", *words.split(), f"hydra.run.dir={tmp_path}/mine").code == 2
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name: x\n  eps: [1\n", "odd.yaml:2: "),
        (b"name: x\nname: y\n", "odd.yaml:2: found duplicate key name"),
        (b"name: !!python/object:os.system {}\n", "odd.yaml:1: "),
        (b"name: \xff\xfe", "odd.yaml: not valid yaml text"),
        (b"- a\n", "norm/odd.yaml: "),
        (b"", "norm={}: has no name"),
    ],
)
def test_a_yaml_file_that_cannot_be_read_is_named(bnexp, tmp_path, monkeypatch, content, said):
    (tmp_path / "my" / "norm").mkdir(parents=True)
    (tmp_path / "my" / "norm" / "odd.yaml").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    answer = bnexp("train", "--config-dir", "my", "norm=odd")
    assert said in answer.complaint
    assert [path.name for path in tmp_path.iterdir()] == ["my"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("tran", "did you mean train?"),
        ("norm=bn", "norm=bn: a command comes first: bnexp train norm=bn"),
        ("-m train", "-m: a command comes first: bnexp train -m"),
        ("evaluate .", ".: not a run (it has no run.json)"),
        ("train probes.ics.every=5", "probes.ics.every: this probe is not chosen; "),
        ("train probes=[ics] probes.ics.evry=5", "probes.ics.evry: there is no such setting; did you mean"),
        ("train name=a,b=c", "cannot be parsed; settings are given as name=value, and a value with marks"),
        ("resume", "outputs: no run or sweep in there was interrupted; name the folder of one"),
        ("resume nowhere", "nowhere: there is no such folder"),
        ("evaluate nowhere", "nowhere: there is no such folder"),
        ("list norn", "did you mean norm?"),
        ("board nowhere", "nowhere: no such folder"),
        ("evaluate --splitt x", "bnexp evaluate --help"),
        ("board . --port 999999", "--port=999999: out of range; allowed is 1 to 65535"),
        ("board . --port 0", "--port=0: out of range"),
    ],
)
def test_other_commands_complain_in_one_line_too(bnexp, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    answer = bnexp(*words.split())
    assert said in answer.complaint


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
    assert "(precise 0." in finished
    assert "21 steps in" in finished
    assert (run, curves) == ("run: run", "curves: bnexp board run")
    about, *lines = err.splitlines()
    assert about == "training mlp with norm=bn on digits, 200 images, 21 steps (3 epochs), on cpu"
    assert len(lines) == 3
    assert all(line.startswith("epoch ") and "  precise 0." in line for line in lines)


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
    assert run["images"] == {"train": 200, "validation": 130, "test": 500}
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


def test_words_that_are_no_text_are_refused_before_anything_is_made(tmp_path):
    words = ["train", *SMALL_RUN, "hydra.run.dir=r", b"notes=caf\xe9"]
    command = [sys.executable, "-m", "bnexp", *words]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    wanted = "bnexp: 'notes=caf\\udce9': its bytes are no UTF-8; names and values are text\n"
    assert (ended.returncode, ended.stderr, list(tmp_path.iterdir())) == (2, wanted, [])


_PROGRAM = "torch.utils.collect_env.run, command: touch PWNED"
_FORMATTER = f"{{version: 1, root: {{level: INFO}}, formatters: {{x: {{(): {_PROGRAM}}}}}}}"
_NAMES_ONE = "has a key _target_, which names a program; only imports=[...] brings own code"
_TYPED = "a file can set mode, run, sweep, sweeper of Hydra, all else is typed"
_GLOBAL = "# @package _global_\nsteps: 2\n"
_PROGRAMS = {
    "callback": ("experiment/x.yaml", f"{_GLOBAL}hydra: {{callbacks: {{x: {{_target_: {_PROGRAM}}}}}}}", _NAMES_ONE),
    "escaped": ("experiment/x.yaml", f'{_GLOBAL}a: {{"\\x5ftarget_": {_PROGRAM}}}', _NAMES_ONE),
    "in a circle": ("experiment/x.yaml", f"{_GLOBAL}a: &a {{b: *a, c: [{{_target_: {_PROGRAM}}}]}}", _NAMES_ONE),
    "in a launcher": ("hydra/launcher/local.yaml", f"setup: {{_target_: {_PROGRAM}}}", _NAMES_ONE),
    "logger": (
        "experiment/x.yaml",
        f"{_GLOBAL}hydra: {{job_logging: {_FORMATTER}}}",
        f"sets hydra.job_logging; {_TYPED}",
    ),
    "variable": ("experiment/x.yaml", f"{_GLOBAL}hydra: {{job: {{env_set: {{A: b}}}}}}", f"sets hydra.job; {_TYPED}"),
    "all of Hydra": ("experiment/x.yaml", f"{_GLOBAL}hydra: ${{a}}", f"sets hydra.hydra; {_TYPED}"),
    "package": (
        "experiment/x.yaml",
        f"# @package hydra.job_logging\n{_FORMATTER}",
        "its package is Hydra's own; a file of yours can have _global_ or its group",
    ),
    "package of another file": (
        "experiment/x.yaml",
        f"{_GLOBAL}defaults: [/seeds@_global_.hydra.job_logging: many]",
        "chooses /seeds@_global_.hydra.job_logging; a file can choose hydra/sweeper, all else of Hydra is typed",
    ),
    "launcher": (
        "experiment/x.yaml",
        f"{_GLOBAL}defaults: [override /hydra/launcher: slurm]",
        "chooses override /hydra/launcher; a file can choose hydra/sweeper, all else of Hydra is typed",
    ),
    "Hydra's group": (
        "hydra/job_logging/none.yaml",
        _FORMATTER,
        "of Hydra's own groups only launcher and sweeper can have files of yours",
    ),
    "module": (
        "experiment/x.yaml",
        f"{_GLOBAL}imports: [evil]",
        "sets imports; modules are programs, so they are named where you type: imports=[...]",
    ),
}


def test_a_complaint_spells_out_marks_that_move_a_terminal(bnexp):
    assert bnexp("show", "a\x1b[31m\u00fc").complaint == "bnexp: a\\x1b[31mü: there is no such folder"


@pytest.mark.parametrize(("file", "text", "said"), _PROGRAMS.values(), ids=_PROGRAMS)
def test_a_yaml_that_could_run_a_program_is_refused(bnexp, tmp_path, monkeypatch, file, text, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "evil.py").write_text("open('PWNED', 'w').close()")
    (path := tmp_path / "my" / file).parent.mkdir(parents=True)
    path.write_text(text)
    experiment = ["experiment=x"] if "experiment" in file else []
    answer = bnexp("train", "--config-dir", "my", *SMALL_RUN, *experiment)
    assert (answer.code, answer.complaint) == (2, f"bnexp: my/{file}: {said}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.py", "my"]


def test_a_yaml_of_ones_own_may_make_a_sweep(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my" / "experiment").mkdir(parents=True)
    sweep = "{mode: MULTIRUN, sweep: {dir: s}, sweeper: {params: {seed: 'range(2)'}}}"
    text = f"{_GLOBAL}defaults: [override /hydra/sweeper: grid]\nhydra: {sweep}"
    (tmp_path / "my" / "experiment" / "x.yaml").write_text(text)
    answer = bnexp("train", "--config-dir", "my", *SMALL_RUN, "experiment=x")
    assert (answer.code, answer.err.count("finished")) == (0, 2), answer.err


def test_a_sweep_of_very_many_jobs_is_refused_before_they_are_made(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = bnexp("train", "-m", *SMALL_RUN, "seed=range(0,1e9)", "norm=bn,ln")
    wanted = "bnexp: 2,000,000,000 jobs: more than the 1,000,000 that a sweep can have; give fewer values"
    assert (answer.code, answer.complaint, list(tmp_path.iterdir())) == (2, wanted, [])


def test_values_that_make_no_job_are_told(bnexp, tmp_path):
    answer = bnexp("train", "-m", *SMALL_RUN, "steps=1", "tags=[a],[b]", f"hydra.sweep.dir={tmp_path / 's'}")
    assert answer.code == 0
    assert "2 combinations are 1 job: values given twice, and those of tags and notes, make no job of" in answer.err


def test_an_empty_place_is_refused(bnexp, run_folder):
    answer = bnexp("compare", str(run_folder[0]), "--html", "")
    assert (answer.code, "argument --html: empty; give a name" in answer.err) == (2, True)


@pytest.mark.parametrize("name", ["run.json", "notes.md", "."])
def test_a_page_is_written_over_nothing_else(bnexp, run_folder, name):
    folder = run_folder[0]
    before = (folder / "run.json").read_bytes()
    answer = bnexp("compare", str(folder), "--html", str(folder / name))
    assert (answer.code, answer.out) == (2, "")
    assert f"argument --html: {folder / name}: expected the name of a page, such as page.html" in answer.err
    assert (folder / "run.json").read_bytes() == before
    assert not (folder / "notes.md").exists()


def test_curves_for_tensorboard_lie_apart_from_the_runs(bnexp, run_folder):
    folder = run_folder[0]
    files = sorted(folder.rglob("*"))
    answer = bnexp("compare", str(folder), "--tensorboard", f"{folder}/.")
    assert answer.complaint == f"bnexp: --tensorboard {folder}: holds the runs that are compared; give another folder"
    assert sorted(folder.rglob("*")) == files


def test_a_run_and_a_sweep_do_not_share_a_folder(bnexp, run_folder, tmp_path):
    folder = run_folder[0]
    answer = bnexp("train", "-m", *SMALL_RUN, "seed=0,1", f"hydra.sweep.dir={folder}")
    assert (answer.code, answer.err) == (
        2,
        f"bnexp: {folder}: holds a run; a sweep needs another folder (hydra.sweep.dir)\n",
    )
    sweep = tmp_path / "sweep"
    assert bnexp("train", "-m", *SMALL_RUN, "steps=1", "seed=0,1", f"hydra.sweep.dir={sweep}").code == 0
    answer = bnexp("train", *SMALL_RUN, f"hydra.run.dir={sweep}")
    wanted = f"bnexp: {sweep}: holds a sweep; a run needs another folder (hydra.run.dir)\n"
    assert (answer.code, answer.complaint + "\n") == (2, wanted)
    assert not (sweep / "run.json").exists()


DAMAGES = {
    "no name": ({"name": None}, "name: expected"),
    "no words": ({"overrides": "norm=bn"}, "overrides: expected"),
    "odd words": ({"overrides": [1]}, "overrides: expected words"),
    "no status": ({"status": 3}, "status: expected"),
    "odd status": ({"status": "done"}, "status: done is none of finished,"),
    "no results": ({"final": []}, "final: expected"),
    "odd failure": ({"failure": "it broke"}, "failure: expected another kind"),
    "half a failure": ({"failure": {"reason": "it broke"}}, "failure: expected reason and lines"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("command", ["resume", "evaluate"])
def test_a_run_json_with_a_wrong_fact_is_refused(bnexp, run_folder, tmp_path, command, damage):
    change, said = DAMAGES[damage]
    facts = json.loads((run_folder[0] / "run.json").read_text())
    del facts["digest"]  # else the change itself is what is refused
    (tmp_path / "run.json").write_text(json.dumps(facts | change))
    answer = bnexp(command, str(tmp_path))
    assert f"run.json: damaged ({said}" in answer.complaint


@pytest.mark.parametrize("fact", ["name", "overrides", "status", "final", "seconds"])
def test_a_run_json_that_lacks_a_fact_is_refused(bnexp, run_folder, tmp_path, fact):
    facts = json.loads((run_folder[0] / "run.json").read_text())
    del facts["digest"]  # else the change itself is what is refused
    del facts[fact]
    (tmp_path / "run.json").write_text(json.dumps(facts))
    answer = bnexp("resume", str(tmp_path))
    assert fact in answer.complaint
    assert "missing" in answer.complaint


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
    from bnexp.runs.storage import held

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


@pytest.mark.slow
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
    assert run["failure"]["reason"] == "my_norms.py:11: RuntimeError: the norm is broken"
    assert "my_norms.py" in (tmp_path / "run" / "error.log").read_text()


def test_an_error_in_a_users_file_names_file_and_line(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_broken.py").write_text("x = 1\ny = x / 0\n")
    answer = bnexp("train", "imports=[my_broken]")
    assert answer.code == 2
    assert "my_broken.py:2: ZeroDivisionError" in answer.err
    assert not (tmp_path / "outputs").exists()


ABSENT = """
from bnexp.norms.base import NORMS

@NORMS.register("absent_minded")
def absent_minded(channels: int):
    return None.layer
"""


NO_NORMS = """
from torch import nn
from bnexp.norms import NORMS, Norm

class Empty(Norm):
    pass

@NORMS.register("plain")
def plain(channels: int):
    return nn.BatchNorm2d(channels)

@NORMS.register("empty")
def empty(channels: int):
    return Empty(channels, affine=True)

class Bare(Norm):
    def __init__(self, channels):
        self.channels = channels

@NORMS.register("bare")
def bare(channels: int):
    return Bare(channels)
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("norm=plain imports=[my_no_norms]", "norm=plain: its builder returns a BatchNorm2d, which lacks attach,"),
        ("norm=empty imports=[my_no_norms]", "norm=empty: Empty lacks forward(self, x)"),
        (
            "norm=bare imports=[my_no_norms]",
            "norm=bare: the __init__ of Bare does not call super().__init__(",
        ),
        ("norm=plain", "a module of yours that registers it must be named by imports=[MODULE]"),
        ("norm=absent imports=[my_no_norms]", "needs its options in my/norm/absent.yaml"),
    ],
)
def test_a_users_norm_is_told_what_it_lacks(bnexp, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "my_no_norms", raising=False)
    (tmp_path / "my_no_norms.py").write_text(NO_NORMS)
    (tmp_path / "my" / "norm").mkdir(parents=True)
    for name in ("plain", "empty", "bare"):
        (tmp_path / "my" / "norm" / f"{name}.yaml").write_text(f"name: {name}\n")
    with NORMS.temporarily():
        assert said in bnexp("train", "--config-dir", "my", *words.split(), *SMALL).complaint
    assert not (tmp_path / "outputs").exists()


def test_a_module_that_ends_python_is_told(bnexp, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "my_exit.py").write_text("import sys\nsys.exit(0)\n")
    answer = bnexp("train", *SMALL, "imports=[my_exit]")
    assert (answer.code, answer.complaint) == (2, f"bnexp: imports=[my_exit]: {tmp_path}/my_exit.py:2: SystemExit: 0")


@pytest.mark.parametrize("place", [".", "/proc"])
def test_any_other_error_costs_a_line_and_says_where_the_rest_is(bnexp, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path if place == "." else place)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "my_absent", raising=False)
    (tmp_path / "my_absent.py").write_text(ABSENT)
    (tmp_path / "my" / "norm").mkdir(parents=True)
    (tmp_path / "my" / "norm" / "absent_minded.yaml").write_text("name: absent_minded\n")
    words = ("--config-dir", f"{tmp_path}/my", "imports=[my_absent]", "norm=absent_minded")
    with NORMS.temporarily():
        answer = bnexp("train", *words, *SMALL_RUN)
    assert answer.code == 1
    (line,) = answer.err.splitlines()
    assert line.startswith("bnexp: ")
    assert "my_absent.py:6: AttributeError: 'NoneType' object has no attribute 'layer'; details in " in line
    (log,) = tmp_path.glob("bnexp-error*.log")
    assert line.endswith(log.name)
    assert "my_absent.py" in log.read_text()
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_output_that_cannot_be_written_says_where_the_finished_run_is(tmp_path):
    program = "import sys; from bnexp.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "train", *SMALL_RUN, "hydra.run.dir=run"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "bnexp: standard output cannot be written (No space left on device); run: run (finished)"
    )


@pytest.mark.parametrize(("words", "code"), [("list norms", 0), ("train sed=1", 2)])
@pytest.mark.parametrize("place", ["2>&-", "2>/dev/full", ">&- 2>&-", "2>&1 | true"])
def test_messages_that_cannot_be_written_change_no_exit_code(tmp_path, words, code, place):
    program = shlex.quote("import sys; from bnexp.cli.main import main; sys.exit(main())")
    command = f'{sys.executable} -c {program} {words} {place}; exit "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (code, "", [])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_file_of_messages_drops_what_cannot_be_written(tmp_path):
    """As the logs of claims that run at the same time, on a disk that is full."""
    with message_file(Path("/dev/full")) as file:
        print("a message", file=file, flush=True)
    for text in ("first", "second \u03c3"):
        with message_file(tmp_path / "log") as file:
            print(text, file=file)
    assert (tmp_path / "log").read_text(encoding="utf-8") == "first\nsecond \u03c3\n"


@pytest.mark.slow
def test_a_sweep_is_carried_out_though_nobody_reads_its_messages(tmp_path):
    """One of them says, before any job starts, that a setting has no effect."""
    program = shlex.quote("import sys; from bnexp.cli.main import main; sys.exit(main())")
    words = (*SMALL_RUN, "optim.nesterov=true", "optim.momentum=0", "seed=0,1", "hydra.sweep.dir=s")
    command = f"{sys.executable} -c {program} {shlex.join(('train', '-m', *words))} 2>&1 | true"
    users = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, env=users)
    assert done.stderr == ""
    assert len(list(tmp_path.glob("s/*/checkpoint.pt"))) == 2


@pytest.mark.slow
def test_a_sweep_needs_no_standard_output(tmp_path):
    program = shlex.quote("import sys; from bnexp.cli.main import main; sys.exit(main())")
    words = shlex.join(("train", "-m", *SMALL_RUN, "seed=0,1", "hydra.sweep.dir=s"))
    done = subprocess.run(["bash", "-c", f"{sys.executable} -c {program} {words} >&- 2>&-"], cwd=tmp_path)
    assert done.returncode == 0
    assert len(list(tmp_path.glob("s/*/checkpoint.pt"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.3, 0.6, 1.0, 1.5])
def test_ctrl_c_while_the_program_starts_prints_nothing(tmp_path, seconds):
    process = start("train", "epochs=50", cwd=tmp_path)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    if process.returncode == 130:  # the run had begun, and has saved; before its first step there is nothing to save
        assert ("go on with: bnexp resume" in out) == bool(list(tmp_path.rglob("checkpoint.pt")))
    else:
        assert (process.returncode, out, err, list(tmp_path.iterdir())) == (-signal.SIGINT, "", "", [])


def test_help_version_and_list(bnexp):
    assert "bnexp train norm=bn" in bnexp().out
    assert bnexp("--help").out == bnexp().out
    assert max(map(len, bnexp().out.splitlines())) <= 80
    assert bnexp("--version").out.startswith("bnexp 0.")
    listed = bnexp("list", "norms").out
    assert "Ioffe & Szegedy 2015" in listed
    assert "gn " in listed
    assert "lenet" not in listed


def test_train_help_names_the_groups_and_gives_examples(tmp_path):
    out, _ = start("train", "--help", cwd=tmp_path).communicate(timeout=60)
    assert "norm: batch_renorm, bn, bn_scratch, centered_cosine," in out
    assert "bnexp train -m norm=none,bn,ln,in,gn seed=0,1,2" in out
    assert list(tmp_path.iterdir()) == []


def test_the_config_can_be_shown_without_a_run(tmp_path):
    out, _ = start("train", "--cfg", "job", "norm=gn", cwd=tmp_path).communicate(timeout=60)
    assert "name: gn" in out
    assert list(tmp_path.iterdir()) == []


def test_help_imports_nothing_heavy(tmp_path):
    program = (
        "import sys; sys.argv = ['bnexp', '--help']; from bnexp.cli.main import main; main();"
        "print([name for name in ('torch', 'hydra', 'omegaconf', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.endswith("[]\n")


def test_a_reader_who_has_seen_enough_is_no_error(tmp_path):
    with start("-sc", "install=bash", cwd=tmp_path) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
