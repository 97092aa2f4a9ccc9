"""Hydra: composes a config from the command line, and turns Hydra's errors into one line."""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, cast

import hydra
import yaml  # type: ignore[import-untyped]
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from bnexp.config import names, own_folder, words
from bnexp.config.checks import near_miss, unknown
from bnexp.config.descriptions import other_names
from bnexp.config.own_folder import YAML_FAULTS
from bnexp.config.schema import LISTS, TrainConfig, completed, flat, from_dict, to_dict

# What composing raises.
FAULTS = (HydraException, OmegaConfBaseException)
_TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}


@dataclass
class SweeperConf:
    """Hydra's schema of the sweeper in ``cli/hydra_plugins``: the fields of BasicSweeper, and ``skip_invalid``."""

    _target_: str = "hydra_plugins.bnexp.BnexpSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None
    skip_invalid: bool = False


@dataclass
class RandomSweeperConf(SweeperConf):
    """Hydra's schema of ``hydra/sweeper=random``."""

    _target_: str = "hydra_plugins.bnexp.RandomSweeper"
    samples: int = 20
    seed: int = 0
    cross: list[str] = field(default_factory=lambda: ["seed"])


class RunFolder(Callback):
    """Takes the name of a single run's folder from Hydra, which would make the folder before anything is checked."""

    path: ClassVar[str | None] = None
    fresh: ClassVar[bool] = False

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Store the folder of the run, and keep Hydra from making or filling any folder."""
        HydraConfig.instance().set_config(config)  # for ${hydra:...} in the folder's name
        # An error here would only be a warning; Hydra raises the same error a moment later.
        with contextlib.suppress(OmegaConfBaseException), read_write(config.hydra):
            RunFolder.path, RunFolder.fresh = str(config.hydra.run.dir), is_fresh(config.hydra.run)
            config.hydra.run.dir = "."
            config.hydra.output_subdir, config.hydra.job.chdir = None, False


def is_fresh(place: DictConfig) -> bool:
    """Whether a folder's name is the one of configs/train.yaml, so that every command gets another folder."""
    return str(OmegaConf.to_container(place, resolve=False)["dir"]).startswith("${free_folder:")  # type: ignore[index, call-overload]


ConfigStore.instance().store("bnexp_train", TrainConfig)
ConfigStore.instance().store(
    group="hydra/callbacks",
    name="bnexp",
    node={"run_folder": {"_target_": f"{RunFolder.__module__}.{RunFolder.__qualname__}"}},
)
ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=SweeperConf)
ConfigStore.instance().store(group="hydra/sweeper", name="random", node=RandomSweeperConf)
# The launcher's options and values are in configs/hydra/launcher, their types and limits in sweep/options.py.
ConfigStore.instance().store(
    group="hydra/launcher", name="bnexp", node={"_target_": "hydra_plugins.bnexp.BnexpLauncher"}
)
OmegaConf.register_new_resolver("run_name", lambda overrides: names.run_name(overrides))
OmegaConf.register_new_resolver("pixel_scale", lambda init_from: "own" if init_from is None else "source")
# A mark, see ``is_fresh``: the name is free once ``storage.make_free`` has made the folder.
OmegaConf.register_new_resolver("free_folder", lambda folder: folder)


def run_hydra(task: Callable[[DictConfig], None], arguments: list[str], configs: Path) -> int:
    """Pass the command line to Hydra, which calls ``task`` with the composed config, or calls the sweeper.

    Returns:
        The exit code of a sweep, else 0.

    Raises:
        ValueError: an error in the command line or a yaml file, in one line.
    """
    words.refuse(arguments)
    if "--hydra-help" in arguments:
        arguments = ["--hydra-help"]  # with settings, Hydra would look for them in vain
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors as exceptions, not as Hydra's print and exit
    before, sys.argv = sys.argv, ["bnexp", *words.taken_literally(arguments)]
    try:
        folder = _config_dir(arguments)
        if folder is not None:
            own_folder.refuse_programs(folder)
        hydra.main(version_base="1.3", config_path=str(configs.resolve()), config_name="train")(task)()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except FAULTS as error:
        raise ValueError(in_one_line(error, arguments, configs)) from None
    except YAML_FAULTS as error:
        raise ValueError(_yaml_fault(error, folder)) from None
    finally:
        sys.argv = before
    return 0


