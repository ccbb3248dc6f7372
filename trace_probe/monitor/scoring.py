"""Scores of texts that were not recorded: a model reads them as if it had just written them.

A record is a JSON object: ``text``, the completion as the model writes it, tags included, or
``reasoning`` and ``answer`` apart; with ``messages`` or ``prompt`` (and ``system``) for what
came before it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import TraceError
from trace_probe.model.capture import Reading
from trace_probe.model.local import Model
from trace_probe.model.precision import overflowed
from trace_probe.monitor.detector import Detector
from trace_probe.monitor.live import check_readable, check_reads
from trace_probe.probing.dataset import Corpus
from trace_probe.probing.matrix import ActivationMatrix
from trace_probe.probing.probe import SavedProbe
from trace_probe.recording.reading import read_calls
from trace_probe.text.channels import Format, format_of, opens_reasoning
from trace_probe.text.written import read_back
from trace_probe.trace import Sampling, Task, Trace, digest

TOGETHER = 32
Row = NDArray[np.floating[Any]]


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


def score_texts(
    model: Model, detector: Detector, records: Iterable[Mapping[str, Any]]
) -> Iterator[ScoredText]:
    """Yield each record scored, in order; a few are read together.

    Raises:
        ProbeError: the probe is of another model.
        TraceError: a record holds no text, more than the model can read, or words that it does
            not know.
    """
    numbered = enumerate(records, start=1)
    while group := list(islice(numbered, TOGETHER)):
        traces = [_trace(model, record, number) for number, record in group]
        for trace, row in zip(traces, read_scores(model, detector.saved, traces), strict=True):
            yield _text(trace, row, detector)


def read_scores(model: Model, saved: SavedProbe, traces: Sequence[Trace]) -> list[Row]:
    """Return for each trace (sentence,), its scores as the model reads it again.

    Raises:
        ProbeError: the probe is of another model.
        ModelError: what the model holds is inf or nan.
    """
    card = saved.card
    check_reads(model, card)
    how = Reading(card.pooling)
    held = read_calls(lambda ids, spans, _: model.replay(ids, spans, card.layers, how), traces)
    if not all(np.isfinite(read.values).all() for read in held):
        raise overflowed("the activations that a probe reads")
    matrices = [
        ActivationMatrix(read.values, read.layers, np.array([0]), read.pooling) for read in held
    ]
    return [
        saved.scores(Corpus((trace,), {}, matrix))[trace.id]
        for trace, matrix in zip(traces, matrices, strict=True)
    ]


def _text(trace: Trace, scores: Row, detector: Detector) -> ScoredText:
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
    return ScoredText(trace.id, peak, first is not None, first, lines)


def _trace(model: Model, record: Mapping[str, Any], number: int) -> Trace:
    """Return a record as the trace that the model would have left."""
    where = f"record {number}"
    name = str(record.get("id", number))
    prompt = model.render_chat(_messages(record, where))
    text, _ = model.offsets(prompt)
    format = format_of(model.chat_template, model.name)
    completion = _completion(record, format, text, where)
    check_readable(model.chat, completion, where)
    written = model.nearest_ids(completion)
    trace = as_if_written(model, Task(name, "scored", ""), (*prompt, *written), len(prompt), where)
    return replace(trace, id=name)


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
    return Trace(
        id=digest(model.name, list(ids)),
        task=task,
        model=model.name,
        sampling=Sampling(),
        sample=0,
        token_ids=ids,
        tokenizer=model.tokenizer,
        source="scored",
        **read_back(model, ids, prompt_stop)._asdict(),
    )


def _messages(record: Mapping[str, Any], where: str) -> list[dict[str, str]]:
    """Return the conversation before the text."""
    given = record.get("messages")
    if given is None:
        system, prompt = record.get("system"), record.get("prompt", "")
        parts = [("system", system), ("user", prompt)]
        given = [{"role": role, "content": text} for role, text in parts if text is not None]
    shape = isinstance(given, list) and all(
        isinstance(one, dict)
        and isinstance(one.get("role"), str)
        and isinstance(one.get("content"), str)
        for one in given
    )
    if not shape:
        raise TraceError(f"{where}: prompt, system and the content of messages must be text")
    return [{"role": one["role"], "content": one["content"]} for one in given]


def _completion(record: Mapping[str, Any], format: Format, prompt: str, where: str) -> str:
    """Return the text that the model is to have written."""
    text, reasoning = record.get("text"), record.get("reasoning")
    answer = record.get("answer", "")
    if not all(isinstance(part, str | None) for part in (text, reasoning, answer)):
        raise TraceError(f"{where}: text, reasoning and answer must be text")
    if text:
        return str(text)
    if not reasoning:
        raise TraceError(f"{where} has nothing to score: give `text`, or `reasoning` and `answer`")
    opening = "" if opens_reasoning(prompt, format) else format.open
    return f"{opening}{reasoning}{format.close}{answer}" if answer else f"{opening}{reasoning}"
