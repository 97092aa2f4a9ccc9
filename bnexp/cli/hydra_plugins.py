"""Hydra's part of a sweep: turns the words of ``bnexp train -m`` into jobs, and passes the jobs to their engine.

Hydra accepts plugins only from modules called ``hydra_plugins.*``. These classes claim to come from such a module and
are registered by hand, so that bnexp need not install a second package.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import signal
import sys
from collections.abc import Collection, Mapping, Sequence, Set
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Sweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write

from bnexp.config import compose
from bnexp.config.checks import Range, RunFailedError, checked
from bnexp.config.compose import Composer
from bnexp.config.extras import missing
from bnexp.config.names import counted, quoted
from bnexp.config.schema import to_dict
from bnexp.config.shipped import configs_folder
from bnexp.stopping import Stop
from bnexp.sweep.carry_out import Order, carry_out
from bnexp.sweep.display import Report, print_summary
from bnexp.sweep.draws import Choice, Interval, draw
from bnexp.sweep.engine import End, Engine, News, Task
from bnexp.sweep.fork_server import ForkServer
from bnexp.sweep.options import options
from bnexp.sweep.plan import Entry, entries

# More jobs than a sweep's file and folder can hold in comfort.
_MOST_JOBS = 10**6
# Engine -> the library that it needs, which an extra of the engine's name installs.
_LIBRARIES = {"slurm": "submitit", "ray": "ray"}


def register(server: ForkServer | None = None, report: Report = print_summary) -> None:
    """Register the classes of this module with Hydra, under the names in the yaml files.

    Args:
        server: forks the processes of the next sweep; None lets the sweep start its own fork server.
        report: says how the next sweep has ended.
    """
    BnexpSweeper.server, BnexpSweeper.report = server, staticmethod(report)
    for plugin in (BnexpSweeper, RandomSweeper, BnexpLauncher):
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
        needed = "this hydra/launcher needs hydra/sweeper=grid or random"
        raise ValueError(f"{needed} (for other sweepers: hydra/launcher=basic)")


class BnexpSweeper(Sweeper):
    """``hydra/sweeper=grid``: all combinations, composed and checked before anything is written to the disk.

    Args:
        max_batch_size: the most jobs that an engine gets at once; None for all.
        params: axis -> values, as in Hydra's basic sweeper; presets define their axes here.
        skip_invalid: run the other jobs where the configs of some are impossible.
    """

    __module__ = "hydra_plugins.bnexp"
    # Class variables, because Hydra makes the objects of this class and cannot pass them.
    server: ClassVar[ForkServer | None] = None
    report: ClassVar[Report] = staticmethod(print_summary)

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
            raise missing(f"hydra/launcher={word}", word) from None

    def sweep(self, arguments: list[str]) -> None:
        """Run the jobs of a command line.

        Raises:
            ValueError: the command line is wrong; nothing is left behind.
            SystemExit: jobs have failed, or the sweep was stopped.
        """
        assert self.config is not None
        assert self.hydra_context is not None
        _refuse_names(OmegaConf.to_container(self.config.hydra.overrides.hydra))
        words = self._combinations(self._overrides(arguments))
        composed = self._composed(words)
        jobs = entries(composed)
        if len(jobs) < len(composed):
            self._tell_of_equal(len(jobs), len(composed))
        ours = isinstance(self.launcher, BnexpLauncher)
        given = self._local() | (self._given() if ours else {"stack": False})  # others take one job at a time
        given |= {"skip_invalid": self.skip_invalid, "drawn": self._drawn(jobs)}
        folder, fresh = Path(self.config.hydra.sweep.dir), compose.is_fresh(self.config.hydra.sweep)
        code = carry_out(
            Order(folder, jobs, arguments, options(given), fresh),
            notes=compose.notes,
            engine=None if ours else self._engine(jobs),
            server=self.server,
            report=BnexpSweeper.report,
        )
        if code:
            raise SystemExit(code)

    def _overrides(self, arguments: list[str]) -> list[Override]:
        """The settings of a command line; of a setting that is given twice, the last.

        Raises:
            ValueError: an axis has no values.
        """
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        axes = [f"{key}={values}" for key, values in self.params.items()]
        parsed = parser.parse_overrides([*axes, *arguments])
        overrides = list({override.get_key_element(): override for override in parsed}.values())
        for override in overrides:
            if _is_empty(override):
                raise ValueError(f"{override.input_line}: has no values, so there is nothing to run")
        return overrides

    def _combinations(self, overrides: list[Override]) -> list[list[str]]:
        """The words of each job.

        Raises:
            ValueError: a setting has an interval of values.
        """
        for override in overrides:
            if override.is_interval_sweep():
                what = "an interval is no list of values; hydra/sweeper=random draws values from it"
                raise ValueError(f"{override.input_line}: {what}")
        count = math.prod(_values(override) for override in overrides)
        if count > _MOST_JOBS:
            raise ValueError(f"{count:,} jobs: more than the {_MOST_JOBS:,} that a sweep can have; give fewer values")
        # Hydra reloads this module when it looks for plugins; an earlier import would give a class no longer in use.
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        words: list[list[str]]
        (words,) = BasicSweeper.split_arguments(overrides, None)
        return words

    def _composed(self, words: Sequence[list[str]]) -> list[tuple[list[str], dict[str, Any]]]:
        """The config of each job; with ``skip_invalid``, of those whose words go together.

        Raises:
            ValueError: the words of a job do not.
        """
        assert self.config is not None
        assert self.hydra_context is not None
        composes = Composer(self.hydra_context, self.config)
        composed, faults = list[tuple[list[str], dict[str, Any]]](), list[tuple[list[str], Exception]]()
        for job in words:
            try:
                composed.append((job, compose.settings(composes(job))))
            except compose.FAULTS as error:
                faults.append((job, error))
        if faults and not composed:
            raise faults[0][1]
        if faults:
            said = f"{' '.join(faults[0][0])}: {compose.in_one_line(faults[0][1], faults[0][0], configs_folder())}"
            if not self.skip_invalid:
                raise ValueError(f"{said}; hydra.sweeper.skip_invalid=true runs the rest") from faults[0][1]
            print(f"left out {len(faults)} of {len(words)} combinations, as {said}", file=sys.stderr)
        return composed

    def _tell_of_equal(self, jobs: int, asked: int) -> None:
        """Say that some of the combinations asked for are the same job."""
        what = "values given twice, and those of tags and notes, make no job of their own"
        print(f"{asked} combinations are {counted(jobs, 'job')}: {what}", file=sys.stderr)

    def _drawn(self, jobs: Sequence[Entry]) -> list[str]:
        """The settings that were drawn at random, if a draw can be chosen on validation images."""
        return []

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
            raise missing(f"hydra/launcher={word}", engine)
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

    def alive(self, tickets: Collection[str]) -> Set[str]:
        """None: nothing outlasts ``submit``."""
        return set()

    def attach(self, number: int, ticket: str, sweep: Path) -> None:
        """Never called, see ``alive``."""
        raise AssertionError

    def cancel(self, numbers: Collection[int], *, by_force: bool = False) -> None:
        """Do nothing: a launcher cannot be asked."""

    def close(self) -> None:
        """Do nothing."""


class RandomSweeper(BnexpSweeper):
    """``hydra/sweeper=random``: random values of settings; each draw runs with every value of the crossed settings.

    Args:
        samples: how many draws. More samples later add draws, and leave the first ones what they are.
        seed: what the draws depend on, besides their numbers and the settings' names.
        cross: settings with a list of values that are not drawn.
        grid: see ``BnexpSweeper``.
    """

    __module__ = "hydra_plugins.bnexp"

    def __init__(self, samples: int, seed: int, cross: Sequence[str], **grid: Any) -> None:
        super().__init__(**grid)
        self.samples, self.seed, self.cross = samples, seed, list(cross)
        self.axes: dict[str, Interval | Choice] = {}

    def sweep(self, arguments: list[str]) -> None:
        """See ``BnexpSweeper.sweep``; a setting that takes whole numbers needs an interval of whole numbers."""
        checked("hydra.sweeper.samples", self.samples, Annotated[int, Range(least=1, most=10**6)])
        try:
            super().sweep(arguments)
        except (ValueError, HydraException) as error:
            said = f"{error} {error.__cause__}"
            for key in (key for key, axis in self.axes.items() if isinstance(axis, Interval) and not axis.whole):
                if re.search(rf"(^| ){re.escape(key)}=[^ ,]+(: expected a whole number|.* Integer)", said):
                    raise ValueError(f"{key}: takes whole numbers; int(interval(a, b)) draws these") from None
            raise

    def _combinations(self, overrides: list[Override]) -> list[list[str]]:
        """The words of each job: all of the first draw, then of the second, ...

        Raises:
            ValueError: an interval is wrong, a crossed setting has no list, or nothing is left to draw.
        """
        swept = {override.key_or_group: override for override in overrides if override.is_sweep_override()}
        for key in self.cross:
            if (key not in swept and key != "seed") or (key in swept and swept[key].is_interval_sweep()):
                raise ValueError(f"hydra.sweeper.cross: {key} has no list of values here, such as {key}=a,b")
        drawn = [override for key, override in swept.items() if key not in self.cross]
        if not drawn:
            raise ValueError("hydra/sweeper=random: nothing to draw; give a setting interval(a, b) or values a,b")
        self.axes = {override.get_key_element(): _axis(override) for override in drawn}
        grid = super()._combinations([override for override in overrides if override not in drawn])
        draws = [draw(self.axes, self.seed, number) for number in range(self.samples)]
        return [[*words, *values] for values in draws for words in grid]

    def _tell_of_equal(self, jobs: int, asked: int) -> None:
        print(f"{asked - jobs} of {asked} combinations were drawn before, and run once", file=sys.stderr)

    def _drawn(self, jobs: Sequence[Entry]) -> list[str]:
        if any(not entry.config["data"].get("validation") for entry in jobs):
            what = "only test images to choose a draw by, which makes test accuracies too good"
            print(f"data.validation=0: {what}; data.validation=0.1 sets images apart", file=sys.stderr)
            return []
        return [key.lstrip("+") for key in self.axes]


def _axis(override: Override) -> Interval | Choice:
    """What a setting is drawn from.

    Raises:
        ValueError: the interval is wrong, or a tag has no meaning.
    """
    value, line = override.value(), override.input_line
    log = isinstance(value, Sweep) and bool(value.tags)
    if log and (not isinstance(value, IntervalSweep) or value.tags != {"log"}):
        raise ValueError(f"{line}: the only tag is tag(log, interval(a, b)), for logarithms that are equally likely")
    if not isinstance(value, IntervalSweep):
        return Choice(list(override.sweep_string_iterator()))
    assert value.start is not None
    assert value.end is not None
    try:
        return Interval(value.start, value.end, whole=isinstance(value.start, int), log=log)
    except ValueError as error:
        raise ValueError(f"{line}: {error}") from None


def _refuse_names(overrides: Any) -> None:
    for word in overrides:
        if word.startswith("hydra.sweep.subdir="):
            raise ValueError(f"{word}: a sweep names its jobs' folders itself; hydra.sweep.dir says where they are")


def _values(override: Override) -> int:
    """How many values a setting has, without making them."""
    value = override.value()
    if isinstance(value, RangeSweep) and value.stop is not None and value.step:
        return max(0, math.ceil((value.stop - (value.start or 0)) / value.step))
    return len(value.list) if isinstance(value, ChoiceSweep) else 1


def _is_empty(override: Override) -> bool:
    """Whether an axis has no values.

    Raises:
        ValueError: its values cannot be told, as those of a range whose step is 0.
    """
    try:
        return override.is_discrete_sweep() and next(override.sweep_string_iterator(), None) is None
    except ValueError as error:
        raise ValueError(f"{override.input_line}: {error}") from None


def run_composed(config: DictConfig) -> None:
    """Run the job that Hydra has composed; an engine calls this in a process of its choice.

    Raises:
        ValueError, RunFailedError: see ``experiment.run``; the engine records the error.
        SystemExit: a signal stopped the job after it saved.
    """
    from bnexp.experiment.imports import import_modules
    from bnexp.experiment.job import Job, already_done
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
