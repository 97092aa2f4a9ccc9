from __future__ import annotations

import copy
import io
import logging
import os
import pickle
import random
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from bnexp.runs import checkpoint
from bnexp.runs.checkpoint import digest, load, save

NEWEST, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def state(step: int) -> dict[str, Any]:
    """Of all the types that a run saves."""
    source = torch.Generator().manual_seed(step)
    parameters = {"weight": torch.randn(50, 60, generator=source), "half": torch.randn(3, generator=source).bfloat16()}
    buffers = {
        "count": torch.tensor(2**62 + step),
        "mask": torch.rand(7, generator=source) > 0.5,
        "none": torch.zeros(0, 4),
    }
    numbers = {"seen": 29 * step, "loss": 0.1 + step, "worst": float("nan"), "best": None, "on": True, "word": "größe"}
    return {"step": step, "parameters": parameters, "buffers": buffers, "progress": numbers}


def assert_state(loaded: dict[str, Any] | None, step: int) -> None:
    assert loaded is not None
    assert digest(loaded) == digest(state(step))
    assert torch.equal(loaded["parameters"]["weight"], state(step)["parameters"]["weight"])
    assert loaded["progress"]["seen"] == 29 * step


@pytest.fixture
def folder(tmp_path) -> Path:
    """Holds the checkpoints of steps 1 and 2."""
    save(tmp_path, state(1))
    save(tmp_path, state(2))
    return tmp_path


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# ----------------------------------------------------------------------------------------------------- save and load


def test_the_newest_of_two_checkpoints_is_loaded_without_a_word(folder, caplog):
    save(folder, state(3))
    assert_state(load(folder), 3)
    assert warnings(caplog) == []
    assert {path.name for path in folder.iterdir()} == {NEWEST, PREVIOUS}


def test_all_types_come_back_as_they_were(folder):
    loaded, saved = load(folder), state(2)
    for kind in ("parameters", "buffers"):
        for name, tensor in saved[kind].items():
            assert loaded[kind][name].dtype == tensor.dtype
            assert torch.equal(loaded[kind][name], tensor)
    assert {k: v for k, v in loaded["progress"].items() if k != "worst"} == {
        k: v for k, v in saved["progress"].items() if k != "worst"
    }
    assert loaded["progress"]["worst"] != loaded["progress"]["worst"]


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert load(tmp_path) is None


def test_the_step_inside_says_what_is_loaded_and_not_the_time_of_the_file(folder):
    os.utime(folder / NEWEST, (0, 0))
    assert_state(load(folder), 2)


