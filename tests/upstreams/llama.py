"""Serves a tiny language model of random weights by llama.cpp's own server, as an upstream."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import argparse
import http.client
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LAYERS, WIDTH, HEADS, VOCABULARY = 2, 64, 4, 512  # chosen: a file of under one megabyte
CONTEXT, SLOTS = 4096, 4  # tokens of one request, requests at a time; chosen
LONGEST = 256  # output tokens when the client names no bound
READY = 60.0  # seconds; seen: under one on two cores, up to 16 on a busy machine
SEED = 20  # chosen
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# A client gets a tool call by `"tool_choice": "required", "logit_bias": {"2": 100, "3": 100}`:
# 3 is CALL, how a call begins, and 2 is the end, so that only one is made.
CALL = "<tool_call>\n{"
SENTENCES = [
    "The quick brown fox jumps over the lazy dog, and then the dog sleeps in the sun.",
    "A gateway takes a request from a client and hands it to one of the upstreams behind it.",
    'system user assistant tool {"name": "get_weather", "arguments": {"city": "Paris"}}',
    "What is the weather like in London today? It is 21 degrees, with light rain at 4:30.",
]
# Qwen2.5's form of ChatML, which llama.cpp knows how to parse tool calls from.
TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- '# Tools\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
    {{- '\\n</tools>\\n<tool_call>\\n{"name": <name>, "arguments": <object>}\\n</tool_call>' }}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
        {%- if message.tool_calls %}
            {%- for call in message.tool_calls %}
                {%- if call.function is defined %}{%- set call = call.function %}{%- endif %}
                {{- '\\n<tool_call>\\n{"name": "' }}
                {{- call.name }}
                {{- '", "arguments": ' }}
                {{- call.arguments | tojson }}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content }}
        {{- '\\n</tool_response><|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


def vocabulary() -> tuple[list[str], list[str]]:
    """The tokens by their numbers, and the merges, of a byte-level BPE of the sentences."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*CONTROL, CALL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    numbers: dict[str, int] = model["vocab"]
    merges: list[list[str] | str] = model["merges"]
    tokens = sorted(numbers, key=numbers.__getitem__)
    return tokens, [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def bias(token: str) -> float:
    """Keeps to printable ASCII, and from ending: an answer is as long as its client allows."""
    if token == "<|im_end|>":
        return -13.0  # about -65 in logits: what a logit_bias of 100 outweighs
    if token == CALL:
        return -16.0  # less than the end, so that a second call does not follow
    printable = all(" " < letter <= "~" or letter == "\u0120" for letter in token)
    return 0.0 if printable and token not in CONTROL else -1000.0


def write_model(path: Path) -> None:
    """Writes the model in one step, so that a reader never sees half a file."""
    import gguf
    import numpy

    tokens, merges = vocabulary()
    weights = numpy.random.default_rng(SEED)

    def matrix(rows: int, columns: int, scale: float = 0.1) -> Any:
        return (weights.standard_normal((rows, columns)) * scale).astype(numpy.float32)

    def residual(columns: int) -> Any:
        """A matrix back into the stream that leaves its first number, the constant, alone."""
        made = matrix(WIDTH, columns)
        made[0] = 0.0
        return made

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder) / path.name
        writer: Any = gguf.GGUFWriter(draft, "llama")
        writer.add_name("random")
        writer.add_context_length(CONTEXT)
        writer.add_embedding_length(WIDTH)
        writer.add_block_count(LAYERS)
        writer.add_feed_forward_length(2 * WIDTH)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(HEADS)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_dimension_count(WIDTH // HEADS)
        writer.add_vocab_size(len(tokens))
        writer.add_file_type(gguf.LlamaFileType.ALL_F32)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(tokens)
        writer.add_token_types(
            [
                gguf.TokenType.CONTROL
                if token in CONTROL
                else gguf.TokenType.USER_DEFINED
                if token == CALL
                else gguf.TokenType.NORMAL
                for token in tokens
            ]
        )
        writer.add_token_merges(merges)
        writer.add_bos_token_id(tokens.index("<|endoftext|>"))
        writer.add_eos_token_id(tokens.index("<|im_end|>"))
        writer.add_add_bos_token(False)
        writer.add_chat_template(TEMPLATE)

        embedding = matrix(len(tokens), WIDTH, 1.0)
        embedding[:, 0] = 8.0  # the same for every token; the output reads it as a bias
        output = matrix(len(tokens), WIDTH)
        output[:, 0] = [bias(token) for token in tokens]
        writer.add_tensor("token_embd.weight", embedding)
        writer.add_tensor("output_norm.weight", numpy.ones(WIDTH, numpy.float32))
        writer.add_tensor("output.weight", output)
        for layer in range(LAYERS):
            ones = numpy.ones(WIDTH, numpy.float32)
            writer.add_tensor(f"blk.{layer}.attn_norm.weight", ones)
            writer.add_tensor(f"blk.{layer}.ffn_norm.weight", ones)
            for name in "qkv":
                writer.add_tensor(f"blk.{layer}.attn_{name}.weight", matrix(WIDTH, WIDTH))
            writer.add_tensor(f"blk.{layer}.attn_output.weight", residual(WIDTH))
            writer.add_tensor(f"blk.{layer}.ffn_gate.weight", matrix(2 * WIDTH, WIDTH))
            writer.add_tensor(f"blk.{layer}.ffn_up.weight", matrix(2 * WIDTH, WIDTH))
            writer.add_tensor(f"blk.{layer}.ffn_down.weight", residual(2 * WIDTH))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        draft.replace(path)


def start(model: Path, port: int, alias: str, api_key: str | None) -> Any:
    """The running server; it stops when the object goes."""
    import xllamacpp

    params: Any = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx = CONTEXT * SLOTS
    params.n_parallel = SLOTS
    params.n_predict = LONGEST
    params.model_alias = {alias}
    params.use_jinja = True
    params.endpoint_slots = True
    params.endpoint_metrics = True
    params.warmup = False
    params.fit_params = False
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    if api_key:
        params.api_keys = [api_key]
    return xllamacpp.Server(params)


def healthy(port: int) -> bool:
    """Whether the server answers that it is well."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def main() -> None:
    """Serves until it is told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dir", type=Path, required=True, help="where the model is kept")
    parser.add_argument("--alias", default="random")
    parser.add_argument("--api-key")
    options = parser.parse_args()
    model: Path = options.dir / "random.gguf"
    if not model.exists():
        write_model(model)
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)  # its threads inherit this
    server = start(model, options.port, options.alias, options.api_key)
    end = time.monotonic() + READY
    while not healthy(options.port):
        if time.monotonic() > end:
            sys.exit("not ready in time")
        time.sleep(0.05)
    print("ready", flush=True)
    signal.sigwait(stops)
    del server


if __name__ == "__main__":
    main()
