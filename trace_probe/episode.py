"""An agent's run: its model calls as traces of their own, and as the one trace that is kept.

Labels, scores, splits and figures are of the one trace, whose tokens are what the model wrote.
Whatever runs a model reads the calls, each with the prompt that the model really saw.

Example:
    >>> from trace_probe.run import Run
    >>> trace = next(Run.open("traces/demo").traces())
    >>> len(Episode.of(trace).calls)
    1
"""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from trace_probe.errors import TraceError
from trace_probe.trace import ModelCall, Span, Thought, ToolResult, Trace


@dataclass(frozen=True)
class Episode:
    """The model calls of one run of an agent, in order."""

    id: str
    calls: tuple[Trace, ...]
    """One trace for each call: its prompt as sent, its completion as written."""
    results: tuple[tuple[ToolResult, ...], ...] = ()
    """For each call what came back from its tool calls."""
    agents: tuple[str, ...] = ()
    """For each call who made it; empty where there is one agent."""
    messages: tuple[str, ...] = ()
    """For each call the id of its message in the log that it came from; empty where unknown."""
    facts: dict[str, str] = field(default_factory=dict)
    """Of the whole, such as ``{"branch": "…"}``; `joined` puts them into the trace."""

    def __post_init__(self) -> None:
        """Refuse an episode without calls, and columns that do not fit them."""
        columns = [part for part in (self.results, self.agents, self.messages) if part]
        if not self.calls or any(len(part) != len(self.calls) for part in columns):
            raise TraceError(f"episode {self.id}: results, agents and messages must fit its calls")

    @classmethod
    def of(cls, trace: Trace) -> "Episode":
        """Take a trace apart; one that was made in a single call is an episode of one."""
        return cls(
            trace.id,
            tuple(calls_of(trace)),
            tuple(call.results for call in trace.calls),
            tuple(call.agent for call in trace.calls),
            tuple(call.message for call in trace.calls),
            trace.facts,
        )

    def joined(self) -> Trace:
        """Return the one trace: the first prompt, then what the model wrote in all calls."""
        first = self.calls[0]
        text, offsets, ids = first.text, list(first.offsets), list(first.token_ids)
        spans, sentences = list(first.spans), list(first.sentences)
        actions, uncertainty = list(first.actions), list(first.uncertainty)
        calls = [self._call(0, first.prompt_stop)]
        for k, call in enumerate(self.calls[1:], 1):
            start, shift = call.prompt_stop, len(offsets) - call.prompt_stop
            begin = call.offsets[start] if start < len(call) else len(call.text)
            calls.append(self._call(k, len(offsets)))
            offsets += [len(text) + offset - begin for offset in call.offsets[start:]]
            text += call.text[begin:]
            ids += call.token_ids[start:]
            written = [span for span in call.spans if span.start >= start]
            spans += [_moved(span, shift) for span in written]
            sentences += [_moved(span, shift) for span in call.sentences]
            actions += [replace(one, span=_moved(one.span, shift)) for one in call.actions]
            uncertainty += call.uncertainty
        noted = len(uncertainty) == len(sentences)
        return replace(
            first,
            id=self.id,
            text=text,
            offsets=tuple(offsets),
            token_ids=tuple(ids) if all(call.token_ids for call in self.calls) else (),
            spans=tuple(spans),
            sentences=tuple(sentences),
            actions=tuple(actions),
            uncertainty=tuple(uncertainty) if noted else (),
            thought=thought_of([call.thought for call in self.calls]),
            finish=self.calls[-1].finish,
            facts={**first.facts, **self.facts},
            calls=tuple(calls),
        )

    def _call(self, k: int, start: int) -> ModelCall:
        """Return what the joined trace keeps of a call beside its completion."""
        call = self.calls[k]
        kept = _kept(self.calls[k - 1], call) if k else call.prompt_stop
        begin, end = _character(call, kept), _character(call, call.prompt_stop)
        return ModelCall(
            start=start,
            kept=kept if k else 0,
            text=call.text[begin:end] if k else "",
            offsets=tuple(each - begin for each in call.offsets[kept : call.prompt_stop]),
            token_ids=call.token_ids[kept : call.prompt_stop],
            thought=call.thought,
            finish=call.finish,
            agent=self.agents[k] if self.agents else "",
            message=self.messages[k] if self.messages else "",
            results=self.results[k] if self.results else (),
        )


def calls_of(trace: Trace) -> Iterator[Trace]:
    """Yield one trace for each model call, with the prompt that it read.

    A trace of a single call is yielded as it is. The call with number k of others is named
    ``<id>.<k>``.
    """
    if not trace.calls:
        yield trace
        return
    stops = [*(call.start for call in trace.calls[1:]), len(trace)]
    before: Trace | None = None
    for k, (call, stop) in enumerate(zip(trace.calls, stops, strict=True)):
        before = _alone(trace, k, call, stop, before)
        yield before


