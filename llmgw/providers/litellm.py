"""LiteLLM: upstreams that need translation (Anthropic, Gemini, Cohere, Azure, Bedrock, Vertex ...).

It normalises, and nothing else: retries, routing, caching and callbacks of its own stay off. It is
imported at first use, in a thread: that takes seconds and 200 MB. It runs on asyncio only; on trio,
through the portal.

Of a client's body only ALLOWED fields become arguments: ``api_base``, ``mock_response``,
``extra_headers`` and their like would be obeyed.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
import sys
import time
from collections.abc import Awaitable, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import anyio.to_thread
import attrs
import msgspec

from llmgw import errors, portal
from llmgw._concurrency.block import wait_at_most
from llmgw._concurrency.deadline import DeadlineWaiter
from llmgw.asgi import Header
from llmgw.errors import GatewayError, ProviderUnavailableError
from llmgw.exchange import Deployment
from llmgw.names import names
from llmgw.providers.base import for_clients
from llmgw.retry_after import retry_after_of
from llmgw.transport import is_address, origin_of
from llmgw.wire import DONE, Call

# Fields of OpenAI's API that LiteLLM translates or refuses by itself
ALLOWED = frozenset(
    {
        *("messages", "temperature", "top_p", "n", "stream", "stream_options", "stop", "user"),
        *("max_tokens", "max_completion_tokens", "presence_penalty", "frequency_penalty"),
        *("logit_bias", "logprobs", "top_logprobs", "seed", "tools", "tool_choice"),
        *("parallel_tool_calls", "response_format", "reasoning_effort", "modalities", "prediction"),
        *("audio", "service_tier", "functions", "function_call", "thinking", "safety_identifier"),
    }
)
# What AS_OPENAI take as arguments; the rest goes to them in extra_body
PLAIN = frozenset({"messages", "stream", "stream_options"})
AS_OPENAI = frozenset({"openai", "azure"})  # they take unknown fields
# Off: its retries, its cache, and its MCP client, which a tool would call up (and may not be there)
OFF: dict[str, Any] = {
    "num_retries": 0,
    "max_retries": 0,
    "caching": False,
    "_skip_mcp_handler": True,
}
NO_KEY = "none"
FOREIGN = {"vllm": "hosted_vllm"}  # our name -> LiteLLM's prefix


@functools.lru_cache(maxsize=1)
def _import() -> Any:
    """The library, quiet and offline."""
    # Else the import asks the network
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    module: Any = importlib.import_module(
        "litellm"
    )  # untyped for us: its types take minutes to check

    module.suppress_debug_info = True
    module.disable_hf_tokenizer_download = True
    module.telemetry = False
    module.drop_params = True  # a parameter that a provider lacks is not the client's fault
    module.REPEATED_STREAMING_CHUNK_LIMIT = sys.maxsize  # a model may repeat itself
    return module


async def load() -> Any:
    """The library; the first time in a thread, so that the loop goes on."""
    if _import.cache_info().currsize:
        return _import()
    return await anyio.to_thread.run_sync(_import)


def arguments(call: Call, deployment: Deployment, headers: Sequence[Header]) -> dict[str, Any]:
    """What ``acompletion`` is called with."""
    fields = call.fields_for(deployment)
    fields.pop("model")
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(fields))
    found: dict[str, Any] = {key: value for key, value in decoded.items() if value is not None}
    if deployment.provider in AS_OPENAI:
        given = {key: value for key, value in found.items() if key in PLAIN}
        given["extra_body"] = {key: value for key, value in found.items() if key not in PLAIN}
    else:
        given = {key: value for key, value in found.items() if key in ALLOWED}
    extra = dict(deployment.headers) | {name.decode(): value.decode() for name, value in headers}
    # An own server may need no key; without one LiteLLM would send it that of the environment
    key = deployment.api_key or (NO_KEY if deployment.api_base else None)
    prefix = FOREIGN.get(deployment.provider, deployment.provider)
    ours = {
        "model": f"{prefix}/{deployment.model}",
        "api_key": key,
        "api_base": deployment.api_base,
        "extra_headers": extra or None,
        **dict(deployment.options),
    }
    return {**given, **OFF, **{key: value for key, value in ours.items() if value is not None}}


def object_of(value: Any) -> dict[str, Any]:
    """A JSON object as it is, anything else as an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def translate(exc: Exception, name: str) -> GatewayError:
    """LiteLLM's error as ours, by class and status; its text only if a request was refused."""
    module = _import()
    status = getattr(exc, "status_code", None)
    if isinstance(exc, module.Timeout):
        return errors.TimeoutError(f"{name} did not answer in time.", provider=name)
    if isinstance(exc, module.APIConnectionError) or not isinstance(status, int):
        return ProviderUnavailableError(f"{name} cannot be reached.", provider=name)
    facts = object_of(getattr(exc, "body", None))
    facts = object_of(facts.get("error")) or facts
    headers = pairs_of(getattr(exc, "litellm_response_headers", None))
    code = facts.get("code")
    if isinstance(exc, module.ContextWindowExceededError):
        code = "context_length_exceeded"
    elif isinstance(exc, module.ContentPolicyViolationError):
        code = "content_policy_violation"
    return errors.from_status(
        status,
        provider=name,
        message=facts.get("message"),
        param=facts.get("param"),
        code=code,
        retry_after=retry_after_of(headers),
        upstream_headers=for_clients(headers),
    )


