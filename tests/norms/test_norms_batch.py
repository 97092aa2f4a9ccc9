"""The batch family: what is particular to each norm. What all norms share stands in test_norms.py."""

from __future__ import annotations

import copy
import multiprocessing
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from formulas_batch import FORMULAS, batch_norm, ghost, mean_of, noise, variance_of
from test_norms import CHANNELS, assert_close, buffers, build, config, gradients, normal
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from bnexp.data import Split
from bnexp.norms import NORMS, BatchStatistics
from bnexp.norms.base import per_channel
from bnexp.norms.ghost import cut
from bnexp.norms.renorm import Limit
from bnexp.training.population import Population
from bnexp.training.statistics import precise_statistics

FAMILY = [name for name in FORMULAS if isinstance(build(name), BatchStatistics)]
SMALL = {"ghost_bn": {"size": 2}, "sync_bn": {"shards": 3}}  # so that a few samples have several chunks or shards
family = pytest.mark.parametrize("name", FAMILY)
momenta = pytest.mark.parametrize("momentum", [0.1, None])
SHAPE = (7, CHANNELS, 2, 2)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def small(name: str, **changes) -> nn.Module:
    return build(name, **SMALL.get(name, {}), **changes)


def sides(norm: nn.Module, x: Tensor) -> list[Tensor]:
    """Output and gradients."""
    y = norm(x)
    return [y.detach(), *gradients(y, x, *norm.parameters())]


# ------------------------------------------------------------------------------------------------- running statistics


@pytest.mark.parametrize("name", [name for name in FAMILY if name != "gn_bn"])
@momenta
def test_running_statistics_are_those_of_bn(name, momentum):
    norm, bn = build(name, momentum=momentum), build("bn", momentum=momentum)
    for size in (7, 5, 6):
        x = normal(size, *SHAPE[1:])
        norm(x)
        bn(x)
    wanted = buffers(bn)
    if name == "mean_only_bn":
        wanted["running_var"] = torch.ones(CHANNELS)
    assert_close({key: norm.get_buffer(key) for key in wanted}, wanted)


@momenta
def test_ghost_batch_norm_tracks_the_average_of_its_chunks(momentum):
    norm, x = build("ghost_bn", size=2, momentum=momentum), normal(*SHAPE)
    norm(x)
    rate = 1 if momentum is None else momentum
    parts = [x[:2], x[2:4], x[4:]]  # the seventh sample is with the fifth and the sixth
    mean = sum(part.mean((0, 2, 3)) * len(part) for part in parts) / 7
    var = sum(part.var((0, 2, 3)) * len(part) for part in parts) / 7
    assert_close(norm.running_mean, rate * mean)
    assert_close(norm.running_var, 1 - rate + rate * var)
    assert norm.batches_seen == 1


@family
def test_buffers_are_updated_in_place(name):
    norm = small(name)
    before = {key: (buffer.data_ptr(), buffer.clone()) for key, buffer in norm.named_buffers()}
    norm(normal(*SHAPE))
    still = {"noise.key"} | ({"running_var"} if name == "mean_only_bn" else set())
    for key, (address, value) in before.items():
        assert norm.get_buffer(key).data_ptr() == address
        assert torch.equal(norm.get_buffer(key), value) == (key in still), key


@family
@momenta
def test_evaluation_by_the_batch_at_hand_touches_no_buffer(name, momentum):
    norm, x = small(name, momentum=momentum), normal(*SHAPE)
    norm(normal(*SHAPE))
    before = buffers(norm)
    norm.eval().source = "batch"
    y = norm(x)
    assert_close(buffers(norm), before, atol=0)
    norm.source = "running"
    assert (y - norm(x)).abs().max() > 1e-3
    plain = name in ("batch_renorm", "noisy_bn")  # evaluation has neither the correction nor the noise
    assert_close(y, batch_norm(norm, x) if plain else norm.train()(x))


