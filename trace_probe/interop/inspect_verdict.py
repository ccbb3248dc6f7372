"""What a probe says of a sample of Inspect: as our own provider noted it live, or by reading again.

Needs the extra ``inspect``. A sample is scored as the one trace of all its model calls, as after
`import_inspect`, so that the alarms are those of `flag`.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from trace_probe.errors import NotEnoughData, TraceError
from trace_probe.interop.conversation import Turn, asked
from trace_probe.interop.episodes import trace_of
from trace_probe.interop.inspect_events import NOTES, Strand, strands_of
from trace_probe.model.naming import without_version
from trace_probe.monitor.detector import Detector, load_detector
from trace_probe.trace import Sampling, Task, Trace
from trace_probe.visible import snippet

if TYPE_CHECKING:
    from inspect_ai.event import Event
    from inspect_ai.model import ChatMessage, ModelOutput
    from inspect_ai.scorer import Score

    from trace_probe.model.local import Model

_TURN = threading.Lock()


@contextmanager
def models_turn() -> Iterator[None]:
    """Hold the models of this process, which run one pass at a time, in a thread of anyio's.

    While it waits, it notices that Inspect has cancelled the sample.
    """
    from anyio import from_thread

    while not _TURN.acquire(timeout=0.2):
        from_thread.check_cancelled()
    try:
        yield
    finally:
        _TURN.release()


@cache
def loaded(name: str, **how: str) -> "Model":
    """Return a model, the same one whenever it is asked for."""
    from trace_probe.model.local import load_model

    return load_model(name, **how)


class Seen(NamedTuple):
    """What is known of a sample while it runs; named as in an `EvalSample`."""

    events: Sequence["Event"]
    messages: Sequence["ChatMessage"]
    output: "ModelOutput"


@dataclass(frozen=True)
class Judged:
    """A sentence of a thought, and what the probe says of it."""

    message: str
    """Id of the message that it is in."""
    text: str
    statistic: float | None
    """The smoothed score, which the alarm follows; None if the model held what is no number."""
    alarm: bool


@dataclass(frozen=True)
class Verdict:
    """What a probe says of a sample."""

    sentences: tuple[Judged, ...]
    detector: Mapping[str, Any]
    """Name, threshold and smoothing, as in `told`."""
    read: str
    """``live``, or how exactly the ids were known that were read again."""

    @property
    def alarms(self) -> dict[str, Judged]:
        """Return the first alarm of each message that has one."""
        found: dict[str, Judged] = {}
        for one in self.sentences:
            if one.alarm:
                found.setdefault(one.message, one)
        return found

    @property
    def peak(self) -> float:
        """Return the highest smoothed score; the threshold where an alarm has no score."""
        known = [one.statistic for one in self.sentences if one.statistic is not None]
        blind = any(one.alarm and one.statistic is None for one in self.sentences)
        limit = float(self.detector["threshold"] or 0.0)
        return max([*known, limit] if blind else known)


def told(detector: Detector) -> dict[str, Any]:
    """Return what a log says of the detector behind scores and alarms."""
    threshold = float(detector.threshold)
    return {
        "probe": detector.name,
        "reads": detector.saved.card.model,
        "threshold": threshold if isfinite(threshold) else None,
        "smoothing": detector.smoothing.name,
        "source": str(detector.source),
    }


class Reader:
    """A probe, and the model that reads calls again for it where nobody scored them live."""

    def __init__(self, probe: str, model: str | None = None) -> None:
        """Load the probe; the model is loaded once it is needed.

        Raises:
            ProbeError: there is no probe in that folder.
            NotEnoughData: it has no threshold.
        """
        self.detector = load_detector(probe)
        if self.detector.source.kind == "none":
            raise NotEnoughData(f"{probe} has no threshold: set one with `trace-probe calibrate`")
        self._model = model or without_version(self.detector.saved.card.model)

    @cached_property
    def told(self) -> dict[str, Any]:
        """Return what a log says of the detector."""
        return told(self.detector)

    def read(self, strands: Sequence[Strand]) -> Verdict:
        """Return the verdict on calls as the model reads them; runs in a thread of anyio's.

        Raises:
            TraceError: they cannot be put into the tokens of the model, or do not fit it.
            ProbeError: the probe is of another model.
        """
        with models_turn():
            found = [self._sentences(strand) for strand in strands]
        how = sorted({how for _, how in found})
        return Verdict(tuple(one for some, _ in found for one in some), self.told, how[-1])

    def _sentences(self, strand: Strand) -> tuple[list[Judged], str]:
        from trace_probe.monitor.scoring import read_scores

        model = loaded(self._model)
        trace = _trace(strand, model)
        scores, _ = read_scores(model, self.detector.saved, [trace])[0]
        own = {turn.wrote.id for turn in strand.own}
        values = self.detector.follow(scores)
        judged = [
            Judged(
                _message(trace, span.start),
                trace.text_of(span).strip(),
                float(value),
                bool(value >= self.detector.threshold),
            )
            for span, value in zip(trace.sentences, values, strict=True)
            if isfinite(value)
        ]
        return [one for one in judged if one.message in own], trace.facts["ids"]


def _trace(strand: Strand, model: "Model") -> Trace:
    """Return the calls of a strand as one trace in the tokens of a model."""
    from trace_probe.episode import calls_of

    system, prompt = asked(strand.turns)
    about = {
        "task": Task("sample", "inspect", prompt, system),
        "model": model.name,
        "sampling": Sampling(),
        "sample": 0,
        "source": "inspect",
    }
    trace = trace_of(strand.turns, about, (), None, model.chat)
    if trace.facts["ids"] == "words":
        raise TraceError(
            f"the calls cannot be put into the tokens of {model.name}: let the model that the "
            f"probe reads write them, or ask the server for token ids"
        )
    longest = max(map(len, calls_of(trace)))
    if model.context is not None and longest > model.context:
        raise TraceError(
            f"a call is {longest:,} tokens long, {model.name} reads {model.context:,}: leave the "
            f"sample out"
        )
    return trace


def _message(trace: Trace, token: int) -> str:
    """Return the id of the message in which a token was written."""
    if not trace.calls:
        return trace.facts.get("message", "")
    return trace.calls[trace.call_at(token)].message


async def judge(
    sample: Seen, reader: Reader | None, role: str = "", *, again: bool = False
) -> Verdict | None:
    """Return what a probe says of the model calls of a sample so far; None if there are none.

    What our own provider noted is taken as it is, where it is of the same probe, unless the calls
    are to be read `again`. Without a `reader` only the notes count.

    Raises:
        TraceError: the calls cannot be read.
        ProbeError: the probe is of another model.
    """
    from anyio import to_thread

    strands = strands_of(sample, role)
    notes = {} if again and reader else dict(_notes(sample.events))
    turns = [turn for strand in strands for turn in strand.own]
    noted = [notes[turn.wrote.id] for turn in turns if turn.wrote.id in notes]
    live = [one for one in noted if reader is None or one["detector"] == reader.told]
    if live and (reader is None or len(live) == len(turns)):
        return _as_noted(turns, notes)
    if reader is None or not turns:
        return None
    verdict: Verdict = await to_thread.run_sync(reader.read, strands)
    return verdict


def _notes(events: Iterable["Event"]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what our provider noted of the calls that a probe watched, by id of the message."""
    for event in events:
        if event.event == "model" and event.output.choices:
            noted = (event.output.metadata or {}).get(NOTES)
            if isinstance(noted, dict) and _are_whole(noted):
                yield event.output.choices[0].message.id, noted


