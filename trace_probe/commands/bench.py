"""``trace-probe bench``: what things cost, measured beside what others use."""

from pathlib import Path
from typing import Annotated

import typer

from trace_probe.commands.options import AsJson, say, show_result

bench = typer.Typer(help="Measure speed and memory.", no_args_is_help=True)


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
    found = bench_sweep(plan, say=say)
    show_result(found.to_json(), format_bench(found), as_json=as_json)


@bench.command()
def capture(
    layers: Annotated[int, typer.Option(min=4, help="Blocks of the network.")] = 8,
    width: Annotated[int, typer.Option(min=64)] = 512,
    traces: Annotated[int, typer.Option(min=1)] = 4,
    tokens: Annotated[int, typer.Option(min=16, help="Of each trace.")] = 384,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    long_tokens: Annotated[int, typer.Option(min=16)] = 8192,
    most_tokens: Annotated[int, typer.Option(min=16, help="For memory, against 2048.")] = 16384,
    seed: int = 0,
    as_json: AsJson = False,
) -> None:
    """Read activations, against the bare pass and TransformerLens; memory by length."""
    from trace_probe.bench.capture import CapturePlan, bench_capture, format_capture

    lengths = (min(2048, most_tokens // 8), most_tokens)
    plan = CapturePlan(
        layers, width, traces, tokens, repeats, long_tokens, memory_tokens=lengths, seed=seed
    )
    found = bench_capture(plan, say=say)
    show_result(found.to_json(), format_capture(found), as_json=as_json)


@bench.command()
def store(
    traces: Annotated[int, typer.Option(min=2, help="Traces with activations.")] = 120,
    rows: Annotated[int, typer.Option(min=4, help="Sentences of a trace, on average.")] = 160,
    layers: Annotated[int, typer.Option(min=1)] = 4,
    width: Annotated[int, typer.Option(min=4)] = 2048,
    listed: Annotated[int, typer.Option(min=1, help="Traces of the run that is listed.")] = 10_000,
    rounds: Annotated[int, typer.Option(min=1)] = 7,
    seed: int = 0,
    as_json: AsJson = False,
) -> None:
    """Scan, read and list a run, against raw bytes on the same disk."""
    from trace_probe.bench.store import StorePlan, bench_store, format_store_bench

    plan = StorePlan(traces, rows, layers, width, listed, rounds=rounds, seed=seed)
    found = bench_store(plan, say=say)
    show_result(found.to_json(), format_store_bench(found), as_json=as_json)


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
    found = bench_explorer(size, say=say, repeats=repeats)
    show_result(found.to_json(), format_explorer(found), as_json=as_json)


@bench.command()
def monitor(
    model: Annotated[
        str, typer.Option(help="Hub id, folder, organism:NAME, or random:12x1024, layers by width.")
    ] = "organism:rl-s0",
    rounds: Annotated[int, typer.Option(min=1, help="Answers that are written.")] = 30,
    seed: int = 0,
    as_json: AsJson = False,
) -> None:
    """Write under guard and without, in turns, token by token: what probes add to the time."""
    from trace_probe.bench.monitor import MonitorPlan, bench_monitor, format_monitor

    plan = MonitorPlan(model, rounds, seed)
    found = bench_monitor(plan, say=say)
    show_result(found.to_json(), format_monitor(found), as_json=as_json)


@bench.command()
def continuation(
    run: Annotated[
        Path, typer.Argument(help="Run whose traces are continued by its own model.")
    ] = Path("traces/demo"),
    prefixes: Annotated[str, typer.Option(help="Tokens of made-up prefixes.")] = "128,512,1024",
    new_tokens: Annotated[int, typer.Option(min=1, help="Drawn after made-up prefixes.")] = 48,
    continuations: Annotated[int, typer.Option(min=1, help="Of each prefix.")] = 20,
    traces: Annotated[int, typer.Option(min=1, help="Of the run.")] = 4,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    seed: int = 0,
    as_json: AsJson = False,
) -> None:
    """Continue prefixes many times, read once or read again for each: what sharing saves."""
    from trace_probe.bench.continuation import (
        ContinuationPlan,
        bench_continuation,
        format_continuation,
    )

    lengths = tuple(int(part) for part in prefixes.split(","))
    plan = ContinuationPlan(
        lengths, new_tokens, continuations, run=run, traces=traces, rounds=rounds, seed=seed
    )
    found = bench_continuation(plan, say=say)
    show_result(found.to_json(), format_continuation(found), as_json=as_json)


@bench.command("false-alarms")
def false_alarms(
    probe: Annotated[Path, typer.Argument(help="Folder of a probe on an organism.")] = Path(
        "probes/demo"
    ),
    organism: Annotated[str, typer.Option(help="Which organism to record.")] = "organism:rl-s0",
    out: Annotated[Path, typer.Option(help="Folder of the recorded traces.")] = Path(
        "traces/false-alarms"
    ),
    calibration: Annotated[int, typer.Option(min=99, help="Benign traces for thresholds.")] = 2000,
    held_out: Annotated[int, typer.Option(min=20, help="Benign traces to count on.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Count false alarms on benign traces that nothing was set on, hard negatives beside them."""
    from trace_probe.bench.false_alarms import (
        FalseAlarmPlan,
        bench_false_alarms,
        format_false_alarms,
    )

    plan = FalseAlarmPlan(organism, probe, out, calibration, held_out)
    found = bench_false_alarms(plan, say=say)
    show_result(found.to_json(), format_false_alarms(found), as_json=as_json)


@bench.command()
def serve(
    probe: Annotated[Path, typer.Argument(help="Folder of a probe.")] = Path("probes/demo"),
    streams: Annotated[int, typer.Option(min=1)] = 64,
    seconds: Annotated[float, typer.Option(min=1)] = 60,
    as_json: AsJson = False,
) -> None:
    """Put a server under many streams: what is lost or mixed, its memory, tokens a second."""
    from trace_probe.bench.serve import LoadPlan, bench_serve, format_load

    plan = LoadPlan(probe, streams, seconds)
    found = bench_serve(plan, say=say)
    show_result(found.to_json(), format_load(found), as_json=as_json)
