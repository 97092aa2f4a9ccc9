"""How fast bnexp trains and starts: one table a subject, and all figures in one file.

    python scripts/bench.py [--cases mlp,lenet] [--norms none,bn] [--members 4,16] [--rounds 15]
                            [--only training,growth,startup] [--json benchmarks/bench.json]

Training: four networks and four norms, on one thread of the CPU, and on a GPU (fp32 and bf16) where there is one.

  bare        torch's own layers and torch.optim.SGD on one batch that stays in memory: the limit of eager execution
  fresh       the same on a new batch in each step, whose images are gathered from memory
  bnexp       the whole loop: new batches, metrics, divergence check, a record at the end of each round
  d2l         the loop of Dive into Deep Learning: a DataLoader, metrics read in every step
  lightning   PyTorch Lightning's Trainer and a DataLoader (if the extra ``bench`` is installed)
  forward     torch's own layers in evaluation mode on the same images, against bnexp's evaluation
  graph       bnexp's loop with graph=true, on a GPU; the others have graph=false
  members     populations, in images of all members: 4 to 256 on a GPU (stacked, with graph=true, against one model with
              it), on a CPU only those asked for (stacked, and one by one as they are trained there); one after another,
              and those that the GPU has no memory for are named

The ways take turns, and a ratio is that of times of the same round: processor time on a CPU, wall time on a GPU. The
figures are medians with quartiles. The images are random, of the shape of Fashion-MNIST's and CIFAR-10's, so that
nothing need be downloaded; configs are composed from the yaml files. Growth: bnexp's step by width, depth and batch
size. Startup: wall times of fresh processes, and the peak memory of one that trains a step.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import competitors
import numpy as np
import torch
from checkout import ROOT, environment
from competitors import Way, timed

from bnexp.config.compose import JobComposer
from bnexp.config.schema import TrainConfig, from_dict
from bnexp.config.shipped import configs_folder
from bnexp.experiment.bench import quartiles
from bnexp.experiment.choices import bind
from bnexp.experiment.dry_run import forget, records
from bnexp.experiment.setup import Setup, build, build_model
from bnexp.runs.provenance import provenance
from bnexp.training.evaluation import evaluate

# Words, batch size and kind of images.
CASES = {
    "mlp": (("model=mlp", "model.depth=3", "model.width=100"), 64, "grey"),
    "lenet": (("model=lenet",), 256, "grey"),
    "resnet20": (("model=resnet", "model.depth=20"), 128, "colour"),
    "resnet18": (("model=resnet18",), 32, "colour"),
}
IMAGES = {"grey": (60_000, 28, 28), "colour": (4096, 32, 32, 3)}
NORMS = ("none", "bn", "ln", "gn")
GPU_MEMBERS = (4, 16, 64, 256)
GROWTH = {
    "model.width": (50, 100, 200, 400, 800, 1600),
    "model.depth": (1, 3, 6, 12, 24),
    "batch_size": (8, 32, 64, 128, 512, 2048),
}
# Under this name stand the sizes of populations that a GPU has no memory for.
LEFT = "members that do not fit"
# A round of one way lasts so long, or a single step where that is longer.
SECONDS, GROWTH_STEPS, MOST_CALLS = 0.2, 20, 1000
FIRST_STEP = """
import sys
from bnexp.config.compose import JobComposer
from bnexp.config.schema import from_dict
from bnexp.config.shipped import configs_folder
from bnexp.experiment.dry_run import records
from bnexp.experiment.setup import build
config = from_dict(JobComposer(configs_folder())([sys.argv[1:]])[0])
next(records(build([config], stacked=False), config.batch_size, every=1, count=1))
"""
# getrusage would tell the peak of the process that started it, if that is higher.
PEAK = """
import atexit
atexit.register(lambda: print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))))
"""
PROGRAM = "import sys; from bnexp.cli.main import main; sys.exit(main())"


def write_images(kind: str, folder: Path, most: int | None = None) -> competitors.Images:
    """Random images of a shape, as a file for bnexp and as a data set for the others."""
    random = np.random.default_rng(0)
    count, *shape = IMAGES[kind]
    count = min(count, most or count)
    x, y = random.integers(0, 256, (count, *shape), dtype=np.uint8), np.arange(count) % 10
    few = slice(0, count // 8)
    np.savez(folder / f"{kind}.npz", x_train=x, y_train=y, x_test=255 - x[few], y_test=y[few])
    return competitors.Images(x, y)


def config_of(case: str, norm: str, folder: Path, *more: str) -> TrainConfig:
    """The config of ``bnexp train`` with plain SGD, or with an optimizer that the further words name."""
    words, batch_size, kind = CASES[case]
    data = ("data=npz", f"data.path={folder / kind}.npz", "data.layout=nhwc", "data.validation=0")
    plain = () if any(word.startswith("optim=") for word in more) else ("optim.momentum=0",)
    rest = (f"norm={norm}", f"batch_size={batch_size}", *plain, "threads=1", *more)
    return from_dict(JobComposer(configs_folder())([(*words, *data, *rest)])[0])


def population(config: TrainConfig, members: int = 1, *, stacked: bool = False) -> Setup:
    """So many members of one config."""
    return build([replace(config, seed=seed) for seed in range(members)], stacked=stacked)


def bnexp_loop(setup: Setup, steps: int) -> Way:
    """The ordinary loop, with a record at the end."""
    loop = records(setup, setup.config.batch_size, every=steps, count=MOST_CALLS)
    return timed(loop.__next__, setup.population.theta_MP.device)


# What trains or evaluates, and the images of a call.
Ways = dict[str, tuple[Way, int]]


def evaluations(net: torch.nn.Module, setup: Setup, images: int) -> Ways:
    """About so many images in batches of the evaluation's size at most: through torch's own layers, and evaluated."""
    size = min(setup.eval_batch_size, len(setup.data.train), max(images, setup.config.batch_size))
    split = setup.data.train.mixed(-(-images // size) * size)
    ways = {
        "forward": competitors.forward(net, split.x, size, setup.config.precision),
        "evaluation": timed(lambda: evaluate(setup.population, split, size), setup.population.theta_MP.device),
    }
    return {name: (partial(_while_measuring, setup, way), len(split)) for name, way in ways.items()}


def _while_measuring(setup: Setup, way: Way) -> float:
    """The seconds of a way, in the formats and with the kernels of a run's evaluations."""
    with setup.measuring():
        return way()


