"""Starting from another run: what is taken over, what becomes of the statistics, and that a resume needs no source."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL, composed
from torch import Tensor, nn

from bnexp.config.compose import plain
from bnexp.config.schema import config_hash, from_dict, to_dict
from bnexp.data import Data, Split, load
from bnexp.experiment.check import check
from bnexp.experiment.job import Job, saved_job
from bnexp.experiment.run import run
from bnexp.experiment.setup import Setup, build
from bnexp.models.dropout import Dropout
from bnexp.models.layers import batch_norms
from bnexp.norms import NORMS, BatchStatistics, Norm
from bnexp.runs import checkpoint

FIRST, LAST = "data.classes=[0,1,2,3,4]", "data.classes=[5,6,7,8,9]"
NET = (*SMALL, "model.depth=2", "model.dropout=0.1", "checkpoint_every=2")
PRECISE = ("norm_state=precise", "pixel_scale=own", "data.labels_per_class=20")
WHITENED = ("batch_size=40", "model.dropout=0")
RNN = ("model=rnn", "model.width=8", "activation=tanh")


def never() -> bool:
    return False


def words_of(*words: str) -> list[str]:
    """Those of the net of these tests, unless others name a model."""
    net = [word for word in NET if not word.startswith("model") or "model=rnn" not in words]
    return [*net, *words]


def job(folder: Path, *words: str) -> Job:
    return Job(plain(composed(*words_of(*words))), folder, folder.name)


def trained(folder: Path, *words: str) -> checkpoint.State:
    run([job(folder, *words)], stop=never)
    state = checkpoint.load(folder)
    assert state is not None
    return state


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Runs on the digits 0 to 4, by seed, and one of another norm."""
    place = tmp_path_factory.mktemp("sources")
    for seed in (0, 1):
        trained(place / f"norm=bn,seed={seed}", FIRST, "steps=8", f"seed={seed}")
    trained(place / "ln", FIRST, "norm=ln", "steps=8")
    trained(place / "pca", FIRST, *WHITENED, "norm=pca_whiten", "norm.group_size=4", "steps=2")
    trained(place / "mean_only", FIRST, "norm=mean_only_bn", "steps=2")
    trained(place / "rnn", FIRST, *RNN, "model.statistics=per_step", "steps=2")
    return place


def start(source: Path | None, *words: str, seeds=(0,)):
    given = [f"init_from='{source}'"] if source else []
    configs = [plain(composed(*words_of(LAST, *given, *words, f"seed={seed}"))) for seed in seeds]
    return build(configs, stacked=False)


