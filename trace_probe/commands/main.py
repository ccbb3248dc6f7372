"""One command for each step of the road; each is a call and a print.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done,
1 failed, 2 wrong usage, 6 an alarm with ``--fail-on-alarm``; those of ``recheck`` stand there.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import trace_probe as tp
from trace_probe.commands import options
from trace_probe.commands.doctor import doctor
from trace_probe.commands.documented import Commands, Told
from trace_probe.commands.elsewhere import agent_of, served_model
from trace_probe.commands.emergence import emergence
from trace_probe.commands.evidence import evidence
from trace_probe.commands.interchange import interchange
from trace_probe.commands.judging import judging
from trace_probe.commands.layout import Grouped
from trace_probe.commands.model_options import Loading
from trace_probe.commands.monitoring import monitoring
from trace_probe.commands.options import check_free, integers, say
from trace_probe.commands.organism import organism
from trace_probe.commands.probe import probe as probe_commands
from trace_probe.commands.probe import rechecking
from trace_probe.commands.store import store as store_commands
from trace_probe.commands.tasking import tasking
from trace_probe.errors import TraceProbeError
from trace_probe.trace import Sampling

if TYPE_CHECKING:
    from trace_probe.engine.plan import EngineOptions
    from trace_probe.recording.plan import RecordReport
    from trace_probe.trace import Task

Nudge = Literal["none", "neutral", "push", "paper"]

app = Commands(
    cls=Grouped,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(organism, name="organism")
app.add_typer(store_commands, name="store")
app.add_typer(probe_commands, name="probe")
for group in (tasking, interchange, judging, monitoring, rechecking, evidence, emergence, doctor):
    app.add_typer(group)


def main() -> None:
    """Run the command line; an error that a user can act on is one line and exit code 1."""
    try:
        app()
    except TraceProbeError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"trace-probe {version('trace-probe')}")
        raise typer.Exit


@app.callback()
def trace_probe(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Was the model already planning this before it said so?"""
    del version