def ways_of(config: TrainConfig, images: competitors.Images) -> tuple[Ways, int]:
    """All ways of one model, and the steps of a call."""
    setup, precision, size = population(config), config.precision, config.batch_size
    device = setup.population.theta_MP.device
    x, y = (batch[0] for batch in setup.training.batches(0))

    def net() -> torch.nn.Module:
        return competitors.plain(build_model(config, bind(config), setup.data, 1)).to(device)

    once = competitors.bare(net(), x, y, 1, precision)
    steps = max(1, min(round(SECONDS / min(once() for _ in range(5))), len(setup.data.train) // size))
    ways = {
        "bare": competitors.bare(net(), x, y, steps, precision),
        "fresh": competitors.fresh(net(), setup.data.train.x, setup.data.train.y, size, steps, precision),
        "bnexp": bnexp_loop(setup, steps),
        "d2l": competitors.d2l(net(), images, size, steps, device, precision),
    }
    if importlib.util.find_spec("lightning"):
        ways["lightning"] = competitors.lightning(net(), images, size, steps, device, precision)
    single = {name: (way, steps * size) for name, way in ways.items()} | evaluations(net(), setup, steps * size)
    if device.type == "cuda":
        single["graph"] = (bnexp_loop(population(replace(config, graph=True)), steps), steps * size)
    return single, steps


def several(config: TrainConfig, members: int, steps: int) -> Ways:
    """The ways of a population."""
    on_gpu, images = config.device != "cpu", members * steps * config.batch_size
    executors = {"stacked": True} if on_gpu else {"one by one": False, "stacked": True}
    quickest = replace(config, graph=on_gpu)
    return {
        f"x{members} {how}": (bnexp_loop(population(quickest, members, stacked=stacked), steps), images)
        for how, stacked in executors.items()
    }


def turns(ways: Mapping[str, Way], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round; the ways take turns, so that a slow spell of the machine hits all of them."""
    for way in ways.values():
        way()  # warm up
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(way())
    return seconds


def in_turns(ways: Ways, rounds: int) -> dict[str, list[float]]:
    """Seconds an image of each way in each round."""
    seconds = turns({name: way for name, (way, _) in ways.items()}, rounds)
    return {name: [time / images for time in seconds[name]] for name, (_, images) in ways.items()}


def over(each: Mapping[str, list[float]], way: str, other: str) -> dict[str, Any]:
    """How many times the rate of another way, in rounds of the same time."""
    return spread([there / own for own, there in zip(each[way], each[other], strict=True)])


def spread(values: Sequence[float]) -> dict[str, Any]:
    """The median and the quartiles."""
    return {"median": statistics.median(values), "quartiles": quartiles(values)}


def training(config: TrainConfig, images: competitors.Images, members: Sequence[int], rounds: int) -> dict[str, Any]:
    """Rates, and ratios of rates: bnexp's to the others', the evaluation's to a forward pass, a population's to one."""
    ways, steps = ways_of(config, images)
    each = in_turns(ways, rounds)
    rates = {name: spread([1 / time for time in times]) for name, times in each.items()}
    pairs = {other: ("bnexp", other) for other in ("bare", "fresh", "d2l", "lightning") if other in ways}
    pairs |= {"forward": ("evaluation", "forward")} | ({"graph": ("graph", "bnexp")} if "graph" in ways else {})
    ratios = {name: over(each, *pair) for name, pair in pairs.items()}
    one, left = "graph" if "graph" in ways else "bnexp", []
    for n in members:
        forget()  # the population before
        try:
            more = in_turns({one: ways[one], **several(config, n, steps)}, rounds)
        except torch.OutOfMemoryError:
            left.append(n)
            continue
        rates |= {name: spread([1 / time for time in times]) for name, times in more.items() if name != one}
        ratios |= {name: over(more, name, one) for name in more if name != one}
    found = {"batch_size": config.batch_size, "steps": steps, "images_per_s": rates, "ratio": ratios}
    return found | ({LEFT: left} if left else {})


def growth(rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of bnexp's step by one setting, the others those of the MLP of ``CASES``."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        write_images("grey", Path(folder), most=4096)
        for setting, values in GROWTH.items():
            configs = {
                value: config_of("mlp", "bn", Path(folder), "device=cpu", f"{setting}={value}") for value in values
            }
            ways = {str(value): bnexp_loop(population(config), GROWTH_STEPS) for value, config in configs.items()}
            for value, times in turns(ways, rounds).items():
                ms = spread([1000 * time / GROWTH_STEPS for time in times])
                found.append({"setting": setting, "value": value, "ms": ms})
    return found


def startup(rounds: int) -> dict[str, dict[str, Any]]:
    """Wall seconds of fresh processes, and the peak memory of each."""
    step = (FIRST_STEP, "device=cpu", "norm=bn", "model.depth=3", "model.width=100", "model=mlp")
    commands = {
        "bnexp --help": (PROGRAM, "--help"),
        "import torch": ("import torch",),
        "import torch and what a run uses": ("import torch, bnexp.experiment.run, bnexp.config.compose",),
        "first training step": step,
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    memory: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, words in commands.items():
            took, peak = fresh(words)
            seconds[name].append(took)
            memory[name].append(peak)
    return {name: {"s": spread(seconds[name]), "peak_mib": statistics.median(memory[name])} for name in commands}


def fresh(words: Sequence[str]) -> tuple[float, float]:
    """Wall seconds and peak resident MiB (on Linux) of a new Python process."""
    code, *rest = words
    command, users = [sys.executable, "-c", PEAK + code, *rest], environment(OMP_NUM_THREADS="1")
    start = time.perf_counter()
    ended = subprocess.run(command, env=users, capture_output=True, check=True)
    return time.perf_counter() - start, float(ended.stdout.split()[-1]) / 2**10


def cell(measured: Mapping[str, Any] | None, digits: int = 2) -> str:
    """Median (quartiles)."""
    if measured is None:
        return "-"
    low, high = measured["quartiles"]
    return f"{measured['median']:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)) + "\n"


def training_tables(found: Sequence[Mapping[str, Any]]) -> str:
    """Single models, then populations."""
    place = [[each[key] for key in ("case", "norm", "device", "precision")] for each in found]
    ratios = ("bare", "fresh", "d2l", "lightning", "forward", "graph")
    single = [
        [
            *where,
            str(each["batch_size"]),
            cell(each["images_per_s"]["bnexp"], 0),
            *(cell(each["ratio"].get(way)) for way in ratios),
        ]
        for where, each in zip(place, found, strict=True)
    ]
    head = ["case", "norm", "device", "precision"]
    overs = ("over bare", "over fresh", "over d2l", "over lightning", "evaluation over forward", "graph over none")
    text = table([*head, "batch", "images/s", *overs], single)
    several = [
        [*where, name.removeprefix("x"), cell(each["images_per_s"][name], 0), cell(ratio)]
        for where, each in zip(place, found, strict=True)
        for name, ratio in each["ratio"].items()
        if name.startswith("x")
    ]
    left = [
        f"{' '.join(where)}: {each[LEFT]} members do not fit into the memory\n"
        for where, each in zip(place, found, strict=True)
        if LEFT in each
    ]
    text += "\n" + table([*head, "members", "images/s of all", "over one model"], several) if several else ""
    return "\n".join([text, *left])


def chosen(words: str, known: Sequence[str], option: str) -> list[str]:
    """The words of an option, separated by commas.

    Raises:
        SystemExit: one of them is not known.
    """
    wanted = words.split(",")
    if unknown := set(wanted) - set(known):
        sys.exit(f"{option}={','.join(sorted(unknown))}: not known (allowed: {', '.join(known)})")
    return wanted


def machines() -> list[tuple[str, str]]:
    """Devices and precisions; says what there is not."""
    if torch.cuda.is_available():
        return [("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "bf16")]
    print("no GPU here: CUDA is not measured\n")
    return [("cpu", "fp32")]


def measured_training(
    cases: Sequence[str], norms: Sequence[str], members: Sequence[int], rounds: int
) -> Iterator[dict[str, Any]]:
    """All cases on all machines, one after another."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = {kind: write_images(kind, folder) for kind in {CASES[case][2] for case in cases}}
        for device, precision in machines():
            for case in cases:
                for norm in norms:
                    machine = (f"device={device}", f"precision={precision}", "graph=false")
                    config = config_of(case, norm, folder, *machine)
                    counts = members or (GPU_MEMBERS if device == "cuda" else ())
                    where = {"case": case, "norm": norm, "device": device, "precision": precision}
                    yield where | training(config, images[CASES[case][2]], counts, rounds)


def write(path: Path, facts: Mapping[str, Any]) -> None:
    """Keep what has been measured so far."""
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, print the tables, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--norms", default=",".join(NORMS))
    parser.add_argument("--members", default="")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="training,growth,startup")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "bench.json")
    given = parser.parse_args()
    subjects = chosen(given.only, ("training", "growth", "startup"), "--only")
    cases, norms = chosen(given.cases, list(CASES), "--cases"), chosen(given.norms, NORMS, "--norms")
    members = [int(count) for count in given.members.split(",") if count]
    torch.set_num_threads(1)
    if not importlib.util.find_spec("lightning"):
        print("lightning is not installed (the extra bench): not measured\n")
    facts: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), "rounds": given.rounds}
    facts["provenance"] = provenance(torch.device("cuda" if torch.cuda.is_available() else "cpu"), 1)
    if "training" in subjects:
        facts["training"] = []
        for each in measured_training(cases, norms, members, given.rounds):
            facts["training"].append(each)
            write(given.json, facts)
            print(*(each[key] for key in ("case", "norm", "device", "precision")), file=sys.stderr, flush=True)
        print(training_tables(facts["training"]))
    if "growth" in subjects:
        facts["growth"] = growth(given.rounds)
        write(given.json, facts)
        rows = [[each["setting"], each["value"], cell(each["ms"])] for each in facts["growth"]]
        print(table(["MLP 3x100, batch 64, bn, but for", "value", "ms a step"], rows))
    if "startup" in subjects:
        facts["startup"] = startup(max(3, given.rounds // 3))
        rows = [[name, cell(each["s"]), f"{each['peak_mib']:.0f}"] for name, each in facts["startup"].items()]
        print(table(["a fresh process", "seconds", "peak MiB"], rows))
    write(given.json, facts)


if __name__ == "__main__":
    main()
