"""Presets: those that are too large for a CPU on a slice that is not, and numbers of those that cite a source."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from conftest import composed

from bnexp.config.compose import plain
from bnexp.config.schema import config_hash, from_dict, to_dict
from bnexp.models import MODELS, Units
from bnexp.norms import NORMS


def write_coloured_images(path: Path, count: int = 320, side: int = 16) -> None:
    """Noise whose mean colour is the class: a network that sees through holes, shifts and mirrors learns it at once."""
    random = np.random.default_rng(0)
    colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [130, 130, 130]])
    y = np.arange(count) % len(colours)
    noise = random.normal(0, 40, (count, side, side, 3))
    x = np.clip(colours[y][:, None, None] + noise, 0, 255).astype(np.uint8)
    np.savez(path, x_train=x[64:], y_train=y[64:], x_test=x[:64], y_test=y[:64])


def test_the_fast_recipe_learns_on_a_small_slice(bnexp, tmp_path):
    write_coloured_images(tmp_path / "colours.npz")
    data = ("data=npz", f"data.path={tmp_path}/colours.npz", "data.layout=nhwc")
    small = ("model.width=4", "batch_size=32", "epochs=12", "eval_every=96", f"hydra.run.dir={tmp_path}/run")
    assert bnexp("train", "experiment=cifar10_fast", *data, *small).code == 0
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["steps"] == 96
    assert run["final"]["test/accuracy"] > 0.9
    config = run["config"]
    assert (config["precision"], config["channels_last"], config["drop_last"]) == ("bf16", True, True)
    assert (config["data"]["flip"], config["data"]["crop"], config["data"]["cutout"]) == (True, 4, 8)
    rates = [line.split(",") for line in (tmp_path / "run/metrics.csv").read_text().splitlines()[1:]]
    lr = {int(step): float(value) for step, _, metric, value in rates if metric == "lr"}
    assert max(lr, key=lambda step: lr[step]) == 20  # of 96, where 0.2083 of the run are over
    assert 0.39 < lr[20] <= 0.4
    assert lr[96] < 0.01


def test_the_lenet_of_dive_into_deep_learning_is_that_of_its_batch_norm_section():
    """Section 7.5 before edition 1.0: no padding (Linear(16 * 4 * 4, 120)), lr 1.0, 10 epochs, batches of 256."""
    config = plain(composed("experiment=d2l_lenet"))
    assert (config.optim["lr"], config.optim["momentum"], config.epochs, config.batch_size) == (1.0, 0.0, 10, 256)
    units = Units(NORMS.bind(config.norm), config.activation, config.placement)
    model = MODELS.bind(config.model)((1, 28, 28), 10, units)
    assert (model.hidden1.linear.in_features, model.hidden1.linear.out_features) == (16 * 4 * 4, 120)
    redundant = 6 + 16 + 120 + 84  # biases in front of the norms, which the book has
    assert sum(parameter.numel() for parameter in model.parameters()) + redundant == 44_878


def test_older_runs_of_lenet_are_those_with_a_padding_of_2():
    new = to_dict(plain(composed("model=lenet")))
    old = {**new, "model": {"name": "lenet"}}
    assert new["model"]["padding"] == 2
    assert config_hash(old) == config_hash(new)
    assert from_dict(old) == from_dict(new)
    assert config_hash(old) != config_hash({**new, "model": {"name": "lenet", "padding": 0}})
