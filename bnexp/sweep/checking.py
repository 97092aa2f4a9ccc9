"""All that can be known to be wrong with a sweep's jobs before anything starts; done in a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bnexp.building import make_batches, make_plan
from bnexp.config import TrainConfig, from_dict
from bnexp.data import load
from bnexp.experiment import import_modules
from bnexp.machine import pick_device, prepare_machine
from bnexp.rules import rules
from bnexp.sweep.stacks import shape
from bnexp.trial import check_model

# Of data sets that the server of the jobs keeps in memory.
_MOST_BYTES = 2**30
# What jobs import late, if they need it at all; none of these starts a thread.
_LIBRARIES = ("torch", "torchvision", "PIL", "sympy", "mpmath")


def check(configs: Sequence[Mapping[str, Any]]) -> int:
    """Check configs as their runs will; prints, as its last line, what it has found.

    ``{"gpus": how many the jobs may use, "modules": those of libraries that checking had to import, "data": options of
    data sets that are worth reading once for all}``. Data are read once for each source, models tried once a shape.

    Raises:
        ValueError: the first thing that the user can mend.
    """
    before = set(sys.modules)
    todo = [from_dict(config) for config in configs]
    import_modules(list(dict.fromkeys(name for config in todo for name in config.imports)))
    for config in todo:
        rules(config)
        _check_device(config.device)
    by_data: dict[str, dict[str, TrainConfig]] = {}
    for config, plain in zip(todo, configs, strict=True):
        by_data.setdefault(json.dumps(config.data, sort_keys=True), {}).setdefault(shape(plain), config)
    sizes = {data: _check_models(list(alike.values())) for data, alike in by_data.items()}
    on_gpu = any(pick_device(config.device).type == "cuda" for config in todo)
    modules = [name for name in sys.modules if name not in before and name.partition(".")[0] in _LIBRARIES]
    # A user's own source is unknown to the server of the jobs.
    fits = sum(sizes.values()) <= _MOST_BYTES and not any(config.imports for config in todo)
    kept = [json.loads(data) for data in sizes] if fits else []
    print(json.dumps({"gpus": torch.cuda.device_count() if on_gpu else 0, "modules": modules, "data": kept}))
    return 0


def _check_device(device: str) -> None:
    pick_device(device)
    if device.startswith("cuda:"):
        raise ValueError(f"device={device}: a sweep gives every job a device; use device=cuda, or CUDA_VISIBLE_DEVICES")


def _check_models(configs: Sequence[TrainConfig]) -> int:
    """Check configs with the same data; the bytes of these."""
    data = load(configs[0].data)
    for config in configs:
        prepare_machine(config)
        rule = rules(config)
        batches = make_batches([config], data)
        check_model(config, rule, data, batches.sizes())
        rule.init()
        rule.schedule(make_plan(config, batches.per_epoch).steps)
    return data.nbytes()
