from __future__ import annotations

from typing import Literal

import pytest

from bnexp.config.checks import Fraction, Positive
from bnexp.config.registry import Registry


@pytest.fixture
def registry() -> Registry:
    registry = Registry("norm", context=("given", "branch"))

    @registry.register("gn")
    def gn(channels: int, *, groups: Positive, uneven: Literal["refuse", "fit"], eps: float, given: int = 7):
        return {"channels": channels, "groups": groups, "uneven": uneven, "eps": eps, "given": given}

    @registry.register("none")
    def none(channels: int):
        return channels

    @registry.register("dropout")
    class Dropout:
        def __init__(self, channels: int, *, p: Fraction) -> None:
            self.channels, self.p = channels, p

    return registry


GOOD = {"name": "gn", "groups": 8, "uneven": "fit", "eps": 1e-5}


def test_a_bound_builder_is_called_with_its_options_and_what_the_caller_adds(registry):
    bound = registry.bind(GOOD)
    assert bound(16) == {"channels": 16, "groups": 8, "uneven": "fit", "eps": 1e-5, "given": 7}
    assert bound(16, given=1)["given"] == 1
    assert (bound.setting, bound.name) == ("norm", "gn")


def test_a_builder_gets_of_the_declared_context_what_it_takes(registry):
    assert registry.bind({"name": "none"})(5, given=1, branch=2) == 5
    assert registry.bind(GOOD)(16, given=1, branch=2)["given"] == 1


def test_context_that_is_not_declared_is_refused(registry):
    with pytest.raises(TypeError, match=r"^norm=none: brnach is not a declared context \(allowed: branch, given\)"):
        registry.bind({"name": "none"})(5, brnach=2)
    with pytest.raises(TypeError, match=r"^norm=gn: groups is not a declared context"):
        registry.bind(GOOD)(16, groups=4)


def test_a_builder_that_takes_context_that_is_not_declared_is_refused(registry):
    with pytest.raises(TypeError, match=r"^norm=slip: eps is not a declared context .*, and options have no default$"):

        @registry.register("slip")
        def slip(channels: int, *, eps: float = 1e-5):
            return channels

    assert "slip" not in list(registry)


def test_what_is_registered_temporarily_is_forgotten(registry):
    with registry.temporarily():
        registry.register("passing")(lambda channels: channels)
        assert registry.bind({"name": "passing"})(3) == 3
    with pytest.raises(ZeroDivisionError), registry.temporarily():
        registry.register("failing")(lambda channels: channels / 0)(3)
    assert list(registry) == ["dropout", "gn", "none"]


def test_options_come_back_in_the_annotated_type(registry):
    eps = registry.bind(GOOD | {"eps": 1}).options["eps"]
    assert isinstance(eps, float)


def test_a_class_is_a_builder_like_a_function(registry):
    assert registry.options("dropout") == {"p": Fraction}
    built = registry.bind({"name": "dropout", "p": 0})(3)
    assert (built.channels, built.p) == (3, 0.0)
    with pytest.raises(ValueError, match=r"^norm\.p=1\.0: out of range; allowed is at least 0 and below 1$"):
        registry.bind({"name": "dropout", "p": 1})


def test_a_builder_without_options_needs_only_its_name(registry):
    assert registry.bind({"name": "none"})(5) == 5


def test_what_the_program_passes_is_no_option(registry):
    assert list(registry.options("gn")) == ["groups", "uneven", "eps"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GOOD | {"name": "gm"}, "norm=gm: not known; did you mean gn? (allowed: dropout, gn, none)"),
        (GOOD | {"name": None}, " has no name (allowed: dropout, gn, none)"),
        ({}, "norm={}: has no name (allowed: dropout, gn, none)"),
        (GOOD | {"group": 8}, "norm.group: gn has no such option; did you mean groups? (allowed: groups, uneven, eps)"),
        (GOOD | {"given": 8}, "norm.given: gn has no such option"),
        (GOOD | {"channels": 8}, "norm.channels: gn has no such option"),
        (GOOD | {"_target_": "os.system"}, "norm._target_: gn has no such option"),
        (GOOD | {3: 8}, "norm.3: gn has no such option"),
        ({"name": "none", "eps": 1e-5}, "norm.eps: none has no such option (allowed: none)"),
        (
            {"name": "gn", "groups": 8, "eps": 1e-5},
            "norm.uneven: gn needs this option, and its config does not give it",
        ),
        (GOOD | {"eps": "abc"}, "norm.eps=abc: expected a number"),
        (GOOD | {"groups": 1.5}, "norm.groups=1.5: expected a whole number"),
        (GOOD | {"groups": None}, "norm.groups=null: expected a whole number"),
        (GOOD | {"groups": 0}, "norm.groups=0: out of range; allowed is at least 1"),
        (GOOD | {"uneven": "fitt"}, "norm.uneven=fitt: not known; did you mean fit? (allowed: fit, refuse)"),
    ],
)
def test_a_faulty_config_is_refused_in_one_line(registry, config, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        registry.bind(config)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_binding_leaves_the_config_as_it_is(registry):
    config = dict(GOOD)
    registry.bind(config)
    assert config == GOOD


def test_a_name_cannot_be_taken_twice(registry):
    with pytest.raises(AssertionError, match="norm=gn is registered twice"):
        registry.register("gn")(lambda: None)


def test_names_are_listed_in_order(registry):
    assert list(registry) == ["dropout", "gn", "none"]
