"""Whole commands: their wall seconds, where these go, and runs that are killed and resumed bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from checkout import ROOT, environment
from tqdm import tqdm

from bnexp.cli.main import main as bnexp
from bnexp.experiment.dry_run import members_that_fit
from bnexp.experiment.job import Job
from bnexp.experiment.run import run
from bnexp.runs import checkpoint
from bnexp.runs.paths import RunPaths
from bnexp.stopping import end_with_parent, ending_with_this_process
from on_gpu.exactness import composed
from on_gpu.sampling import Sampler
from on_gpu.workers import Case, Row

_LINES = 40
# Random images, of the shapes of Fashion-MNIST and CIFAR-10: for training, for testing, and one image.
IMAGES = {"grey": (24_000, 4_000, (28, 28)), "colour": (50_000, 10_000, (32, 32, 3))}
# Programs whose seconds every command pays.
IMPORTS = (
    "import torch",
    "import torch, bnexp.experiment.run, bnexp.config.compose",
    "import torch; torch.zeros(1, device='{device}')",
)
_STACK = "hydra/launcher=stacked"
_SHARING = ("hydra.launcher.stack=false", "hydra.launcher.slots_per_gpu=8")


def write(folder: Path, *, smoke: bool) -> None:
    """The images that the commands read."""
    random = np.random.default_rng(0)
    for kind, (training, testing, shape) in IMAGES.items():
        counts = {"train": 1040, "test": 64} if smoke else {"train": training, "test": testing}
        x = {f"x_{name}": random.integers(0, 256, (count, *shape), dtype=np.uint8) for name, count in counts.items()}
        y = {f"y_{name}": np.arange(count) % 10 for name, count in counts.items()}
        np.savez(folder / f"random-{kind}.npz", **x, **y)


def data(kind: str, images: Path) -> tuple[str, ...]:
    """The words that choose these images."""
    return ("data=npz", f"data.path={images}/random-{kind}.npz", "data.layout=nhwc")


# ----------------------------------------------------------------------------------------------------- processes


class Command:
    """A bnexp in another process, with a session of its own; it ends with this process."""

    def __init__(self, words: Sequence[str], place: Path, *, forked: bool) -> None:
        self._output, self.start = place / "output.txt", time.perf_counter()
        self._pid = _forked(words, place, self._output) if forked else _fresh(words, place, self._output)
        self.code: int | None = None

    def running(self) -> bool:
        """Whether the command has not ended; its exit code is known otherwise."""
        if self.code is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is None

    def seconds(self) -> float:
        """Wait for its end; returns the wall seconds.

        Raises:
            RuntimeError: it did not end well; the message has its last lines.
        """
        while self.running():
            time.sleep(0.005)
        if self.code:
            said = " | ".join(self._output.read_text(errors="replace").splitlines()[-4:])
            raise RuntimeError(f"exit code {self.code}: {said}")
        return time.perf_counter() - self.start

    def kill(self) -> None:
        """Kill it and all that it has started."""
        os.killpg(self._pid, signal.SIGKILL)
        while self.running():
            time.sleep(0.005)
        time.sleep(0.5)  # children in sessions of their own see the end of their parent


def _fresh(words: Sequence[str], place: Path, output: Path) -> int:
    tied = ending_with_this_process(signal.SIGKILL)
    command = [sys.executable, "-c", f"{tied}; import sys; from bnexp.cli.main import main; sys.exit(main())", *words]
    with output.open("w") as file:
        process = subprocess.Popen(
            command, cwd=place, env=environment(), stdout=file, stderr=file, start_new_session=True
        )
    process.returncode = 0  # this class waits for it
    return process.pid


def _forked(words: Sequence[str], place: Path, output: Path) -> int:
    """Without the seconds of importing torch; a process that uses CUDA cannot be forked."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        # The lock that it has inherited is shared: killed in a message, it would stop all later commands.
        tqdm.set_lock(threading.RLock())
        end_with_parent(signal.SIGKILL)
        os.setsid()
        os.chdir(place)
        for number in (1, 2):
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["bnexp", *words]
        code = bnexp()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def emptied(place: Path) -> Path:
    """A new folder."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place


# ----------------------------------------------------------------------------------------------------- the seconds


def timed(name: str, words: Sequence[str], *, place: Path, runs: int, forked: bool) -> list[Row]:
    """The wall seconds of a command, and what the runs' own clocks say."""
    place = emptied(place)
    seconds = Command(words, place, forked=forked).seconds()
    clocks = [json.loads(path.read_text()) for path in place.rglob("run.json")]
    row: Row = {"command": name, "seconds": seconds, "by the runs' clock": max(each["seconds"] for each in clocks)}
    done = [each for each in clocks if each["status"] == "finished"]
    row |= {"finished": len(done), "steps": max(each["steps"] for each in clocks)}
    return [row | ({} if len(done) == runs else {"fault": f"{len(done)} of {runs} runs are finished"})]


