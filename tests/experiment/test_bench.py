"""``bnexp bench``: the ordinary loop at many batch sizes, and a knee only where the measurements determine one."""

from __future__ import annotations

import json
import re
import resource

import pytest
import torch
from conftest import SMALL, composed

from bnexp.cli.bench import document
from bnexp.config.compose import plain
from bnexp.experiment import bench as module
from bnexp.experiment.bench import Bench, Speed, bench, default_sizes, interleaved, knee, median_interval
from bnexp.experiment.dry_run import records
from bnexp.experiment.setup import build

WRONG = {
    "--sizes 1,x": "--sizes=1,x: expected whole numbers, such as 8,16,32",
    "--sizes 8,": "--sizes=8,: expected whole numbers",
    "--sizes 0": "--sizes=0: out of range; allowed is at least 1",
    "--repeats 2": "--repeats=2: out of range; allowed is at least 3",
    "--sizes 1": "--sizes: none is possible; batch_size=1: norm=bn: an input of shape [1, 16] gives one value",
    "-m norm=bn": "bench: unrecognized arguments: -m",
    "norm=bx": "norm=bx: not known; did you mean bn?",
    "batch_size=0": "batch_size=0: out of range",
    "compile=true": "compile=true: torch.compile stops recompiling",
}


# What follows reaches into the module: a round of the real length would take seconds, and no machine of a test is so
# small that its memory is full at a known batch size.
@pytest.fixture(autouse=True)
def short_rounds(monkeypatch):
    monkeypatch.setattr(module, "_ROUND", 0.02)


def small(*words: str):
    return plain(composed(*SMALL, *words))


def speeds(**rates: list[float]) -> list[Speed]:
    return [Speed(int(name.removeprefix("b")), tuple(values), 0) for name, values in rates.items()]


def test_the_knee_is_the_smallest_size_with_95_percent_of_the_best_rate():
    found = knee(speeds(b8=[50, 51, 52], b16=[97, 98, 99], b32=[100, 101, 102], b64=[96, 97, 98]))
    assert found.size == 16
    assert "the best rate (101 images/s at 32)" in found.reason


@pytest.mark.parametrize(("share", "size"), [(0.949, 16), (0.951, 8)])
def test_the_knee_lies_at_95_percent_exactly(share, size):
    assert knee(speeds(b8=[share * 100] * 5, b16=[100] * 5)).size == size


def test_no_knee_where_two_sizes_cannot_be_told_apart():
    found = knee(speeds(b8=[50] * 5, b16=[92, 93, 95, 96, 97], b32=[100] * 5))
    assert found.size is None
    assert "the knee may be anything from 16 to 32" in found.reason


def test_more_rounds_tell_two_sizes_apart():
    rates = [92, 94, 97, 98, 100]
    assert knee(speeds(b8=[50] * 5, b16=rates, b32=[100] * 5)).size is None
    assert knee(speeds(b8=[50] * 100, b16=rates * 20, b32=[100] * 100)).size == 16


@pytest.mark.parametrize(
    ("n", "k"),  # 2 P(Binomial(n, 1/2) < k): 3: 0.25; 5: 0.0625; 8: 0.0703; 10: 0.0215, then 0.109; 20: 0.0414
    [(3, 1), (5, 1), (8, 2), (10, 2), (20, 6)],
)
def test_the_interval_of_the_median_misses_it_in_at_most_a_tenth(n, k):
    assert median_interval(range(n, 0, -1)) == (k, n + 1 - k)


@pytest.mark.parametrize("noisy", ["b16", "b32"])
def test_no_knee_where_a_deciding_size_is_noisy(noisy):
    rates = {"b8": [20] * 5, "b16": [50] * 5, "b32": [100] * 5} | {noisy: [30, 40, 50, 60, 70]}
    rates["b32"] = [2 * rate for rate in rates["b32"]]
    found = knee(speeds(**rates))
    assert found.size is None
    assert f"IQR / median is 0.40 at {noisy[1:]}, above 0.2" in found.reason


def test_noise_where_nothing_is_decided_does_no_harm():
    assert knee(speeds(b4=[5, 10, 15, 20, 25], b8=[50] * 5, b16=[99] * 5, b32=[100] * 5)).size == 16


def test_a_slow_round_of_the_whole_machine_does_not_blur_the_knee():
    slow = [1, 1, 0.85, 1, 0.85]
    assert knee(speeds(b8=[94 * s for s in slow], b16=[100 * s for s in slow])).size == 16


@pytest.mark.parametrize(
    ("images", "sizes"),
    [
        (60000, [8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]),
        (100, [8, 16, 32, 64]),
        (64, [8, 16, 32, 64]),
        (5, [5]),
    ],
)
def test_default_sizes_are_powers_of_two_for_which_there_are_images(images, sizes):
    assert default_sizes(images) == sizes


def test_ways_take_turns():
    called: list[str] = []
    ways = {name: lambda name=name: called.append(name) for name in "ab"}
    seconds = interleaved(ways, rounds=3)
    assert called == list("ababab")
    assert [len(seconds[name]) for name in "ab"] == [3, 3]


