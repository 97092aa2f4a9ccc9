"""Faults on purpose: what bnexp promises of its run folders and of wrong input, tried at random and counted.

    uv run python scripts/faults.py --seed 0 --minutes 5

Every promise gets an equal share of the time. The table says how often it was tried, and lists each time it was broken
with what was done; the exit code is 1 then. docs/reliability.md names the promises.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bnexp.cli.main import main as bnexp
from bnexp.config.schema import TrainConfig, flat, to_dict
from bnexp.runs import checkpoint
from bnexp.runs.paths import RunPaths

_STEPS = 60
_SMALL = ("model=mlp", "model.depth=1", "model.width=8", "data.train_limit=200", "data.size=null", "device=cpu")
_RUN = ("train", *_SMALL, "norm=bn", f"steps={_STEPS}", "checkpoint_every=10", "eval_every=10", "log_every=5")
_VALUES = (
    *("", "null", "nan", "inf", "-1", "0", "1e400", "9" * 400, "1.5", "true", "abc", "[1", "{a: 1}", "[]", "$x", "a=b"),
    *("../..", "${seed}", "é", "'", '"', "\\", "a,b", "-", "2**3", "0x10", "1_000", " ", "\t"),
)
# Settings of one run that choose a device or make it long; and names that lead out of the working folder.
_LEFT_ALONE = ("epochs", "steps", "threads", "compile", "device", "imports")


@dataclass
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass
class Promise:
    """One promise, how often it was tried, and how it was broken."""

    text: str
    trial: Callable[[random.Random, Path], str | None]
    tried: int = 0
    broken: list[str] = field(default_factory=list)


def run(
    *words: str, cwd: Path, kill_when: Callable[[float], bool] | None = None, file_size: int | None = None
) -> Answer:
    """A command in a forked process.

    Args:
        words: of the command line.
        cwd: its working folder.
        kill_when: asked with the seconds that have passed; True kills it with SIGKILL.
        file_size: bytes beyond which writing to a file fails, as on a full disk.
    """
    out, err = cwd / ".out", cwd / ".err"
    pid = os.fork()
    if pid == 0:
        _child(words, cwd, out, err, file_size)
    start = time.monotonic()
    while kill_when and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if kill_when(time.monotonic() - start):
            os.kill(pid, signal.SIGKILL)
            break
        time.sleep(0.001)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    answer = Answer(code, *(path.read_text(errors="replace") if path.exists() else "" for path in (out, err)))
    for path in (out, err):
        path.unlink(missing_ok=True)
    return answer


def _child(words: tuple[str, ...], cwd: Path, out: Path, err: Path, file_size: int | None) -> None:
    code = 1
    try:
        os.chdir(cwd)
        for path, number in ((out, 1), (err, 2)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        if file_size is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        sys.argv = ["bnexp", *words]
        code = bnexp()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def fault_of(answer: Answer, allowed: tuple[int, ...]) -> str | None:
    """What is wrong with an answer: a traceback, several lines of complaint, or an exit code that says nothing."""
    if "Traceback" in answer.err or "Traceback" in answer.out:
        return f"traceback: {answer.err[-300:]}"
    if answer.code not in allowed:
        return f"exit code {answer.code}: {answer.err[-300:]}"
    if answer.code == 2 and answer.err.count("\n") != 1:
        return f"not one line: {answer.err[-300:]}"
    return None


def same(first: Path, second: Path) -> bool:
    """Whether two runs have the same curves and the same last weights."""
    curves = [RunPaths(folder).metrics.read_bytes() for folder in (first, second)]
    states = [checkpoint.digest(checkpoint.load(folder)) for folder in (first, second)]
    return curves[0] == curves[1] and states[0] == states[1]


def killed(source: random.Random, place: Path) -> str | None:
    """Kill a training at a random moment, perhaps again while it resumes, and let it come to its end."""
    whole = float((place / "seconds").read_text(encoding="utf-8"))
    after = source.uniform(0, whole)
    run(*_RUN, "hydra.run.dir=r", cwd=place, kill_when=lambda passed: passed > after)
    if not RunPaths(place / "r").run_json.exists():
        answer = run(*_RUN, "hydra.run.dir=r", cwd=place)
    else:
        if source.random() < 0.3:
            again = source.uniform(0, whole)
            run("resume", "r", cwd=place, kill_when=lambda passed: passed > again)
        answer = run("resume", "r", cwd=place)
    fault = fault_of(answer, (0,))
    return fault or (None if same(place / "r", place / "whole") else f"killed after {after:.2f} s: another result")


def disk_full(source: random.Random, place: Path) -> str | None:
    """Let writing fail beyond a random size of files, then resume with room on the disk."""
    size = int(10 ** source.uniform(1, 5))
    fault = fault_of(run(*_RUN, "hydra.run.dir=r", cwd=place, file_size=size), (0, 1, 2))
    if fault:
        return f"files of at most {size} bytes: {fault}"
    again = ("resume", "r") if RunPaths(place / "r").run_json.exists() else (*_RUN, "hydra.run.dir=r")
    fault = fault_of(run(*again, cwd=place), (0,))
    return fault or (None if same(place / "r", place / "whole") else f"files of at most {size} bytes: another result")


def damaged(source: random.Random, place: Path) -> str | None:
    """Damage a file of a stopped run, then resume, evaluate and compare."""
    shutil.copytree(place / "stopped", place / "r")
    file = source.choice(sorted(path for path in (place / "r").rglob("*") if path.is_file()))
    what = _damage(source, file)
    for words in (("evaluate", "r"), ("compare", "r", "whole"), ("resume", "r")):
        answer = run(*words, cwd=place)
        if fault := fault_of(answer, (0, 2)):
            return f"{file.name} {what}: {words[0]}: {fault}"
    if answer.code == 0 and file.name != "train.log" and not same(place / "r", place / "whole"):
        return f"{file.name} {what}: resumed to another result without a word"
    return None


def _damage(source: random.Random, file: Path) -> str:
    content = bytearray(file.read_bytes())
    at = source.randrange(len(content) or 1)
    kind = source.choice(["cut", "flipped", "emptied", "removed", "overwritten"])
    if kind == "removed":
        file.unlink()
    elif kind == "flipped" and content:
        content[at] ^= 1 << source.randrange(8)
        file.write_bytes(content)
    else:
        changed = {"cut": content[:at], "emptied": b"", "overwritten": source.randbytes(len(content))}
        file.write_bytes(changed.get(kind, b""))
    return f"{kind} at {at}"


def misspelt(source: random.Random, place: Path) -> str | None:
    """Give a setting a strange value: it is taken, or refused in one line with nothing left behind."""
    before = set(place.iterdir())
    keys = [key for key in flat(to_dict(TrainConfig())) if key not in _LEFT_ALONE]
    key = source.choice(
        [*keys, "norm.eps", "optim.lr", "data.size", "model.width", "init.gain", "norm.name", "nonsense"]
    )
    word = f"{key}={source.choice(_VALUES)}"
    answer = run("train", *_SMALL, "norm=bn", "epochs=1", word, "hydra.run.dir=r", cwd=place)
    if fault := fault_of(answer, (0, 2)):
        return f"{word}: {fault}"
    if answer.code == 2 and set(place.iterdir()) != before:
        return f"{word}: refused, but something was left behind"
    return None


def received(source: random.Random, place: Path) -> str | None:
    """Open a run folder that names a module: nothing of it may run."""
    shutil.copytree(place / "stopped", place / "r")
    mark, name = place / "it ran", source.choice(["payload", "r.payload", "r", "sub.payload"])
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
    for folder in (place, place / "r", place / "r" / "sub"):
        folder.mkdir(exist_ok=True)
        (folder / "payload.py").write_text(code, encoding="utf-8")
    path = RunPaths(place / "r").run_json
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts["config"]["imports"] = [name]
    del facts["digest"]  # whoever sends a folder can compute it
    path.write_text(json.dumps(facts), encoding="utf-8")
    words = source.choice([("evaluate", "r"), ("resume", "r"), ("compare", "r")])
    fault = fault_of(run(*words, cwd=place), (0, 2))
    (place / "payload.py").unlink()
    return f"imports={name}: {words[0]} ran it" if mark.exists() else fault


def promises() -> list[Promise]:
    """All of them."""
    return [
        Promise("a killed run, resumed, has the results of an undisturbed one", killed),
        Promise("a run that met a full disk, resumed, has the results of an undisturbed one", disk_full),
        Promise("a damaged file is answered in one line, or changes nothing", damaged),
        Promise("wrong input is answered in one line and leaves nothing behind", misspelt),
        Promise("a received folder runs no code", received),
    ]


@contextmanager
def workplace(prepared: Path) -> Iterator[Path]:
    """A fresh working folder with an undisturbed run and a stopped one."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(prepared, folder, dirs_exist_ok=True)
        yield Path(folder)


