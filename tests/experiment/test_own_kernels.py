"""Which runs have kernels of bnexp's own, and where that is told."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from conftest import SMALL_RUN, composed
from interpreter import DEVICE, where_triton_runs
from torch import Tensor, nn

from bnexp.config.compose import plain
from bnexp.config.schema import TrainConfig
from bnexp.experiment import machine
from bnexp.experiment import run as runs
from bnexp.experiment import setup as setups
from bnexp.experiment.dry_run import dry_run
from bnexp.experiment.job import Job
from bnexp.experiment.machine import _fails_in_triton, own_kernels
from bnexp.experiment.run import run
from bnexp.experiment.setup import build
from bnexp.runs import checkpoint
from bnexp.training.kernels import own_kernels as own
from bnexp.training.kernels.own_kernels import OwnKernels
from bnexp.training.population import Population
from bnexp.training.precision import Precision

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def able(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that has all that Triton needs."""
    (tmp_path / "Python.h").touch()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(machine, "find_spec", lambda name: name)
    monkeypatch.setattr(machine.shutil, "which", lambda name: name if name == "gcc" else None)
    monkeypatch.setattr(machine.sysconfig, "get_default_scheme", lambda: "posix_local")
    monkeypatch.setattr(
        machine.sysconfig, "get_path", lambda *asked: {("include", "posix_prefix"): str(tmp_path)}[asked]
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(machine, "_fails_in_triton", lambda device: None)


@pytest.mark.parametrize(
    ("words", "device", "stacked", "takes"),
    [
        (("precision=bf16",), GPU, False, True),
        (("precision=fp16",), GPU, True, True),
        (("precision=tf32",), GPU, True, True),
        (("precision=tf32",), GPU, False, False),
        (("precision=fp32",), GPU, True, True),
        (("precision=fp32",), GPU, False, False),
        (("precision=fp64",), GPU, True, False),
        (("precision=bf16", "compile=true"), GPU, True, False),
        (("precision=bf16",), torch.device("cpu"), True, False),
    ],
    ids=str,
)
def test_runs_on_a_gpu_take_them_in_formats_that_there_are_some_for(
    words: tuple[str, ...], device: torch.device, stacked: bool, takes: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found = own_kernels(plain(composed(*SMALL_RUN, *words)), device, stacked=stacked)
    assert (found is not None) is takes
    assert found is None or found.timed
    assert not caplog.records


def test_times_decide_nothing_in_a_deterministic_run() -> None:
    deterministic = (*SMALL_RUN, "deterministic=true")
    kernels = own_kernels(plain(composed(*deterministic, "precision=bf16")), GPU, stacked=True)
    assert kernels is not None
    assert not kernels.timed
    assert own_kernels(plain(composed(*deterministic, "precision=tf32")), GPU, stacked=True) is None


@pytest.mark.parametrize("lacks", ["the package triton", "a C compiler", "header files", "compute capability 8.0"])
def test_what_a_machine_lacks_is_told(
    lacks: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    if lacks == "the package triton":
        monkeypatch.setattr(machine, "find_spec", lambda name: None)
    elif lacks == "a C compiler":
        monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    elif lacks == "header files":
        (tmp_path / "Python.h").unlink()
    else:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert own_kernels(plain(composed(*SMALL_RUN, "precision=bf16")), GPU, stacked=False) is None
    (record,) = caplog.records
    assert lacks in record.getMessage()


def test_a_triton_that_compiles_nothing_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def compiled(*given: object, **how: object) -> None:
        raise PermissionError(13, "Permission denied", "/home/someone/.triton")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(machine, "_fails_in_triton", lambda device: _fails_in_triton(torch.device("cpu")))
    monkeypatch.setattr(machine.own_updates, "sgd", compiled)
    assert own_kernels(plain(composed(*SMALL_RUN, "precision=bf16")), GPU, stacked=False) is None
    assert caplog.messages == [
        "precision=bf16: all kernels are torch's, for want of a Triton that works "
        "(PermissionError: [Errno 13] Permission denied: '/home/someone/.triton')"
    ]


@where_triton_runs
def test_a_triton_that_works_is_tried_by_a_kernel_of_bnexps() -> None:
    assert _fails_in_triton(torch.device(DEVICE)) is None


class Within(nn.Module):
    """A linear map that notes whether it runs inside ``OwnKernels``."""

    def __init__(self, noted: list[bool]) -> None:
        super().__init__()
        self.linear, self.note = nn.Linear(3, 2), lambda: noted.append(OwnKernels.current is not None)

    def forward(self, x: Tensor) -> Tensor:
        self.note()
        return self.linear(x)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("kernels", [None, OwnKernels()], ids=["torch's", "own"])
def test_learning_runs_inside_and_a_plain_call_does_not(kernels: OwnKernels | None, stacked: bool) -> None:
    noted: list[bool] = []
    population = Population([Within(noted) for _ in range(2)], stacked=stacked, own_kernels=kernels)
    x_MB, y_MB = torch.ones(2, 4, 3), torch.zeros(2, 4, dtype=torch.int64)
    population.learn(x_MB, y_MB, Precision("fp32", 2, torch.device("cpu")))
    assert set(noted) == {kernels is not None}
    noted.clear()
    population(x_MB)
    assert set(noted) == {False}


def test_run_json_names_triton_and_the_kernels_that_times_have_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = build([plain(composed(*SMALL_RUN))], stacked=False)
    assert "triton" not in runs._executor(setup)
    setup.population.own_kernels = OwnKernels()
    monkeypatch.setattr(runs, "version_of", {"triton": "3.6.0"}.get)
    assert runs._executor(setup) == {"stacked": 1, "graph": False, "triton": "3.6.0", "timed": True}
    setup.population.own_kernels.chosen["a layer"] = "own"
    assert runs._executor(setup)["kernels"] == {"a layer": "own"}
    monkeypatch.setattr(runs, "version_of", {}.get)  # as where its package has another name
    assert runs._executor(setup)["triton"] == "unknown"


@pytest.mark.parametrize("stacked", [False, True])
def test_a_run_that_takes_them_learns_with_them(stacked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    found = OwnKernels()
    monkeypatch.setattr(setups, "own_kernels", lambda config, device, *, stacked: asked.append(stacked) or found)
    for members in (1, 2):
        configs = [plain(composed(*SMALL_RUN, f"seed={seed}")) for seed in range(members)]
        assert build(configs, stacked=stacked).population.own_kernels is found
    assert asked == [False, stacked]


class Choosing(OwnKernels):
    """Has chosen in its first step, as times do on a GPU."""

    def __enter__(self) -> Self:
        self.chosen.setdefault("a layer", "own")
        return super().__enter__()


def test_choices_are_in_run_json_before_the_first_checkpoint_and_taken_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[OwnKernels] = []

    def kernels(config: TrainConfig, device: torch.device, *, stacked: bool) -> OwnKernels:
        made.append(Choosing())
        return made[-1]

    monkeypatch.setattr(setups, "own_kernels", kernels)
    monkeypatch.setattr(own, "quickest", lambda layer, ways, rounding: "torch")
    job = Job(plain(composed(*SMALL_RUN, "checkpoint_every=2")), tmp_path / "run", "run")
    save, seen = checkpoint.save, list[object]()

    def saved(folder: Path, *given: Any, **how: Any) -> None:
        seen.append(json.loads((folder / "run.json").read_text())["executor"].get("kernels"))
        save(folder, *given, **how)

    monkeypatch.setattr(checkpoint, "save", saved)
    steps = itertools.count(1)
    run([job], stop=lambda: next(steps) == 5)
    update = {"update by SGD, 1 x 1408": "torch"}
    assert seen[0] == {"a layer": "own"} | update
    document = json.loads((job.folder / "run.json").read_text())
    del document["digest"]  # a change that is meant
    document["executor"]["kernels"] = {"a layer": "torch"} | update
    (job.folder / "run.json").write_text(json.dumps(document))
    run([job], stop=lambda: False)
    assert made[-1].chosen == {"a layer": "torch"} | update
    assert made[-1].timed
    assert json.loads((job.folder / "run.json").read_text())["executor"]["kernels"] == made[-1].chosen


def test_a_run_that_began_before_there_was_a_choice_goes_on_without_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job, steps = Job(plain(composed(*SMALL_RUN, "checkpoint_every=2")), tmp_path / "run", "run"), itertools.count(1)
    run([job], stop=lambda: next(steps) % 5 == 0)
    for _ in range(2):  # also after it has taken a kernel that is not timed, as those of maps in 16 bits
        kernels = Choosing()
        monkeypatch.setattr(setups, "own_kernels", lambda config, device, *, stacked, kernels=kernels: kernels)
        run([job], stop=lambda: next(steps) % 5 == 0)
        assert not kernels.timed
        assert kernels.chosen == {"a layer": "own"}


def test_a_dry_run_times_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its two members could take other kernels than its three."""
    kernels = OwnKernels()
    monkeypatch.setattr(setups, "own_kernels", lambda config, device, *, stacked: kernels)
    dry_run([plain(composed(*SMALL_RUN, f"seed={seed}")) for seed in range(2)])
    assert not kernels.timed


def test_evaluations_during_training_have_them() -> None:
    noted: list[bool] = []
    for kernels in (None, OwnKernels()):
        setup = build([plain(composed(*SMALL_RUN))], stacked=False)
        setup.population.own_kernels = kernels
        setup.population.members[0].register_forward_pre_hook(lambda *_: noted.append(OwnKernels.current is not None))
        setup.evaluate()
        assert set(noted) == {kernels is not None}
        noted.clear()
        setup.compare_statistics(None)  # bnexp evaluate
        assert set(noted) == {False}
        noted.clear()


def test_only_evaluations_of_a_run_in_16_bits_have_tf32_products() -> None:
    setup, seen = build([plain(composed(*SMALL_RUN, "precision=bf16"))], stacked=False), set[str]()
    setup.population.members[0].register_forward_pre_hook(
        lambda *_: seen.add(torch.backends.cuda.matmul.fp32_precision)
    )
    setup.population.learn(*setup.training.batches(0), setup.training.precision)
    assert seen == {"ieee"}
    seen.clear()
    setup.evaluate()
    assert seen == {"tf32"}


def test_a_gpu_that_is_named_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recordings, events and Triton would use the first one."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    tries = torch.backends.cudnn.benchmark
    try:
        for device in ("cuda", "cuda:1", "cpu"):
            machine.prepare_machine(plain(composed(*SMALL_RUN, f"device={device}")))
    finally:
        torch.backends.cudnn.benchmark = tries
    assert chosen == [torch.device("cuda:1")]
