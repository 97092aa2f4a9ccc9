"""Dataclasses from yaml and JSON: all keys must be known, and all values of the annotated types."""

from __future__ import annotations

import re
import types
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml  # type: ignore[import-untyped]

from bnexp.config.checks import checked, unknown

# What a claim has from its file, and not from the keys in it.
_OF_FILES = {"id", "text", "path"}


def read(path: Path) -> tuple[dict[str, Any], str]:
    """The mapping in a yaml file, and the file's text.

    Raises:
        ValueError: the file does not exist, or holds no mapping; in one line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text of yaml") from None
    return mapping(str(path), text), text


def mapping(where: str, text: str) -> dict[str, Any]:
    """The mapping in a text of yaml.

    Raises:
        ValueError: ``<where>: what is wrong``, in one line.
    """
    try:
        given = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{where}:{line}: {error.problem}") from None
    except yaml.YAMLError:
        raise ValueError(f"{where}: not a text of yaml") from None
    if not isinstance(given, dict):
        raise ValueError(f"{where}: expected keys such as sentence, arms, tests")
    return given


def parsed(where: str, given: Any, kind: Any) -> Any:
    """Make a dataclass from a mapping and check it by its annotations. A bare list stands for ``settings``.

    Args:
        where: the beginning of the messages.
        given: from the file.
        kind: the dataclass.

    Raises:
        ValueError: ``<where>.<key>: what is wrong``, in one line.
    """
    names = {setting.metadata.get("key", setting.name): setting for setting in fields(kind)}
    if isinstance(given, list) and "settings" in names:
        given = {"settings": given}
    if not isinstance(given, dict):
        raise ValueError(f"{where}: expected keys ({', '.join(names)})")
    for key in given:
        if key not in names:
            raise ValueError(str(unknown(where, str(key), names.keys() - _OF_FILES)))
    for key, setting in names.items():
        if key not in given and setting.default is MISSING and setting.default_factory is MISSING:
            raise ValueError(f"{where}.{key}: missing")
    hints = get_type_hints(kind, include_extras=True)
    values = {names[key].name: _value(f"{where}.{key}", value, hints[names[key].name]) for key, value in given.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from None


def _value(where: str, given: Any, annotation: Any) -> Any:
    if is_dataclass(annotation):
        return parsed(where, given, annotation)
    if annotation is Any:
        return given
    if get_origin(annotation) in (Union, types.UnionType):
        if given is None:
            return None
        (inner,) = (member for member in get_args(annotation) if member is not type(None))
        return _value(where, given, inner)
    if get_origin(annotation) is dict:
        if not isinstance(given, dict):
            raise ValueError(f"{where}={given}: expected names with values")
        return {str(key): _value(f"{where}.{key}", value, get_args(annotation)[1]) for key, value in given.items()}
    if get_origin(annotation) is list:
        if not isinstance(given, list):
            raise ValueError(f"{where}={given}: expected a list, such as [a, b]")
        return [_value(where, value, get_args(annotation)[0]) for value in given]
    value = checked(where, given, annotation)
    return value.strip() if isinstance(value, str) else value


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads numbers and words as YAML 1.2 does: 1e-3 is a number, ``on`` and 2026-11-26 are words. No key twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"{key}: stands twice", problem_mark=node.start_mark)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|false)$"), list("tf"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$"),
    list("-+.0123456789"),
)