def pairs_of(headers: Any, prefix: str = "") -> list[Header]:
    """A mapping of LiteLLM's as headers: those that begin with ``prefix``, without it."""
    return [
        (name.removeprefix(prefix).lower().encode(), str(value).encode("latin-1", "replace"))
        for name, value in dict(headers or {}).items()
        if isinstance(name, str) and name.startswith(prefix)
    ]


def headers_of(answer: Any) -> list[Header]:
    """The upstream's headers that the client may see, from an answer or a stream of LiteLLM's."""
    hidden = object_of(getattr(answer, "_hidden_params", None))
    return for_clients(pairs_of(hidden.get("additional_headers"), "llm_provider-"))


RECEIVED = ("received_finish_reason", "intermittent_finish_reason")  # None: the upstream gave none


def plain(part: Any) -> dict[str, Any]:
    """A chunk or an answer of LiteLLM's as data, without the null keys it adds but OpenAI's own."""
    found: dict[str, Any] = part.model_dump(exclude_none=True, mode="json")
    for choice in found["choices"]:
        choice.setdefault("finish_reason", None)
    return found


def invented(stream: Any) -> bool:
    """Whether LiteLLM made up a finish reason: it does so when the upstream ended without one."""
    return all(getattr(stream, name, "") is None for name in RECEIVED)


def response_of(stream: Any) -> Any:
    """The response below a stream of Anthropic's: the stream's own ``aclose`` leaves it open.

    BerriAI/litellm#38082: the iterator there holds only ``Response.aiter_lines()``, whose frame is
    the one place where the response is.
    """
    lines = getattr(getattr(stream, "completion_stream", None), "streaming_response", None)
    frame = getattr(lines, "ag_frame", None)
    return frame.f_locals.get("self") if frame is not None else None


AHEAD = 16  # events read before anybody takes them: 5 ms of LiteLLM's work on the loop; chosen


