"""The plan of the house, read from its imports: rooms, who may import whom, and which library has which door."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "bnexp"

# Room -> the rooms that it may import. A room is a folder, or a file on the ground. Everybody may import GROUND.
ROOMS = {
    "__main__": {"cli"},
    "cli": {"experiment", "claims", "sweep", "compare", "runs", "config"},
    "api": {"experiment", "compare", "runs", "config"},  # experiment: imported when a model or data are asked for
    "experiment": {"probes", "evaluations", "training", "models", "norms", "data", "runs", "config"},
    "claims": {"sweep", "compare", "runs", "config", "models", "norms"},  # models and norms: exact.py alone
    "probes": {"training", "models", "norms", "data", "config"},
    "evaluations": {"training", "models", "norms", "data", "config"},
    "training": {"models", "norms", "data", "config"},
    "models": {"norms", "data", "config"},
    "compare": {"runs", "config"},
    "sweep": {"runs", "config"},
    "norms": {"config"},
    "data": {"config"},
    "runs": {"config"},
    "config": set(),
}
GROUND = {"record", "randomness", "memory", "stopping"}
# Library -> the files (or rooms) that may import it.
DOORS = {
    "hydra": {"config/compose.py", "cli/hydra_plugins.py"},
    "omegaconf": {"config/compose.py", "cli/hydra_plugins.py", "cli/train.py"},  # train: for the type of an argument
    "tensorboard": {"runs/events.py", "cli/board.py"},
    "torch.utils.tensorboard": {"runs/events.py"},
    "scipy": {"compare/statistics.py"},
    "matplotlib": {"compare/drawing.py", "compare/figures.py", "compare/depth.py", "claims/report/figures.py"},
    "torchvision": {"data", "models"},
    "submitit": {"sweep/slurm.py"},
    "triton": {f"training/kernels/triton_{what}.py" for what in ("maps", "convolutions", "updates")},
    "ray": {"sweep/ray.py"},
    "tqdm": {"experiment/display.py", "sweep/display.py"},
}
WORKING_ROOMS = ("config", "runs", "training", "experiment", "sweep", "compare", "claims", "cli")
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@cache
def imported(path: Path) -> frozenset[str]:
    """Dotted names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return frozenset(names)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_used(path: Path) -> set[str]:
    """Other rooms of the package that a file imports."""
    known = {*ROOMS, *GROUND}
    names = {name.split(".")[1] for name in imported(path) if name.startswith("bnexp.")}
    return (names & known) - {room(path)}


@cache
def arrows() -> set[tuple[str, str]]:
    return {(room(path), other) for path in FILES for other in rooms_used(path)}


@cache
def height(name: str) -> int:
    """How many floors lie under a room: the longest path of arrows down from it."""
    return max((1 + height(below) for above, below in arrows() if above == name), default=0)


def test_every_file_is_in_a_room_of_the_plan():
    assert {room(path) for path in FILES} == {*ROOMS, *GROUND}
    assert len({*ROOMS, *GROUND}) <= 20
    assert len(list(PACKAGE.glob("*.py"))) <= 8


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_plan(path):
    allowed = GROUND if room(path) not in GROUND else set()
    assert rooms_used(path) <= ROOMS.get(room(path), set()) | allowed


def test_arrows_are_few_and_lead_down():
    names = {*ROOMS, *GROUND}
    order = sorted(names, key=height)  # a circle would never end
    assert all(order.index(above) > order.index(below) for above, below in arrows())
    assert 1 + max(height(name) for name in names) <= 8
    assert len(arrows()) <= 80


@pytest.mark.parametrize(("library", "allowed"), DOORS.items())
def test_a_library_has_one_door(library, allowed):
    users = {path for path in FILES if any(f"{name}.".startswith(f"{library}.") for name in imported(path))}
    assert {path for path in users if not {room(path), str(path.relative_to(PACKAGE))} & allowed} == set()


@pytest.mark.parametrize("file", ["loop.py", "step.py"])
def test_the_loop_knows_no_norm_model_data_config_or_file(file):
    assert rooms_used(PACKAGE / "training" / file) <= {"record"}


def test_only_the_exact_checks_of_claims_build_models_and_norms():
    users = [path.name for path in (PACKAGE / "claims").rglob("*.py") if rooms_used(path) & {"models", "norms"}]
    assert users == ["exact.py"]


@pytest.mark.parametrize("name", WORKING_ROOMS)
def test_a_working_room_has_no_face(name):
    (docstring,) = ast.parse((PACKAGE / name / "__init__.py").read_text(encoding="utf-8")).body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(docstring.value, ast.Constant)


@pytest.mark.parametrize("name", [*sorted({*WORKING_ROOMS} - {"cli"}), "claims/report", "training/kernels"])
def test_a_room_says_in_which_order_to_read_its_files(name):
    said = ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text(encoding="utf-8"))) or ""
    files = {path.stem for path in (PACKAGE / name).glob("*.py")} - {"__init__"}
    assert {stem for stem in files if f"``{stem}``" not in said} == set()


def modules(*names: str) -> list[str]:
    """All modules of rooms, but for those that build networks."""
    paths = [path for path in FILES if room(path) in names and path.stem not in ("exact", "__init__")]
    return [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths]


@pytest.mark.parametrize("rooms", [("sweep",), ("compare",), ("claims",), ("cli",), ("api", "config", "stopping")])
def test_who_does_not_train_imports_no_torch(rooms):
    program = f"import {', '.join(modules(*rooms))}, sys; print([n for n in ('torch', 'scipy') if n in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert (answer.stdout.strip(), answer.stderr) == ("[]", "")


@pytest.mark.parametrize("module", ["schema", "checks", "names", "metrics"])
def test_checking_a_config_needs_the_standard_library_only(module):
    outside = {name.split(".")[0] for name in imported(PACKAGE / "config" / f"{module}.py")}
    assert outside - {"bnexp"} <= sys.stdlib_module_names


def test_there_is_no_module_for_leftovers():
    names = {part.removesuffix(".py") for path in FILES for part in path.relative_to(PACKAGE).parts}
    assert not {"utils", "helpers", "common", "misc", "core"} & names
