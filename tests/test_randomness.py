from __future__ import annotations

import hashlib

import torch

from bnexp.randomness import derive, generator


def test_a_derived_number_is_the_upper_63_bits_of_the_hash_of_seed_and_purpose():
    digest = hashlib.blake2b(b"3/order/7", digest_size=8).hexdigest()
    assert derive(3, "order", 7) == int(digest, 16) // 2


def test_seeds_and_purposes_each_make_a_difference():
    numbers = {derive(seed, word, epoch) for seed in range(20) for word in ("order", "flip") for epoch in range(20)}
    assert len(numbers) == 20 * 2 * 20
    assert all(0 <= number < 2**63 for number in numbers)


def test_bits_of_derived_numbers_are_fair():
    bits = torch.tensor([[derive(seed) >> bit & 1 for bit in range(63)] for seed in range(2000)], dtype=torch.float64)
    assert (bits.mean(0) - 0.5).abs().max() < 5 * 0.5 / 2000**0.5


def test_a_generator_depends_on_its_arguments_alone_and_leaves_the_global_one():
    state = torch.get_rng_state()
    first = torch.rand(5, generator=generator(1, "order", 0))
    assert torch.equal(first, torch.rand(5, generator=generator(1, "order", 0)))
    assert not torch.equal(first, torch.rand(5, generator=generator(1, "order", 1)))
    assert torch.equal(state, torch.get_rng_state())
