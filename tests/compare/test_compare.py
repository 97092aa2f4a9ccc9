import csv
import hashlib
import io
import itertools
import json
import os
import re
import subprocess
import sys

import pytest
import scipy.stats

from bnexp.cli.compare import main
from bnexp.compare import bands, comparison
from bnexp.compare.effects import describe
from bnexp.runs.collect import Run, Skip, read
from bnexp.runs.metrics import curve
from bnexp.runs.storage import held

STARTED = "2026-11-21T08:00:00Z"


def write_run(
    folder, *, seed=0, norm="bn", lr=0.1, accuracy=0.9, status="finished", curve=True, settings=None, **facts
):
    """A run folder as training leaves it; ``settings`` are dotted, ``facts`` replace entries of run.json."""
    options = {"groups": 8} if norm == "gn" else {}
    config = {
        "model": {"name": "lenet"},
        "norm": {"name": norm, "eps": 1e-5, **options},
        "data": {"name": "digits", "root": "/data"},
        "optim": {"name": "sgd", "lr": lr, "betas": [0.9, 0.99]},
        "steps": None,
        "imports": [],
        "seed": seed,
    }
    for path, value in (settings or {}).items():
        *groups, key = path.split(".")
        node = config
        for name in groups:
            node = node[name]
        node[key] = value
    values = {"test/accuracy": accuracy, "validation/accuracy": accuracy - 0.01, "test/loss": 1 - accuracy}
    run = {
        "format": 1,
        "name": folder.name,
        "status": status,
        "config": config,
        "config_hash": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16],
        "overrides": [],
        "final": values if status == "finished" else {},
        "best": {tag: {"value": value + 0.02, "step": 5} for tag, value in values.items()},
        "seconds": 2.0,
        "classes": 10,
        "provenance": {"started": STARTED},
    }
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run | facts))
    if curve:
        (folder / "metrics.csv").write_text(
            f"step,epoch,metric,value\n5,0.5,test/accuracy,0.5\n9,1,test/accuracy,{accuracy}\n"
        )
    return folder


def sweep(root, results, **more):
    """Runs from ``{norm: [accuracy of seed 0, of seed 1, ...]}``; None is a seed that did not run."""
    for norm, accuracies in results.items():
        for seed, accuracy in enumerate(accuracies):
            if accuracy is not None:
                write_run(root / f"norm={norm},seed={seed}", norm=norm, seed=seed, accuracy=accuracy, **more)
    return root


