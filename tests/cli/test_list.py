"""``bnexp list``: quick, complete, and what it says of a norm is what the norm does."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from omegaconf import OmegaConf
from torch import nn

from bnexp.cli.list import CASES, LABELS, builder_lines, cost, descriptions, read
from bnexp.config.shipped import configs_folder
from bnexp.models import Units
from bnexp.models.unit import Unit
from bnexp.norms import NORMS, Norm

NAMES = sorted(path.stem for path in (configs_folder() / "norm").glob("*.yaml"))
CHANNELS, BATCH = 16, 64
SHAPES = {"2-D": (CHANNELS,), "3-D": (CHANNELS, 12), "4-D": (CHANNELS, 6, 6)}
LINEAR = {"2-D": nn.Linear, "3-D": nn.Conv1d, "4-D": nn.Conv2d}


def yaml_lines(name: str) -> list[str]:
    return (configs_folder() / "norm" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()


def unit_of(name: str, rank: str) -> Unit:
    """A fresh unit of the norm with the options of its yaml, the same at each call."""
    torch.manual_seed(0)
    options = OmegaConf.to_container(OmegaConf.load(configs_folder() / "norm" / f"{name}.yaml"))
    units = Units(NORMS.bind(options), "identity", "before")
    kernel = () if rank == "2-D" else (1,)
    linear = LINEAR[rank](CHANNELS, CHANNELS, *kernel, bias=units.bias)
    return Unit(linear, units.behind(linear, CHANNELS), units.act(), after=False).double()


def answer(name: str, rank: str, batch: int) -> torch.Tensor | None:
    """Of the first sample of a training batch; None where the norm is undefined."""
    x = torch.randn(BATCH, *SHAPES[rank], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    unit = unit_of(name, rank)
    try:
        y = unit(x[:batch])[0].detach()
    except ValueError:
        return None
    return y


def stands_aside(name: str, rank: str) -> bool:
    unit = unit_of(name, rank)
    unit(torch.randn(BATCH, *SHAPES[rank], dtype=torch.float64))
    return any(isinstance(layer, Norm) and layer.stood_aside for layer in unit.modules())


@pytest.mark.parametrize("name", NAMES)
def test_every_norm_says_ranks_batch_of_one_and_source(name):
    title, *rest = yaml_lines(name)[: 1 + len(LABELS)]
    assert title.startswith("# ")
    for line, label in zip(rest, LABELS, strict=True):
        assert re.fullmatch(rf"# {label}: \S.*[^.]", line), line
        assert len(line) <= 120


@pytest.mark.parametrize("name", NAMES)
def test_the_ranks_are_those_that_the_norm_takes(name):
    defined = [rank for rank in SHAPES if answer(name, rank, BATCH) is not None and not stands_aside(name, rank)]
    assert read(configs_folder() / "norm" / f"{name}.yaml").labels["Ranks"] == ", ".join(defined)


def on_a_batch_of_one(name: str, rank: str) -> str:
    alone, among = answer(name, rank, 1), answer(name, rank, BATCH)
    if alone is None:
        return "refused"
    return "same" if among is not None and torch.allclose(alone, among, rtol=1e-10, atol=1e-10) else "differ"


@pytest.mark.parametrize("name", NAMES)
def test_the_batch_of_one_does_what_is_said(name):
    said = read(configs_folder() / "norm" / f"{name}.yaml").labels["Batch of 1"].partition(";")[0]
    assert said == f"vectors {on_a_batch_of_one(name, '2-D')}, maps {on_a_batch_of_one(name, '4-D')}"


def test_the_formula_is_the_first_line_of_each_builder():
    lines = builder_lines(ROOT / "bnexp" / "norms", "NORMS")
    assert lines == {name: inspect.getdoc(NORMS[name]).partition("\n")[0] for name in NORMS}


@pytest.mark.parametrize("name", NAMES)
def test_the_zoo_shows_every_norm_with_its_options(bnexp, name):
    blocks = bnexp("list", "norms").out.split("\n\n")
    (block,) = [block for block in blocks if block.split()[0] == name]
    for row in ("formula", "ranks", "batch of 1", "source", "cost"):
        assert re.search(rf"^  {row} +\S", block, re.MULTILINE), row
    options = [word for line in yaml_lines(name) if not line.startswith(("#", "name:")) for word in line.split()]
    assert block.partition("\n  options ")[2].split() == options
    assert max(map(len, block.splitlines())) <= 100


def test_costs_are_read_out():
    ratio = {"ratio": {"median": 1.234}}
    said = cost({"vectors": {"reason": "undefined"}, "maps": ratio, "lenet": ratio})
    assert said == "times none: undefined on vectors, 1.23 on maps, 1.23 in a LeNet step"
    assert cost(None) == "not measured"


def test_the_measured_costs_are_of_norms_that_there_are():
    measured = json.loads((ROOT / "benchmarks" / "norms.json").read_text(encoding="utf-8"))
    assert set(measured["norms"]) <= set(NORMS)
    for cases in measured["norms"].values():
        assert list(cases) == list(CASES)
    assert all(measured["norms"]["none"][case]["ratio"]["median"] == 1 for case in CASES)


def test_plain_list_has_a_line_a_choice(bnexp):
    lines = bnexp("list").out.splitlines()
    for group in ("norm", "affine", "model", "data", "init", "optim", "schedule", "experiment"):
        start = lines.index(group) + 1
        found = descriptions(configs_folder() / group)
        for line, choice in zip(lines[start:], found, strict=False):
            assert line.split() == [choice.name, *choice.title.split()]


@pytest.mark.parametrize("words", [["list"], ["list", "norms"]])
def test_listing_imports_nothing_heavy(words):
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['bnexp', *{words}];"
        "from bnexp.cli.main import main; main();"
        "print([name for name in ('torch', 'hydra', 'omegaconf', 'numpy', 'yaml') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.endswith("[]\n")
