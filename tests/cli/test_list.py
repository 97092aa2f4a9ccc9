"""``bnexp list``: quick, complete, and what it says of a norm is what the norm does."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from bnexp.cli.list import CASES, abilities, cost, described, descriptions
from bnexp.config.capabilities import Capabilities
from bnexp.config.shipped import configs_folder
from bnexp.norms import NORMS

NAMES = sorted(path.stem for path in (configs_folder() / "norm").glob("*.yaml"))


def yaml_lines(name: str) -> list[str]:
    return (configs_folder() / "norm" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", NAMES)
def test_every_norm_says_its_source(name):
    title, source, *_ = yaml_lines(name)
    assert title.startswith("# ")
    assert re.fullmatch(r"# Source: \S.*[^.]", source), source
    assert len(source) <= 120


def test_formula_and_capabilities_are_read_from_the_sources():
    norms = described(ROOT / "bnexp" / "norms")
    assert {name: norm.formula for name, norm in norms.items()} == {
        name: inspect.getdoc(NORMS[name]).partition("\n")[0] for name in NORMS
    }
    assert {name: norm.capabilities for name, norm in norms.items()} == {
        name: NORMS.capabilities(name) for name in NORMS
    }


def test_what_a_norm_can_do_is_read_out():
    skips = Capabilities(ranks=("maps",), elsewhere="skipped", batch_of_one=("same", "differ"), graph=False)
    assert abilities(skips) == {
        "ranks": "maps; vectors are skipped; sequences are skipped",
        "batch of 1": "vectors same, maps differ",
        "works with": "stacked members (kernels of one)",
    }
    needy = Capabilities(fused=False, restorable=True, needs_branches=True, length_dependent=True)
    assert abilities(needy) == {
        "ranks": "vectors, sequences, maps",
        "batch of 1": "vectors same, maps same",
        "works with": "graph=true, stacked members (by torch.func.vmap), affine=identity",
        "depends on": "residual branches, the length of the run",
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_zoo_shows_every_norm_with_its_options(bnexp, name):
    blocks = bnexp("list", "norms").out.split("\n\n")
    (block,) = [block for block in blocks if block.split()[0] == name]
    for row in ("formula", "ranks", "batch of 1", "works with", "source", "cost"):
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
