"""A run that was stopped, killed or damaged ends where the undisturbed run ends, bit for bit."""

from __future__ import annotations

import csv
import json
import random
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_RUN, composed, start
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bnexp.config.compose import plain
from bnexp.experiment import setup
from bnexp.experiment.job import Job
from bnexp.experiment.run import run
from bnexp.runs import checkpoint, run_json

# Everything that a resume could forget: norm statistics, momentum, dropout, augmentation, a schedule, a short batch,
# averages of the weights.
WORDS = (
    *SMALL_RUN,
    "model.dropout=0.2",
    "data.crop=1",
    "data.flip=true",
    "schedule=cosine",
    "optim.momentum=0.9",
    "optim.weight_decay=0.01",
    "optim.decay_bias=false",
    "clip_grad=0.5",
    "label_smoothing=0.1",
    "accumulate=3",
    "ema_weights=0.8",
    "eval_every=5",
    "checkpoint_every=4",
)
STEPS_PER_EPOCH, STEPS = 7, 21


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves as TensorBoard shows them, but for those of time."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("speed/")]
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}


def left_behind(folder: Path) -> tuple[str, bytes, dict]:
    """All that must be equal: the last checkpoint, metrics.csv, TensorBoard's curves."""
    state = checkpoint.load(folder)
    assert state is not None
    return checkpoint.digest(state), (folder / "metrics.csv").read_bytes(), points(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    process = start("train", *WORDS, f"hydra.run.dir={folder}", cwd=folder.parent)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    return folder


class StopAt:
    """Asks to stop after k steps of a session."""

    exit_code = 143

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def run_words(folder: Path, stop, words=WORDS):
    return run([Job(plain(composed(*words)), folder, "test")], stop=stop)[0]


def test_two_undisturbed_runs_are_equal_and_a_seed_makes_a_difference(undisturbed, tmp_path):
    run_words(tmp_path / "again", StopAt(0))
    run_words(tmp_path / "other", StopAt(0), (*WORDS, "seed=1"))
    assert left_behind(tmp_path / "again") == left_behind(undisturbed)
    assert left_behind(tmp_path / "other")[1] != left_behind(undisturbed)[1]


@pytest.mark.parametrize("step", [1, 3, 4, 5, 6, 7, 8, 14, 20])
def test_stopped_after_a_step_and_resumed(undisturbed, tmp_path, step):
    assert run_words(tmp_path / "run", StopAt(step)).status == "interrupted"
    assert run_words(tmp_path / "run", StopAt(0)).status == "finished"
    assert left_behind(tmp_path / "run") == left_behind(undisturbed)


def test_recorded_steps_are_stopped_and_resumed(tmp_path, monkeypatch):
    """As with graph=true on a GPU; the recorder runs the same work."""
    recorded: list[int] = []

    def record(work):
        recorded.append(len(recorded))
        return work

    monkeypatch.setattr(setup, "recorder", lambda config, device, draws: record)
    assert run_words(tmp_path / "whole", StopAt(0)).status == "finished"
    assert run_words(tmp_path / "run", StopAt(8)).status == "interrupted"
    assert run_words(tmp_path / "run", StopAt(0)).status == "finished"
    assert recorded == [*range(6)]  # in each session the step, and the pass of an evaluation
    assert left_behind(tmp_path / "run") == left_behind(tmp_path / "whole")


def test_a_folder_in_which_another_command_has_trained_meanwhile_stays(tmp_path, monkeypatch):
    """It trains while this one reads its data."""
    module = sys.modules["bnexp.experiment.run"]
    build, words = module.build, (*SMALL_RUN, "checkpoint_keep=none")

    def slow(*given, **how):
        monkeypatch.setattr(module, "build", build)
        run_words(tmp_path / "run", StopAt(0), words)
        return build(*given, **how)

    for own, said in ((words, "another command has trained in it meanwhile"), ((*words, "seed=1"), "another config")):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        monkeypatch.setattr(module, "build", slow)
        with pytest.raises(ValueError, match=said):
            run_words(tmp_path / "run", StopAt(0), own)
        saved = run_json.read(tmp_path / "run")
        assert (saved["status"], saved["config"]["seed"]) == ("finished", 0)


def test_the_seconds_of_all_sessions_are_told_also_between_two_rows_of_timing(tmp_path):
    rare = (*SMALL_RUN, "log_every=1000", "eval_every=1000", "checkpoint_every=4")
    for status in ("interrupted", "running"):
        folder = tmp_path / status
        run_words(folder, StopAt(8), rare)
        saved = run_json.read(folder)
        assert (saved["step"], saved["seconds"] > 0) == (8, True)
        run_json.write(folder, {**saved, "status": status, "seconds": 1000.0})
        assert run_words(folder, StopAt(0), rare).facts["seconds"] > 1000


def test_stopped_again_and_again(undisturbed, tmp_path):
    for steps in (2, 1, 5, 1, 1, 6):
        assert run_words(tmp_path / "run", StopAt(steps)).status == "interrupted"
    run_words(tmp_path / "run", StopAt(0))
    assert left_behind(tmp_path / "run") == left_behind(undisturbed)


def test_the_checkpoint_of_a_stop_exactly_at_the_end_is_that_of_the_run(undisturbed, tmp_path):
    assert run_words(tmp_path / "run", StopAt(STEPS)).status == "finished"
    assert left_behind(tmp_path / "run") == left_behind(undisturbed)


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "bit":
        velocity = checkpoint.load(path.parent)["optimizer"]["velocity"].numpy().tobytes()
        data[data.index(velocity) + len(velocity) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["cut", "empty", "bit", "missing"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(undisturbed, tmp_path, caplog, how):
    folder = tmp_path / "run"
    run_words(folder, StopAt(9))
    damage(folder / "checkpoint.pt", how)
    with caplog.at_level("INFO", logger="bnexp"):
        run_words(folder, StopAt(0))
    assert "resumes from step 8" in caplog.text
    assert (folder / "checkpoint.damaged.pt").exists() == (how != "missing")
    assert how == "missing" or "checkpoint.pt: damaged" in caplog.text
    assert left_behind(folder) == left_behind(undisturbed)


def test_torn_files_are_mended(undisturbed, tmp_path):
    folder = tmp_path / "run"
    run_words(folder, StopAt(13))
    with (folder / "metrics.csv").open("a") as file:
        file.write("14,2.0,train/lo")
    (events,) = folder.glob("events.*")
    events.write_bytes(events.read_bytes()[:-7])
    run_words(folder, StopAt(0))
    assert left_behind(folder)[:2] == left_behind(undisturbed)[:2]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run stopped after steps 9 and 13, so that it has two event files."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    for steps in (9, 4):
        assert run_words(folder, StopAt(steps)).status == "interrupted"
    return folder


@pytest.fixture
def stopped(begun, tmp_path):
    return Path(shutil.copytree(begun, tmp_path / "run"))


def digit(data: bytes) -> bytes:
    at = data.rindex(b".", 0, len(data) // 2) + 1
    return data[:at] + (b"7" if data[at : at + 1] != b"7" else b"3") + data[at + 1 :]


CHANGES = {
    "a digit": digit,
    "a row is gone": lambda data: data.partition(b"\n")[0] + b"\n" + data.partition(b"\n")[2].partition(b"\n")[2],
    "an empty line": lambda data: data.replace(b"\n", b"\n\n", 1),
    "other line ends": lambda data: data.replace(b"\n", b"\r\n"),
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("name", ["metrics.csv", "timing.csv"])
def test_a_file_that_was_changed_is_named_with_a_remedy_and_nothing_is_lost(undisturbed, stopped, bnexp, name):
    path = stopped / name
    whole = path.read_bytes()
    for how, change in CHANGES.items():
        path.write_bytes(change(whole))
        answer = bnexp("resume", str(stopped))
        assert answer.code == 2, how
        remedy = (
            "changed since the checkpoint was written; put it back, or delete checkpoint*.pt to start the run again"
        )
        *told, fault = answer.err.splitlines()
        assert fault == f"bnexp: {path}: {remedy}"
        assert [line.partition("=")[0] for line in told] == ["accumulate", "ema_weights"]  # settings that may surprise
        assert path.read_bytes() == change(whole)
    path.unlink()
    assert f"{path}: missing; put it back" in bnexp("resume", str(stopped)).err
    path.mkdir()
    assert f"{path}: no file; put it back" in bnexp("resume", str(stopped)).err
    path.rmdir()
    path.write_bytes(whole)
    assert bnexp("resume", str(stopped)).code == 0
    assert left_behind(stopped) == left_behind(undisturbed)


def test_what_was_written_behind_the_checkpoint_is_cut_off_whatever_step_it_names(undisturbed, stopped):
    with (stopped / "metrics.csv").open("a") as file:
        file.write("3,0.42857142857142855,train/loss,9.0\n")
    run_words(stopped, StopAt(0))
    assert left_behind(stopped) == left_behind(undisturbed)


@pytest.mark.parametrize("lost", [[0], [1], [0, 1]])
def test_lost_event_files_get_their_curves_back(undisturbed, stopped, caplog, lost):
    files = sorted(stopped.glob("events.*"))
    assert len(files) == 2
    for number in lost:
        files[number].unlink()
    run_words(stopped, StopAt(0))
    assert left_behind(stopped) == left_behind(undisturbed)
    (said,) = [record.getMessage() for record in caplog.records if "event file" in record.getMessage()]
    assert "histograms" not in said


def test_lost_histograms_are_told(tmp_path, caplog):
    words = (*WORDS, "probes=[gradients]")
    run_words(tmp_path / "run", StopAt(9), words)
    for path in (tmp_path / "run").glob("events.*"):
        path.unlink()
    run_words(tmp_path / "run", StopAt(0), words)
    assert caplog.text.count("its histograms are lost") == 1


def test_a_foreign_event_file_is_named(stopped, bnexp):
    (stopped / "events.out.tfevents.mine").touch()
    answer = bnexp("resume", str(stopped))
    assert answer.code == 2
    assert answer.err.splitlines()[-1].endswith(
        "events.out.tfevents.mine: no event file of bnexp; move it out of the run's folder"
    )


def resaved(folder: Path, change) -> None:
    """The last checkpoint with another content, and the digest of that."""
    content = torch.load(folder / "checkpoint.pt", weights_only=True)
    change(content["state"])
    checkpoint.save(folder, content["state"], content["files"])


WRONG = {
    "no weights": lambda state: state.pop("parameters"),
    "no progress": lambda state: state.pop("progress"),
    "no loss": lambda state: state["progress"].pop("loss"),
    "a word for a number": lambda state: state["progress"].update(loss="x"),
    "a word for seen": lambda state: state["progress"].update(seen="x"),
    "a number for tensors": lambda state: state.update(buffers=3),
    "whole numbers": lambda state: state["parameters"].update({k: v.int() for k, v in state["parameters"].items()}),
    "None": lambda state: state.update(optimizer=None),
    "a step beyond the end": lambda state: state.update(step=22),
    "a step before the start": lambda state: state.update(step=-1),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_checkpoint_of_another_content_with_its_right_digest_is_refused(stopped, bnexp, how):
    before = (stopped / "metrics.csv").read_bytes()
    resaved(stopped, WRONG[how])
    for command in ("resume", "evaluate"):
        answer = bnexp(command, str(stopped))
        assert answer.code == 2, answer
        assert f"{stopped}/checkpoint.pt: not a checkpoint of this version of bnexp" in answer.err.splitlines()[-1]
    assert (stopped / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize("step", [None, "x", 3.0, True])
def test_a_checkpoint_without_a_step_is_passed_over(undisturbed, stopped, step):
    resaved(stopped, lambda state: state.update(step=step))
    run_words(stopped, StopAt(0))
    assert left_behind(stopped) == left_behind(undisturbed)


def test_a_checkpoint_of_a_version_without_digests_of_files_goes_on(undisturbed, stopped):
    content = torch.load(stopped / "checkpoint.pt", weights_only=True)
    state = content["state"]
    torch.save({"format": 1, "digest": checkpoint.digest(state), "state": state}, stopped / "checkpoint.pt")
    run_words(stopped, StopAt(0))
    assert left_behind(stopped) == left_behind(undisturbed)


def test_a_folder_that_was_moved_resumes(undisturbed, tmp_path, bnexp):
    run_words(tmp_path / "run", StopAt(10))
    (tmp_path / "run").rename(tmp_path / "a b'ż")
    assert bnexp("resume", str(tmp_path / "a b'ż")).code == 0
    assert left_behind(tmp_path / "a b'ż") == left_behind(undisturbed)


def saved_arrays(path: Path, flip: int) -> None:
    """Forty vectors of two classes, of which one number may be another."""
    x = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    x[45, 2] += flip
    y = np.arange(60) % 2
    np.savez(path, x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])


def test_data_that_changed_since_a_run_stopped_are_refused(tmp_path, bnexp):
    words = ("data=npz", f"data.path={tmp_path}/x.npz", "model=mlp", "model.width=8", "batch_size=9", "steps=6")
    saved_arrays(tmp_path / "x.npz", 0)
    run_words(tmp_path / "run", StopAt(3), words)
    before = left_behind(tmp_path / "run")
    saved_arrays(tmp_path / "x.npz", 1)
    answer = bnexp("resume", str(tmp_path / "run"))
    assert answer.code == 2
    line = f"data=npz: the images or labels have changed since {tmp_path}/run began; bring them back, or train anew in"
    assert line in answer.err
    assert left_behind(tmp_path / "run") == before
    told = bnexp("evaluate", str(tmp_path / "run"))
    assert f"data=npz: not those that {tmp_path}/run was trained with" in told.err, told
    saved_arrays(tmp_path / "x.npz", 0)
    assert bnexp("resume", str(tmp_path / "run")).code == 0


@pytest.fixture(scope="module")
def long_words(tmp_path_factory):
    """A run long enough to be killed in, and what it leaves undisturbed."""
    words = (*(word for word in WORDS if not word.startswith(("epochs", "eval_every"))), "epochs=100", "eval_every=50")
    folder = tmp_path_factory.mktemp("long") / "run"
    run_words(folder, StopAt(0), words)
    return words, left_behind(folder)


@pytest.mark.slow
def test_killed_at_random_times(long_words, tmp_path):
    words, expected = long_words
    folder, chance, kills = tmp_path / "run", random.Random(0), []
    for _ in range(3):
        process = start("train", *words, f"hydra.run.dir={folder}", cwd=tmp_path)
        steps_before = written(folder)
        while process.poll() is None and written(folder) == steps_before:
            time.sleep(0.02)
        time.sleep(chance.random() * 0.15)
        process.kill()
        process.communicate()
        kills.append(process.returncode)
    assert -signal.SIGKILL in kills
    run_words(folder, StopAt(0), words)
    assert left_behind(folder) == expected


def written(folder: Path) -> int:
    path = folder / "checkpoint.pt"
    return path.stat().st_mtime_ns if path.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_go_on(long_words, tmp_path, number, code):
    words, expected = long_words
    folder = tmp_path / "run"
    process = start("train", *words, f"hydra.run.dir={folder}", cwd=tmp_path)
    while not written(folder) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, out + err
    assert "go on with: bnexp resume run" in out
    assert "Traceback" not in err
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    run_words(folder, StopAt(0), words)
    assert left_behind(folder) == expected


@pytest.mark.slow
def test_a_full_disk_costs_one_line_and_no_checkpoint(long_words, tmp_path):
    words, expected = long_words
    folder = tmp_path / "run"

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    process = start("train", *words, f"hydra.run.dir={folder}", cwd=tmp_path, preexec_fn=small_files)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, out + err
    complaints = [line for line in err.splitlines() if line.startswith("bnexp:")]
    assert len(complaints) == 1
    assert str(folder) in complaints[0]
    assert "Traceback" not in err
    assert checkpoint.load(folder)["step"] > 0
    run_words(folder, StopAt(0), words)
    assert left_behind(folder) == expected


def test_no_point_stands_twice(undisturbed):
    with (undisturbed / "metrics.csv").open() as file:
        rows = [(row["step"], row["metric"]) for row in csv.DictReader(file)]
    assert len(rows) == len(set(rows)) > 0
    for curve in points(undisturbed).values():
        steps = [step for step, _ in curve]
        assert steps == sorted(set(steps))


def test_the_last_checkpoint_holds_numbers_only(undisturbed):
    content = torch.load(undisturbed / "checkpoint.pt", weights_only=True)
    assert content["state"]["step"] == STEPS


def test_a_run_killed_before_its_first_checkpoint_starts_again_without_double_points(undisturbed, tmp_path):
    folder = tmp_path / "run"
    run_words(folder, StopAt(3))
    for path in folder.glob("checkpoint*"):
        path.unlink()
    run_words(folder, StopAt(0))
    assert left_behind(folder) == left_behind(undisturbed)


def test_a_machine_that_is_not_as_it_was_is_said(tmp_path, caplog):
    folder = tmp_path / "run"
    run_words(folder, StopAt(9))
    run = json.loads((folder / "run.json").read_text())
    del run["digest"]  # a change that is meant
    run["provenance"] |= {"torch": "2.0.0", "cpu_capability": "NO AVX"}
    run["executor"] |= {"triton": "3.6.0"}  # as on a GPU, in 16 bits
    (folder / "run.json").write_text(json.dumps(run))
    with caplog.at_level("WARNING", logger="bnexp"):
        run_words(folder, StopAt(0))
    assert "last bits may differ: torch 2.0.0 -> " in caplog.text
    assert "cpu_capability NO AVX -> " in caplog.text
    assert "triton 3.6.0 -> None" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_before_the_first_step_ends_the_program_at_once(tmp_path, number, code):
    words = ("model=mlp", "model.depth=3000", "model.width=4", "data.size=null")  # takes seconds to build
    process = start("train", *words, "hydra.run.dir=run", cwd=tmp_path)
    maps = Path(f"/proc/{process.pid}/maps")
    while "libtorch" not in maps.read_text() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(3)  # torch is being imported, or the model built
    process.send_signal(number)
    asked = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - asked < 5
    assert process.returncode in (code, -number), out + err
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "checkpoint.pt").exists()  # there was nothing to save yet


@pytest.mark.slow
def test_a_hangup_is_ignored_where_nohup_asked_for_it(long_words, tmp_path):
    words, expected = long_words
    folder = tmp_path / "run"
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    process = start("train", *words, f"hydra.run.dir={folder}", cwd=tmp_path, **ignore)
    while not written(folder) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    assert left_behind(folder) == expected


@pytest.mark.slow
def test_nobody_reading_messages_does_not_end_the_run(long_words, tmp_path):
    words, expected = long_words
    folder = tmp_path / "run"
    process = start("train", *words, f"hydra.run.dir={folder}", cwd=tmp_path)
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    process.stdout.close()
    assert left_behind(folder) == expected
