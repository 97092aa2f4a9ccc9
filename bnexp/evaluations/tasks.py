"""Evaluations of some of the classes, as tasks that a network learns one after another."""

from __future__ import annotations

from typing import Annotated

from bnexp.config.checks import Range, Some
from bnexp.evaluations.base import EVALUATIONS, Condition, Pixels

Labels = list[Annotated[int, Range(least=0)]]


@EVALUATIONS.register("tasks")
def tasks(pixels: Pixels, *, tasks: Some[Labels]) -> list[Condition]:
    """The images of some classes, answered among these classes; metrics are called ``test/accuracy_task1``.

    Continual learning calls this the accuracy of a known task (van de Ven & Tolias 2019: task-incremental): the
    network need not tell which task an image belongs to. Under statistics of batches, a batch holds this task alone.

    Options:
        tasks: the labels of each task, as the run numbers its classes (0 to K - 1).

    Raises:
        ValueError: a task has fewer than two labels, one twice, or one that no test image of the run has.
    """
    known = sorted(set(pixels.data.test.y.tolist()))
    for labels in tasks:
        if len(labels) < 2 or len(set(labels)) < len(labels) or not set(labels) <= set(known):
            needed = "each needs two labels or more, each label once"
            raise ValueError(f"evaluations.tasks.tasks={tasks}: {needed}; allowed are {', '.join(map(str, known))}")
    return [Condition(f"task{number}", classes=tuple(labels)) for number, labels in enumerate(tasks, 1)]
