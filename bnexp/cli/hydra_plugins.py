"""Hydra's part of a sweep: turns the words of ``bnexp train -m`` into jobs, and passes the jobs to their engine.

Hydra accepts plugins only from modules called ``hydra_plugins.*``. These classes claim to come from such a module and
are registered by hand, so that bnexp need not install a second package.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write

from bnexp.config import compose
from bnexp.config.checks import RunFailedError
from bnexp.config.compose import Composer
from bnexp.config.names import quoted
from bnexp.config.schema import to_dict
from bnexp.stopping import Stop
from bnexp.sweep.carry_out import carry_out
from bnexp.sweep.engine import End, Engine, News, Task
from bnexp.sweep.fork_server import ForkServer
from bnexp.sweep.options import options
from bnexp.sweep.plan import Entry, entries

# Engine -> the library that it needs, which an extra of the engine's name installs.
_LIBRARIES = {"slurm": "submitit", "ray": "ray"}


def register(server: ForkServer | None = None) -> None:
    """Register the classes of this module with Hydra, under the names in the yaml files.

    Args:
        server: forks the processes of the next sweep; None lets the sweep start its own fork server.
    """
    BnexpSweeper.server = server
    for plugin in (BnexpSweeper, BnexpLauncher):
        Plugins.instance().register(plugin)
    try:
        plugins = importlib.import_module("hydra_plugins")
    except ModuleNotFoundError:  # no plugin package is installed
        plugins = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        plugins.__path__ = []
    # Hydra would merge our yaml files with the schemas of plugins that have the same names (hydra-ray-launcher).
    for engine in _LIBRARIES:
        ConfigStore.instance().repo["hydra"]["launcher"].pop(f"{engine}.yaml", None)
    # Hydra looks a class up by its path before it uses it.
    plugins.bnexp = sys.modules[__name__]  # type: ignore[attr-defined]


class BnexpLauncher(Launcher):
    """``hydra/launcher=local``, ``stacked``, ``slurm`` and ``ray``: the supervisor and the engines of ``bnexp.sweep``.

    Args:
        given: ``sweep.options.Options``; the sweeper reads them from the config.
    """

    __module__ = "hydra_plugins.bnexp"

    def __init__(self, **given: Any) -> None:
        pass

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Do nothing: the sweeper composes the configs, and jobs are not calls of a task function."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        """Refuse to launch: Hydra calls this only for sweepers that choose jobs one after another.

        Raises:
            ValueError: always.
        """
        raise ValueError("this hydra/launcher needs hydra/sweeper=grid (for other sweepers: hydra/launcher=basic)")


class BnexpSweeper(Sweeper):
    """``hydra/sweeper=grid``: all combinations, composed and checked before anything is written to the disk.

    Args:
        max_batch_size: the most jobs that an engine gets at once; None for all.
        params: axis -> values, as in Hydra's basic sweeper; presets define their axes here.
        skip_invalid: run the other jobs where the configs of some are impossible.
    """

    __module__ = "hydra_plugins.bnexp"
    # A class variable, because Hydra makes the objects of this class and cannot pass the server.
    server: ClassVar[ForkServer | None] = None

    def __init__(self, max_batch_size: int | None, params: Mapping[str, str] | None, skip_invalid: bool) -> None:
        self.max_batch_size = max_batch_size
        self.params = params or {}
        self.skip_invalid = skip_invalid
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take over from Hydra. Processes of other launchers call ``run_composed``, because it can be pickled.

        Raises:
            ValueError: the launcher belongs to an extra that is not installed.
        """
        self.hydra_context, self.config = hydra_context, config
        try:
            self.launcher = Plugins.instance().instantiate_launcher(hydra_context, run_composed, config)
        except RuntimeError:  # Hydra does not find the launcher's class
            word = config.hydra.runtime.choices["hydra/launcher"]
            raise ValueError(f"hydra/launcher={word}: not installed; pip install bnexp[{word}]") from None

    def sweep(self, arguments: list[str]) -> None:
        """Run the jobs of a command line.

        Raises:
            ValueError: the command line is wrong; nothing is left behind.
            SystemExit: jobs have failed, or the sweep was stopped.
        """
        assert self.config is not None
        assert self.hydra_context is not None
        _refuse_names(OmegaConf.to_container(self.config.hydra.overrides.hydra))
        words = self._combinations(arguments)
        composed = Composer(self.hydra_context, self.config)
        jobs = entries((job, to_dict(compose.plain(composed(job)))) for job in words)
        ours = isinstance(self.launcher, BnexpLauncher)
        given = self._local() | (self._given() if ours else {}) | {"skip_invalid": self.skip_invalid}
        code = carry_out(
            Path(self.config.hydra.sweep.dir),
            jobs,
            command=arguments,
            options=options(given),
            notes=compose.notes,
            engine=None if ours else self._engine(jobs),
            server=self.server,
            fresh=compose.is_fresh(self.config.hydra.sweep),
        )
        if code:
            raise SystemExit(code)

    def _combinations(self, arguments: list[str]) -> list[list[str]]:
        """The words of each job.

        Raises:
            ValueError: an axis has no values.
        """
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        axes = [f"{key}={values}" for key, values in self.params.items()]
        overrides = parser.parse_overrides([*axes, *arguments])
        for override in overrides:
            if override.is_sweep_override() and not list(_values(override)):
                raise ValueError(f"{override.input_line}: has no values, so there is nothing to run")
        # Hydra reloads this module when it looks for plugins; an earlier import would give a class no longer in use.
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        words: list[list[str]]
        (words,) = BasicSweeper.split_arguments(overrides, None)
        return words

    def _local(self) -> dict[str, Any]:
        """The options of ``hydra/launcher=local``, without the command line's, which are another launcher's."""
        assert self.hydra_context is not None
        loader = self.hydra_context.config_loader
        return compose.launcher_options(loader.load_configuration("train", ["hydra/launcher=local"], RunMode.MULTIRUN))

    def _given(self) -> dict[str, Any]:
        """The options of one of our launchers.

        Raises:
            ValueError: its engine belongs to an extra that is not installed.
        """
        assert self.config is not None
        given = compose.launcher_options(self.config)
        engine, word = given.get("engine", "local"), self.config.hydra.runtime.choices["hydra/launcher"]
        if engine in _LIBRARIES and importlib.util.find_spec(_LIBRARIES[engine]) is None:
            raise ValueError(f"hydra/launcher={word}: not installed; pip install bnexp[{engine}]")
        limit = {} if self.max_batch_size is None or engine == "local" else {"jobs": self.max_batch_size}
        return given | limit

    def _engine(self, jobs: Sequence[Entry]) -> Engine:
        assert self.hydra_context is not None
        assert self.config is not None
        return OtherLauncher(self.hydra_context, self.config, {entry.name: entry for entry in jobs})


