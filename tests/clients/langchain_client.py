"""LangChain against the gateway: reads cases from standard input, writes what it got."""

from __future__ import annotations

import json
import sys

import openai
from langchain_openai import ChatOpenAI


def ask(base_url: str, model: str, *, stream: bool) -> dict[str, str]:
    """One question."""
    client = ChatOpenAI(base_url=base_url, api_key="none", model=model, max_retries=2)
    said = ""
    try:
        if not stream:
            return {"ended": "ok", "said": str(client.invoke("hi").content)}
        for chunk in client.stream("hi"):
            said += str(chunk.content)
    except openai.APIStatusError as error:
        return {"ended": str(error.status_code), "said": said}
    except openai.APIError:
        return {"ended": "event", "said": said}
    return {"ended": "ok", "said": said}


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    base = asked["baseURL"]
    print(json.dumps([ask(base, one["model"], stream=one["stream"]) for one in asked["cases"]]))
