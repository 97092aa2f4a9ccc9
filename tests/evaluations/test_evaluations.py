"""Evaluations against references that share no code with them; stacked and recorded ones against those one by one."""

from __future__ import annotations

import colorsys
import copy
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL, SMALL_RUN, composed, from_yaml
from measured import measured
from recorders import Again
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from bnexp.config.compose import plain
from bnexp.config.schema import config_hash, to_dict
from bnexp.data import Split
from bnexp.evaluations import Condition, Pixels
from bnexp.evaluations.attack import Ascent
from bnexp.evaluations.corruption import STRENGTHS, blur, brightness, contrast, noise
from bnexp.experiment.setup import Setup, build
from bnexp.models.layers import batch_norms, norm_parameters
from bnexp.norms import NORMS
from bnexp.training.evaluation import evaluate
from bnexp.training.population import Population

CLOSE = {"rtol": 0, "atol": 1e-12}
STACKED = pytest.mark.parametrize("stacked", [False, True], ids=["one_by_one", "stacked"])
EVERYTHING = (
    "evaluations=[corruption,fgsm,pgd,statistics,calibration,tasks]",
    "evaluations.corruption.kinds=[noise,contrast,brightness]",
    "evaluations.corruption.severities=[5]",
    "evaluations.corruption.statistics=[running,precise,batch16,ema0.9]",
    "evaluations.corruption.quantities=[accuracy,ece]",
    "evaluations.fgsm.statistics=[running,batch16]",
    "evaluations.pgd.steps=2",
    "evaluations.statistics.splits=[train_eval,test]",
    "evaluations.tasks.tasks=[[0,9],[3,5,8]]",
    "evaluations.tasks.statistics=[running,batch16]",
    "evaluations.statistics.statistics=[batch9,batch16prior16,tent16,own,own0.25,ema_weights]",
    "ema=[0.9]",
    "ema_weights=0.9",
)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --------------------------------------------------------------------------------------------------------- corruptions


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_blur_is_scipys_gaussian_filter(severity):
    x, sigma = images(3, 2, 9, 8), STRENGTHS["blur"][severity - 1]
    wanted = [[gaussian_filter(map_, sigma, mode="nearest", truncate=4.0) for map_ in image] for image in x.numpy()]
    torch.testing.assert_close(blur(x, sigma), torch.tensor(np.array(wanted)), **CLOSE)


@pytest.mark.parametrize("severity", [1, 5])
def test_brightness_adds_to_the_value_of_hue_saturation_value(severity):
    x, c = images(2, 3, 4, 5), STRENGTHS["brightness"][severity - 1]
    x[0, :, 0, 0] = 0
    before, after = (each.permute(0, 2, 3, 1).reshape(-1, 3) for each in (x, brightness(x, c)))
    for image, found in zip(before, after, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*image.tolist())
        assert found.tolist() == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, min(value + c, 1)), abs=1e-12)
    grey = images(2, 1, 3, 3)
    torch.testing.assert_close(brightness(grey, c), (grey + c).clamp(max=1), **CLOSE)
    torch.testing.assert_close(brightness(grey.flatten(1), c), (grey + c).clamp(max=1).flatten(1), **CLOSE)


def test_contrast_shrinks_towards_the_mean_of_each_channel():
    x = images(2, 3, 4, 5)
    means = x.numpy().mean(axis=(2, 3), keepdims=True)
    wanted = np.clip((x.numpy() - means) * 0.4 + means, 0, 1)
    torch.testing.assert_close(contrast(x, 0.4), torch.tensor(wanted), **CLOSE)
    vector = x.flatten(1)
    wanted = 0.4 * vector.numpy() + 0.6 * vector.numpy().mean(axis=1, keepdims=True)
    torch.testing.assert_close(contrast(vector, 0.4), torch.tensor(wanted), **CLOSE)


