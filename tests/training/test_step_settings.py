"""The settings that change a step, against torch, in float64: one model, models one by one, stacks, recorded steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL_RUN, SWITCHES, composed
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bnexp.config.compose import plain
from bnexp.config.metrics import metric_of
from bnexp.config.schema import config_hash, from_dict, to_dict
from bnexp.experiment.setup import Setup, build
from bnexp.norms import NORMS
from bnexp.runs.run_json import read
from bnexp.training.loop import train
from bnexp.training.optim import OPTIMS, optimizer
from bnexp.training.population import Population
from bnexp.training.precision import Precision
from bnexp.training.step import Noted, RecordedStep, Step

CPU = torch.device("cpu")
EXACT = {"rtol": 0, "atol": 1e-12}
SGD = {"name": "sgd", "nesterov": False, "decay_norm": False, **SWITCHES}
RULE = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05}
STEPS, BATCH, CLASSES = 7, 14, 4
# Some of clip_grad, label_smoothing, accumulate, ema_weights.
SETTINGS: dict[str, dict[str, Any]] = {
    "clipped at each step": {"clip_grad": 0.05},
    "clipped at some steps": {"clip_grad": 0.8},
    "smoothed": {"label_smoothing": 0.3},
    "accumulated": {"accumulate": 4},
    "averaged": {"ema_weights": 0.7},
    "all": {"clip_grad": 0.4, "label_smoothing": 0.1, "accumulate": 3, "ema_weights": 0.9},
}
HOW = {"alone": (1, False), "one_by_one": (3, False), "stacked": (3, True)}


def members(count: int) -> list[nn.Module]:
    """Small networks with a norm of single images, of different weights."""
    torch.manual_seed(0)
    norm = NORMS.bind({"name": "ln", "eps": 1e-5, "affine": True})
    return [nn.Sequential(nn.Linear(5, 7), norm(7), nn.Tanh(), nn.Linear(7, CLASSES)).double() for _ in range(count)]


def batch(step: int, count: int) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(step)
    x = torch.randn(count, BATCH, 5, generator=source, dtype=torch.float64)
    return x, torch.randint(CLASSES, (count, BATCH), generator=source)


def again(work: Callable[[], None]) -> Callable[[], None]:
    """Records by keeping the work."""
    return work


class Recorded:
    """A recorded step, called like the step itself."""

    def __init__(self, step: Step, add: Callable[[Sequence[Noted]], None]) -> None:
        step.population.recorder = again
        ones = torch.ones(STEPS, dtype=torch.float64)
        self.number, self.do = 0, RecordedStep(step, self, ones, add)

    def __call__(self, *given: Any) -> Any:
        if len(given) == 1:  # a step asks for its batch
            return self.batch
        self.batch, self.number = given[:2], self.number + 1
        return self.do(self.number - 1)

    full = 1

    def open(self, number: int) -> int:
        return 1

    def recorded(self, number_1: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        assert number_1.tolist() == [self.number - 1]
        yield self.batch


class Ours:
    """A population that trains by steps of the given settings."""

    def __init__(self, count: int, stacked: bool, recorded: bool, settings: dict[str, Any]) -> None:
        self.population = Population(members(count), stacked=stacked)
        self.rule = optimizer([OPTIMS.bind(SGD | RULE)] * count, self.population)
        self.rule.clip_grad = settings.get("clip_grad")
        if "ema_weights" in settings:
            self.rule.average(settings["ema_weights"])
        self.noted: list[tuple[Tensor, Tensor]] = []
        options = {name: settings[name] for name in ("label_smoothing", "accumulate") if name in settings}
        step = Step(self.population, self.rule, Precision("fp32", count, CPU), **options)
        self.step = Recorded(step, self.note) if recorded else lambda *given: self.note([step(*given)])

    def note(self, noted: Sequence[Noted]) -> None:
        self.noted += [(each.loss_M.clone(), each.logits_MBK) for each in noted]


@pytest.mark.parametrize("recorded", [False, True], ids=["eager", "recorded"])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_does_what_torch_does_with_the_large_batch(name, how, recorded):
    settings, (count, stacked) = SETTINGS[name], HOW[how]
    ours = Ours(count, stacked, recorded, settings)
    theirs = members(count)
    decaying = [[p for key, p in net.named_parameters() if not key.startswith("1.")] for net in theirs]
    rules = [
        torch.optim.SGD([{"params": p}, {"params": list(net[1].parameters()), "weight_decay": 0.0}], **RULE)
        for net, p in zip(theirs, decaying, strict=True)
    ]
    rule_of_averages = get_ema_multi_avg_fn(settings.get("ema_weights", 0.5))
    averages = [AveragedModel(net, multi_avg_fn=rule_of_averages) for net in theirs]
    for net, average in zip(theirs, averages, strict=True):
        average.update_parameters(net)  # the first update copies
    norms = []
    for number in range(STEPS):
        x, y = batch(number, count)
        ours.step(x, y, torch.ones((), dtype=torch.float64))
        loss_M, logits_MBK = ours.noted[-1]
        for row, (net, rule) in enumerate(zip(theirs, rules, strict=True)):
            rule.zero_grad()
            logits = net(x[row])
            loss = F.cross_entropy(logits, y[row], label_smoothing=settings.get("label_smoothing", 0.0))
            loss.backward()
            torch.testing.assert_close(loss_M[row], loss.detach(), **EXACT)
            torch.testing.assert_close(logits_MBK[row], logits.detach(), **EXACT)
            for key, raw in ours.population.gradients():  # not clipped, as probes read it
                torch.testing.assert_close(raw[row], net.get_parameter(key).grad, **EXACT)
            if "clip_grad" in settings:
                norms.append(nn.utils.clip_grad_norm_(net.parameters(), settings["clip_grad"]).item())
            rule.step()
            averages[row].update_parameters(net)
            for key, stack in ours.population.parameters():
                torch.testing.assert_close(stack[row], net.get_parameter(key).detach(), **EXACT)
    if name == "clipped at some steps":
        assert min(norms) < settings["clip_grad"] < max(norms)
    if "ema_weights" in settings:
        ours.population.theta_MP.copy_(ours.rule.slots["average"])
        for row, average in enumerate(averages):
            for key, stack in ours.population.parameters():
                torch.testing.assert_close(stack[row], average.module.get_parameter(key).detach(), **EXACT)


def test_only_trained_parameters_count_in_the_norm_of_a_gradient():
    settings = {"clip_grad": 0.05, "ema_weights": 0.5}
    ours, (net,) = Ours(1, False, False, settings), members(1)
    start = copy.deepcopy(net.state_dict())
    ours.rule.freeze((ours.population.mask_P(["3.weight", "3.bias"]) == 0).unsqueeze(0))
    rule = torch.optim.SGD(net[3].parameters(), **RULE)
    for number in range(STEPS):
        x, y = batch(number, 1)
        ours.step(x, y, torch.ones((), dtype=torch.float64))
        net.zero_grad()
        F.cross_entropy(net(x[0]), y[0]).backward()
        nn.utils.clip_grad_norm_(net[3].parameters(), 0.05)
        rule.step()
    for key, stack in ours.population.parameters():
        torch.testing.assert_close(stack[0], net.get_parameter(key).detach(), **EXACT)
    ours.population.theta_MP.copy_(ours.rule.slots["average"])
    for key, stack in ours.population.parameters():
        assert torch.equal(stack[0], start[key]) == (not key.startswith("3."))


def test_a_member_that_overflows_is_left_out_and_keeps_its_average():
    ours = Ours(3, False, False, {"clip_grad": 0.05, "ema_weights": 0.5})
    x, y = batch(0, 3)
    ours.step(x, y, torch.ones((), dtype=torch.float64))
    before = copy.deepcopy([ours.population.theta_MP, *ours.rule.slots.values()])
    ours.population.gradient_MP[1, 3] = torch.inf
    ours.rule.step(torch.ones((), dtype=torch.float64), torch.tensor([True, False, True]))
    for now, old in zip([ours.population.theta_MP, *ours.rule.slots.values()], before, strict=True):
        assert torch.equal(now[1], old[1])
        assert not torch.equal(now[0], old[0])
        assert bool(now.isfinite().all())


def test_fp16_scales_and_clips_as_torchs_grad_scaler_does():
    ours, (net,) = Ours(1, False, False, {"clip_grad": 0.05, "accumulate": 2}), members(1)
    ours.step.precision = Precision("fp16", 1, CPU)
    rule, scaler = torch.optim.SGD(net.parameters(), **RULE | {"weight_decay": 0.0}), torch.amp.GradScaler("cpu")
    ours.rule.decay_MP = None
    start = ours.population.theta_MP.clone()
    for number in range(3):
        x, y = batch(number, 1)
        ours.step(x, y, torch.ones(()))
        rule.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = F.cross_entropy(net(x[0]).float(), y[0])
        scaler.scale(loss).backward()
        scaler.unscale_(rule)
        nn.utils.clip_grad_norm_(net.parameters(), 0.05)
        scaler.step(rule)
        scaler.update()
    moved = (ours.population.theta_MP - start).norm()
    for key, stack in ours.population.parameters():
        assert (stack[0] - net.get_parameter(key)).norm() < 0.02 * moved


class Saved:
    """A tensor that a graph keeps for its backward pass; counts the bytes that all of them hold at once."""

    live = most = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        Saved.live += tensor.nbytes
        Saved.most = max(Saved.most, Saved.live)

    def __del__(self) -> None:
        Saved.live -= self.tensor.nbytes


def test_one_graph_lives_at_a_time():
    x, y = (torch.cat(many, 1) for many in zip(*(batch(number, 1) for number in range(60)), strict=True))
    most = []
    for parts in (1, 4):
        ours, Saved.most = Ours(1, False, False, {"accumulate": parts}), 0
        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
            ours.step(x, y, torch.ones(()))
        assert Saved.live == 0
        most.append(Saved.most)
    assert most[1] < 0.3 * most[0]


# --- norms with batch statistics --------------------------------------------------------------------------------------


def setup_of(*words: str, seeds: int = 1, stacked: bool = False) -> Setup:
    configs = [plain(composed(*SMALL_RUN, "norm=bn", *words, f"seed={seed}")) for seed in range(seeds)]
    return build(configs, stacked=stacked)


def trained(*words: str, **how: Any) -> tuple[Setup, dict[str, Any]]:
    """A training, and the values of its last record."""
    setup = setup_of(*words, **how)
    *_, last = train(setup.training, setup.evaluate, setup, stop=lambda: False)
    return setup, dict(last.values)


@pytest.mark.parametrize("stacked", [False, True], ids=["one_by_one", "stacked"])
def test_batch_norm_sees_each_micro_batch(stacked):
    setup = setup_of("accumulate=4", "steps=1", "precision=fp64", seeds=2, stacked=stacked)
    nets = copy.deepcopy(setup.population.members)
    x_MB, y_MB = setup.training.batches(0)
    (record,) = train(setup.training, dict, stop=lambda: False)
    for row, net in enumerate(nets):
        net.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64)
        for x, y in zip(x_MB[row].split([8, 7, 7, 7]), y_MB[row].split([8, 7, 7, 7]), strict=True):
            loss = F.cross_entropy(net(x), y, reduction="sum") / 29
            loss.backward()
            total += loss.detach()
        assert record.values["train/loss"][row] == pytest.approx(total.item(), rel=1e-12)
        for key, stack in setup.population.gradients():
            torch.testing.assert_close(stack[row], net.get_parameter(key).grad, **EXACT)
        for key, stack in setup.population.buffers.items():
            torch.testing.assert_close(stack[row], net.get_buffer(key), **EXACT)


def test_a_norm_with_a_schedule_knows_how_many_micro_batches_come():
    steps = {
        words: setup_of("norm=batch_renorm", *words, "steps=5").population.members[0].hidden1.norm.steps
        for words in ((), ("accumulate=3",))
    }
    assert list(steps.values()) == [5, 15]


def test_precise_statistics_take_batches_as_large_as_the_norm_sees():
    setup = setup_of("accumulate=3")
    assert setup._batch_sizes()["train_batch_size"] == 10


@pytest.mark.parametrize("stacked", [False, True], ids=["one_by_one", "stacked"])
def test_averaged_weights_are_evaluated_with_their_own_statistics(stacked):
    """There is one norm, behind the first linear map: its population statistics are moments of that map's outputs."""
    words = ("ema_weights=0.6", "data.validation=0.2", "epochs=1", "eval_train=150", "optim.lr=0.5", "precision=fp64")
    setup, values = trained(*words, seeds=2, stacked=stacked)
    state = {name: buffer.clone() for name, buffer in setup.population.buffers.items()}
    average = setup.training.optimizer.slots["average"]
    for row, member in enumerate(setup.population.members):
        net = copy.deepcopy(member)
        for name, parameter in net.named_parameters():
            parameter.data = setup.population._slots[name].view(average)[row].clone()
        var, mean = torch.var_mean(net.hidden1.linear(setup.data.train.mixed(150).x.flatten(1)), 0, correction=0)
        net.hidden1.norm.set_running(mean, var)
        net.eval()
        for name, split in (("validation", setup.data.validation), ("test", setup.data.test)):
            with torch.no_grad():
                logits = net(split.x)
            loss, right = F.cross_entropy(logits, split.y), (logits.argmax(1) == split.y).double().mean()
            assert values[f"{name}/loss_ema_weights"][row] == pytest.approx(loss.item(), rel=1e-10)
            assert values[f"{name}/accuracy_ema_weights"][row] == right.item()
            assert values[f"{name}/loss_ema_weights"][row] != values[f"{name}/loss"][row]
            assert metric_of(f"{name}/accuracy_ema_weights") == metric_of(f"{name}/accuracy")
    before = setup.population.theta_MP.clone()
    setup.evaluate()
    assert torch.equal(before, setup.population.theta_MP)
    assert all(torch.equal(buffer, state[name]) for name, buffer in setup.population.buffers.items())