def prepare(folder: Path) -> None:
    """Train the run that all others are compared with, and one that is stopped in the middle."""
    start = time.monotonic()
    assert run(*_RUN, "hydra.run.dir=whole", cwd=folder).code == 0
    (folder / "seconds").write_text(str(time.monotonic() - start), encoding="utf-8")
    previous = RunPaths(folder / "stopped").previous
    run(*_RUN, "hydra.run.dir=stopped", cwd=folder, kill_when=lambda _: previous.exists())
    assert checkpoint.load(folder / "stopped")["step"] < _STEPS


def main() -> int:
    """Try all promises."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--minutes", type=float, default=5.0)
    given = options.parse_args()
    torch.set_num_threads(1)
    source, found = random.Random(given.seed), promises()
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        end = time.monotonic() + 60 * given.minutes
        while time.monotonic() < end:
            for promise in found:
                with workplace(Path(folder)) as place:
                    broken = promise.trial(source, place)
                promise.tried += 1
                promise.broken += [broken] if broken else []
    print(f"seed {given.seed}, {given.minutes:g} minutes")
    for promise in found:
        print(f"{promise.tried:5} tried {len(promise.broken):4} broken  {promise.text}")
        for broken in promise.broken:
            print(f"      {' '.join(broken.split())[:300]}")
    return int(any(promise.broken for promise in found))


if __name__ == "__main__":
    sys.exit(main())
