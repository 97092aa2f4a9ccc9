from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bnexp.models.dropout import Dropout
from bnexp.randomness import seed_streams, uniform

N = 1_000_000


def layer(p: float = 0.3, key: int = 5) -> Dropout:
    dropout = Dropout(p)
    dropout.key.fill_(key)
    return dropout


def numbers(key: int, count: int, n: int = N) -> Tensor:
    return uniform(torch.tensor(key), torch.tensor(count), torch.Size([n]))


def correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack([a, b]).double())[0, 1].item()


def test_numbers_are_the_upper_bits_of_splitmix64():
    # The generator's own test vector for the state 1234567 (Vigna's splitmix64.c).
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert numbers(1234567, 0, 5).tolist() == [(value >> 40) / 2**24 for value in expected]


@pytest.mark.parametrize(("key", "count"), [(0, 0), (2**63 - 1, 0), (12345, 10**6)])
def test_numbers_are_uniform(key, count):
    share_of_bin = torch.histc(numbers(key, count), 100, 0, 1) / N
    sigma = (0.01 * 0.99 / N) ** 0.5
    assert (share_of_bin - 0.01).abs().max() < 5 * sigma


@pytest.mark.parametrize(
    ("one", "other"),
    [((5, 0), (5, 1)), ((5, 7), (5, 8)), ((5, 0), (6, 0)), ((5, 0), (5 + 2**62, 0)), ((0, 0), (0, 2**40))],
)
def test_passes_and_streams_are_uncorrelated(one, other):
    assert abs(correlation(numbers(*one), numbers(*other))) < 5 / N**0.5


@pytest.mark.parametrize("lag", [1, 2, 3, 64, 1000])
def test_neighbouring_elements_are_uncorrelated(lag):
    drawn = numbers(5, 0)
    assert abs(correlation(drawn[lag:], drawn[:-lag])) < 5 / N**0.5


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_values_are_dropped_at_the_rate_and_the_others_scaled_up(p):
    y = layer(p)(torch.full((N,), 3.0))
    assert abs((y == 0).double().mean().item() - p) < 5 * (p * (1 - p) / N) ** 0.5
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 3 / (1 - p)))


def test_the_gradient_goes_where_the_value_goes():
    x = torch.ones(1000, dtype=torch.float64, requires_grad=True)
    y = layer()(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_a_mask_depends_on_the_key_and_the_pass_alone():
    x, one, other = torch.ones(1000), layer(), layer()
    first, second = one(x), one(x)
    assert not torch.equal(first, second)
    torch.rand(3)
    other.passes.fill_(1)
    assert torch.equal(other(x), second)
    other.passes.fill_(0)
    assert torch.equal(other(x), first)
    assert not torch.equal(layer(key=6)(x), first)


def test_the_global_generator_is_not_used():
    state = torch.get_rng_state()
    layer()(torch.ones(10))
    assert torch.equal(state, torch.get_rng_state())


def test_evaluation_changes_neither_the_values_nor_the_count_of_passes():
    dropout, x = layer(), torch.randn(100)
    dropout(x)
    assert torch.equal(dropout.eval()(x), x)
    assert dropout.passes == 1
    dropout.train()(x)
    assert dropout.passes == 2


def test_rate_zero_is_the_identity():
    x = torch.randn(100)
    assert torch.equal(layer(0.0)(x), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_type_of_the_input_is_kept(dtype):
    assert layer()(torch.ones(10, dtype=dtype)).dtype == dtype


def test_every_layer_gets_a_stream_of_its_own_from_the_seed():
    def keys(seed: int) -> list[int]:
        model = nn.Sequential(Dropout(0.5), nn.Sequential(Dropout(0.5), nn.ReLU()), Dropout(0.5))
        seed_streams(model, seed)
        return [module.key.item() for module in model.modules() if isinstance(module, Dropout)]

    assert keys(3) == keys(3)
    assert len({*keys(3), *keys(4)}) == 6
