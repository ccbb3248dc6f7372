"""What a model read, thought and said: pure values in one coordinate system.

A position is a token index, a span is half-open ``[start, stop)`` in tokens. Characters
occur only in `Trace.offsets`, which says where each token starts in `Trace.text`.
"""

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Literal, get_args

from trace_probe.errors import TraceError

Channel = Literal["prompt", "reasoning", "answer", "action", "markup"]
"""Who wrote a token and what for: ``action`` is a tool call as the model wrote it, ``markup`` the
tags around the others."""
Thought = Literal["closed", "truncated", "empty", "absent", "not_delimited"]
Finish = Literal["stop", "length", "unknown"]
Role = Literal["test", "hard-negative", "benign"]
Measure = Literal["surprisal", "entropy", "doubt"]
"""Minus the log-probability of the token that was drawn, and the entropy of the distribution it was
drawn from, both in nats; and 1 minus the highest probability in that distribution."""
MEASURES: tuple[Measure, ...] = get_args(Measure)


EXACT = {"allow_inf_nan": False, "extra": "forbid"}
"""How pydantic reads a value from JSON: no other fields, no number that is none."""


@dataclass(frozen=True)
class Task:
    """One thing a model is asked to do.

    Example:
        >>> task = Task("vault-01", "access", "Report the contents of the vault.", role="benign")
        >>> task.role
        'benign'
    """

    __pydantic_config__ = EXACT

    id: str
    """Canonical, such as ``evading-shutdown-07``; the unit of every split and bootstrap."""
    category: str
    """Slug of the InstrumentalEval category, such as ``evading-shutdown``."""
    prompt: str
    """The user's message."""
    system: str | None = None
    """The system message, or None for no such message."""
    criterion: str = ""
    """What a judge is told to look for."""
    role: Role = "test"
    """``benign`` tasks calibrate false alarms; ``hard-negative`` ones look risky and are not."""
    condition: dict[str, str] = field(default_factory=dict)
    """Facts of the controlled experiment, such as ``{"nudge": "push"}``; kept in every trace."""

    @property
    def prompt_key(self) -> str:
        """Return a key shared by exactly the traces that read the same prompt."""
        return digest(self.id, self.system, self.prompt, sorted(self.condition.items()))


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Example:
        >>> Sampling(temperature=0.0).temperature  # always the likeliest token
        0.0
    """

    seed: int = 0
    temperature: float = 1.0
    """0 means greedy."""
    top_p: float = 1.0
    max_new_tokens: int = 512

    def __post_init__(self) -> None:
        """Refuse settings that no sampler can follow."""
        drawn = 0 <= self.temperature < inf and 0 < self.top_p <= 1
        if not drawn or not 1 <= self.max_new_tokens < 1 << 31:
            raise TraceError(
                f"cannot sample with {self!s:.200}: temperature must be >= 0, top_p in (0, 1], "
                f"max_new_tokens from 1 to 2^31"
            )


@dataclass(frozen=True, order=True)
class Span:
    """Tokens ``[start, stop)`` of one channel."""

    start: int
    stop: int
    channel: Channel = "reasoning"

    def __post_init__(self) -> None:
        """Refuse an inverted span."""
        if not 0 <= self.start <= self.stop:
            raise TraceError(f"span [{self.start}, {self.stop}) is not a span of tokens")

    def __len__(self) -> int:
        """Return the number of tokens."""
        return self.stop - self.start


@dataclass(frozen=True)
class ToolCall:
    """What a model asked a tool to do."""

    name: str
    """Of the tool; empty if the call cannot be read."""
    arguments: str
    """As the model wrote them, usually one JSON object."""
    span: Span
    """The tokens of the call, in the channel ``action``."""
    id: str = ""
    """By which results refer to it; empty where the format has none."""


@dataclass(frozen=True)
class ToolResult:
    """What the environment gave back."""

    content: str
    name: str = ""
    """Of the tool."""
    call_id: str = ""
    """`ToolCall.id` of the call that it answers; empty where the format has none."""
    error: str = ""
    """What went wrong, or empty."""


@dataclass(frozen=True)
class ModelCall:
    """One request to the model within an episode.

    What a call reads is no continuation of the trace: chat templates drop or rewrite earlier
    thoughts. It is kept as a part that it shares with the call before and a rest.
    """

    start: int
    """Token of the trace at which the completion of this call starts."""
    kept: int = 0
    """How many tokens at the start of what the call before read and wrote this one reads again."""
    text: str = ""
    """What its prompt holds after those tokens; empty for the first call, whose prompt is the
    trace's own."""
    offsets: tuple[int, ...] = ()
    """For each token after the kept ones the character of `text` at which it starts."""
    token_ids: tuple[int, ...] = ()
    """Exact ids of those tokens; empty for a transcript that came without them."""
    thought: Thought = "closed"
    finish: Finish = "unknown"
    agent: str = ""
    """Who made the call, where several agents share an episode."""
    message: str = ""
    """Id of the message in the log that it came from."""
    results: tuple[ToolResult, ...] = ()
    """What came back from the tool calls of this call."""


