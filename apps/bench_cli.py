"""``llmgw bench``: measure what layers cost. What a command needs is imported when it runs."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from llmgw.apps.bench_report import Report

BACKENDS = ("asyncio", "uvloop", "trio")

backend_option = click.option("--backend", default="asyncio", type=click.Choice(BACKENDS))
rounds_option = click.option(
    "--rounds", default=15, show_default=True, type=click.IntRange(5), help="More, less noise."
)


def in_a_folder(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """A file that can be written, known before minutes of measuring."""
    if path is not None and not path.parent.is_dir():
        raise click.BadParameter(f"there is no folder {path.parent}")
    return path


FILE = click.Path(path_type=Path, dir_okay=False, writable=True)
json_option = click.option(
    "--json", "json_path", type=FILE, callback=in_a_folder, help="Write the figures there, too."
)
svg_option = click.option(
    "--svg", "svg_path", type=FILE, callback=in_a_folder, help="Draw them there, too."
)


@click.group()
def bench() -> None:
    """Measure what the layers cost."""


def need(backend: str) -> None:
    """End when the event loop is not installed."""
    if find_spec(backend) is None:
        raise click.UsageError(f"{backend} is not installed: pip install {backend}")


def progress(done: int, of: int) -> None:
    """Show on a terminal how far it is."""
    if sys.stderr.isatty():
        click.echo(
            f"\rround {done} of {of}" + ("\r\033[K" if done == of else ""), err=True, nl=False
        )


def tell(report: Report, json_path: Path | None, svg_path: Path | None) -> None:
    """Print the table; write what is wanted."""
    from llmgw.apps import bench_chart, bench_report

    click.echo(bench_report.table(report))
    if json_path is not None:
        json_path.write_bytes(bench_report.encode(report))
    if svg_path is not None:
        svg_path.write_text(bench_chart.chart(report), encoding="utf-8")


@bench.command("layers")
@backend_option
@rounds_option
@click.option("--requests", default=300, show_default=True, type=click.IntRange(2), help="A turn.")
@json_option
@svg_option
def bench_layers(
    backend: str, rounds: int, requests: int, json_path: Path | None, svg_path: Path | None
) -> None:
    """Microseconds of CPU that each layer adds to a request and to a streamed message.

    Around an app that answers at once: alone, and in the gateway's whole stack.
    """
    need(backend)
    from llmgw.apps import bench_layers as question
    from llmgw.apps.bench_report import Report

    rows = question.measure(backend, rounds, requests, progress)
    app = "an app that answers at once"
    report = Report(app=app, backend=backend, rounds=rounds, requests=requests, rows=rows)
    tell(report, json_path, svg_path)


@bench.command("app")
@click.argument("app")
@click.option("--layers", help="RequestID,Retry,...; without, all that make sense.")
@click.option("--factory", is_flag=True, help="APP is a function that gives the app.")
@click.option("--path", default="/", show_default=True, help="What to ask for, with its query.")
@click.option("--method", help="POST with a body, GET without.")
@click.option("--body", help="A file's name (what ends in .json is one), or the text itself.")
@click.option("--header", "headers", multiple=True, help="name: value; may be repeated.")
@backend_option
@rounds_option
@click.option("--requests", type=click.IntRange(2), help="A turn; else by the app's speed.")
@json_option
@svg_option
def bench_app(
    app: str,
    layers: str | None,
    factory: bool,
    path: str,
    method: str | None,
    body: str | None,
    headers: tuple[str, ...],
    backend: str,
    rounds: int,
    requests: int | None,
    json_path: Path | None,
    svg_path: Path | None,
) -> None:
    """The same around an ASGI app of yours: APP is module:app, importable from here."""
    need(backend)
    from llmgw.apps import bench_app as question
    from llmgw.apps.bench_drive import BenchError
    from llmgw.apps.bench_report import Report

    try:
        found = question.import_app(app, factory=factory)
        request = question.request_of(method, path, question.body_of(body), headers)
        chosen = question.chosen(layers, request)
        wanted = question.Question(found, chosen, request, rounds, requests, progress)
        answer = question.measure(wanted, backend)
    except question.EndlessError as exc:
        raise click.ClickException(f"{app}: {exc}") from exc
    except BenchError as exc:
        raise click.UsageError(str(exc)) from exc
    if answer.status >= 400:
        click.echo(f"note: the app answers {answer.status}", err=True)
    report = Report(
        app=f"{app}, {request.method} {request.target}",
        backend=backend,
        rounds=rounds,
        requests=answer.requests,
        rows=answer.rows,
    )
    tell(report, json_path, svg_path)