@app.command()
def record(
    model: str,
    run: Path,
    *,
    tasks: list[str] | None = None,
    recapture: Path | None = None,
    nudge: Nudge = "none",
    samples: options.Count = 8,
    limit: options.Limit = None,
    layers: str | None = None,
    pooling: str = "last+mean+max",
    raw_tokens: bool = False,
    backend: Literal["hooks", "transformer-lens"] = "hooks",
    tolerance: Annotated[float | None, typer.Option(min=0)] = None,
    seed: int = 0,
    temperature: Annotated[float | None, typer.Option(min=0)] = None,
    top_p: float = 1.0,
    max_new_tokens: options.Limit = None,
    batch_size: options.Count = 32,
    conditions: str | None = None,
    base_url: list[str] | None = None,
    extra: str | None = None,
    tokenizer: str | None = None,
    concurrency: options.Count = 32,
    per_minute: options.PerMinute = None,
    agent: bool = False,
    tools: str | None = None,
    max_calls: options.Limit = None,
    max_seconds: Annotated[float | None, typer.Option(min=0.001)] = None,
    executor: options.Executor = "local",
    workers: options.Limit = None,
    shard: str | None = None,
    engine: options.Engine = "transformers",
    engine_args: str = "{}",
    fidelity: options.Share = 1 / 32,
    loading: Loading,
) -> Told:
    """Sample traces of a model on tasks and keep their activations; rerun to resume.

    With --executor ray, or --shard in several jobs at once, all may write to one run.

    With --engine vllm, vLLM writes, and the activations inside it are kept.

    With --base-url a server is asked, and there are no activations.

    With --agent each trace is an episode: the model calls tools until it answers without one.

    A key, where a server wants one, is read from the environment variable OPENAI_API_KEY.

    Args:
        model: Hub id, folder, GGUF file, smollm2 or organism:NAME.
        tasks: Folder of published tasks, .jsonl, pack, pack:CATEGORY, world:POOL:COUNT,
            english:POOL:COUNT or agentworld:POOL:COUNT; may be repeated.
        recapture: Instead of tasks: a run of this model whose traces are read again, token by token
            as they were written, to keep other layers or poolings of them in RUN.
        nudge: System message: none, plain, one that pushes for the goal, the paper's.
        samples: Traces to record of each task.
        limit: Record only the first N tasks.
        layers: Layers to keep: 0-based blocks, such as 12,18. Default: all of a model of up to 8
            blocks, else 8 evenly spaced ones; with --recapture those of the run, if it has any.
        pooling: What is kept of each sentence: last, mean, max of its tokens, or several joined by
            +. A probe with memory of the thought needs mean and max.
        raw_tokens: Keep every token beside the rows; takes much room.
        backend: What reads the activations; both give the same numbers.
        tolerance: How far, in nats, the replay may differ from the writing. Default: by dtype.
        temperature: Temperature of sampling. 0 takes the likeliest token. Default: 1, and 0.5 for
            organisms that write English.
        max_new_tokens: 4096, or half the context if that is less.
        batch_size: Traces written at once.
        conditions: Grid instead of one nudge: none,push+anti, or think,no-think.
        max_seconds: With --agent: begin no further call of an episode after this many seconds.
        shard: One part of the work, such as 0/8: for arrays of jobs.
        fidelity: With --engine vllm: share of the traces that transformers reads again to compare
            the activations; 1 for all.
    """
    from trace_probe.recording.served import served_manifest
    from trace_probe.recording.served_agents import record_from
    from trace_probe.recording.shares import Recording, recapture_with, record_with

    weights = loading.weights(model, backend)
    spread, served_only = bool(shard) or executor != "local", extra or tokenizer
    acting = agent_of(tools, max_calls, max_seconds, asked=agent)
    _check_options(tasks, recapture, base_url, served_only, limit, spread=spread, agent=agent)
    running = _engine(engine, engine_args, fidelity, elsewhere=bool(recapture or base_url))
    if recapture is not None:
        again = recapture_with(weights, recapture, run, integers(layers), pooling, tolerance)
        return Told(again, f"{run}: {again.read} traces read, {again.resumed} already there")
    chosen, where = _tasks_and_source(tasks or [], nudge, conditions, limit)
    if base_url:
        served = served_model(model, base_url, extra, tokenizer, concurrency, per_minute)
        sampling = Sampling(seed, _temperature(model, temperature), top_p, max_new_tokens or 4096)
        store = tp.Store.create(run, served_manifest(served, sampling, tasks=where))
        report = record_from(served, chosen, store, acting, samples=samples)
    else:
        recording = Recording(
            run=str(run),
            tasks=chosen,
            source=where,
            samples=samples,
            layers=integers(layers),
            seed=seed,
            temperature=_temperature(model, temperature),
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            weights=weights,
            pooling=pooling,
            raw_tokens=raw_tokens,
            tolerance=tolerance,
            agent=acting,
            engine=running,
        )
        report = record_with(recording, executor, workers=workers, shard=shard)
    return Told(report, f"{run}: {_told(report, run)}")


def _temperature(model: str, asked: float | None) -> float:
    """Return the temperature that was asked for, or the one at which a model is recorded."""
    from trace_probe.model.naming import ORGANISM, organism_path
    from trace_probe.organism.family import world_of

    if model.startswith(ORGANISM):
        organism_path(model)  # which names those that are there
    return world_of(model).temperature if asked is None else asked


def _check_options(
    tasks: list[str] | None,
    recapture: Path | None,
    base_url: list[str] | None,
    served: str | None,
    limit: int | None,
    *,
    spread: bool,
    agent: bool,
) -> None:
    """Refuse options that do not go together."""
    if agent and (recapture or spread):
        raise typer.BadParameter("--agent goes with --tasks, in one job")
    if tasks and recapture:
        raise typer.BadParameter("--tasks and --recapture exclude each other: give one of them")
    if not tasks and recapture is None:
        raise typer.BadParameter("no tasks are given: add, for example, --tasks world:mine:48")
    if recapture and limit:
        raise typer.BadParameter("--limit goes with --tasks: --recapture reads a whole run")
    if recapture and (base_url or spread):
        raise typer.BadParameter("--recapture reads with a model that is loaded here, in one job")
    if served and not base_url:
        raise typer.BadParameter("--extra and --tokenizer go with --base-url")
    if base_url and spread:
        raise typer.BadParameter("--executor and --shard go with a model that is loaded here")