def _config_dir(arguments: list[str]) -> Path | None:
    """The folder of the user's own yaml files, if one is given.

    Raises:
        ValueError: an option lacks its value; Hydra would print its whole usage text.
    """
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        given, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ValueError(f"train: {error} (bnexp train --help)") from None
    if rest:
        raise ValueError(f"{rest[0]}: put all settings together, not before and after an option")
    return Path(given.config_dir) if given.config_dir else None


def _yaml_fault(error: Exception, folder: Path | None) -> str:
    """Describe a yaml file that cannot be read: file, line, reason."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"{error.problem_mark.name}:{error.problem_mark.line + 1}: {error.problem}"
    for path in sorted(folder.rglob("*.yaml")) if folder else ():
        with contextlib.suppress(OSError):
            try:
                yaml.safe_load(path.read_text(encoding="utf-8"))
            except YAML_FAULTS:
                return f"{path}: not valid yaml text"
    return f"{folder or 'configs'}: a yaml file there cannot be read ({str(error).partition(chr(10))[0]})"


def in_one_line(error: Exception, arguments: list[str], configs: Path) -> str:
    """Hydra's error as one line, in terms of the command line."""
    text = str(error)
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, word = error.missing_cfg_file.rpartition("/")
        return _unknown_choice(group, word, error.options, arguments, configs)
    if match := re.search(r"Could not load '([^']+)/([^'/]+)'", text):  # an item of a list, as in probes=[a,b]
        known = [path.stem for path in (configs / match[1]).glob("*.yaml")]
        return _unknown_choice(match[1], match[2], known, arguments, configs)
    if isinstance(error, OverrideParseException):
        quoted = ", and a value with marks or spaces as name=\"'value'\"" if "=" in error.override else ""
        given = words.typed(error.override, arguments)
        return f"{given}: cannot be parsed; settings are given as name=value{quoted}"
    if match := re.match(r"Could not override '([^']+)'", text):
        return _unknown_key(match[1], arguments, configs)
    if match := re.match(r"Ambiguous value for argument '([^']+)'", text):
        return f"{match[1]}: several values make a sweep: bnexp train -m, or bnexp.train_all"
    if match := re.match(r"Error merging override (.+)", text):
        reason = str(error.__cause__ or "not allowed").partition("\n")[0]
        return f"{match[1]}: {_reason(reason, match[1].partition('=')[0].lstrip('+'))}"
    if match := re.match(r"In '([^']+)': \w+ raised while composing config:\n(.+)", text):
        return f"{match[1]}.yaml: {match[2]}"
    first = text.partition("\n")[0]
    return f"{error.full_key}: {first}" if isinstance(error, OmegaConfBaseException) and error.full_key else first


def _reason(said: str, key: str) -> str:
    """Why a value cannot be had, in the place of OmegaConf's words for it."""
    if wanted := re.search(r"could not be converted to (\w+)", said):
        return f"expected {_TYPES.get(wanted[1], wanted[1])}"
    if "is not a ListConfig" in said:
        return f"expected a list, such as {key}=[a,b]"
    return "needs a value" if "is not Optional" in said else said


def _unknown_choice(group: str, word: str, known: Sequence[str], arguments: Sequence[str], configs: Path) -> str:
    """The message for a word that has no yaml in its group."""
    own = _config_dir(list(arguments))
    also = other_names(folder / group for folder in ([own] if own else []) + [configs])
    imports = next((each for each in arguments if each.startswith("imports=")), None)
    if imports is None or word in also:
        return str(unknown(group, word, known, also))
    needed = f"besides {imports}, a {group} of your own needs its options in {own or 'FOLDER'}/{group}/{word}.yaml"
    return f"{group}={word}: {needed}{'' if own else ', and --config-dir FOLDER'}{near_miss(word, known, cutoff=0.75)}"


