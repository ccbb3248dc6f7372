"""Traces as a model reads them: each model call of an episode with the prompt that it had.

The rows of an episode are the last prompt token of its first call and every sentence of all its
calls, as of any other trace. A call that goes on from all that the call before read and wrote is
read in the same pass.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trace_probe.activations import Activations, Fidelity, RowEnd, pooled_spans, with_row_end
from trace_probe.episode import calls_of
from trace_probe.trace import Span, Trace

Ids = Sequence[int]
Place = Callable[[Trace, Sequence[Span]], tuple[Ids, list[Span]]]
"""Returns what is read of a call, and where spans of the call lie in that."""
Replay = Callable[[list[Ids], list[list[Span]], list[Sequence[float]] | None], list[Activations]]
"""Reads ids, given the spans to pool and the log-probabilities noted for the last ids of each."""


class _Part(NamedTuple):
    """One model call within a pass."""

    rows: tuple[Span, ...]
    written: Span
    """What the model wrote in it; of the first call with the last prompt token."""
    noted: Sequence[float]


class _Pass(NamedTuple):
    """What is read at once: a call, and those before that it goes on from."""

    owner: int
    """Which of the traces it belongs to."""
    read: Trace
    parts: list[_Part]


def as_written(row_end: RowEnd, call: Trace, spans: Sequence[Span]) -> tuple[Ids, list[Span]]:
    """Read a call in the very ids that were read and written."""
    return call.token_ids, with_row_end(row_end, call.text, call.offsets, spans)


def read_calls(
    replay: Replay,
    traces: Sequence[Trace],
    *,
    row_end: RowEnd = "token",
    place: Place | None = None,
    raw_tokens: bool = False,
    logprobs: Sequence[Sequence[float]] | None = None,
) -> list[Activations]:
    """Return the activations of traces, a row for each of `pooled_spans`.

    A call is read in the very ids that were read and written, unless `place` says otherwise.

    `logprobs` holds for each trace those noted for what the model wrote, in all its calls. An
    episode is as faithful as its worst pass.
    """
    passes = [
        one
        for owner, trace in enumerate(traces)
        for one in _passes(owner, trace, logprobs[owner] if logprobs else (), not place, raw_tokens)
    ]
    anchors = [_anchors(one, traces[one.owner], raw_tokens) for one in passes]
    placed = [
        (place or partial(as_written, row_end))(
            one.read, [*before, *(row for part in one.parts for row in part.rows)]
        )
        for one, before in zip(passes, anchors, strict=True)
    ]
    noted: list[Sequence[float]] | None = None
    if logprobs is not None:
        noted = [_noted(one) for one in passes]
    held = replay([ids for ids, _ in placed], [spans for _, spans in placed], noted)
    found: list[list[tuple[Activations, int]]] = [[] for _ in traces]
    for one, before, activations in zip(passes, anchors, held, strict=True):
        found[one.owner].append((activations, len(before)))
    return [
        _joined(trace, row_end, parts) if trace.calls else parts[0][0]
        for trace, parts in zip(traces, found, strict=True)
    ]


def _passes(
    owner: int, trace: Trace, noted: Sequence[float], together: bool, raw_tokens: bool
) -> Iterator[_Pass]:
    """Yield what is read of a trace; calls without a row are left out, unless all tokens count.

    A call that goes on from the one before is read `together` with it.
    """
    under_way: _Pass | None = None
    done = 0
    for k, call in enumerate(calls_of(trace)):
        count = len(call) - call.prompt_stop
        rows = call.sentences if k else pooled_spans(call)
        written = Span(max(call.prompt_stop - (not k), 0), len(call), "markup")
        part = _Part(rows, written, noted[done : done + count])
        done += count
        goes_on = under_way is not None and trace.calls[k].kept == len(under_way.read)
        if under_way and goes_on and together:
            under_way = _Pass(owner, call, [*under_way.parts, part])
            continue
        if under_way and (raw_tokens or any(one.rows for one in under_way.parts)):
            yield under_way
        under_way = _Pass(owner, call, [part])
    if under_way and (raw_tokens or any(one.rows for one in under_way.parts)):
        yield under_way


def _anchors(one: _Pass, trace: Trace, raw_tokens: bool) -> list[Span]:
    """Return spans that make a pass keep every token of an episode; their rows are dropped."""
    wanted = raw_tokens and trace.calls
    return [part.written for part in one.parts if len(part.written)] if wanted else []


def _noted(one: _Pass) -> list[float]:
    """Return the log-probabilities noted for the last ids of a pass; nan between two calls."""
    if not all(part.noted for part in one.parts):
        return list(one.parts[-1].noted)
    found: list[float] = []
    for part in reversed(one.parts):
        gap = len(one.read) - len(found) - part.written.stop
        found = [*part.noted, *[float("nan")] * gap, *found]
    return found


def _joined(trace: Trace, row_end: RowEnd, parts: Sequence[tuple[Activations, int]]) -> Activations:
    """Return the rows of all passes of an episode; the first ones of each may be anchors."""
    first = parts[0][0]
    kept = [held.values[:, anchors:] for held, anchors in parts]
    spans = pooled_spans(trace, row_end)
    tokens = None
    if first.tokens is not None:
        reach = max(span.stop for span in spans) - spans[0].start
        every = [piece for held, anchors in parts for piece in _tokens(held, anchors)]
        tokens = np.concatenate(every, axis=1)[:, :reach]
    checks = [held.fidelity for held, _ in parts if held.fidelity is not None]
    worst = max(checks, key=_error, default=None)
    return Activations(
        np.concatenate(kept, axis=1), first.layers, spans, first.pooling, tokens, worst
    )


def _tokens(held: Activations, anchors: int) -> Iterator[NDArray[np.floating]]:
    """Yield (layer, token, d_model) of what the model wrote in each call of a pass."""
    assert held.tokens is not None
    start = held.spans[0].start
    for span in held.spans[:anchors]:
        yield held.tokens[:, span.start - start : span.stop - start]


def _error(fidelity: Fidelity) -> float:
    """Return how far off a reading was; one that holds nan is the worst."""
    return fidelity.error if fidelity.error == fidelity.error else float("inf")
