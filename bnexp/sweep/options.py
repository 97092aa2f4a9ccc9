"""How a sweep's jobs are run; the results do not depend on it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from bnexp.config.checks import NonNegative, OneOf, Positive, PositiveFloat, Range, checked, near_miss

ENGINES = ("local", "slurm", "ray")
Kind = TypeVar("Kind")
# A number, or auto.
Count = Annotated[int, Range(least=1, most=10_000)] | Literal["auto"]


@dataclass(frozen=True)
class Options:
    """The options of ``hydra/launcher``; their default values are in the yaml files.

    Attributes:
        jobs: processes at the same time; auto means one per CPU core, or ``slots_per_gpu`` per GPU. With an engine: the
            most tasks that it has at once; auto means all.
        slots_per_gpu: jobs that share a GPU; auto means as many as its memory and the CPU's cores allow.
        timeout_s: seconds that one try of a job may take.
        grace_s: seconds between asking a job to save and killing it.
        max_failures: number of failed jobs after which no more jobs start.
        stack: whether jobs that can be stacked train as populations; auto means on a GPU alone. On a CPU a stack
            differs from single runs in the last bits, and only nets without convolutions gain by it.
        max_stack: the most jobs that train as one population.
        skip_invalid: run the other jobs where the configs of some are impossible (``hydra.sweeper.skip_invalid``).
        drawn: the settings that a random sweep has drawn, if there are validation images to choose a draw by.
        engine: what carries the jobs, see ``engine.Engine``.
        submit: the options of the engine alone (``SlurmOptions``, ``RayOptions``).
    """

    jobs: Count
    slots_per_gpu: Count
    timeout_s: Annotated[float | None, Range(above=0)]
    grace_s: Annotated[float, Range(least=0)]
    max_failures: Annotated[int | None, Range(least=1)]
    stack: bool | Literal["auto"] = False
    max_stack: Positive = 64
    skip_invalid: bool = False
    drawn: list[str] = field(default_factory=list)
    engine: Annotated[str, OneOf(ENGINES)] = "local"
    submit: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The options as plain Python values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class SlurmOptions:
    """What sbatch is asked for, for each task; null leaves it to SLURM.

    Attributes:
        partition, account, qos, constraint, exclude, comment, gres, mem_per_cpu: as for sbatch.
        timeout_min: minutes after which SLURM ends a task; ``signal_delay_s`` seconds before, it saves.
        max_num_timeout: how many times a task that has saved then is queued again.
        mem_gb: memory of a task.
        cpus_per_task: null means ``threads`` of its jobs.
        gpus_per_node: null means 1 with ``device=cuda``, unless ``gres`` asks for GPUs, else 0.
        array_parallelism: tasks of an array that run at the same time.
        setup: shell commands before the task, such as ``module load cuda``.
        additional_parameters: further options of sbatch, by name.
    """

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    exclude: str | None
    comment: str | None
    gres: str | None
    mem_per_cpu: str | None
    timeout_min: Positive
    signal_delay_s: Annotated[int, Range(least=20)]
    max_num_timeout: Annotated[int, Range(least=0)]
    mem_gb: PositiveFloat | None
    cpus_per_task: Annotated[int | None, Range(least=1)]
    gpus_per_node: Annotated[int | None, Range(least=0)]
    array_parallelism: Positive
    setup: list[str]
    additional_parameters: dict[str, Any]


@dataclass(frozen=True)
class RayInit:
    """How Ray is reached: ``address`` null starts one on this machine; auto or HOST:PORT joins a running cluster."""

    address: str | None
    include_dashboard: bool


@dataclass(frozen=True)
class RayRemote:
    """What a task needs, and how often Ray starts it again after its node has died.

    Attributes:
        num_cpus: null means ``threads`` of its jobs.
        num_gpus: null means 1 / ``slots_per_gpu`` with ``device=cuda``, else 0.
        max_retries: see above.
    """

    num_cpus: NonNegative | None
    num_gpus: NonNegative | None
    max_retries: Annotated[int, Range(least=0)]


@dataclass(frozen=True)
class RayOptions:
    """The options of ``hydra/launcher=ray``."""

    init: RayInit
    remote: RayRemote


def options(given: Mapping[str, Any]) -> Options:
    """Check options and return them as an object; options that are the engine's alone go to ``submit``.

    Raises:
        ValueError: an option is unknown, missing, of the wrong type or out of range.
    """
    known = {each.name for each in fields(Options)}
    own = {key: value for key, value in given.items() if key not in known}
    if own and given.get("engine", "local") != "local":
        given = {**{key: value for key, value in given.items() if key in known}, "submit": own}
    found = record(Options, given, "hydra.launcher")
    if found.engine == "slurm":
        slurm_options(found)
    elif found.engine == "ray":
        ray_options(found)
    return found


def brought_up_to_date(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a sweep's file holds, perhaps of a version that had ``executor`` and no ``stack``.

    Raises:
        KeyError: no version knows this executor.
    """
    if "stack" in given:
        return dict(given)
    kept = {key: value for key, value in given.items() if key != "executor"}
    stack = {"auto": "auto", "stacked": True, "one_by_one": False}[given.get("executor", "auto")]
    return {**kept, "stack": stack if given.get("max_stack", 1) > 1 else False}


