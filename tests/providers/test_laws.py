"""The Python API obeys the laws of the gateway: every fault of the wall, by the same table."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import anyio
import pytest

from llmgw.errors import GatewayError
from llmgw.exchange import Deployment
from llmgw.providers import CompletionRequest, LLMGatewayProvider
from llmgw.providers.base import Clocks
from llmgw.retrying import RetryPolicy
from tests.faults import ROWS, Row
from tests.upstreams.wall import BIG, TEXT, UNICODE, Wall

CLOCKS = Clocks(first_token=0.4, idle=0.2, answer=0.4, total=1.0)
MODES = {
    "stream": (True, False),
    "whole": (False, False),
    "stream_next": (True, True),
    "whole_next": (False, True),
}
GOOD = {TEXT, UNICODE, "x" * BIG}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wall() -> Iterator[Wall]:
    with Wall() as running:
        yield running


@pytest.fixture
async def provider(wall: Wall) -> AsyncIterator[LLMGatewayProvider]:
    wall.reset()
    made = LLMGatewayProvider(clocks=CLOCKS, retry=RetryPolicy(backoff=0.01, retry_after_max=0.5))
    yield made
    await made.aclose()


def places(wall: Wall, *models: str) -> list[Deployment]:
    """Deployments at the wall."""
    base = f"{wall.url}/v1"
    return [Deployment("openai", model, base, "sk-wall", name=model) for model in models]


async def outcome(provider: LLMGatewayProvider, *, stream: bool) -> tuple[str, str]:
    """How a call ended, in the table's words, and what it said."""
    request = CompletionRequest(
        model="it", messages=[{"role": "user", "content": "hi"}], stream=stream
    )
    said: list[str] = []
    try:
        async for chunk in provider.generate(request):
            said.append(chunk.content)
    except GatewayError as error:
        return (f"event {error.status}" if said else str(error.status)), "".join(said)
    return "ok", "".join(said)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_fault(provider: LLMGatewayProvider, wall: Wall, row: Row, mode: str) -> None:
    """The outcome of the table; a truncated answer is never the whole one."""
    stream, fallback = MODES[mode]
    models = (row.model, "well") if fallback else (row.model,)
    provider.deployments = {"it": places(wall, *models)}

    ended, said = await outcome(provider, stream=stream)

    assert ended == getattr(row, mode)
    if ended == "ok":
        assert said in GOOD
    silent = {"silence", "headers-then-silence", "never-content", "stall", "endless"}
    if row.name in silent:
        await wall.until(lambda: all(one.closed_at for one in wall.of(row.model)))


async def test_what_keeps_failing_is_left_alone(provider: LLMGatewayProvider, wall: Wall) -> None:
    """The second call does not ask it."""
    provider.deployments = {"it": places(wall, "503", "well")}

    assert [(await outcome(provider, stream=True))[0] for _ in range(3)] == ["ok"] * 3

    assert len(wall.of("503")) == 3  # of the first call


async def test_a_consumer_that_takes_its_time_is_no_timeout(
    provider: LLMGatewayProvider, wall: Wall
) -> None:
    """The clocks time only the wait for the upstream."""
    provider.clocks = Clocks(first_token=0.4, idle=0.3, total=0.5)
    provider.deployments = {"it": places(wall, "well")}
    request = CompletionRequest(
        model="it", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    said: list[str] = []

    async for chunk in provider.generate(request):
        said.append(chunk.content)
        await anyio.sleep(0.015)

    assert "".join(said) == TEXT


async def test_no_deployment_is_not_found(provider: LLMGatewayProvider) -> None:
    """An empty list is a name that leads nowhere."""
    provider.deployments = {"it": []}

    ended, _ = await outcome(provider, stream=False)

    assert ended == "404"
