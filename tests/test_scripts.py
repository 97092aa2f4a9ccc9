"""The scripts import what there is: they are run by hand, and would otherwise fall behind the package unseen."""

from __future__ import annotations

import ast
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import survivors, until

from bnexp.probes import PROBES
from bnexp.training.population import Population

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.mark.parametrize("name", sorted(path.stem for path in SCRIPTS.glob("*.py")))
def test_a_script_imports_and_says_what_it_is(name, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    module = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    assert module.__doc__
    assert callable(getattr(module, "main", None)) or name in ("competitors", "checkout")


def test_each_mutation_changes_a_line_and_is_python(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    mutate = importlib.import_module("mutate")
    path = Path("bnexp/models/pooling.py")
    source = (SCRIPTS.parent / path).read_bytes()
    found = mutate.mutations(path)
    assert len(found) > 10
    assert all(ast.dump(ast.parse(each.applied(source))) != ast.dump(ast.parse(source)) for each in found)
    assert mutate.drawn([path], 5, 3) == mutate.drawn([path], 5, 3)
    assert mutate.tests_of(path)[0] == "tests/models/test_pooling.py"


@pytest.mark.slow
def test_the_cost_of_every_probe_can_be_measured(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    bench_probes = importlib.import_module("bench_probes")
    monkeypatch.setattr(bench_probes, "STEPS", 1)
    monkeypatch.setattr(bench_probes, "measurement", lambda setup, watch: lambda: None)  # some take seconds
    rows = bench_probes.table(bench_probes.measured(1)).splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(PROBES)


def gpu_command(file: Path, *words: str) -> list[str | Path]:
    return [sys.executable, SCRIPTS / "gpu.py", "--device", "cpu", "--json", file, *words]


@pytest.mark.slow
def test_each_section_of_the_gpu_command_runs_on_a_cpu(tmp_path):
    file = tmp_path / "gpu.json"
    ended = subprocess.run(gpu_command(file, "--smoke"), capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr
    found = json.loads(file.read_text())
    sections = [name for name, rows in found.items() if isinstance(rows, list) and name != "left_out"]
    assert sections == [name for name in found if name not in ("date", "machine", "left_out")]
    assert all(found[name] for name in sections)
    assert found["left_out"] == []
    assert {row["norm"]: row["stacked"] < 1e-12 for row in found["correct"]} == {"bn": True, "zca": True}
    assert found["kill"][0]["bitwise equal"] is True


@pytest.mark.slow
def test_a_gpu_command_that_is_ended_names_all_that_is_missing_and_takes_what_it_began_along(tmp_path):
    file, log = tmp_path / "gpu.json", tmp_path / "out.txt"
    command = gpu_command(file, "--only", "kill", "--cases", "one")
    with log.open("w") as out:
        running = subprocess.Popen(
            command, stdout=out, stderr=out, cwd=tmp_path, env=os.environ | {"TMPDIR": str(tmp_path)}
        )
    until(lambda: any(tmp_path.rglob("checkpoint.pt")))
    running.terminate()
    assert running.wait(60) == 128 + signal.SIGTERM
    assert json.loads(file.read_text())["left_out"] == ["kill: killed, one run"]
    assert "left out: kill: killed, one run\n0 checks failed" in log.read_text()
    until(lambda: not survivors(tmp_path))


def test_a_name_that_no_case_has_is_refused(tmp_path):
    command = gpu_command(tmp_path / "x.json", "--cases", "lenett")
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "--cases=lenett: no case has this in its name" in ended.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", ["nothing", "the sign", "all"])
def test_gradients_that_are_wrong_in_a_short_format_are_a_fault(monkeypatch, wrong):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    exactness = importlib.import_module("on_gpu.exactness")
    learn = Population.learn

    def other(self, x_MB, y_MB, precision, smoothing=0.0):
        found = learn(self, x_MB, y_MB, precision, smoothing)
        if self.theta_MP.dtype != torch.float64 and wrong != "nothing":
            self.gradient_MP.copy_(-self.gradient_MP if wrong == "the sign" else torch.randn_like(self.gradient_MP))
        return found

    monkeypatch.setattr(Population, "learn", other)
    torch.manual_seed(0)
    (row,) = exactness.formats("bn", "mlp", device="cpu", steps=6, members=2)
    assert ("fault" in row) is (wrong != "nothing")
    if wrong != "nothing":
        assert all(f"{name}: the way is " in row["fault"] for name in exactness.FORMATS)


WORKERS = """
import json, os, sys, time
from pathlib import Path
from on_gpu.workers import Case, Workers
crash = Case("a crash", "os:_exit", {"status": 3})
cases = [crash, Case("an error", "os:fspath", {"path": 1}), Case("a hang", "signal:pause", {}, limit=0.3)]
done = Case("an answer", "json:loads", {"s": '[{"rate": 1.5}]'})
with Workers(2, False, Path("log")) as workers:
    os.kill(workers._free[-1].process.pid, 9)
    workers._free[-1].process.join()
    found = [each for each in workers.run([*cases, done, done], at_once=2, until=time.monotonic() + 60)]
    found += workers.run([done], at_once=1, until=time.monotonic())
print(json.dumps([[case.name, rows] for case, rows in found]))
"""


def test_a_case_that_crashes_or_hangs_costs_itself_alone(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(SCRIPTS), os.environ["PYTHONPATH"]])}
    ended = subprocess.run(
        [sys.executable, "-c", WORKERS], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    *found, last = json.loads(ended.stdout)
    assert last == ["an answer", None]
    faults = {name: rows[0].get("fault") for name, rows in found}
    assert faults == {
        "a crash": "its process died (exit code 3); see log",
        "an error": "TypeError: expected str, bytes or os.PathLike object, not int",
        "a hang": "not done after 0.3 s; killed",
        "an answer": None,
    }
    assert [rows for name, rows in found if name == "an answer"] == [[{"rate": 1.5}]] * 2
