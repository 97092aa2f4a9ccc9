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
from bnexp.experiment.check import check
from bnexp.experiment.check_sweep import check_sweep
from bnexp.experiment.setup import build

# What a single run refused, and a sweep did not: it started every job.
ONCE_MISSED = {
    "ema=[0.9] norm=zca": "keeps covariances, which are not averaged",
    "trainable=norms norm.affine=false": "the norms have no parameter",
    "init=lsuv norm=weight_norm": "this norm sets the size of the weights itself",
    "affine=identity norm=ln": "affine=identity",
    "ema=[0.9] norm=gn_bn": "ema=[0.9]: norm=gn_bn averages E[x^2], and no variances; use ema=[]",
}
REFUSED = ONCE_MISSED | {
    "affine=identity norm=bn norm.affine=false": "use norm.affine=true",
    "affine=identity init=autoencoder activation=sigmoid": "init=autoencoder trains gains and biases",
    "init=autoencoder": "needs sigmoid units",
    "init_from=nowhere": "init_from=nowhere: there is no such folder",
    "optim=adam optim.beta2=0.99999999": "optim.beta2=0.99999999: is 1 in float32; use a smaller number, or",
    "ema=[0.5,0.99999999]": "ema=0.99999999: is 1 in float32",
    "norm=in": "undefined on vectors",
    "norm=skipinit": "acts on residual branches",
    "batch_size=500": "larger than the 200 training images",
    "steps=100000000": "out of range",
    "trainable=random_as_norms model.width=1 data.size=1": "numbers, and the model has only",
    "device=cuda:7": "device=cuda:7",
    "batch_size=4 accumulate=5": "accumulate=5: more parts than the batch has images; use at most 4",
    "batch_size=29 accumulate=27": "more parts than the last batch has images; use at most 26, or drop_last=true",
    "norm=bn batch_size=4 accumulate=3": "one value per channel, whose variance is 0; use a larger batch_size",
    "norm=bn batch_size=8 accumulate=5": "or a smaller accumulate than 5 (layer hidden1.norm)",
    "norm=zca norm.group_size=4 batch_size=10 accumulate=4": "or a smaller accumulate than 4",
}


@pytest.mark.parametrize("words", ONCE_MISSED)
@pytest.mark.slow
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


def test_the_answer_for_a_sweep_says_of_each_shape_how_large_it_is_and_whether_it_stacks():
    configs = [config(word) for word in ("compile=true", "compile=false")]
    for answer in (answer_for(*configs)["shapes"][shape(to_dict(each))] for each in configs):
        assert answer["unstackable"] is None
        assert answer["parameters"] == check([config()]).size.parameters


def test_a_run_that_has_begun_does_not_need_the_run_it_started_from(tmp_path):
    given = config(f"init_from={tmp_path / 'gone'}")
    with pytest.raises(ValueError, match="no such folder"):
        check([given])
    assert check([given], starts=False).cadence.steps > 0


# ------------------------------------------------------------------------------- settings without the effect they name

TOLD = {
    "optim.nesterov=true optim.momentum=0": "optim.nesterov=true: has no effect at optim.momentum=0",
    "precision=tf32 device=cpu": "precision=tf32: has no effect on device=cpu, where it is fp32",
    "graph=true device=cpu": "graph=true: has no effect on device=cpu",
    "schedule.warmup=3": "schedule.warmup=3: longer than the run of 2 steps, which never has the full learning rate",
    "trainable=head norm=bn": (
        "trainable=head: running statistics of norm=bn go on moving; init_from=RUN norm_state=frozen fixes them"
    ),
    "affine=constant affine.gain=2 norm=none": "affine.gain=2: has no effect, norm=none has no gain here",
    "affine=constant affine.bias=1 norm.affine=false": "affine.bias=1: has no effect, norm=bn has no bias here",
    "affine=constant affine.last_gain=0": (
        "affine.last_gain=0: has no effect, no gain of norm=bn ends a residual branch here"
    ),
    "optim.weight_decay=0.1 optim.decay_norm=true optim.decay_gain=false optim.decay_norm_bias=false": (
        "optim.decay_norm=True: has no effect beside optim.decay_gain and optim.decay_norm_bias"
    ),
    "optim.decay_norm=true": "optim.decay_norm=True: has no effect at optim.weight_decay=0",
    "accumulate=4 norm=bn": (
        "accumulate=4: norm=bn normalizes micro-batches of 8 images, and its running averages take in 4 of them at"
        " each step"
    ),
    "ema_weights=0.9 norm=bn": (
        "ema_weights=0.9: norm=bn takes its statistics under averaged weights from up to 10000 training images"
    ),
    "optim.decay_gain=true optim.decay_bias=false": (
        "optim.decay_bias=False, optim.decay_gain=True: has no effect at optim.weight_decay=0"
    ),
    "probes=[gradients] steps=7": (
        "probes: the last step has the rest of an epoch, 26 of 29 images, so that what they measure on the step's"
        " batch is noisier there; drop_last=true leaves rests out"
    ),
    "trainable=norms optim.weight_decay=0.1": ("optim.weight_decay=0.1: has no effect, no trained parameter decays"),
}
UNTOLD = [
    "optim.nesterov=true",
    "precision=fp32 schedule.warmup=2",
    "norm=ln accumulate=4 ema_weights=0.9 optim.weight_decay=0.1 optim.decay_bias=false",
    "trainable=head norm=ln",
    "trainable=norms norm=bn",
    "affine=constant affine.bias=1 norm=none optim.weight_decay=0.1 optim.decay_norm=true",
    "optim=adam schedule=cosine",
    "probes=[gradients]",
]


@pytest.mark.parametrize("words", TOLD)
def test_a_setting_without_effect_or_with_a_surprising_one_is_told_in_one_line(bnexp, tmp_path, words):
    run = tmp_path / "run"
    answer = bnexp("train", *SMALL, "steps=2", *words.split(), f"hydra.run.dir={run}")
    assert answer.code == 0, answer
    assert answer.err.splitlines().count(TOLD[words]) == 1
    assert (run / "train.log").read_text().count(TOLD[words]) == 1


@pytest.mark.parametrize("words", UNTOLD)
def test_a_setting_with_its_effect_needs_no_word(bnexp, tmp_path, words):
    answer = bnexp("train", *SMALL, "steps=2", *words.split(), f"hydra.run.dir={tmp_path / 'run'}")
    assert answer.code == 0, answer
    assert all(line.startswith(("training", "epoch")) for line in answer.err.splitlines()), answer.err


def test_a_run_from_another_says_that_it_starts_at_step_0(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bnexp("train", *SMALL, "steps=2", "hydra.run.dir=old").code == 0
    line = "init_from=old: starts a new run at step 0; bnexp resume goes on with an old one"
    idle = "init=lsuv: has no effect, because all weights come from init_from"
    assert idle in bnexp("train", *SMALL, "steps=2", "init_from=old", "init=lsuv", "hydra.run.dir=third").err
    begun = bnexp(
        "train", *SMALL, "steps=2", "init_from=old", "norm_state=frozen", "trainable=head", "hydra.run.dir=new"
    )
    assert begun.err.splitlines().count(line) == 1
    assert "go on moving" not in begun.err