def slurm_options(given: Options) -> SlurmOptions:
    """The engine's own options of ``hydra/launcher=slurm``.

    Raises:
        ValueError: see ``options``.
    """
    for key, value in _texts("hydra.launcher", given.submit):
        if re.search(r"[\n\r\0]", value):
            raise ValueError(f"{key}={value!r}: expected one line")
    return record(SlurmOptions, given.submit, "hydra.launcher")


def ray_options(given: Options) -> RayOptions:
    """The engine's own options of ``hydra/launcher=ray``.

    Raises:
        ValueError: see ``options``.
    """
    place = "hydra.launcher.ray"
    found: dict[str, Any] = record(_Ray, given.submit, "hydra.launcher").ray
    parts = {"init": RayInit, "remote": RayRemote}
    for name in [*(key for key in found if key not in parts), *(key for key in parts if key not in found)]:
        raise ValueError(f"{place}.{name}: {'missing' if name in parts else 'there is no such setting'}")
    return RayOptions(*(record(kind, found[name], f"{place}.{name}") for name, kind in parts.items()))


@dataclass(frozen=True)
class _Ray:
    ray: dict[str, Any]


def programs(given: Options) -> list[str]:
    """Options that could start programs or reach other machines: they are used only if the user has typed them."""
    if given.engine == "slurm":
        own = slurm_options(given)
        extra = [f"additional_parameters.{key}={value}" for key, value in own.additional_parameters.items()]
        return [*(f"setup: {line}" for line in own.setup), *extra]
    if given.engine == "ray" and ray_options(given).init.address not in (None, "auto"):
        return [f"ray.init.address={ray_options(given).init.address}"]
    return []


def record(kind: type[Kind], given: Mapping[str, Any], place: str) -> Kind:
    """A dataclass from a mapping whose values are checked by the annotations.

    Raises:
        ValueError: a value is unknown, missing, of the wrong type or out of range.
    """
    hints = get_type_hints(kind, include_extras=True)
    required = [
        each.name
        for each in fields(kind)  # type: ignore[arg-type]
        if each.default is MISSING and each.default_factory is MISSING
    ]
    for name in [*(name for name in required if name not in given), *(name for name in given if name not in hints)]:
        fault = "missing" if name in hints else f"there is no such setting{near_miss(name, hints)}"
        raise ValueError(f"{place}.{name}: {fault}")
    return kind(**{name: checked(f"{place}.{name}", value, hints[name]) for name, value in given.items()})


def _texts(place: str, given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every text in nested options, keys of mappings too, with its name."""
    found: list[tuple[str, str]] = []
    for key, value in given.items():
        found.append((place, key))
        for each in value if isinstance(value, list) else [value]:
            inner = _texts(f"{place}.{key}", each) if isinstance(each, dict) else [(f"{place}.{key}", str(each))]
            found += inner
    return found
