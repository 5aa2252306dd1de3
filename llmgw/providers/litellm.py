"""LiteLLM: upstreams that need translation (Anthropic, Gemini, Cohere, Azure, Bedrock, Vertex ...).

It normalises, and nothing else: retries, routing, caching and callbacks of its own stay off. It is
imported at first use, in a thread: that takes seconds and 200 MB. It runs on asyncio only; on trio,
through the portal.

Of a client's body only ALLOWED fields become arguments: ``api_base``, ``mock_response``,
``extra_headers`` and their like would be obeyed.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, cast

import anyio.to_thread
import attrs
import msgspec

from llmgw import errors, portal
from llmgw.asgi import Header
from llmgw.errors import GatewayError, ProviderUnavailableError
from llmgw.exchange import Deployment
from llmgw.waiting import within
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
    response_headers: Any = getattr(exc, "litellm_response_headers", None) or {}
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
        retry_after=errors.parse_retry_after(response_headers.get("retry-after")),
    )


RECEIVED = ("received_finish_reason", "intermittent_finish_reason")  # None: the upstream gave none


def encode(part: Any, *, last: bool = False) -> bytes:
    """A chunk or an answer of LiteLLM's as JSON, without the null keys it adds but OpenAI's own.

    ``last``: it came after the finish reason; of such a chunk only the usage is OpenAI's form.
    """
    found = part.model_dump(exclude_none=True, mode="json")
    choices = [] if last else [{"finish_reason": None, **choice} for choice in found["choices"]]
    return msgspec.json.encode({**found, "choices": choices})


def finishes(part: Any) -> int:
    """How many finish reasons a chunk has."""
    return sum(bool(choice.finish_reason) for choice in part.choices)


def invented(stream: Any, part: Any) -> bool:
    """Whether LiteLLM made up a finish reason: it does so when the upstream ended without one."""
    given = (getattr(stream, name, "") for name in RECEIVED)
    return finishes(part) > 0 and all(reason is None for reason in given)


async def close(stream: Any) -> None:
    """Close a stream of LiteLLM's and the connection below it.

    Its ``aclose`` leaves Anthropic's connection open (BerriAI/litellm#38082): the iterator there
    holds only ``Response.aiter_lines()``, whose frame is the one place where the response is.
    """
    lines = getattr(getattr(stream, "completion_stream", None), "streaming_response", None)
    frame = getattr(lines, "ag_frame", None)
    response: Any = frame.f_locals.get("self") if frame is not None else None
    for one in (stream, response):
        if hasattr(one, "aclose"):
            await one.aclose()


@attrs.define(eq=False)
class LiteLLMAnswer:
    """An answer: whole, or by the parts that LiteLLM's stream gives."""

    name: str
    whole: list[bytes]
    stream: Any = None
    open: int = 1  # choices without a finish reason yet
    headers: Sequence[Header] = ()
    done: bool = False

    async def read(self, due: float) -> list[bytes]:
        """See Answer."""
        return await within(due - time.monotonic(), self._next())

    async def _next(self) -> list[bytes]:
        if self.stream is None or self.done:
            whole, self.whole = self.whole, []
            return whole
        while True:
            try:
                part = await portal.call(anext, self.stream)
            except StopAsyncIteration:
                self.done = True
                return [DONE]
            except Exception as exc:
                raise translate(exc, self.name) from exc
            if invented(self.stream, part):
                message = f"{self.name} ended its answer before it was complete."
                code = "upstream_truncated"
                raise ProviderUnavailableError(message, provider=self.name, code=code)
            last = self.open <= 0
            self.open -= finishes(part)
            if not last or getattr(part, "usage", None):
                return [encode(part, last=last)]

    def release(self) -> bool:
        """See Answer."""
        return self.stream is None

    async def aclose(self) -> None:
        """See Answer."""
        self.done = True
        if self.stream is not None:
            await portal.call(close, self.stream)


@attrs.frozen
class LiteLLMProvider:
    """``litellm.acompletion``, fenced in."""

    async def open(
        self, call: Call, deployment: Deployment, headers: Sequence[Header], due: float
    ) -> LiteLLMAnswer:
        """See Provider."""
        return await within(due - time.monotonic(), self._open(call, deployment, headers))

    async def aclose(self) -> None:
        """LiteLLM keeps its clients to itself."""

    async def _open(
        self, call: Call, deployment: Deployment, headers: Sequence[Header]
    ) -> LiteLLMAnswer:
        module = await load()
        given = arguments(call, deployment, headers)
        name = deployment.provider
        try:
            answer = await portal.call(functools.partial(module.acompletion, **given))
        except Exception as exc:
            raise translate(exc, name) from exc
        if not call.stream:
            return LiteLLMAnswer(name, [encode(answer)])
        return LiteLLMAnswer(name, [], answer, call.choices)


async def count_tokens(text: str, model: str) -> int:
    """How many tokens ``text`` is, by the tokenizer that LiteLLM has for ``model``; offline."""
    module = await load()
    count = functools.partial(module.token_counter, model=model, text=text)
    found: int = await anyio.to_thread.run_sync(count)
    return found
