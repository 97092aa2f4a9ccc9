"""What differs between a config and the defaults of ``bnexp train``, read from the yaml files without Hydra."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

import yaml  # type: ignore[import-untyped]

from bnexp.config.schema import LISTS, TrainConfig, defaults, flat, role
from bnexp.config.shipped import configs_folder


def changed(config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that differ: dotted name -> (value, default); an option has the default of its choice.

    Settings that decide nothing, such as the place of data, are left out.
    """
    given = flat(dict(config))
    normal = usual(given)
    kept = {key: value for key, value in given.items() if role(key).decides}
    return {key: (value, normal.get(key)) for key, value in kept.items() if value != normal.get(key)}


def usual(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of all settings, given by dotted names; those of options belong to the choices in ``settings``."""
    found = defaults()
    for group, name in _groups().items():
        found |= {f"{group}.{key}": value for key, value in _choice(group, settings.get(f"{group}.name")).items()}
        found[f"{group}.name"] = name
    for key, name in settings.items():
        group = key.partition(".")[0]
        if group in LISTS and key.endswith(".name"):
            found |= {key.removesuffix("name") + option: value for option, value in _choice(group, name).items()}
            found[key] = None
    return found


def is_shipped(group: str, name: object) -> bool:
    """Whether a choice comes with the program."""
    return bool(_choice(group, name))


@cache
def _groups() -> dict[str, Any]:
    """Group -> the name chosen by default, but for those of ``LISTS``, of which none is chosen."""
    listed = yaml.safe_load((configs_folder() / "train.yaml").read_text(encoding="utf-8"))["defaults"]
    known = {setting.name for setting in fields(TrainConfig)}
    chosen = {key: value for entry in listed if isinstance(entry, dict) for key, value in entry.items()}
    return {key: value for key, value in chosen.items() if key in known and isinstance(value, str)}


@cache
def _choice(group: str, name: object) -> dict[str, Any]:
    """The name and options of a choice that comes with the program; none where it does not."""
    if not isinstance(name, str) or not name.isidentifier():
        return {}
    path = configs_folder() / group / f"{name}.yaml"
    return dict(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.is_file() else {}
