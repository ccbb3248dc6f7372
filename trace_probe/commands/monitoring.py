"""Commands of the monitor: live and in bulk, its thresholds, a judge behind it, a server."""

import json
import os
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import trace_probe as tp
from trace_probe.commands import options
from trace_probe.commands.elsewhere import agent_of
from trace_probe.commands.layout import ALARMED
from trace_probe.commands.model_options import Loading, loads_model
from trace_probe.commands.options import json_object, price_pair, say, show_result
from trace_probe.commands.standard_input import json_lines, text_brought
from trace_probe.model.naming import without_version

if TYPE_CHECKING:
    from trace_probe.model.weights import Weights
    from trace_probe.monitor.detector import Detector
    from trace_probe.monitor.display import Piece
    from trace_probe.monitor.scorer import Reading
    from trace_probe.recording.course import Agent
    from trace_probe.trace import Sampling, Task, ToolResult

monitoring = typer.Typer()

Smoothing = Annotated[
    str | None,
    typer.Option(
        "--smoothing",
        "--rule",
        help="How scores are smoothed: max (not at all), mean:N, ema:WEIGHT, K-of-N or "
        "cusum:DRIFT. Default: as on the probe's card.",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(help="Alarm from this score on; by default as calibrated, or as on the card."),
]
StaleOk = Annotated[
    bool,
    typer.Option(
        "--stale-ok",
        help="Go on with a probe whose latest `recheck` says that its threshold does not hold "
        "for the model as it runs here.",
    ),
]
FailOnAlarm = Annotated[
    bool, typer.Option("--fail-on-alarm", help="Exit with 6 if there is any alarm.")
]
ModelName = Annotated[
    str | None,
    typer.Option(
        help="Hub id, folder, GGUF file, smollm2 or organism:NAME. Default: the model of the probe."
    ),
]
COLOURS: dict[str, dict[str, Any]] = {
    "thought": {"dim": True},
    "markup": {"dim": True},
    "calm": {"fg": "green"},
    "close": {"fg": "yellow"},
    "alarm": {"fg": "red", "bold": True},
}


@monitoring.command()
@loads_model
def watch(
    prompt: Annotated[str, typer.Argument(help="What the model is asked; - reads it from stdin.")],
    probes: Annotated[list[Path], typer.Argument(help="Folders of probes on one model.")],
    model: ModelName = None,
    smoothing: Smoothing = None,
    threshold: Threshold = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    on_alarm: Annotated[
        Literal["continue", "stop", "ask"], typer.Option(help="What to do on an alarm.")
    ] = "continue",
    seed: options.Seed = 0,
    temperature: options.Temperature = 1.0,
    top_p: options.TopP = 1.0,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="512, or half the context if that is less.")
    ] = None,
    agent: options.AsAgent = False,
    tools: options.Tools = None,
    max_calls: options.MaxCalls = None,
    fail_on_alarm: FailOnAlarm = False,
    stale_ok: StaleOk = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object for each sentence instead.")
    ] = False,
    *,
    loading: Loading,
) -> None:
    """Run a model while a probe watches it: its text as it comes, scores, and a line on an alarm.

    With --agent it calls tools, and all its calls are scored as one episode. With --on-alarm stop,
    or where you say no, the tool call that follows an alarm is not carried out.
    """
    from trace_probe.monitor.calibrated import Decoding
    from trace_probe.trace import Sampling, Task

    if on_alarm == "ask" and not sys.stdin.isatty():
        raise typer.BadParameter("--on-alarm ask needs a terminal to ask at")
    text = text_brought() if prompt == "-" else prompt
    sampling = Sampling(seed, temperature, top_p, max_new_tokens or 512)
    task = Task("prompt", "prompt", text, system)
    decoding = Decoding.of(sampling)
    detectors = [
        tp.load_detector(folder, smoothing=smoothing, threshold=threshold, decoding=decoding)
        for folder in probes
    ]
    acting = agent_of(tools, max_calls, asked=agent, told_by_task=False)
    weights = loading.weights(model or model_of(detectors))
    checked = () if stale_ok else probes
    readings = _watched(
        detectors, weights, checked, task, sampling, acting, fixed=bool(max_new_tokens)
    )
    alarmed, scores = False, []
    show = _show_lines if as_json else _show_text(detectors)
    for reading in readings:
        show(reading)
        if not isinstance(reading, tuple):
            continue
        scores += [ended.scores for ended in reading.ended if ended.scores]
        if reading.alarm and not alarmed:
            alarmed = True
            if on_alarm == "stop" or (on_alarm == "ask" and not typer.confirm("go on?", err=True)):
                readings.close()
                break
    if not as_json:
        typer.echo("")
    _tell_outside(detectors, scores, as_json=as_json)
    if fail_on_alarm and alarmed:
        raise typer.Exit(ALARMED)