def in_process(name: str, words: Sequence[str], *, place: Path, members: int) -> list[Row]:
    """Where the seconds of a task go, by bnexp's functions, then by the ones of libraries themselves.

    The task of a stack begins with the dry run that measures its memory. What waits for the GPU counts where it waits.
    """
    (config,) = composed(words)
    place = emptied(place)
    names = [f"seed={seed}" for seed in range(members)]
    jobs = [Job(replace(config, seed=seed), place / name, name) for seed, name in enumerate(names)]
    with Sampler() as sampler:
        if members > 1 and config.device != "cpu":
            members_that_fit([job.config for job in jobs], 1)
        run(jobs, stop=lambda: False, stacked=members > 1)
    rows: list[Row] = [{"inside": name, "function": "all", "s": sampler.seconds, "s alone": ""}]
    ours = [each for each in sampler.within if _is_ours(each)]
    others = [each for each in sampler.alone if not _is_ours(each)]
    chosen = sorted(ours, key=lambda each: -sampler.within[each])[:_LINES]
    chosen += sorted(others, key=lambda each: -sampler.alone[each])[: _LINES // 2]
    return rows + [
        {"inside": name, "function": _place(*each), "s": sampler.within[each], "s alone": sampler.alone.get(each, 0.0)}
        for each in chosen
    ]


def _is_ours(where: tuple[str, int, str]) -> bool:
    return where[0].startswith(f"{ROOT}/bnexp/")


def _place(file: str, line: int, function: str) -> str:
    short = file.partition(f"{ROOT}/")[2] or "/".join(Path(file).parts[-2:])
    return f"{short}:{line} {function}"


def imports(device: str) -> list[Row]:
    """Wall seconds of fresh processes before anything is built."""
    rows: list[Row] = []
    for program in IMPORTS:
        start = time.perf_counter()
        command = [sys.executable, "-c", program.format(device=device)]
        subprocess.run(command, env=environment(), check=True, capture_output=True)
        rows.append({"program": program, "seconds": time.perf_counter() - start})
    return rows


# ------------------------------------------------------------------------------------------------------- the kill


def killed(
    name: str, members: int, net: Sequence[str], *, device: str, place: Path, steps: int, forked: bool
) -> list[Row]:
    """A run (or a stack) that is killed with SIGKILL after its second checkpoint, and resumed, against one that is not.

    Raises:
        RuntimeError: a command did not end well.
    """
    words = [*net, "norm=bn", "data=digits", "data.test_limit=64", "graph=true", f"device={device}", f"steps={steps}"]
    words += [f"checkpoint_every={steps // 8}", f"eval_every={steps // 16}", "eval_train=64", "log_every=10"]
    several = ["-m", _STACK, f"seed=range({members})"] if members > 1 else []
    at = "hydra.sweep.dir" if several else "hydra.run.dir"
    place = emptied(place)
    Command(["train", *several, *words, f"{at}={place}/whole"], place, forked=forked).seconds()
    command = Command(["train", *several, *words, f"{at}={place}/killed"], place, forked=forked)
    while command.running() and len(list((place / "killed").rglob("checkpoint.previous.pt"))) < members:
        time.sleep(0.001)
    row: Row = {"killed": name}
    if not command.running():
        return [row | {"fault": f"it ended before it could be killed (exit code {command.code})"}]
    command.kill()
    states = [checkpoint.load(path.parent) for path in (place / "killed").rglob("run.json")]
    row |= {"at steps": sorted({state["step"] for state in states if state}), "of": steps}
    Command(["resume", str(place / "killed")], place, forked=forked).seconds()
    whole, again = (sorted(path.parent for path in (place / name).rglob("run.json")) for name in ("whole", "killed"))
    faults = [
        f"{mine.name}: {what}"
        for mine, theirs in zip(again, whole, strict=True)
        for what, same in (("metrics.csv", _same_curves), ("weights", _same_weights))
        if not same(mine, theirs)
    ]
    return [row | {"bitwise equal": not faults} | ({"fault": "not the same: " + ", ".join(faults)} if faults else {})]


def _same_curves(mine: Path, theirs: Path) -> bool:
    return RunPaths(mine).metrics.read_bytes() == RunPaths(theirs).metrics.read_bytes()


def _same_weights(mine: Path, theirs: Path) -> bool:
    states = [checkpoint.load(folder) for folder in (mine, theirs)]
    return None not in states and len({checkpoint.digest(state) for state in states if state}) == 1


# ----------------------------------------------------------------------------------------------------------- cases


def command_cases(*, device: str, images: Path, smoke: bool) -> list[Case]:
    """The commands, then where their seconds go."""
    members = 2 if smoke else 64
    machine = (f"device={device}", "graph=true")
    nets = (f"model={'mlp' if smoke else 'lenet'}", "norm=bn", *data("grey", images), "batch_size=256", *machine)
    nets += ("steps=2", "eval_train=64") if smoke else ("epochs=3", "precision=tf32")
    fast = ("experiment=cifar10_fast", *data("colour", images), *machine)
    fast += ("model=mlp", "steps=2", "eval_train=64", "precision=fp32") if smoke else ()
    sweeps: dict[str, tuple[Sequence[str], int]] = {
        f"{members} LeNets, stacked": (("-m", _STACK, f"seed=range({members})", *nets), members),
        "cifar10_fast": (fast, 1),
        "16 LeNets, slots_per_gpu=8": (("-m", *_SHARING, "seed=range(16)", *nets), 16),
    }
    if smoke:
        sweeps = {"cifar10_fast": sweeps["cifar10_fast"]}
    whole = [
        Case(
            name,
            "on_gpu.commands:timed",
            {
                "name": name,
                "words": ("train", *words),
                "runs": runs,
                "forked": smoke,
                "place": images / f"whole {number}",
            },
        )
        for number, (name, (words, runs)) in enumerate(sweeps.items())
    ]
    inside = {f"{members} LeNets": (nets, members)} | ({} if smoke else {"cifar10_fast": (fast, 1)})
    imports = [Case("imports", "on_gpu.commands:imports", {"device": device})]
    return [
        *whole,
        *(imports * (not smoke)),
        *(
            Case(
                name,
                "on_gpu.commands:in_process",
                {"name": name, "words": words, "members": count, "place": images / f"inside {number}"},
                fresh=True,
            )
            for number, (name, (words, count)) in enumerate(inside.items())
        ),
    ]


def kill_cases(*, device: str, images: Path, smoke: bool) -> list[Case]:
    """One run, and stacks of four, in 16 bits too."""
    lenet, resnet = ("model=lenet",), ("model=resnet", "model.depth=8", "data.size=16", "precision=bf16")
    small = ("model=mlp", "model.width=8", "data.size=null")
    cases = {"one small run": (1, small)}
    if not smoke:
        cases = {"one run": (1, lenet), "4 stacked": (4, lenet), "4 stacked in bf16": (4, resnet)}
    return [
        Case(
            f"killed, {name}",
            "on_gpu.commands:killed",
            {"name": name, "members": members, "net": (*net, "deterministic=true"), "steps": 160 if smoke else 4000}
            | {"device": device, "place": images / name, "forked": smoke},
            limit=150,
        )
        for name, (members, net) in cases.items()
    ]
