"""Other ways to train the networks of ``bench.py``: each is a function of no arguments that trains some steps.

All of them are written with torch's own layers and ``torch.optim.SGD``, and return their seconds.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_tensor

from bnexp.models.pooling import HalvingPool
from bnexp.models.unit import Unit
from bnexp.norms import Norm
from bnexp.norms.batch import BatchNorm
from bnexp.norms.group import GroupNorm
from bnexp.norms.none import Shift

Way = Callable[[], float]
# As long as any other, and no network diverges or runs into numbers too small for full speed.
LR = 0.0


def plain(model: nn.Module) -> nn.Module:
    """The same network of torch's layers, without units and without our norms and pooling."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Unit):
                setattr(parent, name, nn.Sequential(*_layers(child)))
            elif isinstance(child, HalvingPool):
                setattr(parent, name, nn.AvgPool2d(2))
            elif isinstance(child, Norm) and not isinstance(parent, Unit):
                setattr(parent, name, _norm(child, maps=True))
    if not isinstance(model, nn.Sequential):
        return model
    return nn.Sequential(*itertools.chain(*(part if isinstance(part, nn.Sequential) else [part] for part in model)))


def _layers(unit: Unit) -> list[nn.Module]:
    """The layers of a unit; under ``none`` there is nothing behind the linear map."""
    assert isinstance(unit.linear, nn.Linear | nn.Conv2d)
    if isinstance(unit.norm, Shift):
        return [unit.linear, unit.activation]
    assert isinstance(unit.norm, Norm)
    return [unit.linear, _norm(unit.norm, maps=isinstance(unit.linear, nn.Conv2d)), unit.activation]


def _norm(norm: Norm, *, maps: bool) -> nn.Module:
    if isinstance(norm, BatchNorm):
        return nn.BatchNorm2d(norm.channels) if maps else nn.BatchNorm1d(norm.channels)
    if isinstance(norm, GroupNorm):
        return nn.GroupNorm(norm.groups, norm.channels)
    return norm if isinstance(norm, Shift) else nn.GroupNorm(1, norm.channels)  # ln: one group of all channels


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context of a forward pass."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def clock_of(device: torch.device) -> Callable[[], float]:
    """What tells the time: one thread of a CPU by its processor time, so that other programs disturb less."""
    return time.process_time if device.type == "cpu" else time.perf_counter


def timed(run: Callable[[], object], device: torch.device) -> Way:
    """The seconds of ``run``, with what it has left to do on the device."""
    clock = clock_of(device)

    def way() -> float:
        start = clock()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock() - start

    return way


def bare(net: nn.Module, x: Tensor, y: Tensor, steps: int, precision: str) -> Way:
    """One batch that stays on the device: the limit of eager execution."""
    return _learning(net, lambda: itertools.repeat((x, y), steps), x.device, precision)


def fresh(net: nn.Module, x: Tensor, y: Tensor, batch_size: int, steps: int, precision: str) -> Way:
    """The same with a new batch in each step, of images [N, ...] that lie anywhere in the device's memory."""
    batches = torch.randperm(len(x), device=x.device)[: steps * batch_size].view(steps, batch_size)
    return _learning(net, lambda: ((x.index_select(0, rows), y[rows]) for rows in batches), x.device, precision)


def _learning(
    net: nn.Module, batches: Callable[[], Iterable[tuple[Tensor, Tensor]]], device: torch.device, precision: str
) -> Way:
    optimizer = torch.optim.SGD(net.parameters(), lr=LR)

    def run() -> None:
        for x, y in batches():
            optimizer.zero_grad()
            with autocast(device, precision):
                logits = net(x)
            F.cross_entropy(logits.float(), y).backward()
            optimizer.step()

    return timed(run, device)


def forward(net: nn.Module, x: Tensor, batch_size: int, precision: str) -> Way:
    """Forward passes over resident images in evaluation mode, and nothing made of the logits."""

    def run() -> None:
        net.eval()
        with torch.no_grad(), autocast(x.device, precision):
            for x_B in torch.split(x, batch_size):
                net(x_B)
        net.train()

    return timed(run, x.device)


class Images(Dataset[tuple[Tensor, int]]):
    """uint8 images [N, H, W(, C)], each made a tensor when it is asked for, as torchvision's data sets do it."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = x, y.tolist()

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """An image in [0, 1], [C, H, W], and its label."""
        return to_tensor(Image.fromarray(self.x[index])), self.y[index]


def d2l(net: nn.Module, images: Images, batch_size: int, steps: int, device: torch.device, precision: str) -> Way:
    """The loop of Dive into Deep Learning (``train_ch6``): a DataLoader, and the metrics read in every step."""
    loader = DataLoader(images, batch_size, shuffle=True, drop_last=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=LR)

    def endless() -> Iterator[list[Tensor]]:
        while True:
            yield from loader

    batches = endless()

    def run() -> None:
        total = [0.0, 0.0, 0]
        for x, y in itertools.islice(batches, steps):
            optimizer.zero_grad()
            x, y = x.to(device), y.to(device)
            with autocast(device, precision):
                logits = net(x)
            loss = F.cross_entropy(logits.float(), y)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                hits = float((logits.argmax(1) == y).sum())
                total = [total[0] + float(loss * len(x)), total[1] + hits, total[2] + len(x)]

    return timed(run, device)


def lightning(net: nn.Module, images: Images, batch_size: int, steps: int, device: torch.device, precision: str) -> Way:
    """PyTorch Lightning's Trainer and a DataLoader, no logger, no progress bar; the seconds leave out its start.

    Raises:
        ImportError: it is not installed (the extra ``bench``).
    """
    import lightning

    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    loader, clock = DataLoader(images, batch_size, shuffle=True, drop_last=True), clock_of(device)

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = net
            self.first = 0.0

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            if self.global_step == 1:  # behind the warm-up
                self.first = clock()
            x, y = batch
            return F.cross_entropy(self.net(x), y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=LR)

    def way() -> float:
        module = Module()
        quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
        exactly = {"accelerator": device.type, "devices": 1, "precision": "bf16-mixed" if precision == "bf16" else 32}
        lightning.Trainer(max_steps=steps + 1, **quiet, **exactly).fit(module, loader)
        return clock() - module.first

    return way
