"""The scale of pixels that weights were trained with: it is kept beside them, and taken over with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnexp.config.schema import TrainConfig
from bnexp.data import Data
from bnexp.norms.base import per_channel

# Buffers of a model that takes a scale over, [C] (or [F]), float64.
MEAN, STD = "pixel_mean", "pixel_std"


def scale_of(data: Data, device: torch.device | None = None) -> dict[str, Tensor]:
    """What pixels are scaled by: {pixel_mean: [C] (or [F]), pixel_std: the same}, float64."""
    return {
        name: torch.tensor(values, dtype=torch.float64, device=device)
        for name, values in ((MEAN, data.mean), (STD, data.std))
    }


def attach_scale(model: nn.Module, config: TrainConfig, data: Data) -> None:
    """With ``pixel_scale=source``, let a model see pixels by the mean and standard deviation in two buffers.

    The data are scaled by their own. At first the buffers say the same, and nothing changes; they are in checkpoints,
    so that a resumed run needs no source. Whitened data have no scale.

    Args:
        model: on any device; each member of a population gets its own buffers.
        config: its settings.
        data: what it is trained on.
    """
    if config.pixel_scale == "own" or config.data["whiten"] != "none":
        return
    own = scale_of(data, next(model.parameters()).device)
    for name, values in own.items():
        model.register_buffer(name, values.clone())
    model.register_forward_pre_hook(lambda module, inputs: _rescaled(module, own, *inputs))


def _rescaled(model: nn.Module, own: dict[str, Tensor], x: Tensor) -> Tensor:
    """(pixel - mean) / std by the buffers, for x scaled by the data's own; x itself where they are the same."""
    mean, std = model.get_buffer(MEAN), model.get_buffer(STD)
    factor, shift = own[STD] / std, (own[MEAN] - mean) / std
    return x * per_channel(factor.to(x.dtype), x) + per_channel(shift.to(x.dtype), x)
