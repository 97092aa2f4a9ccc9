"""Faults of the disk before a run begins."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import SMALL_RUN, composed, start

from bnexp import __version__
from bnexp.config.checks import RunFailedError
from bnexp.config.compose import plain
from bnexp.experiment import run as runs
from bnexp.experiment.folder import StorageFailedError, is_storage, open_folder
from bnexp.experiment.job import Job
from bnexp.runs import collect, run_json
from bnexp.runs.paths import RunPaths, SweepPaths


def test_only_the_disk_and_the_runs_own_files_count_as_storage(tmp_path):
    def error(number: int, path: Path | None) -> OSError:
        return OSError(number, "words", path and str(path))

    assert is_storage(error(errno.ENOSPC, None))
    assert is_storage(error(errno.EACCES, tmp_path / "run" / "metrics.csv"), tmp_path / "run")
    assert not is_storage(error(errno.ENOENT, Path("/nowhere/table.txt")), tmp_path / "run")
    assert not is_storage(ValueError("words"))


@pytest.mark.parametrize(
    "fault", [FileNotFoundError(errno.ENOENT, "No such file or directory", "/nowhere/table.txt"), SystemExit(0)]
)
def test_a_fault_of_a_norm_fails_its_run_alone(tmp_path, monkeypatch, fault):
    def train(*_: object, **__: object) -> Iterator[object]:
        raise fault

    monkeypatch.setattr(runs, "train", train)
    job = Job(plain(composed(*SMALL_RUN)), tmp_path / "run", "test")
    with pytest.raises(RunFailedError, match=type(fault).__name__) as found:
        runs.run([job], stop=lambda: False)
    assert not isinstance(found.value, StorageFailedError)
    assert run_json.read(tmp_path / "run")["status"] == "failed"


@pytest.mark.slow
def test_a_disk_that_is_full_before_the_start_leaves_no_folder(tmp_path):
    def no_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    process = start("train", *SMALL_RUN, "hydra.run.dir=run", cwd=tmp_path, preexec_fn=no_files)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, out + err
    assert err == f"bnexp: {tmp_path}/run: File too large; what was saved is kept\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_folder_that_was_there_stays(tmp_path):
    def no_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    process = start("train", *SMALL_RUN, "hydra.run.dir=run", cwd=tmp_path, preexec_fn=no_files)
    process.communicate(timeout=120)
    assert process.returncode == 1
    assert (tmp_path / "run" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("known", [False, True])
def test_a_signal_before_a_new_folder_is_known_leaves_none(tmp_path, known):
    job = Job(plain(composed(*SMALL_RUN)), tmp_path / "run", "run")

    def begin():
        with open_folder(job, []) as folder:
            assert RunPaths(folder).train_log.exists()
            if known:
                RunPaths(folder).run_json.touch()
            raise SystemExit(130)

    with pytest.raises(SystemExit):
        begin()
    assert job.folder.exists() == known


@pytest.mark.parametrize("name", ["run.json", "checkpoint.pt", "metrics.csv", "timing.csv", "train.log"])
def test_a_pipe_in_the_place_of_a_file_is_refused(bnexp, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert bnexp("train", *SMALL_RUN, "checkpoint_every=7", "hydra.run.dir=run").code == 0
    paths = RunPaths(tmp_path / "run")
    facts = json.loads(paths.run_json.read_text())
    del facts["digest"]  # as an older version wrote it
    paths.run_json.write_text(json.dumps(facts | {"status": "interrupted"}))
    (paths.folder / name).unlink()
    os.mkfifo(paths.folder / name)
    answer = bnexp("resume", "run")
    assert answer.code == 2
    assert f"run/{name}: " in answer.err
    assert "not a regular file" in answer.err
    assert answer.err.count("\n") == 1
    assert bnexp("compare", ".").code in (0, 2)


def test_a_pipe_in_the_place_of_a_plan_is_refused(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo(SweepPaths(tmp_path).sweep_json)
    answer = bnexp("resume", ".")
    assert answer.code == 2
    assert answer.err.startswith("bnexp: sweep.json: cannot be read (not a regular file")


def test_a_run_that_has_lost_its_checkpoints_says_that_it_begins_again(tmp_path, caplog):
    job, answers = Job(plain(composed(*SMALL_RUN)), tmp_path / "run", "test"), iter([False] * 3)
    runs.run([job], stop=lambda: next(answers, True))
    said = f"{job.folder}: was at step {run_json.read(job.folder)['step']} and has no checkpoint any more"
    assert said not in caplog.text
    for path in RunPaths(job.folder).checkpoints:
        path.unlink()
    runs.run([job], stop=lambda: False)
    assert f"{said}; trains from step 0" in caplog.text
    assert run_json.read(job.folder)["status"] == "finished"


def test_a_run_that_goes_on_with_another_version_says_so(tmp_path, caplog):
    job, answers = Job(plain(composed(*SMALL_RUN)), tmp_path / "run", "test"), iter([False] * 3)
    runs.run([job], stop=lambda: next(answers, True))
    facts = json.loads(RunPaths(job.folder).run_json.read_text())
    facts["provenance"]["bnexp"] = "0.0.1"
    del facts["digest"]
    RunPaths(job.folder).run_json.write_text(json.dumps(facts))
    runs.run([job], stop=lambda: False)
    assert (
        f"{job.folder}: changed since the run began, last bits may differ: bnexp 0.0.1 -> {__version__}" in caplog.text
    )


def test_a_folder_that_cannot_be_opened_is_read_all_the_same(tmp_path, monkeypatch):
    job, answers = Job(plain(composed(*SMALL_RUN)), tmp_path / "run", "test"), iter([False] * 3)
    runs.run([job], stop=lambda: next(answers, True))
    facts = json.loads(RunPaths(job.folder).run_json.read_text()) | {"status": "running"}
    del facts["digest"]
    RunPaths(job.folder).run_json.write_text(json.dumps(facts))
    monkeypatch.setattr(collect, "in_use", lambda folder: os.open(tmp_path / "nowhere", os.O_RDONLY))
    assert collect.read(job.folder).status == "running"
