"""The command that goes on with a run or a sweep, as a user can type it."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path

from bnexp.runs import sweep_json


def resume(folder: Path, imports: Sequence[str], *words: str) -> str:
    """``bnexp resume FOLDER``; modules are imported only if they are typed.

    Args:
        folder: of a run or a sweep.
        imports: the modules that its config names.
        words: what comes last, such as ``epochs=20``.
    """
    named = ["--imports", ",".join(imports)] if imports else []
    return shlex.join(["bnexp", "resume", str(folder), *named, *words])


def trust(sweep: Path) -> list[str]:
    """The word that a sweep needs whose launcher starts programs; sweeps of older versions do not say."""
    with contextlib.suppress(ValueError):
        return ["--trust-launcher"] if sweep_json.read(sweep).get("programs") else []
    return []
