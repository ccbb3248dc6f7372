"""The turns of an agent, for the reader: what stands between its sentences, call by call.

A step is ``[sentence, kind, title, text, violating]``: it is drawn before the sentence with that
index, or after the last one. Its kind is ``turn`` (a model call begins), ``call`` (of a tool) or
``result``. All texts have been made visible.
"""

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

from trace_probe.episode import steps
from trace_probe.labels import Label
from trace_probe.trace import ToolResult, Trace
from trace_probe.visible import visible

LONGEST = 20_000
"""Characters of a call or a result that are sent to the browser."""


def violating_call(trace: Trace, label: Label | None) -> int | None:
    """Return the index of the tool call that is the instrumental act, None if none is."""
    if label is None or label.acted is None or label.outcome is False:
        return None
    starts = [call.span.start for call in trace.actions]
    return starts.index(label.acted.start) if label.acted.start in starts else None


def sentence_before(trace: Trace, token: int) -> int | None:
    """Return the last sentence that ends before a token, None if there is none."""
    place = bisect_left([span.start for span in trace.sentences], token) - 1
    return place if place >= 0 else None


def turns(trace: Trace, label: Label | None) -> dict[str, Any]:
    """Return what the reader draws of an agent's turns; nothing for a trace without any."""
    if not trace.calls and not trace.actions:
        return {}
    starts = [start for start, _ in steps(trace)]
    return {"steps": list(_steps(trace, violating_call(trace, label))), "turns": starts}


def _steps(trace: Trace, violating: int | None) -> Iterator[list[Any]]:
    places = [span.start for span in trace.sentences]
    numbered = list(enumerate(trace.actions))
    for turn, (start, stop) in enumerate(steps(trace)):
        if trace.calls:
            agent = trace.calls[turn].agent
            title = f"Turn {turn + 1}" + (f" \u00b7 {agent}" if agent else "")
            yield [bisect_left(places, start), "turn", visible(title), "", False]
        for number, call in numbered:
            if start <= call.span.start < stop:
                title = f"Call {number + 1} \u00b7 {call.name or 'cannot be read'}"
                text = call.arguments if call.name else trace.text_of(call.span)
                here = bisect_left(places, call.span.start)
                yield [here, "call", visible(title), _shown(text), number == violating]
        for result in trace.calls[turn].results if trace.calls else ():
            yield [
                bisect_left(places, stop),
                "result",
                visible(_came(result)),
                _text(result),
                False,
            ]


def _came(result: ToolResult) -> str:
    of = f" of {result.name}" if result.name else ""
    return f"Result{of}" + (" \u00b7 error" if result.error else "")


def _text(result: ToolResult) -> str:
    return _shown("\n".join(filter(None, (result.error, result.content))))


def _shown(text: str) -> str:
    left = len(text) - LONGEST
    return visible(text[:LONGEST]) + (f"\n\u2026 {left:,} characters more" if left > 0 else "")
