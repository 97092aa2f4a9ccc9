from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.io_wrapper import IsTensorFlowEventsFile

from bnexp.runs.storage import held, in_use, make_free, require_files, write_atomically

OLDER, OLD, NEW = b"older", b"old" * 1000, b"new" * 1_000_000

# Writes, and ends without any clean-up just before or after the n-th call of one function; exit 9 says that it did.
DYING = """
import io, os, pathlib, sys
from bnexp.runs.storage import write_atomically

function, number, moment, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3], pathlib.Path(sys.argv[4])
calls = 0

def dying(real):
    def call(*args, **keywords):
        global calls
        calls += 1
        if calls == number and moment == "before":
            os._exit(9)
        answer = real(*args, **keywords)
        if calls == number and moment == "after":
            os._exit(9)
        return answer
    return call

def half(file, data):
    os.write(file.fileno(), data[:len(data) // 2])
    os._exit(9)

class File(io.BufferedWriter):
    write = half

if function == "fsync":
    os.fsync = dying(os.fsync)
elif function == "write":
    pathlib.Path.open = lambda path, mode: File(io.FileIO(path, mode))
else:
    pathlib.Path.replace = dying(pathlib.Path.replace)
write_atomically(folder / "file", b"new" * 1_000_000, keep=folder / "kept")
"""
UNTOUCHED, BETWEEN, DONE = {"file": OLD, "kept": OLDER}, {"kept": OLD}, {"file": NEW, "kept": OLD}
KILLS = [
    ("write", 1, "within", UNTOUCHED),
    ("fsync", 1, "before", UNTOUCHED),
    ("fsync", 1, "after", UNTOUCHED),
    ("replace", 1, "before", UNTOUCHED),
    ("replace", 1, "after", BETWEEN),
    ("replace", 2, "before", BETWEEN),
    ("replace", 2, "after", DONE),
    ("fsync", 2, "before", DONE),
    ("fsync", 2, "after", DONE),
]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Holds a file in its second version, and the first one beside it."""
    (tmp_path / "file").write_bytes(OLD)
    (tmp_path / "kept").write_bytes(OLDER)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def python(program: str, *arguments: object, **options) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], text=True, **options)


# ------------------------------------------------------------------------------------------------------------- writing


def test_a_temporary_file_that_is_a_link_is_not_followed(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "folder" / "run.json"
    path.parent.mkdir()
    victim.write_text("precious")
    path.with_name("run.json.tmp").symlink_to(victim)
    write_atomically(path, b"new")
    assert (victim.read_text(), path.read_text(), path.is_symlink()) == ("precious", "new", False)


def test_a_folder_with_a_link_in_it_is_not_written_into(tmp_path):
    (tmp_path / "train.log").symlink_to(tmp_path.parent / "elsewhere.log")
    with pytest.raises(ValueError, match=r"train\.log: not a regular file; remove it"):
        require_files(tmp_path)


def test_a_file_is_made(tmp_path):
    write_atomically(tmp_path / "file", NEW)
    assert contents(tmp_path) == {"file": NEW}


def test_a_file_is_replaced_and_its_old_content_kept_where_asked(folder):
    write_atomically(folder / "file", NEW, keep=folder / "kept")
    assert contents(folder) == {"file": NEW, "kept": OLD}
    write_atomically(folder / "file", memoryview(OLDER))
    assert contents(folder) == {"file": OLDER, "kept": OLD}


def test_with_nothing_to_keep_nothing_is_kept(tmp_path):
    write_atomically(tmp_path / "file", NEW, keep=tmp_path / "kept")
    assert contents(tmp_path) == {"file": NEW}


def test_the_content_is_on_the_disk_before_its_name_and_the_name_before_the_call_returns(folder, monkeypatch):
    calls, real_sync, real_replace = [], os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        calls.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        real_sync(descriptor)

    def replace(path: Path, target: Path) -> Path:
        calls.append(f"{path.name} to {target.name}")
        return real_replace(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    write_atomically(folder / "file", NEW, keep=folder / "kept")
    assert calls == ["sync file", "file to kept", "file.tmp to file", "sync folder"]


@pytest.mark.parametrize(("function", "number", "moment", "left"), KILLS)
def test_whenever_the_process_is_killed_the_old_or_the_new_content_is_whole(folder, function, number, moment, left):
    assert python(DYING, function, number, moment, folder).wait() == 9
    assert {name: data for name, data in contents(folder).items() if name != "file.tmp"} == left
    write_atomically(folder / "file", NEW, keep=folder / "kept")
    assert contents(folder)["file"] == NEW
    assert not (folder / "file.tmp").exists()


class Trouble:
    """The n-th call of a function fails as on a full or broken disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, number: int) -> None:
        self.real, self.number, self.calls = getattr(owner, name), number, 0
        monkeypatch.setattr(owner, name, lambda *args: self(*args))

    def __call__(self, *args: object) -> object:
        self.calls += 1
        if self.calls == self.number:
            raise OSError(28, "No space left on device")
        return self.real(*args)


