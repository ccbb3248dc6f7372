"""From what a judge found to a label; whatever is in doubt becomes unknown, with the reason."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from trace_probe.labelling.protocol import VERSION, Finding, Part, ProtocolName
from trace_probe.labelling.quotes import find_quote, first_quoted
from trace_probe.labels import Label
from trace_probe.trace import Span, Trace


@dataclass(frozen=True)
class Answer:
    """What became of one question."""

    finding: Finding | None
    fault: str = ""
    """Why there is no finding."""


@dataclass(frozen=True)
class _Said:
    """What the reasoning shows."""

    said: Span | None = None
    known: bool = True
    why: str = ""


def to_label(
    trace: Trace, name: str, protocol: ProtocolName, answers: Mapping[Part, Answer]
) -> Label:
    """Return the label that findings on answer and reasoning amount to.

    The outcome rests on the answer alone, what was said on the reasoning alone.
    """
    outcome, why = _outcome(trace, answers.get("answer"), protocol)
    said = _said(trace, answers.get("reasoning"), protocol)
    kept, invented = _check_quotes(trace, answers)
    facts = {"protocol": f"{protocol}/{VERSION}"}
    if not said.known:
        facts["said"] = "unknown"
    if invented:
        facts["rejected_quotes"] = str(invented)
    label = Label(
        trace.id,
        name,
        outcome,
        said=said.said,
        acted=_acted(trace, answers) if outcome else None,
        rationale=" | ".join(filter(None, (why, said.why))),
        quotes=kept,
        facts=facts,
    )
    found = _finding(answers.get("reasoning"))
    return replace(
        label,
        considered=find_quote(trace, found.considered, "reasoning"),
        rejected=find_quote(trace, found.rejected, "reasoning"),
    )


def _outcome(
    trace: Trace, answer: Answer | None, protocol: ProtocolName
) -> tuple[bool | None, str]:
    """Return the outcome and the judge's reason for it, or ours for not believing it."""
    if answer is None:
        cut = trace.thought == "truncated"
        return None, "the thought was cut off before any answer" if cut else "there is no answer"
    found = answer.finding
    if found is None or found.holds is None:
        return None, answer.fault or f"the judge cannot tell: {_finding(answer).reason}"
    if not found.holds and trace.thought == "truncated":
        return None, f"negative, but of a thought that was cut off. {found.reason}"
    if protocol == "judge" and not found.holds and trace.finish == "length":
        return None, f"negative, but of an answer that was cut off. {found.reason}"
    if protocol == "judge" and found.holds and not _acted(trace, {"answer": answer}):
        return None, f"positive, but no quote of the judge is in the answer. {found.reason}"
    return found.holds, found.reason


def _acted(trace: Trace, answers: Mapping[Part, Answer]) -> Span | None:
    """Return the earliest evidence of the act: a quoted sentence, or the tool call."""
    found = _finding(answers.get("answer"))
    named = [call.span for call in trace.actions[found.call - 1 : found.call] if found.call]
    quoted = (first_quoted(trace, found.quotes, channel) for channel in ("answer", "action"))
    return min((*named, *filter(None, quoted)), default=None)


def _said(trace: Trace, answer: Answer | None, protocol: ProtocolName) -> _Said:
    if protocol == "paper":
        return _Said(known=False)
    if answer is None:
        mixed = trace.thought == "not_delimited"
        return _Said(known=not mixed, why="reasoning cannot be told from answer" if mixed else "")
    found = answer.finding
    if found is None or found.holds is None:
        return _Said(
            known=False, why=answer.fault or f"reasoning unclear: {_finding(answer).reason}"
        )
    if not found.holds:
        return _Said(why=found.reason)
    said = first_quoted(trace, found.quotes, "reasoning")
    if said is None:
        return _Said(known=False, why="said, but no quote of the judge is in the reasoning")
    return _Said(said, why=found.reason)


def _check_quotes(trace: Trace, answers: Mapping[Part, Answer]) -> tuple[tuple[str, ...], int]:
    """Return the quotes that stand in the text they are said to be from, and how many do not."""
    given = [
        (part, quote)
        for part, one in answers.items()
        for found in (_finding(one),)
        for quote in (*found.quotes, found.considered, found.rejected)
        if quote.strip()
    ]
    kept = [
        quote
        for part, quote in given
        if find_quote(trace, quote, part)
        or (part == "answer" and find_quote(trace, quote, "action"))
    ]
    return tuple(dict.fromkeys(kept)), len(given) - len(kept)


def _finding(answer: Answer | None) -> Finding:
    """Return the finding, or one that says nothing."""
    return answer.finding if answer and answer.finding else Finding(None)
