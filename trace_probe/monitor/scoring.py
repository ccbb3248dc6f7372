"""Scores of texts that were not recorded: a model reads them as if it had just written them.

A record is a JSON object: ``text`` or ``completion``, all that the model wrote, tags included, or
``reasoning`` and ``answer`` apart; with ``messages`` or ``prompt`` (and ``system``) for what
came before it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_probe.activations import ActivationMatrix
from trace_probe.errors import ModelError, TraceError, TraceProbeError
from trace_probe.model.capture import Reading
from trace_probe.model.drawing import overflowed
from trace_probe.model.local import Completion, Model
from trace_probe.monitor.detector import Detector
from trace_probe.monitor.live import check_readable
from trace_probe.monitor.recheck import check_reads
from trace_probe.probing.corpus import Corpus
from trace_probe.probing.probe import SavedProbe
from trace_probe.recording.plan import Planned
from trace_probe.recording.reading import read_calls
from trace_probe.recording.record import completed
from trace_probe.storage.typed import from_plain
from trace_probe.text.channels import format_of, opens_reasoning
from trace_probe.trace import Sampling, Task, Trace, digest

TOGETHER = 32
Row = NDArray[np.floating[Any]]
NONE: Row = np.empty(0)


@dataclass(frozen=True)
class Message:
    """One message before the text."""

    role: str
    content: str


@dataclass(frozen=True)
class Record:
    """A text to be scored; see the top of this module."""

    text: str | None = None
    completion: str | None = None
    """As `text`; beside reasoning it is the answer."""
    reasoning: str | None = None
    answer: str | None = None
    messages: tuple[Message, ...] | None = None
    prompt: str | None = ""
    system: str | None = None
    id: str | int | float | None = None

    @property
    def conversation(self) -> tuple[Message, ...]:
        """Return what came before the text."""
        alone = (("system", self.system), ("user", self.prompt))
        own = tuple(Message(role, text) for role, text in alone if text is not None)
        return own if self.messages is None else self.messages


@dataclass(frozen=True)
class ScoredLine:
    """One sentence of a scored text."""

    sentence: int
    channel: str
    text: str
    score: float | None
    """None outside the reasoning, which alone is scored."""
    alarm: bool


@dataclass(frozen=True)
class ScoredText:
    """A text as a probe reads it."""

    id: str
    peak: float | None
    """Highest smoothed score of a reasoning sentence; None without reasoning."""
    alarm: bool
    sentence: int | None
    """Where it alarmed first."""
    sentences: tuple[ScoredLine, ...]
    outside: bool | None = None
    """Whether it lies outside the range that the threshold was calibrated on, so that neither an
    alarm nor its absence is vouched for; None if that range is not known."""
    unknown: tuple[str, ...] = ()
    """Words of it, and of what came before it, that the model does not know."""


def score_texts(
    model: Model,
    detector: Detector,
    records: Iterable[Mapping[str, Any] | TraceProbeError],
    aside: Callable[[int, TraceProbeError], None] | None = None,
) -> Iterator[ScoredText]:
    """Yield each record scored, in order; a few are read together.

    A record that cannot be scored goes to `aside` with its number, if that is given. So does one
    that could not be read, in whose place an error stands.

    Raises:
        ProbeError: the probe is of another model.
        TraceError: a record holds no text, more than the model can read, or words that it does
            not know.
    """
    check_reads(model, detector.saved.card)
    numbered = enumerate(records, start=1)
    while group := list(islice(numbered, TOGETHER)):
        texts = []
        for number, record in group:
            try:
                texts.append(_brought(model, record, number))
            except (TraceError, ModelError) as error:
                if aside is None:
                    raise
                aside(number, error)
        traces = [trace for trace, _ in texts]
        read = read_scores(model, detector.saved, traces)
        for (trace, unknown), found in zip(texts, read, strict=True):
            yield replace(_text(trace, *found, detector), unknown=unknown)


def read_scores(model: Model, saved: SavedProbe, traces: Sequence[Trace]) -> list[tuple[Row, Row]]:
    """Return for each trace (sentence,) scores and distances, as the model reads it again.

    There are no distances of a probe of an earlier version.

    Raises:
        ProbeError: the probe is of another model.
        ModelError: what the model holds is inf or nan.
    """
    card = saved.card
    check_reads(model, card)
    how = Reading(card.pooling)
    held = read_calls(
        lambda ids, spans, _: model.replay(ids, spans, card.layers, how),
        traces,
        row_end=card.row_end,
    )
    if not all(np.isfinite(read.values).all() for read in held):
        raise overflowed("the activations that a probe reads")
    matrices = [
        ActivationMatrix(read.values, read.layers, np.array([0]), read.pooling, card.row_end)
        for read in held
    ]
    found = []
    for trace, matrix in zip(traces, matrices, strict=True):
        scores, distances = saved.read(Corpus((trace,), {}, matrix))
        found.append((scores[trace.id], distances.get(trace.id, NONE)))
    return found


def _text(trace: Trace, scores: Row, distances: Row, detector: Detector) -> ScoredText:
    values = detector.follow(scores)
    first = detector.alarm(scores)
    lines = tuple(
        ScoredLine(
            sentence=number,
            channel=span.channel,
            text=trace.text_of(span),
            score=None if np.isnan(scores[number]) else float(scores[number]),
            alarm=bool(values[number] >= detector.threshold),
        )
        for number, span in enumerate(trace.sentences)
    )
    peak = None if np.isnan(values).all() else float(np.nanmax(values))
    outside = detector.outside(distances)
    return ScoredText(trace.id, peak, first is not None, first, lines, outside)


def _brought(
    model: Model, record: Mapping[str, Any] | TraceProbeError, number: int
) -> tuple[Trace, tuple[str, ...]]:
    """Return a record as the trace that the model would have left, and the words unknown to it."""
    if isinstance(record, TraceProbeError):
        raise record
    where = f"record {number}"
    given = from_plain(Record, record, where, wrong=TraceError, advice="see `trace-probe score -h`")
    name = str(number if given.id is None else given.id)
    prompt = model.render_chat([vars(one) for one in given.conversation])
    whole = given.text or ("" if given.reasoning else given.completion)
    if not (whole or given.reasoning):
        raise TraceError(
            f"{where} has nothing to score: give `text` or `completion`, or `reasoning` and "
            f"`answer`"
        )
    answer = given.answer or given.completion or ""
    text = whole or completion_of(model, prompt, given.reasoning or "", answer)
    trace = read_as_written(model, Task(name, "scored", ""), prompt, text, where)
    before = [one.content for one in given.conversation]
    return replace(trace, id=name), model.chat.unknown_words("\n".join([*before, text]))


def completion_of(model: Model, prompt: Sequence[int], reasoning: str, answer: str) -> str:
    """Return a thought and an answer as the text that a model would write after a prompt."""
    format = format_of(model.chat_template, model.name)
    opening = "" if opens_reasoning(model.offsets(prompt)[0], format) else format.open
    return f"{opening}{reasoning}" + (f"{format.close}{answer}" if answer else "")


def read_as_written(
    model: Model, task: Task, prompt: Sequence[int], completion: str, where: str
) -> Trace:
    """Return a text as the trace that a model would have left; see `as_if_written`.

    Raises:
        TraceError: it is longer than the model can read, or in words that it does not know.
    """
    check_readable(model.chat, completion, where)
    ids = (*prompt, *model.chat.encode(completion))
    return as_if_written(model, task, ids, len(prompt), where)


def as_if_written(
    model: Model, task: Task, ids: tuple[int, ...], prompt_stop: int, where: str
) -> Trace:
    """Return token ids as the trace that a model would have left; its id is a digest of them.

    The first `prompt_stop` ids are the prompt; `where` is what an error calls the text.

    Raises:
        TraceError: there are more tokens than the model can read.
    """
    if model.context is not None and len(ids) > model.context:
        raise TraceError(
            f"{where} is {len(ids):,} tokens long, {model.name} reads {model.context:,}: cut it"
        )
    planned = Planned(digest(model.name, list(ids)), task, 0, 0, ids[:prompt_stop])
    trace = completed(model, planned, Completion(ids[prompt_stop:], "stop"), Sampling())
    return replace(trace, source="scored", finish="unknown")
