from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.upstreams.recorder import TEXT, USAGE, Recorder, Reply, chat_chunks, stream

Client = http.client.HTTPConnection
PATH = "/v1/chat/completions"


@pytest.fixture
def client(recorder: Recorder) -> Iterator[Client]:
    connection = Client("127.0.0.1", recorder.port, timeout=60)
    yield connection
    connection.close()


def post(client: Client, path: str, **body: Any) -> http.client.HTTPResponse:
    client.request("POST", path, json.dumps(body), {"X-Seen": "yes"})
    return client.getresponse()


def test_completion_is_answered_and_request_kept(client: Client, recorder: Recorder) -> None:
    """A request without a script gets a completion, and can be read afterwards."""
    answer = json.loads(post(client, PATH + "?a=1", model="m").read())
    assert answer["choices"][0]["message"]["content"] == TEXT
    assert answer["model"] == "m"
    (request,) = recorder.requests
    assert (request.method, request.path, request.query) == ("POST", PATH, "a=1")
    assert request.headers["x-seen"] == "yes"
    assert request.json() == {"model": "m"}


@pytest.mark.parametrize("include_usage", [False, True])
def test_stream_is_answered(client: Client, include_usage: bool) -> None:
    """A stream has three chunks, a finish, the usage if asked for, and its end."""
    options = {"include_usage": include_usage}
    text = post(client, PATH, stream=True, stream_options=options).read().decode()
    *events, end = [part.removeprefix("data: ") for part in text.split("\n\n") if part]
    assert end == "[DONE]"
    assert len(events) == 4 + include_usage
    chunks = [json.loads(data) for data in events]
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks[:3]) == TEXT
    assert ("usage" in chunks[0]) is include_usage
    assert not include_usage or (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], USAGE)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/messages",
        "/v1beta/models/gemini-2.0-flash:generateContent",
        "/v1beta/models/gemini-2.0-flash:streamGenerateContent",
        "/v1/embeddings",
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_other_apis_are_answered(client: Client, path: str, streamed: bool) -> None:
    """The other providers' paths get an answer of their own form."""
    answer = post(client, path, stream=streamed, input="x")
    assert answer.status == 200
    assert answer.read()


def test_script_comes_first_on_one_connection(client: Client, recorder: Recorder) -> None:
    """Scripted replies are given in turn, then the default one, and the connection is kept."""
    recorder.script.append(Reply(429, {"Retry-After": "7"}, {"error": {"message": "slow down"}}))
    refused = post(client, PATH)
    assert (refused.status, refused.headers["retry-after"]) == (429, "7")
    refused.read()
    assert post(client, PATH).read()
    assert post(client, "/nowhere").read()
    recorder.wait_until(lambda: recorder.answered == 3)
    assert recorder.open_connections == 1


def test_held_reply_goes_on_when_released(client: Client, recorder: Recorder) -> None:
    """A held reply has sent its first chunks, and the others come after the release."""
    chunks = chat_chunks()
    recorder.script.append(stream(chunks, hold=2))
    answer = post(client, PATH)
    first = len(b"".join(chunks[:2]))
    assert answer.read(first) == b"".join(chunks[:2])
    recorder.wait_until(lambda: recorder.holding == 1)
    assert recorder.answered == 0
    recorder.release()
    assert answer.read() == b"".join(chunks[2:])


def test_cut_reply_ends_in_the_middle(client: Client, recorder: Recorder) -> None:
    """A cut reply breaks off after its chunks, as when an upstream dies."""
    recorder.script.append(stream(chat_chunks(), cut=1))
    answer = post(client, PATH)
    with pytest.raises(http.client.IncompleteRead):
        answer.read()
    recorder.wait_until(lambda: recorder.closed == 1)
    assert recorder.cut == 0


def test_reply_cut_before_its_head_is_no_reply(client: Client, recorder: Recorder) -> None:
    """A reply that is cut at once closes the connection without a status."""
    recorder.script.append(Reply(cut=0))
    with pytest.raises(http.client.RemoteDisconnected):
        post(client, PATH)


async def test_client_that_leaves_is_noticed(client: Client, recorder: Recorder) -> None:
    """A connection that the client closes in mid-answer is counted, on any event loop."""
    recorder.script.append(stream(chat_chunks(), hold=1))
    answer = post(client, PATH, stream=True)
    await recorder.until(lambda: recorder.holding == 1)
    answer.close()
    client.close()
    await recorder.until(lambda: recorder.cut == 1 and recorder.holding == 0)
    assert (recorder.open_connections, recorder.closed) == (0, 1)


async def test_wait_gives_up(recorder: Recorder) -> None:
    """What does not come true fails the test instead of hanging it."""
    with pytest.raises(AssertionError, match="not within"):
        await recorder.until(lambda: recorder.cut == 1, 0.01)