def test_the_steps_are_real_but_change_no_weight():
    setup = build([small()], stacked=False)
    weights = setup.population.theta_MP.clone()
    moved = setup.population.buffers["hidden1.norm.running_mean"].clone()
    found = list(records(setup, 7, every=2, count=3))[:3]
    assert [record.step for record in found] == [2, 4, 6]
    assert all(record.values["train/loss"][0] > 0 for record in found)
    assert torch.equal(setup.population.theta_MP, weights)
    assert setup.population.gradient_MP.norm() > 0
    assert not torch.equal(setup.population.buffers["hidden1.norm.running_mean"], moved)


def test_a_knee_at_the_largest_size_says_that_larger_ones_may_be_faster():
    setup = build([small()], stacked=False)
    rising, level = ([Speed(8, (50,) * 3, 0), Speed(16, (rate,) * 3, 0)] for rate in (100, 51))
    for rows, failures, end in (
        (rising, {}, "at 16); it is the largest size tried, and larger ones may be faster still"),
        (rising, {4: "one value"}, "at 16); it is the largest size tried, and larger ones may be faster still"),
        (rising, {32: "out of memory"}, "at 16); it is the largest possible here"),
        (level, {}, "at 16)"),
    ):
        _, *failed, verdict, _ = document(Bench(setup, tuple(rows), failures, knee(rows)), {}).blocks
        assert verdict.text.endswith(end)
        assert len(failed) == bool(failures)


def test_sizes_that_are_not_possible_are_told_and_the_rest_goes_on():
    found = bench(small(), sizes=[64, 1, 8, 1000, 8], repeats=3)
    assert [speed.size for speed in found.speeds] == [8, 64]
    assert all(len(speed.rates) == 3 and min(speed.rates) > 0 for speed in found.speeds)
    assert all(speed.memory > 2**20 for speed in found.speeds)
    assert "[1, 16] gives one value per channel" in found.failures[1]
    assert "batch_size=1000: larger than" in found.failures[1000]
    table, failed, _, advice = document(found, {}).blocks
    assert failed.items[1].startswith("batch_size=1000 is not possible: larger than the ")
    assert "tune the learning rate and the regularization again" in advice.text
    assert table.title.endswith("peak memory of the process")


def failing_at_8(monkeypatch, error):
    def warm_up(setup, size, before=module._warmed_up):
        if size == 8:
            raise error
        return before(setup, size)

    monkeypatch.setattr(module, "_warmed_up", warm_up)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 9"),
        RuntimeError("GET was unable to find an engine to execute this computation"),  # cuDNN without a workspace
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_out_of_memory_is_one_of_the_reasons(monkeypatch, error):
    failing_at_8(monkeypatch, error)
    found = bench(small(), sizes=[4, 8, 16], repeats=3)
    assert ([speed.size for speed in found.speeds], found.failures) == ([4, 16], {8: "out of memory"})


def test_a_fault_of_the_program_is_none(monkeypatch):
    failing_at_8(monkeypatch, RuntimeError("shapes"))
    with pytest.raises(RuntimeError, match="shapes"):
        bench(small(), sizes=[4, 8], repeats=3)


def test_a_loss_that_is_not_finite_is_one_of_the_reasons():
    with pytest.raises(ValueError, match=r"none is possible; batch_size=8: the loss is not finite"):
        bench(small("norm=none", "init.gain=1e30"), sizes=[8], repeats=3)


def test_memory_is_limited_to_that_of_the_machine_while_measuring():
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with module._memory_is_limited(torch.device("cpu")):
        assert 0 < resource.getrlimit(resource.RLIMIT_DATA)[0] < 2**50
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    with module._memory_is_limited(torch.device("cuda")):
        assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_the_command_prints_a_table_or_all_its_figures(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("bench", *SMALL, "--sizes", "1,8,16", "norm=bn", "--repeats", "3")
    answer = bnexp(*words)
    assert answer.code == 0, answer
    assert answer.out.startswith("model=mlp norm=bn data=digits on cpu, threads=1: medians and quartiles of 3 rounds")
    assert "batch_size=1 is not possible: norm=bn" in answer.out
    assert re.search(r"^(knee: batch_size=\d+, |no knee is named: )", answer.out, re.MULTILINE)
    facts = json.loads(bnexp(*words, "--json").out)
    assert [row["size"] for row in facts["sizes"]] == [8, 16]
    assert list(facts["not_possible"]) == ["1"]
    assert facts["config"]["norm"]["name"] == "bn"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", WRONG)
def test_wrong_input_costs_one_line_and_leaves_nothing(bnexp, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    answer = bnexp("bench", *SMALL, *words.split(" "))
    assert (answer.code, answer.out) == (2, "")
    assert WRONG[words] in answer.err.splitlines()[-1]
    assert "Error executing job" not in answer.err  # Hydra's line of its own
    assert list(tmp_path.iterdir()) == []


def test_a_preset_that_is_a_sweep_is_measured_as_one_run(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = bnexp("bench", "experiment=lr_grid", *SMALL, "--sizes", "8", "--repeats", "3")
    assert answer.code == 0, answer
    assert "\n         8  " in answer.out
    assert list(tmp_path.iterdir()) == []


def test_completion_offers_settings(bnexp, monkeypatch):
    monkeypatch.setenv("COMP_LINE", "bnexp bench norm=b")
    monkeypatch.setenv("COMP_POINT", "18")
    assert "norm=bn" in bnexp("-sc", "query=bash").out.split()