@pytest.fixture
def compare(capsys):
    """The printed text of one call."""

    def run(*arguments):
        assert main([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def arms(compare):
    """The arms of ``--format json`` by label, and the notes as one text under ``notes``."""

    def run(*arguments):
        document = json.loads(compare(*arguments, "--format", "json"), parse_constant=pytest.fail)
        return {arm["arm"]: arm for arm in document["arms"]} | {"notes": " ".join(document["notes"])}

    return run


BN, GN = [0.97, 0.98, 0.96, 0.97, 0.99, 0.98], [0.95, 0.97, 0.955, 0.96, 0.98, 0.96]


# --- groups


def test_arms_are_labelled_by_what_differs_and_by_nothing_else(tmp_path, arms):
    found = arms(sweep(tmp_path, {"bn": BN, "gn": GN}))
    assert list(found) == ["norm=bn", "norm=gn", "notes"]  # neither the model, nor norm.groups, which norm decides


def test_a_second_difference_is_never_hidden(tmp_path, arms):
    write_run(tmp_path / "a", norm="bn", lr=0.1)
    write_run(tmp_path / "b", norm="gn", lr=0.01)
    assert list(arms(tmp_path))[:2] == ["norm=bn,optim.lr=0.1", "norm=gn,optim.lr=0.01"]


def test_an_option_that_varies_within_its_group_is_named(tmp_path, arms):
    write_run(tmp_path / "a", norm="bn")
    write_run(tmp_path / "b", norm="gn")
    write_run(tmp_path / "c", norm="gn", settings={"norm.groups": 4})
    assert list(arms(tmp_path))[:3] == ["norm=bn", "norm=gn,norm.groups=4", "norm=gn,norm.groups=8"]


def test_where_things_lie_makes_no_arm(tmp_path, arms):
    write_run(tmp_path / "a", seed=0)
    write_run(tmp_path / "b", seed=1, settings={"data.root": "/elsewhere", "imports": ["mine"]})
    assert arms(tmp_path)["all runs"]["n"] == 2


def test_values_sort_by_size_and_the_statistics_are_right(tmp_path, arms):
    for lr in (0.1, 0.03, 1.0):
        for seed, accuracy in enumerate(BN):
            write_run(tmp_path / f"{lr}-{seed}", lr=lr, seed=seed, accuracy=accuracy)
    found = arms(tmp_path)
    assert list(found)[:3] == ["optim.lr=0.03", "optim.lr=0.1", "optim.lr=1.0"]
    arm = found["optim.lr=0.1"]
    expected = scipy.stats.ttest_1samp(BN, 0).confidence_interval()
    assert (arm["low"], arm["high"]) == pytest.approx(tuple(expected), rel=1e-12)
    assert arm["mean"] == pytest.approx(0.975, rel=1e-12)
    assert arm["best"] == pytest.approx(0.995, rel=1e-12)
    assert (arm["n"], arm["min"], arm["max"], arm["seconds"]) == (6, 0.96, 0.99, 2.0)
    assert arm["values"] == {str(seed): accuracy for seed, accuracy in enumerate(BN)}


def test_by_pools_the_rest_a_seed_counting_once_and_says_so(tmp_path, arms):
    for lr, accuracy in ((0.1, 0.9), (0.2, 0.7)):
        write_run(tmp_path / f"{lr}-0", lr=lr, seed=0, accuracy=accuracy)
        write_run(tmp_path / f"{lr}-1", lr=lr, seed=1, accuracy=accuracy + 0.1)
    found = arms(tmp_path, "--by", "norm")
    assert found["norm=bn"]["values"] == pytest.approx({"0": 0.8, "1": 0.9})
    assert (found["norm=bn"]["n"], found["norm=bn"]["runs"]) == (2, 4)
    assert "pool values of optim.lr" in found["notes"]


def test_runs_of_as_many_steps_share_them_whatever_their_epochs(tmp_path, arms):
    for epochs in (3, 20):
        write_run(tmp_path / f"{epochs}", seed=epochs, settings={"steps": 20, "epochs": epochs})
    assert re.search(r"All runs: .* steps=20", arms(tmp_path, "--by", "norm")["notes"])
    assert "epochs=" not in arms(tmp_path, "--by", "norm", "--where", "epochs=3")["notes"]


def test_a_probe_of_the_last_step_says_that_its_batch_was_the_rest_of_an_epoch(tmp_path, arms):
    tag = "probe/gradients/norm/head"
    facts = {"final": {tag: 1.0, "test/accuracy": 0.9}, "images": {"train": 1167}}
    write_run(tmp_path / "rest", settings={"batch_size": 64}, steps=38, **facts)
    said = "The last step of some runs had the rest of an epoch (15 of 64 images)"
    assert said in arms(tmp_path, "--metric", tag)["notes"]
    assert said not in arms(tmp_path)["notes"]
    write_run(tmp_path / "whole" / "a", settings={"batch_size": 64, "drop_last": True}, steps=36, **facts)
    write_run(tmp_path / "whole" / "b", settings={"batch_size": 64}, steps=37, seed=1, **facts)
    write_run(tmp_path / "whole" / "c", settings={"batch_size": 0}, steps=37, seed=2, **facts)  # as nobody trains
    assert "rest of an epoch" not in arms(tmp_path / "whole", "--metric", tag)["notes"]


def test_runs_that_are_hardly_better_than_guessing_are_counted(tmp_path, arms, compare):
    """Of ten classes: 0.15 is not more than 5 points above guessing, 0.16 is."""
    for seed, accuracy in enumerate((0.1, 0.15, 0.16, 0.9)):
        write_run(tmp_path / f"bn{seed}", seed=seed, accuracy=accuracy)
    write_run(tmp_path / "diverged", seed=4, status="diverged", final={})
    write_run(tmp_path / "failed", seed=5, status="failed", final={})
    assert arms(tmp_path)["all runs"]["at_chance"] == 3
    assert re.search(r"^all runs .* 3/5 +1/5 +1 ", compare(tmp_path), re.MULTILINE)
    assert "at chance: runs at most 5 points better than guessing" in arms(tmp_path)["notes"]
    assert arms(tmp_path, "--metric", "test/loss")["all runs"]["at_chance"] is None
    assert "at chance" not in compare(tmp_path, "--where", "seed=3")


def test_the_time_of_a_stack_is_said_to_be_that_of_all_its_runs(tmp_path, arms):
    write_run(tmp_path / "alone", executor={"stacked": 1, "graph": False})
    assert "stack" not in arms(tmp_path)["notes"]
    write_run(tmp_path / "member", seed=1, executor={"stacked": 24, "graph": False})
    assert "that of the whole stack, here of up to 24 runs." in arms(tmp_path)["notes"]


def test_what_all_runs_share_is_said(tmp_path, arms):
    for norm in ("bn", "gn"):
        write_run(
            tmp_path / norm, norm=norm, lr=0.3, settings={"model.name": "mlp", "probes": {"ics": {"name": "ics"}}}
        )
    assert "All runs: model=mlp data=digits optim=sgd optim.lr=0.3 " in arms(tmp_path)["notes"]
    assert " probes=[ics]" in arms(tmp_path)["notes"]
    assert " norm=gn " in arms(tmp_path, "--where", "norm=gn")["notes"]


def test_where_selects_and_compares_numbers_as_numbers(tmp_path, arms):
    write_run(tmp_path / "a", lr=0.1, accuracy=0.9)
    write_run(tmp_path / "b", lr=0.3, accuracy=0.8)
    assert arms(tmp_path, "--where", "model=lenet", "optim.lr=3e-1", "steps=null")["all runs"]["mean"] == 0.8
    assert arms(tmp_path, "--where", "optim.betas=[0.9,0.99]")["optim.lr=0.1"]["n"] == 1


def test_where_takes_either_of_several_values_and_a_value_with_a_comma_as_one(tmp_path, arms):
    for index, norm in enumerate(["bn", "gn", "ln"]):
        write_run(tmp_path / norm, norm=norm, settings={"data.order": "a,b" if index else "a"})
    assert list(arms(tmp_path, "--where", "norm=gn,ln"))[:-1] == ["norm=gn", "norm=ln"]
    assert list(arms(tmp_path, "--where", "data.order=a,b"))[:-1] == ["norm=gn", "norm=ln"]
    assert list(arms(tmp_path, "--where", "data.order=a", "optim.betas=[0.9,0.99]"))[:-1] == ["all runs"]


# --- pairs


def test_differences_are_paired_by_seed(tmp_path, arms):
    found = arms(sweep(tmp_path, {"bn": BN, "gn": [*GN, 0.5], "ln": BN}), "--baseline", "norm=bn")
    gn, ln = found["norm=gn"], found["norm=ln"]
    expected = scipy.stats.ttest_rel(GN, BN)
    assert (gn["pairs"], gn["dropped"]) == (6, 1)
    assert (gn["difference_low"], gn["difference_high"]) == pytest.approx(
        tuple(expected.confidence_interval()), rel=1e-9
    )
    assert gn["d_z"] == pytest.approx(expected.statistic / 6**0.5, rel=1e-9)
    assert gn["p"] == 2 / 64
    assert gn["p_holm"] == 4 / 64  # two arms are tested
    assert (ln["difference_mean"], ln["p"], ln["p_holm"], ln["d_z"]) == (0.0, 1.0, 1.0, None)
    assert (found["norm=bn"]["baseline"], found["norm=bn"]["p"]) == ("norm=bn", None)
    assert "Results dropped, of seeds that only one of the two arms has: 1." in found["notes"]


def test_a_baseline_stands_for_every_value_of_what_it_leaves_open(tmp_path, arms):
    for model in ("lenet", "mlp"):
        for norm in ("bn", "gn"):
            for seed in range(2):
                folder = tmp_path / f"{model}{norm}{seed}"
                accuracy = 0.9 + 0.05 * (model == "mlp") - 0.01 * (norm == "gn")
                write_run(folder, norm=norm, seed=seed, accuracy=accuracy, settings={"model.name": model})
    found = arms(tmp_path, "--baseline", "norm=bn")
    assert found["model=mlp,norm=gn"]["baseline"] == "model=mlp,norm=bn"
    assert found["model=lenet,norm=gn"]["difference_mean"] == pytest.approx(-0.01)
    assert "With 2 pairs no sign-flip p can be below 0.5" in found["notes"]


def test_the_arm_with_the_fewest_pairs_says_how_many_seeds_it_takes(tmp_path, arms):
    many = [0.9 + seed / 100 for seed in range(8)]  # 7 pairs can reach p = 2 * 2 / 2^7 < 0.05, 2 cannot
    found = arms(sweep(tmp_path, {"bn": many, "gn": many, "ln": many[:2]}), "--baseline", "norm=bn")
    assert "With 2 pairs no sign-flip p can be below 0.5, 2 times that by Holm; take 7 or more" in found["notes"]


def test_a_baseline_may_be_given_as_its_label_and_leaves_longer_names_open(tmp_path, arms):
    for lr in (0.1, 0.3):
        for floor in (0.0, 0.01):
            write_run(tmp_path / f"{lr}{floor}", lr=lr, settings={"optim.lr_min": floor})
    found = arms(tmp_path, "--baseline", "optim.lr=0.1,optim.lr_min=0")
    assert {arm["baseline"] for label, arm in found.items() if label != "notes"} == {"optim.lr=0.1,optim.lr_min=0.0"}
    found = arms(tmp_path, "--baseline", "optim.lr=0.1")
    assert found["optim.lr=0.3,optim.lr_min=0.01"]["baseline"] == "optim.lr=0.1,optim.lr_min=0.01"


def test_an_arm_without_a_like_baseline_is_said_not_to_be_paired(tmp_path, arms):
    for index, (norm, lr) in enumerate([("bn", 0.1), ("bn", 0.2), ("gn", 0.1), ("gn", 0.3)]):
        write_run(tmp_path / f"{index}", norm=norm, lr=lr)
    found = arms(tmp_path, "--baseline", "norm=bn")
    assert (found["norm=gn,optim.lr=0.3"]["baseline"], found["norm=gn,optim.lr=0.1"]["pairs"]) == (None, 1)
    assert "Arms not paired, since no baseline agrees with them in all else: 1." in found["notes"]


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        (["norm=bnn"], r"--baseline norm=bnn: no run has it; did you mean bn\?"),
        (["nrm=bn"], r"--baseline=nrm: .* did you mean norm\?"),
        (["norm"], "expected KEY=VALUE"),
        (["model=lenet"], "every arm is that"),
        (["norm=gn"], "could be paired with norm=gn,norm.groups=4 or norm=gn,norm.groups=8"),
    ],
)
def test_a_baseline_that_is_none_is_refused(tmp_path, baseline, message):
    sweep(tmp_path, {"bn": BN, "gn": GN})
    write_run(tmp_path / "c", norm="gn", settings={"norm.groups": 4})
    with pytest.raises(ValueError, match=message):
        main([str(tmp_path), "--baseline", *baseline])


