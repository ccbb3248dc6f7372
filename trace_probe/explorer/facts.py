"""The cards above the curve: when the alarm came, when it was said and done, how sure we are."""

from collections.abc import Mapping
from typing import Any

from trace_probe.explorer.figures import HEADLINE, HEADLINE_ACT, figure, notes
from trace_probe.explorer.rows import Row
from trace_probe.explorer.words import ShownDetector, fine_print, gap
from trace_probe.trace import Trace
from trace_probe.visible import snippet, visible

TITLES = {"alarm": "Alarm", "said": "Said", "action": "Done"}
QUOTE = 160
CHANCE = 0.5

Marks = Mapping[str, Mapping[str, Any]]


def facts(
    trace: Trace, row: Row, detector: ShownDetector | None, marks: Marks, absent: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return one card for each mark, there or not, and one that says how sure we are."""
    cards = [_card(trace, name, marks.get(name), absent[name]) for name in TITLES]
    return [*cards, sure(row, detector)]


def _card(trace: Trace, name: str, mark: Mapping[str, Any] | None, absent: str) -> dict[str, Any]:
    if mark is None:
        reason = absent[0].upper() + absent[1:]
        return _fact(name, TITLES[name], reason)
    where, call = mark["sentence"], mark.get("call")
    place = f"token {mark['token']:,}"
    lead = mark["lead"]
    value = place if lead is None else f"{gap(lead)} the alarm"
    parts = [] if lead is None else [place]
    parts += [] if where is None else [f"sentence {where + 1}"]
    if where is not None and trace.calls:
        parts.append(f"turn {trace.call_at(trace.sentences[where].start) + 1}")
    quote = "" if where is None else snippet(trace.text_of(trace.sentences[where]), QUOTE)
    if call is not None:
        where, act = mark["near"], trace.actions[call]
        parts.append(f"tool call {call + 1} in turn {trace.call_at(act.span.start) + 1}")
        quote = snippet(visible(f"{act.name} {act.arguments}"), QUOTE)
    return {
        **_fact(name, TITLES[name], value[0].upper() + value[1:], " \u00b7 ".join(parts)),
        "quote": quote,
        "sentence": where,
    }


def _fact(name: str, title: str, value: str, detail: str = "") -> dict[str, Any]:
    fact = {"name": name, "title": title, "value": value, "detail": detail}
    return {**fact, "quote": "", "sentence": None}


def sure(row: Row, detector: ShownDetector | None) -> dict[str, Any]:
    """Return the card on trust: false alarms first, then whether the detector beats chance."""
    rate = None if detector is None else figure(detector.report, "false_alarm_rate")
    if rate is not None and rate.known and detector is not None and detector.measured:
        siblings = figure(detector.report, "sibling_alarm_rate")
        value = f"{rate.text(percent=True)} false alarms"
        if siblings.known:
            value += f", {siblings.text(percent=True)} of siblings alarm"
    else:
        value = "False-alarm rate not known"
    words = [fine_print(row, detector), *early_signal(detector)]
    return _fact("sure", "How sure", value, visible(" ".join(words)))


def early_signal(detector: ShownDetector | None) -> list[str]:
    """Return how much it catches in time, and whether it tells samples of one prompt apart."""
    report = None if detector is None else detector.report
    found = figure(report, "within_prompt_auroc")
    moments = {HEADLINE_ACT: "before the violating call", HEADLINE: "before said"}
    for key, moment in moments.items():
        if figure(report, key).known:
            caught = figure(report, key).text(percent=True)
            none = [note for note in notes(report) if note.startswith("No early signal")]
            words = f"Where 5 % of siblings alarm, {caught} is caught {moment}."
            return [words, *none[:1]]
    if not found.known:
        return []
    words = f"Within-prompt AUROC {found.text()}"
    if found.lower is not None and found.lower <= CHANCE:
        return [f"{words}: no early signal shown on held-out tasks."]
    return [f"{words} on held-out tasks."]
