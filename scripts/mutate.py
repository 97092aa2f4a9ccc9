"""Which changed lines do the tests not notice? Mutations of bnexp, drawn by a seed, each under its module's tests.

    uv run python scripts/mutate.py --seed 0                            # 150 mutations, two at a time
    uv run python scripts/mutate.py --seed 1 --count 40 --minutes 30
    uv run python scripts/mutate.py --seed 0 --only bnexp/probes/state.py

One expression or statement is changed at a time, in a temporary copy of the repository; the working tree is only read.
The tests are the files that name the module, then those of its room; first without the slow ones; with --thorough all
others after them, which take ten minutes. A survivor is printed as ``file:line: before -> after``: it needs a test, or
changes nothing. The exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import ast
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from checkout import ROOT, environment

_COPIED = ("bnexp", "tests", "configs", "scripts", "benchmarks", "docs", "pyproject.toml", "README.md")
_COPIED += ("LICENSE", "CITATION.cff")
_SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
    **{ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr},
}
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "amin": "amax", "amax": "amin", "mean": "sum"}


@dataclass(frozen=True)
class Mutation:
    """A piece of a file's bytes, and what stands there instead."""

    path: Path
    line: int
    start: int
    end: int
    before: str
    after: str

    def __str__(self) -> str:
        short = (" ".join(text.split()) for text in (self.before, self.after))
        return f"{self.path}:{self.line}: {' -> '.join(short)}"

    def applied(self, source: bytes) -> bytes:
        """The file's bytes with the change."""
        return source[: self.start] + self.after.encode() + source[self.end :]


def visited(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that compute something: no annotation, decorator, docstring, message or formatted text."""
    if isinstance(node, ast.JoinedStr | ast.Raise | ast.Assert | ast.Import | ast.ImportFrom):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns", "decorator_list"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from visited(child)


def changed(node: ast.AST) -> Iterator[str]:
    """What could stand for a node."""
    match node:
        case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in _SWAPPED:
            yield ast.unparse(ast.Compare(left, [_SWAPPED[type(operator)]()], [right]))
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _SWAPPED:
            yield f"({ast.unparse(ast.BinOp(left, _SWAPPED[type(operator)](), right))})"
        case ast.BoolOp(op=operator, values=values):
            yield f"({ast.unparse(ast.BoolOp(_SWAPPED[type(operator)](), values))})"
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield f"({ast.unparse(operand)})"
        case ast.Constant(value=bool(value)):
            yield str(not value)
        case ast.Constant(value=int(value)):
            yield str(value + 1)
        case ast.Constant(value=float(value)):
            yield repr(1.1 * value if value else 0.1)
        case ast.Name(id=name, ctx=ast.Load()) if name in _CALLS:
            yield _CALLS[name]
        case ast.IfExp(test=test, body=body, orelse=other):
            yield f"({ast.unparse(ast.IfExp(test, other, body))})"
        case ast.Call(func=ast.Attribute(value=value, attr=name), args=args, keywords=keywords) if name in _CALLS:
            yield ast.unparse(ast.Call(ast.Attribute(value, _CALLS[name]), args, keywords))
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Continue() | ast.Break():
            yield "pass"


def mutations(path: Path) -> list[Mutation]:
    """All changes of a file that the operators know."""
    source = (ROOT / path).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node in visited(ast.parse(source)):
        for after in changed(node):
            start = starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
            end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
            before = source[start:end].decode()
            found.append(Mutation(path, node.lineno, start, end, before, after))  # type: ignore[attr-defined]
    return found


def drawn(paths: Sequence[Path], count: int, seed: int) -> list[Mutation]:
    """Mutations of files that are drawn by their numbers of lines; none twice."""
    chance = random.Random(seed)
    left = {path: mutations(path) for path in paths}
    found: list[Mutation] = []
    while len(found) < count and any(left.values()):
        paths = [path for path in paths if left[path]]
        lines = [(ROOT / path).read_bytes().count(b"\n") for path in paths]
        (path,) = chance.choices(paths, lines)
        found.append(left[path].pop(chance.randrange(len(left[path]))))
    return found


def tests_of(path: Path) -> list[str]:
    """The test files that name a module, and after them those of its room."""
    *rooms, module = path.with_suffix("").parts
    names = (f"{'.'.join(rooms)}.{module} ", f"{'.'.join(rooms)} import {module}\n")
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    naming = [file for file in files if any(name in file.read_text(encoding="utf-8") for name in names)]
    room = [file for file in files if len(rooms) > 1 and file.parent.name == rooms[1]]
    return [str(file.relative_to(ROOT)) for file in dict.fromkeys([*naming, *room])] or ["tests"]


class Copy:
    """A copy of the repository in which one change at a time is tried."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in _COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(ROOT / name, folder / name)

    def fate(self, mutation: Mutation, limit: float, *, thorough: bool) -> str:
        """``killed``, ``timed out`` or ``survived``."""
        tests = [tests_of(mutation.path), ["tests"]] if thorough else [tests_of(mutation.path)]
        file = self.folder / mutation.path
        source = file.read_bytes()
        file.write_bytes(mutation.applied(source))
        try:
            codes = (self.passed(files, mark, limit) for files in tests for mark in ("not slow", "slow"))
            return "survived" if all(codes) else "killed"
        except subprocess.TimeoutExpired:
            return "timed out"
        finally:
            file.write_bytes(source)

    def passed(self, tests: Sequence[str], mark: str, limit: float | None) -> bool:
        """Whether tests with a mark pass; no tests do."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-m", mark, *tests]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        with subprocess.Popen(command, cwd=self.folder, env=environment(self.folder), **silent) as process:
            try:
                return process.wait(limit) in (0, 5)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, 9)


def main() -> int:
    """Draw, try and list."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no mutation after so many")
    parser.add_argument("--limit", type=float, default=600, help="seconds for tests at a time")
    parser.add_argument("--only", type=Path, nargs="*", help="modules to change, instead of all")
    parser.add_argument("--thorough", action="store_true", help="try a survivor with all tests")
    given = parser.parse_args()
    modules = [path.relative_to(ROOT) for path in sorted((ROOT / "bnexp").rglob("*.py"))]
    chosen = drawn(given.only or modules, given.count, given.seed)
    end = time.monotonic() + 60 * given.minutes
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(2) as pool:
        copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for number in range(2):
            copies.put(Copy(Path(place, str(number))))

        def tried(mutation: Mutation) -> str:
            if time.monotonic() > end:
                return "not tried"
            copy = copies.get()
            try:
                fate = copy.fate(mutation, given.limit, thorough=given.thorough)
            finally:
                copies.put(copy)
            print(f"{fate:10s}{mutation}", flush=True)
            return fate

        fates = list(pool.map(tried, chosen))
    print(f"seed {given.seed}: " + ", ".join(f"{fates.count(fate)} {fate}" for fate in sorted(set(fates))))
    return int("survived" in fates)


if __name__ == "__main__":
    sys.exit(main())
