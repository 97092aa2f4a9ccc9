"""Hydra's part of a sweep: from the words of ``bnexp train -m`` to jobs, and from jobs to what runs them.

Hydra takes plugins only from modules called ``hydra_plugins.*``. These classes say that they are from one, and are
registered by hand: bnexp puts no second package beside itself.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write

from bnexp.config import compose
from bnexp.config.checks import RunFailedError
from bnexp.config.compose import Composer
from bnexp.config.names import quoted
from bnexp.config.schema import to_dict
from bnexp.stopping import Stop
from bnexp.sweep.fork_server import ForkServer
from bnexp.sweep.options import options
from bnexp.sweep.plan import Entry, entries
from bnexp.sweep.supervisor import Engine, carry_out


def register(server: ForkServer | None = None) -> None:
    """Make the classes of this module known to Hydra under the names that the configs give.

    Args:
        server: forks the processes of the sweep to come; None for one of that sweep's own.
    """
    BnexpSweeper.server = server
    for plugin in (BnexpSweeper, BnexpLauncher):
        Plugins.instance().register(plugin)
    try:
        plugins = importlib.import_module("hydra_plugins")
    except ModuleNotFoundError:  # none is installed
        plugins = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        plugins.__path__ = []
    # Hydra looks a class up by its path before it uses it.
    plugins.bnexp = sys.modules[__name__]  # type: ignore[attr-defined]


class BnexpLauncher(Launcher):
    """``hydra/launcher=local`` and ``stacked``: the supervisor of ``bnexp.sweep``.

    Args:
        given: ``sweep.options.Options``, checked when the sweep starts.
    """

    __module__ = "hydra_plugins.bnexp"

    def __init__(self, **given: Any) -> None:
        self.given = given

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Nothing: the sweeper composes, and jobs are no calls of a task function."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        """Never called by Hydra's own sweepers in bnexp's configs.

        Raises:
            ValueError: it is, with a sweeper that chooses jobs one after another.
        """
        raise ValueError("hydra/launcher=local needs hydra/sweeper=grid (for other sweepers: hydra/launcher=basic)")


class BnexpSweeper(Sweeper):
    """``hydra/sweeper=grid``: every combination, composed and checked before anything is made on the disk.

    Args:
        max_batch_size: jobs that an engine is given at once; None for all.
        params: axis -> values, as in Hydra's basic sweeper; where presets have their axes.
        skip_invalid: run the rest where the configs of some jobs are impossible.
    """

    __module__ = "hydra_plugins.bnexp"
    # Hydra makes the objects of this class by itself, so that they cannot be given it.
    server: ClassVar[ForkServer | None] = None

    def __init__(self, max_batch_size: int | None, params: Mapping[str, str] | None, skip_invalid: bool) -> None:
        self.max_batch_size = max_batch_size
        self.params = params or {}
        self.skip_invalid = skip_invalid
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take over from Hydra; an engine's processes call ``run_composed``, which can be pickled.

        Raises:
            ValueError: the launcher is one of an extra that is not installed.
        """
        self.hydra_context, self.config = hydra_context, config
        try:
            self.launcher = Plugins.instance().instantiate_launcher(hydra_context, run_composed, config)
        except RuntimeError:  # no such class
            word = config.hydra.runtime.choices["hydra/launcher"]
            raise ValueError(f"hydra/launcher={word}: not installed; pip install bnexp[{word}]") from None

    def sweep(self, arguments: list[str]) -> None:
        """Run the jobs of a command line.

        Raises:
            ValueError: something in it is wrong; nothing is left behind.
            SystemExit: jobs have failed, or the sweep was stopped.
        """
        assert self.config is not None
        assert self.hydra_context is not None
        _refuse_names(OmegaConf.to_container(self.config.hydra.overrides.hydra))
        words = self._combinations(arguments)
        composed = Composer(self.hydra_context, self.config)
        jobs = entries((job, to_dict(compose.plain(composed(job)))) for job in words)
        given = self.launcher.given if isinstance(self.launcher, BnexpLauncher) else self._local()
        code = carry_out(
            Path(self.config.hydra.sweep.dir),
            jobs,
            command=arguments,
            options=options({**given, "skip_invalid": self.skip_invalid}),
            notes=compose.notes,
            engine=None if isinstance(self.launcher, BnexpLauncher) else self._engine(),
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
                raise ValueError(f"{override.input_line}: has no values, so that there is nothing to run")
        # Hydra runs this module anew when it looks for plugins; imported before that, it would not be the one in use.
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        words: list[list[str]]
        (words,) = BasicSweeper.split_arguments(overrides, None)
        return words

    def _local(self) -> dict[str, Any]:
        """What `bnexp resume` takes when it goes on, on this machine, with a sweep that an engine has begun."""
        assert self.hydra_context is not None
        assert self.config is not None
        loader = self.hydra_context.config_loader
        launcher = loader.load_sweep_config(self.config, ["hydra/launcher=local"]).hydra.launcher
        return {str(key): value for key, value in launcher.items() if key != "_target_"}

    def _engine(self) -> Engine:
        """What runs jobs through a launcher of Hydra's or of a plugin, in folders of our naming."""
        context, config, size = self.hydra_context, self.config, self.max_batch_size
        assert context is not None
        assert config is not None

        def engine(folder: Path, todo: Sequence[Entry]) -> None:
            place = f"hydra.sweep.dir={quoted(str(folder))}"
            words = [[*entry.overrides, place, f"hydra.sweep.subdir={quoted(entry.name)}"] for entry in todo]
            with read_write(config):
                config.hydra.sweep.dir = str(folder)  # plugins put files of their own there, too
            launcher = Plugins.instance().instantiate_launcher(context, run_composed, config)
            try:
                for start in range(0, len(words), size or len(words)):
                    batch = words[start : start + (size or len(words))]
                    for entry, job in zip(todo[start:], launcher.launch(batch, initial_job_idx=start), strict=False):
                        if job.status == JobStatus.FAILED:
                            entry.state, entry.reason = "failed", str(job._return_value)
            except Exception as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                raise RunFailedError(f"{type(launcher).__name__}: {reason}") from None

        return engine


def _refuse_names(overrides: Any) -> None:
    for word in overrides:
        if word.startswith("hydra.sweep.subdir="):
            raise ValueError(f"{word}: a sweep names its jobs' folders itself; hydra.sweep.dir says where they are")


def _values(override: Override) -> Any:
    return itertools.islice(override.sweep_string_iterator(), 1) if override.is_discrete_sweep() else [None]


def run_composed(config: DictConfig) -> None:
    """Do the job that Hydra has composed, in whatever process an engine has put it.

    Raises:
        ValueError, RunFailedError: as ``experiment.run``; the engine records it.
        SystemExit: a signal has stopped it; it has saved.
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
