"""The architecture, read from the imports: they point downwards, and heavy libraries have one door each."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "bnexp"

# A module may import from floors below its own, and from its own floor what is named under it in this list.
FLOORS = [
    {"__main__"},
    {"cli"},
    {"commands"},
    {"launcher"},
    {"claims"},
    {"composing", "sweep", "compare", "board", "listing"},
    {"experiment", "bench"},
    {"building", "report"},
    {"trial"},
    {"rules"},
    {"starting", "pretraining", "observing"},
    {"probes", "averages"},
    {"training", "evaluation", "models", "inits", "affine", "logbook", "display", "runs", "trainable", "machine"},
    {"step"},
    {"norms", "data", "runfile", "checkpoint", "events", "optim", "statistics", "precision", "provenance"},
    {"population", "losses", "dropout", "schedule", "storage", "stopping", "names", "record"},
    {"registry", "stream", "config"},
    {"seeds", "arguments", "output", "shipped"},
    {"checks"},
]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def floor(module: str) -> int:
    (number,) = [number for number, modules in enumerate(FLOORS) if module in modules]
    return number


def test_every_module_has_a_floor():
    assert {module_of(path) for path in FILES} == set().union(*FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    own = module_of(path)
    for name in imported(path):
        if name.startswith("bnexp."):
            other = name.split(".")[1]
            if other.startswith("__") or other == own:
                continue
            assert floor(other) > floor(own), f"{own} imports {other}, which is not below it"


def doors(library: str) -> set[str]:
    return {module_of(path) for path in FILES if any(f"{name}.".startswith(f"{library}.") for name in imported(path))}


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("hydra", {"composing", "launcher"}),
        ("omegaconf", {"composing", "launcher", "commands"}),
        ("tensorboard", {"events", "board"}),
        ("torch.utils.tensorboard", {"events"}),
        ("scipy", {"statistics"}),
        ("matplotlib", {"report"}),
        ("torchvision", {"data", "models"}),
        ("tqdm", {"display", "sweep"}),
    ],
)
def test_a_library_has_one_door(library, allowed):
    assert doors(library) <= allowed


def test_the_loop_knows_no_norm_model_config_or_file():
    assert {name.split(".")[1] for name in imported(PACKAGE / "training.py") if name.startswith("bnexp.")} <= {
        "losses",
        "population",
        "precision",
        "record",
        "step",
    }


@pytest.mark.parametrize("module", ["config", "checks", "names", "record"])
def test_checking_a_config_needs_the_standard_library_only(module):
    outside = {name.split(".")[0] for name in imported(PACKAGE / f"{module}.py")}
    assert not outside & {"torch", "numpy", "hydra", "omegaconf", "torchvision", "sklearn"}


def test_there_is_no_module_for_leftovers():
    assert not {"utils", "helpers", "common", "misc"} & {module_of(path) for path in FILES}
