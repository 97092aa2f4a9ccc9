"""bnexp in Python: what the command line does, in a child process, and runs read back."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, SMALL_RUN
from processes import survivors, until

import bnexp
from bnexp.cli.compare import main
from bnexp.config.checks import RunFailedError


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_train_load_and_find():
    run = bnexp.train(*SMALL, "norm=bn", "steps=5")
    assert run.status == "finished"
    assert run.folder.name.endswith("norm=bn,steps=5")
    assert bnexp.load(run.folder).final == run.final
    runs = bnexp.train_all(*SMALL, "norm=ln,bn", "steps=4", "hydra.sweep.dir=both")
    assert [run.settings["norm.name"] for run in runs] == ["ln", "bn"]
    assert [run.folder.parent.name for run in bnexp.find("both", norm="ln", optim__lr=0.05)] == ["both"]
    assert len(list(bnexp.find(norm="bn"))) == 1
    assert [run.settings["norm.name"] for run in bnexp.find("both", norm=["bn", "ln", "gn"])] == ["bn", "ln"]
    assert [run.settings["norm.name"] for run in bnexp.find("both", optim__lr=[0.05, 0.1])] == ["bn", "ln"]
    assert list(bnexp.find("both", norm="gn")) == []
    with pytest.raises(ValueError, match=r"^find=nrm: these runs have no such setting; did you mean norm\?"):
        list(bnexp.find("both", nrm="bn"))


def test_runs_are_compared_as_on_the_command_line(capsys):
    bnexp.train_all(*SMALL, "norm=bn,ln", "seed=0,1", "steps=2", "hydra.sweep.dir=both")
    words = ("both", "--by", "norm", "--baseline", "norm=bn", "--where", "seed=0,1", "--metric", "test/loss", "--json")
    found = bnexp.compare_runs(Path("both"), by="norm", baseline=["norm=bn"], where="seed=0,1", metric="test/loss")
    main(list(words))
    assert json.loads(json.dumps(found)) == json.loads(capsys.readouterr().out)  # whose keys are texts
    assert [arm["n"] for arm in found["arms"]] == [2, 2]
    with pytest.raises(ValueError, match=r"^--by=lr: these runs have no such setting; did you mean optim\.lr\?$"):
        bnexp.compare_runs("both", by="lr")


def test_what_is_wrong_is_said_as_on_the_command_line(tmp_path):
    with pytest.raises(ValueError, match=r"^norm=bm: not known; did you mean bn\?"):
        bnexp.train("norm=bm")
    with pytest.raises(ValueError, match=r"run\.json"):
        bnexp.load(tmp_path)
    for word, said in (("-m", "bnexp.train_all trains a sweep"), ("--cfg=job", "only on the command line")):
        with pytest.raises(ValueError, match=rf"^{word}: {said}; allowed are settings and --config-dir$"):
            bnexp.train("norm=bn", word)
    with pytest.raises(ValueError, match=r"^\['norm=bn'\]: no word; expected words one by one, such as bnexp.train\("):
        bnexp.train(["norm=bn"])
    for folder in ("nowhere", "."):
        with pytest.raises(ValueError, match=rf"^{re.escape(folder)}: [^:]*$"):
            bnexp.load(folder)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_imported_before_it_is_asked_for():
    program = "import bnexp, sys; assert 'bnexp.api' not in sys.modules; bnexp.load; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.stdout == "False\n"
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        bnexp.trian  # noqa: B018


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run with batch norm whose last checkpoint is of its last step."""
    folder = tmp_path_factory.mktemp("api") / "run"
    command = [sys.executable, "-m", "bnexp", "train", *SMALL_RUN, "norm=bn", f"hydra.run.dir={folder}"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def test_settings_and_metrics_of_a_run(trained):
    run = bnexp.load(trained)
    assert (run.status, run.config.norm["name"], run.config.batch_size) == ("finished", "bn", 29)
    rows = (trained / "metrics.csv").read_text().splitlines()[1:]
    assert len(run.metrics) == len(rows)
    table = run.metrics
    last = table.step[-1], repr(table.epoch[-1]), table.metric[-1], repr(table.value[-1])
    assert ",".join(map(str, last)) == rows[-1]
    assert run.metrics.curve("test/accuracy")[21] == run.final["test/accuracy"]
    assert list(run.metrics.curve("test/accuracy")) == [7, 14, 21]
    said = r"^test/acuracy: the run has no such metric; did you mean test/accuracy\? \(there are: train/loss, .*more\)$"
    with pytest.raises(ValueError, match=said):
        run.metrics.curve("test/acuracy")


def test_a_run_is_shown_in_one_line(trained):
    run = bnexp.load(trained)
    assert repr(run.metrics).startswith(f"<{len(run.metrics)} values: train/loss, train/accuracy, lr, ")
    assert repr(run) == f"<bnexp.Run {trained}: finished, test accuracy {run.final['test/accuracy']:.4f}>"


def test_metrics_as_a_data_frame(trained):
    pytest.importorskip("pandas", reason="pandas is not installed")
    table = bnexp.load(trained).metrics.to_pandas()
    assert list(table.columns) == ["step", "epoch", "metric", "value"]
    last = table[table.metric == "test/accuracy"].value.iloc[-1]
    assert last == bnexp.load(trained).final["test/accuracy"]


def test_what_needs_pandas_names_it(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ValueError, match=r"^pandas: not installed; .*pip install -e '.\[pandas\]'$"):
        bnexp.load(trained).metrics.to_pandas()


def test_the_model_of_a_run_repeats_its_accuracy(trained):
    run = bnexp.load(trained, device="cpu")
    x, y = run.data("test")
    model = run.model()
    assert (len(x), x.dtype, y.dtype, model.training) == (500, torch.float32, torch.int64, False)
    assert (run.predict(x) == y).double().mean().item() == run.final["test/accuracy"]
    assert torch.equal(model(x).argmax(1), run.predict(x))
    loss = torch.nn.functional.cross_entropy(model(x).double(), y).item()
    assert loss == pytest.approx(run.final["test/loss"], rel=1e-5)
    with pytest.raises(ValueError, match=r"^tests: .*there are: train, validation, test"):
        run.data("tests")


@pytest.mark.slow
def test_raw_pixels_are_prepared_as_those_of_training(tmp_path):
    numbers = np.random.default_rng(0)
    arrays = {f"x_{part}": numbers.integers(0, 256, (60, 12, 12), dtype=np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "own.npz", **arrays, y_train=np.arange(60) % 3, y_test=np.arange(60) % 3)
    words = ("model=mlp", "model.depth=1", "data=npz", "data.path=own.npz", "data.size=8", "batch_size=9", "steps=2")
    run, raw = bnexp.train(*words), torch.from_numpy(arrays["x_test"]).unsqueeze(1)
    assert torch.equal(run.predict(raw), run.predict(run.data("test")[0]))
    assert len(set(run.predict(raw).tolist())) > 1
    assert torch.equal(run.predict(raw[3]), run.predict(raw[3:4]))
    with pytest.raises(ValueError, match=r"images of shape \(3, 8, 8\): this run's have the shape \(1, 8, 8\)"):
        run.predict(torch.zeros(2, 3, 9, 9, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"images of shape \(2, 3, 9, 9\): expected \(N, "):
        run.predict(torch.zeros(2, 3, 9, 9))
    assert torch.equal(run.predict(raw.numpy()), run.predict(raw))
    with pytest.raises(ValueError, match=r"^images of type int64: expected uint8, pixels from 0 to 255, or floats"):
        run.predict(raw.long())
    before, model = run.predict(raw), run.model().train()
    assert torch.equal(run.predict(raw), before)
    assert all(module.training for module in model.modules())
    model.eval()
    whitened = bnexp.train(*words, "data.whiten=zca")
    with pytest.raises(ValueError, match=r"^data\.whiten=zca: raw images cannot be whitened"):
        whitened.predict(raw)


def test_the_process_stays_as_it_was(trained):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    torch.set_num_threads(2)
    try:
        bnexp.load(trained, device="cpu").model()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(torch.rand(2), expected)


def test_modules_that_a_run_names_are_imported_only_if_the_user_names_them(trained, tmp_path):
    run = tmp_path / "got"
    run.mkdir()
    for name in ("run.json", "checkpoint.pt"):
        (run / name).write_bytes((trained / name).read_bytes())
    saved = json.loads((run / "run.json").read_text())
    del saved["digest"]
    saved["config"]["imports"] = ["payload"]
    (run / "run.json").write_text(json.dumps(saved))
    (tmp_path / "payload.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    with pytest.raises(ValueError, match=r"if you trust them: bnexp\.load\('got', imports=\['payload'\]\)"):
        bnexp.load("got").model()
    assert not (tmp_path / "ran").exists()
    assert bnexp.load("got", imports=["payload"], device="cpu").predict(torch.zeros(1, 1, 8, 8)).shape == (1,)
    assert (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "word", ["hydra.run.dir=made/${norm.name}", "++hydra.run.dir=made/bn", "hydra.run.dir=ma\\,de"]
)
def test_the_folder_is_the_one_that_the_words_mean(tmp_path, word):
    run = bnexp.train(*SMALL, "steps=1", "norm=bn", word)
    assert run.folder == Path("ma,de" if "," in word else "made/bn")
    assert run.status == "finished"


def test_one_module_may_be_named_alone(tmp_path, trained):
    assert bnexp.load(trained, imports="my_lab").imports == ("my_lab",)
    assert next(bnexp.find(trained, imports="my_lab")).imports == ("my_lab",)


@pytest.mark.slow
def test_results_are_read_without_torch(trained):
    program = f"""
import bnexp, sys
run = bnexp.load({str(trained)!r})
run.config.norm, run.metrics.value, run.final, list(bnexp.find({str(trained)!r}, norm="bn"))
bnexp.compare_runs({str(trained)!r})
print("torch" in sys.modules)
run.model()
print("torch" in sys.modules)
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.stdout.split() == ["False", "True"], answer.stderr


def interrupted(program: str, when: Path) -> str:
    """What a Python program that is interrupted once a file exists writes to its standard error."""
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) as child:
        try:
            until(lambda: when.exists() or child.poll() is not None)
            child.send_signal(signal.SIGINT)
            return child.communicate(timeout=60)[1]
        finally:
            child.kill()


@pytest.mark.slow
def test_an_interrupted_training_saves(tmp_path):
    program = f"import bnexp; bnexp.train(*{SMALL!r}, 'epochs=20000', 'hydra.run.dir=run')"
    assert "KeyboardInterrupt" in interrupted(program, tmp_path / "run" / "checkpoint.pt")
    assert bnexp.load("run").status == "interrupted"


@pytest.mark.slow
def test_an_interrupt_is_heard_while_the_training_writes(tmp_path):
    talks = tmp_path / "talks"
    often = "n=0; while :; do n=$((n + 1)); echo epoch >&2; [ $n = 20000 ] && : > talking; done"
    talks.write_text(f"#!/bin/sh\ntrap 'exit 130' INT\n{often}\n")
    talks.chmod(0o755)
    program = f"import sys; sys.executable = {str(talks)!r}; import bnexp; bnexp.train()"
    for _ in range(3):
        assert "KeyboardInterrupt" in interrupted(program, tmp_path / "talking")
        (tmp_path / "talking").unlink()


STARTS = f"""
import os, signal, subprocess
import bnexp

class Popen(subprocess.Popen):
    def __init__(self, *given, **options):
        super().__init__(*given, **options)
        open("pid", "w").write(str(self.pid))
        signal.raise_signal(signal.SIGINT)

subprocess.Popen = Popen
bnexp.train(*{SMALL!r}, "epochs=20000", "hydra.run.dir=run")
"""


@pytest.mark.slow
def test_an_interrupt_while_the_training_is_being_started_ends_it(tmp_path):
    answer = subprocess.run([sys.executable, "-c", STARTS], capture_output=True, text=True, timeout=60)
    assert answer.stderr.strip().endswith("KeyboardInterrupt")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
def test_a_training_saves_and_ends_with_the_program_that_waits_for_it(tmp_path):
    program = f"import bnexp; bnexp.train(*{SMALL!r}, 'epochs=20000', 'hydra.run.dir=run')"
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) as child:
        until((tmp_path / "run" / "checkpoint.pt").exists)
        child.kill()
    until(lambda: not survivors(tmp_path))
    assert bnexp.load("run").status == "interrupted"


@pytest.mark.slow
def test_a_failed_job_names_the_folder_of_the_others():
    words = (*SMALL, "steps=50000", "norm=bn,ln", "hydra.sweep.dir=both", "hydra.launcher.timeout_s=0.001")
    told = r"^norm=bn: not finished after 0.001 s; 1 more failed \(in both\)$"
    with pytest.raises(RunFailedError, match=told):
        bnexp.train_all(*words)


@pytest.mark.slow
def test_the_model_data_and_labels_are_those_of_the_run_also_with_its_own_images_and_in_double(tmp_path):
    words = ("data.split_seed=seed", "data.label_noise=0.3", "precision=fp64", "checkpoint_best=true", "eval_every=2")
    run = bnexp.train(*SMALL, *words, "norm=none", "steps=6", "optim.lr=0.5")
    x, y = run.data("validation")
    assert x.dtype == torch.float64
    assert len(x) == len(y) > 0
    for best, value in ((False, run.final["validation/accuracy"]), (True, run.best["validation/accuracy"])):
        with torch.no_grad():
            right = (run.model(best=best)(x).argmax(1) == y).double().mean().item()
        assert right == pytest.approx(value, abs=1e-12)
    x, y = run.data("train")
    assert (x.shape[0], y.shape) == (200, (200,))
