"""Checks the jobs of a sweep as their runs will; runs in a child of the fork server, before any job starts."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from bnexp.config.own_code import place_of, told
from bnexp.config.schema import TrainConfig, from_dict, shape
from bnexp.data import load
from bnexp.experiment.check import check
from bnexp.experiment.choices import bind
from bnexp.experiment.imports import import_modules
from bnexp.experiment.longer import require_same_beginning
from bnexp.experiment.machine import pick_device, require_device_name, require_graph

# The fork server keeps data sets in memory up to this many bytes.
_MOST_BYTES = 2**30
# Libraries that jobs import only when they need them; importing them starts no thread.
_LIBRARIES = ("torch", "torchvision", "PIL", "sympy", "mpmath")

# Options of a data set, as JSON -> shape, and whether such jobs have begun -> the jobs' numbers.
Alike = Mapping[str, Mapping[tuple[str, bool], list[int]]]


@dataclass
class _Found:
    """What the jobs of a sweep are like.

    Attributes:
        faults: number of a job -> what the user can fix in it.
        data: options of the data sets that were read, and ``nbytes``, their bytes.
        shapes: shape -> size of a member, its steps, and why jobs of this shape cannot be stacked, or None.
    """

    faults: dict[int, str] = field(default_factory=dict)
    data: list[Mapping[str, Any]] = field(default_factory=list)
    nbytes: int = 0
    shapes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @contextlib.contextmanager
    def noted(self, jobs: Iterable[int]) -> Iterator[None]:
        """Note what is wrong in the with block as the fault of these jobs."""
        try:
            yield
        except ValueError as error:
            self.faults.update(dict.fromkeys(jobs, str(error)))
        except Exception as error:
            if place_of(error) is None:
                raise
            self.faults.update(dict.fromkeys(jobs, told(error)))


def check_sweep(
    configs: Sequence[Mapping[str, Any]],
    begun: Sequence[bool],
    shorter: Sequence[Sequence[int]] = (),
    *,
    elsewhere: bool = False,
) -> int:
    """Check the configs of a sweep's jobs; prints what it found as its last line, in JSON.

    ``faults`` and ``shapes``: see ``_Found``; ``gpus``: number of GPUs the jobs may use; ``modules``: library modules
    that checking imported; ``data``: options of the data sets that the fork server should read once for all jobs.

    Args:
        configs: one per job.
        begun: for each job, whether it has trained before and will resume from its checkpoint.
        shorter: for each job, other lengths that it may have trained with, in steps; by default none.
        elsewhere: the jobs will run on other machines, so that this one's devices say nothing about them.

    Raises:
        ValueError: a module of the user's cannot be imported.
    """
    before = set(sys.modules)
    found = _Found()
    todo: dict[int, TrainConfig] = {}
    for number, given in enumerate(configs):
        with found.noted([number]):
            todo[number] = from_dict(given)
    import_modules(list(dict.fromkeys(name for config in todo.values() for name in config.imports)))
    for number, config in todo.items():
        with found.noted([number]):
            bind(config)
            _require_any_device(config, elsewhere=elsewhere)
    if elsewhere:
        todo = {number: replace(config, device="cpu") for number, config in todo.items()}
    _try_each(todo, _alike(todo, configs, begun, found.faults), found, shorter or [()] * len(configs))
    # The fork server does not know data sources that a user's own module registers.
    fits = found.nbytes <= _MOST_BYTES and not any(config.imports for config in todo.values())
    devices = {config.device for number, config in todo.items() if number not in found.faults}
    on_gpu = any(pick_device(device).type == "cuda" for device in devices)
    answer = {
        "faults": found.faults,
        "gpus": torch.cuda.device_count() if on_gpu else 0,
        "modules": [name for name in sys.modules if name not in before and name.partition(".")[0] in _LIBRARIES],
        "data": found.data if fits else [],
        "shapes": found.shapes,
    }
    print(json.dumps(answer))
    return 0


def _alike(
    todo: Mapping[int, TrainConfig],
    configs: Sequence[Mapping[str, Any]],
    begun: Sequence[bool],
    without: Collection[int],
) -> Alike:
    """The jobs, but for some, by what has to be read and tried once for all of them."""
    alike: dict[str, dict[tuple[str, bool], list[int]]] = {}
    for number in (number for number in todo if number not in without):
        by_shape = alike.setdefault(json.dumps(todo[number].data, sort_keys=True), {})
        by_shape.setdefault((shape(configs[number]), begun[number]), []).append(number)
    return alike


def _try_each(todo: Mapping[int, TrainConfig], alike: Alike, found: _Found, shorter: Sequence[Sequence[int]]) -> None:
    """Read each data set once, and try one model of each shape."""
    for options, by_shape in alike.items():
        with found.noted(itertools.chain(*by_shape.values())):
            data = load(wanted := json.loads(options))
            found.data.append(wanted)
            found.nbytes += data.nbytes()
            for (key, known), jobs in by_shape.items():
                with found.noted(jobs):
                    checked = check([todo[jobs[0]]], data, starts=not known)
                    size = {**asdict(checked.size), "steps": checked.cadence.steps}
                    found.shapes[key] = {**size, "unstackable": checked.unstackable}
                    for number in jobs:
                        with found.noted([number]):
                            require_same_beginning(todo[number], checked.cadence.steps, shorter[number])


def _require_any_device(config: TrainConfig, *, elsewhere: bool) -> None:
    device = config.device
    if require_device_name(device) == "cuda" and elsewhere:
        require_graph(config)
    if not elsewhere:
        pick_device(device)
    if device.startswith("cuda:"):
        raise ValueError(
            f"device={device}: a sweep chooses the device of each job; use device=cuda, or CUDA_VISIBLE_DEVICES"
        )