def _unknown_key(key: str, arguments: list[str], configs: Path) -> str:
    """The message for an unknown key: it lists the keys that exist with the other words of the command line."""
    words = [word for word in arguments if "=" in word and not word.startswith("-") and not _sweeps(word)]
    others = [word for word in words if word.partition("=")[0].lstrip("+") != key]
    try:
        others += _searched_too(_config_dir(arguments))
        with hydra.initialize_config_dir(str(configs.resolve()), version_base="1.3"):
            composed = hydra.compose("train", others, return_hydra_config=key.startswith("hydra."))
            config = cast(dict[str, Any], OmegaConf.to_container(composed))
    except (*FAULTS, ValueError):
        return f"{key}: there is no such setting"
    first, _, rest = key.partition(".")
    item, kind = rest.partition(".")[0], LISTS.get(first)
    if kind and item and item not in config[first]:
        return f"{key}: this {kind} is not chosen; settings of one need {first}=[{item}]"
    known = [*flat(config), *config]
    same_leaf = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    hint = f"; did you mean {same_leaf[0]}?" if same_leaf else near_miss(key, known)
    group = key.rpartition(".")[0]
    allowed = [name for name in known if name.startswith(group + ".")] or list(config)
    return f"{key}: there is no such setting{hint} (allowed: {', '.join(allowed)})"


def _sweeps(word: str) -> bool:
    """True if a word gives a setting several values."""
    try:
        return OverridesParser.create().parse_override(word).is_sweep_override()
    except HydraException:
        return True


class Composer:
    """Composes the jobs of a sweep; reads the yaml files once for each choice of groups.

    Hydra's own function sets plain values on a copy: composing a job takes 2 ms instead of 70.
    """

    def __init__(self, context: HydraContext, master: DictConfig) -> None:
        loader = context.config_loader
        assert isinstance(loader, ConfigLoaderImpl)
        self._loader, self._master = loader, master
        self._parser = OverridesParser.create(config_loader=loader)
        self._bases: dict[tuple[str, ...], DictConfig] = {}

    def __call__(self, words: Sequence[str]) -> DictConfig:
        """The config of a job, as Hydra composes it, without Hydra's own settings."""
        parsed = self._parser.parse_overrides(list(words))
        values = [override for override in parsed if self._is_value(override)]
        key = tuple(str(override.input_line) for override in parsed if not self._is_value(override))
        if key not in self._bases:
            base = self._loader.load_sweep_config(self._master, list(key))
            with open_dict(base):
                del base["hydra"]
            self._bases[key] = base
        config = copy.deepcopy(self._bases[key])
        self._loader._apply_overrides_to_config(values, config)
        return config

    def _is_value(self, override: Override) -> bool:
        """True if an override sets a value in the config and does not choose a file."""
        plain = not (
            override.is_add() or override.is_force_add() or override.is_delete() or override.is_hydra_override()
        )
        return plain and not self._loader.repository.group_exists(override.key_or_group)