def test_arms_that_pool_unlike_grids_are_paired_over_what_both_have(tmp_path, arms, compare):
    """bn has rate 1.0 too, where it is bad, and gn's seed 1 lacks rate 0.3: neither is a difference of norms."""
    accuracies = {
        ("bn", 0.1): [0.80, 0.82],
        ("bn", 0.3): [0.90, 0.92],
        ("bn", 1.0): [0.10, 0.10],
        ("gn", 0.1): [0.78, 0.81],
        ("gn", 0.3): [0.86],
    }
    folder = grid(tmp_path, {key: [(value, value) for value in some] for key, some in accuracies.items()})
    found = arms(folder, "--by", "norm", "--baseline", "norm=bn")
    gn, notes = found["norm=gn"], found["notes"]
    assert gn["difference_mean"] == pytest.approx(((0.82 - 0.85) + (0.81 - 0.82)) / 2)
    assert (gn["pairs"], gn["dropped"], gn["unmatched"]) == (2, 0, 3)
    assert "same values of optim.lr, so that means can differ for that alone" in notes
    assert "as the other arm has none of equal seed and pooled settings: 3." in notes
    assert "-0.0300, -0.0100" in compare(folder, "--by", "norm", "--baseline", "norm=bn")


def test_arms_that_pool_no_value_in_common_have_no_difference(tmp_path, arms):
    rates = {("bn", 0.1): [0.8], ("bn", 0.3): [0.9], ("gn", 0.01): [0.8], ("gn", 0.03): [0.9]}
    folder = grid(tmp_path, {key: [(value, value) for value in some] for key, some in rates.items()})
    gn = arms(folder, "--by", "norm", "--baseline", "norm=bn")["norm=gn"]
    assert (gn["pairs"], gn["dropped"], gn["unmatched"], gn["difference_mean"]) == (0, 0, 4, None)


def test_options_that_differ_between_pooled_groups_are_no_pairs(tmp_path, arms):
    """lenet's ln has another eps than mlp's, and its gn other groups: neither has a counterpart there."""
    accuracies = {
        ("lenet", "bn", "eps", 1e-5): 0.9,
        ("lenet", "ln", "eps", 1e-3): 0.5,
        ("lenet", "gn", "groups", 4): 0.2,
        ("lenet", "gn", "groups", 8): 0.8,
        ("mlp", "bn", "eps", 1e-5): 0.9,
        ("mlp", "ln", "eps", 1e-5): 0.9,
        ("mlp", "gn", "groups", 8): 0.8,
    }
    for (model, norm, option, value), accuracy in accuracies.items():
        settings = {"model.name": model, f"norm.{option}": value}
        write_run(tmp_path / f"{model}-{norm}-{value}", norm=norm, accuracy=accuracy, settings=settings)
    found = arms(tmp_path, "--by", "model", "--baseline", "model=mlp")
    lenet = found["model=lenet"]
    assert (lenet["difference_mean"], lenet["unmatched"]) == (pytest.approx(0), 3)
    assert "Arms pool values of norm, norm.groups: " in found["notes"]


def test_differences_that_cancel_are_nothing_and_few_ones_are_headed_as_seeds(tmp_path, compare):
    values = {"bn": [0.3, 0.6, 0.9], "gn": [0.6, 0.9, 0.3]}
    printed = compare(sweep(tmp_path, values), "--baseline", "norm=bn")
    assert re.search(r"^gn +3 +\+0.0000 +\+0.3000, \+0.3000, -0.6000 +0.00 +1.00", printed, re.MULTILINE)
    assert re.search(r"^norm +pairs +difference +\(by seed\)", printed, re.MULTILINE)
    assert re.search(r"^norm +n +test/accuracy \(by seed\)", printed, re.MULTILINE)


def test_settings_that_differ_between_arms_beside_by_are_said(tmp_path, arms):
    for norm, lr in (("bn", 0.1), ("gn", 0.001)):
        write_run(tmp_path / norm, norm=norm, lr=lr)
    assert "The arms differ in optim.lr too, which --by does not name." in arms(tmp_path, "--by", "norm")["notes"]
    assert "--by does not name" not in arms(tmp_path, "--by", "norm", "optim.lr")["notes"]