@family
@momenta
def test_stacked_population_over_several_batches(name, momentum):
    members = [small(name, momentum=momentum) for _ in range(2)]
    parameters, stacked = stack_module_state(members)
    for _ in range(3):
        x_M = normal(2, *SHAPE)
        y_M = vmap(lambda p, b, x: functional_call(members[0], (p, b), (x,)))(parameters, stacked, x_M)
        assert_close(y_M, torch.stack([member(x) for member, x in zip(members, x_M, strict=True)]))
    for m, member in enumerate(members):
        assert_close({key: value[m] for key, value in stacked.items()}, buffers(member))


@family
def test_statistics_of_bfloat16_are_taken_in_float32(name):
    norm, wide = (small(name).float() for _ in range(2))
    x = normal(64, CHANNELS).bfloat16()
    wide(x.float())
    assert norm(x).dtype == torch.bfloat16
    assert_close(buffers(norm), buffers(wide), atol=1e-5)


@pytest.mark.parametrize("name", [name for name in FAMILY if name != "gn_bn"])
@pytest.mark.parametrize("shape", [(1, CHANNELS), (1, CHANNELS, 1, 1)])
def test_one_value_per_channel_is_refused_in_training(name, shape):
    norm = small(name)
    with pytest.raises(ValueError, match=rf"^norm={name}: .* one value per channel, .*; use a larger batch_size"):
        norm(normal(*shape))
    assert norm.batches_seen == 0
    assert norm.eval()(normal(*shape)).isfinite().all()


