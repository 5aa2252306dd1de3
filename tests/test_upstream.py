"""Upstream: requests over real sockets: kept and stale connections, proxies, TLS, limits."""

from __future__ import annotations

import socket as socketlib
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import create_server, socket
from typing import Any

import anyio
import attrs
import pytest
import trustme

from llmgw import errors, transport
from llmgw._concurrency.block import Expired
from llmgw.errors import ProviderUnavailableError
from llmgw.portal import on_asyncio
from llmgw.upstream import Response, StaleConnectionError, Upstream, target_of
from tests.servers import free_port
from tests.upstreams.recorder import Recorder, Reply
from tests.upstreams.wall import Wall

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


@pytest.fixture
async def client() -> AsyncIterator[Upstream]:
    made = Upstream(connect=2)
    yield made
    await made.aclose()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def ask(client: Upstream, url: str, body: bytes = b"{}") -> tuple[int, bytes]:
    """One request, read to its end."""
    response = await client.send("POST", url, headers=[(b"a", b"b")], body=body, name="it")
    try:
        return response.status, await response.read_all(1 << 20)
    finally:
        await response.aclose()


@attrs.define(eq=False)
class Scripted:
    """A server of plain sockets: each connection is handled by the next of the script."""

    script: list[Callable[[socket], None]]
    heard: list[bytes] = attrs.field(factory=list[bytes])
    connections: int = 0
    port: int = 0
    tls: ssl.SSLContext | None = None

    def serve(self, listener: socket) -> None:
        """Handle connections until the listener is closed."""
        for handle in self.script:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection, suppress(OSError):
                if self.tls is None:
                    handle(connection)
                else:
                    with self.tls.wrap_socket(connection, server_side=True) as secured:
                        handle(secured)


@contextmanager
def scripted(
    *script: Callable[[socket], None], tls: ssl.SSLContext | None = None
) -> Generator[Scripted]:
    with create_server(("127.0.0.1", 0)) as listener:
        server = Scripted(list(script), port=listener.getsockname()[1], tls=tls)
        thread = threading.Thread(target=server.serve, args=(listener,), daemon=True)
        thread.start()
        yield server


