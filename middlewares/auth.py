"""Auth: a client is known by its key, or it is not answered.

Reads    the request headers ``authorization`` (Bearer), ``x-api-key`` and ``api-key``.
Writes   ``exchange.key``: the name of the key, never the key.
Raises   AuthError (401) for a key that is missing or unknown.
Place    below ErrorMap, which writes the answer; above all that costs more than a hash.
Source   RFC 6750, section 2.1 (Bearer). ``x-api-key``: Anthropic's clients; ``api-key``: Azure's.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import attrs

from llmgw.asgi import ASGIApp, Receive, Scope, Send, request_header
from llmgw.errors import AuthError
from llmgw.exchange import EXCHANGE, Exchange, outermost
from llmgw.stack import Place

COST = "a stranger must cost no more than a hash"
PLACE = Place(
    below={"ErrorMap": "only ErrorMap writes errors"},
    above=dict.fromkeys(
        ("Admission", "RateLimit", "Cache", "Hold", "Inference", "Fallback", "Retry"), COST
    ),
)
KEY_LIMIT = 512  # bytes of a key that are hashed; chosen, far above any key


def python_sha256() -> Callable[[bytes], Any]:
    """SHA-256 as CPython has it itself: OpenSSL's, made for long texts, takes 2 us more."""
    for module in ("_sha2", "_sha256"):  # from 3.12 on; before
        with suppress(ImportError):
            found: Callable[[bytes], Any] = importlib.import_module(module).sha256
            return found
    return hashlib.sha256


sha256 = python_sha256()


def key_of(scope: Scope) -> bytes | None:
    """The key that the client sent, None if it sent none."""
    offered = request_header(scope, b"authorization")
    if offered is not None:
        scheme, _, token = offered.partition(b" ")
        if (key := token.strip()) and scheme.lower() == b"bearer":
            return key
    return request_header(scope, b"x-api-key") or request_header(scope, b"api-key")


@attrs.frozen
class AuthMiddleware:
    """Answer clients whose key is known.

    ``keys``: SHA-256 of a key, in hexadecimal digits -> the key's name. ``find``, for a service
    with accounts of its own, maps a scope to a name or None; it is asked instead of ``keys``.
    WebSocket scopes are refused unless ``websockets``.
    """

    app: ASGIApp
    keys: Mapping[str, str] = attrs.field(factory=dict[str, str], kw_only=True, repr=False)
    find: Callable[[Scope], str | None] | None = attrs.field(default=None, kw_only=True)
    websockets: bool = attrs.field(default=False, kw_only=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        if EXCHANGE not in scope:  # it is the outermost, or this is no HTTP
            if scope["type"] == "websocket" and not self.websockets:
                await receive()
                return await send({"type": "websocket.close", "code": 1008, "reason": "not served"})
            return await outermost(self, self.app, scope, receive, send)
        exchange: Exchange = scope[EXCHANGE]
        exchange.key = self.find(scope) if self.find else self._known(key_of(scope))
        if exchange.key is None:
            exchange.headers[b"www-authenticate"] = b"Bearer"
            raise AuthError(
                "The API key is missing or unknown. Send it as: Authorization: Bearer KEY."
            )
        await self.app(scope, receive, send)

    def _known(self, key: bytes | None) -> str | None:
        if key is None or len(key) > KEY_LIMIT:
            return None
        # The look-up is by the hash: what its time could tell is the hash of a guess.
        return self.keys.get(sha256(key).hexdigest())
