"""Which jobs of a sweep train as one population."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bnexp.config.schema import shape
from bnexp.memory import even_parts
from bnexp.sweep.options import Options
from bnexp.sweep.plan import Entry


@dataclass(frozen=True)
class Stacking:
    """How jobs are grouped.

    Attributes:
        options: the sweep's; see ``stack`` and ``max_stack`` there.
        gpus: GPUs that jobs with ``device=auto`` find on this machine.
        at_once: tasks that compute at the same time: stacks are made no larger than keeps so many busy.
        unstackable: shape of configs (``config.schema.shape``) -> why jobs of this shape train alone.
    """

    options: Options
    gpus: int = 0
    at_once: int = 1
    unstackable: Mapping[str, str] = field(default_factory=dict)

    def wanted(self, entry: Entry) -> bool:
        """True if the job is to be stacked, if that is possible."""
        if self.options.stack != "auto":
            return self.options.stack
        device = entry.config["device"]
        return device.startswith("cuda") or (device == "auto" and self.gpus > 0)

    def reason(self, entry: Entry) -> str | None:
        """Why a job trains alone that is to be stacked, or None."""
        return self.unstackable.get(shape(entry.config)) if self.wanted(entry) else None

    def groups(self, jobs: Iterable[Entry]) -> list[list[Entry]]:
        """The jobs of each task, in the order of their first members.

        A job that has begun keeps the members that it began with, as far as these are to run again: in another stack
        its last bits would be others.
        """
        jobs = list(jobs)
        new = [entry for entry in jobs if not _has_begun(entry)]
        alike: dict[str, list[Entry]] = {}
        for entry in jobs:
            alike.setdefault(self._key(entry), []).append(entry)
        together = [entry for entry in new if self._key(entry) != entry.name]
        most = min(self.options.max_stack, max(1, -(-len(together) // self.at_once)))
        parts = ([group] if _has_begun(group[0]) else even_parts(group, most) for group in alike.values())
        return [part for group in parts for part in group]

    def _key(self, entry: Entry) -> str:
        """Equal for jobs of one stack; the job's name if it trains alone."""
        if _has_begun(entry):
            return f"stack of {entry.stack}" if entry.stack else entry.name
        return shape(entry.config) if self.wanted(entry) and self.reason(entry) is None else entry.name


def _has_begun(entry: Entry) -> bool:
    return entry.stack is not None and entry.state not in ("waiting", "refused")