def _tell_outside(
    detectors: "list[Detector]", scores: Sequence[tuple[float, ...]], *, as_json: bool
) -> None:
    """Print for which detectors the sentences scored lie outside the calibrated range, if any."""
    import numpy as np

    from trace_probe.monitor.detector import OUTSIDE

    columns = [np.array(own) for own in zip(*scores, strict=True)]
    there = zip(detectors, columns, strict=False)  # there are none without reasoning
    names = [one.name for one, own in there if one.outside(own)]
    if as_json and names:
        typer.echo(json.dumps({"outside": names}, ensure_ascii=True))
    elif names:
        typer.echo(f"{', '.join(names)}: {OUTSIDE}")


def _watched(
    detectors: "list[Detector]",
    weights: "Weights",
    checked: Sequence[Path],
    task: "Task",
    sampling: "Sampling",
    agent: "Agent | None",
    *,
    fixed: bool,
) -> "Generator[Reading | ToolResult, None, None]":
    """Return what detectors read while a model does a task, as an `agent` if there is one.

    Unless its length is fixed, an answer takes no more than half of what the model can read. Where
    the latest recheck of one of the probes `checked` speaks against it, nothing is written.
    """
    from trace_probe.model.bridge import load_weights
    from trace_probe.monitor.live import Monitor, check_readable
    from trace_probe.monitor.recheck import check_rechecked

    loaded = load_weights(weights)
    check_readable(loaded.chat, task.prompt, "the prompt")
    check_rechecked(loaded, checked)
    if not fixed and loaded.context is not None:
        room = min(sampling.max_new_tokens, loaded.context // 2)
        sampling = replace(sampling, max_new_tokens=room)
    monitor = Monitor(loaded, detectors, every=1)
    for detector in detectors:
        say(str(detector))
    for name in monitor.uncalibrated(sampling):
        say(f"note: {name} was calibrated under another decoding")
    if agent is None:
        yield from monitor.watch(task, sampling)
    else:
        from trace_probe.monitor.acting import watch_agent

        yield from watch_agent(monitor, task, agent, sampling)


def _show_text(detectors: "list[Detector]") -> "Callable[[Reading | ToolResult], None]":
    from trace_probe.monitor.display import Display

    display = Display(detectors)

    def show(reading: "Reading | ToolResult") -> None:
        pieces = display.show(reading) if isinstance(reading, tuple) else display.came(reading)
        for piece in pieces:
            _print(piece)
        sys.stdout.flush()

    return show


def _print(piece: "Piece") -> None:
    """Print a piece, coloured on a terminal whose user has not asked for none (NO_COLOR)."""
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ
    style = {} if plain else COLOURS.get(piece.tone, {})
    typer.echo(typer.style(piece.text, **style) if style else piece.text, nl=False)


def _show_lines(reading: "Reading | ToolResult") -> None:
    if not isinstance(reading, tuple):
        typer.echo(json.dumps({"result": asdict(reading)}, ensure_ascii=True))
        return
    for ended in reading.ended:
        typer.echo(json.dumps(asdict(ended), ensure_ascii=True))


def model_of(detectors: "Sequence[Detector]") -> str:
    """Return the name of the model of some probes as it is loaded, without the revision."""
    names = dict.fromkeys(without_version(one.saved.card.model) for one in detectors)
    if len(names) > 1:
        raise typer.BadParameter(f"the probes read several models: {', '.join(names)}")
    return next(iter(names))


@monitoring.command()
def flag(
    run: options.Run,
    probe: options.Probe,
    smoothing: Smoothing = None,
    threshold: Threshold = None,
    fail_on_alarm: FailOnAlarm = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Traces to list, the riskiest; all are counted.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of text.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """List the risky traces of a run with the sentence of the alarm, riskiest first."""
    from trace_probe.monitor.calibrated import Decoding
    from trace_probe.monitor.flagging import flag as flag_run
    from trace_probe.monitor.flagging import flags_csv, format_flags

    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json exclude each other")
    store = tp.Store(run)
    decoding = Decoding.of(store.manifest.sampling)
    detector = tp.load_detector(probe, smoothing=smoothing, threshold=threshold, decoding=decoding)
    flags = flag_run(store, detector)
    listed = replace(flags, alarms=flags.alarms[:limit])
    text = flags_csv(listed) if as_csv else format_flags(listed, len(flags.alarms))
    show_result(vars(listed) | {"alarmed": len(flags.alarms)}, text, as_json=as_json)
    if fail_on_alarm and flags.alarms:
        raise typer.Exit(ALARMED)


@monitoring.command()
@loads_model
def score(
    probe: options.Probe,
    model: ModelName = None,
    lines: Annotated[
        bool, typer.Option("--jsonl", help="Read and write JSON lines, one object a line.")
    ] = False,
    prompt: Annotated[str, typer.Option(help="What came before the text.")] = "",
    smoothing: Smoothing = None,
    threshold: Threshold = None,
    fail_on_alarm: FailOnAlarm = False,
    *,
    loading: Loading,
) -> None:
    """Score text from standard input, and print each sentence with its score.

    A text outside the range that the threshold was calibrated on is marked first: `outside`.
    Text is the completion as the model writes it, tags included. A JSON object has `text`, or
    `reasoning` and `answer`; and `messages`, or `prompt` and `system`; and perhaps `id`.
    """
    from trace_probe.model.bridge import load_weights
    from trace_probe.monitor.scoring import score_texts

    detector = tp.load_detector(probe, smoothing=smoothing, threshold=threshold)
    records = json_lines() if lines else iter([{"text": text_brought(), "prompt": prompt}])
    loaded = load_weights(loading.weights(model or model_of([detector])))
    say(str(detector))
    alarmed = False
    for scored in score_texts(loaded, detector, records):
        alarmed = alarmed or scored.alarm
        if lines:
            typer.echo(json.dumps(asdict(scored), ensure_ascii=True))
        else:
            _print_scored(scored)
    if fail_on_alarm and alarmed:
        raise typer.Exit(ALARMED)


def _print_scored(scored: Any) -> None:  # noqa: ANN401 - a ScoredText, imported with torch
    from trace_probe.monitor.detector import OUTSIDE
    from trace_probe.visible import visible

    if scored.outside:
        typer.echo(OUTSIDE)
    for line in scored.sentences:
        shown = "" if line.score is None else f"{line.score:.3f}"
        mark = "ALARM" if line.alarm else ""
        typer.echo(f"{shown:>8} {mark:5} {line.channel:9} {visible(line.text).strip()}")


@monitoring.command()
def calibrate(
    run: options.Run,
    probe: options.Probe,
    smoothing: Annotated[
        str | None,
        typer.Option(
            "--smoothing",
            "--rules",
            help="Set a threshold for each of these; the probe's own, max, ema:0.5 and 2-of-3 by "
            "default.",
        ),
    ] = None,
    rate: options.AlarmRate = 0.01,
    sibling_rate: options.SiblingRate = 0.05,
    guarantee: options.GuaranteeKind = "conformal",
    keep: Annotated[
        bool,
        typer.Option(
            "--keep-threshold",
            help="Leave the card's threshold as it is; only note the range of the traces that it "
            "was set on, so that texts outside it are marked.",
        ),
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Set thresholds on the harmless traces of a run, for its sampling settings."""
    from trace_probe.monitor.calibrated import calibrate as calibrate_on
    from trace_probe.monitor.calibrated import range_of_card, save_calibration
    from trace_probe.statistics.smoothing import DEFAULT_SMOOTHINGS

    saved = tp.load_probe(probe)
    own = dict.fromkeys((saved.card.smoothing, *DEFAULT_SMOOTHINGS))
    names = [name.strip() for name in smoothing.split(",")] if smoothing else list(own)
    store, rates = tp.Store(run), {"rate": rate, "sibling_rate": sibling_rate}
    if keep:
        found = range_of_card(store, saved)
    else:
        found = calibrate_on(store, saved, names, guarantee=guarantee, **rates)
    save_calibration(probe, found)
    rows = [
        f"{name:10} threshold {each.value:8.3f} {each.rates} ({each.method}, {each.n} benign "
        f"traces, {each.siblings} siblings){'; ' + each.note if each.note else ''}"
        for name, each in found.thresholds.items()
    ]
    show_result(found, "\n".join(rows), as_json=as_json)


@monitoring.command()
def cascade(
    run: options.Run,
    probe: options.Probe,
    judge: Annotated[str, typer.Option(help="rules, judge:MODEL or paper:MODEL.")] = "rules",
    pass_rate: Annotated[
        float | None,
        typer.Option(help="Share of harmless traces that the probe may pass on to the judge."),
    ] = None,
    most_lost: Annotated[
        float,
        typer.Option(
            help="Instead of --pass-rate: share of instrumental training traces that need not "
            "reach the judge."
        ),
    ] = 0.01,
    smoothing: Smoothing = None,
    labeller: options.Labeller = None,
    base_url: options.BaseUrls = None,
    extra: options.Extra = None,
    price: options.Price = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare a probe, a judge, and a judge asked only where the probe alarms."""
    from trace_probe.labelling.judge import JudgeServers
    from trace_probe.labelling.runs import default_cache
    from trace_probe.labelling.runs import labeller as labeller_of
    from trace_probe.monitor.calibrated import Decoding
    from trace_probe.monitor.cascade import cascade as compare
    from trace_probe.monitor.cascade import format_cascade

    store, cost = tp.Store(run), price_pair(price)
    decoding = Decoding.of(store.manifest.sampling)
    detector = tp.load_detector(probe, smoothing=smoothing, decoding=decoding)
    where = JudgeServers(tuple(base_url or ()), default_cache(), json_object(extra))
    truth = labeller or detector.saved.card.labeller
    found = compare(
        store,
        detector,
        labeller_of(judge, where),
        pass_rate=pass_rate,
        most_lost=most_lost,
        truth=truth,
    )
    show_result(found, format_cascade(found, cost), as_json=as_json)


@monitoring.command()
@loads_model
def serve(
    probes: Annotated[list[Path], typer.Argument(help="Folders of probes on one model.")],
    model: ModelName = None,
    smoothing: Smoothing = None,
    threshold: Threshold = None,
    on_alarm: Annotated[
        Literal["annotate", "stop", "withhold"], typer.Option(help="What to do on an alarm.")
    ] = "annotate",
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any but this machine's own needs a token.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8765,
    audit: Annotated[Path, typer.Option(help="Log of alarms, appended to.")] = Path("alarms.jsonl"),
    concurrency: Annotated[int, typer.Option(min=1, help="Streams at a time.")] = 64,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 4096,
    max_body: Annotated[int, typer.Option(min=1, help="Most bytes of a request.")] = 1 << 20,
    alarm_webhook: Annotated[
        str | None, typer.Option(metavar="URL", help="Also send each alarm there, signed.")
    ] = None,
    engine: options.EngineName = "transformers",
    engine_args: options.EngineArguments = "{}",
    stale_ok: StaleOk = False,
    *,
    loading: Loading,
) -> None:
    """Serve a model that a probe watches as an OpenAI-compatible endpoint (extra: serve).

    With --engine vllm, vLLM's own server runs, with the probes in its workers (extra: vllm). It has
    no --max-tokens, --max-body and --alarm-webhook, and takes whole models only: no --adapter.

    A token is read from the environment variable TRACE_PROBE_TOKEN, and the secret that signs
    alarms from TRACE_PROBE_WEBHOOK_SECRET.
    """
    from trace_probe.errors import ModelError

    if engine == "vllm":
        from trace_probe.serving.vllm_launch import (
            EngineServer,
            check_limits,
            guard_of,
            serve_engine,
        )

        check_limits(alarm_webhook, tokens=max_tokens, body=max_body)
        named = loading.weights(model or without_version(tp.load_probe(probes[0]).card.model))
        chosen = {"policy": on_alarm, "smoothing": smoothing, "threshold": threshold}
        guard = guard_of(tuple(probes), audit=audit, model=named.name, stale_ok=stale_ok, **chosen)
        serve_engine(EngineServer(named, guard, host, port, concurrency, engine_args), say)
    if engine_args != "{}":
        raise typer.BadParameter("--engine-args goes with --engine vllm")
    try:
        from trace_probe.serving.launch import ServePlan
        from trace_probe.serving.launch import serve as run_server
        from trace_probe.serving.limits import Limits
    except ModuleNotFoundError as error:
        raise ModelError(f"{error.name} is missing: pip install 'trace-probe[serve]'") from error
    detectors = [tp.load_detector(one, smoothing=smoothing, threshold=threshold) for one in probes]
    plan = ServePlan(
        loading.weights(model or model_of(detectors)),
        detectors,
        checked=() if stale_ok else tuple(probes),
        policy=on_alarm,
        host=host,
        port=port,
        audit=audit,
        limits=Limits(body_bytes=max_body, tokens=max_tokens, streams=concurrency),
        webhook=alarm_webhook,
    )
    run_server(plan, say)
