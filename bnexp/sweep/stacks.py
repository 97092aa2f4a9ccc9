"""Which jobs can train as one population: those that differ in numbers only, in no shape and no branch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from bnexp.sweep.plan import Entry

STACKABLE = (("seed",), ("optim", "lr"), ("optim", "momentum"), ("optim", "weight_decay"), ("init", "gain"))


def shape(config: Mapping[str, Any]) -> str:
    """What a config says apart from stackable settings; equal for configs that can train as one population."""
    kept = json.loads(json.dumps(config))
    for *path, last in STACKABLE:
        node = kept
        for key in path:
            node = node.get(key, {})
        if last in node:
            node[last] = None
    return json.dumps(kept, sort_keys=True)


def stacks(jobs: Iterable[Entry], max_stack: int) -> list[list[Entry]]:
    """Jobs in groups that share a process, at most ``max_stack`` each, in the order of their first members.

    A compiled network is not stacked: vmap would have to go through the compiler.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in jobs:
        key = entry.config_hash if max_stack == 1 or entry.config["compile"] else shape(entry.config)
        groups.setdefault(key, []).append(entry)
    return [group[at : at + max_stack] for group in groups.values() for at in range(0, len(group), max_stack)]
