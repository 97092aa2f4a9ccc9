"""Which runs have batch norm and max pooling by own kernels, and where that is told."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from conftest import SMALL_RUN, composed
from torch import Tensor, nn

from bnexp.config.compose import plain
from bnexp.experiment import machine
from bnexp.experiment import run as runs
from bnexp.experiment.machine import takes_own_kernels
from bnexp.experiment.setup import build
from bnexp.training.population import Population
from bnexp.training.precision import Precision
from bnexp.training.short_maps import ShortMaps

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def able(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that has all that Triton needs."""
    (tmp_path / "Python.h").touch()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(machine, "find_spec", lambda name: name)
    monkeypatch.setattr(machine.shutil, "which", lambda name: name if name == "gcc" else None)
    monkeypatch.setattr(machine.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))


@pytest.mark.parametrize(
    ("words", "device", "takes"),
    [
        (("precision=bf16",), GPU, True),
        (("precision=fp16",), GPU, True),
        (("precision=tf32",), GPU, False),
        (("precision=bf16", "compile=true"), GPU, False),
        (("precision=bf16",), torch.device("cpu"), False),
    ],
    ids=str,
)
def test_runs_in_16_bits_on_a_gpu_take_them(
    words: tuple[str, ...], device: torch.device, takes: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert takes_own_kernels(plain(composed(*SMALL_RUN, *words)), device) is takes
    assert not caplog.records


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
    assert not takes_own_kernels(plain(composed(*SMALL_RUN, "precision=bf16")), GPU)
    (record,) = caplog.records
    assert lacks in record.getMessage()


class Within(nn.Module):
    """A linear map that notes whether it runs inside ``ShortMaps``."""

    def __init__(self, noted: list[bool]) -> None:
        super().__init__()
        self.linear, self.note = nn.Linear(3, 2), lambda: noted.append(ShortMaps.depth > 0)

    def forward(self, x: Tensor) -> Tensor:
        self.note()
        return self.linear(x)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("short_maps", [False, True])
def test_only_learning_runs_inside(short_maps: bool, stacked: bool) -> None:
    noted: list[bool] = []
    population = Population([Within(noted) for _ in range(2)], stacked=stacked, short_maps=short_maps)
    x_MB, y_MB = torch.ones(2, 4, 3), torch.zeros(2, 4, dtype=torch.int64)
    population.learn(x_MB, y_MB, Precision("fp32", 2, torch.device("cpu")))
    assert set(noted) == {short_maps}
    noted.clear()
    population(x_MB)
    assert set(noted) == {False}


def test_run_json_names_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = build([plain(composed(*SMALL_RUN))], stacked=False)
    assert "triton" not in runs._executor(setup)
    setup.population.short_maps = True
    monkeypatch.setattr(runs, "version_of", {"triton": "3.6.0"}.get)
    assert runs._executor(setup)["triton"] == "3.6.0"
    monkeypatch.setattr(runs, "version_of", {}.get)  # as where its package has another name
    assert runs._executor(setup)["triton"] == "unknown"


def test_a_run_that_takes_them_learns_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for takes in (False, True):
        monkeypatch.setattr("bnexp.experiment.setup.takes_own_kernels", lambda config, device, takes=takes: takes)
        assert build([plain(composed(*SMALL_RUN))], stacked=False).population.short_maps is takes


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
