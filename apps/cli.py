"""The command line: serve, check, smoke, bench, keys; each imports what it needs when it runs."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click

from llmgw import __version__
from llmgw.apps import settings as config
from llmgw.apps.bench_cli import bench
from llmgw.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmgw.apps.catalog import Models
    from llmgw.apps.settings import Settings

APP = "llmgw.apps.gateway:app"
GRACE = 5  # seconds after the drain in which the server must have closed all connections; chosen
BAD_SETTINGS = 2  # exit code, as for a bad option

path_option = click.option(
    "--config", "path", type=click.Path(path_type=Path), help="The settings; llmgw.toml by default."
)


def load(path: Path | None) -> tuple[Settings, Mapping[str, str]]:
    """The settings, or an exit with everything that is wrong."""
    try:
        return config.load(path, os.environ)
    except config.SettingsError as exc:
        for error in exc.errors:
            click.echo(f"error: {error}", err=True)
        sys.exit(BAD_SETTINGS)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="llmgw")
def main() -> None:
    """One OpenAI-compatible endpoint for every large language model."""


main.add_command(bench)


@main.command()
@path_option
@click.option("--host", help="Where to listen.")
@click.option("--port", type=int, help="The port.")
@click.option("--workers", type=int, help="How many processes.")
@click.option("--reload", is_flag=True, help="Start anew when the code changes.")
def serve(
    path: Path | None, host: str | None, port: int | None, workers: int | None, reload: bool
) -> None:
    """Serve the gateway."""
    words = {"HOST": host, "PORT": port, "WORKERS": workers}
    for name, value in words.items():
        if value is not None:  # for the workers too: they read the settings anew
            os.environ[f"LLMGW_SERVER__{name}"] = str(value)
    if path is not None:
        os.environ["LLMGW_CONFIG"] = str(path.resolve())
    settings, environ = load(path)
    if found := config.refusal(settings):
        click.echo(f"error: {found}", err=True)
        sys.exit(BAD_SETTINGS)

    import uvicorn

    from llmgw.apps.catalog import models_of
    from llmgw.exporters import exporter_of

    server = settings.server
    models = models_of(settings, environ)
    click.echo(f"llmgw {__version__} on http://{server.host}:{server.port}: {models.summary}")
    # uvicorn ends by raising the signal again, for whoever stood here before: the drain went well
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        APP,
        host=server.host,
        port=server.port,
        workers=server.workers,
        reload=reload,
        access_log=False,  # AccessLog writes it
        log_level="warning",
        server_header=False,
        date_header=False,
        proxy_headers=exporter_of(environ) is not None,  # 2 us; spans alone tell of a client
        timeout_graceful_shutdown=math.ceil(server.drain_s) + GRACE,
        timeout_keep_alive=75,  # seconds; above the 60 of common load balancers: they close first
    )


@main.command()
@path_option
def check(path: Path | None) -> None:
    """Check the settings and draw the stack as it will run."""
    from llmgw.apps import gateway
    from llmgw.apps.catalog import models_of
    from llmgw.stack import describe

    settings, environ = load(path)
    models = models_of(settings, environ)
    layers = [
        *gateway.outer_layers(settings),
        *gateway.inner_layers(settings),
        *gateway.call_layers(settings, models),
    ]
    click.echo(describe(layers, "Completion"))
    click.echo(f"\n{models.summary}")
    problems = [found for found in [config.refusal(settings), *models.problems] if found]
    for problem in problems:
        click.echo(f"problem: {problem}", err=True)
    sys.exit(1 if problems else 0)


@main.command()
@path_option
@click.argument("models", nargs=-1)
def smoke(path: Path | None, models: tuple[str, ...]) -> None:
    """Make one real, short call for each configured model, or for MODELS."""
    from llmgw.apps.catalog import models_of

    settings, environ = load(path)
    known = models_of(settings, environ)
    good = True
    for model in models or tuple(known.samples):
        started = time.perf_counter()
        try:
            said = anyio.run(_ask, known, model)
        except GatewayError as exc:
            good, said = False, f"{type(exc).__name__}: {exc.message}"
        took = (time.perf_counter() - started) * 1000
        click.echo(f"{model:<40} {took:8.0f} ms  {said}")
    sys.exit(0 if good else 1)


async def _ask(known: Models, model: str) -> str:
    from llmgw.providers import CompletionRequest, LLMGatewayProvider

    places = [candidate.deployment for candidate in known.find(model)]
    provider = LLMGatewayProvider(deployments={model: places})
    messages = [{"role": "user", "content": "Answer with one word: ready?"}]
    request = CompletionRequest(model=model, messages=messages, max_tokens=16)
    try:
        [chunk] = [chunk async for chunk in provider.generate(request)]
        return f"ok, {chunk.usage.total_tokens if chunk.usage else '?'} tokens"
    finally:
        await provider.aclose()


@main.group()
def keys() -> None:
    """Client keys."""


@keys.command("hash")
def hash_key() -> None:
    """Read a key from standard input and print its SHA-256 for [[keys]]."""
    click.echo(sha256(sys.stdin.read().strip().encode()).hexdigest())
