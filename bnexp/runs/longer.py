"""Runs whose length has changed: what may change, which runs are refused, and what run.json keeps of before.

It needs a run's run.json only. What depends on the builders that its config names stands in ``experiment/longer``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnexp.config.schema import completed, config_hash
from bnexp.runs import next_command, run_json
from bnexp.runs.paths import RunPaths, is_sweep

LENGTHS = ("epochs", "steps")


@dataclass(frozen=True)
class Length:
    """A length that a user gives to a run: one of ``LENGTHS``, and its value."""

    setting: str
    value: int

    def __str__(self) -> str:
        return f"{self.setting}={self.value}"

    def of(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A config with this length.

        Raises:
            ValueError: the length of the config is given in steps, and epochs have no effect.
        """
        if self.setting == "epochs" and config["steps"] is not None:
            raise ValueError(f"{self}: has no effect, the length is steps={config['steps']}; give another steps=")
        return {**completed(config), self.setting: self.value}

    def typed(self, overrides: Sequence[str]) -> list[str]:
        """The overrides that ask for a config with this length."""
        others = [word for word in overrides if word.partition("=")[0] != self.setting]
        return [*others, str(self)]


def length(words: Sequence[str]) -> Length | None:
    """The length that the words of ``bnexp resume`` give, or None.

    Raises:
        ValueError: they give something else, or several lengths.
    """
    for word in words:
        setting, _, value = word.partition("=")
        if setting not in LENGTHS:
            raise ValueError(f"resume: {word}: only the length can change, as epochs=N or steps=N")
        if not value.isdecimal() or int(value) < 1:
            raise ValueError(f"{word}: expected a whole number, at least 1")
    if len(words) > 1:
        raise ValueError(f"resume: {' '.join(words)}: give one length")
    return Length(setting, int(value)) if words else None


def require_longer(folder: Path, saved: Mapping[str, Any], wanted: Length) -> None:
    """Refuse a length that a run has trained already, and a run that has kept nothing to go on from.

    Args:
        folder: the run's folder.
        saved: its run.json.
        wanted: the length that it is to have.

    Raises:
        ValueError: see above.
    """
    if saved["status"] == "finished" and not RunPaths(folder).has_checkpoint:
        raise ValueError(f"{folder}: has kept no checkpoint to go on from; train anew with {wanted}")
    done = saved.get("step") or 0
    if not done:
        return
    try:
        new = wanted.of(saved["config"])["steps"] or wanted.value * saved["steps"] // saved["config"]["epochs"]
    except (KeyError, TypeError, ZeroDivisionError):
        raise ValueError(f"{RunPaths(folder).run_json}: damaged (steps: missing or not a number)") from None
    if new <= done:
        trained = f"{folder} has trained {done} steps" + (", all it should" if saved["status"] == "finished" else "")
        raise ValueError(f"{wanted}: {trained}, and this is {'as many' if new == done else f'only {new}'}; give more")


def require_single(folder: Path, saved: Mapping[str, Any], wanted: Length) -> None:
    """Refuse a run that would end where it has ended, and a job of a sweep, which changes with the others.

    Raises:
        ValueError: see above.
    """
    sweep = folder.resolve().parent
    if is_sweep(sweep):
        named = saved["config"].get("imports", [])
        command = next_command.resume(sweep, named, *next_command.trust(sweep), str(wanted))
        raise ValueError(f"{folder}: a job of a sweep, whose jobs are trained longer together: {command}")
    if saved["status"] == "diverged":
        raise ValueError(f"{folder}: diverged, so that more steps do not help; change a setting and train anew")
    if saved.get("stopped_at") is not None:
        setting = f"stop_after={saved['config'].get('stop_after')}"
        why = f"stopped early at step {saved['stopped_at']}, and a longer run stops there too"
        raise ValueError(f"{folder}: {why} ({setting}); train anew with a larger stop_after, or null")


def shorter(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """A folder's run.json if it tells of a run with another length than ``config``, and else with the same settings.

    Raises:
        ValueError: it is damaged.
    """
    if not RunPaths(folder).run_json.exists():
        return None
    saved = run_json.read(folder)
    same = {**completed(saved["config"]), **{setting: config[setting] for setting in LENGTHS}}
    return saved if saved["config_hash"] != config_hash(config) == config_hash(same) else None


def begin(folder: Path, saved: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write the new config into a run's run.json, and enter there what the run was before.

    From here on the run is one of the new length that was interrupted, whatever happens.

    Args:
        folder: the run's folder.
        saved: its run.json.
        facts: ``config``, ``config_hash`` and what else changes with the length.

    Raises:
        OSError: it could not be written; the run is what it was.
    """
    begun = {"status": "interrupted", "diverged_at": None, "stopped_at": None, "failure": None}
    run_json.write(folder, {**saved, **facts, **begun, "extended": [*history(saved), before(saved)]})


def before(saved: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is before its length changes, as an entry of its ``history``."""
    facts = {"config_hash": saved["config_hash"], "steps": saved.get("steps") or 0, "step": saved.get("step") or 0}
    return {**facts, "status": saved["status"], "settings": {key: saved["config"].get(key) for key in LENGTHS}}


def history(saved: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a run was before each change of its length, see ``before``; the latest last."""
    return list(saved.get("extended") or ())
