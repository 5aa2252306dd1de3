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
from tests.faults import ROWS, SILENT, Row
from tests.upstreams.wall import BIG, TEXT, UNICODE, Wall

# Only an upstream that is silent on purpose gets short clocks.
PATIENT = Clocks(first_token=60, idle=60, answer=60, total=120)
SHORT = Clocks(first_token=1, idle=1, answer=1, total=60)
ENDLESS = Clocks(first_token=1, idle=1, answer=1, total=2)
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
    made = LLMGatewayProvider(clocks=PATIENT, retry=RetryPolicy(backoff=0.01, retry_after_max=0.1))
    yield made
    await made.aclose()


def places(wall: Wall, *models: str) -> list[Deployment]:
    """Deployments at the wall."""
    base = f"{wall.url}/v1"
    return [Deployment("openai", model, base, "sk-wall", name=model) for model in models]


async def outcome(
    provider: LLMGatewayProvider, model: str = "it", *, stream: bool
) -> tuple[str, str]:
    """How a call ended, in the table's words, and what it said."""
    request = CompletionRequest(
        model=model, messages=[{"role": "user", "content": "hi"}], stream=stream
    )
    said: list[str] = []
    try:
        async for chunk in provider.generate(request):
            said.append(chunk.content)
    except GatewayError as error:
        return (f"event {error.status}" if said else str(error.status)), "".join(said)
    return "ok", "".join(said)


async def check(provider: LLMGatewayProvider, wall: Wall, row: Row, mode: str) -> None:
    """The outcome is the table's; a truncated answer is never taken for the whole one."""
    stream, fallback = MODES[mode]
    name = f"{row.model}:{mode}"
    provider.deployments = {
        **provider.deployments,
        name: places(wall, name, "well") if fallback else places(wall, name),
    }

    ended, said = await outcome(provider, name, stream=stream)

    assert ended == getattr(row, mode)
    if ended == "ok":
        assert said in GOOD


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("row", [row for row in ROWS if row.name not in SILENT], ids=str)
async def test_fault(provider: LLMGatewayProvider, wall: Wall, row: Row, mode: str) -> None:
    """An upstream that answers, however badly."""
    await check(provider, wall, row, mode)


@pytest.mark.parametrize("row", [row for row in ROWS if row.name in SILENT], ids=str)
async def test_silence(provider: LLMGatewayProvider, wall: Wall, row: Row) -> None:
    """An upstream that falls silent, in all modes at once; its connections are closed."""
    provider.clocks = ENDLESS if row.name == "endless" else SHORT

    async with anyio.create_task_group() as tasks:
        for mode in MODES:
            tasks.start_soon(check, provider, wall, row, mode)

    names = [f"{row.model}:{mode}" for mode in MODES]
    await wall.until(lambda: all(one.closed_at for name in names for one in wall.of(name)))


async def test_what_keeps_failing_is_left_alone(provider: LLMGatewayProvider, wall: Wall) -> None:
    """The fourth call does not ask it."""
    provider.deployments = {"it": places(wall, "503", "well")}

    assert [(await outcome(provider, stream=True))[0] for _ in range(5)] == ["ok"] * 5

    assert len(wall.of("503")) == 9  # three attempts of each of the first three calls


async def test_a_consumer_that_takes_its_time_is_no_timeout(
    provider: LLMGatewayProvider, wall: Wall
) -> None:
    """The clocks time only the wait for the upstream: together the pauses are longer than each."""
    provider.clocks = Clocks(first_token=10, idle=10, total=1)
    provider.deployments = {"it": places(wall, "well")}
    request = CompletionRequest(
        model="it", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    said: list[str] = []

    async for chunk in provider.generate(request):
        said.append(chunk.content)
        if len(said) == 1:
            await anyio.sleep(1.1)

    assert "".join(said) == TEXT


async def test_no_deployment_is_not_found(provider: LLMGatewayProvider) -> None:
    """An empty list is a name that leads nowhere."""
    provider.deployments = {"it": []}

    ended, _ = await outcome(provider, stream=False)

    assert ended == "404"
