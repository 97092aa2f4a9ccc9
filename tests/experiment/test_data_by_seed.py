"""Label noise, splits by the seed and sorted batches in whole runs: resumed, stacked, recorded, and in a sweep."""

from __future__ import annotations

import pytest
import torch
from conftest import SMALL_RUN, composed
from recorders import evaluated_eagerly
from test_resume import StopAt, left_behind, run_words
from test_stacked import agree, never

from bnexp.config.compose import plain
from bnexp.data import load
from bnexp.data.members import noisy
from bnexp.experiment.job import Job
from bnexp.experiment.run import run
from bnexp.experiment.setup import build
from bnexp.training.loop import train

# All at once: noise, each seed's own images, batches of one class, an average of statistics, a probe that reads labels.
WORDS = (
    *(*SMALL_RUN, "norm=bn", "ema=[0.9]", "probes=[eval_mismatch]", "probes.eval_mismatch.every=5", "data.flip=true"),
    *("data.order=sorted", "data.label_noise=0.3", "data.split_seed=seed", "eval_every=5", "checkpoint_every=4"),
)
SEEDS = (0, 1, 5)


def configs(*words: str):
    return [plain(composed(*WORDS, f"seed={seed}", *words)) for seed in SEEDS]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    place = tmp_path_factory.mktemp("alone")
    for seed in SEEDS:
        run_words(place / str(seed), StopAt(0), (*WORDS, f"seed={seed}"))
    return place


@pytest.mark.parametrize("step", [3, 8, 12])
def test_a_stopped_run_goes_on_bit_for_bit(alone, tmp_path, step):
    words = (*WORDS, "seed=5")
    assert run_words(tmp_path / "run", StopAt(step), words).status == "interrupted"
    assert run_words(tmp_path / "run", StopAt(0), words).status == "finished"
    assert left_behind(tmp_path / "run") == left_behind(alone / "5")


@pytest.mark.parametrize("stacked", [False, True], ids=["one by one", "stacked"])
def test_members_are_what_they_are_alone(alone, tmp_path, stacked):
    jobs = [Job(config, tmp_path / str(config.seed), str(config.seed)) for config in configs()]
    assert [outcome.status for outcome in run(jobs, stop=never, stacked=stacked)] == ["finished"] * 3
    for seed in SEEDS:
        agree(tmp_path / str(seed), alone / str(seed))
        if not stacked:
            assert left_behind(tmp_path / str(seed)) == left_behind(alone / str(seed))


@pytest.mark.parametrize("stacked", [False, True], ids=["one by one", "stacked"])
def test_a_recorded_step_is_the_same(stacked):
    found, recorded = [], []

    def keep(work):
        recorded.append(work)
        return work

    for recorder in (keep, None):
        setup = build(configs("drop_last=true", "epochs=2"), stacked=stacked)
        setup.population.recorder = recorder
        records = list(train(setup.training, evaluated_eagerly(setup), setup, stop=never))
        found.append((repr(records), setup.population.theta_MP.clone()))
    assert len(recorded) == 1
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("stacked", [False, True], ids=["one by one", "stacked"])
def test_training_labels_are_measured_with_their_noise_and_others_without(stacked):
    """Against a slow loop over the pictures of the whole data set, which are found again by their pixels."""
    setup = build(configs("data.train_limit=null", "eval_train=5000"), stacked=stacked)
    setup.population.theta_MP.mul_(3)  # sure of its answers, so that the losses differ
    measured = setup.evaluate()
    pool = load(setup.config.data).train
    known = {tuple(x.flatten().tolist()): int(y) for x, y in zip(pool.x, pool.y, strict=True)}
    for member, seed in enumerate(SEEDS):
        model = setup.population.members[member].eval()
        for tag, share in (("train_eval", 0.3), ("validation", 0.0)):
            split = setup.data.splits()[tag.removesuffix("_eval")].of(member)
            x = split.batch(slice(None))[0][0]
            clean = torch.tensor([known[tuple(image.flatten().tolist())] for image in x])
            y = noisy(clean, share, 10, seed)
            assert int((y != clean).sum()) == round(share * len(y))
            with torch.no_grad():
                logits = model(x).double()
            loss = torch.nn.functional.cross_entropy(logits, y)
            assert measured[f"{tag}/loss"][member] == pytest.approx(float(loss), rel=1e-4)
            right = float((logits.argmax(1) == y).double().mean())
            assert measured[f"{tag}/accuracy"][member] == pytest.approx(right, abs=2.5 / len(y))


def test_jobs_of_a_sweep_do_not_share_what_their_seeds_decide(alone, bnexp, tmp_path, monkeypatch):
    """The fork server reads the data set once for all of them."""
    monkeypatch.chdir(tmp_path)
    answer = bnexp("train", "-m", *WORDS, "seed=0,1,5", "hydra.sweep.dir=s", "hydra.launcher.jobs=2")
    assert answer.code == 0, answer
    for seed in SEEDS:
        found = (tmp_path / "s" / f"seed={seed}" / "metrics.csv").read_bytes()
        assert found == (alone / str(seed) / "metrics.csv").read_bytes()


@pytest.mark.parametrize("norm_state", ["precise", "keep"])
def test_a_run_from_other_weights_reads_its_own_images(alone, tmp_path, norm_state):
    words = (*WORDS, f"init_from={alone}/5", "seed=1", f"norm_state={norm_state}", "steps=4")
    assert run_words(tmp_path / "run", StopAt(2), words).status == "interrupted"
    run_words(tmp_path / "run", StopAt(0), words)
    run_words(tmp_path / "again", StopAt(0), words)
    assert left_behind(tmp_path / "run") == left_behind(tmp_path / "again")


def test_pretraining_sees_each_members_own_images():
    words = ("init=autoencoder", "init.epochs=1", "activation=sigmoid", "norm=none", "ema=[]", "probes=[]")
    words = tuple(word for word in WORDS if "norm=" not in word and "probes" not in word and "ema" not in word) + words
    made = [plain(composed(*words, f"seed={seed}")) for seed in SEEDS]
    together = build(made, stacked=True).population.theta_MP
    for row, config in enumerate(made):
        assert torch.equal(build([config], stacked=False).population.theta_MP[0], together[row])
