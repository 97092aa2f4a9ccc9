"""``bnexp bench``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from bnexp.cli.arguments import parser, take_config_dir, take_format
from bnexp.cli.output import answer, note, only_the_answer
from bnexp.compare.blocks import Cell, Document, Table, Text
from bnexp.compare.cells import number
from bnexp.config.checks import Positive, Range, checked
from bnexp.config.shipped import configs_folder

if TYPE_CHECKING:
    from bnexp.config.schema import TrainConfig
    from bnexp.experiment.bench import Bench


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
    table = Table(["batch_size", "images/s", "lower quartile", "upper quartile", "ms/step", "MiB"], _rows(result))
    document = Document([table, Text(bench.verdict(result))], table, bench.facts(result), bench.table(result) + "\n")
    answer(document, given.format)
    return 0


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