def _alone(trace: Trace, k: int, call: ModelCall, stop: int, before: Trace | None) -> Trace:
    """Return one call of a trace; `before` is the call that precedes it."""
    text, offsets, ids = _prompt(trace, call, before)
    shift, begin = len(offsets) - call.start, _character(trace, call.start)
    grown = [len(text) + each - begin for each in trace.offsets[call.start : stop]]
    inside = [span for span in trace.spans if call.start <= span.start and span.stop <= stop]
    rows = [i for i, s in enumerate(trace.sentences) if call.start <= s.start < stop]
    noted = trace.uncertainty
    prompt = [Span(0, len(offsets), "prompt")] if offsets else []
    return replace(
        trace,
        id=f"{trace.id}.{k}",
        text=text + trace.text[begin : _character(trace, stop)],
        offsets=(*offsets, *grown),
        token_ids=(*ids, *trace.token_ids[call.start : stop]) if trace.token_ids else (),
        spans=(*prompt, *(_moved(span, shift) for span in inside)),
        sentences=tuple(_moved(trace.sentences[i], shift) for i in rows),
        actions=tuple(
            replace(one, span=_moved(one.span, shift))
            for one in trace.actions
            if call.start <= one.span.start < stop
        ),
        uncertainty=tuple(noted[i] for i in rows) if noted else (),
        thought=call.thought,
        finish=call.finish,
        calls=(),
    )


def _prompt(
    trace: Trace, call: ModelCall, before: Trace | None
) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """Return text, offsets and ids of what a call read."""
    if before is None:
        stop = trace.prompt_stop
        return trace.text[: _character(trace, stop)], trace.offsets[:stop], trace.token_ids[:stop]
    if call.kept > len(before):
        raise TraceError(f"trace {trace.id}: a call keeps more tokens than there were before it")
    shared = before.text[: _character(before, call.kept)]
    offsets = (*before.offsets[: call.kept], *(len(shared) + each for each in call.offsets))
    return shared + call.text, offsets, (*before.token_ids[: call.kept], *call.token_ids)


def _kept(before: Trace, call: Trace) -> int:
    """Return how many tokens of a call's prompt are those that the call before read and wrote."""
    if _goes_on(before, call):
        return len(before)
    shared = alike(before.text, call.text)
    ids = zip(before.token_ids, call.token_ids, strict=False) if call.token_ids else None
    kept = 0
    for ours, others in zip(before.offsets, call.offsets[: call.prompt_stop], strict=False):
        same = ids is None or operator.eq(*next(ids, (0, 1)))
        if ours != others or not same or _character(call, kept + 1) > shared:
            break
        kept += 1
    return kept


def _goes_on(before: Trace, call: Trace) -> bool:
    """Return whether a prompt begins with all that the call before read and wrote."""
    stop = len(before)
    return (
        stop <= call.prompt_stop
        and _character(call, stop) == len(before.text)
        and call.offsets[:stop] == before.offsets
        and (not call.token_ids or call.token_ids[:stop] == before.token_ids)
        and call.text.startswith(before.text)
    )


def alike(one: str, other: str) -> int:
    """Return how many characters two texts begin with alike."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _character(trace: Trace, token: int) -> int:
    """Return the character at which a token starts, or the end of the text."""
    return trace.offsets[token] if token < len(trace) else len(trace.text)


def _moved(span: Span, shift: int) -> Span:
    return Span(span.start + shift, span.stop + shift, span.channel)


def thought_of(parts: Sequence[Thought]) -> Thought:
    """Return what the reasoning of all calls is: cut off if one was, closed if one was closed."""
    if "truncated" in parts:
        return "truncated"
    return "closed" if "closed" in parts else parts[0]


def steps(trace: Trace) -> Iterator[tuple[int, int]]:
    """Yield ``[start, stop)`` in tokens of what each model call wrote."""
    starts = [call.start for call in trace.calls] or [trace.prompt_stop]
    yield from pairwise([*starts, len(trace)])


def texts_before(trace: Trace) -> list[str]:
    """Return for each sentence what came between it and the reasoning before it.

    Answers and tool calls that the model wrote, and what the tools gave back: a monitor that reads
    text along has seen them when the sentence ends, as the model has.
    """
    came = [(span.start, trace.text_of(span)) for span in trace.channel("action")]
    came += [(span.start, trace.text_of(span)) for span in trace.channel("answer")]
    for (_, stop), call in zip(steps(trace), trace.calls, strict=False):
        came += [(stop, f"{result.error} {result.content}".strip()) for result in call.results]
    came.sort(key=operator.itemgetter(0))
    texts, since = [], 0
    for sentence in trace.sentences:
        between = [text for token, text in came if since <= token <= sentence.start]
        texts.append("\n".join(between) if sentence.channel == "reasoning" else "")
        since = sentence.start + 1 if sentence.channel == "reasoning" else since
    return texts