@pytest.mark.parametrize(
    "name", ["ghost_bn", "gn_bn", "batch_renorm", "detached_bn", "mean_only_bn", "sync_bn", "frozen_bn"]
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_large_mean_in_float32(name, layout):
    x = (1000 + 0.1 * torch.randn(4, CHANNELS, 8, 8)).float().contiguous(memory_format=layout)
    norm = build(name).float()
    wide = copy.deepcopy(norm).double()
    assert_close(norm(x).double(), wide(x.double()), atol=0.02)


# --------------------------------------------------------------------------------------------- laws of batch statistics


@pytest.mark.parametrize("name", [name for name in FAMILY if name not in ("detached_bn", "var_only_bn", "gn_bn")])
def test_a_bias_of_the_convolution_before_learns_nothing(name):
    conv, norm, x = nn.Conv2d(2, CHANNELS, 3).double(), small(name), normal(7, 2, 5, 5)
    if name == "noisy_bn":
        norm.noise.eval()  # a noisy sum of centred gradients is not 0
    weight_grad, bias_grad = gradients(norm(conv(x)), conv.weight, conv.bias)
    assert weight_grad.abs().max() > 1e-2
    assert_close(bias_grad, torch.zeros(CHANNELS))


@pytest.mark.parametrize("name", [name for name in FAMILY if name not in ("detached_bn", "mean_only_bn", "gn_bn")])
def test_the_weights_before_learn_a_direction_only(name):
    conv, norm, x = nn.Conv2d(2, CHANNELS, 3, bias=False).double(), small(name, eps=1e-14), normal(7, 2, 5, 5)
    (weight_grad,) = gradients(norm(conv(x)), conv.weight)
    assert weight_grad.abs().max() > 1e-2
    assert_close((conv.weight * weight_grad).sum((1, 2, 3)), torch.zeros(CHANNELS), atol=1e-9)


@pytest.mark.parametrize("name", [*FAMILY, "frozen_bn"])
def test_without_affine_there_are_no_parameters(name):
    norm, x = small(name, affine=False), normal(*SHAPE)
    wanted = small(name)
    with torch.no_grad():
        for parameter, value in ((wanted.gain, 1), (wanted.bias, 0)):
            if parameter is not None:
                parameter.fill_(value)
    assert list(norm.parameters()) == []
    assert_close(norm(x), wanted(x))
    assert_close(norm.eval()(x), wanted.eval()(x))


@pytest.mark.parametrize("name", [name for name in FAMILY if name != "mean_only_bn"])
def test_precise_statistics_are_the_moments_of_the_training_images(name):
    x = normal(24, CHANNELS, 2, 2)
    norm = small(name)
    population = Population([nn.Sequential(norm)])
    before = buffers(norm)
    with precise_statistics(population, Split(x, torch.zeros(24, dtype=torch.int64)), 8):
        assert_close(norm.running_mean, x.mean((0, 2, 3)))
        assert_close(norm.running_var, x.var((0, 2, 3), correction=0))
    assert_close(buffers(norm), before, atol=0)


# ---------------------------------------------------------------------------------------------------------------- ghost


@pytest.mark.parametrize(
    ("samples", "size", "wanted"),
    [(8, 4, [4, 4]), (10, 4, [4, 4, 2]), (9, 4, [4, 5]), (5, 4, [5]), (4, 4, [4]), (3, 4, [3]), (1, 4, [1])],
)
def test_sizes_of_chunks(samples, size, wanted):
    whole, rest = cut(samples, size)
    assert [size] * whole + [rest] * (rest > 0) == wanted


@pytest.mark.parametrize("shape", [(10, CHANNELS), (11, CHANNELS, 3), SHAPE])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_each_chunk_is_normalized_by_itself(shape, size):
    norm, x = build("ghost_bn", size=size), normal(*shape).requires_grad_()
    y, wanted = norm(x), ghost(norm, x)
    assert_close(y, wanted)
    assert_close(gradients(y, x, *norm.parameters()), gradients(wanted, x, *norm.parameters()))
    plain = build("ghost_bn", size=size, affine=False)
    whole, rest = cut(len(x), size)
    for part in plain(x).split([size] * whole + [rest] * (rest > 0)):
        assert_close(part.transpose(0, 1).flatten(1).mean(1), torch.zeros(CHANNELS), atol=1e-12)


@pytest.mark.parametrize("size", [6, 7, 100])
def test_one_chunk_is_batch_norm(size):
    norm, bn, x = build("ghost_bn", size=size), build("bn"), normal(*SHAPE).requires_grad_()
    norm.load_state_dict(bn.state_dict())
    assert_close(sides(norm, x), sides(bn, x))
    assert_close(buffers(norm), buffers(bn))


# ----------------------------------------------------------------------------------------------------- group and batch


def pooled_second_moments(x: Tensor, moments: tuple[Tensor, Tensor], own: float, groups: int, eps: float) -> Tensor:
    """The answer of the authors' code in evaluation, sample by sample: weighted E[x] and E[x^2], averaged by group."""
    rows = []
    for sample in x:
        values = sample.reshape(len(sample), -1)
        means = (1 - own) * moments[0] + own * values.mean(1)
        squares = (1 - own) * moments[1] + own * (values**2).mean(1)
        x_hat = torch.zeros_like(values)
        for group in torch.arange(len(sample)).chunk(groups):
            mean, square = means[group].mean(), squares[group].mean()
            x_hat[group] = (values[group] - mean) / (square - mean**2 + eps) ** 0.5
        rows.append(x_hat.view_as(sample))
    return torch.stack(rows)


@pytest.mark.parametrize(("name", "groups"), [("gn_bn", 3), ("gn_bn", CHANNELS), ("bn", CHANNELS)])
@pytest.mark.parametrize("own", [0.0, 0.3])
@pytest.mark.parametrize("shape", [SHAPE, (7, CHANNELS)])
@momenta
def test_evaluation_by_moving_moments_and_those_of_the_sample(name, groups, own, shape, momentum):
    norm = build(name, momentum=momentum, **({"groups": groups, "uneven": "refuse"} if name == "gn_bn" else {}))
    moments = torch.zeros(CHANNELS).double(), torch.ones(CHANNELS).double()
    for seen, size in enumerate((6, 4, 5), 1):
        x, rate = normal(size, *shape[1:]), momentum or 1 / seen
        norm(x)
        values = x.transpose(0, 1).flatten(1)
        moments = tuple(
            (1 - rate) * old + rate * new
            for old, new in zip(moments, (values.mean(1), (values**2).mean(1)), strict=True)
        )
    if name == "bn":  # keeps the average variance, not that of the average moments
        moments = norm.running_mean, norm.running_var + norm.running_mean**2
    x = normal(*shape)
    norm.eval().own = own
    x_hat = pooled_second_moments(x, moments, own, groups, norm.eps)
    assert_close(norm(x), per_channel(norm.gain, x) * x_hat + per_channel(norm.bias, x))


@pytest.mark.parametrize("name", ["mean_only_bn", "var_only_bn", "switchable", "bn_scratch"])
def test_a_sample_alone_weighs_in_as_in_a_batch_of_one(name):
    norm, x = build(name), normal(*SHAPE)
    norm(normal(*SHAPE))
    norm.eval().own = 0.3
    found = norm(x)
    mean, square = norm.running_mean.clone(), norm.running_var + norm.running_mean**2
    norm.own = 0.0
    for sample, answer in zip(x, found, strict=True):
        values = sample.flatten(1)
        norm.running_mean = 0.7 * mean + 0.3 * values.mean(1)
        norm.running_var = 0.7 * square + 0.3 * (values**2).mean(1) - norm.running_mean**2
        assert_close(norm(sample[None])[0], answer)


def test_one_value_per_group_is_refused_and_two_are_not():
    norm = build("gn_bn", groups=CHANNELS, uneven="refuse")
    with pytest.raises(ValueError, match=r"^norm=gn_bn: .* one value per group, .*; use a larger batch_size, or "):
        norm(normal(1, CHANNELS))
    assert norm.batches_seen == 0
    assert build("gn_bn")(normal(1, CHANNELS)).isfinite().all()


@pytest.mark.parametrize("groups", [1, 3, CHANNELS])
def test_one_sample_a_group_of_channels_or_one_channel_are_known_norms(groups):
    x = normal(6, CHANNELS, 2, 2).requires_grad_()
    norm, ghost_bn = (build(name, size=3) for name in ("gn_bn", "ghost_bn"))
    norm.groups = groups
    norm.load_state_dict(ghost_bn.state_dict())
    if groups == CHANNELS:
        assert_close(sides(norm, x), sides(ghost_bn, x))
    gn = build("gn", groups=groups)
    gn.load_state_dict({"gain": norm.gain, "bias": norm.bias})
    assert_close(sides(norm, x[:1]), sides(gn, x[:1]))


# ----------------------------------------------------------------------------------------------------- renormalization


def renormalized(steps: int, **changes) -> BatchStatistics:
    norm = NORMS.bind(config("batch_renorm") | changes)(CHANNELS, steps=steps).double()
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return norm


def test_bounds_rise_linearly_between_their_fractions_of_training():
    limit = Limit(1.0, 3.0, 0.2, 0.6)
    rising = [(0, 1), (0.2, 1), (0.3, 1.5), (0.5, 2.5), (0.6, 3), (1, 3)]
    assert [limit.at(torch.tensor(at, dtype=torch.float64)).item() for at, _ in rising] == pytest.approx(
        [bound for _, bound in rising]
    )


def test_renormalization_within_its_bounds_is_evaluation():
    norm, x = renormalized(1, rmax=1e9, dmax=1e9), normal(*SHAPE)
    norm(normal(*SHAPE))
    norm.eval()
    evaluated = norm(x)
    assert_close(norm.train()(x), evaluated)


def test_renormalization_by_nothing_is_batch_norm():
    norm, bn = renormalized(1, rmax=1.0, dmax=0.0), build("bn")
    norm.load_state_dict(bn.state_dict(), strict=False)
    for _ in range(3):
        x = normal(*SHAPE).requires_grad_()
        assert_close(sides(norm, x), sides(bn, x))
    assert_close({key: norm.get_buffer(key) for key in buffers(bn)}, buffers(bn))


def test_renormalization_through_its_schedule():
    steps, eps = 10, config("batch_renorm")["eps"]
    norm = renormalized(steps, rmax=1.5, dmax=0.3, warmup=0.1, rmax_reached=0.7, dmax_reached=0.5)
    mean, var = torch.zeros(CHANNELS).double(), torch.ones(CHANNELS).double()
    bounded = 0
    for step in range(steps):
        x = (3 * normal(*SHAPE) - 1).requires_grad_()
        rmax = 1 + 0.5 * min(max((step / steps - 0.1) / 0.6, 0), 1)
        dmax = 0.3 * min(max((step / steps - 0.1) / 0.4, 0), 1)
        r, d = [], []
        for c in range(CHANNELS):
            sd = (var[c].item() + eps) ** 0.5
            r.append(min(max((variance_of(x[:, c]).item() + eps) ** 0.5 / sd, 1 / rmax), rmax))
            d.append(min(max((mean_of(x[:, c]).item() - mean[c].item()) / sd, -dmax), dmax))
        bounded += sum(r_c in (rmax, 1 / rmax) for r_c in r)
        plain = renormalized(steps, affine=False, warmup=0.1)
        r_C, d_C = (torch.tensor(values, dtype=torch.float64) for values in (r, d))
        wanted = per_channel(r_C, x) * batch_norm(plain, x) + per_channel(d_C, x)
        wanted = per_channel(norm.gain, x) * wanted + per_channel(norm.bias, x)
        y = norm(x)
        assert_close(y, wanted)
        given = gradients(y, x, *norm.parameters())
        assert_close(given, gradients(wanted, x, *norm.parameters()))
        assert_close(given[0].sum((0, 2, 3)), torch.zeros(CHANNELS))  # mean and std of the batch are no constants
        mean, var = norm.running_mean.clone(), norm.running_var.clone()
    assert 0 < bounded < steps * CHANNELS


@pytest.mark.parametrize("setting", ["rmax_reached", "dmax_reached"])
def test_bounds_are_reached_after_the_warm_up(setting):
    with pytest.raises(ValueError, match=rf"^norm.{setting}=0.04: out of range; allowed is above norm.warmup=0.04$"):
        renormalized(1, **{setting: 0.04})


# --------------------------------------------------------------------------------------------------- frozen, detached


def test_frozen_statistics_are_those_of_the_first_training_batch():
    norm, bn, first = build("frozen_bn"), build("bn"), normal(*SHAPE)
    norm.gain.data.copy_(bn.gain)
    norm.bias.data.copy_(bn.bias)
    norm.adjust(first)
    assert_close(norm(first), bn(first))
    for _ in range(2):
        x = normal(*SHAPE).requires_grad_()
        dx, dgain, _ = gradients(norm(x), x, norm.gain, norm.bias)
        dy = torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view_as(x).sin()
        std = per_channel((first.var((0, 2, 3), correction=0) + norm.eps).sqrt(), x)
        assert_close(dx, per_channel(norm.gain, x) / std * dy)
        x_hat = (x - per_channel(first.mean((0, 2, 3)), x)) / std
        assert_close(dgain, (dy * x_hat).sum((0, 2, 3)))
    assert not isinstance(norm, BatchStatistics)  # no other statistics than those, in evaluation too


def test_given_statistics_stay_as_they_were_loaded():
    bn = build("bn")
    bn(normal(*SHAPE))
    for statistics in ("given", "first_batch"):
        norm = build("frozen_bn", statistics=statistics)
        assert_close(norm.eval()(normal(*SHAPE)).isfinite().all().item(), True)
        norm.train().load_state_dict(bn.state_dict())
        x = normal(*SHAPE)
        bn.eval()
        assert_close(norm(x), bn(x))
        assert_close(norm.running_mean, bn.running_mean, atol=0)
        assert_close(norm.running_var, bn.running_var, atol=0)


@pytest.mark.parametrize("shape", [(1, CHANNELS), (1, CHANNELS, 1, 1)])
def test_frozen_statistics_of_one_value_per_channel_are_refused(shape):
    norm = build("frozen_bn")
    with pytest.raises(ValueError, match=r"^norm=frozen_bn: .* one value per channel, .*; use a larger batch_size"):
        norm.adjust(normal(*shape))
    assert norm.batches_seen == 0


def test_without_given_statistics_a_batch_of_one_vector_passes():
    norm = build("frozen_bn", statistics="given")
    x = normal(1, CHANNELS)
    assert_close(norm(x), norm.gain * x / (1 + norm.eps) ** 0.5 + norm.bias)


@pytest.mark.parametrize("detach", ["mean", "variance", "both"])
def test_detached_statistics_change_the_gradient_alone(detach):
    norm, bn, x = build("detached_bn", detach=detach), build("bn"), normal(*SHAPE).requires_grad_()
    norm.load_state_dict(bn.state_dict())
    y, wanted = norm(x), bn(x)
    assert_close(y, wanted)
    (dx,) = gradients(y, x)
    dy = torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view_as(x).sin()
    x_hat = (y - per_channel(norm.bias, x)) / per_channel(norm.gain, x)
    pooled = {"dim": (0, 2, 3), "keepdim": True}
    along = {"both": 0, "mean": x_hat * (dy * x_hat).mean(**pooled), "variance": dy.mean(**pooled)}[detach]
    std = (x.var((0, 2, 3), correction=0, keepdim=True) + norm.eps).sqrt()
    assert_close(dx, per_channel(norm.gain, x) / std * (dy - along))
    assert (dx - gradients(wanted, x)[0]).abs().max() > 1e-3
    if detach == "mean":
        assert_close(dx.mean((0, 2, 3)), norm.gain * ((dy - along) / std).mean((0, 2, 3)))
        assert dx.mean((0, 2, 3)).abs().min() > 1e-4


# ---------------------------------------------------------------------------------------------------------------- noisy


def test_noise_is_gone_in_evaluation():
    norm, bn = build("noisy_bn"), build("bn")
    x = normal(*SHAPE)
    norm.load_state_dict(bn.state_dict(), strict=False)
    assert (norm(x) - bn(x)).abs().max() > 0.1
    before = norm.noise.passes.clone()
    assert_close(norm.eval()(x), bn.eval()(x))
    assert norm.noise.passes == before


def test_noise_has_the_documented_distribution():
    norm = build("noisy_bn", 400, affine=False, normalize=False)
    m = norm(torch.zeros(50, 400, dtype=torch.float64))
    s = norm(torch.full((50, 400), 1e6, dtype=torch.float64)) / 1e6  # m is nothing beside it
    centre, jitter = m.mean(0), m - m.mean(0)
    assert centre.abs().max() < 0.55
    assert centre.abs().mean().item() == pytest.approx(0.25, abs=0.03)
    assert jitter.abs().max() < 0.2
    assert jitter.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.03)
    assert s.mean().item() == pytest.approx(1.125, abs=0.015)
    assert s.mean(0).std().item() == pytest.approx((0.25**2 / 12 + 0.1**2 / 50) ** 0.5, rel=0.15)
    assert (s - s.mean(0)).std().item() == pytest.approx(0.1, rel=0.03)


