r"""bnexp: a command-line laboratory for normalization in neural networks.

From Python: ``bnexp.train("norm=bn", "epochs=3")`` trains a run and returns it, ``bnexp.train_all`` a sweep;
``bnexp.load(folder)`` and ``bnexp.find(folder, norm="bn")`` read finished ones, and ``bnexp.compare_runs(folder,
by="norm")`` compares them. ``help(bnexp.train)`` says more, and
docs/guide/python.md shows it.

The rooms, in the order in which to read them; each begins with a docstring that names its files::

    config      what can be asked for, and whether it is allowed; words into a config
    norms       \
    models       |
    data         | the shelves: a registry each, one family a file
    probes       |
    evaluations /
    training    members and batches in, records out
    experiment  one run, or one stack: from a config to a finished folder
    runs        a run's folder: written, verified, found, read back
    sweep       many runs: the plan, who runs when, what an end means
    compare     finished runs in; intervals, differences, tables, figures, pages out
    claims      what is said of normalization: declared, run as sweeps, judged, written up
    cli         the words on the command line; ``api`` has the same for Python

On the ground lie ``record`` (what flows out of a training), ``randomness`` (random numbers as a function of a seed and
a purpose), ``memory`` (how much there is) and ``stopping`` (Ctrl-C and SIGTERM). Imports point one way, from ``cli``
down; ``tests/test_floors.py`` holds the table of who may import whom.

Shape suffixes of tensor names: M members of a population, B batch, N all samples of a split, C channels, H and W
height and width, K classes, P all parameters of a member.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnexp.api import Run as Run
    from bnexp.api import compare_runs as compare_runs
    from bnexp.api import find as find
    from bnexp.api import load as load
    from bnexp.api import train as train
    from bnexp.api import train_all as train_all

__version__ = "0.2.0"

_API = ("Run", "compare_runs", "find", "load", "train", "train_all")


def __getattr__(name: str) -> Any:
    """The names of ``api``, imported when one is asked for."""
    if name not in _API:
        raise AttributeError(f"module 'bnexp' has no attribute {name!r}")
    from bnexp import api

    return getattr(api, name)


def __dir__() -> list[str]:
    """The names for completion, those of ``api`` among them."""
    return sorted({*globals(), *_API})
