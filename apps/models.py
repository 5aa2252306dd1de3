"""Models: ``GET /v1/models`` and ``GET /v1/models/{id}``, as OpenAI's clients ask for them.

Reads    the Exchange: the client's key, which may see some models only.
Raises   NotFoundError for a model that is not there, or not for this key.
Source   platform.openai.com/docs/api-reference/models
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import msgspec

from llmgw.asgi import Receive, Scope, Send, respond
from llmgw.errors import NotFoundError
from llmgw.exchange import Exchange, enter

PATH = "/v1/models"
CREATED = 1_700_000_000  # OpenAI's field must be there; nobody knows when a group was made


def entry(name: str) -> dict[str, object]:
    """A model as an object of the API."""
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "llmgw"}


@attrs.frozen
class ModelsApp:
    """List what a client may ask for."""

    visible: Callable[[Exchange], Sequence[str]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        exchange, scope, receive, send = enter(scope, receive, send)
        names = self.visible(exchange)
        asked: str = scope["path"].removeprefix(PATH).removeprefix("/")
        if asked and asked not in names:
            raise NotFoundError("This model is not served here.", param="model")
        listed = {"object": "list", "data": [entry(name) for name in names]}
        body = msgspec.json.encode(entry(asked) if asked else listed)
        await respond(send, 200, b"" if scope["method"] == "HEAD" else body)
