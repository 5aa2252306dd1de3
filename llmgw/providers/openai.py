"""Pass-through: upstreams that speak OpenAI's API get the client's own bytes and give back theirs.

Only ``model``, ``stream_options`` and a default temperature are changed on the way out; the
answer's JSON texts are not touched at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Never

import attrs
import msgspec
from msgspec import Struct, field

from llmgw import errors, http1, sse
from llmgw.asgi import Header, find_header
from llmgw.errors import AuthError, GatewayError, ProviderUnavailableError
from llmgw.exchange import Deployment
from llmgw.http1 import ProtocolError
from llmgw.providers.base import for_clients
from llmgw.retry_after import retry_after_of
from llmgw.upstream import NETWORK, Response, Upstream, broke
from llmgw.wire import Call

ANSWER_LIMIT = 64 << 20  # bytes of an answer that is not a stream; chosen: images come as base64
ERROR_LIMIT = 64 << 10  # bytes of an error's body that are looked at; chosen
WRITTEN = 1000  # deployments whose headers are kept as written; clients may make up names


class ErrorFacts(msgspec.Struct):
    """What is read of an error: OpenAI's form, and the flat ones of others."""

    message: object = None
    param: object = None
    code: object = None
    type: object = None


class ErrorBody(msgspec.Struct):
    """An error's body."""

    error: ErrorFacts | str | None = None
    message: object = None


def read_error(status: int, headers: Sequence[Header], body: bytes, provider: str) -> GatewayError:
    """The error that an upstream's refusal means; a body that is no JSON says nothing."""
    try:
        found = msgspec.json.decode(body, type=ErrorBody)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = ErrorBody()
    facts = (
        found.error
        if isinstance(found.error, ErrorFacts)
        else ErrorFacts(message=found.error or found.message)
    )
    # llama.cpp and Mistral send an int as code and the word as type.
    code = facts.code if isinstance(facts.code, str) else None
    if code is None and facts.type == "exceed_context_size_error":
        code = "context_length_exceeded"
    return errors.from_status(
        status,
        provider=provider,
        message=facts.message,
        param=facts.param,
        code=code,
        retry_after=retry_after_of(headers),
        upstream_headers=for_clients(headers),
    )


class StreamAnswer(Struct, eq=False):
    """An event stream, by the events that have come."""

    response: Response
    headers: Sequence[Header]
    splitter: sse.Splitter = field(default_factory=sse.Splitter)

    async def read(self, due: float) -> list[bytes]:
        """See Answer."""
        response = self.response
        while True:
            if response.pieces:
                if events := self._split(response.take()):
                    return events
            elif response.complete:
                return []
            else:
                try:  # what waits for each event has no coroutine that it could do without
                    await response.connection.pull(due)
                except NETWORK as exc:
                    raise broke(response.name) from exc

    def release(self) -> bool:
        """See Answer."""
        return self.response.release()

    async def aclose(self) -> None:
        """See Answer."""
        await self.response.aclose()

    def _split(self, piece: bytes) -> list[bytes]:
        try:
            return self.splitter.feed(piece)
        except sse.EventTooLargeError as exc:
            name = self.response.name
            text = f"{name} sent an event that is too large."
            raise ProviderUnavailableError(text, provider=name) from exc


class WholeAnswer(Struct, eq=False):
    """An answer in one piece."""

    response: Response
    headers: Sequence[Header]
    size: int = 0  # bytes that have come

    async def read(self, due: float) -> list[bytes]:
        """See Answer."""
        piece = await self.response.read(due)
        self.size += len(piece)
        if self.size > ANSWER_LIMIT:
            name = self.response.name
            raise ProviderUnavailableError(f"{name} sent too much.", provider=name)
        return [piece] if piece else []

    def release(self) -> bool:
        """See Answer."""
        return self.response.release()

    async def aclose(self) -> None:
        """See Answer."""
        await self.response.aclose()


def answer_of(call: Call, response: Response) -> StreamAnswer | WholeAnswer:
    """What was asked for, of status 200. Raises ProviderUnavailableError when it is not."""
    headers = for_clients(response.headers)
    if not call.stream:
        return WholeAnswer(response, headers)
    kind = find_header(response.headers, b"content-type") or b""
    response.headers = []  # a stream may go on for minutes
    if kind.startswith(b"text/event-stream"):
        return StreamAnswer(response, headers)
    text = f"{response.name} did not answer with an event stream."
    raise ProviderUnavailableError(text, provider=response.name, code="upstream_malformed")


@attrs.define(eq=False)
class OpenAIProvider:
    """``POST {api_base}/chat/completions`` at anyone who speaks OpenAI's API."""

    upstream: Upstream = attrs.field(factory=Upstream)
    _written: dict[tuple[int, bool], tuple[Deployment, str, bytes]] = attrs.field(
        factory=dict[tuple[int, bool], tuple[Deployment, str, bytes]], init=False, repr=False
    )

    async def open(
        self, call: Call, deployment: Deployment, headers: Sequence[Header], due: float
    ) -> StreamAnswer | WholeAnswer:
        """See Provider."""
        name = deployment.provider
        if deployment.api_base is None:
            raise AuthError(f"No address is configured for {name}.", provider=name)
        url, lines = self._address(call, deployment, deployment.api_base)
        response = await self.upstream.send(
            "POST",
            url,
            headers=headers,
            lines=lines,
            body=call.encode(deployment),
            name=name,
            due=due,
        )
        try:
            if response.status == 200:
                return answer_of(call, response)
            await self._refuse(response, due)
        except BaseException:
            await response.aclose()
            raise

    async def aclose(self) -> None:
        """Close the connections."""
        await self.upstream.aclose()

    async def _refuse(self, response: Response, due: float) -> Never:
        try:
            body = await response.read_all(ERROR_LIMIT, due)
        except ProviderUnavailableError:
            body = b""  # the status says enough
        raise read_error(response.status, response.headers, body, response.name)

    def _address(self, call: Call, deployment: Deployment, base: str) -> tuple[str, bytes]:
        """A deployment's URL and the headers of its requests: written once, for 6 us a request."""
        key = (id(deployment), call.stream)
        known = self._written.get(key)
        if known is not None and known[0] is deployment:
            return known[1], known[2]
        pairs = [
            (b"content-type", b"application/json"),
            (b"accept", b"text/event-stream" if call.stream else b"application/json"),
            (b"accept-encoding", b"identity"),
            (b"user-agent", b"llmgw"),
        ]
        if deployment.api_key:
            pairs.append((b"authorization", b"Bearer " + deployment.api_key.encode()))
        pairs += [(name.lower().encode(), value.encode()) for name, value in deployment.headers]
        try:
            lines = http1.header_lines(pairs)
        except ProtocolError as exc:
            text = f"A header for {deployment.provider} is not valid."
            raise ProviderUnavailableError(text, provider=deployment.provider) from exc
        if len(self._written) >= WRITTEN:
            self._written.clear()
        url = base.rstrip("/") + "/chat/completions"
        self._written[key] = deployment, url, lines
        return url, lines
