"""What an agent did, as a judge reads it: its turns with tool calls, results and answers.

Each text stands between two marker lines that it cannot itself contain, so that neither the agent
nor a tool can pass for the other.
"""

from collections.abc import Iterator

from trace_probe.episode import steps
from trace_probe.trace import Span, ToolResult, Trace, digest

LONGEST_RESULT = 8000
"""Characters of one tool result that are shown."""


def has_conduct(trace: Trace) -> bool:
    """Return whether a trace has more to judge than an answer: several turns, or tool calls."""
    return bool(trace.calls or trace.actions)


def conduct(trace: Trace) -> str:
    """Return tool calls, numbered from 1, with results and answers, turn by turn."""
    return "\n\n".join(
        part
        for turn, (start, stop) in enumerate(steps(trace), start=1)
        for part in (*_done(trace, turn, start, stop), *_results(trace, turn))
    )


def thoughts(trace: Trace) -> str:
    """Return the reasoning, turn by turn."""
    found = []
    for turn, (start, stop) in enumerate(steps(trace), start=1):
        spans = [span for span in trace.channel("reasoning") if start <= span.start < stop]
        text = "".join(trace.text_of(span) for span in spans)
        if text.strip():
            found.append(f"Turn {turn}:\n{fenced(text)}")
    return "\n\n".join(found)


def _done(trace: Trace, turn: int, start: int, stop: int) -> Iterator[str]:
    """Yield the answers and calls of one turn in order."""
    spans = [(span, 0) for span in trace.channel("answer")]
    spans += [(call.span, number) for number, call in enumerate(trace.actions, start=1)]
    for span, number in sorted(spans):
        if start <= span.start < stop and trace.text_of(span).strip():
            yield f"Turn {turn}, {_head(trace, span, number)}"


def _head(trace: Trace, span: Span, number: int) -> str:
    if not number:
        return f"it writes:\n{fenced(trace.text_of(span))}"
    call = trace.actions[number - 1]
    if not call.name:
        return f"call {number}, which cannot be read:\n{fenced(trace.text_of(span))}"
    return f"call {number}, of a tool with arguments:\n{fenced(f'{call.name} {call.arguments}')}"


def _results(trace: Trace, turn: int) -> Iterator[str]:
    """Yield what came back from the calls of one turn."""
    for result in trace.calls[turn - 1].results if trace.calls else ():
        yield f"Turn {turn}, {_came_back(result)}"


def _came_back(result: ToolResult) -> str:
    text = result.content
    if result.error:
        text = f"error: {result.error}\n{text}"
    left = len(text) - LONGEST_RESULT
    cut = f" (its first {LONGEST_RESULT} of {len(text)} characters)" if left > 0 else ""
    return f"a tool gave back{cut}:\n{fenced(text[:LONGEST_RESULT])}"


def fenced(text: str) -> str:
    """Return a text between marker lines that it cannot itself contain."""
    mark = f"--- {digest(text)} ---"
    return f"{mark}\n{text}\n{mark}"