def test_noise_is_new_at_each_step_and_goes_on_after_a_resume():
    norm, x = build("noisy_bn"), normal(*SHAPE)
    norm.noise.key.fill_(5)
    first = norm(x)
    saved = {key: value.clone() for key, value in norm.state_dict().items()}
    second = norm(x)
    assert (first - second).abs().max() > 0.1
    resumed = build("noisy_bn")
    resumed.load_state_dict(saved)
    assert_close(resumed(x), second, atol=0)
    resumed.load_state_dict(saved | {"noise.key": torch.tensor(6)})
    assert (resumed(x) - second).abs().max() > 0.1


def test_noise_scales_the_gradient():
    norm, x = build("noisy_bn"), normal(*SHAPE).requires_grad_()
    given = gradients(norm(x), x, *norm.parameters())
    s, _ = noise(norm.noise, x.shape, step=0)
    assert_close(given, gradients(s * batch_norm(norm, x), x, *norm.parameters()))


@pytest.mark.parametrize("affine", [True, False])
def test_the_control_of_noisy_batch_norm_has_the_noise_alone(affine):
    norm, x = build("noisy_bn", normalize=False, affine=affine), normal(*SHAPE)
    s, m = noise(norm.noise, x.shape, step=0)
    shifted = x + per_channel(norm.bias, x) if affine else x
    assert_close(norm(x), s * shifted + m)
    assert_close(norm.eval()(x), shifted, atol=0)
    assert norm.gain is None
    assert not isinstance(norm, BatchStatistics)


