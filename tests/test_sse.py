"""sse: the same events, however the bytes were cut."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw.sse import EventTooLargeError, Splitter, join

ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
WORDS = st.sampled_from([b"", b"a", b" a", b"{}", b"[DONE]", b"\xc3\xa9", b"a: b", b"\xef\xbb\xbf"])
LINES = st.one_of(
    WORDS.map(lambda word: b"data:" + word),
    WORDS.map(lambda word: b"data: " + word),
    st.sampled_from([b"", b"", b"", b"data", b": hi", b":", b"event: x", b"id: 1", b"retry: 5"]),
    st.sampled_from([b"dat", b"datax: 1", b"unknown"]),
)
STREAMS = st.builds(
    lambda bom, pairs, rest: bom + b"".join(line + end for line, end in pairs) + rest,
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.lists(st.tuples(LINES, ENDS), max_size=20),
    st.sampled_from([b"", b"data: half", b": com"]),
)


def reference(stream: bytes) -> list[bytes]:
    """The WHATWG rules, word by word, on the whole stream."""
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events: list[bytes] = []
    buffer = b""
    for line in text.split(b"\n")[:-1]:
        if not line:
            if buffer.removesuffix(b"\n"):
                events.append(buffer.removesuffix(b"\n"))
            buffer = b""
        name, _, value = line.partition(b":")
        if name == b"data":
            buffer += value.removeprefix(b" ") + b"\n"
    return events


def split(pieces: list[bytes], limit: int = 1 << 20) -> tuple[list[bytes], bool]:
    """The events of the pieces, and whether one was too large."""
    splitter, events = Splitter(limit=limit), list[bytes]()
    try:
        for piece in pieces:
            events += splitter.feed(piece)
        splitter.feed(b"")
    except EventTooLargeError:
        return events, True
    return events, False


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """The stream in pieces."""
    edges = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[start:stop] for start, stop in pairwise(edges)]


PLACES = st.lists(st.integers(0, 10_000), max_size=30)


@given(STREAMS, PLACES)
def test_any_cut_gives_the_events_of_the_standard(stream: bytes, places: list[int]) -> None:
    """Wherever the network cuts, the events are those that WHATWG's rules give for the whole."""
    assert split(cut(stream, places)) == (reference(stream), False)
    assert split([bytes([byte]) for byte in stream]) == (reference(stream), False)


@given(STREAMS, PLACES, st.integers(0, 24))
def test_any_cut_meets_the_limit_alike(stream: bytes, places: list[int], limit: int) -> None:
    """The limit strikes at the same event, after the same events, wherever the network cuts."""
    assert split(cut(stream, places), limit) == split([stream], limit)


@given(st.lists(st.binary(min_size=1, max_size=20)))
def test_joined_events_come_apart_again(payloads: list[bytes]) -> None:
    """What join wrote, Splitter reads back, line breaks as LF."""
    want = [one.replace(b"\r\n", b"\n").replace(b"\r", b"\n") for one in payloads]
    assert Splitter().feed(join(payloads)) == want


def test_join_writes_one_data_line_a_payload() -> None:
    """The plain case is byte-exact; nothing gives nothing."""
    assert join([b"{}", b"[DONE]"]) == b"data: {}\n\ndata: [DONE]\n\n"
    assert join([]) == b""


def test_lone_carriage_returns_end_an_event_at_once() -> None:
    """An event that ends in CR CR does not wait for the next piece."""
    splitter = Splitter()
    assert splitter.feed(b"data: x\r\r") == [b"x"]
    assert splitter.end()
    assert splitter.feed(b"\ndata: y\r") == []
    assert splitter.feed(b"\n\r") == [b"y"]


def test_half_an_event_is_never_given_out() -> None:
    """An event counts with its blank line only, and end() tells of the half."""
    for half in (b"data: x", b"data: x\n", b"dat"):
        splitter = Splitter()
        assert splitter.feed(b"data: a\n\n" + half) == [b"a"]
        assert not splitter.end()
    splitter = Splitter()
    splitter.feed(b"data: a\n\n")
    assert splitter.end()


def test_too_large_events_fail_after_those_before() -> None:
    """The limit bounds one event over all its lines, not the stream; an error stays one."""
    splitter = Splitter(limit=20)
    assert splitter.feed(b"data: 12345\n\n" * 10) == [b"12345"] * 10
    assert splitter.feed(b"data: a\n\ndata: 12345\ndata: 12345\n\n") == [b"a"]
    assert not splitter.end()
    for _ in range(2):
        with pytest.raises(EventTooLargeError):
            splitter.feed(b"\n\n")
    with pytest.raises(EventTooLargeError):
        Splitter(limit=20).feed(b": no end of this line in sight")


def test_an_event_in_many_pieces_takes_linear_time() -> None:
    """A copy of all that came, for each piece, would be 2 TB here: minutes, not half a second."""
    size = 32 << 20
    stream = b"data: " + b"x" * size + b"\n\n"
    splitter, events = Splitter(limit=2 * size), list[bytes]()
    began = time.monotonic()
    for at in range(0, len(stream), 256):
        events += splitter.feed(stream[at : at + 256])
        assert time.monotonic() - began < 60

    assert [len(event) for event in events] == [size]
