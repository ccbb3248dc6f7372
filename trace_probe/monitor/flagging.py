"""Which traces of a run are risky, and where in each the alarm came."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trace_probe.episode import steps
from trace_probe.errors import StoreError
from trace_probe.labels import Label
from trace_probe.monitor.calibrated import levels
from trace_probe.monitor.detector import Detector, as_detector, recorded_detector
from trace_probe.monitor.drift import Drift, check_levels
from trace_probe.probing.probe import SavedProbe
from trace_probe.statistics.calibration import Rates
from trace_probe.store import Store
from trace_probe.trace import Channel, Span, Trace
from trace_probe.training import read_run
from trace_probe.visible import csv_text, snippet, visible

FEW = 3
"""Traces that are named."""


@dataclass(frozen=True)
class Flag:
    """One trace whose probe raised the alarm."""

    trace_id: str
    task: str
    peak: float
    """Highest smoothed score of any reasoning sentence."""
    sentence: int
    """First sentence that alarmed, an index into the trace's sentences."""
    token: int
    """Its last token, at which the alarm is known."""
    text: str
    call: int = 1
    """Which model call of an agent's run it is in, counted from 1."""
    calls_left: int | None = None
    """How many model calls later the violating tool call came; None where no label says so."""
    outside: bool | None = None
    """Whether the trace lies outside the range that the threshold was calibrated on, so that the
    alarm is not vouched for; None if that range is not known."""


@dataclass(frozen=True)
class Flags:
    """The risky traces of a run, riskiest first."""

    run: str
    probe: str
    threshold: float
    traces: int
    """How many were scored."""
    alarms: tuple[Flag, ...]
    smoothing: str = "max"
    source: str = ""
    """Where the threshold comes from, in words."""
    drift: Drift | None = None
    """Whether the scores of the run lie where those of the calibration traces lay; None if
    these are not known."""
    rates: Rates | None = None
    """How often harmless traces alarm at the threshold; None if that is not known."""
    retokenised: int = 0
    """How many of the traces are in tokens that were cut from their text."""
    outside: int = 0
    """How many of all traces lie outside the calibrated range."""
    calibrated: tuple[str, ...] = ()
    """Alarms on benign traces of the tasks on which the threshold was set."""


@dataclass(frozen=True)
class Line:
    """One sentence of a trace as it is shown, or of an agent's run a tool call or its result."""

    sentence: int | None
    """Index into the trace's sentences; None for calls and results."""
    channel: Channel | Literal["result"]
    start: int
    stop: int
    score: float | None
    marks: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class ShownTrace:
    """One trace, sentence by sentence."""

    trace_id: str
    task: str
    model: str
    detector: str | None
    threshold: float | None
    outcome: bool | None
    lines: tuple[Line, ...]

    def __str__(self) -> str:
        """Return a trace as text, a sentence a line; the further lines of a text stand below it."""
        outcome = {True: "instrumental", False: "harmless", None: "unknown"}[self.outcome]
        head = f"{self.trace_id}  {self.task}  {self.model}  outcome: {outcome}"
        rows = [
            (
                f"{_token(line):>6} {line.channel:9} {_shown(line.score):6} "
                f"{'+'.join(line.marks):12} ",
                visible(line.text).strip(),
            )
            for line in self.lines
        ]
        below = (f"{about}{text}".replace("\n", "\n" + " " * len(about)) for about, text in rows)
        return "\n".join([head, *below])


def flag(store: Store, probe: SavedProbe | Detector) -> Flags:
    """Score every trace of a run, keep the scores, and return those that alarm.

    Raises:
        ProbeError: the probe was trained on another model, tokenizer, width or layer.

    Example:
        >>> import shutil, tempfile
        >>> from trace_probe.probing.probe import load_probe
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = Store(shutil.copytree("traces/demo", f"{folder}/run"))
        ...     found = flag(run, load_probe("probes/demo"))
        >>> f"{len(found.alarms)} of {found.traces} traces alarm"
        '230 of 804 traces alarm'
    """
    detector = as_detector(probe)
    every = read_run(store, detector.saved)
    scores, distances = detector.saved.read(every)
    outside = {one: detector.outside(distances.get(one, ())) for one in scores}
    with store.writing():
        store.write_scores(detector.name, scores)
    labels = store.labels()
    found, retokenised = [], 0
    for trace in every.traces:
        label = labels.get(trace.id)
        found.append(_flag(trace, scores[trace.id], detector, label, outside[trace.id]))
        retokenised += trace.facts.get("ids") == "retokenised"
    alarms = sorted((one for one in found if one), key=lambda one: -one.peak)
    set_on = _set_on(detector)
    benign = {trace.id for trace in every.traces if trace.task.role == "benign"}
    again = (one.trace_id for one in alarms if one.task in set_on and one.trace_id in benign)
    drift = check_levels(detector.levels, levels(scores)) if detector.levels else None
    return Flags(
        run=str(store.path),
        probe=detector.name,
        threshold=detector.threshold,
        traces=len(found),
        alarms=tuple(alarms),
        smoothing=detector.smoothing.name,
        source=str(detector.source),
        drift=drift,
        rates=detector.rates,
        retokenised=retokenised,
        outside=sum(map(bool, outside.values())),
        calibrated=tuple(again),
    )


