"""Goes on with a run whose length has changed, so that it ends as if it had always had that length.

A run measures its last step although its cadences may not: a longer run has no such points. They are removed, and they
leave no trace in what a checkpoint holds: ``Progress.take`` keeps its sums there, and ``Observer`` the probes' memory.
Everything is done again if the process dies in it: until the last line of ``seal`` the checkpoint has the hash of the
former config.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bnexp.config.schema import TrainConfig, config_hash, to_dict
from bnexp.experiment.choices import bind
from bnexp.experiment.job import Job
from bnexp.experiment.setup import Setup
from bnexp.norms import NORMS
from bnexp.runs import checkpoint, events, longer, metrics, run_json
from bnexp.runs.logbook import SPEED, Logbook, hparams, trained


def require_length(job: Job, steps: int) -> None:
    """Refuse to change the length of a job's run to a number of steps; see ``require_same_beginning``."""
    if job.longer:
        require_same_beginning(job.config, steps, [each["steps"] for each in former(job)])


def require_same_beginning(config: TrainConfig, steps: int, former: Iterable[int]) -> None:
    """Refuse to change the length of a run whose first steps depend on it.

    Args:
        config: the run's settings.
        steps: its new length.
        former: lengths that it had.

    Raises:
        ValueError: its learning rates or its norm depend on the length.
    """
    choices = bind(config)
    for before in former:
        old, new = choices.schedule(before), choices.schedule(steps)
        if any(old(step) != new(step) for step in range(min(before, steps))):
            what = f"schedule={choices.schedule.name}"
        elif NORMS.capabilities(choices.norm.name).length_dependent:
            what = f"norm={choices.norm.name}"
        else:
            continue
        first = f"the first {min(before, steps)} steps depend on the length of the run"
        raise ValueError(f"{what}: {first}; train anew with steps={steps}")


def former(job: Job) -> list[dict[str, Any]]:
    """What a job's run was before its length changed; ``config_hash`` and ``steps`` of each, the latest last."""
    saved = run_json.known(job.folder)
    is_other = bool(saved) and job.longer and longer.shorter(job.folder, to_dict(job.config)) is not None
    return [*longer.history(saved), *([longer.before(saved)] if is_other else [])]


def require_open_end(setup: Setup, job: Job, state: checkpoint.State) -> None:
    """Refuse the last checkpoint of a run that an older version has finished, if that measured its last step specially.

    Raises:
        ValueError: the sums and the probes' memory that a longer run needs are not in the checkpoint.
    """
    step = state["step"]
    at_an_end = step in [each["steps"] for each in former(job)]
    if at_an_end and "point" not in state["progress"] and not setup.measures_all(step):
        raise ValueError(f"{job.folder}: finished by an older version, which kept too little to go on; train anew")


def change(job: Job, setup: Setup, state: checkpoint.State | None) -> float | None:
    """Turn the records of a run of another length into those of a run of this length.

    Returns:
        The seconds that the run has trained, if there was something to change: then ``seal`` must follow when the
        logbook is open.
    """
    config, steps = to_dict(job.config), setup.training.cadence.steps
    seconds = 0.0 if state is None else trained(job.folder, state["step"])
    own = config_hash(config)
    saved = longer.shorter(job.folder, config) if job.longer else None
    if saved is not None:
        facts = {"config": config, "config_hash": own, "overrides": list(job.overrides), "name": job.name}
        longer.begin(job.folder, saved, {**facts, "steps": steps})
    if state is None or state["config_hash"] == own:
        return None
    checkpoint.replace(job.folder, state, {})  # the files that belong to it change
    ends = {each["steps"] for each in former(job)}
    left = metrics.trim(job.folder, lambda step, tag: step not in ends or setup.has_point(step, tag))
    events.revise(
        job.folder,
        hparams(config, steps, job.name),
        lambda step, tag: step not in ends or (step in left if tag == SPEED else setup.has_point(step, tag)),
    )
    return seconds


def seal(book: Logbook, state: checkpoint.State, seconds: float) -> None:
    """Write the checkpoint that the changed records belong to; they have lost some of the seconds trained."""
    book.seconds = seconds
    book.flush()
    checkpoint.replace(book.folder, {**state, "config_hash": book.facts["config_hash"]}, book.marks)