def composer(configs: Path, own: Path | None = None) -> Composer:
    """What composes configs without a Hydra application around it; ``own`` as ``--config-dir`` of an application."""
    with hydra.initialize_config_dir(str(configs.resolve()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("train", _searched_too(own), RunMode.MULTIRUN)
    return Composer(HydraContext(config_loader=loader, callbacks=Callbacks()), master)


def _searched_too(own: Path | None) -> list[str]:
    """The words by which Hydra looks into a folder of the user's, too."""
    return [] if own is None else [f"hydra.searchpath=[{names.quoted(f'file://{own.resolve()}')}]"]


class JobComposer:
    """Composes jobs, given by their overrides, without a Hydra application around it. Reads each yaml file once.

    Args:
        configs: the shipped yaml files.
        own: a folder with yaml files of the user's.
        imports: modules of the user's that jobs may import; a file that holds their overrides may come from anywhere.

    Raises:
        ValueError: see ``own_folder.refuse_programs``.
    """

    def __init__(self, configs: Path, own: Path | None = None, imports: Sequence[str] = ()) -> None:
        self.configs, self.imports, self._own = configs, tuple(imports), own
        self._named = set[str]()
        self._composer: Composer | None = None
        if own is not None:
            own_folder.refuse_programs(own)

    def __call__(self, jobs: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        """The checked configs of jobs.

        Raises:
            ValueError: an error in one of the jobs, in one line.
        """
        composed: list[dict[str, Any]] = []
        words: Sequence[str] = ()
        try:
            compose = self._composer = self._composer or composer(self.configs, self._own)
            for words in jobs:
                composed.append(to_dict(plain(compose(words))))
                self._require_typed(composed[-1]["imports"])
        except FAULTS as error:
            raise ValueError(in_one_line(error, [*words, *self._folder_words], self.configs)) from None
        except YAML_FAULTS as error:
            raise ValueError(_yaml_fault(error, self._own)) from None
        return composed

    @property
    def own_words(self) -> list[str]:
        """The words of a command that name the user's folder and modules."""
        return [*self._folder_words, *(["--imports", ",".join(self.imports)] if self.imports else [])]

    @property
    def _folder_words(self) -> list[str]:
        return [] if self._own is None else ["--config-dir", str(self._own)]

    def require_needed(self) -> None:
        """Refuse modules that no job so far names: they would not be imported.

        Raises:
            ValueError: which ones.
        """
        if unused := ",".join(name for name in self.imports if name not in self._named):
            raise ValueError(f"--imports {unused}: no run would import it; the settings need imports=[{unused}]")

    def _require_typed(self, named: Sequence[str]) -> None:
        self._named |= set(named)
        if missing := [name for name in named if name not in self.imports]:
            raise ValueError(
                f"imports=[{','.join(named)}]: modules are programs; type --imports {','.join(missing)} too"
            )


def launcher(name: str, configs: Path) -> dict[str, Any]:
    """The options of ``hydra/launcher=<name>``, outside of any command of Hydra's."""
    with hydra.initialize_config_dir(str(configs.resolve()), version_base="1.3"):
        composed = hydra.compose("train", [f"hydra/launcher={name}"], return_hydra_config=True)
    return launcher_options(composed)


def launcher_options(composed: DictConfig) -> dict[str, Any]:
    """The options of a config's launcher, by name, as plain Python values."""
    values = cast(dict[str, Any], OmegaConf.to_container(composed.hydra.launcher, resolve=True))
    return {key: value for key, value in values.items() if key != "_target_"}


def plain(config: DictConfig) -> TrainConfig:
    """The composed config as a Python object, checked.

    Raises:
        ValueError: an unknown key, a value out of range, or a reference to a missing setting.
    """
    return from_dict(settings(config))


def settings(config: DictConfig) -> dict[str, Any]:
    """The composed config as a dict, whose values are not checked yet.

    Raises:
        ValueError: an unknown key, or a reference to a missing setting.
    """
    known = [setting.name for setting in fields(TrainConfig)]
    for key in config:  # `+key=value` adds keys that TrainConfig does not have
        if key not in known:
            hint = near_miss(str(key), known)
            raise ValueError(f"{key!s}: there is no such setting{hint} (allowed: {', '.join(known)})")
    try:
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ValueError(str(error).partition("\n")[0]) from None
    assert isinstance(resolved, dict)
    return completed(cast("dict[str, Any]", resolved))  # a user's own yaml may be older than an option of its group


def output_folder() -> Path:
    """The folder for this run; it has not been made yet."""
    return Path(os.path.abspath(RunFolder.path or HydraConfig.get().runtime.output_dir))


def overrides() -> list[str]:
    """The overrides that the user typed for this job."""
    return list(HydraConfig.get().overrides.task)


def run_name() -> str:
    """The name of this job."""
    return names.run_name(overrides())


def notes(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, str]:
    """The files that Hydra's users expect in a run folder: name -> text."""
    return {
        ".hydra/config.yaml": "".join(_as_yaml(json.dumps({key: value})) for key, value in config.items()),
        ".hydra/overrides.yaml": OmegaConf.to_yaml(OmegaConf.create(list(overrides))),
    }


@functools.lru_cache(maxsize=1000)
def _as_yaml(part: str) -> str:
    """One setting, given as JSON, as YAML. OmegaConf takes milliseconds, and a sweep's jobs share most settings."""
    return OmegaConf.to_yaml(OmegaConf.create(json.loads(part)))