def _engine(
    name: str, arguments: str, fidelity: float, *, elsewhere: bool
) -> "EngineOptions | None":
    """Return what the options say of an engine, None for transformers."""
    from trace_probe.engine.plan import EngineOptions

    if name == "transformers":
        if arguments != "{}":
            raise typer.BadParameter("--engine-args goes with --engine vllm")
        return None
    if elsewhere:
        raise typer.BadParameter("--engine goes with --tasks and a model that is loaded here")
    say("vLLM writes, with its first model runner (V1)")
    return EngineOptions(arguments, fidelity)


def _told(report: "RecordReport", run: Path) -> str:

    room = tp.Store(run).manifest.sampling.max_new_tokens
    counts = (
        f"{report.recorded} traces recorded, {report.resumed} already there, "
        f"{report.tokens} tokens written, {report.cut} cut at {room} tokens"
    )
    if not report.tagged:
        return counts
    return (
        f"{counts}\n{report.tagged} answers still hold tags of reasoning or tool calls: "
        f"look whether they are answers alone"
    )


def _tasks_and_source(
    sources: list[str], nudge: Nudge, conditions: str | None, limit: int | None
) -> "tuple[tuple[Task, ...], str]":
    """Return the tasks that the options mean, at most so many, and where they came from."""
    from trace_probe.tasks.conditions import parse_grid, under
    from trace_probe.tasks.sources import source_name, tasks_from

    chosen: list[Task] = []
    for source in sources:
        found = tasks_from(source, nudge="none" if conditions else nudge)
        chosen += under(found, parse_grid(conditions), Path(source)) if conditions else found
    return tuple(chosen[:limit]), ", ".join(map(source_name, sources))


@app.command()
def show(
    run: Path,
    trace: str,
    detector: str | None = None,
    html: Path | None = None,
    force: bool = False,
) -> Told:
    """Print one trace, sentence by sentence, with scores and marks.

    Args:
        trace: Id of a trace, or its beginning.
        detector: Show the scores of this detector.
        html: Write the trace to an HTML file instead, which needs no server.
    """
    from trace_probe.monitor.flagging import read_trace

    reading = read_trace(tp.Store(run), trace, detector)
    if html is not None:
        check_free(html, force=force)
        from trace_probe.explorer.saved import save_page

        size = save_page(run, reading.trace_id, html, detector)
        return Told({"file": str(html), "bytes": size}, f"{html}: {size:,} bytes")
    return Told(reading)


@app.command()
def demo(
    out: Path | None = None,
    probe: Path | None = None,
    organism: str = "organism:rl-s0",
    seed: int = 0,
    small: bool = False,
) -> Told:
    """Record, label, train and evaluate on a built-in organism, in about two minutes.

    Args:
        out: Folder of the run. Default: traces/first.
        probe: Folder of the probe. Default: probes/first.
        organism: Organism to record, such as organism:agent-base, an agent with tools. With another
            one than the default, the folders are named after it.
        small: Record only as many traces as traces/demo holds.
    """
    from trace_probe.demo import DemoPlan, demo_name, format_demo, run_demo, smaller

    if not organism.startswith("organism:") and not Path(organism).is_dir():
        raise typer.BadParameter(f"{organism} is no organism: see `trace-probe organism list`")
    name = demo_name(organism)
    run, saved = out or Path("traces", name), probe or Path("probes", name)
    plan = DemoPlan(run, saved, organism, seed)
    report = run_demo(smaller(plan) if small else plan, say=say)
    return Told(report, format_demo(report, run, saved))


@app.command()
def explore(traces: Path = Path("traces"), port: int | None = None, headless: bool = False) -> None:
    """Open the explorer in a browser.

    Args:
        traces: Folder that holds the runs.
        port: Default: the first free one from 8501.
        headless: Open no browser.
    """
    from trace_probe.explorer.launch import launch
    from trace_probe.upkeep.listing import runs_in

    if not runs_in(traces):
        state = "there is no run in it" if traces.is_dir() else "it does not exist"
        say(f"no runs in {traces.resolve()}: {state}. Name the folder that holds them: --traces")
    launch(traces, port=port, headless=headless)
