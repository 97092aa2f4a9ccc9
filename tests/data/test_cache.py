"""Data sets kept for forked processes are those that would be read, and each is read once."""

from __future__ import annotations

import pytest
import torch
from conftest import composed
from omegaconf import OmegaConf

from bnexp.data import keep, load


@pytest.fixture
def options():
    keep([])
    yield OmegaConf.to_container(composed("data=digits", "data.train_limit=50").data, resolve=True)
    keep([])


def test_a_kept_data_set_is_read_once_and_is_the_same(options):
    fresh = load(options)
    assert load(options) is not fresh
    keep([options])
    kept = load(dict(reversed(options.items())))
    keep([options, options | {"train_limit": 40}])
    assert load(options) is kept
    for name, split in fresh.splits().items():
        assert torch.equal(split.x, kept.splits()[name].x)
        assert torch.equal(split.y, kept.splits()[name].y)


def test_other_options_are_another_data_set(options):
    keep([options])
    assert len(load(options | {"train_limit": 40}).train) == 40
    assert len(load(options).train) == 50


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("changed", [{}, {"whiten": "zca"}, {"size": 10}], ids=str)
def test_all_that_is_asked_for_a_device_is_on_it(options, changed, kept):
    """The device "meta" keeps shapes and types alone."""
    options |= changed
    if kept:
        keep([options])
    for name, split in load(options, "meta").splits().items():
        here = load(options).splits()[name]
        assert {split.x.device.type, split.y.device.type} == {"meta"}
        assert (split.x.shape, split.x.dtype, split.y.shape) == (here.x.shape, here.x.dtype, here.y.shape)