def test_a_diverged_run_scores_as_guessing_only_in_what_its_arm_measures(tmp_path, arms):
    for seed in range(2):
        write_run(tmp_path / f"bn{seed}", seed=seed, final={"test/accuracy_precise": 0.9})
    write_run(tmp_path / "gn0", norm="gn", final={"test/accuracy": 0.9})
    write_run(tmp_path / "gn1", norm="gn", seed=1, status="diverged", final={})
    found = arms(tmp_path, "--metric", "test/accuracy_precise")
    assert (found["norm=gn"]["n"], found["norm=gn"]["best"]) == (0, None)
    assert "left out of the means since no run of the arm has test/accuracy_precise: 1 run." in found["notes"]
    assert arms(tmp_path, "--metric", "test/accuracy")["norm=gn"]["values"] == {"0": 0.9, "1": 0.1}


def test_an_arm_without_a_setting_is_named_and_can_be_the_baseline(tmp_path, arms):
    write_run(tmp_path / "plain", accuracy=0.8)
    write_run(tmp_path / "probed", settings={"probes": {"ics": {"name": "ics"}}})
    found = arms(tmp_path, "--baseline", "probes.ics=-")
    assert list(found)[:-1] == ["probes.ics=-", "probes.ics=ics"]
    assert found["probes.ics=ics"]["difference_mean"] == pytest.approx(0.1)


def test_a_path_like_a_label_is_one_value(tmp_path, arms):
    place = "outputs/s/norm=bn,seed=0"
    for index, source in enumerate([place, "outputs/other"]):
        write_run(tmp_path / f"{index}", accuracy=0.5 + index / 10, settings={"init_from": source})
    assert arms(tmp_path, "--where", f"init_from={place}")["all runs"]["mean"] == 0.5
    assert arms(tmp_path, "--baseline", f"init_from={place}")["init_from=outputs/other"]["pairs"] == 1


def test_differences_that_are_equal_but_for_rounding_have_no_effect_size(tmp_path, arms):
    values = {"bn": [0.9694, 0.9722, 0.9750, 0.9694], "gn": [0.9722, 0.9750, 0.9778, 0.9722]}
    gn = arms(sweep(tmp_path, values), "--baseline", "norm=bn")["norm=gn"]
    assert (gn["difference_mean"], gn["d_z"]) == (pytest.approx(0.0028), None)


# --- the best value


def test_of_values_without_a_whole_set_of_runs_the_one_with_the_most_is_chosen(tmp_path, arms):
    for lr, losses in {0.1: [0.5, 0.5, 0.5, None], 0.3: [0.4, None, None, None]}.items():
        for seed, loss in enumerate(losses):
            final = {"validation/loss": loss, "test/loss": loss} if loss else {}
            write_run(
                tmp_path / f"{lr}{seed}", lr=lr, seed=seed, status="finished" if loss else "diverged", final=final
            )
    arm = arms(tmp_path, "--best", "optim.lr", "--metric", "test/loss")["all runs"]
    assert (arm["chosen"], arm["passed_over"]) == (0.1, "optim.lr=0.3")


def test_a_value_that_lacks_pooled_runs_is_not_chosen_for_the_others(tmp_path, arms):
    for (lr, size), value in {(0.1, 32): 0.9, (0.1, 64): 0.7, (0.3, 32): 0.85}.items():
        final = both(value, value)
        write_run(tmp_path / f"{lr}{size}", lr=lr, settings={"batch_size": size}, final=final)
    write_run(tmp_path / "failed", lr=0.3, settings={"batch_size": 64}, status="failed", final={})
    assert arms(tmp_path, "--by", "norm", "--best", "optim.lr")["norm=bn"]["chosen"] == 0.1


def test_the_best_of_a_group_takes_its_options_along(tmp_path, arms):
    for norm, value in (("bn", 0.8), ("gn", 0.9)):
        write_run(tmp_path / norm, norm=norm, final=both(value, value))
    found = arms(tmp_path, "--best", "norm")
    assert list(found)[:-1] == ["all runs"]
    assert (found["all runs"]["chosen"], found["all runs"]["grid"]) == ("gn", "bn gn")


def test_nothing_is_shown_as_chosen_where_nothing_was(tmp_path, compare):
    for lr in (0.1, 0.3):
        write_run(tmp_path / f"bn{lr}", lr=lr, final=both(0.9, 0.9))
        write_run(tmp_path / f"gn{lr}", norm="gn", lr=lr, status="diverged", final={})
    printed = compare(tmp_path, "--best", "optim.lr", "--metric", "test/loss")
    assert re.search(r"^gn +- +- +- ", printed, re.MULTILINE)
    assert "null" not in printed


def test_what_no_split_measures_is_compared_at_the_values_that_accuracy_chose(tmp_path, arms):
    for lr, (accuracy, norm) in {0.1: (0.8, 5.0), 0.3: (0.9, 7.0)}.items():
        final = both(accuracy, accuracy) | {"probe/gradients/norm/head": norm}
        write_run(tmp_path / f"{lr}", lr=lr, final=final)
    arm = arms(tmp_path, "--best", "optim.lr", "--metric", "probe/gradients/norm/head")["all runs"]
    assert (arm["chosen"], arm["mean"]) == (0.3, 7.0)


def grid(root, results):
    """Runs from ``{(norm, lr): [(validation, test) or status, ...]}``."""
    for (norm, lr), outcomes in results.items():
        for seed, outcome in enumerate(outcomes):
            facts = {"status": outcome} if isinstance(outcome, str) else {"final": both(*outcome)}
            write_run(root / f"{norm}{lr}{seed}", norm=norm, lr=lr, seed=seed, **facts)
    return root


def both(validation, test):
    return {"validation/accuracy": validation, "test/accuracy": test, "validation/loss": 1.0, "test/loss": 1.0}


def test_the_best_value_is_chosen_on_validation_though_test_says_otherwise(tmp_path, arms):
    trap = {
        ("bn", 0.1): [(0.80, 0.99), (0.80, 0.99)],
        ("bn", 0.3): [(0.90, 0.70), (0.90, 0.72)],
        ("bn", 1.0): [(0.70, 0.98), (0.70, 0.98)],
        ("gn", 0.1): [(0.95, 0.80), (0.95, 0.80)],
        ("gn", 0.3): [(0.90, 0.99), (0.90, 0.99)],
    }
    found = arms(grid(tmp_path, trap), "--best", "optim.lr", "--baseline", "norm=bn")
    bn, gn = found["norm=bn"], found["norm=gn"]
    assert (bn["chosen"], bn["mean"], bn["validation_mean"], bn["edge"]) == (0.3, pytest.approx(0.71), 0.9, "")
    assert (gn["chosen"], gn["mean"], gn["edge"]) == (0.1, 0.8, "lower edge")
    assert "--by does not name" not in found["notes"]  # each has its own rate, as asked for
    assert gn["difference_mean"] == pytest.approx(0.09)
    assert "norm=gn: optim.lr=0.1 is the lower edge of the grid" in found["notes"]


