"""Presets that are too large for a CPU: the same recipe on a slice that is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


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