def _are_whole(noted: Mapping[str, Any]) -> bool:
    """Return whether notes hold all that they should; a log may come from anywhere."""
    detector, sentences = noted.get("detector"), noted.get("sentences")
    if not isinstance(detector, dict) or not isinstance(sentences, list):
        return False
    number = isinstance(detector.get("threshold"), float | None)
    return number and isinstance(detector.get("probe"), str) and all(map(_is_sentence, sentences))


def _is_sentence(one: object) -> bool:
    return (
        isinstance(one, dict)
        and isinstance(one.get("text"), str)
        and isinstance(one.get("alarm"), bool)
        and isinstance(one.get("statistic", ""), float | None)
    )


def _as_noted(turns: Sequence[Turn], notes: Mapping[str, dict[str, Any]]) -> Verdict:
    known = {turn.wrote.id: notes[turn.wrote.id] for turn in turns if turn.wrote.id in notes}
    sentences = (
        Judged(message, one["text"].strip(), one["statistic"], one["alarm"])
        for message, noted in known.items()
        for one in noted["sentences"]
    )
    return Verdict(tuple(sentences), next(iter(known.values()))["detector"], "live")


def score_of(verdict: Verdict, messages: Sequence["ChatMessage"]) -> "Score":
    """Return a verdict as a score of Inspect, with a reference to each message that alarms.

    Inspect's viewer makes links of them. A message that was rolled back is not in the
    transcript, and has none.
    """
    from inspect_ai.scorer import Reference, Score

    places = {message.id: place for place, message in enumerate(messages, 1) if message.id}
    lines, references = [], []
    for name, alarm in verdict.alarms.items():
        cite = f"[M{places[name]}]" if name in places else "(rolled back)"
        value = "unreadable" if alarm.statistic is None else f"{alarm.statistic:.2f}"
        said = snippet(alarm.text, 300).replace("`", "'")  # as code, it makes no links of its own
        lines.append(f"{cite} alarm, {value}: `{said}`")
        if name in places:
            references.append(Reference(type="message", cite=cite, id=name).model_dump())
    return Score(
        value=verdict.peak,
        explanation="\n\n".join(lines) or "no alarm",
        metadata={
            "scanner_references": references,
            "alarm": bool(lines),
            "ids": verdict.read,
            **verdict.detector,
        },
    )
