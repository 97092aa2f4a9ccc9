"""``result.json``: a claim's result beside its sweeps, written and read back."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from bnexp.claims import parse
from bnexp.claims.answers import adjusted
from bnexp.claims.result import Result
from bnexp.runs import json_file
from bnexp.runs.storage import write_atomically

NAME = "result.json"
FORMAT = 4


def write(folder: Path, result: Result) -> None:
    """Write the result into the claim's folder."""
    content = {"format": FORMAT, **asdict(result)}
    if content["answer"] is not None:
        del content["answer"]["p_holm"]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / NAME, json_file.text(content))


def read_all(folder: Path) -> list[Result]:
    """The results of the claims in a profile's folder, by claim, with Holm's adjustment over their answers.

    Raises:
        ValueError: there are none, or one is damaged.
    """
    results = [read(path) for path in sorted(folder.glob(f"*/{NAME}"))]
    if not results:
        raise ValueError(f"{folder}: no results of claims in there; run bnexp claim run first")
    answers = adjusted([result.answer for result in results])
    return [replace(result, answer=answer) for result, answer in zip(results, answers, strict=True)]


def read(path: Path) -> Result:
    """A result as it was written.

    Raises:
        ValueError: the file is damaged or of another version, in one line.
    """
    try:
        content = json_file.read(path, "result", FORMAT)
        del content["format"]
        result: Result = parse.parsed("result", content, Result)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); delete it and give bnexp claim run again") from None
    return result
