"""Evaluations measure members on changed images or under other statistics, one family per file.

``base`` has the registry and what every evaluation says; ``evaluator`` measures them all at one moment of a training.
"""

from bnexp.evaluations import attack, clean, corruption, tasks
from bnexp.evaluations.base import EVALUATIONS, Condition, Pixels, Wanted, evaluation, wanted

__all__ = [
    "EVALUATIONS",
    "Condition",
    "Pixels",
    "Wanted",
    "attack",
    "clean",
    "corruption",
    "evaluation",
    "tasks",
    "wanted",
]
