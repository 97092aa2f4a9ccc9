"""Hydra: composing a config from words, and its errors in one line."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bnexp import names
from bnexp.checks import near_miss, unknown
from bnexp.config import TrainConfig, flat

_FLAGS = (
    *("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r"),
    *("--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun", "--info", "-i"),
)

_TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}


@dataclass
class SweeperConf:
    """Hydra's schema of the sweeper in ``launcher``: that of its own basic one."""

    _target_: str = "hydra_plugins.bnexp.BnexpSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


ConfigStore.instance().store("bnexp_train", TrainConfig)
ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=SweeperConf)
# Its options, with their values, are in configs/hydra/launcher; their types and limits in sweep/options.py.
ConfigStore.instance().store(
    group="hydra/launcher", name="bnexp", node={"_target_": "hydra_plugins.bnexp.BnexpLauncher"}
)
# The plugin's own schema has the name of our file, which hides it.
ConfigStore.instance().store(
    group="hydra/launcher",
    name="bnexp_ray",
    node={"_target_": "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"},
)
OmegaConf.register_new_resolver("run_name", lambda overrides: names.run_name(overrides))
OmegaConf.register_new_resolver("free_folder", names.free_folder, use_cache=True)


def run_hydra(task: Callable[[DictConfig], None], arguments: list[str], configs: Path) -> int:
    """Give the command line to Hydra, which calls ``task`` with the composed config, or the sweeper of ``launcher``.

    Returns:
        The exit code of a sweep, else 0.

    Raises:
        ValueError: something in it is wrong, in one line.
    """
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag.startswith("-") and flag not in _FLAGS:
            raise unknown("option", flag, [known for known in _FLAGS if known.startswith("--")])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors as exceptions, not as Hydra's print and exit
    before, sys.argv = sys.argv, ["bnexp", *arguments]
    # Our launcher of this name stands before the plugin's on purpose.
    warnings.filterwarnings("ignore", r"\n'hydra/launcher/ray' is validated against")
    try:
        hydra.main(version_base="1.3", config_path=str(configs.resolve()), config_name="train")(task)()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_in_one_line(error, arguments, configs)) from None
    finally:
        sys.argv = before
    return 0


def _in_one_line(error: Exception, arguments: list[str], configs: Path) -> str:
    """What Hydra's error means, in the words of the command line."""
    text = str(error)
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, word = error.missing_cfg_file.rpartition("/")
        return str(unknown(group, word, error.options))
    if "hydra/launcher/submitit_slurm" in text:
        return "hydra/launcher=slurm: not installed; pip install bnexp[slurm]"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not understood; settings are given as name=value"
    if match := re.match(r"Could not override '([^']+)'", text):
        return _unknown_key(match[1], arguments, configs)
    if match := re.match(r"Ambiguous value for argument '([^']+)'", text):
        return f"{match[1]}: several values make a sweep, which needs -m"
    if match := re.match(r"Error merging override (.+)", text):
        reason = str(error.__cause__ or "not allowed").partition("\n")[0]
        wanted = re.search(r"could not be converted to (\w+)", reason)
        return f"{match[1]}: {f'expected {_TYPES.get(wanted[1], wanted[1])}' if wanted else reason}"
    return text.partition("\n")[0]


def _unknown_key(key: str, arguments: list[str], configs: Path) -> str:
    """The key, and what could stand in its place when all other words of the command line are composed."""
    words = [word for word in arguments if not word.startswith("-") and not _sweeps(word)]
    others = [word for word in words if word.partition("=")[0].lstrip("+") != key]
    try:
        with hydra.initialize_config_dir(str(configs.resolve()), version_base="1.3"):
            composed = hydra.compose("train", others, return_hydra_config=key.startswith("hydra."))
            config = cast(dict[str, Any], OmegaConf.to_container(composed))
    except (HydraException, OmegaConfBaseException, ValueError):
        return f"{key}: there is no such setting"
    known = [*flat(config), *config]
    same_leaf = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    hint = f"; did you mean {same_leaf[0]}?" if same_leaf else near_miss(key, known)
    group = key.rpartition(".")[0]
    allowed = [name for name in known if name.startswith(group + ".")] or list(config)
    return f"{key}: there is no such setting{hint} (allowed: {', '.join(allowed)})"


def _sweeps(word: str) -> bool:
    """Whether it gives a setting several values."""
    try:
        return OverridesParser.create().parse_override(word).is_sweep_override()
    except HydraException:
        return True


def plain(config: DictConfig) -> TrainConfig:
    """The composed config as a Python object, checked.

    Raises:
        ValueError: a value out of range, or a reference that leads nowhere.
    """
    try:
        resolved = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise ValueError(str(error).partition("\n")[0]) from None
    assert isinstance(resolved, TrainConfig)
    return resolved


def output_folder() -> Path:
    """The folder that Hydra has made for this job."""
    return Path(HydraConfig.get().runtime.output_dir)


def overrides() -> list[str]:
    """What the user typed for this job."""
    return list(HydraConfig.get().overrides.task)


def run_name() -> str:
    """What this job is called."""
    return names.run_name(overrides())


def notes(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, str]:
    """The files that Hydra's users look for in a run folder: name -> text."""
    return {
        ".hydra/config.yaml": OmegaConf.to_yaml(OmegaConf.create(dict(config))),
        ".hydra/overrides.yaml": OmegaConf.to_yaml(OmegaConf.create(list(overrides))),
    }


def drop_if_empty(folder: Path) -> None:
    """Remove the folder that Hydra has made, and those above it inside the working folder, as far as they are empty."""
    here = Path.cwd()
    try:
        folder.rmdir()
        for parent in folder.absolute().parents:
            if here not in parent.parents:
                return
            parent.rmdir()
    except OSError:  # not empty, or never made
        return
