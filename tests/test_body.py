"""Body: read once, replayed, watched; who reads it and who watches the client are one."""

from __future__ import annotations

from functools import partial

import anyio
import anyio.lowlevel
import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw.asgi import BODY, Message, Send
from llmgw.body import GRACE, Body, read_body, read_whole_body, replayed
from llmgw.errors import InvalidRequestError
from llmgw.exchange import Exchange, enter
from llmgw.testing import no_receive


def part(data: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


GONE: Message = {"type": "http.disconnect"}


@attrs.define
class Client:
    """A ``receive``: messages in order, then the client stays until ``leave``; and a ``send``."""

    inbox: list[Message]
    leave: anyio.Event = attrs.field(factory=anyio.Event)
    listened: anyio.Event = attrs.field(factory=anyio.Event)
    readers: int = 0
    most: int = 0
    broken: bool = False

    async def send(self, message: Message) -> None:
        await anyio.lowlevel.checkpoint()
        if self.broken:
            raise BrokenPipeError

    async def __call__(self) -> Message:
        self.readers += 1
        self.most = max(self.most, self.readers)
        try:
            if self.inbox:
                await anyio.lowlevel.checkpoint()
                return self.inbox.pop(0)
            self.listened.set()
            await self.leave.wait()
            return GONE
        finally:
            self.readers -= 1


@given(chunks=st.lists(st.binary(max_size=20), max_size=6))
def test_however_it_is_cut_the_body_is_whole(chunks: list[bytes]) -> None:
    """Empty chunks included."""
    messages = [part(chunk, more=True) for chunk in chunks] + [part(b"")]

    async def read() -> Body:
        return await read_body(Client(messages), limit=1000)

    body = anyio.run(read)

    assert body.data == b"".join(chunks)
    assert body.complete


async def test_over_the_limit_the_rest_stays_in_the_source() -> None:
    """Nothing is lost: what was read comes first, then the rest."""
    client = Client([part(b"abc", more=True), part(b"def", more=True), part(b"ghi")])

    body = await read_body(client, limit=4)

    assert (body.complete, body.overflow) == (False, True)
    assert [await body(), await body()] == [part(b"abcdef", more=True), part(b"ghi")]


async def test_a_whole_body_over_the_limit_is_a_413() -> None:
    """With the limit in the message; exactly the limit passes."""
    assert (await read_whole_body(Client([part(b"abcd")]), limit=4)).data == b"abcd"
    with pytest.raises(InvalidRequestError, match="4 bytes") as caught:
        await read_whole_body(Client([part(b"abcde")]), limit=4)
    assert (caught.value.status, caught.value.code) == (413, "request_too_large")


async def test_a_limit_met_by_another_layer_still_holds() -> None:
    """A Body read under a larger limit is measured again."""
    body = await read_body(Client([part(b"abcde")]), limit=10)

    with pytest.raises(InvalidRequestError):
        await read_whole_body(body, limit=4)


async def test_a_client_that_left_while_sending() -> None:
    """An incomplete Body that knows."""
    body = await read_whole_body(Client([part(b"ab", more=True), GONE]), limit=10)

    assert (body.data, body.complete, body.left) == (b"ab", False, True)
    assert await body() == part(b"ab", more=True)
    assert await body() == GONE  # the source is not asked again


async def test_a_body_is_read_once_however_many_layers_ask() -> None:
    """The same object, its bytes given anew; a decoder runs once."""
    body = await read_body(Client([part(b"12")]), limit=10)
    seen: list[bytes] = []

    def decode(data: bytes) -> int:
        seen.append(data)
        return int(data)

    again = await read_body(body, limit=10)

    assert again is body
    assert (await again(), await again.replay()()) == (part(b"12"), part(b"12"))
    assert (body.decode(decode), body.decode(decode), seen) == (12, 12, [b"12"])


async def test_a_body_that_was_read_is_given_anew_without_a_wait() -> None:
    """One that is whole and small enough; anything else must be read."""
    client = Client([part(b"12")])
    assert replayed(client, 10) is None
    body = await read_body(client, limit=10)
    first = await body()
    body.end()

    assert replayed(body, 2) is body
    assert await body() == first == part(b"12")
    assert replayed(body, 1) is None
    assert replayed(Body(b"1", complete=False, overflow=True, source=no_receive), 10) is None


async def test_what_was_forgotten_counts_as_given() -> None:
    """Who listens on hears the client; who would read it finds none."""
    client = Client([part(b"12")])
    body = await read_body(client, limit=10)
    assert body.decode(int) == 12

    body.forget()

    assert (body.data, body.complete, replayed(body, 10)) == (b"", False, None)
    client.leave.set()
    assert await body() == GONE
    assert (await read_body(body.replay(), limit=10)).left


async def watched(client: Client) -> tuple[Body, Exchange, Send]:
    """A body that was read behind the port of an exchange."""
    exchange, _, receive, send = enter({"type": "http"}, client, client.send)
    return await read_body(receive, limit=10), exchange, send


async def test_a_client_that_leaves_cancels_what_runs() -> None:
    """Nothing is raised; the Exchange knows."""
    client = Client([part(b"")])
    body, exchange, _ = await watched(client)
    ended = False

    async def main() -> None:
        nonlocal ended
        client.leave.set()
        await anyio.sleep_forever()
        ended = True

    with anyio.fail_after(60):
        await body.watch(exchange, main)

    assert (exchange.left, body.left, ended) == (True, True, False)


async def test_a_disconnect_after_the_response_is_none() -> None:
    """Servers tell of one when all is sent."""
    client = Client([part(b"")])
    body, exchange, send = await watched(client)

    async def main() -> None:
        await send({"type": BODY, "body": b""})
        client.leave.set()
        await body.source()
        await anyio.wait_all_tasks_blocked()

    await body.watch(exchange, main)

    assert exchange.ended
    assert not exchange.left


async def test_a_send_that_fails_means_the_client_left() -> None:
    """Some servers raise OSError; it is no error of the app."""
    client = Client([part(b"")], broken=True)
    body, exchange, send = await watched(client)

    async def main() -> None:
        await send({"type": BODY, "body": b"x", "more_body": True})

    await body.watch(exchange, main)

    assert exchange.left
    assert await body() == part(b"")
    assert await body() == GONE  # whoever listens hears of it


async def test_its_own_error_leaves_as_it_is() -> None:
    """Never in a group: layers above look at its class; an OSError may be the app's own, too."""
    for error in (KeyError, FileNotFoundError):
        body, exchange, _ = await watched(Client([part(b"")]))

        async def main(error: type[Exception] = error) -> None:
            raise error("own")

        with pytest.raises(error):
            await body.watch(exchange, main)


async def test_a_server_that_fails_to_listen_ends_what_runs() -> None:
    """Nobody waits for a client of whom nothing can be known; the error leaves."""

    class Failing(Client):
        async def __call__(self) -> Message:
            if not self.inbox:
                raise KeyError("receive")
            return self.inbox.pop(0)

    body, exchange, _ = await watched(Failing([part(b"")]))

    with anyio.fail_after(60), pytest.raises(KeyError):
        await body.watch(exchange, anyio.sleep_forever)


async def test_cancellation_from_outside_goes_on() -> None:
    """It is not taken for the watcher's own."""
    body, exchange, _ = await watched(Client([part(b"")]))

    with anyio.move_on_after(0.01) as scope:
        await body.watch(exchange, anyio.sleep_forever)

    assert scope.cancelled_caught
    assert not exchange.left


async def test_a_watch_within_a_watch_does_nothing() -> None:
    """One reader of the source, and an app that listens beside it hears the same."""
    client = Client([part(b"")])
    body, exchange, _ = await watched(client)
    heard: list[str] = []

    async def listen() -> None:
        await body()
        heard.append((await body())["type"])

    async def inner() -> None:
        await anyio.wait_all_tasks_blocked()
        client.leave.set()
        await anyio.sleep_forever()

    async def outer() -> None:
        await body.watch(exchange, inner)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await body.watch(exchange, outer)

    assert client.most == 1
    assert heard == ["http.disconnect"]


async def test_what_runs_beside_also_does_within_a_watch() -> None:
    """Hold's beat has no need of the watcher."""
    client = Client([part(b"")])
    body, exchange, _ = await watched(client)
    begun = anyio.Event()

    async def beat() -> None:
        begun.set()
        await anyio.sleep_forever()

    async def outer() -> None:
        await body.watch(exchange, begun.wait, beside=beat)

    with anyio.fail_after(60):
        await body.watch(exchange, outer)

    assert not body.watched


@pytest.mark.parametrize("complete", [True, False])
async def test_nobody_reads_when_a_slow_request_has_ended(complete: bool) -> None:
    """Not when the watch has, if more may follow; else before anybody hears of the end."""
    client = Client([part(b"")])
    body, exchange, send = await watched(client)

    async def main() -> None:
        await client.listened.wait()
        if complete:
            await send({"type": BODY, "body": b""})

    async def run() -> None:
        await body.watch(exchange, main)
        assert complete or not client.readers

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)

    assert (client.readers, exchange.left, body.watched) == (0, False, False)


