"""How many members fit into a GPU's memory: the arithmetic, the dry run, the parts, and on CUDA the forecast itself."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import pytest
import torch
from conftest import SMALL_RUN, composed

from bnexp.config.compose import plain
from bnexp.config.schema import TrainConfig, to_dict
from bnexp.experiment import dry_run, worker
from bnexp.training.population import Population


def configs(members: int, *words: str) -> list[TrainConfig]:
    return [plain(composed("norm=bn", "optim.lr=0.1", f"seed={seed}", *words)) for seed in range(members)]


def train(place: Path, members: int) -> list[str]:
    """Train a stack of one step as a child of a sweep does; how each member ended."""
    asked = enumerate(configs(members, *SMALL_RUN[:-2], "steps=1", "device=cpu"))
    jobs = [{"config": to_dict(config), "folder": str(place / str(row)), "name": str(row)} for row, config in asked]
    assert worker.train([{**job, "overrides": [], "notes": {}} for job in jobs], 1) == 0
    return [json.loads((place / str(row) / "run.json").read_text())["status"] for row in range(members)]


@pytest.mark.parametrize(("free", "fit"), [(0, 1), (150, 1), (190, 2), (219, 2), (220, 3), (1000, 29)])
def test_each_member_takes_what_the_third_one_adds(free, fit):
    assert dry_run.members_fitting(190, 220, free) == fit


@pytest.mark.parametrize(("members", "runs"), [(9, [2]), (10, [2, 3])])
def test_a_dry_run_of_two_is_enough_where_the_rest_would_fit_even_if_nothing_were_shared(monkeypatch, members, runs):
    tried: list[int] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2000))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(dry_run, "_peak", lambda given, device: tried.append(len(given)) or 190 + 30 * (len(given) - 2))
    assert dry_run.members_that_fit(configs(1, "device=cpu") * members, 1) == (members if runs == [2] else 25)
    assert tried == runs


@pytest.mark.parametrize("words", [(), ("norm=none", "init=normal", "init.std=1e20"), ("graph=true",)], ids=str)
def test_a_dry_run_ends_and_says_nothing(caplog, words):
    caplog.set_level("INFO", logger="bnexp")
    with dry_run._quiet():
        dry_run.dry_run(configs(3, *SMALL_RUN, "device=cpu", *words))
    assert caplog.messages == []


def test_a_dry_run_evaluates_in_the_formats_of_the_run(monkeypatch):
    """Else it would measure other kernels' memory."""
    formats: list[str] = []
    monkeypatch.setattr(dry_run, "evaluate", lambda *given: formats.append(torch.backends.cuda.matmul.fp32_precision))
    for precision in ("fp32", "bf16"):
        dry_run.dry_run(configs(2, *SMALL_RUN, "device=cpu", f"precision={precision}"))
    assert formats == ["ieee", "tf32"]


@pytest.fixture
def with_room_for(monkeypatch):
    """As if the device were a GPU with room for so many members: there is none here that could be full."""

    def pretend(fit: int | None) -> list[int]:
        asked: list[int] = []
        monkeypatch.setattr(worker, "pick_device", lambda name: torch.device("cuda"))
        monkeypatch.setattr(worker, "members_that_fit", lambda given, slots: asked.append(len(given)) or fit)
        return asked

    return pretend


@pytest.mark.parametrize(("fit", "sizes"), [(None, [7]), (7, [7]), (4, [3, 4]), (3, [2, 2, 3]), (1, [1] * 7)])
def test_members_that_do_not_fit_at_once_are_divided_evenly(tmp_path, with_room_for, capsys, fit, sizes):
    asked = with_room_for(fit)
    assert train(tmp_path, 7) == ["finished"] * 7
    assert asked == [7]
    assert (f"training groups of {', '.join(map(str, sizes))}, one after another\n" in capsys.readouterr().out) == (
        len(sizes) > 1
    )


def test_groups_that_train_one_after_another_are_in_the_memory_one_at_a_time(tmp_path, with_room_for, monkeypatch):
    born: list[weakref.ref[Population]] = []
    alive: list[int] = []
    begin = Population.__init__

    def watched(self: Population, *given: object, **how: object) -> None:
        alive.append(sum(each() is not None for each in born))
        born.append(weakref.ref(self))
        begin(self, *given, **how)

    monkeypatch.setattr(Population, "__init__", watched)
    with_room_for(2)
    gc.disable()  # it would come by chance
    try:
        assert train(tmp_path, 6) == ["finished"] * 6
    finally:
        gc.enable()
    assert len(alive) >= 3
    assert not any(alive)


@pytest.mark.parametrize("members", [1, 2])
def test_few_members_need_no_dry_run(tmp_path, with_room_for, members):
    asked = with_room_for(1)
    assert train(tmp_path, members) == ["finished"] * members
    assert asked == []


def test_on_a_cpu_nothing_is_divided(tmp_path, capsys):
    assert train(tmp_path, 3) == ["finished"] * 3
    assert "one after another" not in capsys.readouterr().out


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("graph", [False, True])
def test_as_many_members_as_the_forecast_says_do_fit(graph):
    many = configs(64, "model=lenet", "device=cuda", f"graph={graph}")
    device = torch.device("cuda")
    two, three = (dry_run._peak(many[:members], device) for members in (2, 3))
    limit = two + 20 * (three - two)
    fit = dry_run.members_fitting(two, three, 0.9 * limit)
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(device).total_memory)
    try:
        dry_run._forget()
        dry_run.dry_run(many[:fit])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert fit >= 10


def test_a_measurement_that_fails_says_why(monkeypatch, caplog):
    def full(given, device):
        raise RuntimeError("the device is\nfull")

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 1000))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(dry_run, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(dry_run, "_peak", full)
    assert dry_run.members_that_fit(configs(3, *SMALL_RUN), slots=1) is None
    assert caplog.messages == [
        "how many members fit into the memory cannot be measured (RuntimeError: the device is full); "
        "all are tried at once"
    ]