CHANGES = {
    "one bit of a tensor": lambda s: s["parameters"]["weight"].view(torch.int32)[49, 59].bitwise_xor_(1),
    "the type of a tensor": lambda s: s["buffers"].update(mask=s["buffers"]["mask"].to(torch.uint8)),
    "the shape of a tensor": lambda s: s["parameters"].update(weight=s["parameters"]["weight"].view(60, 50)),
    "the name of a tensor": lambda s: s["parameters"].update(other=s["parameters"].pop("half")),
    "a number": lambda s: s["progress"].update(seen=1),
    "the type of a number": lambda s: s["progress"].update(seen=float(s["progress"]["seen"])),
    "a number that is gone": lambda s: s["progress"].pop("best"),
    "an empty tensor that is gone": lambda s: s["buffers"].pop("none"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_digest_depends_on(change):
    other = copy.deepcopy(state(2))
    CHANGES[change](other)
    assert digest(other) != digest(state(2))


def test_the_digest_does_not_depend_on_the_order_of_entries_or_the_layout_of_tensors():
    other = dict(reversed(state(2).items()))
    other["parameters"]["weight"] = other["parameters"]["weight"].t().contiguous().t()
    assert digest(other) == digest(state(2))


# ------------------------------------------------------------------------------------------------------------ damage


def truncated(share: float) -> Any:
    return lambda data: data[: int(len(data) * share)]


def zeroed(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(4096) + data[middle + 4096 :]


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def payload(command: str) -> Any:
    """An object that runs a command when it is unpickled."""

    class Payload:
        def __reduce__(self) -> Any:
            return os.system, (command,)

    return Payload()


DAMAGES = {
    "empty": truncated(0),
    "cut at 50 %": truncated(0.5),
    "cut at 99 %": truncated(0.99),
    "4 KiB of zeros": zeroed,
    "text": lambda data: b"not a checkpoint",
    "another pickle": lambda data: pickle.dumps({"format": 1}),
    "another number": lambda data: pickle.dumps(3),
    "another zip": lambda data: zipped({"a": b"b"}),
}


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_passed_over_with_one_warning(folder, caplog, damage):
    newest = folder / NEWEST
    newest.write_bytes(DAMAGES[damage](newest.read_bytes()))
    assert_state(load(folder), 1)
    (warning,) = warnings(caplog)
    assert warning.startswith(f"{newest}: ")
    assert warning.endswith("; resuming from the previous checkpoint, step 1")
    assert "\n" not in warning


def test_a_missing_newest_checkpoint_is_passed_over_with_one_warning(folder, caplog):
    (folder / NEWEST).unlink()
    assert_state(load(folder), 1)
    assert warnings(caplog) == [f"{folder / NEWEST}: missing; resuming from the previous checkpoint, step 1"]


def test_a_damaged_previous_checkpoint_does_not_matter_while_the_newest_is_whole(folder, caplog):
    (folder / PREVIOUS).write_bytes(b"")
    assert_state(load(folder), 2)
    assert warnings(caplog) == []


def test_every_bit_that_flips_inside_a_tensor_is_noticed(folder, caplog):
    newest = folder / NEWEST
    data = newest.read_bytes()
    weights = state(2)["parameters"]["weight"].numpy().tobytes()
    start = data.index(weights)
    chosen = random.Random(0).sample(range(8 * start, 8 * (start + len(weights))), 60)
    for number, bit in enumerate(chosen, 1):
        newest.write_bytes(flipped(data, bit))
        assert_state(load(folder), 1)
        assert len(warnings(caplog)) == number
    newest.write_bytes(data)
    assert_state(load(folder), 2)


def test_a_bit_that_flips_anywhere_gives_the_whole_newest_or_the_one_before(folder, caplog):
    newest = folder / NEWEST
    data = newest.read_bytes()
    fell_back = 0
    for bit in random.Random(1).sample(range(8 * len(data)), 300):
        newest.write_bytes(flipped(data, bit))
        loaded = load(folder)
        fell_back += loaded["step"] == 1
        assert_state(loaded, loaded["step"])
        assert len(warnings(caplog)) == fell_back
    assert fell_back > 150


def test_a_changed_number_is_noticed(folder):
    content = torch.load(folder / NEWEST, weights_only=True)
    content["state"]["progress"]["seen"] += 1
    torch.save(content, folder / NEWEST)
    assert_state(load(folder), 1)


def test_a_sound_checkpoint_of_another_version_is_not_taken_for_one_of_this(folder, caplog):
    content = torch.load(folder / NEWEST, weights_only=True)
    torch.save(content | {"format": checkpoint.FORMAT + 1}, folder / NEWEST)
    assert_state(load(folder), 1)
    assert "not a checkpoint of this version of bnexp" in warnings(caplog)[0]


@pytest.mark.parametrize("content", [{}, {"format": 99}, {"format": 1}, {"format": 1, "digest": "", "state": 3}, [1]])
def test_a_file_of_another_shape_is_passed_over(folder, content):
    torch.save(content, folder / NEWEST)
    assert_state(load(folder), 1)


@pytest.mark.parametrize("names", [[NEWEST, PREVIOUS], [NEWEST]])
def test_without_a_usable_checkpoint_the_run_is_not_silently_started_over(folder, names):
    for path in folder.iterdir():
        path.unlink()
    for name in names:
        (folder / name).write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"^no usable checkpoint: .*; delete checkpoint") as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert all(name in str(caught.value) for name in names)


def test_leftover_temporary_files_are_ignored_and_go_with_the_next_save(folder):
    (folder / f"{NEWEST}.tmp").write_bytes(b"torn")
    assert_state(load(folder), 2)
    save(folder, state(3))
    assert_state(load(folder), 3)
    assert not (folder / f"{NEWEST}.tmp").exists()


# ------------------------------------------------------------------------------------------------- death while saving


@pytest.mark.parametrize(
    ("owner", "name", "number", "step"),
    [
        (os, "fsync", 1, 2),
        (Path, "replace", 1, 2),
        (Path, "replace", 2, 2),
        (os, "fsync", 2, 3),
    ],
)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "killed"])
def test_a_save_that_fails_leaves_a_checkpoint_that_loads(folder, monkeypatch, owner, name, number, step, error):
    real, calls = getattr(owner, name), []

    def failing(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == number:
            raise error
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        with pytest.raises(type(error)):
            save(folder, state(3))
    assert_state(load(folder), step)
    assert isinstance(error, KeyboardInterrupt) or not (folder / f"{NEWEST}.tmp").exists()
    save(folder, state(4))
    assert_state(load(folder), 4)


# Has children that save on and on, each until it ends inside another replace: of the second save, then of the third.
DYING = """
import os, pathlib, sys
import torch
from bnexp.runs.checkpoint import save

real = pathlib.Path.replace

def save_until(number, folder):
    calls = 0

    def dying(*args):
        nonlocal calls
        calls += 1
        if calls == number:
            os._exit(9)
        return real(*args)

    pathlib.Path.replace = dying
    for step in range(10):
        save(folder, {"step": step, "weight": torch.full((1000,), float(step))})

for number in map(int, sys.argv[2:]):
    (folder := pathlib.Path(sys.argv[1], str(number))).mkdir()
    child = os.fork() or save_until(number, folder)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
"""


@pytest.mark.slow
def test_a_process_that_dies_while_saving_leaves_its_last_checkpoint(tmp_path):
    steps = {2: 0, 3: 0, 4: 1}
    subprocess.run([sys.executable, "-c", DYING, str(tmp_path), *map(str, steps)], check=True)
    for number, step in steps.items():
        loaded = load(tmp_path / str(number))
        assert loaded["step"] == step
        assert (loaded["weight"] == step).all()


# ------------------------------------------------------------------------------------------------------ hostile files


def as_zip(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def as_legacy(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def as_tar(content: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("pickle", "storages", "tensors", "sys_info"):
            data = pickle.dumps(content)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("form", [as_zip, as_legacy, as_tar, pickle.dumps])
@pytest.mark.parametrize("place", ["alone", "in the state"])
def test_a_file_that_holds_a_program_is_refused_and_does_not_run_it(tmp_path, form, place):
    marker = tmp_path / "marker"
    program = payload(f"touch '{marker}'")
    whole = {"format": checkpoint.FORMAT, "digest": digest(state(1)), "state": state(1) | {"program": program}}
    data = form(program if place == "alone" else whole)
    (tmp_path / NEWEST).write_bytes(data)
    with pytest.raises(ValueError, match=r"^no usable checkpoint: ") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_the_program_would_run_if_it_were_unpickled(tmp_path):
    pickle.loads(pickle.dumps(payload(f"touch '{tmp_path / 'marker'}'")))
    assert (tmp_path / "marker").exists()
