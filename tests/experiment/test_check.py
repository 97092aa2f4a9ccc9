"""One check for runs and sweeps: both refuse the same words in the same line, and leave nothing behind."""

from __future__ import annotations

import io
import json
import re
from contextlib import redirect_stdout

import pytest
from conftest import SMALL, composed
from torch.utils.flop_counter import FlopCounterMode

from bnexp.config.compose import plain
from bnexp.config.schema import shape, to_dict
from bnexp.experiment.check import check, check_sweep
from bnexp.experiment.setup import build

# What a single run refused, and a sweep did not: it started every job.
ONCE_MISSED = {
    "ema=[0.9] norm=zca": "keeps covariances, which are not averaged",
    "trainable=norms norm.affine=false": "the norms have no parameter",
    "init=lsuv norm=weight_norm": "this norm sets the size of the weights itself",
    "affine=identity norm=ln": "affine=identity",
}
REFUSED = ONCE_MISSED | {
    "affine=identity norm=bn norm.affine=false": "use norm.affine=true",
    "affine=identity init=autoencoder activation=sigmoid": "init=autoencoder trains gains and biases",
    "init=autoencoder": "needs sigmoid units",
    "init_from=nowhere": "init_from=nowhere: nowhere: there is no such folder",
    "norm=in": "undefined on vectors",
    "norm=skipinit": "acts on residual branches",
    "batch_size=500": "larger than the 200 training images",
    "steps=100000000": "out of range",
    "trainable=random_as_norms model.width=1 data.size=1": "numbers, and the model has only",
    "device=cuda:7": "device=cuda:7",
}


@pytest.mark.parametrize("words", ONCE_MISSED)
def test_a_run_and_a_sweep_say_the_same_line_and_leave_nothing(words, bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    alone = bnexp("train", *SMALL, *words.split())
    swept = bnexp("train", "-m", *SMALL, *words.split(), "seed=0,1")
    assert (alone.code, swept.code, swept.err) == (2, 2, alone.err)
    assert ONCE_MISSED[words] in alone.err
    assert alone.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", REFUSED)
def test_the_jobs_of_a_sweep_are_checked_as_a_run_is(words):
    with pytest.raises(ValueError, match=re.escape(REFUSED[words])) as alone:
        build([config(*words.split())], stacked=False)
    assert answer_for(config(*words.split()))["faults"] == {"0": str(alone.value)}


def answer_for(*configs):
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert check_sweep([to_dict(each) for each in configs], begun=[False] * len(configs)) == 0
    return json.loads(printed.getvalue().splitlines()[-1])


def config(*words: str):
    return plain(composed(*SMALL, *words))


def test_the_size_of_a_member_is_that_of_the_population_that_is_built():
    words = ("model.width=12", "norm=bn", "optim=adam", "batch_size=25")
    checked, setup = check([config(*words)]), build([config(*words)], stacked=False)
    training = setup.training
    assert checked.size.parameters == sum(p.numel() for p in setup.population.members[0].parameters())
    built = [training.population.theta_MP, training.population.gradient_MP, *training.optimizer.slots.values()]
    built += training.population.buffers.values()
    assert checked.size.nbytes == sum(tensor.numel() * tensor.element_size() for tensor in built)


@pytest.mark.parametrize("model", ["mlp", "cnn", "lenet", "resnet"])
def test_operations_are_those_that_torch_counts(model):
    words = {"mlp": SMALL, "resnet": ("model=resnet", "model.depth=8", "model.width=4", "data.size=12")}
    given = plain(composed(*words.get(model, (f"model={model}", "data.size=16")), "norm=none", "batch_size=8"))
    setup = build([given], stacked=False)
    x_MB, _ = setup.training.batches(0)
    with FlopCounterMode(display=False) as counted:
        setup.population(x_MB)
    assert check([given]).size.operations == 3 * counted.get_total_flops()


def test_the_answer_for_a_sweep_says_why_jobs_are_not_stacked():
    configs = [config(word) for word in ("compile=true", "compile=false")]
    compiled, ordinary = (answer_for(*configs)["shapes"][shape(to_dict(each))] for each in configs)
    assert compiled["unstackable"].startswith("compile=true: ")
    assert ordinary["unstackable"] is None
    assert ordinary["parameters"] == check([config()]).size.parameters


def test_a_run_that_has_begun_does_not_need_the_run_it_started_from(tmp_path):
    given = config(f"init_from={tmp_path / 'gone'}")
    with pytest.raises(ValueError, match="no such folder"):
        check([given])
    assert check([given], starts=False).cadence.steps > 0
