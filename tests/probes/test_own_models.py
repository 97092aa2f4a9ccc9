"""What probes make of models that users write: shared weights, functions for activations, weights outside of layers."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL_RUN
from measured import PROBES_OF_ANY_MODEL

from bnexp.models import MODELS
from bnexp.runs import metrics

MODELS_FILE = '''
import math
import torch
import torch.nn.functional as F
from torch import nn
from bnexp.models import MODELS


class Tied(nn.Module):
    """Two hidden layers of one weight; the head has the transposed shape of nothing, and is alone."""

    def __init__(self, inputs, classes, bias, inplace):
        super().__init__()
        self.stem = nn.Linear(inputs, 12)
        self.first = nn.Linear(12, 12, bias=bias)
        self.second = nn.Linear(12, 12, bias=bias)
        self.second.weight = self.first.weight
        self.acts = nn.ModuleList(nn.ReLU(inplace=inplace) for _ in range(3))
        self.head = nn.Linear(12, classes)

    def forward(self, x):
        x = x.flatten(1)
        for linear, act in zip((self.stem, self.first, self.second), self.acts):
            x = act(linear(x))
        return self.head(x)


class TiedHead(nn.Module):
    """The head has the weight of the first layer."""

    def __init__(self, inputs, classes):
        super().__init__()
        self.squeeze = nn.Linear(inputs, classes)
        self.first = nn.Linear(classes, classes)
        self.act = nn.Tanh()
        self.head = nn.Linear(classes, classes)
        self.head.weight = self.first.weight

    def forward(self, x):
        return self.head(self.act(self.first(self.act(self.squeeze(x.flatten(1))))))


class Functional(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.first = nn.Linear(inputs, 12)
        self.second = nn.Linear(12, 12)
        self.head = nn.Linear(12, classes)

    def forward(self, x):
        x = F.relu(self.first(x.flatten(1)))
        return self.head(F.relu(F.linear(x, self.second.weight, self.second.bias)))


class Bare(nn.Module):
    """Its weights are in no layer."""

    def __init__(self, inputs, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, classes) / math.sqrt(inputs))

    def forward(self, x):
        return x.flatten(1) @ self.weight


@MODELS.register("tied")
def tied(shape, classes, units, *, bias: bool, inplace: bool):
    return Tied(math.prod(shape), classes, bias, inplace)


@MODELS.register("tied_head")
def tied_head(shape, classes, units):
    return TiedHead(math.prod(shape), classes)


@MODELS.register("functional")
def functional(shape, classes, units):
    return Functional(math.prod(shape), classes)


@MODELS.register("bare")
def bare(shape, classes, units):
    return Bare(math.prod(shape), classes)
'''
SETTINGS = [word for word in SMALL_RUN if not word.startswith(("model", "epochs", "log_every"))]
OWN = ("--config-dir", "configs", "imports=[own_models]", "norm=none", "steps=2", "log_every=1", *SETTINGS)
UNSEEN = (
    "no activation of this model can be seen; each must be a module that it calls, as Units.act() makes it (nn.ReLU, "
)
NO_LAYER = "this model has no layer that can be seen; its weights must be in nn.Linear, nn.Conv1d or nn.Conv2d"


@pytest.fixture
def train(bnexp, tmp_path, monkeypatch) -> Iterator[Any]:
    """Train a model of the file above with some probes, as its user does."""
    (tmp_path / "own_models.py").write_text(MODELS_FILE)
    (tmp_path / "configs" / "model").mkdir(parents=True)
    for name, options in {
        "tied": "bias: true\ninplace: false\n",
        "tied_head": "",
        "functional": "",
        "bare": "",
    }.items():
        (tmp_path / "configs" / "model" / f"{name}.yaml").write_text(f"name: {name}\n{options}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(model: str, *words: str, probes: list[str], folder: str = "run") -> Any:
        chosen = [f"probes=[{','.join(probes)}]", *(f"probes.{word}.images=40" for word in probes)]
        return bnexp("train", *OWN, f"model={model}", *chosen, *words, f"hydra.run.dir={folder}")

    with MODELS.temporarily():
        yield run
    sys.modules.pop("own_models", None)


def told(folder: str = "run") -> dict[tuple[int, str], float]:
    return {(step, tag.removeprefix("probe/")): value for step, tag, value in metrics.points(Path(folder))}


@pytest.mark.parametrize("words", [(), ("model.bias=false",), ("model.inplace=true",)])
def test_every_probe_measures_a_model_whose_layers_share_a_weight(train, words):
    answer = train("tied", *words, probes=PROBES_OF_ANY_MODEL)
    assert answer.code == 0, answer
    rows = told()
    for probe in set(PROBES_OF_ANY_MODEL) - {"eval_mismatch", "covariance"}:  # of batch norms; of many images
        own = {tag: value for (step, tag), value in rows.items() if step == 2 and tag.startswith(f"{probe}/")}
        assert own, probe
        assert all(math.isfinite(value) for tag, value in own.items() if "slope" not in tag), own
    assert (1, "gradients/norm/first") in rows
    assert (1, "gradients/norm/second") not in rows  # the same weight
    assert (1, "gradients/activation/second") in rows


def test_an_activation_in_place_is_measured_as_one_that_is_not(train):
    for inplace in ("true", "false"):
        words = (f"model.inplace={inplace}",)
        assert train("tied", *words, probes=["quantiles", "signal", "ics"], folder=f"in-{inplace}").code == 0
    assert Path("in-true", "metrics.csv").read_text() == Path("in-false", "metrics.csv").read_text()
    assert told("in-true")[1, "quantiles/q15/first"] < 0  # of the input of a ReLU


def test_the_gradient_of_a_shared_weight_is_that_of_both_its_uses(train):
    assert train("tied", "optim.momentum=0", "data.crop=0", probes=["gradients", "effective_lr"]).code == 0
    rows = told()
    # The step that plain SGD makes is lr times the gradient, whatever layers it came from.
    lr, norm = rows[1, "lr"], rows[1, "gradients/norm/first"]
    length = norm / rows[1, "gradients/relative/first"]
    assert rows[1, "gradients/update/first"] == pytest.approx(lr * norm / length, rel=1e-3)
    assert rows[1, "effective_lr/growth/first"] != 0


def test_a_head_that_shares_its_weight_can_be_measured_and_trained_alone(train):
    assert train("tied_head", probes=["gradients", "effective_lr", "landscape", "sharpness", "ics"]).code == 0
    assert (1, "gradients/norm/head") not in told()
    before = told()
    assert train("tied_head", "trainable=head", probes=["gradients"], folder="head").code == 0
    after = told("head")
    assert after[1, "gradients/update/squeeze"] == 0
    assert after[1, "gradients/update/first"] == before[1, "gradients/update/first"] > 0


OF_ACTIVATIONS = ("quantiles", "saturation", "signal", "rank", "boundaries")


@pytest.mark.parametrize("probe", OF_ACTIVATIONS)
def test_a_probe_of_activations_refuses_a_model_that_calls_functions(train, probe):
    answer = train("functional", probes=[probe])
    assert answer.code == 2
    assert answer.err.startswith(f"bnexp: probes=[{probe}]: {UNSEEN}")
    assert answer.err.count("\n") == 1
    assert not Path("run").exists()


def test_the_other_probes_measure_such_a_model_and_say_what_they_leave_out(train):
    probes = [name for name in PROBES_OF_ANY_MODEL if name not in OF_ACTIVATIONS]
    answer = train("functional", probes=probes)
    assert answer.code == 0, answer
    said = Path("run", "train.log").read_text()
    for probe, left_out in {"gradients": "activation is left out", "ics": "distribution is left out"}.items():
        assert said.count(f"probes={probe}: {UNSEEN}") == 1
        assert left_out in said
    rows = told()
    for quantity in ("gradients/norm/second", "effective_lr/angle/second", "weight_norms/row/second", "ics/l2/head"):
        assert rows[1, quantity] > 0
    assert not any(tag.startswith(("gradients/activation", "ics/distribution")) for _, tag in rows)


def test_a_probe_of_attention_refuses_a_model_without_any(train):
    answer = train("tied", probes=["attention"])
    assert answer.code == 2
    assert answer.err == "bnexp: probes=[attention]: this model has no attention; use model=vit\n"


@pytest.mark.parametrize("probe", ["gradients", "weight_norms"])
def test_a_probe_of_layers_refuses_a_model_without_any(train, probe):
    answer = train("bare", probes=[probe])
    assert (answer.code, answer.err) == (2, f"bnexp: probes=[{probe}]: {NO_LAYER}\n")
    assert not Path("run").exists()


def test_a_probe_of_all_weights_needs_no_layer(train):
    assert train("bare", probes=["landscape", "sharpness"]).code == 0
    rows = told()
    assert rows[1, "sharpness/lambda_max"] > 0
    assert rows[1, "landscape/beta"] > 0
