"""``bnexp export``: results as tables, and trained models as files, for other programs."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from bnexp.cli.arguments import parser, take_format, take_imports, take_selection
from bnexp.cli.output import answer, only_the_answer
from bnexp.compare import export as tables
from bnexp.compare.blocks import Document, Table
from bnexp.compare.lookup import selected
from bnexp.config.extras import extra
from bnexp.runs.collect import collect

# Kind of file -> the packages that write it; each kind is the name of an extra, too.
_TABLES = {"csv": (), "parquet": ("pyarrow",)}
_MODELS = {"safetensors": ("safetensors",), "onnx": ("onnx", "onnxscript")}


def export(arguments: list[str]) -> int:
    """``bnexp export FOLDER --to csv|parquet`` and ``bnexp export RUN --to safetensors|onnx``."""
    text = "Write all runs below a folder as tables (csv, parquet), or a run's model as a file (safetensors, onnx)."
    options = parser("export", text)
    options.add_argument("folder", type=Path, help="of runs and sweeps; of one run for a model")
    options.add_argument("--to", required=True, choices=(*_TABLES, *_MODELS), help="the kind of file")
    options.add_argument("--out", type=Path, default=Path("export"), metavar="DIR", help="default: export")
    take_selection(options)
    take_imports(options)
    take_format(options)
    given = options.parse_args(arguments)
    for package in (_TABLES | _MODELS)[given.to]:
        extra(package, given.to)
    paths = _tables(given) if given.to in _TABLES else [_model(given)]
    table = Table(["file"], [[str(path)] for path in paths])
    text = "".join(f"{path}\n" for path in paths)
    answer(Document([table], table, {"files": [str(path) for path in paths]}, text), given.format)
    return 0


def _tables(given: Namespace) -> list[Path]:
    found, _ = collect([given.folder])
    runs, _ = selected(found, where=given.where, tags=given.tag, everything=given.all)
    if not runs:
        raise ValueError(f"{given.folder}: no runs in there; give the folder of a run or a sweep")
    return tables.write(given.out, runs, given.to)


def _model(given: Namespace) -> Path:
    """Write the model of a run.

    Raises:
        ValueError: words that choose among runs were given, or see ``trained``, ``to_safetensors`` and ``to_onnx``.
    """
    if given.where or given.tag or given.all:
        raise ValueError(f"export --to {given.to}: is for one run; --where, --tag and --all are for tables")
    from bnexp.experiment.display import console
    from bnexp.experiment.trained import trained
    from bnexp.experiment.weights import to_onnx, to_safetensors

    path = Path(given.out) / f"model.{given.to}"
    with console(), only_the_answer(given.format):
        model = trained(given.folder, imports=given.imports, device="cpu")
        path.parent.mkdir(parents=True, exist_ok=True)
        (to_onnx if given.to == "onnx" else to_safetensors)(model, path)
    return path
