"""What is known of a quantity by its name, written out for every tag that runs have."""

from __future__ import annotations

import pytest

from bnexp.config.metrics import evaluated_of, larger_is_better, metric_of, probed_of, statistics_of, title

SPLITS = ("train", "validation", "test", "train_eval")
KINDS = ("", "_precise", "_batch", "_ema0.9", "_ema0.999_corrected")
# Tag -> (larger is better or unknown, the way it is sorted, chance of 10 classes, a share of the images).
KNOWN = {
    **{f"{split}/accuracy{kind}": (True, True, 0.1, True) for split in SPLITS for kind in KINDS},
    **{f"{split}/top5_accuracy{kind}": (True, True, 0.5, True) for split in SPLITS for kind in KINDS},
    **{f"{split}/loss{kind}": (False, False, None, False) for split in SPLITS for kind in KINDS},
    "test/ece_noise3_batch64": (False, False, None, False),
    "test/accuracy_pgd0.05": (True, True, 0.1, True),
    "test/balanced_accuracy": (True, True, 0.1, True),
    "test/error": (False, False, None, False),
    "test/perplexity": (False, False, None, False),
    "seconds": (False, False, None, False),
    "probe/landscape/loss_max": (False, False, None, False),
}
UNKNOWN = {
    "probe/landscape/beta": True,
    "probe/gradients/relative/hidden1": True,
    "probe/eval_mismatch/accuracy/running": True,
    "probe/mine/loss_change/hidden1": False,  # of a layer; about a loss
    "probe/mine/errors/hidden1": False,
    "test/losses": False,
    "test/top1": True,
    "": True,
}


@pytest.mark.parametrize(("tag", "facts"), KNOWN.items(), ids=KNOWN)
def test_what_a_name_tells(tag, facts):
    metric = metric_of(tag)
    chance = metric.chance(10) if metric.chance else None
    assert (metric.larger_is_better, larger_is_better(tag), chance, metric.is_proportion) == facts


@pytest.mark.parametrize(("tag", "larger"), UNKNOWN.items(), ids=UNKNOWN)
def test_of_other_names_only_the_way_they_are_sorted_is_guessed(tag, larger):
    metric = metric_of(tag)
    assert (metric.larger_is_better, metric.chance, metric.is_proportion) == (None, None, False)
    assert larger_is_better(tag) is larger


def test_five_guesses_are_never_more_than_all_classes():
    chance = metric_of("test/top5_accuracy").chance
    assert chance is not None
    assert [chance(classes) for classes in (2, 5, 10, 100)] == [1, 1, 0.5, 0.05]


TITLES = {
    "test/accuracy": "test accuracy",
    "train/loss": "training loss",
    "train_eval/loss_precise": "training (evaluated) loss, precise statistics",
    "test/top5_accuracy_ema0.9_corrected": "test top-5 accuracy, running average with decay 0.9, corrected",
    "test/top1_hits": "test top1 hits",
    "test/accuracy_noise3": "test accuracy, noise of severity 3",
    "test/loss_fgsm0.05_precise": "test loss, FGSM of epsilon 0.05, precise statistics",
    "test/ece_batch64": "test calibration error, batch statistics of 64 images",
    "test/ece_mine_batch8prior4": "test calibration error, mine, batch statistics of 8 images and a prior of 4",
    "test/accuracy_tent64": "test accuracy, adapted by the entropy of batches of 64 images",
    "test/accuracy_batch64sorted": "test accuracy, batch statistics of 64 images of few classes",
    "test/accuracy_ema_weights": "test accuracy, averaged weights",
    "test/accuracy_own0.25": "test accuracy, own image weighed 0.25",
    "test/loss_own": "test loss, own image weighed by validation",
    "lr": "learning rate",
    "probe/gradients/norm/hidden1": "gradient of the weights",
    "probe/mine/loss_change/hidden1": "loss change",
    "": "",
}


@pytest.mark.parametrize(("tag", "words"), TITLES.items(), ids=TITLES)
def test_a_tag_in_words(tag, words):
    assert title(tag) == words


def test_what_a_probe_measures_and_where():
    found = {tag: probed_of(tag) for tag in ("probe/a/b", "probe/a/b/c.d", "probe/eval_mismatch/accuracy/running")}
    assert [(own.probe, own.quantity, own.layer, own.has_layers) for own in found.values() if own] == [
        ("a", "b", "", False),
        ("a", "b", "c.d", True),
        ("eval_mismatch", "accuracy", "running", False),
    ]
    assert [probed_of(tag) for tag in ("test/accuracy", "probe/a", "probe", "")] == [None] * 4


PARTS = {
    "test/accuracy": ("test", "accuracy", "", "running"),
    "train_eval/top5_accuracy_precise": ("train_eval", "top5_accuracy", "", "precise"),
    "validation/loss_ema0.999_corrected": ("validation", "loss", "", "ema0.999_corrected"),
    "test/ece_noise3_batch64prior16": ("test", "ece", "noise3", "batch64prior16"),
    "test/accuracy_my_own_ema_weights": ("test", "accuracy", "my_own", "ema_weights"),
    "test/accuracy_pgd1e-05_tent8": ("test", "accuracy", "pgd1e-05", "tent8"),
    "test/accuracy_blur5_batch8prior16sorted": ("test", "accuracy", "blur5", "batch8prior16sorted"),
    "test/loss_tent64sorted": ("test", "loss", "", "tent64sorted"),
    "test/accuracy_noise3_own0.0625": ("test", "accuracy", "noise3", "own0.0625"),
    "test/loss_own": ("test", "loss", "", "own"),
    "test/accuracy_own2": ("test", "accuracy", "own2", "running"),
    "test/accuracy_batch0": ("test", "accuracy", "batch0", "running"),
}


@pytest.mark.parametrize(("tag", "parts"), PARTS.items(), ids=PARTS)
def test_the_parts_of_a_name_and_back(tag, parts):
    found = evaluated_of(tag)
    assert (found.split, found.quantity, found.condition, found.statistics.word) == parts
    assert found.tag == tag
    assert statistics_of(found.statistics.word) == found.statistics
