"""A name finds its builder; the options of a config are checked against the builder's own signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from bnexp.config.checks import checked, near_miss, unknown

Builder = TypeVar("Builder", bound=Callable[..., Any])


@dataclass(frozen=True)
class Bound:
    """A builder with its checked options; the call adds what only the caller knows (a shape, a width)."""

    setting: str
    name: str
    builder: Callable[..., Any]
    options: Mapping[str, Any]

    def __call__(self, *args: Any, **context: Any) -> Any:
        """Build; of the context a builder gets what it has a parameter for."""
        known = inspect.signature(self.builder).parameters
        wanted = {name: value for name, value in context.items() if name in known}
        return self.builder(*args, **self.options, **wanted)


class Registry:
    """The builders of one open setting, such as ``norm``.

    A builder's keyword-only parameters without a default are its options: each must stand in the config (its yaml is
    the only place where the number is written), with the annotated type and limits. Positional parameters, and
    keyword-only ones with a default, are what the program passes.
    """

    def __init__(self, setting: str) -> None:
        self.setting = setting
        self._builders: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[Builder], Builder]:
        """Decorate the builder of ``name``."""

        def add(builder: Builder) -> Builder:
            assert name not in self._builders, f"{self.setting}={name} is registered twice"
            self._builders[name] = builder
            return builder

        return add

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._builders))

    def __getitem__(self, name: str) -> Callable[..., Any]:
        """The builder of a name.

        Raises:
            ValueError: nothing has that name; the message lists what there is.
        """
        if name not in self._builders:
            raise unknown(self.setting, name, self)
        return self._builders[name]

    def options(self, name: str) -> dict[str, Any]:
        """Option name -> annotation, for one builder."""
        builder = self[name]
        function = builder.__init__ if inspect.isclass(builder) else builder
        hints = get_type_hints(function, include_extras=True)
        parameters = inspect.signature(builder).parameters.values()
        wanted = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
        return {option: hints[option] for option in wanted}

    def bind(self, config: Mapping[str, Any], *, setting: str | None = None) -> Bound:
        """Check a group of the config, ``{name: gn, groups: 8, ...}``, and tie it to its builder.

        Args:
            config: the group.
            setting: where the group stands in the config, for messages; by default the registry's own place.

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
        return Bound(setting, name, self[name], values)
