"""``bnexp list``: quick, complete, and what it says of a norm is what the norm does."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from bnexp.cli.list import CASES, GROUPS, abilities, cost, described
from bnexp.config.capabilities import Capabilities
from bnexp.config.descriptions import descriptions, other_names
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
    norms = described((ROOT / "bnexp" / "norms").glob("*.py"))
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
    for group in ("affine", "model", "data", "init", "optim", "schedule", "experiment"):
        start = lines.index(group) + 1
        found = descriptions([configs_folder() / group])
        for line, choice in zip(lines[start:], found, strict=False):
            assert line.split() == [choice.name, *choice.title.split()]


def test_norms_begin_with_the_five_of_most_comparisons(bnexp):
    lines = [line.split()[0] for line in bnexp("list", "norm").out.splitlines() if line and line[0] != " "]
    assert lines[:5] == ["none", "bn", "ln", "in", "gn"]
    assert lines[5:] == sorted(set(NAMES) - set(lines[:5]))


@pytest.mark.parametrize("group", GROUPS)
def test_another_name_stands_for_one_choice(group):
    choices = descriptions([configs_folder() / group])
    others = [other for each in choices for other in each.also]
    assert len(set(others)) == len(others)
    assert not set(others) & {each.name for each in choices}
    assert other_names([configs_folder() / group]).keys() == set(others)


def test_a_users_own_norm_is_listed_without_being_imported(bnexp, monkeypatch, tmp_path):
    (tmp_path / "norm").mkdir()
    (tmp_path / "norm" / "mine.yaml").write_text("# Mine.\n# Also: my_norm\nname: mine\neps: 0.1\n")
    source = '''@NORMS.register("mine", Capabilities(graph=False))\ndef mine(channels):\n    """y = x."""\n'''
    (tmp_path / "my_source.py").write_text(source + "raise SystemExit\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ("list", "norms", "--config-dir", str(tmp_path))
    (bare,) = [block for block in bnexp(*words).out.split("\n\n") if block.startswith("mine ")]
    assert "formula     not known; imports=[MODULE] names the module" in bare
    (block,) = [block for block in bnexp(*words, "imports=[my_source]").out.split("\n\n") if block.startswith("mine ")]
    assert [line.split(None, 1) for line in block.splitlines()][:2] == [["mine", "Mine."], ["formula", "y = x."]]
    assert "also called my_norm" in block
    assert "graph=true" not in block
    assert "imports=[my_absence]: no module my_absence" in bnexp(*words, "imports=[my_absence]").complaint
    assert "nowhere: there is no such folder" in bnexp("list", "--config-dir", "nowhere").complaint


@pytest.mark.parametrize("words", [["list"], ["list", "norms"]])
def test_listing_imports_nothing_heavy(words):
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['bnexp', *{words}];"
        "from bnexp.cli.main import main; main();"
        "print([name for name in ('torch', 'hydra', 'omegaconf', 'numpy', 'yaml') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.endswith("[]\n")


def test_one_choice_is_shown_by_its_name_or_another_one_of_it(bnexp):
    gn = bnexp("list", "groupnorm").out
    assert (gn.splitlines()[0].split()[0], gn.count("  formula "), gn.count("groups: 8")) == ("gn", 1, 1)
    assert bnexp("list", "sgd").out.splitlines()[0] == "optim"
    assert "momentum: 0.9" in bnexp("list", "sgd").out
    assert [row["group"] for row in json.loads(bnexp("list", "constant", "--json").out)["choices"]] == [
        "affine",
        "init",
        "schedule",
    ]
    assert bnexp("list", "gnn").complaint.endswith("nor a choice; did you mean gn?")
