"""What the yaml of a claim may say, and everything about it that can be wrong before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bnexp.claims import parse
from bnexp.config.checks import NonNegative, Positive, PositiveFloat, checked, unknown

PROFILES = ("quick", "full", "gpu")
# What is said of the contrast: above 0, below 0, 0 within the threshold, or not below 0 by more than it ("as good as").
Kind = Literal["greater", "less", "equal", "at_least"]
SUMMARIES = ("last", "mean", "max", "min", "sd", "median")
# A verdict needs six seeds: with five pairs the smallest sign-flip p is 0.0625.
FEWEST_SEEDS = 6


def _check_values(name: str, values: Sequence[Any]) -> None:
    """The values of an axis or a grid: words or rising numbers."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if not values or not all(isinstance(value, str) or value in numbers for value in values):
        raise ValueError(f"{name}={values}: expected numbers or words")
    if len(numbers) == len(values) and numbers != sorted(set(numbers)):
        raise ValueError(f"{name}={values}: expected rising numbers")


def _require_keys(name: str, given: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    if given.keys() != kinds.keys():
        raise ValueError(f"{name}={given}: expected {{{', '.join(kinds)}}}")
    for key, kind in kinds.items():
        checked(f"{name}.{key}", given[key], kind)


@dataclass(frozen=True)
class ArmSpec:
    """Overrides on top of the claim's settings; ``init_from`` names a run of ``before`` to start from."""

    settings: list[str]
    init_from: str | None = None


@dataclass(frozen=True)
class Axis:
    """A setting that every arm is run at all values of."""

    key: str
    values: list[Any]

    def __post_init__(self) -> None:
        _check_values("values", self.values)


@dataclass(frozen=True)
class Regime:
    """Which hyperparameters the arms get: the same (``settings`` alone), or each point its own best (with ``key``).

    Attributes:
        metric: what the best value is chosen by, on the tuning seeds: of validation images, or of training where a test
            is about the training loss; never of test images.
        limits: arm -> the values that it tries, instead of ``values``.
    """

    settings: list[str] = field(default_factory=list)
    key: str | None = None
    values: list[Any] = field(default_factory=list)
    metric: str = "validation/accuracy_precise"
    limits: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.key is not None:
            _check_values("values", self.values)
        elif self.values or self.limits:
            raise ValueError("key: missing; with values, it names the setting that is tuned")
        if not self.metric.startswith(("validation/", "train_eval/")):
            raise ValueError(
                f"metric={self.metric}: never tuned on test; allowed are validation/... and train_eval/..."
            )

    @property
    def tuned(self) -> bool:
        """Whether each point is at its own best value of ``key``."""
        return self.key is not None


@dataclass(frozen=True)
class Measure:
    """One number of a run: a metric somewhere along the run, or the steps to a target.

    Attributes:
        metric: a tag; with ``*`` the mean over all tags that match (layers).
        minus: a tag that is subtracted from the metric, evaluation by evaluation.
        at: a summary over the evaluations, a step, ``{fraction: f}`` of the run's last step, or
            ``{first: tag, below: number}``, the first evaluation at which another metric is below a number.
        since: (``from`` in the yaml) the summary leaves out earlier steps.
        layers: instead of the mean over the tags, the least-squares slope over their order, of the value or its log10,
            or the size of the latter without its sign.
        drop: ends of the layers to leave out.
        steps_to: a tag; the measure is the first step at which it reaches ``reaches``.
        reaches: a number, or ``{arm: name}`` for that arm's own last value with the same seed.
    """

    metric: str | None = None
    minus: str | None = None
    at: Any = "last"
    since: int | None = field(default=None, metadata={"key": "from"})
    layers: Literal["slope", "log10_slope", "log10_slope_size"] | None = None
    drop: list[Literal["first", "last"]] = field(default_factory=list)
    steps_to: str | None = None
    reaches: Any = None

    def __post_init__(self) -> None:
        if (self.metric is None) == (self.steps_to is None):
            raise ValueError("metric: give either metric or steps_to")
        if self.minus is not None and self.steps_to is not None:
            raise ValueError(f"minus={self.minus}: goes with metric, not with steps_to")
        if isinstance(self.at, dict):
            _require_keys(
                "at", self.at, {"fraction": float} if "fraction" in self.at else {"first": str, "below": float}
            )
        elif isinstance(self.at, str) or not isinstance(self.at, int):
            checked("at", self.at, Literal[SUMMARIES])
        if self.steps_to is not None and isinstance(self.reaches, dict):
            _require_keys("reaches", self.reaches, {"arm": str})
        elif self.steps_to is not None:
            checked("reaches", self.reaches, float)
        if self.layers is not None and "*" not in self.tag:
            raise ValueError(f"layers={self.layers}: needs a metric with a *, one tag a layer")

    @property
    def tag(self) -> str:
        """The metric that is read."""
        return self.metric or self.steps_to or ""

    @property
    def target_arm(self) -> str | None:
        """The arm whose last value is the target."""
        return self.reaches["arm"] if isinstance(self.reaches, dict) else None


@dataclass(frozen=True)
class Reduce:
    """One number of an arm and seed out of its values along the axis; see ``measures.reduced``."""

    kind: Literal["largest", "share", "count", "slope", "best", "range"]
    within: NonNegative | None = None
    factor: PositiveFloat | None = None
    on: Literal["log2", "linear"] = "log2"

    def __post_init__(self) -> None:
        if self.kind in ("largest", "share") and self.within is None:
            raise ValueError(f"within: missing; kind={self.kind} needs it")
        if self.kind == "count" and self.factor is None:
            raise ValueError("factor: missing; kind=count needs it")


@dataclass(frozen=True)
class Test:
    """A contrast of arms, and from which size on it matters.

    Attributes:
        says: the sentence that is judged.
        contrast: arm or point -> weight; the number of a seed is the weighted sum.
        threshold: the smallest effect of interest, in the units of the contrast.
        scale: what is done to the values before they are weighted.
    """

    __test__ = False

    says: str
    measure: Measure
    contrast: dict[str, float]
    claims: Kind
    threshold: PositiveFloat
    scale: Literal["linear", "log", "log10"] = "linear"
    reduce: Reduce | None = None
    regimes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not any(self.contrast.values()):
            raise ValueError("contrast: expected arms with weights that are not all 0")


@dataclass(frozen=True)
class Profile:
    """How much is run: seeds, budget and, where a machine is small, fewer values, arms and tests."""

    seeds: Positive
    minutes: PositiveFloat
    tuning_seeds: Positive = 2
    settings: list[str] = field(default_factory=list)
    axis: list[Any] = field(default_factory=list)
    tuned: list[Any] = field(default_factory=list)
    skip_arms: list[str] = field(default_factory=list)
    skip_tests: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Figure:
    """The claim's picture: curves over steps, values over the axis, or each test's differences."""

    kind: Literal["curves", "axis", "dots"] = "dots"
    metric: str = "test/accuracy"


@dataclass(frozen=True)
class Claim:
    """A claim as its yaml declares it; ``id`` and ``text`` are the file's name and content."""

    id: str
    text: str
    sentence: str
    sources: list[str]
    literature: str
    confounds: str
    would_change: str
    articles: list[Any] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    before: dict[str, ArmSpec] = field(default_factory=dict)
    arms: dict[str, ArmSpec] = field(default_factory=dict)
    axis: Axis | None = None
    regimes: dict[str, Regime] = field(default_factory=dict)
    tests: dict[str, Test] = field(default_factory=dict)
    exact: list[str] = field(default_factory=list)
    profiles: dict[str, Profile] = field(default_factory=dict)
    figure: Figure = field(default_factory=Figure)

    @property
    def title(self) -> str:
        """The comment line that the yaml begins with."""
        first = self.text.partition("\n")[0]
        return first.removeprefix("#").strip() if first.startswith("#") else self.sentence


def load(path: Path) -> Claim:
    """Read and check a claim's yaml.

    Raises:
        ValueError: ``<claim>.<key>: what is wrong``, in one line.
    """
    given, text = parse.read(path)
    claim: Claim = parse.parsed(path.stem, {**given, "id": path.stem, "text": text}, Claim)
    _check(claim)
    return claim


def find(name: str, configs: Path) -> Path:
    """The yaml of a claim given by its id, or by its path.

    Raises:
        ValueError: there is no such claim.
    """
    if name.endswith(".yaml"):
        return Path(name)
    known = ids(configs)
    if name not in known:
        raise unknown("claim", name, known)
    return configs / "claim" / f"{name}.yaml"


def ids(configs: Path) -> list[str]:
    """The claims that are declared."""
    return sorted(path.stem for path in (configs / "claim").glob("*.yaml"))


# --- what belongs together --------------------------------------------------------------------------------------------


def _check(claim: Claim) -> None:
    """What the parts of a claim say of each other.

    Raises:
        ValueError: a part names another one that is not there, or something is missing.
    """
    if not claim.exact and not claim.tests:
        raise ValueError(f"{claim.id}.tests: missing; a claim needs tests, or names of exact checks")
    if claim.tests and not (claim.arms and claim.regimes and claim.profiles):
        raise ValueError(f"{claim.id}: tests need arms, regimes and profiles")
    for name, arm in claim.arms.items():
        if arm.init_from is not None and arm.init_from not in claim.before:
            raise unknown(f"{claim.id}.arms.{name}.init_from", arm.init_from, claim.before)
    for name, regime in claim.regimes.items():
        _among(f"{claim.id}.regimes.{name}.limits", regime.limits, claim.arms)
    for name, test in claim.tests.items():
        _check_test(f"{claim.id}.tests.{name}", test, claim)
    for name, profile in claim.profiles.items():
        where = f"{claim.id}.profiles"
        _among(where, [name], PROFILES)
        _among(f"{where}.{name}.skip_arms", profile.skip_arms, claim.arms)
        _among(f"{where}.{name}.skip_tests", profile.skip_tests, claim.tests)
        if profile.axis and claim.axis is None:
            raise ValueError(f"{where}.{name}.axis={profile.axis}: the claim has no axis")
    if claim.figure.kind == "axis" and claim.axis is None:
        raise ValueError(f"{claim.id}.figure.kind=axis: the claim has no axis")


def _check_test(where: str, test: Test, claim: Claim) -> None:
    _among(f"{where}.regimes", test.regimes, claim.regimes)
    if test.reduce is not None and claim.axis is None:
        raise ValueError(f"{where}.reduce: the claim has no axis to reduce")
    if test.measure.target_arm is not None:
        _among(f"{where}.measure.reaches.arm", [test.measure.target_arm], claim.arms)
    for name in test.contrast:
        arm, at, _ = name.partition("@")
        _among(f"{where}.contrast", [arm], claim.arms)
        if claim.axis is not None and test.reduce is None and not at:
            raise ValueError(f"{where}.contrast={name}: is many points; give a reduce, or name one as {arm}@value")
        if at and (claim.axis is None or test.reduce is not None):
            raise ValueError(f"{where}.contrast={name}: there is no such point; allowed are the arms")


def _among(where: str, given: Sequence[str] | Mapping[str, Any], known: Sequence[str] | Mapping[str, Any]) -> None:
    for name in given:
        if name not in known:
            raise unknown(where, name, known)