def read_request(connection: socket) -> bytes:
    """One request, with its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (part := connection.recv(1 << 16)):
            return data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if b"content-length" in line), 0
    )
    while len(body) < length:
        body += connection.recv(1 << 16)
    return head + b"\r\n\r\n" + body


def answers(*replies: bytes) -> Callable[[socket], None]:
    """Answer one request after the other, then close."""

    def handle(connection: socket) -> None:
        for reply in replies:
            if not read_request(connection):
                return
            connection.sendall(reply)

    return handle


async def test_a_connection_is_kept(client: Upstream) -> None:
    """Two requests, one connection."""
    with scripted(answers(OK, OK)) as server:
        url = f"http://127.0.0.1:{server.port}/x"
        found = [await ask(client, url) for _ in range(2)]

    assert found == [(200, b"hi")] * 2
    assert server.connections == 1


async def test_a_connection_that_was_closed_while_it_rested_is_not_used(client: Upstream) -> None:
    """A new one is opened, and nobody notices."""
    with scripted(answers(OK), answers(OK)) as server:
        url = f"http://127.0.0.1:{server.port}/x"
        found = [await ask(client, url)]
        await anyio.sleep(0.05)
        found.append(await ask(client, url))

    assert found == [(200, b"hi")] * 2
    assert server.connections == 2


async def test_a_request_is_written_to_one_connection(client: Upstream, recorder: Recorder) -> None:
    """A kept one that dies without a word is told as such, and those beside it are closed too."""
    recorder.script.extend([Reply(body=b"hi"), Reply(body=b"hi"), Reply(cut=0), Reply(body=b"hi")])
    url = recorder.url + "/x"
    first = await client.send("POST", url, body=b"", name="it")
    second = await client.send("POST", url, body=b"", name="it")
    for response in (second, first):
        await response.read_all(10)
        assert response.release()
    [pool] = client._pools.values()
    assert len(pool.idle) == 2

    with pytest.raises(StaleConnectionError):
        await ask(client, url)

    assert len(recorder.requests) == 3
    assert (len(pool.idle), pool.open) == (0, 0)
    assert await ask(client, url) == (200, b"hi")


async def test_a_fresh_connection_that_closes_is_an_error(client: Upstream) -> None:
    """It may have been heard: whether to ask again is for Retry to say."""
    with (
        scripted(lambda connection: None, answers(OK)) as server,
        pytest.raises(ProviderUnavailableError, match="broke"),
    ):
        await ask(client, f"http://127.0.0.1:{server.port}/x")


async def test_half_an_answer_is_never_asked_for_again(client: Upstream) -> None:
    """A kept connection that breaks after a byte is an error too."""
    with scripted(answers(OK, b"HTTP/1.1 200"), answers(OK)) as server:
        url = f"http://127.0.0.1:{server.port}/x"
        await ask(client, url)
        with pytest.raises(ProviderUnavailableError):
            await ask(client, url)

    assert server.connections == 1


async def test_an_early_refusal_is_heard(client: Upstream) -> None:
    """A server that refuses a large body without reading it, and closes."""

    def refuse(connection: socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 413 No\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")
        connection.shutdown(1)
        while connection.recv(1 << 16):
            pass

    with scripted(refuse) as server:
        url = f"http://127.0.0.1:{server.port}/x"
        assert await ask(client, url, b"x" * (4 << 20)) == (413, b"no")


async def test_a_large_body_goes_out_whole(client: Upstream, recorder: Recorder) -> None:
    """Beyond every buffer on the way."""
    body = b'{"x": "' + b"y" * (5 << 20) + b'"}'
    recorder.script.append(Reply(body=b"ok"))

    assert await ask(client, recorder.url + "/x", body) == (200, b"ok")

    assert recorder.requests[0].body == body


async def test_an_unread_answer_is_not_buffered_without_bound(client: Upstream) -> None:
    """Who does not read slows the upstream: it can write no more than the buffers hold."""
    written = 0
    full = threading.Event()

    def flood(connection: socket) -> None:
        nonlocal written
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        connection.settimeout(0.3)
        try:
            while written < 64 << 20:
                written += connection.send(b"x" * 65536)
        except TimeoutError:
            full.set()

    with scripted(flood) as server:
        response = await client.send(
            "GET", f"http://127.0.0.1:{server.port}/", headers=[], body=b"", name="it"
        )
        await anyio.to_thread.run_sync(full.wait, 60)
        await response.aclose()

    assert full.is_set()
    assert written < 32 << 20


async def test_more_than_the_limit_is_refused(client: Upstream) -> None:
    """An answer in one piece has a bound."""
    with scripted(answers(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n123456789")) as server:
        response = await client.send(
            "GET", f"http://127.0.0.1:{server.port}/", headers=[], body=b"", name="it"
        )
        with pytest.raises(ProviderUnavailableError, match="too much"):
            await response.read_all(8)
        await response.aclose()


async def test_no_more_connections_than_the_limit(client: Upstream) -> None:
    """The others wait for one, at most as long as for a new connection."""
    client.connections = 2
    with Wall() as wall:
        url = f"{wall.url}/v1/chat/completions"
        body = b'{"model": "slow-first@0.1"}'
        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(ask, client, url, body)
            await wall.until(lambda: len(wall.attempts) == 6)
            assert wall.open_connections <= 2

        client.connect = 0.1
        body = b'{"model": "silence"}'
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(ask, client, url, body)
            await wall.until(lambda: len(wall.of("silence")) == 2)
            with pytest.raises(errors.ConnectTimeoutError):
                await ask(client, url, body)
            tasks.cancel_scope.cancel()


async def test_who_gives_up_waiting_for_a_connection_takes_no_others_turn(client: Upstream) -> None:
    """One holds the only connection, one gives up, the third gets it as soon as it is free."""
    client.connections, client.connect = 1, 120
    with Wall() as wall:
        url, body = f"{wall.url}/v1/chat/completions", b'{"model": "slow-first@0.5"}'
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, client, url, body)
            await wall.until(lambda: len(wall.attempts) == 1)
            due = time.monotonic() + 0.05
            with pytest.raises(Expired):
                await client.send("POST", url, body=body, name="it", due=due)
            with anyio.fail_after(60):  # the clock for a connection is longer
                await ask(client, url, body)

        assert [pool.open for pool in client._pools.values()] == [1]


@pytest.mark.parametrize("gives_up", ["never", "just before", "just after"])
async def test_a_connection_that_is_given_back_goes_to_who_still_waits(
    client: Upstream, gives_up: str
) -> None:
    """Two wait; the first may give up in the very moment in which its turn comes."""
    client.connections, client.connect = 1, 600
    order: list[str] = []
    with scripted(answers(OK, OK, OK), answers(OK)) as server:
        url = f"http://127.0.0.1:{server.port}/x"
        held = await client.send("POST", url, body=b"", name="it")
        assert await held.read_all(10) == b"hi"
        first = anyio.CancelScope()

        async def wait(name: str, scope: anyio.CancelScope) -> None:
            with scope:
                await ask(client, url)
                order.append(name)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait, "first", first)
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(wait, "second", anyio.CancelScope())
                await anyio.wait_all_tasks_blocked()
                if gives_up == "just before":
                    first.cancel()
                assert held.release()
                if gives_up == "just after":
                    first.cancel()

    assert order == (["first", "second"] if gives_up == "never" else ["second"])


async def test_a_connection_that_breaks_while_it_is_dropped_is_counted_once(
    client: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the limit would grow."""

    class CancelledError(BaseException):
        """As a task's own, in the middle of a close."""

    with scripted(answers(OK), answers(OK)) as server:
        url = f"http://127.0.0.1:{server.port}/x"
        await ask(client, url)
        [pool] = client._pools.values()
        connection = pool.idle[-1][0]
        close = connection.aclose

        async def cancelled() -> None:
            await close()
            raise CancelledError

        monkeypatch.setattr(type(connection), "stale", lambda self: False)
        monkeypatch.setattr(type(connection), "aclose", lambda self: cancelled())
        with pytest.raises(CancelledError):
            await ask(client, url)
        monkeypatch.undo()

    assert pool.open == 0