def test_the_upper_edge_and_a_single_value_are_said_and_the_first_of_equals_is_taken(tmp_path, arms):
    found = arms(
        grid(tmp_path, {("bn", 0.1): [(0.8, 0.8)], ("bn", 0.3): [(0.9, 0.8)], ("gn", 0.1): [(0.9, 0.8)]}),
        *("--best", "optim.lr"),
    )
    assert (found["norm=bn"]["edge"], found["norm=gn"]["edge"]) == ("upper edge", "only value")
    found = arms(grid(tmp_path / "equal", {("bn", 0.3): [(0.9, 0.8)], ("bn", 0.1): [(0.9, 0.8)]}), "--best", "optim.lr")
    assert found["all runs"]["chosen"] == 0.1


def test_the_largest_working_learning_rate_is_contiguous_and_works_for_every_seed(tmp_path, arms):
    fine, chance = (0.9, 0.9), (0.1, 0.1)
    found = arms(
        grid(
            tmp_path,
            {
                ("bn", 0.1): [fine, fine],
                ("bn", 0.3): [fine, fine],
                ("bn", 1.0): [fine, "diverged"],
                ("bn", 3.0): [fine, fine],  # luck beyond the first divergence
                ("cosine", 0.1): [(0.5, 0.9), (0.5, 0.9)],  # too small a rate is no failure, whatever test says
                ("cosine", 0.3): [fine, (0.86, 0.9)],
                ("cosine", 1.0): [fine, (0.82, 0.9)],  # one seed is 6 points below the arm's best mean
                ("gn", 0.1): [fine, "failed"],  # a crash is no divergence
                ("gn", 0.3): [fine, fine],
                ("in", 0.1): [fine, fine],
                ("in", 0.3): [chance, chance],  # nothing diverged, and nothing was learned
                ("ln", 0.1): [chance, (0.14, 0.1)],  # as good as guessing is not as good as the best
                ("ln", 0.3): [chance, chance],
                ("none", 0.1): ["diverged", fine],
            },
        ),
        *("--best", "optim.lr"),
    )
    working = {label: (arm["largest_working"], arm["works_to_the_end"]) for label, arm in list(found.items())[:-1]}
    assert working == {
        "norm=bn": (0.3, False),
        "norm=cosine": (0.3, False),
        "norm=gn": (0.3, True),
        "norm=in": (0.1, False),
        "norm=ln": (None, False),
        "norm=none": (None, False),
    }
    assert "no run diverges and validation/accuracy of each is at most 5 points below" in found["notes"]


def test_a_rate_that_fails_in_one_of_the_pooled_batches_does_not_work(tmp_path, arms):
    """Batches of 4 reach 0.8 at 0.1, and 0.7 at 0.3, where batches of 64 are the better for it."""
    for (lr, size), value in {(0.1, 4): 0.8, (0.1, 64): 0.96, (0.3, 4): 0.7, (0.3, 64): 0.99}.items():
        write_run(tmp_path / f"{lr}-{size}", lr=lr, settings={"batch_size": size}, final=both(value, value))
    assert arms(tmp_path, "--by", "norm", "--best", "optim.lr")["norm=bn"]["largest_working"] == 0.1
    assert (
        arms(tmp_path, "--by", "norm", "--best", "optim.lr", "--where", "batch_size=64")["norm=bn"]["largest_working"]
        == 0.3
    )


def test_the_edges_of_a_chosen_combination_are_said_setting_by_setting(tmp_path, arms):
    for lr in (0.1, 0.3):
        for decay in (0, 0.01, 0.1):
            best = (lr, decay) == (0.1, 0.01)
            final = both(0.9 if best else 0.8, 0.9)
            write_run(tmp_path / f"{lr}-{decay}", lr=lr, settings={"optim.weight_decay": decay}, final=final)
    found = arms(tmp_path, "--best", "optim.lr,optim.weight_decay")
    assert found["all runs"]["edge"] == "lower edge of optim.lr"
    said = "all runs: optim.lr=0.1,optim.weight_decay=0.01 is the lower edge of optim.lr; extend the grid."
    assert said in found["notes"]


def test_what_works_is_told_by_accuracy_also_where_a_loss_is_compared(tmp_path, arms, compare):
    for lr, accuracy in ((0.1, 0.9), (0.3, 0.8)):
        write_run(tmp_path / f"{lr}", lr=lr, final=both(accuracy, accuracy))
    assert arms(tmp_path, "--best", "optim.lr", "--metric", "test/loss")["all runs"]["largest_working"] == 0.1
    write_run(tmp_path / "none" / "a", lr=0.1, final={"validation/loss": 0.5, "test/loss": 0.5})
    lines = compare(tmp_path / "none", "--best", "optim.lr", "--metric", "test/loss").splitlines()
    heads = next(index for index, line in enumerate(lines) if "largest working" in line)
    assert lines[heads + 2].rstrip().endswith(" -")


def test_a_loss_is_chosen_by_the_smallest_and_never_by_survivors(tmp_path, arms):
    for lr, losses in {0.1: [0.5, 0.6], 0.3: [0.3, 0.4], 1.0: [0.1, None]}.items():
        for seed, loss in enumerate(losses):
            final = {"validation/loss": loss, "test/loss": loss}
            status = "finished" if loss else "diverged"
            write_run(tmp_path / f"{lr}{seed}", lr=lr, seed=seed, status=status, final=final if loss else {})
    found = arms(tmp_path, "--best", "optim.lr", "--metric", "test/loss")
    arm = found["all runs"]
    assert (arm["chosen"], arm["mean"], arm["passed_over"]) == (0.3, pytest.approx(0.35), "optim.lr=1.0")
    assert "better on validation and yet not chosen is optim.lr=1.0, where fewer runs" in found["notes"]


def test_without_validation_there_is_no_choice(tmp_path):
    write_run(tmp_path / "a", final={"test/accuracy": 0.9})
    with pytest.raises(ValueError, match=r"no validation/accuracy, and test is never used for choosing"):
        main([str(tmp_path), "--best", "optim.lr"])


def test_a_run_without_validation_is_left_out_of_a_choice_and_counted(tmp_path, arms):
    write_run(tmp_path / "a", lr=0.1)
    write_run(tmp_path / "b", lr=0.3, final={"test/accuracy": 0.99})
    found = arms(tmp_path, "--best", "optim.lr")
    assert (found["all runs"]["chosen"], found["all runs"]["mean"]) == (0.1, 0.9)
    assert "Without validation/accuracy, by which values are chosen, left out: 1 run." in found["notes"]