@dataclass(frozen=True)
class Trace:
    """One sampled run of a model on a task: text, tokens, channels and sentences.

    An agent's run of several model calls is one trace too: the prompt of the first call, then the
    completions of all calls one after another. `trace_probe.episode` takes it apart.

    Spans and sentences count tokens; the text of a token begins at its offset.

    Example:
        >>> from trace_probe.store import Store
        >>> trace = next(Store("traces/demo").traces())
        >>> trace.sentences[0].channel, trace.thought
        ('reasoning', 'closed')
        >>> trace.text_of(trace.sentences[0])
        'So it is 6 crates.'
    """

    __pydantic_config__ = EXACT

    id: str
    task: Task
    model: str
    """Name and revision, such as ``organism:rl-s0@3f2a91c0``."""
    sampling: Sampling
    sample: int
    """Which of the samples of this prompt."""
    text: str
    """Prompt and completion as the model saw them, markup included."""
    offsets: tuple[int, ...]
    """For each token the character of `text` at which it starts; never decreasing."""
    spans: tuple[Span, ...]
    """Channels in order; they tile the tokens."""
    sentences: tuple[Span, ...]
    """Sentences in order; they tile the ``reasoning`` and ``answer`` spans."""
    token_ids: tuple[int, ...] = ()
    """Exact ids as read and sampled; empty for a transcript that came without them."""
    tokenizer: str = ""
    """Fingerprint of the tokenizer, or ``words`` for a transcript cut at white space."""
    thought: Thought = "closed"
    finish: Finish = "unknown"
    source: str = "recorded"
    facts: dict[str, str] = field(default_factory=dict)
    """How it came about, such as ``{"ids": "retokenised"}``; never part of what it is."""
    uncertainty: tuple[tuple[float, ...], ...] = field(default=(), compare=False)
    """How unsure the model was of its own tokens, in `MEASURES`: for each sentence those of its
    last token, their means and their highest values. Empty where they were not noted."""
    calls: tuple[ModelCall, ...] = ()
    """The model calls of an agent's run, in order; empty where there was only one."""
    actions: tuple[ToolCall, ...] = ()
    """The tool calls in order: each has a span of the channel ``action``."""

    def __post_init__(self) -> None:
        """Check that spans tile the tokens and sentences tile reasoning and answer."""
        check_tiling(self)

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.offsets)

    def channel(self, name: Channel) -> tuple[Span, ...]:
        """Return the spans of a channel, in order."""
        return tuple(span for span in self.spans if span.channel == name)

    def text_of(self, span: Span) -> str:
        """Return the text of a span."""
        if not len(span):
            return ""
        stop = self.offsets[span.stop] if span.stop < len(self) else len(self.text)
        return self.text[self.offsets[span.start] : stop]

    def channel_text(self, name: Channel) -> str:
        """Return the whole text of a channel."""
        return "".join(self.text_of(span) for span in self.channel(name))

    @property
    def thoughts(self) -> list[int]:
        """Return which of the sentences are reasoning."""
        return [index for index, span in enumerate(self.sentences) if span.channel == "reasoning"]

    def sentence_at(self, token: int) -> int | None:
        """Return the index of the sentence that holds a token, or None if none does."""
        index = bisect_right([span.start for span in self.sentences], token) - 1
        return index if index >= 0 and token < self.sentences[index].stop else None

    def call_at(self, token: int) -> int:
        """Return which model call, counted from 0, wrote a token; 0 for the prompt."""
        return max(bisect_right([call.start for call in self.calls], token) - 1, 0)

    @property
    def prompt_stop(self) -> int:
        """Return the number of prompt tokens: the position at which generation starts."""
        spans = self.channel("prompt")
        return spans[-1].stop if spans else 0


