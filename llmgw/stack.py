"""Composition: a list of layers, outermost first, around one app; and the check of their order.

The words: *outer* and *above* is nearer to the client, *inner* and *below* nearer to the app. A
module of a layer says where it must stand by ``PLACE``; the core knows no list of layers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec

import attrs

from llmgw.asgi import ASGIApp

P = ParamSpec("P")


@attrs.frozen
class Place:
    """Where a layer must stand: the layers (``Retry``) it must be below or above, with reasons."""

    below: Mapping[str, str] = attrs.field(factory=dict[str, str])
    above: Mapping[str, str] = attrs.field(factory=dict[str, str])


@attrs.frozen
class Layer:
    """A middleware class and its configuration, waiting for the app it will wrap."""

    middleware: Callable[..., ASGIApp]
    args: tuple[Any, ...]
    config: Mapping[str, Any]

    def __call__(self, app: ASGIApp) -> ASGIApp:
        """Wrap ``app``."""
        return self.middleware(app, *self.args, **self.config)

    @property
    def name(self) -> str:
        """The class's name without "Middleware"."""
        return getattr(self.middleware, "__name__", repr(self.middleware)).removesuffix(
            "Middleware"
        )

    @property
    def place(self) -> Place:
        """The ``PLACE`` of the middleware's module; no constraint where it has none."""
        module = sys.modules.get(getattr(self.middleware, "__module__", ""))
        place = getattr(module, "PLACE", None)
        return place if isinstance(place, Place) else Place()


def layer(
    middleware: Callable[Concatenate[ASGIApp, P], ASGIApp], /, *args: P.args, **config: P.kwargs
) -> Layer:
    """``middleware`` with its configuration, type-checked like a call of it."""
    return Layer(middleware, args, config)


def misplaced(layers: Sequence[Layer]) -> list[str]:
    """Every broken constraint of order among ``layers``, as a sentence with its reason."""
    names = [one.name for one in layers]
    found: list[str] = []
    for number, one in enumerate(layers):
        for other, why in one.place.below.items():
            if other in names[number + 1 :]:
                found.append(f"{one.name} must stand below {other}: {why}")
        for other, why in one.place.above.items():
            if other in names[:number]:
                found.append(f"{one.name} must stand above {other}: {why}")
    return found


def stack(layers: Sequence[Layer], app: ASGIApp) -> ASGIApp:
    """``app`` inside ``layers``; a request meets ``layers[0]`` first and ``app`` last.

    Raises ValueError with every broken constraint of order.
    """
    if wrong := misplaced(layers):
        raise ValueError("; ".join(wrong))
    for wrap in reversed(layers):
        app = wrap(app)
    return app


def describe(layers: Sequence[Layer], app: str = "app") -> str:
    """The stack as text: one line a layer, outermost first, with the reasons for its place."""
    present = {one.name for one in layers}
    lines: list[str] = []
    for depth, one in enumerate(layers):
        sides = (("below", one.place.below), ("above", one.place.above))
        reasons = [
            f"{side} {name}: {why}"
            for side, names in sides
            for name, why in names.items()
            if name in present
        ]
        lines.append(f"{'  ' * depth}{one.name}" + (f"  ({'; '.join(reasons)})" if reasons else ""))
    return "\n".join([*lines, f"{'  ' * len(layers)}{app}"])