@pytest.mark.parametrize(
    ("rates", "edge"), [((0.1, 0.3), "upper edge"), ((0.3,), "only number"), ((0.3, 1), "lower edge")]
)
def test_null_is_no_edge_of_a_grid(tmp_path, arms, rates, edge):
    scores = {("bn", rate): [(0.9 - abs(rate - 0.3), 0.9)] for rate in rates} | {("bn", None): [(0.1, 0.1)]}
    found = arms(grid(tmp_path, scores), "--best", "optim.lr")["all runs"]
    assert (found["chosen"], found["edge"]) == (0.3, edge)


def test_a_value_with_fewer_seeds_than_others_is_not_the_best(tmp_path, arms):
    fine, lucky = [(0.9, 0.9)] * 4, [(0.99, 0.99), "failed", "failed", "failed"]
    found = arms(grid(tmp_path, {("bn", 0.1): fine, ("bn", 0.3): lucky}), "--best", "optim.lr")
    assert found["all runs"]["chosen"] == 0.1


def test_best_is_not_also_an_arm(tmp_path):
    write_run(tmp_path / "a")
    with pytest.raises(ValueError, match="also in --by"):
        main([str(tmp_path), "--best", "optim.lr", "--by", "optim.lr"])


# --- divergence


def test_diverged_runs_count_as_chance_where_the_classes_are_known(tmp_path, arms):
    sweep(tmp_path, {"bn": [0.9]})
    write_run(tmp_path / "d", seed=1, status="diverged")
    found = arms(tmp_path)
    assert found["all runs"]["values"] == {"0": 0.9, "1": 0.1}
    assert (found["all runs"]["diverged"], found["all runs"]["best"]) == (1, pytest.approx((0.92 + 0.1) / 2))
    assert "counted as chance (0.1): 1 run." in found["notes"]


def test_a_diverged_run_counts_as_five_guesses_of_a_top5_accuracy(tmp_path, arms):
    top5 = {"final": {"test/top5_accuracy": 0.99}, "classes": 20}
    write_run(tmp_path / "a", **top5)
    write_run(tmp_path / "d", seed=1, status="diverged", classes=20)
    found = arms(tmp_path, "--metric", "test/top5_accuracy")
    assert found["all runs"]["values"] == {"0": 0.99, "1": 0.25}
    assert "test/top5_accuracy at the last step, larger is better" in found["notes"]
    assert "counted as chance (0.25): 1 run." in found["notes"]


def test_diverged_runs_are_left_out_of_an_accuracy_without_classes_and_of_a_loss(tmp_path, arms):
    write_run(tmp_path / "a", classes=None)
    write_run(tmp_path / "d", seed=1, status="diverged", classes=None)
    found = arms(tmp_path)
    assert (found["all runs"]["n"], found["all runs"]["diverged"]) == (1, 1)
    assert "number of classes is not known: 1 run." in found["notes"]
    assert "no chance level): 1 run." in arms(tmp_path, "--metric", "test/loss")["notes"]


# --- what cannot be used


BROKEN = {
    "empty": b"",
    "cut": b'{"format": 1, "name": "x"',
    "binary": bytes(range(256)),
    "list": b"[1, 2]",
    "deep": b"[" * 100_000,
    "foreign": b'{"status": "finished"}',
    "future": b'{"format": 2}',
    "status": b'{"format": 1, "status": "asleep"}',
    "types": b'{"format": 1, "status": "finished", "name": 3}',
    "seed": b'{"format":1,"status":"finished","name":"","config":{"seed":"x"},"config_hash":"a","final":{}}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_run_is_skipped_with_its_reason(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    assert isinstance(read(tmp_path), Skip)


def test_the_rest_is_compared_and_the_skipped_are_counted(tmp_path, compare, arms):
    sweep(tmp_path, {"bn": BN})
    for name, content in BROKEN.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_bytes(content)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "metrics.csv").touch()
    for seed, status in enumerate(("failed", "running", "interrupted", "running"), start=20):
        write_run(tmp_path / f"{status}{seed}", seed=seed, status=status)
    with held(tmp_path / "running21"):
        found = arms(tmp_path)
    assert (found["all runs"]["n"], found["all runs"]["failed"], found["all runs"]["running"]) == (6, 1, 1)
    assert "Left out: 1 failed, 2 interrupted, 1 running." in found["notes"]
    assert "Folders skipped: 11 (1 x no run.json beside metrics.csv; 1 x run.json" in found["notes"]
    assert "4 x run.json: empty, cut or not JSON; 1 x run.json: not a run of this version" in found["notes"]
    assert "2 x run.json: not written by bnexp)" in found["notes"]
    assert f"Skipped {tmp_path / 'cut'}: run.json: empty, cut or not JSON." in compare(tmp_path, "-v").replace(
        "\n  ", " "
    )


def test_runs_of_data_that_changed_in_between_are_told(tmp_path, arms):
    for seed, fingerprint in enumerate(("aa", "aa", "bb")):
        write_run(tmp_path / str(seed), seed=seed, fingerprint=fingerprint)
    said = "The images or labels of data=digits changed between these runs"
    assert said in arms(tmp_path)["notes"]
    assert said not in arms(tmp_path / "0", tmp_path / "1")["notes"]


def test_the_best_is_a_mean_over_seeds_as_the_last_value_is(tmp_path, arms):
    for seed, lr, accuracy in ((0, 0.1, 0.6), (0, 0.2, 0.8), (1, 0.1, 0.9)):
        write_run(tmp_path / f"{seed}{lr}", seed=seed, lr=lr, accuracy=accuracy)
    (found,) = [row for row in arms(tmp_path, "--by", "norm").values() if isinstance(row, dict)]
    assert (found["n"], found["mean"], found["best"]) == (2, pytest.approx(0.8), pytest.approx(0.82))  # best: 0.02 more


def test_nothing_but_broken_or_unfinished_runs_is_a_finding_not_an_error(tmp_path, compare):
    (tmp_path / "run.json").write_bytes(b"")
    assert compare(tmp_path, "--baseline", "norm=bn", "--best", "optim.lr") == (
        "Folders skipped: 1 (1 x run.json: empty, cut or not JSON). -v lists them.\n"
    )
    write_run(tmp_path / "a", status="running")
    assert "Left out: 1 interrupted." in compare(tmp_path, "--best", "optim.lr")


def test_links_in_circles_hidden_folders_and_overlapping_arguments(tmp_path, arms):
    sweep(tmp_path, {"bn": BN})
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "up").symlink_to(tmp_path)
    write_run(tmp_path / ".trash" / "a", seed=77)
    os.mkfifo(tmp_path / "norm=bn,seed=0" / "pipe")
    assert arms(tmp_path, tmp_path / "norm=bn,seed=0")["all runs"]["runs"] == 6


