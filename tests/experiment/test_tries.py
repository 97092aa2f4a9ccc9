"""How many kernels cuDNN tries depends on the length of the run, and a loaded run leaves the process as it was."""

from __future__ import annotations

import pytest
import torch
from conftest import SMALL_RUN, composed

from bnexp.config.compose import plain
from bnexp.experiment import machine, trained
from bnexp.experiment.check import check

CUDNN = torch.backends.cudnn


@pytest.fixture(autouse=True)
def _tries(monkeypatch):
    """As on a GPU, where cuDNN is let to try kernels."""
    monkeypatch.setattr(CUDNN, "benchmark", True)
    monkeypatch.setattr(CUDNN, "benchmark_limit", 7)
    monkeypatch.setattr("bnexp.experiment.check.prepare_machine", lambda config: torch.device("cpu"))


@pytest.mark.parametrize(("steps", "tries"), [(1, 3), (4999, 3), (5000, 10)])
def test_a_short_run_has_few_kernels_tried(steps, tries):
    check([plain(composed(*SMALL_RUN, f"steps={steps}"))])
    assert CUDNN.benchmark_limit == tries


def test_nothing_is_set_where_none_are_tried(monkeypatch):
    monkeypatch.setattr(CUDNN, "benchmark", False)
    machine.limit_tries(1)
    assert CUDNN.benchmark_limit == 7


def test_a_loaded_run_leaves_the_process_as_it_was():
    with trained._process_kept(torch.device("cpu")):
        check([plain(composed(*SMALL_RUN, "steps=1"))])
        CUDNN.benchmark = False
        assert CUDNN.benchmark_limit == 3
    assert (CUDNN.benchmark, CUDNN.benchmark_limit) == (True, 7)


def test_a_run_that_is_loaded_on_a_cpu_asks_no_gpu_for_its_random_numbers(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    asked: list[int] = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", asked.append)
    with trained._process_kept(torch.device("cpu")):
        pass
    assert asked == []
