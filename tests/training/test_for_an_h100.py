"""Kernels in Triton, compiled for an H100 in a process of its own, which needs no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from interpreter import needs_triton

pytestmark = needs_triton

# Of a block of programs, on GPUs of the generation 8.6, which have the least.
SHARED_MEMORY = 99 * 1024


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("for_an_h100.py")],
        env=os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_batch_norm_and_pooling_move_16_bytes_at_once(compiled: Any) -> None:
    """All but the numbers of channels: those are few."""
    accesses = compiled["accesses"]
    others = {name: loads for name, (loads, _) in accesses.items() if loads != ["v4.b32"]}
    assert set(others) == {"joined_moments", "whole"}  # of running statistics they read b32 too
    assert all("v4.b32" in loads for loads in others.values())
    of_maps = {name for name, (_, stores) in accesses.items() if stores == ["v4.b32"]}
    assert of_maps == {"normalized", "gradient", "pooled", "pooled_gradient"}
    assert all("v4.b32" in accesses[name][1] for name in ("whole", "whole_gradient"))  # and moments and slopes


def test_updates_move_16_bytes_at_once(compiled: Any) -> None:
    """All but the numbers of members."""
    assert compiled["updates"] == {name: [["b32", "v4.b32"], ["v4.b32"]] for name in ("sgd", "adam")}


def test_convolutions_multiply_in_matrix_units(compiled: Any) -> None:
    assert {name: kinds for name, kinds in compiled["products"].items() if kinds != ["tf32"]} == {
        "second maps": ["bf16"],
        "first slopes": ["bf16"],
        "first maps without TF32": [],
    }


def test_only_the_number_of_images_may_be_divisible_by_nothing(compiled: Any) -> None:
    """Where strides and lengths are not known to be multiples of 16, gradients of weights take 2 to 5 times as much."""
    assert compiled["any number"] == {"convolved": ["B"], "part_slopes": ["B"]}


def test_the_largest_convolutions_fit_into_the_shared_memory_of_small_gpus(compiled: Any) -> None:
    assert len(compiled["shared memory"]) == 2
    assert max(compiled["shared memory"].values()) <= SHARED_MEMORY
