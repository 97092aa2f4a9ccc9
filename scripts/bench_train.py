"""How near the training loop is to the limit of the machine, and how it compares with PyTorch Lightning.

    uv run --extra bench python scripts/bench_train.py --root DATA [--threads 1] [--rounds 7] [--json FILE]

Three ways to train the same network on Fashion-MNIST, in turn, several rounds, in one process:

  bare        torch.optim.SGD on one batch that stays in memory: the limit of eager execution
  bnexp       the whole loop: new batches, metrics, divergence check, records every 50 steps
  lightning   PyTorch Lightning and a DataLoader on torchvision's data set, no logger, no progress bar

Prints the median rate of each, and the ratio to bnexp's as the median over rounds (with the smallest and largest).
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import bnexp
from bnexp.building import build
from bnexp.config import TrainConfig
from bnexp.training import Plan, Progress, train

NORM = {"name": "bn", "eps": 1e-5, "momentum": 0.1, "affine": True}
MODELS = {"lenet": {"name": "lenet"}, "mlp": {"name": "mlp", "depth": 3, "width": 100, "dropout": 0.0}}
LR = 0.1


def config(model: str, root: str, batch_size: int, threads: int) -> TrainConfig:
    """Plain SGD on Fashion-MNIST, as the other two do it."""
    data = {
        "name": "fashion_mnist",
        "root": root,
        "validation": 0.0,
        "train_limit": None,
        "test_limit": None,
        "standardize": True,
    }
    data |= {"binarize": None, "size": None, "flip": False, "crop": 0}
    data |= {"classes": None, "labels_per_class": None, "whiten": "none", "whiten_eps": 0.01}
    optim = {"name": "sgd", "lr": LR, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "decay_norm": False}
    return TrainConfig(
        model=MODELS[model],
        norm=NORM,
        init={"name": "kaiming", "distribution": "normal", "mode": "fan_in", "gain": 1.0},
        data=data,
        optim=optim,
        schedule={"name": "constant", "warmup": 0},
        batch_size=batch_size,
        device="cpu",
        threads=threads,
    )


def network(model: str) -> nn.Module:
    """The same network written with torch's layers, for the two competitors."""
    if model == "mlp":
        widths = [784, 100, 100, 100]
        hidden = [
            layer
            for n_in, n_out in itertools.pairwise(widths)
            for layer in (nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.ReLU())
        ]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(100, 10))
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, 5, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120, bias=False), nn.BatchNorm1d(120), nn.ReLU()),
        *(nn.Linear(120, 84, bias=False), nn.BatchNorm1d(84), nn.ReLU(), nn.Linear(84, 10)),
    )


def bare_loop(model: str, batch_size: int, steps: int) -> Callable[[], float]:
    """Seconds for ``steps`` steps on one resident batch."""
    net = network(model)
    optimizer = torch.optim.SGD(net.parameters(), lr=LR)
    x, y = torch.randn(batch_size, 1, 28, 28), torch.randint(10, (batch_size,))

    def run() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
        return time.perf_counter() - start

    return run


def bnexp_loop(settings: TrainConfig, steps: int) -> Callable[[], float]:
    """Seconds for ``steps`` steps of bnexp's loop, records included."""
    setup = build([settings], stacked=False)
    factors = torch.ones(steps)
    plan = Plan(steps, setup.plan.per_epoch, log_every=50, eval_every=steps, checkpoint_every=steps)

    def run() -> float:
        start = time.perf_counter()
        records = train(
            setup.population,
            setup.optimizer,
            factors,
            setup.batches.at,
            dict,
            plan=plan,
            precision=setup.precision,
            progress=Progress(1, torch.device("cpu")),
            stop=lambda: False,
        )
        for _ in records:
            pass
        return time.perf_counter() - start

    return run


def lightning_loop(model: str, root: str, batch_size: int, steps: int) -> Callable[[], float]:
    """Seconds for ``steps`` steps of Lightning's Trainer, its start-up left out."""
    import logging
    import warnings

    import lightning
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.2860,), (0.3530,))])
    loader = DataLoader(datasets.FashionMNIST(root, transform=transform), batch_size=batch_size, shuffle=True)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(model)
            self.first = 0.0

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
            if self.global_step == 2:  # behind the warm-up
                self.first = time.perf_counter()
            x, y = batch
            return F.cross_entropy(self.net(x), y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=LR)

    def run() -> float:
        module = Module()
        options = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
        trainer = lightning.Trainer(accelerator="cpu", max_steps=steps + 2, enable_model_summary=False, **options)
        trainer.fit(module, loader)
        return time.perf_counter() - module.first

    return run


def measure(case: str, root: str, batch_size: int, steps: int, rounds: int, threads: int) -> dict[str, object]:
    """Rates in images/s of each way, and ratios of rates to bnexp's, over interleaved rounds."""
    loops = {
        "bare": bare_loop(case, batch_size, steps),
        "bnexp": bnexp_loop(config(case, root, batch_size, threads), steps),
        "lightning": lightning_loop(case, root, batch_size, steps),
    }
    torch.set_num_threads(threads)
    loops["bare"](), loops["bnexp"]()  # warm up
    seconds = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            seconds[name].append(loop())
    rates = {name: steps * batch_size / statistics.median(times) for name, times in seconds.items()}
    ratios = {
        other: sorted(there / own for there, own in zip(seconds[other], seconds["bnexp"], strict=True))
        for other in ("bare", "lightning")
    }
    return {"case": case, "batch_size": batch_size, "steps": steps, "rates": rates, "bnexp_over": ratios}


def main() -> None:
    """Measure both cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder with FashionMNIST/raw")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all figures there")
    given = parser.parse_args()
    cases = [("lenet", 256, 60), ("mlp", 60, 600)]
    results = [measure(case, given.root, batch, steps, given.rounds, given.threads) for case, batch, steps in cases]
    print(f"bnexp {bnexp.__version__}, torch {torch.__version__}, {given.threads} thread(s), {given.rounds} rounds\n")
    for result in results:
        print(f"{result['case']}, batch {result['batch_size']}")
        for name, rate in result["rates"].items():
            print(f"  {name:10}{rate:10.0f} images/s")
        for other, ratios in result["bnexp_over"].items():
            middle = statistics.median(ratios)
            print(f"  bnexp / {other:10} {middle:.3f}  ({ratios[0]:.3f} to {ratios[-1]:.3f})")
    if given.json:
        facts = {"bnexp": bnexp.__version__, "torch": torch.__version__, "threads": given.threads, "cases": results}
        given.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
