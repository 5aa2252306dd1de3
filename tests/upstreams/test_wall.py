"""The wall itself: each fault breaks as its name says."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.upstreams.wall import CUT, FAULTS, TEXT, TOKENS, UNICODE, Wall


@pytest.fixture(scope="module")
def wall() -> Iterator[Wall]:
    with Wall() as running:
        yield running


def ask(wall: Wall, model: str, *, stream: bool = False) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", wall.port, timeout=60)
    body = {"model": model, "stream": stream, "messages": []}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    return connection


def outcome(wall: Wall, model: str, *, stream: bool) -> tuple[int | None, bytes, str]:
    """The status, what came of the body, and how it ended."""
    connection = ask(wall, model, stream=stream)
    status, parts = None, list[bytes]()
    try:
        response = connection.getresponse()
        status = response.status
        while part := response.read1(1 << 20):
            parts.append(part)
            if sum(map(len, parts)) > 20 << 20 or len(parts) > 2000:
                return status, b"".join(parts), "endless"
        missing = bool(response.length)
        return status, b"".join(parts), "short" if missing else "end"
    except (http.client.IncompleteRead, http.client.RemoteDisconnected):
        return status, b"".join(parts), "fin"
    except ConnectionResetError:
        return status, b"".join(parts), "reset"
    except TimeoutError:
        return status, b"".join(parts), "silent"
    finally:
        connection.close()


def texts(body: bytes) -> list[str]:
    """The content of each event that can be read."""
    found: list[str] = []
    for line in body.split(b"\n"):
        if line.startswith(b"data: {"):
            try:
                event: dict[str, Any] = json.loads(line[6:])
            except ValueError:
                continue
            found += [choice["delta"].get("content", "") for choice in event.get("choices", [])]
    return [text for text in found if text]


@pytest.mark.parametrize(
    ("model", "status", "tokens", "end"),
    [
        ("well", 200, len(TOKENS), "end"),
        ("no-done", 200, len(TOKENS), "end"),
        ("comments", 200, len(TOKENS), "end"),
        ("cut-fin", 200, CUT, "fin"),
        ("eof-clean", 200, CUT, "end"),
        ("half-event", 200, CUT, "end"),
        ("wrong-length", 200, CUT, "short"),
        ("empty", 200, 0, "end"),
        ("503", 503, 0, "end"),
        ("reset-before-headers", None, 0, "reset"),
    ],
)
def test_streams(wall: Wall, model: str, status: int | None, tokens: int, end: str) -> None:
    """The status, the tokens that come, and the end."""
    got, body, ended = outcome(wall, model, stream=True)

    assert (got, len(texts(body)), ended) == (status, tokens, end)


def test_reset_in_mid_stream(wall: Wall) -> None:
    """What was sent before may be lost in part."""
    got, _, ended = outcome(wall, "cut-rst", stream=True)

    assert (got, ended) == (200, "reset")


@pytest.mark.parametrize("stream", [True, False])
def test_a_character_in_two_pieces(wall: Wall, stream: bool) -> None:
    """Put together it is the character."""
    assert UNICODE in outcome(wall, "split-utf8", stream=stream)[1].decode()


def test_once_is_once_for_a_name(wall: Wall) -> None:
    """Another label is another name."""
    seen = [outcome(wall, name, stream=False)[0] for name in ("500-once:a", "500-once:a")]

    assert seen == [500, 200]
    assert outcome(wall, "500-once:b", stream=False)[0] == 500


def test_attempts_are_kept_and_told(wall: Wall) -> None:
    """With their headers, and when the connection was closed."""
    wall.reset()
    connection = ask(wall, "silence")
    wall.wait_until(lambda: len(wall.attempts) == 1)
    assert wall.attempts[0].closed_at is None

    connection.close()

    wall.wait_until(lambda: wall.attempts[0].closed_at is not None)
    assert wall.of("silence") == wall.attempts


def test_a_connection_can_be_used_again(wall: Wall) -> None:
    """After a good answer, and after a whole error."""
    connection = ask(wall, "503")
    connection.getresponse().read()
    body = json.dumps({"model": "well", "messages": []})
    connection.request("POST", "/v1/chat/completions", body)
    response = connection.getresponse()

    assert json.loads(response.read())["choices"][0]["message"]["content"] == TEXT
    connection.close()


def test_every_fault_says_what_it_is() -> None:
    """It is printed in the documentation."""
    assert all(func.__doc__ for func in FAULTS.values())
