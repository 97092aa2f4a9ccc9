"""What the yaml of a claim may say, with all checks that can be made before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from bnexp.claims import parse
from bnexp.config.checks import NonNegative, Positive, PositiveFloat, Range, checked, unknown
from bnexp.config.metrics import require_measured

PROFILES = ("quick", "full", "gpu")
# The claimed contrast: above 0, below 0, above the threshold (a sentence with a number, such as "twice the steps"),
# within the threshold around 0, or above minus the threshold ("as good as").
Kind = Literal["greater", "less", "exceeds", "equal", "at_least"]
SUMMARIES = ("last", "mean", "max", "min", "sd", "median")
# The titles of arms and regimes that many claims have; a claim's own ``titles`` go before them.
TITLES = {
    "none": "no norm",
    "bn": "batch norm",
    "gn": "group norm",
    "ln": "layer norm",
    "in": "instance norm",
    "rms": "RMS norm",
    "dyt": "dynamic tanh",
    "equal": "equal settings for all",
    "tuned": "each at its best learning rate",
}
# What a claim's ``answers`` may be given for. ``holds`` and ``fails`` are for a claim of exact checks alone.
ANSWERS = ("supported", "negligible", "contradicted", "inconclusive", "holds", "fails")
# Tuning seeds begin here, so that they never meet the seeds of a verdict.
FIRST_TUNING_SEED = 1000
# A verdict needs six seeds: with five pairs the smallest sign-flip p is 0.0625.
FEWEST_SEEDS = 6


def _check_values(name: str, values: Sequence[Any]) -> None:
    """Check the values of an axis or a grid: words, or rising numbers."""
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
    """An arm as declared: overrides of the claim's settings, and the run of ``before`` that it starts from, if any."""

    settings: list[str]
    init_from: str | None = None


@dataclass(frozen=True)
class Axis:
    """A setting, and the values at which every arm is run."""

    key: str
    values: list[Any]

    def __post_init__(self) -> None:
        _check_values("values", self.values)


@dataclass(frozen=True)
class Regime:
    """The arms' hyperparameters: equal for all (``settings`` alone), or tuned for each point (with ``key``).

    Attributes:
        key: the tuned setting, and ``values`` its grid.
        metric: the tuning runs with the best value of this metric win. It is measured on validation images, or on
            training images where a test is about the training loss; never on test images.
        limits: arm -> its grid, instead of ``values``.
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
        require_measured(f"metric={self.metric}", self.metric)

    @property
    def tuned(self) -> bool:
        """Whether each point runs at its own best value of ``key``."""
        return self.key is not None


@dataclass(frozen=True)
class Measure:
    """How one number is taken from a run: a metric at some point of the run, or the steps to a target.

    Attributes:
        metric: a tag. With ``*``, the mean over all matching tags (one tag a layer).
        minus: a tag that is subtracted from the metric at each evaluation.
        at: a summary over the evaluations, a step, ``{fraction: f}`` of the run's last step, or
            ``{first: tag, below: number}``: where another metric first falls below a number, read on straight lines
            between evaluations.
        since: (``from`` in the yaml) the summary leaves out earlier steps.
        layers: instead of the mean over layers, the least-squares slope over their order: of the values, of their
            log10, or the absolute value of the latter.
        drop: leave out the first layer, the last, or both.
        steps_to: a tag; the number is half-way between the first evaluation at which it reaches ``reaches``, and the
            one before.
        reaches: a number, or ``{arm: name}`` for the last value of that arm with the same seed.
        above: the number is 1 where the metric is above this one, else 0, so that its mean is a share of runs.
    """

    metric: str | None = None
    minus: str | None = None
    at: Any = "last"
    since: int | None = field(default=None, metadata={"key": "from"})
    layers: Literal["slope", "log10_slope", "log10_slope_size"] | None = None
    drop: list[Literal["first", "last"]] = field(default_factory=list)
    steps_to: str | None = None
    reaches: Any = None
    above: float | None = None

    def __post_init__(self) -> None:
        if (self.metric is None) == (self.steps_to is None):
            raise ValueError("metric: give either metric or steps_to")
        if self.minus is not None and self.steps_to is not None:
            raise ValueError(f"minus={self.minus}: goes with metric, not with steps_to")
        if self.above is not None and self.steps_to is not None:
            raise ValueError(f"above={self.above}: goes with metric, not with steps_to")
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
        first = self.at.get("first") if isinstance(self.at, dict) else None
        for key, tag in {"metric": self.metric, "minus": self.minus, "steps_to": self.steps_to, "first": first}.items():
            require_measured(f"{key}={tag}", tag or "")

    @property
    def tag(self) -> str:
        """The tag of ``metric`` or ``steps_to``."""
        return self.metric or self.steps_to or ""

    @property
    def target_arm(self) -> str | None:
        """The arm whose last value is the target, if there is one."""
        return self.reaches["arm"] if isinstance(self.reaches, dict) else None


@dataclass(frozen=True)
class Reduce:
    """How the values of an arm and seed along the axis become one number; see ``measures.reduced``."""

    kind: Literal["largest", "share", "count", "slope", "at_best", "best_at", "range"]
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
    """A contrast of arms, and the smallest size at which it matters.

    Attributes:
        says: the sentence that is judged.
        contrast: arm or point -> weight; a seed's difference is the weighted sum of their values.
        threshold: the smallest effect of interest, in the units of the contrast.
        scale: applied to the values before they are weighted.
        regimes: those in which the test is judged; none means all.
        role: a check says whether an arm does what it is there for; a control, what else could explain the result. The
            tests of ``Claim.holds_if`` are primary.
        needs: checks without which the test has no verdict.
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
    role: Literal["secondary", "control", "check"] = "secondary"
    needs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not any(self.contrast.values()):
            raise ValueError("contrast: expected arms with weights that are not all 0")

    @property
    def named(self) -> list[str]:
        """The arms and points that the test compares, and the arm that sets its target."""
        return [*self.contrast, *([self.measure.target_arm] if self.measure.target_arm else [])]

    @property
    def measured(self) -> set[str]:
        """The arms of ``named``."""
        return {name.partition("@")[0] for name in self.named}


