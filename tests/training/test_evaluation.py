from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import composed, from_yaml
from measured import kinds
from measured import measured as measured_under
from torch import Tensor, nn

from bnexp.config.compose import plain
from bnexp.data import Split
from bnexp.experiment.setup import build
from bnexp.models.dropout import Dropout
from bnexp.models.layers import batch_norms, largest_map
from bnexp.norms import NORMS, BatchStatistics
from bnexp.randomness import seed_streams
from bnexp.training.evaluation import evaluate
from bnexp.training.population import Population
from bnexp.training.statistics import precise_statistics

N, CLASSES = 37, 4
EXACT = {"rtol": 0, "atol": 1e-12}
EXECUTORS = pytest.mark.parametrize("stacked", [False, True], ids=["one_by_one", "stacked"])


def norm(name: str, channels: int) -> nn.Module:
    return NORMS.bind(from_yaml("norm", name))(channels)


def network(name: str = "bn", seed: int = 0) -> nn.Module:
    """The first norm stands on the images themselves, the second behind a convolution of what it makes of them."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        norm(name, 3), nn.Tanh(), Dropout(0.4), nn.Conv2d(3, 5, 3), norm(name, 5), nn.Flatten(), nn.Linear(20, CLASSES)
    )
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -1, 1)
    seed_streams(model, seed)
    return model.double()


def population(name: str = "bn", *, members: int = 2, stacked: bool = False) -> Population:
    """With running statistics that a few training batches have moved."""
    built = Population([network(name, seed) for seed in range(members)], stacked=stacked)
    with torch.no_grad():
        for _ in range(3):
            built(torch.randn(members, 8, 3, 4, 4, dtype=torch.float64))
    return built


def split(seed: int = 0) -> Split:
    """Sorted, so that batches differ far more than the images of one."""
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(N, 3, 4, 4, generator=source, dtype=torch.float64)
    x = x + torch.linspace(-5, 5, N, dtype=torch.float64).view(N, 1, 1, 1)
    return Split(x, torch.randint(CLASSES, (N,), generator=source))


def everything(pop: Population) -> dict[str, Tensor]:
    settings = [float(layer.training) for net in pop.networks() for layer in net.modules()]
    sources = [float(layer.source == "running") for net in pop.networks() for layer in batch_norms(net)]
    hooks = [len(layer._forward_pre_hooks) for net in pop.networks() for layer in net.modules()]
    numbers = {
        "hooks": torch.tensor(hooks),
        "theta": pop.theta_MP,
        "settings": torch.tensor(settings),
        "sources": torch.tensor(sources),
    }
    return {name: tensor.clone() for name, tensor in (numbers | pop.buffers).items()}


def assert_unchanged(pop: Population, before: dict[str, Tensor]) -> None:
    for name, tensor in everything(pop).items():
        assert torch.equal(tensor, before[name]), name


def pooled(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel over all there is."""
    flat = x.transpose(0, 1).flatten(1)
    return flat.mean(1), ((flat - flat.mean(1, keepdim=True)) ** 2).mean(1)


# --------------------------------------------------------------------------------------------------- loss and accuracy


@EXECUTORS
@pytest.mark.parametrize("batch_size", [1, 10, N, 1000])
def test_loss_and_accuracy_are_means_over_single_images(batch_size, stacked):
    pop, data = population(stacked=stacked), split()
    measured = evaluate(pop, data, batch_size)
    for row, member in enumerate(pop.members):
        member.eval()
        losses, hits = [], []
        for x, y in zip(data.x, data.y, strict=True):
            probabilities = member(x[None])[0].softmax(0)
            losses.append(-probabilities[y].log().item())
            hits.append(probabilities.argmax().item() == y.item())
        assert measured["loss"][row] == pytest.approx(sum(losses) / N, rel=1e-6)
        assert measured["accuracy"][row] == sum(hits) / N
    assert 0 < measured["accuracy"][0] < 1


@EXECUTORS
@pytest.mark.parametrize("name", ["bn", "bn_scratch", "gn", "none"])
def test_evaluating_changes_nothing(name, stacked):
    pop, data = population(name, stacked=stacked), split()
    pop.train()
    before = everything(pop)
    evaluate(pop, data, 10)
    assert_unchanged(pop, before)
    measured_under(pop, {"test": data}, split(1), "running", "precise", batch_size=10, train_batch_size=5)
    assert_unchanged(pop, before)
    kinds(pop, data, split(1), batch_size=10, train_batch_size=5)
    assert_unchanged(pop, before)


