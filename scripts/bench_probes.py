"""What each probe costs: one measurement relative to one training step, on one CPU thread.

    python scripts/bench_probes.py [--rounds 3] [--json benchmarks/probes.json]

Three cases on the digits: an MLP 3x100 with batch 60 and LeNet with batch 64, both with batch norm, and a vision
transformer with layer norm and batch 64. Every probe that is registered is measured, with the options of its yaml:
those of attention on the transformer, all others on the first two. Times are processor times, so that other programs
disturb less; the median of the rounds counts, each with a mean over steps beside it. Prints a Markdown table; the
overhead is that at the cadence of the yaml.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import bnexp
from bnexp.config.compose import JobComposer
from bnexp.config.schema import from_dict
from bnexp.config.shipped import configs_folder
from bnexp.experiment.setup import Setup, build
from bnexp.probes import PROBES
from bnexp.probes.observer import Observer, Watch, watches
from bnexp.training.step import Step

CASES = {
    "mlp": ("norm=bn", "model=mlp", "model.depth=3", "model.width=100", "batch_size=60"),
    "lenet": ("norm=bn", "model=lenet", "batch_size=64"),
    "vit": ("norm=ln_c", "model=vit", "batch_size=64"),
}
# Probes of a transformer alone.
OF_ATTENTION = ("attention",)
# Training steps behind one time of a step.
STEPS = 50


def setups() -> dict[str, tuple[Setup, list[Watch]]]:
    """Case -> a training in its first steps, and its probes."""
    others = [word for word in PROBES if word not in OF_ATTENTION]
    chosen = {case: f"probes=[{','.join(OF_ATTENTION if case == 'vit' else others)}]" for case in CASES}
    composed = JobComposer(configs_folder())([(chosen[case], *words) for case, words in CASES.items()])
    configs = [from_dict(config) for config in composed]
    return {
        case: (build([config], stacked=False), watches(config.probes))
        for case, config in zip(CASES, configs, strict=True)
    }


def step(setup: Setup, number: int) -> torch.Tensor:
    """One training step; its loss."""
    training = setup.training
    one = Step(training.population, training.optimizer, training.precision)
    noted = one(*training.batches(number), training.factors[0])
    training.progress.note(noted)
    return noted.loss_M


def steps(setup: Setup) -> None:
    """As many as one time of a step is the mean of."""
    for number in range(STEPS):
        step(setup, number)


def measurement(setup: Setup, watch: Watch) -> Callable[[], object]:
    """A function that has the probe look at a step, without the training of that step."""
    observer = Observer(setup.population, [watch], setup.data.train, steps=1)
    loss_M, lr_M = step(setup, 0), setup.training.optimizer.lr_M1[:, 0]

    def measure() -> object:
        observer.before(1, *setup.training.batches(0))
        return observer.after(lr_M, loss_M)

    return measure


def seconds(function: Callable[[], object]) -> float:
    """Processor time of a call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def measured(rounds: int) -> dict[str, dict[str, Any]]:
    """Probe -> cadence and, for each case, seconds and training steps a measurement."""
    found: dict[str, dict[str, Any]] = {word: {} for word in PROBES}
    for case, (setup, wanted) in setups().items():
        steps(setup)
        for watch in wanted:
            measure = measurement(setup, watch)
            pairs = [(seconds(measure), seconds(lambda: steps(setup)) / STEPS) for _ in range(rounds)]  # noqa: B023
            cost = {
                "seconds": statistics.median(probe for probe, _ in pairs),
                "steps": statistics.median(probe / one for probe, one in pairs),
            }
            found[watch.name] |= {"every": watch.every, "images": watch.images, case: cost}
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """The figures as a Markdown table."""
    head = ["probe", "images", "MLP, steps", "LeNet, steps", "transformer, steps", "every", "overhead"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for word, facts in found.items():
        costs = [facts[case]["steps"] if case in facts else None for case in CASES]
        numbers = " | ".join("-" if cost is None else f"{cost:.1f}" for cost in costs)
        overhead = ", ".join(f"{cost / facts['every']:.0%}" for cost in costs if cost is not None)
        lines.append(f"| `{word}` | {facts['images']} | {numbers} | {facts['every']} | {overhead} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write all figures there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = measured(given.rounds)
    print(table(found))
    if given.json:
        facts = {"bnexp": bnexp.__version__, "torch": torch.__version__, "rounds": given.rounds, "probes": found}
        given.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