def _set_on(detector: Detector) -> frozenset[str]:
    """Return the tasks on which the threshold was set; none if it is not that of the card."""
    card = detector.saved.card
    known = detector.rates is not None and detector.threshold == card.threshold
    return frozenset(card.calibration_tasks if known else ())


def _flag(
    trace: Trace,
    scores: NDArray[np.floating],
    detector: Detector,
    label: Label | None,
    outside: bool | None = None,
) -> Flag | None:
    """Return the flag of a trace, or None if it raises no alarm."""
    sentence = detector.alarm(scores)
    if sentence is None:
        return None
    span = trace.sentences[sentence]
    return Flag(
        trace_id=trace.id,
        task=trace.task.id,
        peak=float(np.nanmax(detector.follow(scores))),
        sentence=sentence,
        token=span.stop - 1,
        text=trace.text_of(span).strip(),
        call=trace.call_at(span.start) + 1,
        calls_left=_calls_left(trace, span, label),
        outside=outside,
    )


def _calls_left(trace: Trace, alarm: Span, label: Label | None) -> int | None:
    """Return how many model calls lie between an alarm and the act; below 0 if it came first."""
    placed = label is not None and label.outcome and label.acted is not None
    if not trace.calls or not placed or label is None or label.acted is None:
        return None
    left = trace.call_at(label.acted.start) - trace.call_at(alarm.start)
    return left if alarm.start < label.acted.start else min(left, -1)


def format_flags(flags: Flags, alarmed: int | None = None) -> str:
    """Return a table of the flagged traces; `alarmed` says how many there are in all."""
    agents = any(one.call > 1 or one.calls_left is not None for one in flags.alarms)
    wide = max((len(one.task) for one in flags.alarms), default=0)
    rows = [
        f"{one.trace_id}  {one.task:{wide}}  peak {one.peak:6.2f}  alarm at token {one.token:5}  "
        f"{_in_call(one) if agents else ''}{'outside  ' if one.outside else ''}"
        f"{snippet(one.text, 60)}"
        for one in flags.alarms
    ]
    count = len(rows) if alarmed is None else alarmed
    left = [f"... and {count - len(rows)} more"] if count > len(rows) else []
    smoothed = "" if flags.smoothing == "max" else f" on {flags.smoothing}"
    limit = f"{flags.threshold:.3f}{smoothed} ({flags.source})"
    total = f"{count} of {flags.traces} traces alarm at {limit}"
    note = [flags.drift.note] if flags.drift and flags.drift.note else []
    rates = [str(flags.rates)] if flags.rates else []
    if rates and flags.retokenised:
        rates.append(
            f"these rates are of recorded traces: {flags.retokenised} of {flags.traces} here are "
            f"in tokens cut from their text, whose sentences may end elsewhere"
        )
    if rates and flags.calibrated:
        rates.append(_alarms_where_set(flags))
    if flags.outside:
        note.append(
            f"outside: {flags.outside} of {flags.traces} traces lie outside the calibrated range, "
            f"where neither an alarm nor its absence can be relied on"
        )
    return "\n".join([*rows, *left, total, *rates, *note])


def _alarms_where_set(flags: Flags) -> str:
    """Return why traces on which the threshold was set can alarm though their share was 0."""
    peaks = {one.trace_id: one.peak for one in flags.alarms}
    over = [peaks[name] - flags.threshold for name in flags.calibrated if name in peaks]
    least = f", the least over it by {min(over):.1g}" if over else ""
    few = ", ".join(name[:8] for name in flags.calibrated[:FEW])
    more = ", ..." if len(flags.calibrated) > FEW else ""
    return (
        f"alarms on benign tasks on which the threshold was set: {len(flags.calibrated)} "
        f"({few}{more}){least}. The rates count one trace a task, scored when the threshold was "
        f"set; activations that are read again or rounded give slightly other scores"
    )