async def test_a_disconnect_after_the_end_does_not_end_what_still_runs() -> None:
    """An app may clean up after its response: the client has all of it."""
    client = Client([part(b"")])
    body, exchange, send = await watched(client)
    cleaned = False

    async def main() -> None:
        nonlocal cleaned
        await client.listened.wait()
        await send({"type": BODY, "body": b""})
        client.leave.set()
        assert await body() == part(b"")
        assert await body() == GONE  # the watcher has heard it
        await anyio.sleep(0.01)
        cleaned = True

    with anyio.fail_after(60):
        await body.watch(exchange, main)

    assert cleaned
    assert not exchange.left


async def test_a_source_that_never_waits_does_not_stop_the_loop() -> None:
    """A server may say more than the spec allows: what is not a disconnect is passed over."""

    class Chatty(Client):
        async def __call__(self) -> Message:
            return part(b"again")

    body, exchange, _ = await watched(Chatty([]))

    with anyio.fail_after(60):
        await body.watch(exchange, partial(anyio.sleep, 2 * GRACE))

    assert not exchange.left


async def test_after_the_watch_the_body_can_be_watched_again() -> None:
    """Retry's has ended, another layer's begins."""
    client = Client([part(b"")])
    body, exchange, _ = await watched(client)
    await body.watch(exchange, anyio.lowlevel.checkpoint)
    assert not exchange.left

    async def main() -> None:
        client.leave.set()
        await anyio.sleep_forever()

    with anyio.fail_after(60):
        await body.watch(exchange, main)

    assert exchange.left


async def test_an_incomplete_body_is_not_watched() -> None:
    """Its rest belongs to the app."""
    body = Body(b"a", complete=False, overflow=True, source=no_receive)

    async def main() -> None:
        assert not body.watched

    await body.watch(Exchange(), main)
