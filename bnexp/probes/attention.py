"""A probe of attention: how large its logits are, and how evenly it spreads over the tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from bnexp.models.vit import Attention
from bnexp.probes.base import PROBES, Moment, Probe, Values, answers


@PROBES.register("attention")
class AttentionLogits(Probe):
    """The size of the logits q^T k / sqrt(d) of each attention, over all images, heads and pairs of tokens.

    ``logit``: the largest absolute value; ``entropy``: mean of -sum_s w_s log w_s (nats) of the weights
    w = softmax(logits) of a token, log T for weights that are all equal and 0 for a single one.

    Large rates make logits grow until the weights are nearly those of a single token, and training fails (Dehghani et
    al. 2023, sec. 2.2; Wortsman et al. 2024, sec. 3.1).
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        super().__init__()
        if not _attentions(model):
            raise ValueError("probes=[attention]: this model has no attention; use model=vit")

    @torch.no_grad()
    def measure(self, moment: Moment) -> Values:
        """The largest logit and the entropy of each attention."""
        with _logits(moment.model) as logits_BHTT:
            answers(moment.model, moment.images)
        measured: Values = {}
        for layer, logits in logits_BHTT.items():
            log_weights = logits.log_softmax(-1)
            measured[f"logit/{layer}"] = logits.abs().max().item()
            measured[f"entropy/{layer}"] = -(log_weights.exp() * log_weights).sum(-1).mean().item()
        return measured


def _attentions(model: nn.Module) -> dict[str, Attention]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Attention)}


@contextmanager
def _logits(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The logits (B, heads, T, T) of each attention, by its name, in the forward pass inside the with block."""
    seen: dict[str, Tensor] = {}
    names: dict[nn.Module, str] = {attention.softmax: name for name, attention in _attentions(model).items()}

    def note(softmax: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[names[softmax]] = inputs[0]

    with ExitStack() as undo:
        for softmax in names:
            undo.callback(softmax.register_forward_pre_hook(note).remove)
        yield seen