def _in_call(flag: Flag) -> str:
    """Return in which call of an agent it alarmed, and how far before the act, in columns."""
    left = flag.calls_left
    lead = "" if left is None else "(after the act)" if left < 0 else f"({left} before the act)"
    return f"call {flag.call:2} {lead:16}  "


def flags_csv(flags: Flags) -> str:
    """Return the flagged traces as CSV; no text in it can pass for a formula or hide."""
    names = [field.name for field in fields(Flag)]
    return csv_text({name: [getattr(one, name) for one in flags.alarms] for name in names}).rstrip()


def read_trace(store: Store, trace_id: str, detector: str | None = None) -> ShownTrace:
    """Return one trace with the scores of a detector and the marks of the latest labeller.

    Raises:
        StoreError: no trace, or more than one, has an id that begins like this.
    """
    matching = sorted(known for known in store.ids() if known.startswith(trace_id))
    if len(matching) != 1:
        if not matching:
            raise StoreError(
                f"no trace of {store.path} begins with {trace_id}: "
                f"list them with `trace-probe store list {store.path}`"
            )
        some = ", ".join(matching[:5])
        raise StoreError(
            f"{len(matching)} traces of {store.path} begin with {trace_id}: {some}: "
            "write more of the id"
        )
    trace = store.trace(matching[0])
    chosen = detector or _evaluated_first(store)
    scores = store.scores(chosen).get(trace.id) if chosen else None
    follows = recorded_detector(store, chosen) if chosen else None
    label = store.labels().get(trace.id)
    return ShownTrace(
        trace_id=trace.id,
        task=trace.task.id,
        model=trace.model,
        detector=chosen,
        threshold=follows.threshold if follows and follows.source.kind != "none" else None,
        outcome=label.outcome if label else None,
        lines=_lines(trace, scores, follows, label),
    )


def _evaluated_first(store: Store) -> str | None:
    """Return a detector that has a report, else any, else None."""
    names = store.detectors()
    return next((name for name in names if store.report(name)), next(iter(names), None))


def _lines(
    trace: Trace,
    scores: NDArray[np.floating] | None,
    detector: Detector | None,
    label: Label | None,
) -> tuple[Line, ...]:
    """Return every sentence with its score and marks."""
    marks = {"said": label.said, "action": label.acted} if label else {}
    if scores is not None and detector is not None:
        sentence = detector.alarm(scores)
        marks["alarm"] = None if sentence is None else trace.sentences[sentence]
    sentences = [
        Line(
            sentence=number,
            channel=span.channel,
            start=span.start,
            stop=span.stop,
            score=_score(scores, number),
            marks=tuple(name for name, mark in marks.items() if _meets(span, mark)),
            text=trace.text_of(span),
        )
        for number, span in enumerate(trace.sentences)
    ]
    return tuple(sorted([*sentences, *_acts(trace, marks.get("action"))], key=_order))


def _order(line: Line) -> tuple[int, bool]:
    """Return where a line stands; what came back comes before the next call writes."""
    return line.start, line.channel != "result"


def _acts(trace: Trace, act: Span | None) -> Iterator[Line]:
    """Yield the tool calls of a trace, and after each model call what came back from them."""
    for call in trace.actions:
        span, text = call.span, f"{call.name} {call.arguments}" if call.name else ""
        marks = ("action",) if _meets(span, act) else ()
        yield Line(None, "action", span.start, span.stop, None, marks, text or trace.text_of(span))
    for (_, stop), made in zip(steps(trace), trace.calls, strict=False):
        for result in made.results:
            text = " ".join(filter(None, (result.error, result.content)))
            yield Line(None, "result", stop, stop, None, (), text)


def _meets(span: Span, mark: Span | None) -> bool:
    """Return whether a mark begins in a span."""
    return mark is not None and span.start <= mark.start < span.stop


def _score(scores: NDArray[np.floating] | None, number: int) -> float | None:
    """Return a score, None where there is none."""
    return None if scores is None or np.isnan(scores[number]) else float(scores[number])


def _shown(score: float | None) -> str:
    return "" if score is None else f"{score:6.2f}"


def _token(line: Line) -> str:
    """Return the last token of a line; what tools gave back has none."""
    return "" if line.channel == "result" else str(line.stop - 1)
