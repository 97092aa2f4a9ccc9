"""What the yaml of a choice says of it in its comments: a title, a source, and the other names that people know."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Description:
    """The description of a choice in its yaml.

    Attributes:
        name: the word to type.
        title: the first comment line.
        source: the text of the comment line `# Source: text`, which norms have.
        also: other names of the same thing, which cannot be typed: the words of the comment line `# Also: a, b`.
        options: the lines of the options, with their numbers.
    """

    name: str
    title: str
    source: str
    also: tuple[str, ...]
    options: tuple[str, ...]


def descriptions(folders: Iterable[Path]) -> list[Description]:
    """The yamls in a group's folders by name; a folder may be missing, and an earlier one hides equal names."""
    found = {path.stem: path for folder in reversed(list(folders)) for path in folder.glob("*.yaml")}
    return [read(path) for _, path in sorted(found.items())]


def read(path: Path) -> Description:
    """Read a yaml's comments and options."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = [line.removeprefix("# ") for line in lines if line.startswith("# ") and not line.startswith("# @")]
    titles = [comment for comment in comments if not comment.startswith(("Source: ", "Also: "))]
    options = tuple(line for line in lines if line and not line.startswith(("#", "name:")))
    also = tuple(name for text in _labelled(comments, "Also") for name in text.split(", "))
    return Description(path.stem, titles[0] if titles else "", ", ".join(_labelled(comments, "Source")), also, options)


def _labelled(comments: Sequence[str], label: str) -> list[str]:
    return [text.removeprefix(f"{label}: ") for text in comments if text.startswith(f"{label}: ")]


def other_names(folders: Iterable[Path]) -> dict[str, str]:
    """Other name -> the word to type, of all choices in a group's folders."""
    return {other: each.name for each in descriptions(folders) for other in each.also}
