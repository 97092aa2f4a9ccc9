"""A claim under a profile: the points that are compared, their hyperparameters and seeds, and the words of each run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bnexp.claims.declaration import FIRST_TUNING_SEED, ArmSpec, Axis, Claim, Profile, Regime, Test
from bnexp.config.checks import unknown
from bnexp.runs.collect import Setting, show

# They make a smoke test quick. Its runs show only that a claim can be run and measured.
SMOKE_WORDS = (
    *("steps=6", "eval_every=6", "log_every=3", "device=cpu"),
    *("data.train_limit=600", "data.test_limit=200", "eval_train=300"),
)
# Also for other data than the 1297 training images of the digits, of which this would leave too few for some norms.
SMOKE_VALIDATION = "data.validation=0.01"
SMOKE_SEEDS = 2
SMOKE_VALUES = 2


@dataclass(frozen=True)
class Point:
    """An arm at a value of the axis; the value is None where there is no axis."""

    arm: str
    value: Setting

    @property
    def label(self) -> str:
        """Its name in the yaml: ``arm`` or ``arm@value``."""
        return self.arm if self.value is None else f"{self.arm}@{show(self.value)}"


@dataclass(frozen=True)
class Design:
    """What is run and tested for a claim.

    Attributes:
        profile: the profile's name; ``smoke`` for a smoke test.
        arms: without those that the profile skips.
        axis: with the profile's values.
        regimes: with the profile's grids.
        tests: without those that the profile skips.
        settings: words of every run; arms, axis and regimes override them.
        forced: words of every run that nothing overrides.
    """

    claim: Claim
    profile: str
    arms: Mapping[str, ArmSpec]
    axis: Axis | None
    regimes: Mapping[str, Regime]
    tests: Mapping[str, Test]
    settings: tuple[str, ...]
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    forced: tuple[str, ...] = ()

    @property
    def points(self) -> list[Point]:
        """Every arm at every value of the axis."""
        values: Sequence[Setting] = self.axis.values if self.axis else [None]
        return [Point(arm, value) for arm in self.arms for value in values]

    def point(self, name: str) -> Point:
        """The point that a contrast names. Numbers compare as numbers: 0.10 is 0.1.

        Raises:
            ValueError: there is none.
        """
        for point in self.points:
            arm, _, value = name.partition("@")
            if arm == point.arm and (point.label == name or _same_number(value, point.value)):
                return point
        raise unknown(f"{self.claim.id}: contrast", name, [point.label for point in self.points])

    def grid(self, regime: Regime, arm: str) -> Sequence[Setting]:
        """The values among which a point of the arm is tuned."""
        values: Sequence[Setting] = regime.limits.get(arm, regime.values)
        return values

    def regimes_of(self, test: Test) -> Mapping[str, Regime]:
        """The regimes that a test is judged in."""
        return {name: self.regimes[name] for name in test.regimes or self.regimes}

    def words(self, point: Point, regime: Regime, tuned: Setting, seed: int) -> list[str]:
        """The overrides of a run."""
        axis = [f"{self.axis.key}={show(point.value)}"] if self.axis else []
        best = [f"{regime.key}={show(tuned)}"] if regime.tuned else []
        return self._merged(self.arms[point.arm].settings, axis, regime.settings, best, [f"seed={seed}"])

    @property
    def seeds_before(self) -> tuple[int, ...]:
        """The seeds of the runs that others start from."""
        tunes = any(regime.tuned for regime in self.regimes.values())
        return (*self.seeds, *self.tuning_seeds) if tunes else self.seeds

    def words_before(self, name: str, seed: int) -> list[str]:
        """The overrides of a run that others start from."""
        return self._merged(self.claim.before[name].settings, [f"seed={seed}"])

    def _merged(self, *parts: Iterable[str]) -> list[str]:
        """All words; of several words for one setting, the last."""
        words = [*self.settings, *(word for part in parts for word in part), *self.forced]
        return list({word.lstrip("+").partition("=")[0]: word for word in words}.values())


def design(claim: Claim, profile: str, *, smoke: bool = False) -> Design:
    """Apply a profile.

    Raises:
        ValueError: the claim has no such profile, or a test names a point that the profile leaves out.
    """
    if claim.tests and profile not in claim.profiles:
        raise unknown(f"{claim.id}: profile", profile, claim.profiles)
    chosen = claim.profiles.get(profile, Profile(seeds=1, minutes=1))
    made = Design(
        claim=claim,
        profile=profile,
        arms={name: arm for name, arm in claim.arms.items() if name not in chosen.skip_arms},
        axis=replace(claim.axis, values=chosen.axis or claim.axis.values) if claim.axis else None,
        regimes={name: _with_grid(regime, chosen) for name, regime in claim.regimes.items()},
        tests={name: test for name, test in claim.tests.items() if name not in chosen.skip_tests},
        settings=(*claim.settings, *chosen.settings),
        seeds=tuple(range(chosen.first_seed, chosen.first_seed + chosen.seeds)),
        tuning_seeds=tuple(range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + chosen.tuning_seeds)),
    )
    _check_contrasts(made)
    return _smoke(made) if smoke else made


def _with_grid(regime: Regime, profile: Profile) -> Regime:
    return replace(regime, values=profile.tuned) if regime.tuned and profile.tuned else regime


def _check_contrasts(made: Design) -> None:
    for test in made.tests.values():
        for name in test.named:
            if test.reduce is None and name in test.contrast:
                made.point(name)
            elif name not in made.arms:
                raise unknown(f"{made.claim.id}: profile {made.profile}: contrast", name, made.arms)


def _smoke(made: Design) -> Design:
    """The design with two seeds, a few steps and short grids."""
    regimes = {
        name: replace(
            regime,
            values=regime.values[:SMOKE_VALUES],
            limits={arm: values[:SMOKE_VALUES] for arm, values in regime.limits.items()},
        )
        for name, regime in made.regimes.items()
    }
    data = [word for word in made.settings if word.startswith("data=")]
    return replace(
        made,
        profile="smoke",
        axis=replace(made.axis, values=made.axis.values[:SMOKE_VALUES]) if made.axis else None,
        regimes=regimes,
        seeds=made.seeds[:SMOKE_SEEDS],
        tuning_seeds=made.tuning_seeds[:1],
        forced=SMOKE_WORDS if data[-1:] == ["data=digits"] else (*SMOKE_WORDS, SMOKE_VALIDATION),
    )


def _same_number(text: str, value: Setting) -> bool:
    if not isinstance(value, int | float):
        return False
    try:
        return float(text) == value
    except ValueError:
        return False
