"""The example under docs/extending runs as it says, and a fault in such a file is named by file and line."""

from __future__ import annotations

import ast
import csv
import re
import shutil
import sys

import pytest
from conftest import ROOT, own_builders

from bnexp.config.own_code import place_of

EXAMPLE = ROOT / "docs" / "extending"
WORDS = ("norm=peak", "model=wide", "data=quadrants", "probes=[kurtosis]", "evaluations=[turned]", "epochs=5")


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """A copy of the example, as a user's working folder; what it registers is forgotten afterwards."""
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with own_builders():
        yield tmp_path
    sys.modules.pop("my_lab", None)


def test_the_command_of_the_example(bnexp, own_folder):
    answer = bnexp("train", "--config-dir", "configs", "imports=[my_lab]", *WORDS, "hydra.run.dir=run")
    assert answer.code == 0, answer
    with (own_folder / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    accuracy, quarter, half = (_values(rows, f"test/accuracy{turned}") for turned in ("", "_turned90", "_turned180"))
    assert len(accuracy) == 5
    assert accuracy[-1] > 0.8
    # A quarter turn takes every point to a neighbouring quadrant, which is of the other class; a half turn does not.
    assert quarter[-1] < 0.2
    assert half[-1] > 0.8
    measured = [row for row in rows if row["metric"].startswith("probe/kurtosis/kurtosis/")]
    assert measured[0]["step"] == "1"
    assert all(1 <= float(row["value"]) < 100 for row in measured)
    assert _command() == ["--config-dir", "configs", "imports=[my_lab]", *WORDS]


def _values(rows: list[dict[str, str]], metric: str) -> list[float]:
    return [float(row["value"]) for row in rows if row["metric"] == metric]


def _command() -> list[str]:
    """The words behind ``bnexp train`` in the docstring of the example."""
    said = re.sub(r" \\\n +", " ", ast.get_docstring(ast.parse((EXAMPLE / "my_lab.py").read_text())) or "")
    (command,) = re.findall(r"^ +bnexp train (.+)$", said, re.MULTILINE)
    return command.split()


def test_an_evaluation_of_points_is_refused_on_images(bnexp, own_folder):
    answer = bnexp("train", "--config-dir", "configs", "imports=[my_lab]", "evaluations=[turned]", "hydra.run.dir=run")
    assert answer.complaint == "bnexp: evaluations=[turned]: turns points of a plane, and data=digits has others"
    assert not (own_folder / "run").exists()


def test_a_fault_in_a_users_file_is_named_by_file_and_line(bnexp, own_folder):
    (own_folder / "my_fault.py").write_text('"""A slip."""\n\nfrom bnexp.norms import NORM\n')
    answer = bnexp("train", "imports=[my_fault]", "hydra.run.dir=run")
    assert answer.code == 2
    assert "my_fault.py:3: ImportError" in answer.err
    assert answer.err.count("\n") == 1
    assert not (own_folder / "run").exists()
    sys.modules.pop("my_fault", None)


SLIPS = """
import torch
from torch import nn

from bnexp.data import DATA, Part, Raw
from bnexp.models import MODELS
from bnexp.probes import PROBES, Probe

x = torch.arange(200.0).view(100, 2)


@DATA.register("pair")
def pair():
    return x, x


def points(x, y):
    return Raw("data.name=points", Part(x, y, "the points", "the labels"), Part(x + 1, y, "others", "labels"), 2)


@DATA.register("floats")
def floats():
    return points(x, (x[:, 0] % 4) / 2)


@DATA.register("holes")
def holes():
    return points(x.clone().fill_(float("nan")), (x[:, 0] % 4).long() // 2)


class Unready(Probe):
    def __init__(self):
        pass

    def measure(self, moment):
        return {}


class Saying(Probe):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def measure(self, moment):
        return self.answer


@PROBES.register("unready")
def unready(model, images):
    return Unready()


@PROBES.register("silent")
def silent(model, images):
    return Saying(None)


@PROBES.register("wordy")
def wordy(model, images):
    return Saying({"size": "large"})


@MODELS.register("broken")
def broken(shape, classes, units):
    return nn.Sequential(nn.Flatten(), units.linear(2, 2), Broken())


@MODELS.register("fixed")
def fixed(shape, classes, units):
    return nn.Flatten()


class Broken(nn.Module):
    def forward(self, x):
        return x.no_such_thing
"""
LINE = 1 + SLIPS[: SLIPS.index("return x.no_such_thing")].count("\n")


@pytest.fixture
def slips(own_folder):
    """Modules with a slip each, and their yamls."""
    (own_folder / "my_slips.py").write_text(SLIPS)
    configs = own_folder / "configs"
    whole = (configs / "data" / "quadrants.yaml").read_text().replace("images: 2000\n", "")
    for name in ("pair", "floats", "holes"):
        (configs / "data" / f"{name}.yaml").write_text(whole.replace("quadrants", name))
    probe = (configs / "probes" / "kurtosis.yaml").read_text()
    for name in ("unready", "silent", "wordy"):
        (configs / "probes" / f"{name}.yaml").write_text(probe.replace("kurtosis", name))
    for name in ("broken", "fixed"):
        (configs / "model" / f"{name}.yaml").write_text(f"name: {name}\n")
    yield ("--config-dir", "configs", "imports=[my_lab,my_slips]", "data=quadrants")
    sys.modules.pop("my_slips", None)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("data=pair", 2, "data=pair: its builder returns a tuple; expected a bnexp.data.Raw"),
        ("data=floats", 2, "data.name=points: the labels is of torch.float32; labels are int64"),
        ("data=holes", 2, "data.name=points: the points has a value that is not finite in float32"),
        ("probes=[unready]", 2, "probes=[unready]: its builder returns a Unready; derive its class from bnexp.probes."),
        ("probes=[silent]", 1, "probes=[silent]: measure returns a NoneType; expected quantity -> number"),
        ("probes=[wordy]", 1, "probes=[wordy]: size is a str; expected a number or a tensor"),
        ("model=fixed", 2, "model=fixed: has no parameters to train"),
        ("model=broken", 1, f"my_slips.py:{LINE}: AttributeError: 'Tensor' object has no attribute 'no_such_thing'"),
    ],
)
def test_a_slip_is_told_where_it_is(bnexp, slips, words, code, said):
    answer = bnexp("train", *slips, "model=mlp", "steps=2", *words.split())
    assert (answer.code, said in answer.err) == (code, True), answer
    assert "Traceback" not in answer.err


