"""Which jobs train as one population, on which machine; and how many jobs share a GPU."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import SMALL_RUN, composed

from bnexp.config.compose import plain
from bnexp.config.schema import shape, to_dict
from bnexp.stopping import Stop
from bnexp.sweep import plan as plans
from bnexp.sweep.options import options
from bnexp.sweep.plan import Entry, entries
from bnexp.sweep.preflight import preflight, processes_fitting
from bnexp.sweep.stacking import Stacking

GIVEN = {"jobs": "auto", "slots_per_gpu": 1, "timeout_s": None, "grace_s": 1.0, "max_failures": None}


def config(**changes):
    optim = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0} | changes.pop("optim", {})
    base = {"norm": {"name": "bn"}, "optim": optim, "init": {"gain": 1.0}, "seed": 0, "compile": False, "device": "cpu"}
    return base | changes


def numbered(made: list[Entry], **how) -> list[list[int]]:
    """The numbers of the jobs of each task."""
    given = {key: how.pop(key) for key in ("stack", "max_stack") if key in how}
    stacking = Stacking(options(GIVEN | given), **how)
    return [[made.index(entry) for entry in group] for group in stacking.groups(made)]


def seeds(count: int, **changes) -> list[Entry]:
    return entries(([f"seed={seed}"], config(seed=seed, **changes)) for seed in range(count))


def test_what_is_stacked():
    configs = [
        config(),
        config(norm={"name": "gn"}),
        config(seed=1),
        config(optim={"lr": 1.0, "momentum": 0.0}),
        config(batch_size=3),
        config(init={"gain": 2.0}),
        config(compile=True),
        config(compile=True, seed=2),
    ]
    made = list(entries(([f"tag={number}"], given) for number, given in enumerate(configs)))
    cannot = {shape(configs[6]): "it cannot"}
    assert numbered(made, stack=True, unstackable=cannot) == [[0, 2, 3, 5], [1], [4], [6], [7]]
    assert numbered(made, stack=True, max_stack=3, unstackable=cannot) == [[0, 2], [3, 5], [1], [4], [6], [7]]
    assert numbered(made, stack=False) == [[number] for number in range(8)]
    stacking = Stacking(options(GIVEN | {"stack": True}), unstackable=cannot)
    assert [stacking.reason(entry) for entry in made] == [None] * 6 + ["it cannot"] * 2


@pytest.mark.parametrize(
    ("device", "gpus", "is_stacked"), [("cpu", 1, False), ("auto", 0, False), ("auto", 1, True), ("cuda", 0, True)]
)
def test_auto_stacks_on_a_gpu(device, gpus, is_stacked):
    made = seeds(3, device=device)
    assert numbered(made, stack="auto", gpus=gpus) == ([[0, 1, 2]] if is_stacked else [[0], [1], [2]])


@pytest.mark.parametrize(("at_once", "sizes"), [(1, [6, 3]), (2, [3, 3, 3]), (4, [3, 3, 3]), (100, [1] * 9)])
def test_stacks_keep_all_that_computes_busy(at_once, sizes):
    made = seeds(9, norm={"name": "ln"})
    for entry in made[6:]:
        entry.config["batch_size"] = 3
    assert [len(group) for group in numbered(made, stack=True, at_once=at_once)] == sizes


def test_a_job_that_has_begun_keeps_its_stack():
    made = seeds(8)
    for number, (stack, state) in enumerate(
        [("a", "interrupted"), ("", "failed"), ("a", "interrupted"), ("b", "waiting")]
    ):
        made[number].stack, made[number].state = stack, state
    assert numbered(made, stack=True) == [[0, 2], [1], [3, 4, 5, 6, 7]]
    assert numbered(made, stack=False) == [[0, 2], [1], [3], [4], [5], [6], [7]]


@pytest.mark.parametrize(
    ("old", "stack"),
    [
        ({"executor": "auto", "max_stack": 1}, False),
        ({"executor": "auto", "max_stack": 64}, "auto"),
        ({"executor": "stacked", "max_stack": 8}, True),
        ({"executor": "one_by_one", "max_stack": 8}, False),
        ({}, False),
    ],
    ids=str,
)
def test_a_sweep_of_a_version_with_executors_is_read(tmp_path, old, stack):
    plans.Plan(tmp_path, [], options(GIVEN), seeds(0)).write()
    path = tmp_path / "sweep.json"
    saved = json.loads(path.read_text())
    del saved["launcher"]["stack"], saved["launcher"]["max_stack"]
    plans.sweep_json.write(tmp_path, saved | {"launcher": saved["launcher"] | old})
    read = plans.read(tmp_path).options
    assert (read.stack, read.max_stack) == (stack, old.get("max_stack", 64))


# --- jobs that share a GPU --------------------------------------------------------------------------------------------


class Answers:
    """A fork server whose children say what a GPU would."""

    def __init__(self, gpus: int, measured: str, code: int = 0) -> None:
        self.gpus, self.measured, self.code, self.calls = gpus, measured, code, []

    def fork(self, number: int, call: str, given, *, log: str, env) -> None:
        self.calls.append(call)
        size = {"operations": 1, "saved": 1, "unstackable": None}
        shapes = {shape(each): size for each in given.get("configs", ())}
        found = {"faults": {}, "gpus": self.gpus, "modules": [], "data": [], "shapes": shapes}
        Path(log).write_text(self.measured if call == "measure" else json.dumps(found))

    def ended(self, timeout_s: float) -> list[tuple[int, int]]:
        return [(0, self.code if self.calls[-1] == "measure" else 0)]

    def load(self, modules) -> None: ...
    def keep(self, data) -> None: ...
    def revive(self) -> None: ...


@pytest.fixture
def six_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6), raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def ready(server: Answers, many: int, **given):
    found = plain(composed(*SMALL_RUN))
    todo = entries(([f"seed={seed}"], to_dict(found) | {"seed": seed}) for seed in range(many))
    return preflight(server, todo, options(GIVEN | {"slots_per_gpu": "auto"} | given), Stop())


def test_as_many_jobs_share_a_gpu_as_fit(six_cores, capsys):
    server = Answers(1, json.dumps({"job": 2**30, "free": 4 * 2**30}))
    found = ready(server, 9)
    assert (found.per_gpu, len(found.slots)) == (3, 3)
    said = "3 jobs share a GPU (a job needs 1.0 of 4.0 GiB, 6 cores a GPU); hydra.launcher.slots_per_gpu sets it\n"
    assert capsys.readouterr().err == said


def test_what_cannot_be_measured_is_told_and_a_gpu_has_one_job(six_cores, capsys):
    found = ready(Answers(1, "bnexp: the GPU is full", code=2), 9)
    assert (found.per_gpu, len(found.slots)) == (1, 1)
    assert capsys.readouterr().err.startswith(
        "one job a GPU, because what a job needs cannot be measured (the GPU is f"
    )


@pytest.mark.parametrize(("gpus", "jobs", "given"), [(0, 9, {}), (1, 9, {"stack": "auto"}), (2, 2, {})], ids=str)
def test_nothing_is_measured_where_it_would_not_matter(six_cores, gpus, jobs, given):
    server = Answers(gpus, "")
    assert ready(server, jobs, **given).per_gpu == 1
    assert server.calls == ["check"]


@pytest.mark.parametrize(
    ("gpus", "given", "slots", "share"),
    [
        (1, {"jobs": 4}, 4, 4),
        (2, {"jobs": 3}, 3, 2),
        (2, {"slots_per_gpu": 3}, 6, 3),
        (1, {"jobs": 4, "stack": True}, 4, 1),  # there is one stack
        (0, {"jobs": 4}, 4, 1),
    ],
    ids=str,
)
def test_jobs_that_are_asked_for_plan_with_their_share_of_a_gpu(six_cores, gpus, given, slots, share):
    """Else each of several stacks would take all of the memory."""
    server = Answers(gpus, "")
    found = ready(server, 9, **{"stack": False, **given})
    assert (len(found.slots), found.per_gpu) == (slots, share)
    assert server.calls == ["check"]


@pytest.mark.parametrize(("cores", "jobs", "many"), [(16, 16, 9), (4, 16, 4), (16, 2, 2), (16, 0, 1)])
def test_cores_and_jobs_limit_too(cores, jobs, many):
    assert processes_fitting(1000, 10_000, cores=cores, jobs=jobs) == many
    assert processes_fitting(20_000, 10_000, cores=cores, jobs=jobs) == 1
