"""The command that goes on with a run or a sweep, as a user can type it."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path

from bnexp.runs import sweep_json
from bnexp.runs.paths import is_sweep


def resume(folder: Path, imports: Sequence[str], *words: str) -> str:
    """``bnexp resume FOLDER``, with what it takes: modules are imported, and a launcher's programs run, if typed.

    Args:
        folder: of a run or a sweep.
        imports: the modules that its config names.
        words: what comes last, such as ``epochs=20``.
    """
    named = ["--imports", ",".join(imports)] if imports else []
    trust = ["--trust-launcher"] if is_sweep(folder) and _names_programs(folder) else []
    return shlex.join(["bnexp", "resume", str(folder), *named, *trust, *words])


def _names_programs(sweep: Path) -> bool:
    """Whether a sweep's launcher starts programs or reaches other machines; sweeps of older versions do not say."""
    with contextlib.suppress(ValueError):
        return bool(sweep_json.read(sweep).get("programs"))
    return False