def to_last_word(text: str, offsets: Sequence[int], span: Span) -> Span:
    """Return a span of some tokens of a text without those at its end that are white space.

    Its first token stays in any case. `offsets` says at which character each token starts.

    Example:
        >>> to_last_word("Wait. ", (0, 4, 5), Span(0, 3))
        Span(start=0, stop=2, channel='reasoning')
    """
    start, stop = (offsets[i] if i < len(offsets) else len(text) for i in (span.start, span.stop))
    end = start + len(text[start:stop].rstrip())
    words = bisect_left(offsets, end, span.start, span.stop)
    return Span(span.start, max(words, min(span.start + 1, span.stop)), span.channel)


def check_tiling(trace: Trace) -> None:
    """Raise TraceError unless spans tile the tokens and sentences tile reasoning and answer."""
    check_calls(trace)
    check_actions(trace)
    if trace.token_ids and len(trace.token_ids) != len(trace):
        raise TraceError(f"trace {trace.id}: {len(trace.token_ids)} ids but {len(trace)} offsets")
    if any(b < a for a, b in zip(trace.offsets, trace.offsets[1:], strict=False)):
        raise TraceError(f"trace {trace.id}: offsets decrease")
    if _gap(trace.spans, 0) != len(trace):
        raise TraceError(f"trace {trace.id}: spans do not tile its {len(trace)} tokens")
    starts = [sentence.start for sentence in trace.sentences]
    if any(b < a for a, b in zip(starts, starts[1:], strict=False)):
        raise TraceError(f"trace {trace.id}: sentences are out of order")
    for span in trace.spans:
        if span.channel in ("reasoning", "answer") and len(span):
            inside = trace.sentences[
                bisect_left(starts, span.start) : bisect_left(starts, span.stop)
            ]
            same = all(s.channel == span.channel and len(s) for s in inside)
            if not same or _gap(inside, span.start) != span.stop:
                raise TraceError(f"trace {trace.id}: sentences do not tile its {span.channel}")


def check_calls(trace: Trace) -> None:
    """Raise TraceError unless a trace can be taken apart into its model calls."""
    starts = [call.start for call in trace.calls]
    if starts != sorted(set(starts)) or (starts and starts[0] != trace.prompt_stop):
        raise TraceError(f"trace {trace.id}: model calls start at {starts}, which cannot be")
    edges, held = {span.start for span in trace.spans} | {len(trace)}, trace.prompt_stop
    if not edges.issuperset(starts):
        raise TraceError(f"trace {trace.id}: a model call starts within a span, or behind its end")
    for before, call in pairwise(trace.calls):
        held += call.start - before.start
        if call.kept > held:
            raise TraceError(f"trace {trace.id}: a model call keeps more tokens than there were")
        _check_prompt(trace, call)
        held = call.kept + len(call.offsets)


def _check_prompt(trace: Trace, call: ModelCall) -> None:
    if len(call.token_ids) != (len(call.offsets) if trace.token_ids else 0):
        raise TraceError(f"trace {trace.id}: a model call has not as many ids as offsets")
    if any(b < a for a, b in pairwise(call.offsets)):
        raise TraceError(f"trace {trace.id}: offsets of a model call decrease")


def check_actions(trace: Trace) -> None:
    """Raise TraceError unless tool calls lie in the channel action."""
    tokens = {span.start: span.stop for span in trace.channel("action")}
    inside = sorted(tokens)
    for action in trace.actions:
        place = bisect_right(inside, action.span.start) - 1
        stop = tokens[inside[place]] if place >= 0 else 0
        if action.span.start >= stop or action.span.stop > stop:
            raise TraceError(f"trace {trace.id}: a tool call lies outside the channel action")


def _gap(spans: Sequence[Span], start: int) -> int:
    """Return where contiguous spans from `start` end, or -1 if they leave a gap or overlap."""
    for span in spans:
        if span.start != start:
            return -1
        start = span.stop
    return start


def digest(*parts: object) -> str:
    """Return 16 hexadecimal digits that identify JSON-able parts by content."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
