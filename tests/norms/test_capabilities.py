"""What the record of each norm says is what its layer does, flag by flag: those that hold and those that do not."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, get_args

import pytest
import torch
from conftest import SMALL_RUN, composed, from_yaml
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from bnexp.config.capabilities import Capabilities, Rank
from bnexp.config.compose import plain
from bnexp.config.schema import TrainConfig
from bnexp.experiment import machine
from bnexp.experiment.check import check
from bnexp.experiment.choices import bind
from bnexp.models import MODELS, Units
from bnexp.models.unit import Unit
from bnexp.norms import NORMS, Branch, Norm
from bnexp.norms.none import Shift
from bnexp.training.population import Population
from bnexp.training.precision import Precision

CHANNELS, BATCH = 16, 64
SHAPES: dict[Rank, tuple[int, ...]] = {"vectors": (CHANNELS,), "sequences": (CHANNELS, 12), "maps": (CHANNELS, 6, 6)}
LINEAR = {"vectors": nn.Linear, "sequences": nn.Conv1d, "maps": nn.Conv2d}
# Operations whose answer, or whose shape, the program on the CPU must wait for; a CUDA graph cannot record them.
WAITING = (
    "_local_scalar_dense",
    "item",
    "nonzero",
    "masked_select",
    "is_nonzero",
    "equal",
    "_linalg_eigh",
    "_linalg_svd",
)

every_norm = pytest.mark.parametrize("name", list(NORMS))


def unit_of(name: str, rank: Rank) -> Unit:
    """A fresh unit of the norm with the options of its yaml, the same at each call."""
    torch.manual_seed(0)
    units = Units(NORMS.bind(from_yaml("norm", name)), "identity", "before")
    kernel = () if rank == "vectors" else (1,)
    linear = LINEAR[rank](CHANNELS, CHANNELS, *kernel, bias=units.bias)
    return Unit(linear, units.behind(linear, CHANNELS), units.act(), after=False).double()


def layer_of(name: str, **context: Any) -> Norm:
    """A fresh norm with random gains and biases, the same at each call."""
    norm = NORMS.bind(from_yaml("norm", name))(CHANNELS, **context).double()
    torch.manual_seed(0)
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return norm


def images(rank: Rank, count: int = BATCH) -> Tensor:
    return torch.randn(BATCH, *SHAPES[rank], dtype=torch.float64, generator=torch.Generator().manual_seed(1))[:count]


def answer(name: str, rank: Rank, batch: int) -> Tensor | None:
    """What a unit answers for the first sample of a training batch; None where the norm refuses."""
    try:
        return unit_of(name, rank)(images(rank, batch))[0].detach()
    except ValueError:
        return None


def treatment(name: str, rank: Rank) -> str:
    unit = unit_of(name, rank)
    try:
        unit(images(rank))
    except ValueError:
        return "refused"
    skipped = any(layer.skipped for layer in unit.modules() if isinstance(layer, Norm))
    return "skipped" if skipped else "defined"


@every_norm
def test_ranks(name):
    record = NORMS.capabilities(name)
    said = {rank: "defined" if rank in record.ranks else record.elsewhere for rank in get_args(Rank)}
    assert said == {rank: treatment(name, rank) for rank in SHAPES}


def on_a_batch_of_one(name: str, rank: Rank) -> str:
    alone, among = answer(name, rank, 1), answer(name, rank, BATCH)
    if alone is None:
        return "refused"
    return "same" if among is not None and torch.allclose(alone, among, rtol=1e-10, atol=1e-10) else "differ"


@every_norm
def test_batch_of_one(name):
    assert NORMS.capabilities(name).batch_of_one == tuple(on_a_batch_of_one(name, rank) for rank in ("vectors", "maps"))


class Calls(TorchDispatchMode):
    """Notes the operations that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, given: Any = (), keywords: Any = None) -> Any:
        self.names.add(operation.overloadpacket.__name__)
        return operation(*given, **(keywords or {}))


@every_norm
def test_graph(name):
    unit, x = unit_of(name, "maps"), images("maps").requires_grad_()
    with Calls() as calls:
        for _ in range(2):
            unit(x).sin().sum().backward()
    assert "convolution" in calls.names
    assert NORMS.capabilities(name).graph == calls.names.isdisjoint(WAITING)


@every_norm
def test_stacks(name):
    members = [unit_of(name, "maps") for _ in range(3)]
    parameters, buffers = stack_module_state(members)
    x_M = torch.stack([images("maps").roll(shift, 0) for shift in range(3)])
    try:
        y_M = vmap(lambda p, b, x: functional_call(members[0], (p, b), (x,)))(parameters, buffers, x_M)
        alike = torch.allclose(y_M, torch.stack([unit(x) for unit, x in zip(members, x_M, strict=True)]))
    except RuntimeError:
        alike = False
    assert NORMS.capabilities(name).stacks == alike


