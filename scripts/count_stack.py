"""Kernels and bytes of a stack's training step, against those of one member: a measure without a clock.

    python scripts/count_stack.py [--members 8] [--models mlp,lenet,resnet] [--norms none,bn,ln,gn,in] [words...]

A kernel is an operation of torch that writes numbers: views and the mere allocation of memory are left out. An
operation on a list of tensors counts once if all lie densely in memory, in the same way; else once a tensor. Bytes
are those of the tensors that the kernels write. Counted over forward pass, loss, backward pass and update on a CPU, in
the second step. Prints a Markdown table: kernels of the stack over those of one member, and bytes of the stack over
those of its members. The words are settings, as of ``bnexp train``.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bnexp.config import compose
from bnexp.config.schema import TrainConfig
from bnexp.config.shipped import configs_folder
from bnexp.experiment.setup import build
from bnexp.training.step import Step

# Model -> words: the shapes of the usual data sets, in small batches, so that a count takes a second.
CASES = {
    "mlp": ("model=mlp", "data.size=28", "batch_size=64"),
    "lenet": ("model=lenet", "data.size=28", "batch_size=32"),
    "resnet": ("model=resnet", "model.depth=8", "data.size=32", "batch_size=8"),
}
NORMS = ("none", "bn", "ln", "gn", "in")
_ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}


class Count(TorchDispatchMode):
    """Counts the kernels that run in its with block, and the bytes that they write, by the operation's name."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, given: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        answer = operation(*given, **keywords)
        name = operation.overloadpacket.__name__
        written = {id(t): t for t in (*_tensors(answer), *_mutated(operation, given, keywords))}
        if not operation.is_view and name not in _ALLOCATIONS | {"_unsafe_view", "_reshape_alias"} and written:
            self.kernels[name] += _launches(given)
            self.bytes[name] += sum(t.numel() * t.element_size() for t in written.values())
        return answer


def _launches(given: Sequence[Any]) -> int:
    """How many kernels an operation takes on a GPU, where torch has one for lists of tensors that lie alike."""
    lists = [each for each in given if isinstance(each, list | tuple) and each and isinstance(each[0], Tensor)]
    if not lists or any(len(each) != len(lists[0]) for each in lists):
        return 1
    rows = [[each.stride() for each in row] for row in zip(*lists, strict=True)]
    alike = all(strides.count(strides[0]) == len(strides) for strides in rows)
    return 1 if alike and all(_dense(each) for each in lists[0]) else len(lists[0])


def _dense(x: Tensor) -> bool:
    """Whether a tensor has no gap between its first and its last number."""
    return 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True)) == x.numel()


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _mutated(operation: Any, given: Sequence[Any], keywords: dict[str, Any]) -> Iterator[Tensor]:
    """The arguments that an operation writes into."""
    for place, argument in enumerate(operation._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from _tensors(given[place] if place < len(given) else keywords.get(argument.name))


def counted(config: TrainConfig, members: int) -> Count:
    """The kernels of one step of ``members`` stacked members; a single member trains as it does alone."""
    configs = [replace(config, seed=seed) for seed in range(members)]
    training = build(configs, stacked=members > 1).training
    training.population.train()
    step = Step(training.population, training.optimizer, training.precision)
    x_MB, y_MB = training.batches(0)
    for _ in range(2):
        count = Count()
        with count:
            step(x_MB, y_MB, training.factors[0])
    return count


def case(model: str, norm: str, *words: str) -> TrainConfig:
    """The config of a model of ``CASES`` with a norm and further words."""
    defined = ("norm.vectors=ln",) if (model, norm) == ("mlp", "in") else ()  # an MLP has only vectors
    all_words = [*CASES[model], f"norm={norm}", *defined, *words]
    configs: list[TrainConfig] = []
    compose.run_hydra(lambda config: configs.append(compose.plain(config)), all_words, configs_folder())
    return configs[0]


def ratios(config: TrainConfig, members: int) -> tuple[float, float]:
    """Kernels of a stack over those of one member, and bytes of a stack over those of its members."""
    one, all_ = counted(config, 1), counted(config, members)
    return all_.kernels.total() / one.kernels.total(), all_.bytes.total() / (members * one.bytes.total())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--models", default=",".join(CASES))
    parser.add_argument("--norms", default=",".join(NORMS))
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    print(f"| model | norm | kernels, {options.members} stacked over 1 | bytes over those of the members |")
    print("| --- | --- | --- | --- |")
    for model, norm in product(options.models.split(","), options.norms.split(",")):
        kernels, written = ratios(case(model, norm, *options.words), options.members)
        print(f"| {model} | {norm} | {kernels:.2f} | {written:.2f} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