class OtherLauncher:
    """The engine for launchers of Hydra and of plugins. Their jobs end before ``submit`` returns.

    Args:
        context, config: of Hydra.
        jobs: the jobs by name.
    """

    name = ""
    survives = False

    def __init__(self, context: HydraContext, config: DictConfig, jobs: Mapping[str, Entry]) -> None:
        self._context, self._config, self._jobs = context, config, jobs
        self._ended: list[End] = []

    def begin(self, threads: int) -> None:
        """Do nothing: the launcher begins when it gets jobs."""

    def room(self) -> int:
        """As many tasks as Hydra's setting allows."""
        return self._config.hydra.sweeper.max_batch_size or 10**9

    def submit(self, tasks: Sequence[Task]) -> dict[int, str]:
        """Carry out all tasks, in folders named by bnexp.

        Raises:
            RunFailedError: the launcher failed.
        """
        signal.signal(signal.SIGINT, signal.default_int_handler)  # launchers wait for jobs in calls of their libraries
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        folder = tasks[0].sweep
        place = f"hydra.sweep.dir={quoted(os.path.abspath(folder))}"
        names = [task.given["jobs"][0]["name"] for task in tasks]
        words = [[*self._jobs[name].overrides, place, f"hydra.sweep.subdir={quoted(name)}"] for name in names]
        with read_write(self._config):
            self._config.hydra.sweep.dir = str(folder)  # plugins put files of their own there, too
        launcher = Plugins.instance().instantiate_launcher(self._context, run_composed, self._config)
        try:
            done = launcher.launch(words, initial_job_idx=tasks[0].number - 1)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise RunFailedError(f"{type(launcher).__name__}: {reason}") from None
        for task, job in zip(tasks, done, strict=True):
            failed = job.status == JobStatus.FAILED
            self._ended.append(End(task.number, int(failed), (), str(job._return_value) if failed else None))
        return {}

    def poll(self, timeout_s: float) -> News:
        """The tasks that ``submit`` has carried out."""
        ended, self._ended = self._ended, []
        return News(ended=ended)

    def alive(self, tickets: Collection[str]) -> Collection[str]:
        """None: nothing outlasts ``submit``."""
        return ()

    def attach(self, number: int, ticket: str, sweep: Path) -> None:
        """Never called, see ``alive``."""
        raise AssertionError

    def cancel(self, numbers: Collection[int], *, by_force: bool = False) -> None:
        """Do nothing: a launcher cannot be asked."""

    def close(self) -> None:
        """Do nothing."""


def _refuse_names(overrides: Any) -> None:
    for word in overrides:
        if word.startswith("hydra.sweep.subdir="):
            raise ValueError(f"{word}: a sweep names its jobs' folders itself; hydra.sweep.dir says where they are")


def _values(override: Override) -> Any:
    return itertools.islice(override.sweep_string_iterator(), 1) if override.is_discrete_sweep() else [None]


def run_composed(config: DictConfig) -> None:
    """Run the job that Hydra has composed; an engine calls this in a process of its choice.

    Raises:
        ValueError, RunFailedError: see ``experiment.run``; the engine records the error.
        SystemExit: a signal stopped the job after it saved.
    """
    from bnexp.experiment.job import Job, already_done, import_modules
    from bnexp.experiment.run import run

    plain, words = compose.plain(config), compose.overrides()
    folder = Path(HydraConfig.get().runtime.output_dir)
    job = Job(plain, folder, folder.name, words, compose.notes(to_dict(plain), words))
    stop = Stop()
    with stop.listening():
        import_modules(plain.imports)
        if already_done(job) is None:
            run([job], stop=stop)
    if stop():
        raise SystemExit(stop.exit_code)