def test_evaluate_has_a_row_for_averaged_weights(tmp_path, bnexp):
    words = (*SMALL_RUN, "norm=bn", "ema_weights=0.5", "optim.momentum=0.5", f"hydra.run.dir={tmp_path / 'run'}")
    assert bnexp("train", *words).code == 0
    answer = bnexp("evaluate", str(tmp_path / "run"), "--split", "test")
    (row,) = [line.split() for line in answer.out.splitlines() if "ema_weights" in line]
    final = read(tmp_path / "run")["final"]
    shown = [f"{final[f'test/{quantity}_ema_weights']:.4f}" for quantity in ("accuracy", "loss")]
    assert row == ["test", "ema_weights", *shown]


def test_the_loss_of_probes_is_the_loss_that_is_trained():
    words = ("label_smoothing=0.4", "probes=[landscape]", "probes.landscape.steps=[1e-9]", "steps=1")
    setup = setup_of(*words)
    net, (x, y) = copy.deepcopy(setup.population.members[0]), setup.training.batches(0)
    *_, record = train(setup.training, dict, setup, stop=lambda: False)
    loss = F.cross_entropy(net(x[0]), y[0], label_smoothing=0.4).item()
    assert record.values["probe/landscape/loss_min"] == record.values["train/loss"] == [pytest.approx(loss, rel=1e-5)]


def test_settings_at_their_neutral_values_make_no_other_run():
    config = to_dict(plain(composed(*SMALL_RUN)))
    neutral = {"clip_grad": None, "clip_adaptive": None, "label_smoothing": 0.0, "accumulate": 1, "ema_weights": None}
    older = {key: value for key, value in config.items() if key not in neutral}
    older["optim"] = {key: value for key, value in config["optim"].items() if key not in SWITCHES}
    assert config_hash(older) == config_hash(config)
    assert to_dict(from_dict(older)) == config
    for key, value in {
        "clip_grad": 1.0,
        "clip_adaptive": 0.01,
        "label_smoothing": 0.1,
        "accumulate": 2,
        "ema_weights": 0.9,
    }.items():
        assert config_hash(config | {key: value}) != config_hash(config)
    for key, value in {"decay_bias": False, "decay_weight": False, "decay_gain": False}.items():
        assert config_hash(config | {"optim": config["optim"] | {key: value}}) != config_hash(config)
