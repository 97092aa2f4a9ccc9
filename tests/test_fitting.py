"""How many members fit into a GPU's memory: the arithmetic, the parts, and on CUDA the forecast itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import SMALL_RUN, composed

from bnexp.composing import plain
from bnexp.experiment import Job
from bnexp.sweep import fitting, worker


def configs(members: int, *words: str):
    return [plain(composed(*SMALL_RUN, "norm=bn", "optim.lr=0.1", f"seed={seed}", *words)) for seed in range(members)]


@pytest.mark.parametrize(("free", "fit"), [(100, 1), (129, 1), (130, 2), (700, 21), (10_000, 64), (0, 1)])
def test_each_member_takes_what_the_second_one_adds(free, fit):
    asked = []

    def peak(members):
        asked.append(members)
        return 70 + 30 * members

    assert fitting._fitting(peak, free, wanted=64) == fit
    assert asked == [1, 2]


def test_where_two_do_not_fit_they_train_one_after_another():
    def peak(members):
        if members == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 100

    assert fitting._fitting(peak, 1000, wanted=64) == 1


def test_the_dry_run_sees_what_members_take():
    few, many = (fitting._peak(configs(members, "model.width=400")) for members in (2, 26))
    parameters = 24 * (64 * 400 + 400 * 400) * 4
    assert many - few > 2 * parameters  # with their gradients at least


@pytest.mark.parametrize(("fit", "sizes"), [(7, [7]), (4, [3, 4]), (3, [2, 2, 3]), (1, [1] * 7)])
def test_members_that_do_not_fit_at_once_are_divided_evenly(monkeypatch, capsys, fit, sizes):
    monkeypatch.setattr(worker, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(worker, "members_that_fit", lambda asked: fit)
    jobs = [Job(config, Path(str(row)), str(row)) for row, config in enumerate(configs(7))]
    parts = worker._parts(jobs, "stacked")
    assert [len(part) for part in parts] == sizes
    assert [job for part in parts for job in part] == jobs
    said = f"one after another {', '.join(map(str, sizes))}" if len(sizes) > 1 else ""
    assert said in capsys.readouterr().out


def test_on_a_cpu_nothing_is_divided():
    jobs = [Job(config, Path(str(row)), str(row)) for row, config in enumerate(configs(3))]
    assert worker._parts(jobs, "stacked") == [jobs]
    assert worker._parts([], "auto") == [[]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("graph", [False, True])
def test_the_forecast_of_many_members_is_what_they_take(graph):
    many = configs(32, "model=lenet", "data.size=28", "device=cuda", f"graph={graph}")
    one, two, all_of_them = (fitting._peak(many[:members]) for members in (1, 2, 32))
    assert one + 31 * (two - one) == pytest.approx(all_of_them, rel=0.25)
    assert 1 <= fitting.members_that_fit(many) <= 32
