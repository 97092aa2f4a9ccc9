"""Finds the builder of a name, and checks the options of a config against the builder's signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar, get_type_hints

from bnexp.config.checks import checked, near_miss, unknown

Builder = TypeVar("Builder", bound=Callable[..., Any])


@dataclass(frozen=True)
class Bound:
    """A builder with its checked options; a call adds the arguments that only the caller knows (a shape, a width).

    Attributes:
        setting: the group's dotted name in the config.
        name: the name that was chosen.
        builder: the builder of this name.
        options: the builder's options with their checked values.
        context: the keywords that a call may pass, see ``Registry``.
        shared: the options that every builder of the registry has, with their checked values; see ``Registry``.
    """

    setting: str
    name: str
    builder: Callable[..., Any]
    options: Mapping[str, Any]
    context: frozenset[str]
    shared: Any

    def __call__(self, *args: Any, **context: Any) -> Any:
        """Build with the options, and with those keywords of the context that the builder has a parameter for.

        Raises:
            TypeError: the registry does not declare a keyword, so no builder would ever get it.
        """
        _require_declared(f"{self.setting}={self.name}", context, self.context)
        known = inspect.signature(self.builder).parameters
        wanted = {name: value for name, value in context.items() if name in known}
        return self.builder(*args, **self.options, **wanted)


class Registry:
    """The builders of one open setting, such as ``norm``.

    A builder's keyword-only parameters without a default are its options: the config must give each of them (its yaml
    is the only place where the number is written), with the annotated type and limits. The program passes the
    positional parameters and the context.

    Args:
        setting: the group's name in the config.
        context: keywords that the program passes to every builder that has a keyword-only parameter of this name with
            a default.
        shared: a dataclass of options that every entry has besides its own. A builder does not get them.
    """

    def __init__(self, setting: str, *, context: Iterable[str] = (), shared: type[Any] | None = None) -> None:
        self.setting = setting
        self.context = frozenset(context)
        self._shared = shared
        self._builders: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[Builder], Builder]:
        """Decorate the builder of ``name``.

        Raises:
            TypeError: (at the decoration) a keyword-only parameter has no type, or has a default and is not declared
                as context.
        """

        def add(builder: Builder) -> Builder:
            assert name not in self._builders, f"{self.setting}={name} is registered twice"
            parameters = inspect.signature(builder).parameters.values()
            _require_annotated(f"{self.setting}={name}", [p for p in parameters if _is_option(p)])
            passed = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty]
            _require_declared(f"{self.setting}={name}", passed, self.context)
            self._builders[name] = builder
            return builder

        return add

    @contextmanager
    def temporarily(self) -> Iterator[Self]:
        """Forget, at the end of the ``with`` block, the builders registered in it."""
        kept = dict(self._builders)
        try:
            yield self
        finally:
            self._builders = kept

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._builders))

    def __getitem__(self, name: str) -> Callable[..., Any]:
        """The builder of a name.

        Raises:
            ValueError: no builder has this name; the message lists the names that exist.
        """
        if name not in self._builders:
            own = "a module of yours that registers it must be named by imports=[MODULE]"
            raise ValueError(f"{unknown(self.setting, name, self)}; {own}")
        return self._builders[name]

    def options(self, name: str) -> dict[str, Any]:
        """Option name -> annotation: the builder's own options, then the shared ones."""
        return {**self._own(name), **self._common()}

    def _common(self) -> dict[str, Any]:
        return get_type_hints(self._shared, include_extras=True) if self._shared else {}

    def _own(self, name: str) -> dict[str, Any]:
        builder = self[name]
        function = builder.__init__ if inspect.isclass(builder) else builder
        hints = get_type_hints(function, include_extras=True)
        parameters = inspect.signature(builder).parameters.values()
        return {p.name: hints[p.name] for p in parameters if _is_option(p)}

    def bind(self, config: Mapping[str, Any], *, setting: str | None = None) -> Bound:
        """Check a group of the config, ``{name: gn, groups: 8, ...}``, and bind it to its builder.

        Args:
            config: the group.
            setting: the group's dotted name in the config, for messages; by default the registry's own setting.

        Raises:
            ValueError: unknown name or option, missing option, wrong type, value out of range.
        """
        setting = setting or self.setting
        given = dict(config)
        name = given.pop("name", None)
        if not isinstance(name, str):
            raise ValueError(f"{setting}={config}: has no name (allowed: {', '.join(self)})")
        wanted = self.options(name)
        for option in given:
            if option not in wanted:
                allowed = ", ".join(wanted) or "none"
                hint = near_miss(str(option), wanted)
                raise ValueError(f"{setting}.{option}: {name} has no such option{hint} (allowed: {allowed})")
        for option in wanted:
            if option not in given:
                raise ValueError(f"{setting}.{option}: {name} needs this option, and its config does not give it")
        values = {option: checked(f"{setting}.{option}", given[option], wanted[option]) for option in wanted}
        common = {option: values.pop(option) for option in self._common()}
        shared = self._shared(**common) if self._shared else None
        return Bound(setting, name, self[name], values, self.context, shared)


def _is_option(parameter: inspect.Parameter) -> bool:
    return parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty


def _require_annotated(where: str, options: Iterable[inspect.Parameter]) -> None:
    for option in options:
        if option.annotation is option.empty:
            kinds = f"{option.name}: float, or one of bnexp.config.checks"
            raise TypeError(f"{where}: the option {option.name} needs a type, such as {kinds}")


def _require_declared(where: str, names: Iterable[str], declared: frozenset[str]) -> None:
    """Refuse context that a registry does not declare: it is a programming error, such as a misspelt ``branch``."""
    undeclared = ", ".join(sorted(set(names) - declared))
    if undeclared:
        allowed = ", ".join(sorted(declared)) or "none"
        raise TypeError(
            f"{where}: {undeclared} is not a declared context (allowed: {allowed}), and options have no default"
        )