# -------------------------------------------------------------------------------------------------- precise statistics


@pytest.mark.parametrize("name", ["bn", "bn_scratch"])
@pytest.mark.parametrize("batch_size", [5, 10, N])
@pytest.mark.parametrize("spatial", [(), (2, 3)])
def test_precise_statistics_are_the_moments_of_all_images(spatial, batch_size, name):
    x = 3 + torch.linspace(-5, 5, N, dtype=torch.float64).view(N, 1, *[1] * len(spatial))
    x = x + torch.randn(N, 3, *spatial, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pop = Population([nn.Sequential(norm(name, 3), nn.Flatten(), nn.Linear(x[0].numel(), 2)).double()])
    mean, var = pooled(x)
    within = torch.stack([pooled(part)[1] for part in x.split(batch_size)]).mean(0)
    with precise_statistics(pop, Split(x, torch.zeros(N, dtype=torch.int64)), batch_size):
        layer = pop.members[0][0]
        torch.testing.assert_close(layer.running_mean, mean, **EXACT)
        torch.testing.assert_close(layer.running_var, var, **EXACT)
        assert batch_size == N or (var > 2 * within).all()  # what a mean of variances would miss


def test_precise_statistics_are_exact_far_from_zero_in_single_precision():
    x = 1000 + 0.1 * torch.randn(4000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pop = Population([nn.Sequential(norm("bn", 1), nn.Linear(1, 2))])
    data = Split(x.float(), torch.zeros(4000, dtype=torch.int64))
    with precise_statistics(pop, data, 100):
        torch.testing.assert_close(
            pop.buffers["0.running_var"][0].double(), pooled(data.x.double())[1], rtol=1e-4, atol=0
        )


@EXECUTORS
def test_deeper_layers_are_fed_by_batch_statistics_and_without_dropout(stacked):
    pop, data = population(stacked=stacked), split()
    with precise_statistics(pop, data, 7):
        for member in pop.members:
            first, act, _, conv, second, *_ = member
            gain, bias = first.gain, first.bias
            hidden = [conv(act(F.batch_norm(x, None, None, gain, bias, training=True))) for x in data.x.split(7)]
            mean, var = pooled(torch.cat(hidden).detach())
            torch.testing.assert_close(second.running_mean, mean, **EXACT)
            torch.testing.assert_close(second.running_var, var, **EXACT)


@EXECUTORS
def test_running_statistics_are_put_back_also_after_an_exception(stacked):
    pop = population(stacked=stacked)
    before = everything(pop)

    def fail_inside() -> None:
        with precise_statistics(pop, split(), 6):
            assert not torch.equal(pop.buffers["0.running_mean"], before["0.running_mean"])
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail_inside()
    assert_unchanged(pop, before)


@pytest.mark.parametrize(("count", "sizes"), [(11, [5, 6]), (12, [5, 5, 2])])
def test_a_single_image_left_over_counts_with_the_batch_before_it(count, sizes):
    torch.manual_seed(0)
    first, second = norm("bn", 4), norm("bn", 2)
    pop = Population([nn.Sequential(first, nn.Linear(4, 2), second).double()])
    x = torch.randn(count, 4, dtype=torch.float64)
    hidden = [pop.members[0][1](F.batch_norm(part, None, None, training=True)) for part in x.split(sizes)]
    with precise_statistics(pop, Split(x, torch.zeros(count, dtype=torch.int64)), 5):
        torch.testing.assert_close(second.running_mean, torch.cat(hidden).mean(0).detach(), **EXACT)
        torch.testing.assert_close(second.running_var, torch.cat(hidden).var(0, correction=0).detach(), **EXACT)


def test_fewer_images_than_a_batch_are_all_used():
    pop, data = population(), split()
    with precise_statistics(pop, data, 1000):
        torch.testing.assert_close(pop.members[0][0].running_mean, pooled(data.x)[0], **EXACT)


# ---------------------------------------------------------------------------------------------- what an evaluation says


def with_statistics(member: nn.Module, statistics: list[tuple[Tensor, Tensor]], data: Split) -> float:
    """The loss of a member whose norms use the given statistics."""
    for layer, (mean, var) in zip(batch_norms(member), statistics, strict=True):
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(var)
    return F.cross_entropy(member.eval()(data.x), data.y).item()


@EXECUTORS
def test_the_three_kinds_use_running_precise_and_batch_statistics(stacked):
    pop, train, test = population(stacked=stacked), split(), split(1)
    found = kinds(pop, test, train, batch_size=10, train_batch_size=8)
    mixed = test.mixed(N)
    for row in range(2):
        member = population().members[row]
        running = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in batch_norms(member)]
        with precise_statistics(pop, train, 8):
            precise = [(at.running_mean.clone(), at.running_var.clone()) for at in batch_norms(pop.members[row])]
        assert found["running"]["loss"][row] == pytest.approx(with_statistics(member, running, test), rel=1e-6)
        assert found["precise"]["loss"][row] == pytest.approx(with_statistics(member, precise, test), rel=1e-6)
        batches = [
            F.cross_entropy(_in_training_without_dropout(member, x), y, reduction="sum")
            for x, y in zip(mixed.x.split(8), mixed.y.split(8), strict=True)
        ]
        assert found["batch"]["loss"][row] == pytest.approx(sum(batches).item() / N, rel=1e-6)
        assert len({values["loss"][row] for values in found.values()}) == 3


def _in_training_without_dropout(member: nn.Module, x: Tensor) -> Tensor:
    member.train()
    member[2].eval()
    with torch.no_grad():
        return member(x)


def test_a_single_image_left_over_is_evaluated_with_the_batch_before_it():
    def pop() -> Population:
        torch.manual_seed(0)
        return Population([nn.Sequential(nn.Linear(3, 4), norm("bn", 4), nn.Linear(4, CLASSES))])

    source = torch.Generator().manual_seed(0)
    data = Split(torch.randn(11, 3, generator=source), torch.randint(CLASSES, (11,), generator=source))
    found = kinds(pop(), data, data, batch_size=5, train_batch_size=5)
    data = data.mixed(11)
    first, second = (F.cross_entropy(pop()(data.x[None, part])[0], data.y[part]) for part in (slice(5), slice(5, 11)))
    assert found["batch"]["loss"][0] == pytest.approx((5 * first + 6 * second).item() / 11, rel=1e-5)
    running = evaluate(pop(), data, 11)
    assert found["running"]["accuracy"] == running["accuracy"]


def test_all_norms_have_the_same_curves_and_those_without_batch_statistics_the_same_numbers_twice():
    tags = {"test/loss", "test/accuracy", "test/loss_precise", "test/accuracy_precise"}
    sizes = {"batch_size": 10, "train_batch_size": 6}
    bn, gn = (
        measured_under(population(name), {"test": split(1)}, split(), "running", "precise", **sizes)
        for name in ("bn", "gn")
    )
    assert bn.keys() == gn.keys() == tags
    assert gn["test/loss"] == gn["test/loss_precise"]
    found = kinds(population("bn"), split(1), split(), **sizes)
    assert (bn["test/loss"], bn["test/loss_precise"]) == (found["running"]["loss"], found["precise"]["loss"])


def test_norms_of_batches_are_found_wherever_they_stand():
    assert len(batch_norms(nn.Sequential(network("bn"), network("bn_scratch")))) == 4
    assert batch_norms(network("ln")) == []
    assert all(isinstance(layer, BatchStatistics) for layer in batch_norms(network("bn")))


def test_too_few_images_for_precise_statistics_are_refused_before_the_training():
    words = ("norm=zca", "norm.group_size=4", "batch_size=20", "data.train_limit=40", "data.size=null", "model=mlp")
    build([plain(composed(*words, "eval_train=8"))], stacked=False)
    with pytest.raises(
        ValueError,
        match=r"^norm=zca: .* 7 values per channel.*, or a larger eval_train than 7 \(layer hidden1\.norm\)$",
    ):
        build([plain(composed(*words, "eval_train=7"))], stacked=False)


def test_the_largest_map_is_found_and_nothing_is_changed():
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert largest_map(model, split().x[:2]) == 3 * 4 * 4
    assert largest_map(nn.Sequential(nn.Linear(4, 70), nn.Tanh(), nn.Linear(70, 2)), torch.ones(1, 4)) == 70
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert model.training
    assert not any(layer._forward_pre_hooks for layer in model.modules())


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (("model=lenet",), 2**21 // (6 * 28 * 28)),
        (("model=mlp",), 1000),
        (("model=mlp", "norm=weight_norm"), 1000),
        (("model=lenet", "norm=weight_standardization"), 2**21 // (6 * 28 * 28)),
        (("model=lenet", "eval_batch_size=7"), 7),
        (("model=rnn", "data.size=null"), 1000),
    ],
)
def test_evaluation_batches_keep_the_maps_small(words, size):
    assert build([plain(composed(*words, "device=cpu"))], stacked=False).eval_batch_size == size