def parts(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def loaded(folder: Path) -> dict[str, Tensor]:
    state = checkpoint.load(folder)
    assert state is not None
    return {**state["parameters"], **state["buffers"]}


def is_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in ("running_mean", "running_var", "batches_seen")


def is_stream(name: str) -> bool:
    return name.rpartition(".")[2] in ("key", "passes")


def test_all_but_the_head_and_the_random_streams_is_taken_over(sources):
    setup = start(sources / "norm=bn,seed=0", "pixel_scale=own")
    saved, fresh = loaded(sources / "norm=bn,seed=0"), parts(start(None).population.members[0])
    found = parts(setup.population.members[0])
    own = {name for name in found if name.startswith("head.") or is_stream(name)}
    assert len(own) == 2 + 2 * 2
    for name, value in found.items():
        assert torch.equal(value, (fresh if name in own else saved)[name]), name
    assert setup.training.progress.step == 0


@pytest.mark.parametrize(("words", "same"), [((FIRST,), True), ((LAST,), False), (("data.classes=[0,1,2]",), False)])
def test_the_head_is_taken_over_where_the_classes_are_the_same(sources, caplog, words, same):
    caplog.set_level("INFO", logger="bnexp")
    setup = start(sources / "norm=bn,seed=0", *words)
    saved, found = loaded(sources / "norm=bn,seed=0"), parts(setup.population.members[0])
    assert (found["head.weight"].shape == saved["head.weight"].shape) == (len(words[0]) == len(FIRST))
    assert torch.equal(found["head.weight"], saved["head.weight"]) == same
    *_, line = [line for line in caplog.messages if line.startswith("init_from=")]
    assert line.endswith("including the head" if same else "with head.weight, head.bias initialized anew")
    assert "weights of step 8 of run " in line


def test_a_task_of_the_same_classes_keeps_the_head(tmp_path):
    trained(tmp_path / "first", "data.train_classes=[0,1,2,3,4]", "steps=2")
    setup = start(tmp_path / "first", "data.classes=null", "data.train_classes=[5,6,7,8,9]")
    saved, found = loaded(tmp_path / "first"), parts(setup.population.members[0])
    assert torch.equal(found["head.weight"], saved["head.weight"])
    assert set(setup.data.train.y.tolist()) == {5, 6, 7, 8, 9}


def test_reset_begins_the_statistics_anew(sources):
    found = parts(start(sources / "norm=bn,seed=0", "norm_state=reset").population.members[0])
    saved = loaded(sources / "norm=bn,seed=0")
    for name, value in found.items():
        if is_statistic(name):
            assert (value == (1 if name.endswith("running_var") else 0)).all(), name
        elif name.startswith("hidden") and not is_stream(name):
            assert torch.equal(value, saved[name])


def test_precise_statistics_are_the_moments_of_the_new_images_under_the_old_weights(sources):
    setup = start(sources / "norm=bn,seed=0", *PRECISE, "batch_size=100")
    model, x = setup.population.members[0], setup.data.train.x.double().flatten(1)
    assert x.shape == (100, 64)
    for unit in (model.hidden1, model.hidden2):
        z = x @ unit.linear.weight.double().T
        mean, var = z.mean(0), z.var(0, correction=0)
        torch.testing.assert_close(unit.norm.running_mean.double(), mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(unit.norm.running_var.double(), var, rtol=1e-4, atol=1e-5)
        normalized = (z - mean) / (var + unit.norm.eps).sqrt()
        x = F.relu(unit.norm.gain.double() * normalized + unit.norm.bias.double())
    assert all(layer.training for layer in batch_norms(model))


def test_precise_statistics_are_those_of_all_images_also_of_a_last_small_batch(sources):
    setup = start(sources / "norm=bn,seed=0", *PRECISE, "batch_size=30")
    unit, x = setup.population.members[0].hidden1, setup.data.train.x.double().flatten(1)
    z = (x @ unit.linear.weight.double().T).detach()
    torch.testing.assert_close(unit.norm.running_mean.double(), z.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(unit.norm.running_var.double(), z.var(0, correction=0), rtol=1e-4, atol=1e-5)


def seen(setup: Setup, row: int = 0) -> Tensor:
    """What the first layer of a member sees of the test images."""
    model, found = setup.population.members[row].eval(), []
    hook = model.hidden1.linear.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    model(setup.data.test.x)
    hook.remove()
    return found[0]


def pixels(classes: str, *words: str) -> Data:
    """The images as they are, and by what they would be scaled."""
    return load(plain(composed(*NET, classes, *words)).data)


def scaled(mean: list[float], std: list[float]) -> Tensor:
    """The test images of the digits 5 to 9."""
    raw = pixels(LAST, "data.standardize=false").test.x.flatten(1).double()
    return ((raw - mean[0]) / std[0]).float()


def scale_lines(caplog) -> list[str]:
    return [line.partition(": ")[2] for line in caplog.messages if "pixel" in line]


@pytest.mark.parametrize("words", [(), ("norm_state=frozen",)])
def test_pixels_are_scaled_as_those_that_the_weights_were_trained_with(sources, caplog, words):
    caplog.set_level("INFO", logger="bnexp")
    setup = start(sources / "norm=bn,seed=0", "data.labels_per_class=2", "batch_size=5", *words)
    source = pixels(FIRST)
    assert (source.mean, source.std) != (setup.data.mean, setup.data.std)
    torch.testing.assert_close(seen(setup), scaled(source.mean, source.std), rtol=0, atol=1e-5)
    assert scale_lines(caplog) == ["pixels are scaled by the mean and standard deviation of that run"]


def test_pixels_may_be_scaled_by_the_new_images(sources, caplog):
    caplog.set_level("INFO", logger="bnexp")
    setup = start(sources / "norm=bn,seed=0", "data.labels_per_class=2", "batch_size=5", "pixel_scale=own")
    assert torch.equal(seen(setup), setup.data.test.x.flatten(1))
    (line,) = scale_lines(caplog)
    assert line.endswith("deviation of this run's images (pixel_scale=source takes those of that run)")


def test_the_same_images_have_the_same_scale_to_the_last_bit(sources, caplog):
    caplog.set_level("INFO", logger="bnexp")
    setup = start(sources / "norm=bn,seed=0", FIRST)
    assert torch.equal(seen(setup), setup.data.test.x.flatten(1))
    assert scale_lines(caplog) == []


def test_a_scale_is_handed_on_from_run_to_run(sources, tmp_path):
    shutil.copytree(sources / "norm=bn,seed=0", tmp_path / "source")
    trained(tmp_path / "second", LAST, f"init_from={tmp_path}/source", "steps=2")
    shutil.rmtree(tmp_path / "source")
    source = pixels(FIRST)
    setup = start(tmp_path / "second")
    torch.testing.assert_close(seen(setup), scaled(source.mean, source.std), rtol=0, atol=1e-5)


def test_members_of_a_stack_have_scales_of_their_own(sources, tmp_path):
    for seed, classes in enumerate((FIRST, "data.classes=[0,1]")):
        trained(tmp_path / f"seed={seed}", classes, "steps=1", f"seed={seed}")
    words = (LAST, f"init_from='{tmp_path}/seed={{seed}}'", "steps=2", "model.dropout=0")
    configs = [plain(composed(*words_of(*words, f"seed={seed}"))) for seed in (0, 1)]
    stacked, single = build(configs, stacked=True), [build([config], stacked=False) for config in configs]
    for row, classes in enumerate((FIRST, "data.classes=[0,1]")):
        source = pixels(classes)
        torch.testing.assert_close(seen(stacked, row), scaled(source.mean, source.std), rtol=0, atol=1e-5)
    x = stacked.data.test.x
    stacked.population.train(False)
    together = stacked.population(x.expand(2, *x.shape))
    for row, setup in enumerate(single):
        setup.population.train(False)
        torch.testing.assert_close(together[row], setup.population(x[None])[0], rtol=1e-4, atol=1e-5)


def test_what_says_no_scale_is_told(sources, tmp_path, caplog):
    state = checkpoint.load(shutil.copytree(sources / "norm=bn,seed=0", tmp_path / "older"))
    assert state is not None
    del state["scale"]  # as version 0.1 wrote it
    checkpoint.save(tmp_path / "older", state)
    caplog.set_level("INFO", logger="bnexp")
    setup = start(tmp_path / "older")
    assert torch.equal(seen(setup), setup.data.test.x.flatten(1))
    start(sources / "norm=bn,seed=0", "data.whiten=zca")
    assert scale_lines(caplog) == [
        "that run does not say how its pixels are scaled; they are scaled by this run's images",
        "has no effect, as data.whiten is computed from the images of this run",
    ]


def test_a_checkpoint_without_buffers_is_refused_in_one_line(sources, tmp_path):
    state = checkpoint.load(shutil.copytree(sources / "norm=bn,seed=0", tmp_path / "odd"))
    assert state is not None
    del state["buffers"]
    checkpoint.save(tmp_path / "odd", state)
    with pytest.raises(ValueError, match=r"^init_from=.*/odd: its checkpoint has no buffers; not one of this version"):
        start(tmp_path / "odd")


def test_scales_of_other_channels_are_refused(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(60, 64)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x_train=vectors, y_train=np.arange(60) % 2, x_test=vectors[:9] + 1, y_test=[0] * 9)
    words = ("data=npz", f"data.path={tmp_path}/x.npz", "data.train_limit=null", "steps=1")
    trained(tmp_path / "vectors", *words)
    with pytest.raises(ValueError, match=r"pixels have 64 channels there and 1 here, .*; use pixel_scale=own"):
        start(tmp_path / "vectors")
    assert start(tmp_path / "vectors", "pixel_scale=own").training.progress.step == 0


def test_whose_scale_is_said_by_the_config(sources):
    new = plain(composed("init_from=a"))
    assert (new.pixel_scale, plain(composed()).pixel_scale) == ("source", "own")
    saved = {key: value for key, value in to_dict(new).items() if key != "pixel_scale"}  # as version 0.1 wrote it
    assert from_dict(saved).pixel_scale == "own"
    assert config_hash(saved) == config_hash(to_dict(from_dict(saved))) != config_hash(to_dict(new))
    with pytest.raises(ValueError, match=r"^pixel_scale=source: needs init_from; without it use pixel_scale=own"):
        plain(composed("pixel_scale=source"))


@pytest.mark.parametrize("name", ["bn", "bn_scratch"])
def test_a_frozen_layer_is_a_straight_line_with_fixed_statistics(name):
    torch.manual_seed(0)
    norm = NORMS.bind(plain(composed(f"norm={name}")).norm)(3).double()
    assert isinstance(norm, BatchStatistics)
    norm(torch.randn(9, 3, 2, dtype=torch.float64) * 2 + 1)
    norm.frozen = True
    before = {key: value.clone() for key, value in norm.named_buffers()}
    nn.Sequential(norm).train()
    assert not norm.training
    x = torch.randn(5, 3, 2, dtype=torch.float64, requires_grad=True)
    seed = torch.randn(5, 3, 2, dtype=torch.float64)
    norm(x).backward(seed)
    slope = (norm.gain / (before["running_var"] + norm.eps).sqrt()).view(1, 3, 1)
    expected = slope * (x - before["running_mean"].view(1, 3, 1))
    torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(x.grad, (slope * seed).detach(), rtol=0, atol=1e-10)
    assert all(torch.equal(value, before[key]) for key, value in norm.named_buffers())
    torch.testing.assert_close(norm.bias.grad, seed.sum((0, 2)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("stacked", [False, True])
def test_frozen_statistics_stay_through_a_training_with_evaluations_and_gains_learn(sources, tmp_path, stacked):
    words = (LAST, f"init_from='{sources}/norm=bn,seed={{seed}}'", "norm_state=frozen", "steps=4", "eval_every=2")
    jobs = [job(tmp_path / str(seed), *words, f"seed={seed}") for seed in (0, 1)]
    run(jobs, stop=never, stacked=stacked)
    for seed in (0, 1):
        saved, found = loaded(sources / f"norm=bn,seed={seed}"), loaded(tmp_path / str(seed))
        for name in (name for name in found if is_statistic(name)):
            assert torch.equal(found[name], saved[name]), name
        assert not torch.equal(found["hidden1.norm.gain"], saved["hidden1.norm.gain"])
        assert not torch.equal(found["hidden1.linear.weight"], saved["hidden1.linear.weight"])


def test_a_frozen_net_is_watched_as_what_it_is(sources):
    words = ("norm_state=frozen", "probes=[landscape]")
    setup = start(sources / "norm=bn,seed=0", *words)
    assert not any(layer.training for layer in batch_norms(setup.population.members[0]))
    assert setup.observer.probes["landscape"][0].invariant == []
    assert start(sources / "norm=bn,seed=0", words[1]).observer.probes["landscape"][0].invariant != []


def test_frozen_statistics_allow_batches_of_one(sources):
    words = ("data.labels_per_class=2", "batch_size=1")
    assert start(sources / "norm=bn,seed=0", "norm_state=frozen", *words).training.cadence.per_epoch == 10
    with pytest.raises(ValueError, match="gives one value per channel"):
        start(sources / "norm=bn,seed=0", *words)


def test_the_seed_in_the_path_is_the_members(sources):
    setup = start(sources / "norm=bn,seed={seed}", seeds=(0, 1))
    for seed, member in enumerate(setup.population.members):
        weight = loaded(sources / f"norm=bn,seed={seed}")["hidden1.linear.weight"]
        assert torch.equal(parts(member)["hidden1.linear.weight"], weight)


class After:
    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.mark.parametrize("norm_state", ["keep", "frozen"])
def test_a_resumed_run_needs_no_source_and_ends_where_the_undisturbed_one_does(sources, tmp_path, norm_state):
    shutil.copytree(sources / "norm=bn,seed=0", tmp_path / "source")
    words = (LAST, f"init_from={tmp_path}/source", f"norm_state={norm_state}", "steps=7")
    whole = trained(tmp_path / "whole", *words)
    run([job(tmp_path / "halved", *words)], stop=After(3))
    shutil.rmtree(tmp_path / "source")
    (outcome,) = run([saved_job(tmp_path / "halved")], stop=never)
    assert outcome.status == "finished"
    assert checkpoint.digest(checkpoint.load(tmp_path / "halved")) == checkpoint.digest(whole)


def test_rules_that_look_at_data_leave_what_is_taken_over_alone(sources):
    found = parts(start(sources / "norm=bn,seed=0", "init=lsuv", "affine=identity").population.members[0])
    saved = loaded(sources / "norm=bn,seed=0")
    assert all(torch.equal(found[name], saved[name]) for name in ("hidden1.linear.weight", "hidden1.norm.gain"))


def test_norms_with_the_same_statistics_take_each_others(sources):
    found = start(sources / "norm=bn,seed=0", "norm=bn_scratch").population.members[0]
    assert isinstance(found.hidden1.norm, Norm)
    saved = loaded(sources / "norm=bn,seed=0")["hidden1.norm.running_var"]
    assert torch.equal(parts(found)["hidden1.norm.running_var"], saved)


@pytest.mark.parametrize(
    ("folder", "words", "message"),
    [
        ("pca", (*WHITENED, "norm=zca", "norm.group_size=4"), "that run has norm=pca_whiten, this one norm=zca"),
        ("pca", ("norm=bn",), "that run has norm=pca_whiten, this one norm=bn"),
        ("mean_only", ("norm=bn",), "that run has norm=mean_only_bn, this one norm=bn"),
        ("norm=bn,seed=0", ("norm=var_only_bn",), "that run has norm=bn, this one norm=var_only_bn"),
        ("rnn", (*RNN, "model.statistics=shared"), "that run has recurrent.input_norm.steps.1.running_mean, this one"),
    ],
)
def test_statistics_of_another_meaning_are_refused(sources, folder, words, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        start(sources / folder, *words)


def test_statistics_that_begin_anew_may_be_fewer(sources):
    found = start(sources / "rnn", *RNN, "model.statistics=shared", "norm_state=reset").population.members[0]
    assert len(batch_norms(found)) == 2


def test_the_schedule_of_a_norm_begins_anew(sources):
    norm = start(sources / "norm=bn,seed=0", "norm=batch_renorm").population.members[0].hidden1.norm
    assert norm.batches_seen == 8
    assert norm.batches_trained == 0


def test_an_affine_rule_without_effect_is_said(sources, caplog):
    caplog.set_level("INFO", logger="bnexp")
    start(sources / "norm=bn,seed=0", "affine=identity")
    start(None, "norm=none", "affine=constant", "affine.gain=2")
    start(None, "affine=constant", "affine.gain=2")
    assert [line for line in caplog.messages if "has no effect" in line] == [
        "affine=identity: has no effect, because gains and biases come from init_from",
        "affine.gain=2: has no effect, norm=none has no gain here",
    ]


def test_frozen_statistics_are_those_of_every_evaluation(sources):
    setup = start(sources / "norm=bn,seed=0", "norm_state=frozen")
    before = {name: buffer.clone() for name, buffer in setup.population.buffers.items()}
    measured = setup.evaluate()
    assert measured["test/loss_precise"] == measured["test/loss"]
    kinds = {row.statistics: row.measured["loss"] for row in setup.compare_statistics("test")}
    assert kinds["precise"] == pytest.approx(kinds["running"], rel=1e-6)
    assert kinds["batch"] == pytest.approx(kinds["running"], rel=1e-6)
    assert all(torch.equal(buffer, before[name]) for name, buffer in setup.population.buffers.items())


def test_dropout_goes_on_with_the_streams_of_the_new_seed(sources):
    one, other = (start(sources / "norm=bn,seed=0", seeds=(seed,)).population.members[0] for seed in (0, 5))
    keys = [[int(layer.key) for layer in model.modules() if isinstance(layer, Dropout)] for model in (one, other)]
    assert len(keys[0]) == 2
    assert not set(keys[0]) & set(keys[1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("norm=ln",), "that run has norm=bn, this one norm=ln; they must agree"),
        (("activation=tanh",), "that run has activation=relu, this one activation=tanh; they must agree"),
        (("model=lenet", "data.size=28"), "that run has model=mlp, this one model=lenet; they must agree"),
        (("model.width=17",), "hidden1.linear.weight is [16, 64] there and [17, 64] here; only the head may differ"),
        (
            ("model.depth=3",),
            "that run has no hidden3.linear.weight, this one has; model and norm must agree, except for the head",
        ),
        (
            ("model.depth=1",),
            "that run has hidden2.linear.weight, this one does not; model and norm must agree, except for the head",
        ),
        (
            ("norm.affine=false",),
            "that run has hidden1.norm.bias, this one does not; model and norm must agree, except for the head",
        ),
    ],
)
def test_a_run_that_does_not_fit_is_refused(sources, words, message):
    words = [word for word in (*NET, LAST, *words) if not (word.startswith("model.") and "model=lenet" in words)]
    config = plain(composed(*words, f"init_from='{sources}/norm=bn,seed=0'"))
    with pytest.raises(ValueError, match=f"^init_from={re.escape(str(sources))}/norm=bn,seed=0: {re.escape(message)}$"):
        build([config], stacked=False)


def test_what_is_no_run_is_refused_and_nothing_is_made(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = bnexp("train", *SMALL, "init_from=a/norm=bn", "hydra.run.dir=new")
    assert (answer.code, answer.err) == (2, "bnexp: init_from=a/norm=bn: there is no such folder\n")
    assert not (tmp_path / "new").exists()


def test_norm_state_needs_a_source_and_statistics(sources):
    with pytest.raises(ValueError, match=r"^norm_state=frozen: needs init_from; without it use norm_state=keep$"):
        plain(composed("norm_state=frozen"))
    with pytest.raises(
        ValueError, match=r"^norm_state=reset: norm=ln keeps no statistics of batches; use norm_state=keep$"
    ):
        start(sources / "ln", "norm=ln", "norm_state=reset")


def test_the_command_line_takes_a_run_folder_as_it_is_called(bnexp, sources, monkeypatch):
    monkeypatch.chdir(sources)
    words = (*NET, LAST, "data.labels_per_class=5", "norm_state=frozen", "steps=2", "batch_size=5")
    shutil.copytree("norm=bn,seed=0", "09-00-00-norm=bn")
    answer = bnexp("train", *words, "init_from=09-00-00-norm=bn", "hydra.run.dir=one")
    assert answer.code == 0, answer
    assert "finished: test accuracy" in answer.out
    assert saved_job(sources / "one").config.init_from == "09-00-00-norm=bn"
    for seed in (0, 1):
        shutil.copytree(f"norm=bn,seed={seed}", f"pre/seed={seed}")
    answer = bnexp("train", *words, "init_from=pre/seed={seed}", "seed=1", "hydra.run.dir=two")
    assert answer.code == 0, answer
    assert saved_job(sources / "two").config.init_from == "pre/seed={seed}"


def test_the_source_is_read_once(sources, tmp_path, caplog):
    source = tmp_path / "source"
    shutil.copytree(sources / "norm=bn,seed=0", source)
    (source / "checkpoint.pt").write_bytes(b"damaged")
    caplog.set_level("INFO", logger="bnexp")
    trained(tmp_path / "new", LAST, f"init_from='{source}'", "steps=2")
    assert len([line for line in caplog.messages if "checkpoint.pt" in line]) == 1, caplog.messages


def test_a_start_is_tried_on_the_cpu_wherever_the_images_are(sources):
    """A model is tried before it is on the device of the data; "meta" is a device that gives no numbers away."""
    config = plain(composed(*words_of(LAST, f"init_from='{sources}/norm=bn,seed=0'")))
    data = load(config.data).mapped(lambda split: Split(split.x.to("meta"), split.y))
    assert check([config], data).taken is not None