@every_norm
def test_fused(name, count_stack):
    def learnt(members: int) -> Any:
        units = Units(NORMS.bind(from_yaml("norm", name)), "relu", "before")
        net = {"name": "resnet", "depth": 8, "width": 8}
        population = Population([MODELS.bind(net)((3, 12, 12), 10, units) for _ in range(members)], stacked=members > 1)
        x_MB, y_MB = torch.randn(members, 24, 3, 12, 12), torch.zeros(members, 24, dtype=torch.int64)
        with count_stack.Count() as count:
            population.learn(x_MB, y_MB, Precision("fp32", members, torch.device("cpu")))
        return count

    one, three = learnt(1), learnt(3)
    few = three.kernels.total() <= 1.1 * one.kernels.total() and three.bytes.total() <= 1.05 * 3 * one.bytes.total()
    assert NORMS.capabilities(name).fused == few


@every_norm
@pytest.mark.parametrize("rank", SHAPES)
def test_restorable(name, rank):
    layer, x = layer_of(name), 3 * images(rank) + 2
    try:
        layer.restore(x)
        restored = torch.allclose(layer(x), x, rtol=0, atol=1e-10)
    except NotImplementedError:
        restored = False
    assert NORMS.capabilities(name).restorable == restored


@every_norm
def test_as_bn(name):
    layer, x = layer_of(name).eval(), 3 * images("maps") + 2
    mean, var, gain, bias = (
        torch.rand(4, CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 0.5
    )
    try:
        layer.load_state_dict({"running_mean": mean, "running_var": var, "gain": gain, "bias": bias}, strict=False)
        same = torch.allclose(
            layer(x), nn.functional.batch_norm(x, mean, var, gain, bias, eps=1e-5), rtol=0, atol=1e-12
        )
    except RuntimeError:  # its buffers have other shapes
        same = False
    assert NORMS.capabilities(name).as_bn == same


@pytest.fixture(scope="module")
def restoring() -> TrainConfig:
    return plain(composed("affine=identity"))


@every_norm
def test_identity_is_refused_before_anything_is_built(name, restoring):
    config = replace(restoring, norm=from_yaml("norm", name))
    if NORMS.capabilities(name).restorable:
        assert bind(config).affine().restore
    else:
        sentence = rf"^affine=identity: no gain and bias make norm={name} the identity \(allowed norms: [a-z_, ]*bn\)$"
        with pytest.raises(ValueError, match=sentence):
            bind(config)
    bind(replace(config, init_from="elsewhere"))  # gains and biases are the other run's


@every_norm
def test_bias_in_linear(name):
    """The same bias, kept by the norm or given to the linear map, makes the same function, whatever the gain."""
    answers = []
    for gives in (True, False):
        torch.manual_seed(0)
        linear, norm = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False).double(), layer_of(name)
        norm.attach(linear)
        a_number_a_channel = norm.bias is not None and norm.bias.shape == (CHANNELS,)
        if gives and a_number_a_channel:
            norm.give_bias(linear)
        answers.append(norm(linear(images("maps"))))
    record = NORMS.capabilities(name)
    assert record.bias_in_linear == (a_number_a_channel and torch.allclose(*answers, rtol=0, atol=1e-10))
    unit = unit_of(name, "maps")
    assert record.bias_in_linear == (unit.linear.bias is not None) == (unit.norm.bias is None)


@every_norm
def test_length_dependent(name):
    answers = []
    for steps in (4, 1000):
        layer = layer_of(name, steps=steps)
        answers.append([layer(images("maps") + batch) for batch in range(4)][-1])
    assert NORMS.capabilities(name).length_dependent != torch.allclose(*answers, rtol=0, atol=1e-10)


@every_norm
def test_needs_branches(name):
    """Without a branch such a norm only shifts; at the end of one it has more parameters."""
    inside, outside = layer_of(name, branch=Branch(5, 2, last=True)), layer_of(name, branch=None)
    other = inside.state_dict().keys() != outside.state_dict().keys()
    assert NORMS.capabilities(name).needs_branches == other
    if other:
        x = images("maps")
        torch.testing.assert_close(outside(x) - x, (outside(x) - x)[:1, :, :1, :1].expand_as(x))


def test_every_flag_has_a_test():
    assert {f"test_{field.name}" for field in fields(Capabilities)} - set(globals()) == {"test_elsewhere"}  # in ranks


def test_a_norm_without_a_record_is_of_the_ordinary_kind():
    with NORMS.temporarily():
        NORMS.register("plain")(Shift)
        assert NORMS.capabilities("plain") == Capabilities()
    with pytest.raises(ValueError, match=r"^norm=plain: not known"):
        NORMS.capabilities("plain")


@pytest.mark.parametrize("norm", ["zca", "bn"])
def test_a_graph_is_refused_with_a_norm_that_waits(norm, monkeypatch):
    monkeypatch.setattr(machine, "pick_device", lambda name: torch.device("cuda"))
    config = plain(composed(f"norm={norm}", "graph=true"))
    if norm == "bn":
        assert machine.prepare_machine(config).type == "cuda"
        return
    with pytest.raises(
        ValueError, match=r"^graph=true: norm=zca waits for the device .*; use graph=auto, graph=false$"
    ):
        machine.prepare_machine(config)


def test_a_norm_without_a_rule_for_members_is_found_before_anything_starts():
    with NORMS.temporarily():
        NORMS.register("lonely", Capabilities(stacks=False))(Shift)
        config = plain(composed("norm=bn", *SMALL_RUN))
        assert check([config]).unstackable is None
        config.norm = {"name": "lonely"}
        assert check([config]).unstackable == "norm=lonely: has no rule for the members of a population"
