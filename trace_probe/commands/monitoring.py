"""Commands of the monitor: live and in bulk, its thresholds, a judge behind it, a server."""

import json
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import trace_probe as tp
from trace_probe.commands import options
from trace_probe.commands.documented import Commands, Told
from trace_probe.commands.elsewhere import agent_of
from trace_probe.commands.layout import ALARMED
from trace_probe.commands.model_options import Loading
from trace_probe.commands.options import json_object, price_pair, say, show_result
from trace_probe.commands.standard_input import json_lines, text_brought
from trace_probe.errors import TraceError, TraceProbeError
from trace_probe.files import MARKS, plain
from trace_probe.model.naming import without_version

if TYPE_CHECKING:
    from trace_probe.model.weights import Weights
    from trace_probe.monitor.detector import Detector
    from trace_probe.monitor.display import Piece
    from trace_probe.monitor.scorer import Reading
    from trace_probe.recording.course import Agent
    from trace_probe.trace import Sampling, Task, ToolResult

monitoring = Commands()
COLOURS: dict[str, dict[str, Any]] = {
    "thought": {"dim": True},
    "markup": {"dim": True},
    "calm": {"fg": "green"},
    "close": {"fg": "yellow"},
    "alarm": {"fg": "red", "bold": True},
}


@monitoring.command()
def watch(
    prompt: str,
    probes: list[Path],
    model: str | None = None,
    smoothing: options.Smoothing = None,
    threshold: float | None = None,
    system: str | None = None,
    on_alarm: Literal["continue", "stop", "ask"] = "continue",
    seed: int = 0,
    temperature: Annotated[float, typer.Option(min=0)] = 1.0,
    top_p: float = 1.0,
    max_new_tokens: options.Limit = None,
    agent: bool = False,
    tools: str | None = None,
    max_calls: options.Limit = None,
    fail_on_alarm: bool = False,
    stale_ok: bool = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
    *,
    loading: Loading,
) -> None:
    """Run a model while a probe watches it: its text as it comes, scores, and a line on an alarm.

    With --agent it calls tools, and all its calls are scored as one episode. With --on-alarm stop,
    or where you say no, the tool call that follows an alarm is not carried out.

    Args:
        prompt: What the model is asked; - reads it from stdin.
        probes: Folders of probes on one model.
        system: System message.
        on_alarm: What to do on an alarm.
        temperature: Temperature of sampling. 0 takes the likeliest token.
        max_new_tokens: 512, or half the context if that is less.
        as_json: Print one JSON object for each sentence instead.
    """
    from trace_probe.trace import Sampling, Task

    if on_alarm == "ask" and not sys.stdin.isatty():
        raise typer.BadParameter("--on-alarm ask needs a terminal to ask at")
    _check_order(prompt, probes)
    text = text_brought() if prompt == "-" else prompt
    sampling = Sampling(seed, temperature, top_p, max_new_tokens or 512)
    task = Task("prompt", "prompt", text, system)
    detectors = [
        tp.load_detector(folder, smoothing=smoothing, threshold=threshold, decoding=sampling)
        for folder in probes
    ]
    acting = agent_of(tools, max_calls, asked=agent, told_by_task=False)
    weights = loading.weights(model or model_of(detectors))
    checked = () if stale_ok else probes
    readings = _watched(
        detectors, weights, checked, task, sampling, acting, fixed=bool(max_new_tokens)
    )
    alarmed, distances = False, []
    show = _show_lines if as_json else _show_text(detectors)
    for reading in readings:
        show(reading)
        if not isinstance(reading, tuple):
            continue
        distances += [ended.distances for ended in reading.ended]
        if reading.alarm and not alarmed:
            alarmed = True
            if on_alarm == "stop" or (on_alarm == "ask" and not typer.confirm("go on?", err=True)):
                readings.close()
                break
    if not as_json:
        typer.echo("")
    _tell_outside(detectors, distances, as_json=as_json)
    if fail_on_alarm and alarmed:
        raise typer.Exit(ALARMED)


def _check_order(prompt: str, probes: Sequence[Path]) -> None:
    """Refuse a probe where the prompt is to stand, if no probe stands where one should."""
    places = (Path(each, MARKS["probe"]) for each in (prompt, *map(str, probes)))
    first, *others = (os.path.isfile(place) for place in places)
    if first and not all(others):
        raise typer.BadParameter(
            f"{prompt} is a probe: the prompt comes first, then the probes, "
            f"`trace-probe watch PROMPT {prompt}`"
        )


