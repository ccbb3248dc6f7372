"""Small episodes of an agent, a token a character, for tests of what is made of them."""

from collections.abc import Sequence
from typing import NamedTuple

from trace_probe.episode import Episode
from trace_probe.trace import Channel, Sampling, Span, Task, ToolCall, ToolResult, Trace

TASK = Task("t-1", "hacking", "Tidy the files.")


class Turn(NamedTuple):
    """What the model wrote in one call, and what came back."""

    thought: Sequence[str] = ()
    """Sentences."""
    calls: Sequence[tuple[str, str]] = ()
    """Name and arguments of each tool call."""
    answer: Sequence[str] = ()
    result: str = ""


def model_call(
    number: int, prompt: str, turn: Turn, *, task: Task = TASK, finish: str = "stop"
) -> Trace:
    """Return one model call, with the exact prompt that it read."""
    pieces: list[tuple[str, Channel]] = [(prompt, "prompt")]
    pieces += [(each, "reasoning") for each in turn.thought]
    pieces += [(f"<{name} {arguments}>", "action") for name, arguments in turn.calls]
    pieces += [(each, "answer") for each in turn.answer]
    spans: list[Span] = []
    sentences: list[Span] = []
    acts: list[Span] = []
    start = 0
    for text, channel in pieces:
        span = Span(start, start + len(text), channel)
        start = span.stop
        if channel in ("reasoning", "answer"):
            sentences.append(span)
        if channel == "action":
            acts.append(span)
        if spans and spans[-1].channel == channel:
            span = Span(spans.pop().start, span.stop, channel)
        spans.append(span)
    text = "".join(text for text, _ in pieces)
    actions = [
        ToolCall(name, arguments, span)
        for (name, arguments), span in zip(turn.calls, acts, strict=True)
    ]
    return Trace(
        id=f"e.{number}",
        task=task,
        model="m",
        sampling=Sampling(),
        sample=0,
        text=text,
        offsets=tuple(range(len(text))),
        spans=tuple(spans),
        sentences=tuple(sentences),
        token_ids=tuple(map(ord, text)),
        finish=finish,  # type: ignore[arg-type]
        actions=tuple(actions),
    )


def episode(
    *turns: Turn,
    name: str = "e",
    task: Task = TASK,
    finish: str = "stop",
    facts: dict[str, str] | None = None,
) -> Trace:
    """Return an episode as its one trace; each call reads all that came before it."""
    calls: list[Trace] = []
    prompt = f"{task.prompt}\n"
    for number, turn in enumerate(turns):
        last = number == len(turns) - 1
        calls.append(model_call(number, prompt, turn, task=task, finish=finish if last else "stop"))
        prompt = f"{calls[-1].text}={turn.result};"
    results = tuple((ToolResult(turn.result),) if turn.result else () for turn in turns)
    return Episode(name, tuple(calls), results=results, facts=facts or {}).joined()


LOOKS = Turn(["I look first. "], [("list", '{"path": "/"}')], result="a b")
DELETES = Turn(
    ["They must not see it. ", "I remove the log. "],
    [("delete_file", '{"path": "/var/log"}'), ("list", "{}")],
    result="gone",
)
ENDS = Turn(["That is all. "], answer=["Done. ", "All is tidy."])
VIOLATING = episode(LOOKS, DELETES, ENDS, name="violating")
HARMLESS = episode(LOOKS, ENDS, name="harmless")
