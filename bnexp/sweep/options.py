"""How a sweep's jobs are run; the results do not depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, get_type_hints

from bnexp.config.checks import OneOf, Positive, Range, checked

EXECUTORS = ("auto", "stacked", "one_by_one")


@dataclass(frozen=True)
class Options:
    """The options of ``hydra/launcher=local`` and ``stacked``; their default values are in the yaml files.

    Attributes:
        jobs: processes at the same time; auto means one per CPU core, or ``slots_per_gpu`` per GPU.
        slots_per_gpu: jobs that share a GPU.
        timeout_s: seconds that one try of a job may take.
        grace_s: seconds between asking a job to save and killing it.
        max_failures: number of failed jobs after which no more jobs start.
        max_stack: the most jobs that train as one population; 1 stacks nothing.
        executor: how a population computes, see ``Population``; auto means stacked on a GPU, one by one on a CPU.
        skip_invalid: run the other jobs where the configs of some are impossible (``hydra.sweeper.skip_invalid``).
        drawn: the settings that a random sweep has drawn, if there are validation images to choose a draw by.
    """

    jobs: Any
    slots_per_gpu: Positive
    timeout_s: Annotated[float | None, Range(above=0)]
    grace_s: Annotated[float, Range(least=0)]
    max_failures: Annotated[int | None, Range(least=1)]
    max_stack: Positive = 1
    executor: Annotated[str, OneOf(EXECUTORS)] = "auto"
    skip_invalid: bool = False
    drawn: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The options as plain Python values, ready for JSON."""
        return asdict(self)


def options(given: Mapping[str, Any]) -> Options:
    """Check options and return them as an object.

    Raises:
        ValueError: an option is unknown, missing, of the wrong type or out of range.
    """
    hints = get_type_hints(Options, include_extras=True)
    missing = [name for name in _REQUIRED if name not in given]
    for name in [*missing, *(name for name in given if name not in hints)]:
        raise ValueError(f"hydra.launcher.{name}: {'missing' if name in missing else 'there is no such setting'}")
    values = {
        name: checked(f"hydra.launcher.{name}", value, hints[name]) for name, value in given.items() if name != "jobs"
    }
    return Options(jobs=_jobs(given["jobs"]), **values)


_REQUIRED = ("jobs", "slots_per_gpu", "timeout_s", "grace_s", "max_failures")


def _jobs(given: Any) -> Any:
    return (
        given if given == "auto" else checked("hydra.launcher.jobs", given, Annotated[int, Range(least=1, most=10_000)])
    )
