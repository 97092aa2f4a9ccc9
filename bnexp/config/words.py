"""The words of a command line before Hydra reads them: what is refused, and what is taken literally."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields

from bnexp.config import names
from bnexp.config.checks import near_miss, unknown
from bnexp.config.schema import LISTS, TrainConfig

FLAGS = (
    *("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r"),
    *("--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--info", "-i"),
)

# The groups of which one yaml is chosen.
_CHOICES = {each.name for each in fields(TrainConfig) if each.default_factory is dict} - LISTS.keys()
# Hydra settings that would break promises about run folders: setting -> (the values that keep it, the promise).
_FIXED = {
    "hydra.output_subdir": ("null", "bnexp writes .hydra in the run folder itself"),
    "hydra.job.chdir": ("false", "paths are relative to the working folder"),
}
# Settings that may come from the environment, because they are paths; other values may be secrets, and are stored.
_FROM_ENVIRONMENT = ("data.root", "data.path")
# Settings whose value is a folder or file name, taken literally; and one whose value is a sentence.
PLACES = ("init_from", "data.path", "data.root", "hydra.run.dir", "hydra.sweep.dir")
_SENTENCE = "notes"
# The marks of Hydra's grammar besides the equals sign.
_GRAMMAR = re.compile(r"[\\'\"$,(){}\[\]]")
# What Hydra reads without quotes; and a value that has quotes.
_PLAIN = re.compile(r"(?! )[\w /+.%*@?|:,(){}\[\]=-]*(?<! )", re.ASCII)
_QUOTED = re.compile(r"'.*'|\".*\"", re.DOTALL)
_NO_NAME = re.compile(r"[\[,]\s*([\d.+-][\w.+-]*|true|false|null)\s*[,\]]", re.IGNORECASE)  # in a list
_ENVIRONMENT = re.compile(r"\$\{\s*oc\s*\.\s*(env|\$)")


def taken_literally(arguments: Sequence[str]) -> list[str]:
    """Escape paths and sentences for Hydra's grammar: names of run folders hold equals signs and commas."""
    several = not {"-m", "--multirun"}.isdisjoint(arguments)  # a comma separates the values of a sweep
    return [_literal(argument, several=several) for argument in arguments]


def typed(word: str, arguments: Sequence[str]) -> str:
    """The argument that ``taken_literally`` has made a word of."""
    return dict(zip(taken_literally(arguments), arguments, strict=True)).get(word, word)


def _literal(argument: str, *, several: bool) -> str:
    key, equals, value = argument.partition("=")
    name, grammar = key.lstrip("+"), "\\" in value or bool(_QUOTED.fullmatch(value))
    if name == _SENTENCE and equals and not grammar:
        return f"{key}={names.quoted(value)}"
    if name in PLACES and not grammar and "$" not in value:
        several = several and not name.startswith("hydra.")
        return f"{key}{equals}{_places(value) if several else _place(value)}"
    if _GRAMMAR.search(value):
        return argument
    return f"{key}{equals}" + value.replace("=", r"\=")


def _place(path: str) -> str:
    """One folder or file, in Hydra's grammar."""
    if not _PLAIN.fullmatch(path):
        return names.quoted(path)
    return re.sub(r"[,(){}\[\]=]", r"\\\g<0>", path)


def _places(paths: str) -> str:
    """The folders or files of a sweep, with commas between them; a function such as ``glob(*)`` stays."""
    if not _PLAIN.fullmatch(paths):
        return ",".join(map(_place, paths.split(",")))
    return paths.replace("{seed}", r"\{seed\}").replace("=", r"\=")


def refuse(arguments: list[str]) -> None:
    """Refuse arguments that Hydra would accept and bnexp does not.

    Raises:
        ValueError: an argument is of this kind.
    """
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key.startswith("-") and key not in FLAGS:
            raise _no_option(key, equals, value)
        key = _key(argument)
        if key in ("hydra.run.dir", "hydra.sweep.dir") and equals and value.strip("'\" ") in ("", "null"):
            raise ValueError(f"{argument}: expected a folder")
        if key in _CHOICES and value.startswith("["):  # Hydra would merge them
            raise ValueError(f"{argument}: one is chosen; several make a sweep: -m {key}={value.strip('[]')}")
        if key in LISTS and (found := _NO_NAME.search(value)):
            raise ValueError(f"{argument}: {found[1]} is no name; bnexp list {key} shows the names")
        if key in _FIXED and value.lower() != _FIXED[key][0]:
            allowed, why = _FIXED[key]
            raise ValueError(f"{argument}: not allowed ({why}; allowed: {key}={allowed})")
        if _ENVIRONMENT.search(argument) and key not in _FROM_ENVIRONMENT:
            where = " and ".join(_FROM_ENVIRONMENT)
            raise ValueError(f"{argument}: only {where} take environment variables, which may be secrets")


def without_effect(arguments: Sequence[str]) -> list[str]:
    """Which settings have no effect, as they are given twice, or ``epochs`` beside ``steps``; a line each."""
    settings = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    last = {_key(setting): setting for setting in settings}
    lines = [
        f"{setting}: has no effect, {last[_key(setting)]} comes after it"
        for setting in settings
        if setting != last[_key(setting)]
    ]
    epochs, steps = last.get("epochs"), last.get("steps", "steps=null")
    return [*lines, *([f"{epochs}: has no effect beside {steps}"] if epochs and steps != "steps=null" else [])]


def _key(argument: str) -> str:
    return argument.partition("=")[0].lstrip("+")


def _no_option(flag: str, equals: str, value: str) -> ValueError:
    """The error for an unknown option, which may be a setting with dashes before it."""
    known, setting = [each for each in FLAGS if each.startswith("--")], flag.lstrip("-").replace("-", "_")
    is_setting = setting.partition(".")[0] in [each.name for each in fields(TrainConfig)]
    if is_setting or (equals and not near_miss(flag, known, cutoff=0.75)):
        return ValueError(f"{flag}{equals}{value}: settings have no dashes; write {setting}={value or '...'}")
    return unknown("option", flag, known)
