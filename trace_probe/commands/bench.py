"""``trace-probe bench``: what things cost, measured beside what others use."""

import json
from typing import Annotated

import typer

bench = typer.Typer(help="Measure speed and memory.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@bench.callback()
def group() -> None:
    """Measure speed and memory beside what others use, interleaved in one process."""


@bench.command()
def sweep(
    layers: Annotated[int, typer.Option(min=1, help="Layers to measure.")] = 3,
    rows: Annotated[int, typer.Option(min=200)] = 20_000,
    width: Annotated[int, typer.Option(min=2)] = 2048,
    seed: int = 0,
    as_json: AsJson = False,
) -> None:
    """Sweep layers and strengths, against the same grid with scikit-learn."""
    from trace_probe.bench.sweep import SweepPlan, bench_sweep, format_bench

    plan = SweepPlan(layers=layers, rows=rows, width=width, seed=seed)
    found = bench_sweep(plan, say=lambda text: typer.echo(text, err=True))
    typer.echo(json.dumps(found.to_json(), indent=1) if as_json else format_bench(found))


@bench.command()
def explorer(
    traces: Annotated[int, typer.Option(min=2)] = 10_000,
    long_tokens: Annotated[int, typer.Option(min=200, help="Of the one long trace.")] = 10_000,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    seed: int = 0,
    as_json: AsJson = False,
) -> None:
    """Walk through a large generated run in headless Chromium: waits, payload, memory."""
    from trace_probe.bench.explorer import bench_explorer, format_explorer
    from trace_probe.bench.generated import Size

    size = Size(traces=traces, long_tokens=long_tokens, seed=seed)
    found = bench_explorer(size, say=lambda text: typer.echo(text, err=True), repeats=repeats)
    typer.echo(json.dumps(found.to_json(), indent=1) if as_json else format_explorer(found))
