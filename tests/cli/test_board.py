"""The page that ``bnexp board`` opens: its address, and the colours of norms in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from zipfile import ZipFile

import pytest
import tensorboard

from bnexp.cli.board import own_page
from bnexp.cli.board_page import address, coloured

ASSETS = Path(tensorboard.__file__).with_name("webfiles.zip")
RUNS = {
    "five/norm=bn": "bn",
    "norm=gn,seed=0": "gn",
    "2026-11-26/08-46-12-norm=ln_c,seed=0": "ln_c",
    "a/norm.groups=4,norm=none": "none",
    "optim.decay_norm=false": None,
    "plain": None,
}


@pytest.fixture(scope="module")
def script():
    """The page's script as it is served."""
    with coloured(ASSETS)() as file, ZipFile(file) as served, ZipFile(ASSETS) as shipped:
        assert served.namelist() == shipped.namelist()
        return served.read("index.js").decode()


@pytest.mark.parametrize("claims", [False, True])
def test_the_address_pins_curves_without_smoothing_and_colours_by_norm(claims):
    query = {key: value for key, (value,) in parse_qs(urlsplit(address(claims=claims)).query).items()}
    assert query["smoothing"] == "0"
    pinned = json.loads(query["pinnedCards"])
    assert pinned == [{"plugin": "scalars", "tag": tag} for tag in ("test/accuracy", "train/loss")]
    kind, _, group = query["runColorGroup"].partition(":")
    assert kind == "regex"
    assert {run: re.match(group, run)[1] for run in RUNS} == RUNS
    assert ("runFilter" in query) is not claims
    if not claims:
        assert [bool(re.match(query["runFilter"], run)) for run in ("claims/a/norm=bn", "five/a")] == [False, True]


@pytest.mark.skipif(not shutil.which("node"), reason="needs node")
def test_a_norm_has_its_colour_in_both_kinds_of_dashboards(script):
    groups = ['["bn",null]', '["zca",null]', '["mine",null]', "experiment/norm=bn"]
    asked = f"{json.dumps(groups)}.map(g => bnexp.number(g, 1)), {json.dumps(list(RUNS))}.map(r => bnexp.colour(r))"
    program = script[: script.index("};") + 2] + f"console.log(JSON.stringify([{asked}]))"
    answer = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True).stdout
    numbers, colours = json.loads(answer)
    assert numbers == [1, 32, 6, 6]  # of the core, the last, and others behind the core
    assert colours == ["#0072b2", "#cc79a7", "#0072b2", "#1c1c1e", None, None]


def test_the_palette_is_ours(script):
    colours = json.loads(re.search(r'colors:(\[\{"name".*?\}\])', script)[1])
    assert len(colours) == 8
    assert [colours[0][key] for key in ("lightHex", "darkHex")] == ["#1c1c1e", "#ececea"]
    assert [colours[1][key] for key in ("lightHex", "darkHex")] == ["#0072b2", "#0072b2"]


def test_of_another_version_its_own_page_is_taken_and_it_is_said(tmp_path, monkeypatch, capsys):
    (tmp_path / "webfiles.zip").touch()
    with ZipFile(tmp_path / "webfiles.zip", "w") as file:
        file.writestr("index.js", "another script")
    monkeypatch.setattr(tensorboard, "__file__", str(tmp_path / "__init__.py"))
    assert own_page() is None
    assert capsys.readouterr().err == (
        "bnexp: this version of TensorBoard has another page; norms have the colours that it gives them\n"
    )