def test_noise_has_the_strength_as_its_deviation_and_is_the_same_for_all_severities():
    grey = torch.full((200, 1, 10, 10), 0.5, dtype=torch.float64)
    weak, strong = noise(grey, 0.04) - grey, noise(grey, 0.1) - grey
    assert weak.std().item() == pytest.approx(0.04, rel=0.03)  # five standard errors at 20,000 numbers: 2.5 %
    assert abs(weak.mean().item()) < 5 * 0.04 / math.sqrt(20_000)
    torch.testing.assert_close(weak / 0.04, strong / 0.1, **CLOSE)
    ends = noise(torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(100, 2), 0.1)
    assert (ends.min(), ends.max()) == (0, 1)


# ------------------------------------------------------------------------------------------------------------- attacks


class Softmax(nn.Module):
    """Logits W x, whose gradient is known: dL/dx = W^T (p - onehot)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3, dtype=torch.float64)
        nn.init.normal_(self.head.weight, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


def attacked(w: np.ndarray, x: np.ndarray, y: np.ndarray, *, epsilon: float, rate: float, steps: int) -> np.ndarray:
    moved = x.copy()
    for _ in range(steps):
        odds = np.exp(moved @ w.T)
        p = odds / odds.sum(1, keepdims=True)
        moved = moved + rate * np.sign((p - np.eye(3)[y]) @ w)
        moved = np.clip(np.clip(moved, x - epsilon, x + epsilon), 0.0, 1.0)
    return moved


@STACKED
@pytest.mark.parametrize(("steps", "rate"), [(1, 0.1), (10, 0.025)], ids=["fgsm", "pgd"])
def test_attacks_are_those_of_a_model_whose_gradient_is_known(steps, rate, stacked):
    population = Population([Softmax(seed) for seed in (0, 1)], stacked=stacked)
    x, y = images(50, 6), torch.arange(50) % 3
    same = torch.ones(6, dtype=torch.float64)
    found = Ascent(0.1 * same, rate * same, 0 * same, same, steps)(population, x.expand(2, 50, 6), y.expand(2, 50))
    for row, member in enumerate(population.members):
        w = member.head.weight.detach().numpy()
        wanted = attacked(w, x.numpy(), y.numpy(), epsilon=0.1, rate=rate, steps=steps)
        torch.testing.assert_close(found[row], torch.tensor(wanted), **CLOSE)
    measures = evaluate(population, Split(x, y), 50, attack=lambda *_: found)
    assert measures["accuracy"][0] != evaluate(population, Split(x, y), 50)["accuracy"][0]


def test_a_random_start_is_within_epsilon_and_always_the_same():
    population, same = Population([Softmax(seed) for seed in (0, 1)], stacked=False), torch.ones(6, dtype=torch.float64)
    x, y = images(500, 6), torch.arange(500) % 3
    start = Ascent(0.1 * same, same, 0 * same, same, 0, random_start=True)
    found = start(population, x.expand(2, 500, 6), y.expand(2, 500))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found, start(population, x.expand(2, 500, 6), y.expand(2, 500)))
    moved = (found[0] - x)[(x > 0.1) & (x < 0.9)] / 0.1  # not clipped: uniform in [-1, 1]
    assert moved.abs().max() <= 1 + 1e-12
    assert abs(moved.mean().item()) < 5 * math.sqrt(1 / 3 / len(moved))
    assert moved.square().mean().item() == pytest.approx(1 / 3, rel=5 * math.sqrt(0.8 / len(moved)))
    assert (found.min(), found.max()) == (0, 1)
    climbed = Ascent(0.1 * same, 0.03 * same, 0 * same, same, 10, random_start=True)
    after = climbed(population, x.expand(2, 500, 6), y.expand(2, 500))
    assert (after - x).abs().max() <= 0.1 + 1e-12
    assert not torch.equal(after, found)


def ready(*words: str, members: int = 2, stacked: bool = False) -> Setup:
    """Members whose running statistics have moved, with slots of averaged weights apart from the weights."""
    configs = [plain(composed(*SMALL, "precision=fp64", *words, f"seed={seed}")) for seed in range(members)]
    setup = build(configs, stacked=stacked)
    for step in range(3):
        setup.population(setup.training.batches(step)[0])
    if "average" in setup.training.optimizer.slots:
        setup.training.optimizer.slots["average"].mul_(0.9)
    return setup


@pytest.mark.parametrize("units", ["pixel", "standardized"])
def test_an_epsilon_is_of_pixels_or_of_the_numbers_that_the_model_gets(units):
    words = ("evaluations=[fgsm]", "evaluations.fgsm.epsilons=[0.1]", f"evaluations.fgsm.units={units}")
    setup = ready(*words, "norm=none", members=1)
    data, ((condition,),) = setup.data, [each.conditions(Pixels(setup.data)) for each in setup.evaluations]
    x_MB, y_MB = data.test.batch(slice(0, 40))
    moved_MB = condition.attack(setup.population, x_MB, y_MB)
    pixels, before = (each * data.std[0] + data.mean[0] for each in (moved_MB, x_MB))
    largest = (pixels - before if units == "pixel" else moved_MB - x_MB).abs().max().item()
    assert condition.name == "fgsm0.1"
    assert largest == pytest.approx(0.1, abs=1e-6)
    assert bool(pixels.min() > -1e-6 and pixels.max() < 1 + 1e-6) is (units == "pixel")


# --------------------------------------------------------------------------------------------------------- calibration


def expected_calibration_error(probabilities: list[list[float]], labels: list[int]) -> float:
    """Guo et al. 2017, eq. 3, image by image: intervals ((q - 1) / 15, q / 15]."""
    total = 0.0
    for q in range(1, 16):
        inside = [
            (max(p), p.index(max(p)) == y)
            for p, y in zip(probabilities, labels, strict=True)
            if q - 1 < 15 * max(p) <= q
        ]
        if inside:
            confidence = sum(each for each, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            total += len(inside) / len(labels) * abs(accuracy - confidence)
    return total


@STACKED
@pytest.mark.parametrize("batch_size", [7, 1000])
def test_calibration_is_guos_and_the_loss_the_negative_log_likelihood(batch_size, stacked):
    population = Population([Softmax(seed) for seed in (0, 1)], stacked=stacked)
    split = Split(4 * images(200, 6, seed=3) - 2, torch.arange(200) % 3)
    found = evaluate(population, split, batch_size, calibrated=True)
    for row, member in enumerate(population.members):
        probabilities = member(split.x).softmax(1).tolist()
        wanted = expected_calibration_error(probabilities, split.y.tolist())
        nll = -sum(math.log(p[y]) for p, y in zip(probabilities, split.y.tolist(), strict=True)) / 200
        assert found["ece"][row] == pytest.approx(wanted, abs=1e-12)
        assert found["loss"][row] == pytest.approx(nll, rel=1e-12)
        assert 0.05 < wanted < 0.9


# ---------------------------------------------------------------------------------------------------------- statistics


def network(seed: int, name: str = "bn") -> nn.Module:
    norm = NORMS.bind(from_yaml("norm", name))
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), norm(4), nn.Tanh(), nn.Flatten(), nn.Linear(36, 5), norm(5)).double()
    for layer in batch_norms(model):
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def members(stacked: bool, name: str = "bn") -> Population:
    return Population([network(seed, name) for seed in (0, 1)], stacked=stacked)


def data() -> tuple[Split, Split]:
    """Images, and the same in the order in which batches of statistics see them."""
    split = Split(images(30, 2, 5, 5), torch.arange(30) % 5)
    return split, split.mixed(30)


SIZES = {"batch_size": 30, "train_batch_size": 6}


@STACKED
@pytest.mark.parametrize(("n", "prior"), [(10, 0), (10, 5), (4, 100), (1, 7)])
def test_batch_statistics_are_mixed_with_the_prior(n, prior, stacked):
    word = f"batch{n}prior{prior}" if prior else f"batch{n}"
    split, mixed = data()
    found = measured(members(stacked), {"test": split}, split, word, **SIZES)[f"test/loss_{word}"]

    def normalized(layer: nn.Module, x: Tensor) -> Tensor:
        axes = [0, *range(2, x.ndim)]
        share = prior / (prior + len(x))
        mean = share * layer.running_mean + (1 - share) * x.mean(axes)
        var = share * layer.running_var + (1 - share) * x.var(axes, correction=0)
        return F.batch_norm(x, mean, var, layer.gain, layer.bias, training=False, eps=layer.eps)

    for row in (0, 1):
        conv, first, act, flat, linear, second = network(row).requires_grad_(False)
        logits = [normalized(second, linear(flat(act(normalized(first, conv(x)))))) for x in mixed.x.split(n)]
        assert found[row] == pytest.approx(F.cross_entropy(torch.cat(logits), mixed.y).item(), rel=1e-9)


def test_sorted_batches_come_class_after_class():
    split, _ = data()
    labels = torch.stack([split.y, split.y.roll(1)])  # of two members, for the same images
    found = measured(members(True), {"test": Split(split.x, labels)}, split, "batch6sorted", "tent6sorted", **SIZES)
    for row in (0, 1):
        of_class = [[i for i in range(30) if labels[row, i] == k] for k in range(5)]
        assert [len(each) for each in of_class] == [6] * 5
        model = network(row).train()
        logits = torch.cat([model(split.x[each]) for each in of_class])
        wanted = F.cross_entropy(logits, torch.arange(5).repeat_interleave(6)).item()
        assert found["test/loss_batch6sorted"][row] == pytest.approx(wanted, rel=1e-9)
        assert found["test/loss_tent6sorted"][row] != pytest.approx(wanted, rel=1e-4)


@STACKED
def test_tent_lowers_the_entropy_of_each_batch_after_it_was_answered(stacked):
    split, mixed = data()
    population = members(stacked)
    before = population.theta_MP.clone(), {name: buffer.clone() for name, buffer in population.buffers.items()}
    found = measured(population, {"test": split}, split, "tent10", **SIZES)["test/loss_tent10"]
    for row in (0, 1):
        model = copy.deepcopy(network(row)).train()
        own = [model.get_parameter(name) for name in norm_parameters(model)]
        m, v, logits = [torch.zeros_like(p) for p in own], [torch.zeros_like(p) for p in own], []
        for t, x in enumerate(mixed.x.split(10), 1):
            logits.append(model(x))
            entropy = torch.distributions.Categorical(logits=logits[-1]).entropy().mean()
            for i, (p, g) in enumerate(zip(own, torch.autograd.grad(entropy, own), strict=True)):
                m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g**2
                p.data -= 1e-3 * (m[i] / (1 - 0.9**t)) / ((v[i] / (1 - 0.999**t)).sqrt() + 1e-8)
        assert found[row] == pytest.approx(F.cross_entropy(torch.cat(logits), mixed.y).item(), rel=1e-9)
    assert torch.equal(population.theta_MP, before[0])
    assert all(torch.equal(buffer, before[1][name]) for name, buffer in population.buffers.items())


@STACKED
def test_each_member_weighs_an_images_own_moments_by_the_validation_images(stacked):
    split, _ = data()
    said_by_one = network(1).eval()(split.x).argmax(1)  # whose own moments therefore should not matter
    splits, weights = {"validation": Split(split.x, said_by_one), "test": split}, [2.0**power for power in range(-7, 0)]
    words = ["running", *(f"own{weight}" for weight in weights)]
    found = measured(members(stacked), splits, split, "own", *words, **SIZES)
    best = []
    for row in (0, 1):
        losses = [found[f"validation/loss{end}"][row] for end in ("", *(f"_{word}" for word in words[1:]))]
        best.append(losses.index(min(losses)))
        assert len(set(losses)) == len(losses)
        for split_ in ("validation", "test"):
            wanted = found[f"{split_}/loss{f'_{words[best[-1]]}' if best[-1] else ''}"][row]
            assert found[f"{split_}/loss_own"][row] == wanted
    assert best[0] > best[1]


def test_norms_without_batch_statistics_get_the_same_numbers_but_from_tent():
    split, _ = data()
    words = ("running", "precise", "batch4", "batch4prior9", "own", "own0.5", "tent4")
    found = measured(members(False, "gn"), {"test": split}, split, *words, **SIZES)
    *losses, adapted = [found[f"test/loss{end}"] for end in ("", *(f"_{word}" for word in words[1:]))]
    assert losses == [losses[0]] * 6
    assert adapted != losses[0]


def test_conditions_change_what_is_seen_and_leave_the_images():
    split, _ = data()
    kept = split.x.clone()

    class Same:
        def shown(self, x):
            return x

        scaled = shown

    dark = Condition("dark", lambda pixels: 0.5 * pixels)
    found = measured(
        members(False), {"test": split}, split, "running", "batch6", conditions=(dark,), pixels=Same(), **SIZES
    )
    wanted = measured(members(False), {"test": Split(0.5 * split.x, split.y)}, split, "running", "batch6", **SIZES)
    assert found == {
        f"test/{q}_dark{end}": wanted[f"test/{q}{end}"] for end in ("", "_batch6") for q in ("loss", "accuracy")
    }
    assert torch.equal(split.x, kept)


@STACKED
@pytest.mark.parametrize("word", ["running", "batch7"])
def test_a_task_has_the_images_of_its_classes_and_is_answered_among_them(word, stacked):
    split, _ = data()
    classes, end = [4, 1, 2], "" if word == "running" else f"_{word}"
    task = Condition("task1", classes=tuple(classes))
    found = measured(members(stacked), {"test": split}, split, word, conditions=(task,), **SIZES)
    own = [image for image, label in enumerate(split.y.tolist()) if label in classes]
    part = Split(split.x[own], split.y[own])
    batches = [part] if word == "running" else [part.mixed(18)]
    for row in (0, 1):
        model = network(row).train(word != "running")
        x, y = batches[0].x, batches[0].y.tolist()
        with torch.no_grad():
            logits = torch.cat([model(some) for some in x.split(18 if word == "running" else 7)])[:, classes].numpy()
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        wanted = np.array([classes.index(label) for label in y])
        assert found[f"test/accuracy_task1{end}"][row] == pytest.approx((p.argmax(1) == wanted).mean(), rel=1e-12)
        assert found[f"test/loss_task1{end}"][row] == pytest.approx(-np.log(p[range(18), wanted]).mean(), rel=1e-9)


# --------------------------------------------------------------------------------------------------------------- a run


@pytest.mark.slow
def test_stacked_and_recorded_evaluations_are_those_one_by_one():
    alone, stack = ready("norm=bn", *EVERYTHING), ready("norm=bn", *EVERYTHING, stacked=True)
    before = [matrix.clone() for matrix in (stack.population.theta_MP, *stack.population.buffers.values())]
    wanted, found = alone.evaluate(), stack.evaluate()
    assert len(wanted) > 40
    alone.population.recorder = Again()
    again = [ready_again() for ready_again in (alone.evaluate, alone.evaluate)]
    for other in (found, *again):
        assert other.keys() == wanted.keys()
        for tag, values in wanted.items():
            assert other[tag] == pytest.approx(values, rel=1e-9, abs=1e-12), tag
    after = (stack.population.theta_MP, *stack.population.buffers.values())
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


REFUSED = {
    "evaluations=[fgsm] evaluations.fgsm.splits=[train]": "splits=train: not known; did you mean train_eval? (",
    "evaluations=[fgsm] evaluations.fgsm.splits=[validation] data.validation=0": "needs validation images",
    "evaluations=[fgsm] evaluations.fgsm.epsilons=[0]": "epsilons=0",
    "evaluations=[fgsm] data.whiten=zca": "evaluations=[fgsm]: changes pixels, which data.whiten=zca has mixed",
    "evaluations=[fgsm] evaluations.fgsm.statistics=[batch01]": "statistics=batch01: not known (allowed: running, ",
    "evaluations=[fgsm] evaluations.fgsm.statistics=[batch1]": "[1, 16] gives one value per channel",
    "evaluations=[fgsm] evaluations.fgsm.statistics=[ema0.9]": "statistics=[ema0.9]: needs the setting ema=[0.9]",
    "evaluations=[fgsm] evaluations.fgsm.statistics=[ema_weights]": "needs the setting ema_weights, such as",
    "evaluations=[statistics] norm.affine=false": "statistics=[tent64]: adapts gains and biases of norms",
    "evaluations=[statistics] norm=zca": "statistics=[batch64prior16]: norm=zca keeps covariances, which take no prior",
    "evaluations=[tasks] evaluations.tasks.tasks=[[3]]": "tasks=[[3]]: each needs two labels or more, each label once",
    "evaluations=[tasks] evaluations.tasks.tasks=[[3,3,5]]": "tasks=[[3, 3, 5]]: each needs",
    "evaluations=[tasks] evaluations.tasks.tasks=[[3,10]]": "tasks=[[3, 10]]: each needs two labels or more",
    "evaluations=[tasks] evaluations.tasks.splits=[train_eval]": "splits=[train_eval]: the images of a task are chosen",
    "evaluations=[fgsm] evaluations.fgsm.statistics=[own] data.validation=0": "statistics=[own]: chooses the weight by",
    "evaluations=[fgsm] evaluations.fgsm.statistics=[own0.1] norm=zca": "beside which an image's own moments have no",
    "evaluations=[fgsm] evaluations.fgsm.statistics=[own0]": "statistics=own0: not known (allowed: running, ",
    "evaluations=[corruption] evaluations.corruption.severities=[6]": "severities=6: out of range; allowed is ",
}


@pytest.mark.parametrize(("words", "message"), REFUSED.items(), ids=REFUSED)
def test_what_cannot_be_measured_is_refused_before_the_training(words, message):
    with pytest.raises(ValueError, match=r"^evaluations") as found:
        build([plain(composed(*SMALL, *words.split()))], stacked=False)
    assert message in str(found.value)


def test_runs_without_evaluations_keep_their_hash():
    config = to_dict(plain(composed(*SMALL)))
    older = {key: value for key, value in config.items() if key != "evaluations"}
    assert config["evaluations"] == {}
    assert config_hash(config) == config_hash(older)
    assert config_hash(to_dict(plain(composed(*SMALL, "evaluations=[fgsm]")))) != config_hash(config)


def test_the_command_line_measures_in_training_and_afterwards(tmp_path, monkeypatch, bnexp):
    monkeypatch.chdir(tmp_path)
    words = ("evaluations=[calibration,pgd]", "evaluations.pgd.epsilons=[0.1]", "evaluations.pgd.steps=2")
    trained = bnexp("train", *SMALL_RUN, "norm=bn", "hydra.run.dir=run", *words)
    assert trained.code == 0, trained
    final = json.loads((tmp_path / "run" / "run.json").read_text())["final"]
    assert final["test/accuracy_pgd0.1"] < final["test/accuracy"]
    rows = json.loads(bnexp("evaluate", "run", "--split", "test", "--json").out)["rows"]
    assert list(rows[0]) == ["split", "condition", "statistics", "accuracy", "loss", "ece"]
    (attacked_row,) = [row for row in rows if row["condition"]]
    assert attacked_row["accuracy"] == final["test/accuracy_pgd0.1"]
    assert rows[0]["ece"] == final["test/ece"]
    others = bnexp(
        "evaluate", "run", "--split", "test", "--json", "evaluations=[fgsm]", "evaluations.fgsm.epsilons=[0.02]"
    )
    assert [row["condition"] for row in json.loads(others.out)["rows"]] == ["", "", "", "fgsm0.02"]
    assert "only evaluations can be set here" in bnexp("evaluate", "run", "norm=gn").complaint
