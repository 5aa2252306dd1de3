"""The errors of the gateway: their HTTP status, place in the law of failure and wire form.

Two questions are answered by every error, so that no layer needs a list of classes: may the
``same`` deployment be asked again, and may the ``next`` one be asked instead?

Source   DESIGN's law of failure (docs/reliability.md). The body's shape: OpenAI's API reference,
         "Error codes"; openai-python builds its exception classes from the status.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import cast

import msgspec

from llmgw.asgi import Header

MESSAGE_LIMIT = 1000  # characters of an upstream's message that are repeated; chosen
UNSAFE = re.compile(r"[\x00-\x1f\x7f]+")
SECRET = re.compile(r"(?i)\b(?:sk|pk|gsk|xai|key|bearer)[-_ ][\w.*-]{6,}|AIza[\w-]{20,}")


class GatewayError(Exception):
    """Base of every error the toolkit raises on purpose.

    ``message`` is meant for the client; ``param`` is the path of the field at fault
    (``messages[0].role``); ``code`` a word for programs; ``provider`` who failed, None if it was
    not a provider; ``retry_after`` seconds until a repeat makes sense, None if unknown;
    ``upstream_headers`` those of the provider that the client may see, such as its rate limits.
    """

    status = 500
    type = "server_error"
    code: str | None = None
    _same = False
    _next = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        provider: str | None = None,
        retry_after: float | None = None,
        upstream_headers: Sequence[Header] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.code
        self.status = status or self.status
        self.provider = provider
        self.retry_after = retry_after
        self.upstream_headers = upstream_headers

    @property
    def same(self) -> bool:
        """Whether the same deployment may answer a repeat."""
        return self._same

    @property
    def next(self) -> bool:
        """Whether another deployment may answer."""
        return self._next

    def body(self) -> bytes:
        """The error as OpenAI's JSON body."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return msgspec.json.encode({"error": error})

    def frame(self) -> bytes:
        """The error as the one server-sent event that ends a begun stream."""
        return b"data: " + self.body() + b"\n\n"

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that go with the body: an integer Retry-After on every 429 and 503."""
        if self.retry_after is None and self.status not in (429, 503):
            return [*self.upstream_headers]
        seconds = max(1, math.ceil(self.retry_after or 1))
        return [*self.upstream_headers, (b"retry-after", b"%d" % seconds)]


class InvalidRequestError(GatewayError):
    """The request itself is wrong; a repeat would be too."""

    status, type = 400, "invalid_request_error"

    @property
    def next(self) -> bool:
        """Only another model may have room for what was too long for this one."""
        return self.code == "context_length_exceeded"


class AuthError(GatewayError):
    """A key is missing or refused: the client's, or with ``provider`` set, ours there."""

    status, type, code = 401, "authentication_error", "invalid_api_key"

    @property
    def next(self) -> bool:
        """Another provider may know its key."""
        return self.provider is not None


class PermissionDeniedError(AuthError):
    """A key is known and may not do this."""

    status, type, code = 403, "permission_error", "permission_denied"


class NotFoundError(GatewayError):
    """The model, or the path, is not known."""

    status, type, code, _next = 404, "invalid_request_error", "model_not_found", True


class RateLimitError(GatewayError):
    """A limit was met: the provider's, or with no ``provider``, one of ours."""

    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"
    _same = True

    @property
    def next(self) -> bool:
        """Another provider has limits of its own; ours hold for all."""
        return self.provider is not None


class TimeoutError(GatewayError):  # the seed's name; write errors.TimeoutError
    """The upstream did not answer in time. Silence is not asked again at the same place."""

    status, type, code, _next = 504, "timeout_error", "timeout", True


class ConnectTimeoutError(TimeoutError):
    """No connection in time: nothing was sent, so the same deployment may be tried again."""

    code, _same = "connect_timeout", True


class ProviderUnavailableError(GatewayError):
    """The provider refused the connection, broke it, failed (5xx) or sent garbage."""

    status, type, code = 502, "provider_error", "provider_unavailable"
    _same, _next = True, True


class LoopError(GatewayError):
    """A request that the gateway has sent came back to it. Another deployment may be elsewhere."""

    status, type, code, _next = 508, "server_error", "loop_detected", True


class OverloadedError(GatewayError):
    """The gateway itself is full or draining."""

    status, type, code = 503, "overloaded_error", "overloaded"


INTERNAL = "The gateway failed to process the request."

# A provider's HTTP status -> our class. Not listed: 4xx is the request's fault, the rest the
# provider's.
BY_STATUS: dict[int, type[GatewayError]] = {
    401: AuthError,
    403: PermissionDeniedError,
    404: NotFoundError,
    408: ProviderUnavailableError,
    429: RateLimitError,
    508: LoopError,
}
KEPT = frozenset({400, 409, 413, 422})  # statuses of a request's fault that clients tell apart


def clean(message: object) -> str | None:
    """An upstream's message, fit to be repeated: one bounded line without keys or HTML."""
    if not isinstance(message, str) or not message.strip() or "Traceback (most" in message:
        return None
    if re.search(r"<(?:!doctype|html|body)\b", message, re.IGNORECASE):
        return None
    return SECRET.sub("[key]", UNSAFE.sub(" ", message))[:MESSAGE_LIMIT].strip()


def untrace(error: BaseException) -> None:
    """Drop the tracebacks of an error that is over, and of all that led to it.

    Their frames hold the whole request, and mostly the error itself: a cycle, which would stay
    until the collector runs.
    """
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            left += [one.__cause__, one.__context__]


def lone(exc: Exception) -> Exception:
    """The one exception that task groups (of Quart-Trio, say) have wrapped; another as it is."""
    if not isinstance(exc, ExceptionGroup):
        return exc
    group = cast("ExceptionGroup[Exception]", exc)
    return lone(group.exceptions[0]) if len(group.exceptions) == 1 else group


def from_status(
    status: int,
    *,
    provider: str,
    message: object = None,
    param: object = None,
    code: object = None,
    retry_after: float | None = None,
    upstream_headers: Sequence[Header] = (),
) -> GatewayError:
    """The error that a provider's answer with ``status`` means.

    Only a refused *request* (400, 404, 413, 422 ...) repeats the provider's own words: they tell
    the client what to mend. For everything else they are a matter between the provider and us.
    """
    fault = 400 <= status < 500
    kind = BY_STATUS.get(status, InvalidRequestError if fault else ProviderUnavailableError)
    word = code if isinstance(code, str) and re.fullmatch(r"[\w.-]{1,64}", code) else None
    error: GatewayError
    if kind in (AuthError, PermissionDeniedError):
        error = kind(f"{provider} refused the gateway's key.", provider=provider)
    elif kind is RateLimitError:
        text = f"{provider} limits the gateway's requests."
        error = kind(text, provider=provider, retry_after=retry_after, code=word)
    elif kind is LoopError:
        error = kind(f"The address of {provider} leads back to this gateway.", provider=provider)
    elif kind is ProviderUnavailableError:
        text = f"{provider} failed to answer (status {status})."
        error = kind(text, provider=provider, retry_after=retry_after)
    else:
        error = kind(
            clean(message) or f"{provider} refused the request (status {status}).",
            param=clean(param),
            code=word,
            status=status if status in KEPT or kind is NotFoundError else 400,
            provider=provider,
        )
    error.upstream_headers = upstream_headers
    return error
