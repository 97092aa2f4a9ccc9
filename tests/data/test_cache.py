"""Data sets kept for forked processes are those that would be read, and each is read once."""

from __future__ import annotations

import pytest
import torch
from conftest import composed
from omegaconf import OmegaConf

from bnexp.data import cache, keep, load


@pytest.fixture
def options(monkeypatch):
    monkeypatch.setattr(cache, "_kept", {})
    return OmegaConf.to_container(composed("data=digits", "data.train_limit=50").data, resolve=True)


def test_a_kept_data_set_is_read_once_and_is_the_same(options, monkeypatch):
    fresh = load(options)
    assert load(options) is not fresh
    keep([options])
    monkeypatch.setattr(cache, "prepared", lambda options: pytest.fail("read again"))
    kept = load(dict(reversed(options.items())))
    assert load(options) is kept
    for name, split in fresh.splits().items():
        assert torch.equal(split.x, kept.splits()[name].x)
        assert torch.equal(split.y, kept.splits()[name].y)


def test_other_options_are_another_data_set(options):
    keep([options])
    assert len(load(options | {"train_limit": 40}).train) == 40
    assert len(load(options).train) == 50