@dataclass(frozen=True)
class Profile:
    """How much is run: seeds and budget; for small machines also fewer values, arms and tests.

    Attributes:
        first_seed: the seeds of the verdict begin here. A claim that is asked again with more seeds, since those of its
            first results decided nothing, takes seeds that it has not seen.
    """

    seeds: Positive
    minutes: PositiveFloat
    first_seed: Annotated[int, Range(least=0)] = 0
    tuning_seeds: Positive = 5
    settings: list[str] = field(default_factory=list)
    axis: list[Any] = field(default_factory=list)
    tuned: list[Any] = field(default_factory=list)
    skip_arms: list[str] = field(default_factory=list)
    skip_tests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.first_seed + self.seeds > FIRST_TUNING_SEED:
            raise ValueError(f"seeds: {FIRST_TUNING_SEED} and above are those of tuning")


@dataclass(frozen=True)
class Figure:
    """The kind of the claim's figure: curves over steps, values over the axis, or the differences of each test."""

    kind: Literal["curves", "axis", "dots"] = "dots"
    metric: str = "test/accuracy"

    def __post_init__(self) -> None:
        require_measured(f"metric={self.metric}", self.metric)


@dataclass(frozen=True)
class Change:
    """What was changed in the declaration after results had been seen, on which day (2026-11-26), and why."""

    date: str
    what: str
    why: str

    def __post_init__(self) -> None:
        try:
            date.fromisoformat(self.date)
        except ValueError:
            raise ValueError(f"date={self.date}: expected a day such as 2026-11-26") from None


@dataclass(frozen=True)
class Claim:
    """A claim as its yaml declares it; ``id`` and ``text`` are the file's name and content.

    Attributes:
        path: of the file; empty where there is none.
        holds_if: the primary test, ``regime/test``; of several, all must hold. They alone answer the sentence.
        titles: arm or regime -> what readers see in its place; ``title_of`` knows those that most claims have.
        answers: verdict -> one sentence that tells it, with the condition under which it holds. It is declared before
            the first run, so it names no measured number.
        lesson: the place among the lessons that a report begins with.
        changes: what was changed after results had been seen.
        no_quick: why there is no quick profile, where a verdict would need more than two cores and some minutes.
    """

    id: str
    text: str
    path: str
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
    holds_if: list[str] = field(default_factory=list)
    exact: list[str] = field(default_factory=list)
    profiles: dict[str, Profile] = field(default_factory=dict)
    figure: Figure = field(default_factory=Figure)
    titles: dict[str, str] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    lesson: Positive | None = None
    changes: list[Change] = field(default_factory=list)
    no_quick: str = ""

    def title_of(self, name: str) -> str:
        """What readers see in place of an arm's or a regime's name."""
        return self.titles.get(name) or TITLES.get(name, name)

    def without(self, profile: str) -> str:
        """That the claim has no such profile, and why where it says so."""
        why = f": {self.no_quick}" if profile == "quick" and self.no_quick else ""
        return f"no {profile} profile{why}"

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
    return _claim(path.stem, given, text, str(path))


