"""The engine of this machine, without processes: its slots when the fork server dies."""

from __future__ import annotations

import pytest

from bnexp.sweep.engine import EngineDiedError, Task
from bnexp.sweep.fork_server import ForkServer
from bnexp.sweep.local import Local


class Dying(ForkServer):
    """Forks its first tasks, and has died when it is asked for more or for news."""

    def __init__(self, forks: int) -> None:
        self.forks = forks

    def fork(self, *given, **more) -> None:
        self.forks -= 1
        if self.forks < 0:
            raise EngineDiedError

    def ended(self, timeout: float) -> list[tuple[int, int]]:
        raise EngineDiedError


@pytest.fixture
def tasks(tmp_path):
    return [Task(number, {}, tmp_path / "log", tmp_path, "cpu", 1) for number in (0, 1)]


def test_all_slots_are_free_when_the_server_has_died_at_a_request(tasks):
    engine = Local(Dying(1), [{}, {}])
    with pytest.raises(EngineDiedError):
        engine.submit(tasks)
    assert engine.room() == 2


def test_all_slots_are_free_when_the_server_has_died_while_tasks_ran(tasks):
    engine = Local(Dying(2), [{}, {}])
    engine.submit(tasks)
    assert engine.room() == 0
    with pytest.raises(EngineDiedError):
        engine.poll(0.0)
    assert engine.room() == 2
