"""``bnexp bench``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from bnexp.cli.arguments import parser, take_config_dir, take_format
from bnexp.cli.output import answer, note, only_the_answer
from bnexp.compare.blocks import Cell, Document, Items, Table, Text
from bnexp.compare.cells import number
from bnexp.config.checks import Positive, Range, checked
from bnexp.config.shipped import configs_folder

if TYPE_CHECKING:
    from bnexp.config.schema import TrainConfig
    from bnexp.experiment.bench import Bench

_ADVICE = (
    "After a change of the batch size, tune the learning rate and the regularization again: each batch size has its "
    "own best values (Godbole et al. 2023, Deep Learning Tuning Playbook)."
)


def bench(arguments: list[str]) -> int:
    """``bnexp bench [setting=value ...]``: images per second at many batch sizes, and the knee."""
    text = "Train at many batch sizes, and find the smallest one with 95 % of the best rate (images per second)."
    options = parser("bench", text)
    options.add_argument("settings", nargs="*", metavar="setting=value", help="as for bnexp train: model=lenet norm=bn")
    options.add_argument("--sizes", help="default: 8,16,32,... up to 4096 or the size of the training set")
    options.add_argument("--repeats", type=int, default=5, help="timed rounds; default: 5")
    take_config_dir(options)
    take_format(options)
    given = options.parse_intermixed_args(arguments)
    sizes, repeats = _batch_sizes(given.sizes), checked("--repeats", given.repeats, Annotated[int, Range(least=3)])
    config = _composed([*given.settings, *(["--config-dir", str(given.config_dir)] if given.config_dir else [])])
    note("loading torch and the data")
    from bnexp.experiment import bench
    from bnexp.experiment.display import console
    from bnexp.experiment.imports import import_modules

    with console(), only_the_answer(given.format):
        import_modules(config.imports)
        result = bench.bench(config, sizes=sizes, repeats=repeats)
    answer(document(result, bench.facts(result)), given.format)
    return 0


def document(result: Bench, facts: Mapping[str, Any]) -> Document:
    """The measurements as a table, why other sizes are not possible, and the knee."""
    header = ["batch_size", "images/s", "lower quartile", "upper quartile", "ms/step", "MiB"]
    table = Table(header, _rows(result), title=_title(result))
    failed = [
        f"batch_size={size} is not possible: {reason.removeprefix(f'batch_size={size}: ')}"
        for size, reason in sorted(result.failures.items())
    ]
    return Document([table, *([Items(failed)] if failed else []), Text(_verdict(result)), Text(_ADVICE)], table, facts)


def _title(result: Bench) -> str:
    config, device = result.setup.config, result.setup.population.theta_MP.device
    words = " ".join(f"{group}={getattr(config, group)['name']}" for group in ("model", "norm", "data"))
    memory = "of the GPU" if device.type == "cuda" else "of the process"
    threads = f", threads={config.threads}" if device.type == "cpu" else ""
    rounds = f"medians and quartiles of {len(result.speeds[0].rates)} rounds in turns"
    return f"{words} on {device}{threads}: {rounds}; peak memory {memory}"


def _verdict(result: Bench) -> str:
    """The knee, as a sentence."""
    knee, largest = result.knee, result.speeds[-1].size
    if knee.size is None:
        return f"no knee is named: {knee.reason}; use more --repeats or a quieter machine"
    if knee.size < largest:
        end = ""
    elif max(result.failures, default=0) > largest:
        end = "; it is the largest possible here"
    else:
        end = "; it is the largest size tried, and larger ones may be faster still"
    return f"knee: batch_size={knee.size}, {knee.reason}{end}"


def _rows(result: Bench) -> list[list[str | Cell]]:
    """A row a batch size that is possible."""
    return [
        [
            number(speed.size, 0),
            *(number(rate, 0) for rate in (speed.median, *speed.quartiles)),
            number(1000 * speed.size / speed.median, 2),
            number(speed.memory / 2**20, 0),
        ]
        for speed in result.speeds
    ]


def _batch_sizes(words: str | None) -> list[int] | None:
    """The whole numbers of ``--sizes``.

    Raises:
        ValueError: one of them is not a whole number.
    """
    if words is None:
        return None
    if not all(word.isascii() and word.isdigit() for word in words.split(",")):
        raise ValueError(f"--sizes={words}: expected whole numbers, such as 8,16,32")
    return [checked("--sizes", int(word), Positive) for word in words.split(",")]


def _composed(words: list[str]) -> TrainConfig:
    """The config of one run from words, as ``bnexp train`` composes it."""
    from bnexp.config import compose

    configs = list[Any]()
    words = ["hydra.mode=RUN", *words]  # presets may be sweeps
    compose.run_hydra(configs.append, words, configs_folder())
    return compose.plain(configs[0])