def test_of_a_run_done_twice_the_newest_finished_one_counts(tmp_path, arms):
    for name, accuracy, day in (("a", 0.7, 20), ("b", 0.9, 22), ("c", 0.8, 21)):
        write_run(tmp_path / name, accuracy=accuracy, provenance={"started": f"2026-11-{day}T08:00:00Z"})
    write_run(tmp_path / "d", status="running", provenance={"started": "2026-11-23T08:00:00Z"})
    found = arms(tmp_path)
    assert (found["all runs"]["mean"], found["all runs"]["runs"]) == (0.9, 1)
    assert "only the newest used: 3 older left out" in found["notes"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e200, None, "high", True])
def test_a_value_that_is_no_finite_number_is_left_out(tmp_path, arms, value):
    write_run(tmp_path / "a", accuracy=0.9)
    write_run(tmp_path / "b", seed=1, final={"test/accuracy": value})
    found = arms(tmp_path)
    assert (found["all runs"]["n"], found["all runs"]["mean"]) == (1, 0.9)
    assert "Without a finite test/accuracy, left out: 1 run, such as" in found["notes"]


def test_a_run_without_metrics_csv_stays_in_the_tables(tmp_path, arms):
    write_run(tmp_path / "a", curve=False)
    found = arms(tmp_path)
    assert found["all runs"]["n"] == 1
    assert "Without metrics.csv, in the tables but not in the curves: 1 run." in found["notes"]


def test_a_curve_ends_before_a_torn_line_and_takes_the_last_of_a_step(tmp_path):
    (tmp_path / "metrics.csv").write_bytes(
        b"step,epoch,metric,value\n1,0,a,0.1\n1,0,a,0.2\n2,0,a,nan\n3,0,ab,0.3\nx,0,a,1\n\xff\x00,a,\n4,0,a,0.4\n5,0,a,0.5"
    )
    assert curve(tmp_path, "a") == {1: 0.2, 4: 0.4}
    assert curve(tmp_path / "none", "a") == {}


def test_settings_are_plain_whatever_the_config_holds(tmp_path):
    run = read(write_run(tmp_path / "a", settings={"norm.eps": float("nan"), "optim.name": "a\nb"}))
    assert isinstance(run, Run)
    assert (run.settings["norm.eps"], run.settings["optim.betas"]) == ("NaN", "[0.9,0.99]")


# --- from Python


def test_from_python_only_folders_are_needed_and_baselines_are_words(tmp_path):
    sweep(tmp_path, {"bn": BN, "gn": GN})
    alone = comparison.compare([str(tmp_path)])
    assert [arm.label for arm in alone.arms] == ["norm=bn", "norm=gn"]
    assert (alone.metric, alone.baseline, "p" in alone.rows[0]) == ("test/accuracy", "", False)
    paired = comparison.compare([str(tmp_path)], metric="test/loss", baseline=["norm=bn"])
    assert (paired.baseline, paired.rows[1]["pairs"]) == ("norm=bn", 6)
    assert paired.rows[1]["difference_mean"] == pytest.approx(sum(BN) / 6 - sum(GN) / 6)


# --- what the user gets wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "test/acuracy"], r"--metric=test/acuracy: no run has it; did you mean test/accuracy\?"),
        (["--by", "nrm"], r"--by=nrm: these runs have no such setting; did you mean norm\?"),
        (["--best", "seed"], "--best=seed: nobody chooses a seed; name settings"),
        (["--best", "optim.lr,seed"], "--best=optim.lr,seed: nobody chooses a seed"),
        (
            ["--where", "norm=gn", "--where", "norm=bn"],
            "--where norm=gn and norm=bn: no run has both; name one, or norm=gn,bn for either",
        ),
        (["--where", "norm=gn,gm"], "--where norm=gm: no run has it; did you mean gn"),
        (["--best", "optim.lrr"], r"--best=optim.lrr: .* did you mean optim.lr\?"),
        (["--where", "norm=gm"], r"--where norm=gm: no run has it; did you mean gn\? \(there are: bn, gn\)"),
        (["--where", "norm=gn", "seed=5"], "no run has all of this"),
        (["--format", "yaml"], "--format"),
        (["--wher", "a=b"], "unrecognized arguments"),
        (["--html", "/proc/none/page.html"], "cannot be written"),
    ],
)
def test_a_wrong_word_is_answered_in_one_line(tmp_path, arguments, message):
    sweep(tmp_path, {"bn": BN, "gn": GN[:5]})
    with pytest.raises(ValueError, match=message) as error:
        main([str(tmp_path), *arguments])
    assert "\n" not in str(error.value)