def test_a_sweep_names_the_job_whose_model_fails(bnexp, slips):
    answer = bnexp("train", "-m", *slips, "model=wide,broken", "steps=2", "hydra.sweep.dir=s")
    assert (answer.code, answer.out) == (2, "")
    assert f"job model=broken: my_slips.py:{LINE}: AttributeError: " in answer.complaint


def test_an_option_without_a_type_is_told_where_it_is(bnexp, own_folder):
    text = "from bnexp.norms import NORMS\n\n\n@NORMS.register('some')\ndef some(channels, *, eps):\n    pass\n"
    (own_folder / "my_some.py").write_text(text)
    answer = bnexp("train", "imports=[my_some]")
    assert "imports=[my_some]: my_some.py:4: TypeError: norm=some: the option eps needs a type" in answer.complaint


def test_what_is_misspelt_is_told_beside_a_folder_of_ones_own(bnexp, own_folder):
    words = ("train", "--config-dir", "configs", "imports=[my_lab]", "norm=peak")
    assert "norm.epz: there is no such setting; did you mean norm.eps? (allow" in bnexp(*words, "norm.epz=1").complaint
    assert "; write imports=[my_lab]" in bnexp("train", "imports=[my_lab.py]").complaint
    merged = bnexp("train", "norm=[gn,bn]").complaint
    assert merged == "bnexp: norm=[gn,bn]: one is chosen; several make a sweep: -m norm=gn,bn"


@pytest.mark.parametrize("file", ["/x/lib/dist-packages/a.py", "/x/site-packages/a/b.py"])
def test_lines_of_libraries_are_nobodys_slips(file):
    with pytest.raises(KeyError) as caught:
        exec(compile("raise KeyError('gain')", file, "exec"))
    place = place_of(caught.value)
    assert place is not None
    assert "test_extending.py:" in place  # the line that called the library