@pytest.mark.parametrize(
    ("owner", "name", "number", "left"),
    [
        (os, "fsync", 1, UNTOUCHED),
        (Path, "replace", 1, UNTOUCHED),
        (Path, "replace", 2, BETWEEN),
        (os, "fsync", 2, DONE),
    ],
)
def test_an_error_of_the_disk_is_raised_and_leaves_no_temporary_file(folder, monkeypatch, owner, name, number, left):
    with monkeypatch.context() as patch:
        trouble = Trouble(patch, owner, name, number)
        with pytest.raises(OSError, match="No space left on device"):
            write_atomically(folder / "file", NEW, keep=folder / "kept")
        assert trouble.calls >= number
    assert contents(folder) == left
    write_atomically(folder / "file", NEW, keep=folder / "kept")
    assert contents(folder) == {"file": NEW, "kept": left.get("file", OLD)}


FULL = """
import resource, sys, pathlib
from bnexp.runs.storage import write_atomically

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_atomically(pathlib.Path(sys.argv[1]) / "file", b"x" * 3_000_000)
except OSError as error:
    print(error.strerror)
"""


def test_a_file_that_the_disk_cannot_hold_leaves_the_old_one(folder):
    process = python(FULL, folder, stdout=subprocess.PIPE)
    out, _ = process.communicate()
    assert out == "File too large\n"
    assert contents(folder) == UNTOUCHED


# ------------------------------------------------------------------------------------------------------------- holding

HOLDING = """
import sys, time, pathlib
from bnexp.runs.storage import held

with held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_by_one_at_a_time_and_freed_at_the_end_of_the_block(tmp_path):
    message = f"^{tmp_path}: in use by another bnexp process; wait for it or stop it$"
    with held(tmp_path):
        with pytest.raises(ValueError, match=message), held(tmp_path):
            pytest.fail("held twice")
        with pytest.raises(ValueError, match=message), held(tmp_path):
            pytest.fail("freed by the refusal")
    with held(tmp_path):
        pass


def test_a_folder_is_freed_after_an_exception(tmp_path):
    with pytest.raises(KeyError), held(tmp_path):
        raise KeyError
    with held(tmp_path):
        pass


def test_a_folder_is_freed_when_its_holder_is_killed(tmp_path):
    holder = python(HOLDING, tmp_path, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="in use by another bnexp process"), held(tmp_path):
            pytest.fail("held twice")
    finally:
        holder.kill()
        holder.communicate()
    with held(tmp_path):
        pass


def test_somebody_who_looks_for_a_moment_refuses_nobody(tmp_path):
    looking = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_EX)
    threading.Timer(0.01, os.close, [looking]).start()
    with held(tmp_path):
        assert in_use(tmp_path)
    assert not in_use(tmp_path)


def test_holding_leaves_nothing_in_the_folder(tmp_path):
    with held(tmp_path):
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_whoever_comes_later_makes_the_next_folder(tmp_path):
    (tmp_path / "day" / "run-3").mkdir(parents=True)
    made = [make_free(tmp_path / "day" / "run").name for _ in range(3)]
    assert made == ["run", "run-2", "run-4"]


def test_tensorboard_never_sees_a_half_written_file(tmp_path, monkeypatch):
    seen = []
    replace = Path.replace

    def look(path: Path, target: Path) -> Path:
        seen.append(path.name)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", look)
    write_atomically(tmp_path / "events.out.tfevents.1.here.2", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["events.out.tfevents.1.here.2"]
    assert len(seen) == 1
    assert not IsTensorFlowEventsFile(seen[0])
