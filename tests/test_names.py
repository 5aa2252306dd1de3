"""Names: a name that is not answered costs the others nothing."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import anyio
import attrs
import pytest

from llmgw import names as module
from llmgw.errors import ConnectTimeoutError, ProviderUnavailableError
from llmgw.names import Names, names
from llmgw.upstream import Upstream
from tests.upstreams.recorder import Recorder


@attrs.define(eq=False)
class Resolver:
    """The system's look-up, as a test wants it."""

    asked: Counter[str] = attrs.field(factory=Counter[str])
    go_on: threading.Event = attrs.field(factory=threading.Event)

    def __call__(self, host: Any, *args: Any, **options: Any) -> Any:
        self.asked[host] += 1
        if host.startswith("hangs"):
            self.go_on.wait(60)
        if host.startswith("unknown"):
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    names.clear()
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    yield made
    made.go_on.set()
    names.clear()


async def test_a_name_that_hangs_does_not_stop_the_others(
    resolver: Resolver, recorder: Recorder
) -> None:
    """Twelve requests to it wait for one look-up; another name is looked up beside them."""
    client = Upstream(connect=1)
    failed = 0

    async def ask(host: str) -> None:
        nonlocal failed
        try:
            url = f"http://{host}:{recorder.port}/x"
            response = await client.send("POST", url, body=b"", name="it")
            await response.aclose()
        except ConnectTimeoutError:
            failed += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(12):
            tasks.start_soon(ask, "hangs.example")
        await anyio.wait_all_tasks_blocked()
        await ask("well.example")
        assert failed == 0
    await client.aclose()

    assert failed == 12
    assert resolver.asked == {"hangs.example": 1, "well.example": 1}


async def test_what_was_found_is_used_again_for_a_short_time(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it may have moved."""
    for _ in range(2):
        assert await names.addresses("a.example") == ["127.0.0.1"]
    assert resolver.asked["a.example"] == 1

    monkeypatch.setattr(module, "FRESH", 0)
    await names.addresses("a.example")
    assert resolver.asked["a.example"] == 2


async def test_a_failure_reaches_all_who_wait_and_is_not_kept(resolver: Resolver) -> None:
    """With the system's own words."""
    errors: list[OSError] = []

    async def find() -> None:
        try:
            await names.addresses("unknown.example")
        except OSError as exc:
            errors.append(exc)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(find)
    await find()

    assert [type(one) for one in errors] == [socket.gaierror] * 4
    assert resolver.asked["unknown.example"] >= 2


async def test_an_address_that_cannot_be_reached_is_looked_up_again(resolver: Resolver) -> None:
    """The host may have moved."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = Upstream()
    for _ in range(2):
        with pytest.raises(ProviderUnavailableError):
            await client.send("POST", f"http://a.example:{port}/", body=b"", name="it")

    assert resolver.asked["a.example"] == 2


async def test_a_caller_who_gives_up_leaves_the_look_up_to_others(resolver: Resolver) -> None:
    """Who comes later waits for the same one."""
    with anyio.move_on_after(0.01):
        await names.addresses("hangs.example")
    found: list[object] = []

    async def find() -> None:
        found.append(await names.addresses("hangs.example"))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(find)
            await anyio.wait_all_tasks_blocked()
            resolver.go_on.set()

    assert found == [["127.0.0.1"]]
    assert resolver.asked["hangs.example"] == 1


async def test_there_are_never_more_threads_than_the_limit(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A further name fails at once; a look-up that has ended makes room."""
    monkeypatch.setattr(module, "THREADS", 2)
    async with anyio.create_task_group() as tasks:
        for number in range(2):
            tasks.start_soon(names.addresses, f"hangs{number}.example")
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(OSError, match="too many"):
            await names.addresses("a.example")
        resolver.go_on.set()

    assert await names.addresses("a.example")


def test_a_loop_that_has_ended_is_not_told(resolver: Resolver) -> None:
    """Its look-up goes on, and a second loop waits for it."""
    own = Names()

    async def give_up() -> None:
        with anyio.move_on_after(0.01):
            await own.addresses("hangs.example")

    async def wait() -> object:
        threading.Timer(0.01, resolver.go_on.set).start()
        return await own.addresses("hangs.example")

    anyio.run(give_up)
    began = time.monotonic()

    assert anyio.run(wait, backend="trio") == ["127.0.0.1"]
    assert time.monotonic() - began < 60
