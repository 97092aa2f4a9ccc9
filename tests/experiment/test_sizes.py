"""Sizes that no machine can hold are refused in a line, before anything of that size is made."""

from __future__ import annotations

import time

import pytest
from conftest import SMALL

from bnexp import memory

GIB = 2**30


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("model.width=99999999999", "model.width=99999999999: out of range; allowed is at least 1 and at most 1000000"),
        ("model.depth=100000", "model.depth=100000: out of range; allowed is at least 1 and at most 10000"),
        ("data.size=100000", "data.size=100000: out of range; allowed is at least 1 and at most 16384"),
        ("model=cnn ~model.depth ~model.width model.widths=[8,9999999]", "model.widths=9999999: out of range"),
        ("model=cnn ~model.depth ~model.width model.kernel=999999 model.widths=[1000000,1000000]", "too large for any"),
        ("batch_size=99999999999999999999", "batch_size=99999999999999999999: out of range"),
    ],
)
def test_every_size_has_a_bound(bnexp, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    own = [word for word in words.split() if not word.startswith("~")]
    base = [word for word in SMALL if not ("~" in words and word.startswith("model"))]
    began = time.process_time()
    answer = bnexp("train", *base, *own)
    assert time.process_time() - began < 2
    assert answer.code == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_does_not_fit_is_refused_with_both_numbers(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "there", lambda: 3 * GIB // 2)
    # 64 * 10000 + 10000 + 2 * (10000^2 + 10000) + 10000 * 10 + 10, norms with gain and bias: 2.008e8 parameters of 16
    # bytes, 2.99 GiB; the data take 0.0006 GiB.
    answer = bnexp("train", *SMALL, "norm=ln", "model.width=10000", "model.depth=3")
    assert answer.code == 2
    needs = "model=mlp: 2.01e+08 parameters with gradients and optimizer state, and the data, need 3.0 GiB"
    assert answer.err == f"bnexp: {needs}, and this machine has 1.5 GiB of memory; choose a smaller one\n"


def test_images_are_counted_before_they_are_resized(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "there", lambda: 2 * GIB)
    answer = bnexp("train", *SMALL, "data.validation=0", "data.test_limit=300", "data.size=1100")
    assert answer.code == 2
    # 200 + 300 grey images of 1100 x 1100 numbers of 4 bytes: 2.25 GiB.
    needs = "bnexp: data.size=1100: 500 such images need 2.3 GiB, and this machine has 2.0 GiB of memory"
    assert answer.err == f"{needs}; choose a smaller one\n"


@pytest.mark.parametrize(
    ("group", "limits", "expected"),
    [
        ("0::/job/step", {}, None),
        ("0::/job/step", {"job/step/memory.max": "max\n"}, None),
        ("0::/job/step", {"job/step/memory.max": "300000000\n"}, 300_000_000),
        ("0::/job/step", {"job/step/memory.max": "300000000\n", "job/memory.max": "200000000\n"}, 200_000_000),
        ("0::/seen/from/outside", {"memory.max": "100000000\n"}, 100_000_000),
        ("4:cpu,memory:/job", {"memory/job/memory.limit_in_bytes": "300000000\n"}, 300_000_000),
        ("4:cpu,memory:/job", {"memory/job/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, None),
        ("4:cpu,cpuacct:/job", {"memory/job/memory.limit_in_bytes": "300000000\n"}, None),
    ],
)
def test_the_memory_is_that_of_the_control_group(tmp_path, group, limits, expected):
    machine = memory.there(tmp_path)
    assert machine > GIB / 2
    for name, text in {
        "proc/self/cgroup": f"{group}\n",
        **{f"sys/fs/cgroup/{n}": t for n, t in limits.items()},
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory.there(tmp_path) == (machine if expected is None else expected)