@attrs.define(eq=False)
class Reader:
    """Reads a stream of LiteLLM's ahead, so that what arrives together is taken together.

    An event that leaves alone costs the gateway 50 us, each of ten that leave together 20. What
    waits is bounded by number, not by bytes: LiteLLM itself keeps every part until the end. All of
    this runs on the loop where LiteLLM runs.
    """

    name: str
    stream: Any
    open: int  # choices without a finish reason yet
    texts: list[bytes] = attrs.field(factory=list[bytes])  # to be taken
    error: GatewayError | None = None  # what came behind them
    ended: bool = False
    task: asyncio.Task[None] | None = None
    waits: DeadlineWaiter | None = None  # of take(), for a text; or of the task, for room

    async def take(self, due: float) -> list[bytes]:
        """All that is there, after a wait for the first until ``due``; [] at the end.

        Raises GatewayError, Expired.
        """
        if self.waits is None:  # not before: here is the loop on which it waits
            self.waits = DeadlineWaiter()
            if not self.ended:
                self.task = asyncio.create_task(self._read(self.waits))
        if not self.texts and not self.ended:
            await self.waits.wait(due)
        texts, self.texts = self.texts, []
        self.waits.wake()
        if not texts and self.error is not None:
            try:
                raise self.error
            finally:
                self.error = None  # its traceback holds a frame that holds us
        return texts

    async def close(self) -> None:
        """Stop reading; close the stream and the connection below it. May be called twice."""
        response = response_of(self.stream)  # while its iterator stands: a cancelled one is gone
        if self.task is not None and not self.task.done():
            self.task.cancel()
            await asyncio.wait([self.task])
        self.task = None  # the traceback of its cancellation holds us
        if self.waits is not None:
            self.waits.silence()
        self.texts, self.error, self.ended = [], None, True
        for one in (self.stream, response):
            if hasattr(one, "aclose"):
                await one.aclose()

    async def _read(self, waits: DeadlineWaiter) -> None:
        try:
            async for part in self.stream:
                if len(self.texts) >= AHEAD:
                    await waits.wait()
                if self._note(part, waits):
                    break
            self.texts.append(DONE)
        except GatewayError as exc:
            self.error = exc
        except Exception as exc:
            self.error = translate(exc, self.name)
            self.error.__cause__ = exc
        finally:
            self.ended = True
            waits.wake()

    def _note(self, part: Any, waits: DeadlineWaiter) -> bool:
        """Keep a part; whether it was the last: behind its usage LiteLLM only counts once more."""
        found = plain(part)
        finished = [choice for choice in found["choices"] if choice["finish_reason"]]
        if finished and invented(self.stream):
            message = f"{self.name} ended its answer before it was complete."
            code = "upstream_truncated"
            raise ProviderUnavailableError(message, provider=self.name, code=code)
        last = self.open <= 0
        if last:  # of what comes after the finish reason only the usage is OpenAI's form
            if "usage" not in found:
                return False
            found["choices"] = []
        self.open -= len(finished)
        self.texts.append(msgspec.json.encode(found))
        waits.wake()
        return last and bool(getattr(self.stream, "sent_stream_usage", False))


@attrs.define(eq=False)
class LiteLLMAnswer:
    """An answer: whole, or what a Reader takes."""

    whole: list[bytes]
    reader: Reader | None = None
    headers: Sequence[Header] = ()

    def read(self, due: float) -> Awaitable[list[bytes]]:
        """See Answer."""
        return self._read() if self.reader is None else portal.call(self.reader.take, due)

    def release(self) -> bool:
        """See Answer."""
        return self.reader is None

    async def aclose(self) -> None:
        """See Answer."""
        if self.reader is not None:
            await portal.call(self.reader.close)

    async def _read(self) -> list[bytes]:
        whole, self.whole = self.whole, []
        return whole


@attrs.frozen
class LiteLLMProvider:
    """``litellm.acompletion``, fenced in."""

    async def open(
        self, call: Call, deployment: Deployment, headers: Sequence[Header], due: float
    ) -> LiteLLMAnswer:
        """See Provider."""
        return await wait_at_most(due - time.monotonic(), self._open(call, deployment, headers))

    async def aclose(self) -> None:
        """LiteLLM keeps its clients to itself."""

    async def _open(
        self, call: Call, deployment: Deployment, headers: Sequence[Header]
    ) -> LiteLLMAnswer:
        module = await load()
        given = arguments(call, deployment, headers)
        name = deployment.provider
        await look_up(deployment)
        try:
            answer = await portal.call(functools.partial(module.acompletion, **given))
        except Exception as exc:
            raise translate(exc, name) from exc
        if not call.stream:
            return LiteLLMAnswer([msgspec.json.encode(plain(answer))], headers=headers_of(answer))
        reader = Reader(name, answer, call.choices)
        return LiteLLMAnswer([], reader, headers_of(answer))


async def look_up(deployment: Deployment) -> None:
    """Find the address of a deployment's host, before LiteLLM does so in threads that all share.

    Raises ProviderUnavailableError.
    """
    try:
        origin = origin_of(urlsplit(deployment.api_base or ""))
    except ValueError:
        return  # LiteLLM's own address, or one that it will refuse
    if origin.proxy is None and not is_address(origin.host):
        try:
            await names.addresses(origin.host)
        except OSError as exc:
            text = f"{deployment.provider} cannot be reached."
            raise ProviderUnavailableError(text, provider=deployment.provider) from exc


async def count_tokens(text: str, model: str) -> int:
    """How many tokens ``text`` is, by the tokenizer that LiteLLM has for ``model``; offline."""
    module = await load()
    count = functools.partial(module.token_counter, model=model, text=text)
    found: int = await anyio.to_thread.run_sync(count)
    return found
