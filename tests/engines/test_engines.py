"""SLURM and Ray give the folders and results of this machine; here by submitit's local executor and a local Ray."""

from __future__ import annotations

import contextlib
import importlib
import json

import pytest
from conftest import ROOT, SMALL_RUN
from processes import Ended, begin, furnish
from test_sweep import WORDS, results, sweep

ENGINES = {
    "submitit": ("hydra_plugins.hydra_submitit_launcher", "hydra/launcher=submitit_local"),
    "ray": ("hydra_plugins.hydra_ray_launcher", "hydra/launcher=ray"),
}


@pytest.fixture(params=ENGINES)
def launcher(request):
    plugin, word = ENGINES[request.param]
    pytest.importorskip(plugin, reason=f"an extra of bnexp: {plugin} is not installed")
    return word


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    place = tmp_path_factory.mktemp("here")
    furnish(place)
    assert sweep(place, "norm.tag=t0,t1,t2").code == 0
    return place / "s"


@pytest.mark.slow
def test_an_engine_gives_the_folders_and_results_of_this_machine(tmp_path, here, launcher):
    furnish(tmp_path)
    (tmp_path / "fault-t1").write_text("raise")
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    words = [*WORDS, "hydra.sweep.dir=s", "norm.tag=t0,t1,t2", launcher]
    answer = Ended(begin(tmp_path, *words, extra_env=environment))
    assert answer.code == 1, answer
    assert "failed: norm.tag=t1: RuntimeError: the norm is broken" in answer.out
    assert json.loads((tmp_path / "s" / "norm.tag=t1" / "run.json").read_text())["status"] == "failed"
    assert sorted(results(tmp_path / "s")) == sorted(results(here))
    again = Ended(begin(tmp_path, "resume", "s", "--imports", "my_norms", "--retry-failed"))
    assert again.code == 0, again
    assert results(tmp_path / "s") == results(here)


@pytest.mark.parametrize("word", ["slurm", "ray"])
def test_an_extra_that_is_not_installed_is_named(bnexp, tmp_path, monkeypatch, word):
    plugin = {"slurm": "hydra_submitit_launcher", "ray": "hydra_ray_launcher"}[word]
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module(f"hydra_plugins.{plugin}")
        pytest.skip(f"{plugin} is installed")
    monkeypatch.chdir(tmp_path)
    answer = bnexp("train", "-m", "seed=0,1", f"hydra/launcher={word}", *SMALL_RUN)
    assert answer.code == 2
    assert answer.err == f"bnexp: hydra/launcher={word}: not installed; pip install bnexp[{word}]\n"
    assert list(tmp_path.iterdir()) == []
