"""Loopback: a gateway without client keys answers programs of this machine, and no web page.

A page in a developer's browser can reach a server on loopback; it cannot forge the Host header,
leave out Origin on a cross-origin POST, or send JSON without asking first. Stands where Auth would.

Reads    ``scope["server"]``; the request headers Host, Origin and Content-Type.
Writes   nothing.
Raises   PermissionDeniedError (403).
Place    below ErrorMap, which writes the answer; above whatever costs more than a look at the
         headers.
Source   DNS rebinding and CSRF: owasp.org, "Cross-Site Request Forgery Prevention". 127.0.0.0/8 and
         ::1: RFC 6890.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import attrs

from llmgw.asgi import ASGIApp, Receive, Scope, Send, find_header
from llmgw.errors import PermissionDeniedError
from llmgw.stack import Place

PLACE = Place(below={"ErrorMap": "only ErrorMap writes errors"})


def is_loopback(host: str) -> bool:
    """Whether a host name or address, without a port, is this machine's own."""
    if host.lower() in ("localhost", ""):
        return host != ""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_of(netloc: str) -> str:
    """The host of ``host:port``, "" when it is not one."""
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def objection(scope: Scope) -> str | None:
    """Why this request is not answered without a key, None if it is."""
    server = scope.get("server")
    if server and server[1] is not None and not is_loopback(server[0]):
        return "Without client keys the gateway answers on loopback only."
    headers = scope["headers"]
    host = find_header(headers, b"host")
    if host is not None and not is_loopback(host_of(host.decode("latin-1"))):
        return "Without client keys the Host header must name this machine."
    origin = find_header(headers, b"origin")
    if origin is not None and not is_loopback(
        host_of(origin.decode("latin-1").partition("://")[2])
    ):
        return "Without client keys no other origin may call the gateway."
    kind = (find_header(headers, b"content-type") or b"").partition(b";")[0].strip().lower()
    if scope["method"] == "POST" and kind != b"application/json":
        return "Without client keys the content type must be application/json."
    return None


@attrs.frozen
class LoopbackMiddleware:
    """Refuse what could come from another machine or from a web page."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if found := objection(scope):
            raise PermissionDeniedError(found)
        await self.app(scope, receive, send)
