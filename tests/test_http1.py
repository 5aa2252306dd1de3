"""HTTP/1.1 without I/O: whatever pieces a response comes in, it is the same response."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw.http1 import (
    HEAD_LIMIT,
    ProtocolError,
    Response,
    header_lines,
    request_head,
    request_start,
)

TOKEN = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map(str.encode)
VALUE = st.text("abcXYZ019 ;=,/", max_size=20).map(lambda text: text.strip().encode())
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
RESERVED = (b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"trailer", b"te")


def written(
    status: int, headers: list[tuple[bytes, bytes]], chunks: list[bytes], framing: str
) -> bytes:
    """A response as h11, another implementation, writes it."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    server.next_event()
    given_ = [pair for pair in headers if pair[0] not in RESERVED]
    if framing == "length":
        given_.append((b"content-length", b"%d" % sum(map(len, chunks))))
    elif framing == "chunked":
        given_.append((b"transfer-encoding", b"chunked"))
    else:
        given_.append((b"connection", b"close"))
        server = h11.Connection(h11.SERVER)
        server.receive_data(b"GET / HTTP/1.0\r\nhost: x\r\n\r\n")
        server.next_event()
    data = server.send(h11.Response(status_code=status, headers=given_)) or b""
    for chunk in chunks:
        data += server.send(h11.Data(data=chunk)) or b""
    return data + (server.send(h11.EndOfMessage()) or b"")


@given(
    status=st.sampled_from([200, 201, 400, 429, 500, 503]),
    headers=st.lists(st.tuples(TOKEN, VALUE), max_size=5),
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=5),
    framing=st.sampled_from(["length", "chunked", "end"]),
    cuts=st.lists(st.integers(1, 400), max_size=12),
    early=st.sampled_from(
        [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 E\r\nx: y\r\n\r\n"]
    ),
)
def test_a_response_is_the_same_in_any_pieces(
    status: int,
    headers: list[tuple[bytes, bytes]],
    chunks: list[bytes],
    framing: str,
    cuts: list[int],
    early: bytes,
) -> None:
    """Status, headers and body as another implementation wrote them; whole only at the end."""
    data = early + written(status, headers, chunks, framing)
    response, body, at = Response(), b"", 0
    for cut in [*sorted(set(cuts)), len(data)]:
        if piece := data[at:cut]:
            response.feed(piece)
            body += response.take()
        at = max(at, cut)
        assert response.complete is (framing != "end" and at >= len(data))
    if framing == "end":
        response.end()

    assert (response.status, body, response.complete) == (status, b"".join(chunks), True)
    mine = [pair for pair in headers if pair[0] not in RESERVED]
    assert [pair for pair in response.headers if pair[0] not in RESERVED] == mine
    assert response.keep_alive is (framing != "end")


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4),
    framing=st.sampled_from(["length", "chunked"]),
    data=st.data(),
)
def test_half_a_response_is_never_whole(
    chunks: list[bytes], framing: str, data: st.DataObject
) -> None:
    """Wherever the connection ends."""
    whole = written(200, [], chunks, framing)
    at = data.draw(st.integers(0, len(whole) - 1))
    response = Response()
    if at:
        response.feed(whole[:at])

    assert not response.complete
    with pytest.raises(ProtocolError):
        response.end()


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_garbage_is_refused_or_waited_for(pieces: list[bytes]) -> None:
    """No other exception, whatever comes."""
    response = Response()
    try:
        for piece in pieces:
            response.feed(piece)
        response.end()
    except ProtocolError:
        return
    assert response.complete


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * HEAD_LIMIT,
    ],
)
def test_what_is_no_response_is_refused(data: bytes) -> None:
    """Also what could be read in two ways: another would read it otherwise."""
    with pytest.raises(ProtocolError):
        Response().feed(data)


@pytest.mark.parametrize("more", [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"x"])
@pytest.mark.parametrize("together", [True, False])
def test_who_sends_more_than_was_asked_is_not_asked_again(more: bytes, together: bool) -> None:
    """The response stands; the connection is not kept."""
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
    response = Response()
    for piece in [whole + more] if together else [whole, more]:
        response.feed(piece)

    assert (response.status, response.take(), response.complete) == (200, b"hi", True)
    assert not response.keep_alive


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\nconnection: keep-alive\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", True),
    ],
)
def test_whether_the_connection_is_kept(head: bytes, kept: bool) -> None:
    """As RFC 9112 says."""
    response = Response()
    response.feed(head)

    assert (response.complete, response.keep_alive) == (True, kept)


def test_a_requests_head() -> None:
    """Line, host, headers as given, length."""
    start = request_start(b"POST", b"/v1/x?y", b"h:1", header_lines([(b"a", b"b")]))
    head = request_head(start, header_lines([(b"c", b"d")]), 7)

    assert head == (
        b"POST /v1/x?y HTTP/1.1\r\nhost: h:1\r\na: b\r\nc: d\r\ncontent-length: 7\r\n\r\n"
    )


@pytest.mark.parametrize("value", [b"a\r\nx: y", b"a\n", b"\r"])
def test_a_header_cannot_smuggle_another(value: bytes) -> None:
    """A line break in a value is refused."""
    with pytest.raises(ProtocolError):
        header_lines([(b"a", value)])
