"""A run's last or best checkpoint, for other programs: the model and the data that it was trained on."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from bnexp.config.schema import TrainConfig
from bnexp.data import Data, new_images
from bnexp.experiment.imports import import_modules, require_named
from bnexp.experiment.job import saved_job
from bnexp.experiment.machine import pick_device
from bnexp.experiment.restore import restored

# Images in a forward pass, so that the feature maps of many images need not fit into the memory at once.
_BATCH = 500


@dataclass(frozen=True)
class Trained:
    """A trained model with its data.

    Attributes:
        model: with the weights of the last or the best checkpoint, in evaluation mode.
        step: the checkpoint's step.
        config: the run's settings.
        data: what it was trained on, on the model's device.
    """

    model: nn.Module
    step: int
    config: TrainConfig
    data: Data

    def samples(self, name: str) -> tuple[Tensor, Tensor]:
        """The images and labels of train, validation or test, as this run saw them.

        Raises:
            ValueError: the data have no such split.
        """
        splits = self.data.splits()
        if name not in splits:
            raise ValueError(f"{name}: this run's data have no such split (there are: {', '.join(splits)})")
        x_MN, y_MN = splits[name].batch(slice(None))
        return x_MN[0], y_MN[0]

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Logits [N, K] of images: float32 as ``data`` has them, or raw uint8 pixels; arrays of NumPy too.

        Raises:
            ValueError: the images have another shape than the training images, or are whole numbers of another type.
        """
        x = torch.as_tensor(images)
        if not x.is_floating_point() and x.dtype != torch.uint8:
            kind = str(x.dtype).removeprefix("torch.")
            raise ValueError(f"images of type {kind}: expected uint8, pixels from 0 to 255, or floats as in data()")
        x = (x if x.is_floating_point() else new_images(x, self.data, self.config.data)).to(self.data.train.x)
        if x.shape[1:] != self.data.shape:
            raise ValueError(f"images of shape {tuple(x.shape)}: expected (N, {', '.join(map(str, self.data.shape))})")
        with _evaluating(self.model):  # the caller has the same module, and may have it in training mode
            return torch.cat([self.model(x_B) for x_B in torch.split(x, _BATCH)])


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def trained(folder: Path, *, imports: Sequence[str], device: str, best: bool = False) -> Trained:
    """Read a run's last checkpoint and its data; the process keeps its threads, number formats and random numbers.

    Args:
        folder: of the run.
        imports: the modules that the user trusts; they must be those that the run names.
        device: as in the setting ``device``.
        best: take its best checkpoint instead.

    Raises:
        ValueError: there is no usable checkpoint, or the run needs modules or data that are not there.
    """
    job = saved_job(folder)
    remedy = f"bnexp.load({str(folder)!r}, imports={list(job.config.imports)!r})"
    require_named(folder, job.config.imports, imports, remedy)
    import_modules(job.config.imports)
    precision = "fp64" if job.config.precision == "fp64" else "fp32"
    config = replace(
        job.config, device=device, precision=precision, compile=False, graph=False, deterministic=False, threads=1
    )
    with _process_kept(pick_device(device)):
        setup, step = restored(job, config, best=best)
    model = copy.deepcopy(setup.population.members[0]).eval()
    model.zero_grad(set_to_none=True)
    return Trained(model, step, job.config, setup.data)


@contextmanager
def _process_kept(device: torch.device) -> Iterator[None]:
    """Give back what preparing a training changes: threads, number formats, determinism, tries, GPU, random numbers.

    For a model on a CPU no GPU is asked for its random numbers: a program that has used one can no longer fork.
    """
    current = torch.cuda.current_device() if _uses_a_gpu() else 0
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    cudnn = torch.backends.cudnn
    tries = cudnn.benchmark, cudnn.benchmark_limit
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    formats = products.fp32_precision, convolutions.fp32_precision
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count()) if device.type == "cuda" else ()):
            yield
    finally:
        if _uses_a_gpu():
            torch.cuda.set_device(current)
        torch.set_num_threads(threads)
        if deterministic:
            torch.use_deterministic_algorithms(True)
        cudnn.benchmark, cudnn.benchmark_limit = tries
        products.fp32_precision, convolutions.fp32_precision = formats


def _uses_a_gpu() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