# ----------------------------------------------------------------------------------------------------------------- sync


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("shape", [(7, CHANNELS), SHAPE])
def test_shards_together_are_the_batch(shards, shape):
    norm, bn = build("sync_bn", shards=shards), build("bn")
    norm.load_state_dict(bn.state_dict())
    for _ in range(2):
        x = (100 + normal(*shape)).requires_grad_()
        assert_close(sides(norm, x), sides(bn, x))
    assert_close(buffers(norm), buffers(bn))


def on_a_process(rank: int, folder: Path) -> None:
    """Train a step on this process's part of a batch, and save what came out."""
    torch.manual_seed(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try:
        norm, x = build("sync_bn", shards=2), whole_batch()[[slice(5), slice(5, 7)][rank]].requires_grad_()
        y = norm(x)
        (slope(whole_batch())[[slice(5), slice(5, 7)][rank]] * y).sum().backward()
        gain, bias = norm.gain.grad, norm.bias.grad
        torch.save({"y": y.detach(), "dx": x.grad, "gain": gain, "bias": bias} | buffers(norm), folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def whole_batch() -> Tensor:
    return 2 * torch.randn(*SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 1


def slope(x: Tensor) -> Tensor:
    return torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view_as(x).sin()


@pytest.mark.slow
def test_two_processes_with_unequal_parts_are_one_with_the_whole_batch(tmp_path):
    other = multiprocessing.get_context("spawn").Process(target=on_a_process, args=(1, tmp_path))
    other.start()
    on_a_process(0, tmp_path)
    other.join(60)
    assert other.exitcode == 0
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    torch.manual_seed(1)
    bn, x = build("bn"), whole_batch().requires_grad_()
    y = bn(x)
    (slope(x.detach()) * y).sum().backward()
    for key, wanted in (("y", y), ("dx", x.grad)):
        assert_close(torch.cat([part[key] for part in parts]), wanted)
    for key, wanted in (("gain", bn.gain.grad), ("bias", bn.bias.grad)):
        assert_close(parts[0][key] + parts[1][key], wanted)
    for part in parts:
        assert_close({key: part[key] for key in buffers(bn)}, buffers(bn))


# -------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("ghost_bn", {"size": 1}, "norm.size=1: out of range; allowed is at least 2"),
        ("batch_renorm", {"rmax": 0.5}, "norm.rmax=0.5: out of range; allowed is at least 1"),
        ("batch_renorm", {"warmup": 1.0}, "norm.warmup=1.0: out of range"),
        ("frozen_bn", {"statistics": "first"}, "norm.statistics=first: not known; did you mean first_batch"),
        ("detached_bn", {"detach": "var"}, "norm.detach=var: not known; did you mean variance"),
        ("mean_only_bn", {"eps": 1e-5}, "norm.eps: mean_only_bn has no such option"),
        ("noisy_bn", {"scale_max": 0.9}, "norm.scale_max=0.9: out of range; allowed is at least 1"),
        ("sync_bn", {"shards": 0}, "norm.shards=0: out of range; allowed is at least 1"),
    ],
)
def test_options_are_checked(name, changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        build(name, **changes)


@family
def test_statistics_of_each_image_are_used_as_those_of_all_are(name):
    norm, x = build(name).double(), normal(*SHAPE)
    mean_BC, var_BC = normal(*SHAPE[:2]), normal(*SHAPE[:2]).square()
    rows = zip(x.split(1), mean_BC, var_BC, strict=True)
    assert_close(norm.standardized(x, mean_BC, var_BC), torch.cat([norm.standardized(*row) for row in rows]))