async def test_a_connection_whose_reading_was_paused_is_not_used_again(client: Upstream) -> None:
    """What came on it meanwhile, nobody has seen: a timeout's 408 would answer the next request."""
    size = transport.HIGH + 1000
    read, sent = threading.Event(), threading.Event()

    def handle(connection: socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        connection.sendall(b"x" * size)
        read.wait(10)
        connection.sendall(b"HTTP/1.1 408 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        sent.set()

    with scripted(handle, answers(OK)) as server:
        url = f"http://127.0.0.1:{server.port}/x"
        response = await client.send("GET", url, body=b"", name="it")
        with anyio.fail_after(60):  # all comes before anything is taken; on trio nothing does
            while on_asyncio() and not response.complete:
                await anyio.lowlevel.checkpoint()
        assert len(await response.read_all(1 << 20)) == size
        await response.aclose()
        read.set()
        await anyio.to_thread.run_sync(sent.wait, 10)
        assert await ask(client, url) == (200, b"hi")


async def test_cancelling_closes_the_connection(client: Upstream) -> None:
    """While the answer is waited for."""
    with Wall() as wall:
        async with anyio.create_task_group() as tasks:
            url = f"{wall.url}/v1/chat/completions"
            tasks.start_soon(ask, client, url, b'{"model": "silence"}')
            await wall.until(lambda: len(wall.attempts) == 1)
            tasks.cancel_scope.cancel()
        await wall.until(lambda: wall.open_connections == 0)


async def test_a_wait_for_the_head_ends_at_its_time(client: Upstream) -> None:
    """And the connection, which may still bring an answer, is closed."""
    with Wall() as wall:
        url, body = f"{wall.url}/v1/chat/completions", b'{"model": "silence"}'
        began = time.monotonic()
        with pytest.raises(Expired):
            await client.send("POST", url, body=body, name="it", due=began + 0.05)

        assert time.monotonic() - began >= 0.04
        await wall.until(lambda: wall.open_connections == 0)


async def test_a_body_that_nobody_takes_is_sent_until_its_time(client: Upstream) -> None:
    """Beyond what the buffers on the way hold."""
    done = threading.Event()

    def ignore(connection: socket) -> None:
        done.wait(60)

    with scripted(ignore) as server:
        url, body = f"http://127.0.0.1:{server.port}/", b"x" * (32 << 20)
        due = time.monotonic() + 0.1
        with pytest.raises(Expired):
            await client.send("POST", url, body=body, name="it", due=due)
        done.set()


async def test_each_wait_for_the_body_has_a_time_of_its_own(client: Upstream) -> None:
    """Whether the one before it was to end earlier or later, and whether it is a kept connection's.

    On asyncio they share one timer.
    """
    go = threading.Event()

    def handle(connection: socket) -> None:
        for _ in range(2):
            read_request(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nab")
            go.wait(60)
            go.clear()
            connection.sendall(b"cd")
            go.wait(60)
            go.clear()
            connection.sendall(b"ef")

    async def wait(response: Response, seconds: float) -> bytes:
        return await response.read(time.monotonic() + seconds)

    with scripted(handle) as server:
        url = f"http://127.0.0.1:{server.port}/"
        for _ in range(2):
            due = time.monotonic() + 60
            response = await client.send("GET", url, body=b"", name="it", due=due)
            assert await wait(response, 60) == b"ab"
            with pytest.raises(Expired):
                await wait(response, 0.05)
            go.set()
            assert await wait(response, 60) == b"cd"
            with pytest.raises(Expired):
                await wait(response, 0.05)
            with pytest.raises(Expired):
                await wait(response, 0.1)
            go.set()
            assert await wait(response, 60) == b"ef"
            assert await wait(response, 0) == b""
            assert response.release()

    assert server.connections == 1


async def test_a_later_wait_ends_at_its_own_time(client: Upstream) -> None:
    """Although the timer was set for an earlier one."""
    with Wall() as wall:
        url = f"{wall.url}/v1/chat/completions"
        for seconds in (0.12, 0.18):
            began = time.monotonic()
            with pytest.raises(Expired):
                await client.send(
                    "POST", url, body=b'{"model": "silence"}', name="it", due=began + seconds
                )
            assert time.monotonic() - began >= seconds - 0.01


async def test_after_it_was_closed_a_new_one_is_opened(client: Upstream) -> None:
    """And what was in use is not kept."""
    with scripted(answers(OK), answers(OK)) as server:
        url = f"http://127.0.0.1:{server.port}/x"
        response = await client.send("GET", url, headers=[], body=b"", name="it")
        await client.aclose()
        assert await response.read_all(10) == b"hi"
        await response.aclose()

        assert await ask(client, url) == (200, b"hi")


async def test_nobody_there(client: Upstream) -> None:
    """Without the address in the words."""
    with pytest.raises(ProviderUnavailableError, match="cannot be reached") as caught:
        await ask(client, f"http://127.0.0.1:{free_port()}/x")

    assert "127.0.0.1" not in caught.value.message


async def test_a_host_with_an_address_that_does_not_answer(
    client: Upstream, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one is tried: localhost is ::1 first, where nobody listens."""
    real = socketlib.getaddrinfo

    def both(host: str | bytes | None, *args: Any, **options: Any) -> Any:
        if host not in ("two.example", b"two.example"):
            return real(host, *args, **options)
        return [
            (socketlib.AF_INET, socketlib.SOCK_STREAM, 6, "", (address, recorder.port))
            for address in ("127.0.0.2", "127.0.0.1")
        ]

    monkeypatch.setattr(socketlib, "getaddrinfo", both)

    assert (await ask(client, f"http://two.example:{recorder.port}/x"))[0] == 404


@pytest.mark.parametrize(
    "url", ["ftp://x/", "http://", "x", "http://h:99999/", "http://h/ü", "http://[::1/"]
)
async def test_an_address_that_is_none(client: Upstream, url: str) -> None:
    """An operator's typing error is no crash."""
    with pytest.raises(ProviderUnavailableError, match="not valid"):
        await ask(client, url)


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        ("http://h/a?b=c", b"h", b"/a?b=c"),
        ("http://h:80", b"h", b"/"),
        ("https://h:443/x", b"h", b"/x"),
        ("https://h:444/x", b"h:444", b"/x"),
        ("http://[::1]:8080/x", b"[::1]:8080", b"/x"),
        ("http://user:secret@h/x", b"h", b"/x"),
    ],
)
def test_a_url_is_taken_apart(url: str, host: bytes, path: bytes) -> None:
    """The Host header has a port only where it is not the usual one; never a password."""
    target = target_of(url)

    assert (target.host, target.path) == (host, path)


async def test_a_proxy_forwards_http(client: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets the whole URL, and its own password."""
    heard: list[bytes] = []

    def proxy(connection: socket) -> None:
        heard.append(read_request(connection))
        connection.sendall(OK)

    with scripted(proxy) as server:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:pa%40ss@127.0.0.1:{server.port}")
        assert await ask(client, "http://upstream.example/v1/x") == (200, b"hi")

    line, *rest = heard[0].split(b"\r\n")
    assert line == b"POST http://upstream.example/v1/x HTTP/1.1"
    assert b"host: upstream.example" in rest
    assert b"proxy-authorization: Basic bWU6cGFAc3M=" in rest


async def test_no_proxy_for_who_is_named(
    client: Upstream, monkeypatch: pytest.MonkeyPatch, recorder: Recorder
) -> None:
    """NO_PROXY, as everybody reads it."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    assert (await ask(client, recorder.url + "/x"))[0] == 404


async def test_a_proxy_that_refuses(client: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tunnel that is not given is a connection that is not made."""
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n"
    with scripted(answers(refusal)) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{server.port}")
        with pytest.raises(ProviderUnavailableError, match="cannot be reached"):
            await ask(client, "https://upstream.example/v1/x")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    """A server's context, with a certificate for localhost."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture
def trusted(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The client trusts the authority as it trusts whatever SSL_CERT_FILE names."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    transport.trust.cache_clear()
    yield
    transport.trust.cache_clear()


@pytest.mark.usefixtures("trusted")
async def test_tls(client: Upstream, tls: ssl.SSLContext) -> None:
    """And the connection is kept."""
    with scripted(answers(OK, OK), tls=tls) as server:
        url = f"https://localhost:{server.port}/x"
        assert [await ask(client, url) for _ in range(2)] == [(200, b"hi")] * 2

    assert server.connections == 1


@pytest.mark.usefixtures("trusted")
async def test_a_certificate_for_another_name_is_refused(
    client: Upstream, tls: ssl.SSLContext
) -> None:
    """127.0.0.1 is not localhost."""
    with (
        scripted(answers(OK), tls=tls) as server,
        pytest.raises(ProviderUnavailableError, match="cannot be reached"),
    ):
        await ask(client, f"https://127.0.0.1:{server.port}/x")


async def test_an_unknown_certificate_is_refused(client: Upstream, tls: ssl.SSLContext) -> None:
    """There is no way to say otherwise."""
    with (
        scripted(answers(OK), tls=tls) as server,
        pytest.raises(ProviderUnavailableError, match="cannot be reached"),
    ):
        await ask(client, f"https://localhost:{server.port}/x")


@pytest.mark.usefixtures("trusted")
async def test_tls_through_a_proxys_tunnel(
    client: Upstream, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CONNECT, then TLS to the upstream itself."""
    heard: list[bytes] = []

    def proxy(connection: socket) -> None:
        heard.append(read_request(connection))
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with tls.wrap_socket(connection, server_side=True) as secured:
            answers(OK)(secured)

    with scripted(proxy) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.port}")
        monkeypatch.setattr("llmgw.transport.proxy_bypass", lambda host: False)
        assert await ask(client, "https://localhost:9/x") == (200, b"hi")

    assert heard[0].startswith(b"CONNECT localhost:9 HTTP/1.1\r\nhost: localhost:9\r\n")