def loads(name: str, text: str) -> Claim:
    """Check the yaml of a claim that is in no file yet.

    Raises:
        ValueError: as ``load``.
    """
    return _claim(name, parse.mapping(name, text), text)


def _claim(name: str, given: Mapping[str, Any], text: str, path: str = "") -> Claim:
    claim: Claim = parse.parsed(name, {**given, "id": name, "text": text, "path": path}, Claim)
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
    """The ids of all declared claims."""
    return sorted(path.stem for path in (configs / "claim").glob("*.yaml"))


# --- what belongs together --------------------------------------------------------------------------------------------


def _check(claim: Claim) -> None:
    """Check that the parts of a claim fit together.

    Raises:
        ValueError: a part names another one that does not exist, or something is missing.
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
    _check_primary(claim)
    parts = [part.settings for group in (claim.arms, claim.regimes, claim.profiles) for part in group.values()]
    for word in chain(claim.settings, *parts):
        if word.partition("=")[0].lstrip("+") == "seed":
            raise ValueError(f"{claim.id}: {word}: the profile says which seeds are run")
    _among(f"{claim.id}.titles", claim.titles, [*claim.arms, *claim.regimes])
    _among(f"{claim.id}.answers", claim.answers, ANSWERS)
    for name, profile in claim.profiles.items():
        where = f"{claim.id}.profiles"
        _among(where, [name], PROFILES)
        _among(f"{where}.{name}.skip_arms", profile.skip_arms, claim.arms)
        _among(f"{where}.{name}.skip_tests", profile.skip_tests, claim.tests)
        _check_skipped(f"{where}.{name}.skip_tests", profile, claim)
        if profile.axis and claim.axis is None:
            raise ValueError(f"{where}.{name}.axis={profile.axis}: the claim has no axis")
    if claim.no_quick and "quick" in claim.profiles:
        raise ValueError(f"{claim.id}.no_quick: the claim has a quick profile")
    if claim.figure.kind == "axis" and claim.axis is None:
        raise ValueError(f"{claim.id}.figure.kind=axis: the claim has no axis")


def _check_test(where: str, test: Test, claim: Claim) -> None:
    _among(f"{where}.regimes", test.regimes, claim.regimes)
    _among(f"{where}.needs", test.needs, [name for name, other in claim.tests.items() if other.role == "check"])
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


def _check_primary(claim: Claim) -> None:
    """Check that the primary tests exist, and are no checks or controls."""
    where = f"{claim.id}.holds_if"
    if bool(claim.tests) != bool(claim.holds_if):
        raise ValueError(f"{where}: {'missing; ' if claim.tests else ''}names the primary test, as regime/test")
    known = [
        f"{regime}/{name}"
        for name, test in claim.tests.items()
        if test.role == "secondary"
        for regime in test.regimes or claim.regimes
    ]
    _among(where, claim.holds_if, known)


def _check_skipped(where: str, profile: Profile, claim: Claim) -> None:
    """Check that no profile leaves out a primary test, or a check of a test that it runs."""
    kept = [test for name, test in claim.tests.items() if name not in profile.skip_tests]
    wanted = {name.partition("/")[2] for name in claim.holds_if} | {name for test in kept for name in test.needs}
    for name in profile.skip_tests:
        if name in wanted:
            raise ValueError(f"{where}={name}: a primary test, or a check that another test needs")


def _among(where: str, given: Sequence[str] | Mapping[str, Any], known: Sequence[str] | Mapping[str, Any]) -> None:
    for name in given:
        if name not in known:
            raise unknown(where, name, known)
