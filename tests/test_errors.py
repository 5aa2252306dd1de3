"""Errors: what a status means, what may be repeated of an upstream's words, what a wait is."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw import errors
from llmgw.errors import GatewayError, clean, from_status, lone, untrace


@pytest.mark.parametrize(
    ("status", "kind", "same", "next_"),
    [
        (400, errors.InvalidRequestError, False, False),
        (401, errors.AuthError, False, True),
        (403, errors.PermissionDeniedError, False, True),
        (404, errors.NotFoundError, False, True),
        (408, errors.ProviderUnavailableError, True, True),
        (413, errors.InvalidRequestError, False, False),
        (418, errors.InvalidRequestError, False, False),
        (422, errors.InvalidRequestError, False, False),
        (429, errors.RateLimitError, True, True),
        (500, errors.ProviderUnavailableError, True, True),
        (503, errors.ProviderUnavailableError, True, True),
        (529, errors.ProviderUnavailableError, True, True),
        (302, errors.ProviderUnavailableError, True, True),
    ],
)
def test_the_law_of_failure(status: int, kind: type[GatewayError], same: bool, next_: bool) -> None:
    """Whose fault a status is, and who may be asked again."""
    error = from_status(status, provider="groq")

    assert type(error) is kind
    assert (error.same, error.next) == (same, next_)
    assert error.provider == "groq"


def test_a_context_that_is_too_long_may_fit_elsewhere() -> None:
    """The one fault of a request that another model may take."""
    error = from_status(400, provider="groq", code="context_length_exceeded")

    assert (error.same, error.next) == (False, True)


def test_our_own_limit_holds_everywhere() -> None:
    """Another provider does not help a client over its budget."""
    assert not errors.RateLimitError("x").next
    assert not errors.AuthError("x").next
    assert not errors.OverloadedError("x").next


@pytest.mark.parametrize(
    ("status", "kept"), [(400, 400), (409, 409), (413, 413), (418, 400), (422, 422), (404, 404)]
)
def test_statuses_that_clients_tell_apart_are_kept(status: int, kept: int) -> None:
    """The rest of 4xx is a plain 400."""
    assert from_status(status, provider="groq").status == kept


def test_only_a_refused_request_repeats_the_providers_words() -> None:
    """They say what to mend; about keys, limits and failures they are nobody else's matter."""
    words = "temperature is too hot"

    assert from_status(400, provider="groq", message=words, param="t").message == words
    for status in (401, 403, 429, 500):
        assert words not in from_status(status, provider="groq", message=words).message


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("plain", "plain"),
        ("two\nlines\x00", "two lines"),
        ("key sk-abcdef1234567890", "[key]"),
        ("Bearer abcdefghijkl is wrong", "[key] is wrong"),
        ("AIza" + "x" * 35, "[key]"),
        ("<html><body>proxy</body>", None),
        ("<!DOCTYPE html>", None),
        ("Traceback (most recent call last):", None),
        ("   ", None),
        (None, None),
        ({"a": 1}, None),
        (5, None),
    ],
)
def test_words_are_cleaned(message: object, told: str | None) -> None:
    """One line, no key, no page, no trace; else nothing."""
    found = clean(message)

    assert found == told or (told == "[key]" and found is not None and told in found)


@given(st.text())
def test_cleaned_words_are_one_bounded_line(text: str) -> None:
    """Whatever an upstream says."""
    found = clean(text)

    assert found is None or (len(found) <= errors.MESSAGE_LIMIT and "\n" not in found)


@pytest.mark.parametrize("code", ["x" * 65, "a b", "a\nb", 7, None, {"a": 1}])
def test_a_code_that_is_no_word_is_dropped(code: object) -> None:
    """Programs compare it, logs print it."""
    assert from_status(400, provider="groq", code=code).code is None


@given(st.floats(min_value=0, max_value=1e6))
def test_the_wait_that_is_told_is_long_enough(seconds: float) -> None:
    """Whole seconds, rounded up, at least one."""
    [(name, value)] = errors.RateLimitError("x", retry_after=seconds).headers()

    assert name == b"retry-after"
    assert int(value) >= max(1, math.floor(seconds))
    assert int(value) - seconds <= 1


def test_the_frame_is_the_body_as_one_event() -> None:
    """No event line, no second event."""
    error = errors.ProviderUnavailableError("a\nb", provider="groq")
    frame = error.frame().decode()

    assert frame.startswith("data: {")
    assert frame.count("\n") == 2
    assert json.loads(frame.removeprefix("data: ")) == json.loads(error.body())


def test_a_group_of_one_is_that_one() -> None:
    """However deep; a group of two stays."""
    error = KeyError("x")
    pair = ExceptionGroup("two", [error, error])

    assert lone(ExceptionGroup("a", [ExceptionGroup("b", [error])])) is error
    assert lone(pair) is pair
    assert lone(error) is error


def test_an_error_that_is_over_holds_no_frames() -> None:
    """Nor do its causes, shown or not; a chain that bites its tail has an end."""
    found: list[BaseException] = []
    for error in (OSError("first"), ValueError("second"), GatewayError("last")):
        try:
            raise error from (found[-1] if found else None)
        except (OSError, ValueError, GatewayError) as exc:
            found.append(exc)
    found[0].__context__ = found[-1]
    assert all(one.__traceback__ for one in found)

    untrace(found[-1])

    assert not any(one.__traceback__ for one in found)
