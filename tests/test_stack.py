"""Composition: order, the check of it, and the drawing of it."""

from __future__ import annotations

import pytest

from llmgw.asgi import ASGIApp, Receive, Scope, Send
from llmgw.middlewares.error_map import ErrorMapMiddleware
from llmgw.middlewares.metrics import MetricsMiddleware
from llmgw.middlewares.request_id import RequestIDMiddleware
from llmgw.middlewares.retry import RetryMiddleware
from llmgw.stack import describe, layer, misplaced, stack
from llmgw.testing import no_receive, no_send


class NoteMiddleware:
    """A layer of somebody else's, with no PLACE."""

    def __init__(self, app: ASGIApp, name: str, *, seen: list[str]) -> None:
        self.app, self.name, self.seen = app, name, seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append(self.name)
        await self.app(scope, receive, send)


async def test_a_request_meets_the_first_layer_first() -> None:
    """And the app last."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append("app")

    layers = [layer(NoteMiddleware, "outer", seen=seen), layer(NoteMiddleware, "inner", seen=seen)]
    await stack(layers, app)({"type": "http"}, no_receive, no_send)

    assert seen == ["outer", "inner", "app"]


async def never(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("called")


def test_no_layers_are_the_app() -> None:
    """Nothing is added."""
    assert stack([], never) is never


def test_a_layer_in_the_wrong_place_is_refused_with_the_reason() -> None:
    """When the stack is built, not when a request gets lost."""
    with pytest.raises(ValueError, match=r"Metrics must stand above ErrorMap: .+"):
        stack([layer(ErrorMapMiddleware), layer(MetricsMiddleware)], never)


def test_every_mistake_is_told() -> None:
    """Both sides' constraints, each a sentence."""
    wrong = [layer(RetryMiddleware), layer(ErrorMapMiddleware), layer(RequestIDMiddleware)]

    found = misplaced(wrong)

    assert len(found) >= 2
    assert all(" must stand " in sentence and ": " in sentence for sentence in found)


def test_a_layer_of_somebody_else_may_stand_anywhere() -> None:
    """It has no PLACE."""
    own = layer(NoteMiddleware, "x", seen=[])

    assert misplaced([own, layer(ErrorMapMiddleware), own]) == []


def test_the_drawing_names_every_layer_with_its_reasons() -> None:
    """One line each, outermost first, deeper by its indent."""
    drawn = describe([layer(RequestIDMiddleware), layer(ErrorMapMiddleware)], "Completion")

    first, second, third = drawn.splitlines()
    assert first.startswith("RequestID  (above ErrorMap: ")
    assert second == "  ErrorMap"
    assert third == "    Completion"


def test_a_function_can_be_a_layer() -> None:
    """Anything that takes an app and gives one."""

    def same(app: ASGIApp) -> ASGIApp:
        return app

    assert layer(same).name == "same"
    assert stack([layer(same)], never) is never