def _tell_outside(
    detectors: "list[Detector]", distances: Sequence[tuple[float, ...]], *, as_json: bool
) -> None:
    """Print for which detectors the sentences scored lie outside the calibrated range, if any."""
    from trace_probe.monitor.detector import OUTSIDE, outside_of

    names = outside_of(detectors, distances)
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
        typer.echo(json.dumps({"result": plain(reading)}, ensure_ascii=True, allow_nan=False))
        return
    for ended in reading.ended:
        typer.echo(json.dumps(plain(ended), ensure_ascii=True, allow_nan=False))


def model_of(detectors: "Sequence[Detector]") -> str:
    """Return the name of the model of some probes as it is loaded, without the revision."""
    names = dict.fromkeys(without_version(one.saved.card.model) for one in detectors)
    if len(names) > 1:
        raise typer.BadParameter(f"the probes read several models: {', '.join(names)}")
    return next(iter(names))


@monitoring.command()
def flag(
    run: Path,
    probe: Path,
    smoothing: options.Smoothing = None,
    threshold: float | None = None,
    fail_on_alarm: bool = False,
    limit: options.Limit = None,
    as_csv: Annotated[bool, typer.Option("--csv")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """List the risky traces of a run with the sentence of the alarm, riskiest first.

    Args:
        limit: Traces to list, the riskiest; all are counted.
        as_csv: Print CSV instead of text.
    """
    from trace_probe.monitor.flagging import flag as flag_run
    from trace_probe.monitor.flagging import flags_csv, format_flags

    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json exclude each other")
    store = tp.Store(run)
    drawn = store.manifest.sampling
    detector = tp.load_detector(probe, smoothing=smoothing, threshold=threshold, decoding=drawn)
    flags = flag_run(store, detector)
    listed = replace(flags, alarms=flags.alarms[:limit])
    text = flags_csv(listed) if as_csv else format_flags(listed, len(flags.alarms))
    show_result(vars(listed) | {"alarmed": len(flags.alarms)}, text, as_json=as_json)
    if fail_on_alarm and flags.alarms:
        raise typer.Exit(ALARMED)


@monitoring.command()
def score(
    probe: Path,
    model: str | None = None,
    lines: Annotated[bool, typer.Option("--jsonl")] = False,
    prompt: str = "",
    smoothing: options.Smoothing = None,
    threshold: float | None = None,
    fail_on_alarm: bool = False,
    *,
    loading: Loading,
) -> None:
    """Score text from standard input, and print each sentence with its score.

    A text outside the range that the threshold was calibrated on is marked first: `outside`.
    Text is the completion as the model writes it, tags included. A JSON object has `text` or
    `completion`, or `reasoning` and `answer`; and `messages`, or `prompt` and `system`; and
    perhaps `id`. One that cannot be scored is named on standard error, and the exit code is 1.

    Args:
        lines: Read and write JSON lines, one object a line.
        prompt: What came before the text.
    """
    from trace_probe.model.bridge import load_weights
    from trace_probe.monitor.scoring import score_texts

    detector = tp.load_detector(probe, smoothing=smoothing, threshold=threshold)
    numbers: list[int] = []
    records = _numbered(numbers) if lines else iter([{"text": text_brought(), "prompt": prompt}])
    loaded = load_weights(loading.weights(model or model_of([detector])))
    say(str(detector))
    alarmed, left = False, 0

    def aside(number: int, error: TraceProbeError) -> None:
        nonlocal left
        left += 1
        say(f"set aside, line {numbers[number - 1]}: {error}")

    for scored in score_texts(loaded, detector, records, aside if lines else None):
        alarmed = alarmed or scored.alarm
        if lines:
            typer.echo(json.dumps(plain(scored), ensure_ascii=True, allow_nan=False))
        else:
            _print_scored(scored)
    if fail_on_alarm and alarmed:
        raise typer.Exit(ALARMED)
    if left:
        raise TraceError(f"{left} of {len(numbers)} lines could not be scored: see above")


def _numbered(numbers: list[int]) -> Iterator[dict[str, Any] | TraceError]:
    """Yield what stands at standard input; `numbers` grows by the line of each."""
    for number, record in json_lines():
        numbers.append(number)
        yield record


def _print_scored(scored: Any) -> None:  # noqa: ANN401 - a ScoredText, imported with torch
    from trace_probe.monitor.detector import OUTSIDE
    from trace_probe.monitor.live import unknown_words_note
    from trace_probe.visible import visible

    if scored.outside:
        typer.echo(OUTSIDE)
    if scored.unknown:
        typer.echo(visible(unknown_words_note(scored.unknown)))
    for line in scored.sentences:
        shown = "" if line.score is None else f"{line.score:.3f}"
        mark = "ALARM" if line.alarm else ""
        typer.echo(f"{shown:>8} {mark:5} {line.channel:9} {visible(line.text).strip()}")


@monitoring.command()
def calibrate(
    run: Path,
    probe: Path,
    smoothing: Annotated[str | None, typer.Option("--smoothing", "--rules")] = None,
    rate: options.Share = 0.01,
    sibling_rate: options.Share = 0.05,
    guarantee: options.Guarantee = "conformal",
    keep: Annotated[bool, typer.Option("--keep-threshold")] = False,
) -> Told:
    """Set thresholds on the harmless traces of a run, for its sampling settings.

    Args:
        smoothing: Set a threshold for each of these; the probe's own, max, ema:0.5 and 2-of-3 by
            default.
        keep: Leave the card's threshold as it is; only note the range of the traces that it was set
            on, so that texts outside it are marked.
    """
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
    return Told(found, "\n".join(rows))


@monitoring.command()
def cascade(
    run: Path,
    probe: Path,
    judge: str = "rules",
    pass_rate: float | None = None,
    most_lost: float = 0.01,
    smoothing: options.Smoothing = None,
    labeller: str | None = None,
    base_url: list[str] | None = None,
    extra: str | None = None,
    price: str | None = None,
) -> Told:
    """Compare a probe, a judge, and a judge asked only where the probe alarms.

    Args:
        judge: rules, judge:MODEL or paper:MODEL.
        pass_rate: Share of harmless traces that the probe may pass on to the judge.
        most_lost: Instead of --pass-rate: share of instrumental training traces that need not reach
            the judge.
    """
    from trace_probe.labelling.judge import JudgeServers
    from trace_probe.labelling.runs import default_cache
    from trace_probe.labelling.runs import labeller as labeller_of
    from trace_probe.monitor.cascade import cascade as compare
    from trace_probe.monitor.cascade import format_cascade

    store, cost = tp.Store(run), price_pair(price)
    detector = tp.load_detector(probe, smoothing=smoothing, decoding=store.manifest.sampling)
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
    return Told(found, format_cascade(found, cost))


@monitoring.command()
def serve(
    probes: list[Path],
    model: str | None = None,
    smoothing: options.Smoothing = None,
    threshold: float | None = None,
    on_alarm: Literal["annotate", "stop", "withhold"] = "annotate",
    host: str = ("127.0.0.1"),
    port: int = 8765,
    audit: Path = Path("alarms.jsonl"),
    concurrency: options.Count = 64,
    max_tokens: options.Count = 4096,
    max_body: options.Count = 1 << 20,
    alarm_webhook: Annotated[str | None, typer.Option(metavar="URL")] = None,
    engine: options.Engine = "transformers",
    engine_args: str = "{}",
    stale_ok: bool = False,
    *,
    loading: Loading,
) -> None:
    """Serve a model that a probe watches as an OpenAI-compatible endpoint (extra: serve).

    With --engine vllm, vLLM's own server runs, with the probes in its workers (extra: vllm). It has
    no --max-tokens, --max-body and --alarm-webhook, and takes whole models only: no --adapter.

    A token is read from the environment variable TRACE_PROBE_TOKEN, and the secret that signs
    alarms from TRACE_PROBE_WEBHOOK_SECRET.

    Args:
        probes: Folders of probes on one model.
        on_alarm: What to do on an alarm.
        host: Address to listen on. Any but this machine's own needs a token.
        port: Port to listen on.
        audit: Log of alarms, appended to.
        concurrency: Streams at a time.
        max_tokens: Most tokens of an answer.
        max_body: Most bytes of a request.
        alarm_webhook: Also send each alarm there, signed.
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
