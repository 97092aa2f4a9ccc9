"""A user's own modules: imported where they are typed, and known again by what stands in them."""

from __future__ import annotations

import hashlib
import importlib
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from bnexp.config.own_code import told
from bnexp.runs import run_json
from bnexp.runs.paths import is_sweep

log = logging.getLogger(__name__)


def import_modules(names: Sequence[str]) -> None:
    """Import a user's own modules, which register norms, models or data; the working folder is searched first.

    Raises:
        ValueError: a module is missing or fails to import; the message names the file and line.
    """
    _look_here_too(names)
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise _no_module(name, str(error.name)) from None
        except (Exception, SystemExit) as error:
            raise ValueError(f"imports=[{name}]: {told(error)}") from None


def _no_module(name: str, missing: str) -> ValueError:
    where = "looked for in the working folder and on PYTHONPATH"
    hint = f"; write imports=[{name.removesuffix('.py')}]" if name.endswith(".py") else ""
    return ValueError(f"imports=[{name}]: no module {missing}; {where}{hint}")


def _look_here_too(names: Sequence[str]) -> None:
    """Put the working folder on the path, for modules that have a name."""
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"imports=[{name!a}]: no name of a module; expected words and dots, such as my_lab.norms")
    if names and "" not in sys.path:
        sys.path.insert(0, "")


def sources(names: Sequence[str]) -> list[Path]:
    """The files of a user's own modules; nothing is imported.

    Raises:
        ValueError: there is no such module.
    """
    _look_here_too(names)
    found = {name: _source(name) for name in names}
    if missing := [name for name, source in found.items() if source is None]:
        raise _no_module(missing[0], missing[0])
    return [source for source in found.values() if source is not None]


def _source(name: str) -> Path | None:
    """The file of a module in Python, or None."""
    files = [path for path in _places(name) if path.suffix == ".py" and path.is_file()]
    return files[-1] if files else None


def digests(names: Sequence[str]) -> dict[str, str]:
    """SHA-256 of those modules that are Python files, by their names; of a package, of all such files in its folder."""
    _look_here_too(names)
    return {name: _digest(source) for name in names if (source := _source(name))}


def _digest(source: Path) -> str:
    files = sorted(source.parent.rglob("*.py")) if source.name == "__init__.py" else [source]
    return hashlib.sha256(b"".join(hashlib.sha256(each.read_bytes()).digest() for each in files)).hexdigest()


def tell_of_changes(folder: Path, names: Sequence[str]) -> None:
    """Warn where modules have changed since a run began; runs of older versions do not say."""
    before, now = run_json.known(folder).get("modules", {}), digests(names)
    if changed := [name for name in now if before.get(name, now[name]) != now[name]]:
        log.warning("%s: changed since this run began: imports=[%s]", folder, ",".join(changed))


def require_typed(folder: Path, named: Sequence[str], typed: Sequence[str], command: Sequence[str]) -> None:
    """``require_named`` for a command line.

    Args:
        folder: of a run or a sweep.
        named: the modules that its records name.
        typed: the modules that the user has named in this command.
        command: the words of this command but for the modules.

    Raises:
        ValueError: see ``require_named``.
    """
    words = ["bnexp", *command, *(["--imports", ",".join(named)] if named else [])]
    require_named(folder, named, typed, shlex.join(words))


def require_named(folder: Path, named: Sequence[str], typed: Sequence[str], remedy: str) -> None:
    """Let nothing be imported because a folder says so: it may come from anywhere, and its modules are programs.

    Args:
        folder: of a run or a sweep.
        named: the modules that its records name.
        typed: the modules that the user has named.
        remedy: what to type instead if the folder's modules are to be imported.

    Raises:
        ValueError: the user has named other modules than the folder, or a file of one lies in the folder.
    """
    _look_here_too(named)
    received = folder.parent if is_sweep(folder.parent) else folder
    for name in named:
        for place in (Path.cwd(), *_places(name)):
            if _lies_in(place, received):
                raise ValueError(
                    f"{place}: in {received}, whose files are never imported; imports=[{name}] needs another"
                )
    if set(named) != set(typed):
        said = f"it names modules ({', '.join(named) or 'none'}), which are imported only if you type the same"
        raise ValueError(f"{folder}: {said}; if you trust them: {remedy}")


def _places(name: str) -> Iterator[Path]:
    """The files and folders that importing a module would read, found without importing anything."""
    path: list[str] | None = None
    for part in name.split("."):
        spec = PathFinder.find_spec(part, path)
        path = list((spec and spec.submodule_search_locations) or ())
        yield from map(Path, [*([spec.origin] if spec and spec.origin else []), *path])


def _lies_in(place: Path, folder: Path) -> bool:
    """Whether a file is in a folder, by its name or by what it links to."""
    named = place.parent.resolve() / place.name
    return any(path.is_relative_to(folder.resolve()) for path in (named, place.resolve()))