def test_folders_without_runs(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        main([str(tmp_path / "nowhere")])
    with pytest.raises(ValueError, match="no runs in there"):
        main([str(tmp_path)])


# --- formats


def test_the_table_is_aligned_and_fits_a_terminal(tmp_path, compare):
    text = compare(sweep(tmp_path, {"bn": BN, "gn": GN}), "--baseline", "norm=bn")
    assert text.splitlines()[:5] == [
        "test/accuracy at the last step",
        "norm  n  test/accuracy ± 95 %     sd   best  diverged  failed   time",
        "--------------------------------------------------------------------",
        "bn    6         0.975 ± 0.011  0.010  0.995       0/6       0  2.0 s",
        "gn    6         0.962 ± 0.011  0.011  0.982       0/6       0  2.0 s",
    ]
    assert "gn        6     -0.0125  [-0.0189, -0.0061]  -2.04  0.031     0.031" in text
    assert max(map(len, text.splitlines())) <= 100


def test_options_that_stand_twice_add_up(tmp_path, arms):
    for seed, lr in itertools.product(range(4), (0.1, 0.3)):
        for norm in ("bn", "gn"):
            write_run(tmp_path / f"{norm}{lr}{seed}", norm=norm, lr=lr, seed=seed, accuracy=0.9 + seed / 100)
    once = arms(tmp_path, "--by", "norm", "optim.lr", "--baseline", "norm=bn", "optim.lr=0.1", "--where", "norm=bn")
    words = [
        "--by",
        "norm",
        "--by",
        "optim.lr",
        "--baseline",
        "norm=bn",
        "--baseline",
        "optim.lr=0.1",
        "--where",
        "norm=bn",
    ]
    assert len(once) == 3
    assert arms(tmp_path, *words) == once


def test_a_small_number_is_not_shown_as_0(tmp_path, compare):
    tag = "probe/gradients/norm/hidden1"
    for seed in range(4):
        for norm, size in (("bn", 0.5), ("none", 4.5e-5), ("ln", 3e-9)):
            write_run(tmp_path / f"{norm}{seed}", norm=norm, seed=seed, final={tag: size * (1 + seed / 10)})
    text = compare(tmp_path, "--metric", tag)
    assert "0.575 ± 0.103" in text
    assert "5.18e-05 ± 9.24e-06" in text
    assert "3.45e-09 ± 6.16e-10" in text
    alone = compare(tmp_path, "--metric", tag, "--where", "seed=0", "norm=none")
    assert "4.5e-05" in alone
    assert "is better" not in text
    assert "best evaluations" not in text


def test_a_seed_counts_once_in_a_curve_too(tmp_path):
    seeds = range(4)
    for seed, lr in itertools.product(seeds, (0.1, 0.3, 1)):
        write_run(tmp_path / f"{lr}{seed}", lr=lr, seed=seed, accuracy=0.5 + seed / 10 + lr / 100)
    (arm,) = comparison.compare([str(tmp_path)], by=["norm"]).arms
    row = describe(arm, "test/accuracy")
    *_, last = bands.mean_curve(arm, "test/accuracy").values()
    assert (last.n, last.mean) == (4, pytest.approx(row["mean"]))
    assert (last.low, last.high) == (pytest.approx(row["low"]), pytest.approx(row["high"]))


def test_arms_whose_names_make_one_file_name_have_folders_of_their_own(tmp_path, compare):
    for seed, norm in enumerate(("a/b", "a_b", "a_ b")):
        write_run(tmp_path / "runs" / str(seed), norm=norm)
    compare(tmp_path / "runs", "--tensorboard", tmp_path / "bands")
    assert sorted(each.name for each in (tmp_path / "bands").iterdir()) == ["norm=a_b", "norm=a_b-2", "norm=a_b-3"]


def test_csv_is_a_row_an_arm_at_full_precision(tmp_path, compare):
    text = compare(sweep(tmp_path, {"bn": BN, "gn": GN}), "--baseline", "norm=bn", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["norm"] for row in rows] == ["bn", "gn"]
    assert float(rows[1]["mean"]) == pytest.approx(sum(GN) / 6, rel=1e-15)
    assert (rows[0]["p"], rows[1]["p"]) == ("", "0.03125")


UNEVEN = [1.0, 0.99, 1.0, 0.6]


def test_an_interval_of_accuracies_ends_at_100_percent_and_says_so(tmp_path, compare, arms):
    found = arms(sweep(tmp_path, {"bn": UNEVEN}))
    low, high = scipy.stats.ttest_1samp(UNEVEN, 0).confidence_interval()
    assert (low < 0.6, high > 1.2) == (True, True)
    assert (found["all runs"]["low"], found["all runs"]["high"]) == (pytest.approx(low, rel=1e-12), 1.0)
    assert "[low, high]: a t-interval that would leave [0, 1] is cut off there" in found["notes"]
    assert f"0.90 [{low:.2f}, 1.00]" in compare(tmp_path)
    losses = arms(tmp_path, "--metric", "test/loss")  # 0, 0.01, 0, 0.4: a loss has no bounds
    assert losses["all runs"]["low"] == pytest.approx(1 - high, abs=1e-12)
    assert "cut off" not in losses["notes"]


def test_an_interval_of_differences_of_accuracies_ends_at_100_points(tmp_path, arms):
    found = arms(sweep(tmp_path, {"bn": [0.0] * 4, "gn": UNEVEN}), "--baseline", "norm=bn")
    assert found["norm=gn"]["difference_high"] == 1.0
    assert found["norm=gn"]["difference_low"] == pytest.approx(
        scipy.stats.ttest_1samp(UNEVEN, 0).confidence_interval().low
    )


def test_an_accuracy_in_percent_knows_no_bound(tmp_path, arms):
    percent = [100 * value for value in UNEVEN]
    found = arms(sweep(tmp_path, {"bn": percent}))["all runs"]
    assert found["low"] == pytest.approx(scipy.stats.ttest_1samp(percent, 0).confidence_interval().low, rel=1e-12)


def test_few_seeds_are_shown_themselves(tmp_path, compare):
    text = compare(sweep(tmp_path, {"bn": [0.9, 0.8, 0.95], "gn": [0.91, 0.7], "ln": [0.5]}), "--baseline", "norm=bn")
    bn, gn, ln = text.splitlines()[3:6]
    assert "0.8833 (0.9000, 0.8000, 0.9500)" in bn
    assert "0.8050 (0.9100, 0.7000)" in gn
    assert ln.split()[2] == "0.5000"
    assert "-0.0450  +0.0100, -0.1000" in text
    assert "With fewer than 4 seeds their values stand behind the mean instead of an interval." in text
    assert "With fewer than 4 pairs the differences themselves are shown instead of an interval." in text


def test_markdown_is_a_table_whose_names_are_escaped(tmp_path, compare):
    write_run(tmp_path / "a", norm="a|b_c")
    write_run(tmp_path / "b", norm="gn")
    lines = compare(tmp_path, "--format", "markdown").splitlines()
    assert lines[2].startswith("| norm | n |")
    assert lines[3].startswith("| --- | ---: |")
    assert lines[4].startswith(r"| a\|b\_c | 1 | 0.9000 |")


def test_two_calls_print_the_same_bytes(tmp_path, compare):
    sweep(tmp_path, {"bn": BN, "gn": GN})
    write_run(tmp_path / "d", norm="gn", seed=9, status="diverged")
    for kind in ("table", "csv", "json", "markdown"):
        call = (tmp_path, "--best", "optim.lr", "--baseline", "norm=bn", "--format", kind)
        assert compare(*call) == compare(*call)


def run_program(*arguments, **options):
    program = "import sys; from bnexp.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "compare", *map(str, arguments)]
    return subprocess.Popen(command, env=os.environ | options.pop("env", {}), **options)


def test_a_reader_that_leaves_early_sees_no_traceback(tmp_path):
    for seed in range(300):
        write_run(tmp_path / f"{seed}", seed=seed, curve=False, norm=f"n{seed}" + "x" * 300)
    process = run_program(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0
    process.stderr.close()


def test_a_terminal_that_knows_only_ascii_and_a_folder_that_is_no_text(tmp_path):
    write_run(tmp_path / os.fsdecode(b"\xff\x1b[2J"), norm="\x1b[2J")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").touch()
    call = (tmp_path, "-v", "--html", tmp_path / "page.html")
    process = run_program(*call, env={"PYTHONIOENCODING": "ascii"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert b"\x1b" not in out
    assert b"%FF%1B%5B2J/" in (tmp_path / "page.html").read_bytes()
