"""Refuses evaluations that a run could not measure, before it starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from bnexp.config.metrics import Statistics
from bnexp.config.schema import TrainConfig
from bnexp.evaluations.base import Pixels, Wanted
from bnexp.models.layers import batch_norms, keeps_variances, moving_norms, norm_parameters
from bnexp.training.statistics import batch_statistics


def require(wanted: Sequence[Wanted], config: TrainConfig, model: nn.Module, blank_B: Tensor, pixels: Pixels) -> None:
    """Try evaluations on a blank model.

    Args:
        wanted: the evaluations.
        config: the run's settings.
        model: any weights.
        blank_B: as many blank images as a batch of the norms needs.
        pixels: of the run's data.

    Raises:
        ValueError: the data have no such images, or the model or the config none of the statistics.
    """
    for each in wanted:
        some = any(condition.classes for condition in each.conditions(pixels))
        if some and set(each.splits) != {"test"}:
            given = f"evaluations.{each.word}.splits=[{','.join(each.splits)}]"
            raise ValueError(f"{given}: the images of a task are chosen among test images; use [test]")
        if "validation" in each.splits and pixels.data.validation is None:
            given = f"evaluations.{each.word}.splits=[validation]"
            raise ValueError(f"{given}: needs validation images; use data.validation=0.1")
        for statistics in each.statistics:
            for fault in _faults(statistics, config, model, blank_B, pixels):
                raise ValueError(f"evaluations.{each.word}.statistics=[{statistics.word}]: {fault}")


def _faults(
    statistics: Statistics, config: TrainConfig, model: nn.Module, blank_B: Tensor, pixels: Pixels
) -> Iterator[str]:
    if statistics.kind == "ema" and statistics.decay not in config.ema:
        yield f"needs the setting ema=[{statistics.decay}]"
    if statistics.kind == "ema_weights" and config.ema_weights is None:
        yield "needs the setting ema_weights, such as ema_weights=0.999"
    if statistics.kind == "tent" and not norm_parameters(model):
        yield "adapts gains and biases of norms, and this model has none; use norm.affine=true"
    if statistics.prior and not all(keeps_variances(layer) for layer in moving_norms(model)):
        yield f"norm={config.norm['name']} keeps covariances, which take no prior"
    elif statistics.kind == "own":
        yield from _own_faults(statistics, config, model, pixels)
    elif statistics.by_batch and batch_norms(model):
        try:
            with batch_statistics(model, prior=statistics.prior), torch.no_grad():
                model.train(False)(blank_B[: statistics.images or config.micro_batch_size])
        except ValueError as error:
            yield f"{str(error).partition(';')[0]}; use larger batches"


def _own_faults(statistics: Statistics, config: TrainConfig, model: nn.Module, pixels: Pixels) -> Iterator[str]:
    if not all(keeps_variances(layer) for layer in moving_norms(model)):
        yield f"norm={config.norm['name']} keeps covariances, beside which an image's own moments have no weight"
    elif not statistics.weight and pixels.data.validation is None:
        yield "chooses the weight by validation images; use data.validation=0.1, or own0.1 for a weight of 0.1"
