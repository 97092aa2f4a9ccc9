"""Checkpoints that are written while the training goes on, as on a GPU."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import SMALL_RUN, composed

from bnexp.config.compose import plain
from bnexp.experiment import run as runs
from bnexp.experiment.folder import StorageFailedError
from bnexp.experiment.job import Job
from bnexp.experiment.writers import Writers
from bnexp.runs import checkpoint, run_json

WORDS = (
    *(*SMALL_RUN, "norm=bn", "optim.momentum=0.9", "data.validation=0.2", "eval_every=4", "checkpoint_every=4"),
    *("checkpoint_best=true", "stop_after=9"),
)


class Slow:
    """Saves checkpoints only when it is told to."""

    def __init__(self) -> None:
        self.go, self.saved = threading.Event(), list[int]()

    def __call__(self, folder: Path, state: checkpoint.State, *given: object, **keywords: bool) -> None:
        assert self.go.wait(30)
        self.saved.append(state["step"])
        _save(folder, state, *given, **keywords)


_save = checkpoint.save


@pytest.fixture
def ahead(monkeypatch):
    monkeypatch.setattr(runs, "Writers", lambda **given: Writers(ahead=True))


def jobs(folder: Path, members: int) -> list[Job]:
    return [Job(plain(composed(*WORDS, f"seed={seed}")), folder / str(seed), "test") for seed in range(members)]


def test_each_thread_begins_on_the_gpu_that_trains(monkeypatch):
    began, device = dict[int, torch.device](), torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: began.update({threading.get_ident(): device}))
    with runs._writers(device) as writers:
        used = writers.each(lambda row: threading.get_ident(), range(4))
    assert set(used) <= began.keys()
    assert set(began.values()) == {device}
    assert threading.get_ident() not in began


def test_what_is_done_later_is_done_by_the_next_wait():
    go, done = threading.Event(), list[int]()

    def work(row: int) -> None:
        assert go.wait(30)
        done.append(row)

    with Writers(ahead=True) as writers:
        writers.later(work, [1, 2])
        assert done == []
        go.set()
        writers.wait()
        assert sorted(done) == [1, 2]
        writers.later(lambda row: done.append(row), [3])
    assert sorted(done) == [1, 2, 3]  # the end waits, too
    with Writers(ahead=False) as writers:
        writers.later(lambda row: done.append(row), [4])
        assert done[-1] == 4


def _later(writers: Writers, work: Callable[[int], None], rows: list[int]) -> None:
    writers.later(work, rows)
    writers.wait()


def test_an_error_is_raised_when_all_have_ended():
    """Else files would be closed while another thread writes into them."""
    ended = list[int]()

    def work(row: int) -> None:
        if row == 0:
            raise OSError(errno.ENOSPC, "full")
        time.sleep(0.1)
        ended.append(row)

    for ahead in (True, False):
        with Writers(ahead=ahead) as writers:
            with pytest.raises(OSError, match="full"):
                _later(writers, work, [0, 1, 2])
            assert sorted(ended) == [1, 2]
            with pytest.raises(OSError, match="full"):
                writers.each(work, [0, 3])
            assert sorted(ended) == [1, 2, 3]
            writers.wait()  # it is told once
        ended.clear()


def test_what_could_not_be_written_is_told_though_the_training_has_failed(caplog):
    def full(row: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    def fail(writers: Writers) -> None:
        with writers:
            writers.later(full, [0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail(Writers(ahead=True))
    assert [each.getMessage() for each in caplog.records] == ["a checkpoint could not be written: [Errno 28] full"]


@pytest.mark.parametrize("members", [1, 20])  # 20 are more than there are threads
def test_the_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch, ahead, members):
    slow = Slow()
    monkeypatch.setattr(checkpoint, "save", slow)
    steps = iter(range(100))

    def stop() -> bool:
        step = next(steps) + 1
        if step == 7:  # three steps after the first checkpoint was due, and one before the next
            assert slow.saved == []
            slow.go.set()
        return False

    found = runs.run(jobs(tmp_path, members), stop=stop, stacked=members > 1)
    assert [each.status for each in found] == ["finished"] * members
    assert sorted(set(slow.saved)) == [4, 8, 12, 16, 20, 21]
    state = checkpoint.load(tmp_path / "0")
    assert state is not None
    assert state["step"] == run_json.read(tmp_path / "0")["step"] == 21


def test_stopped_and_resumed_it_is_the_undisturbed_run(tmp_path, ahead):
    runs.run(jobs(tmp_path / "whole", 1), stop=lambda: False)
    for steps in (3, 4, 6, 100):
        left = iter(range(steps))
        runs.run(jobs(tmp_path / "run", 1), stop=lambda left=left: next(left, None) is None)
    whole, again = (tmp_path / name / "0" for name in ("whole", "run"))
    assert (whole / "metrics.csv").read_bytes() == (again / "metrics.csv").read_bytes()
    for load in (checkpoint.load, checkpoint.load_best):
        assert checkpoint.digest(load(whole)) == checkpoint.digest(load(again))


def test_a_disk_that_is_full_ends_the_run_at_the_next_checkpoint(tmp_path, monkeypatch, ahead):
    def full(folder: Path, state: checkpoint.State, *given: object, **keywords: bool) -> None:
        if state["step"] > 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder))
        _save(folder, state, *given, **keywords)

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(StorageFailedError, match="No space left"):
        runs.run(jobs(tmp_path, 1), stop=lambda: False)
    assert run_json.read(tmp_path / "0")["status"] == "interrupted"
    monkeypatch.setattr(checkpoint, "save", _save)
    assert runs.run(jobs(tmp_path, 1), stop=lambda: False)[0].status == "finished"
