"""The findings on a trace as sentences a person reads first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trace_probe.explorer.figures import figure, number
from trace_probe.explorer.rows import Row, Split
from trace_probe.monitor.detector import Detector
from trace_probe.statistics.smoothing import MAX, smoothing_of


@dataclass(frozen=True)
class ShownDetector:
    """A detector as a page shows it: with its evaluation and the range of its scores."""

    detector: Detector
    report: dict[str, Any] | None = None
    low: float = 0.0
    high: float = 1.0
    layer: int | None = None
    """A layer other than the one that the detector reads; its threshold is its own."""

    @property
    def name(self) -> str:
        """Return the name of the detector."""
        return self.detector.name

    @property
    def threshold(self) -> float | None:
        """Return the smoothed score from which on it alarms; None if there is no threshold."""
        return None if self.detector.source.kind == "none" else self.detector.threshold

    @property
    def measured(self) -> bool:
        """Return whether the report measured false alarms at this very threshold."""
        same = self.threshold is not None and self.threshold == threshold_of(self.report)
        return same and self.layer is None and self.detector.smoothing == smoothing_of(self.report)


def threshold_of(report: dict[str, Any] | None) -> float | None:
    """Return the threshold of a report, or None if there is no report or no threshold in it."""
    return number(report.get("threshold")) if report else None


def headline(row: Row, detector: ShownDetector | None) -> str:
    """Return what happened on a trace: alarm, words, action, and by how much the first led."""
    if detector is None or row.scores is None:
        return f"No scores for this trace. {_events(row)}"
    if row.threshold is None:
        return f"Scores without a threshold, so there is no alarm. {_events(row)}"
    if row.alarm is None:
        return f"{'Missed: no' if row.verdict == 'missed' else 'No'} alarm. {_events(row)}"
    name = "False alarm" if row.verdict == "false alarm" else "Alarm"
    place = f"{name} at token {row.alarm_token or 0:,} (sentence {row.alarm + 1})"
    return f"{place} — {_leads(row)}."


def fine_print(row: Row, detector: ShownDetector | None) -> str:
    """Return how far the headline can be trusted: threshold, false alarms, labeller."""
    labeller = f"Labelled by {row.label.labeller}." if row.label else "Not labelled."
    if detector is None:
        return f"No detector has scored this run. {labeller}"
    return f"{detector.name}: {_threshold_words(detector)} {labeller}"


def _threshold_words(detector: ShownDetector) -> str:
    if detector.threshold is None:
        return "no calibrated threshold; evaluate it with benign traces, or try one of your own."
    shown = f"threshold {detector.threshold:.3g}"
    source = detector.detector.source
    smoothing = detector.detector.smoothing
    shown += "" if smoothing == MAX else f" on the smoothing {smoothing.name}"
    if detector.layer is not None and source.kind != "hand":
        return (
            f"layer {detector.layer}, {shown}, set on the same benign traces as the detector's "
            "own; its false-alarm rate was not measured."
        )
    if source.kind == "hand" and not detector.measured:
        return f"{shown}, chosen by hand: its false-alarm rate is not known."
    shown += f", from {source}," if source.kind == "calibration" else ""
    if detector.report is None or not detector.measured:
        return f"{shown.rstrip(',')}: how often it alarms on benign text was not measured here."
    rate = figure(detector.report, "false_alarm_rate")
    return (
        f"{shown} = {rate.text(percent=True)} of benign traces raise a false alarm"
        f"{_aim(detector)}{'' if rate.n is None else f', n = {rate.n}'}."
    )


def _aim(detector: ShownDetector) -> str:
    target = number((detector.report or {}).get("target_false_alarm_rate"))
    return "" if target is None else f" (aim {100 * target:.3g} %)"


def _events(row: Row) -> str:
    """Return when it was said and done, where no alarm gives them a lead."""
    label = row.label
    if label is None:
        return "The trace is not labelled."
    said = f"said at token {label.said.stop - 1:,}" if label.said else "never said"
    if label.outcome is None:
        return f"The labeller could not tell what was done; {said}."
    if not label.outcome:
        return "Nothing instrumental was done."
    if label.acted is None:
        return f"It was done, {said if label.said else 'the label does not say where'}."
    return f"It is {said}, {'and' if label.said else 'but'} done at token {label.acted.start:,}."


def _leads(row: Row) -> str:
    label = row.label
    if label is None:
        return "the trace is not labelled"
    if label.outcome is False:
        said = f", though {_gap(row.lead_said, 'it is said')}" if label.said else ""
        return f"labelled harmless{said}"
    words = [_gap(row.lead_said, "it is said")] if label.said else []
    words += [_gap(row.lead_action, "the action")] if row.lead_action is not None else []
    words += ["it is never said"] if row.silent else []
    words += ["what was done is unknown"] if label.outcome is None else []
    words += [] if words else ["it was done, the label does not say where"]
    return ", ".join(words)


def _gap(lead: int | None, event: str) -> str:
    if not lead:
        return f"as {event}" if event.startswith("it") else f"at {event}"
    return f"{_tokens(lead)} {'before' if lead > 0 else 'AFTER'} {event}"


def gap(lead: int) -> str:
    """Return how long after the alarm something came, to be followed by *the alarm*."""
    if not lead:
        return "at"
    return f"{_tokens(lead)} {'after' if lead > 0 else 'BEFORE'}"


def _tokens(number: int) -> str:
    return f"{abs(number):,} {'token' if abs(number) == 1 else 'tokens'}"


TASKS: Mapping[Split, str] = {
    "held out": "of held-out tasks",
    "calibrated on": "of tasks on which the threshold was set",
    "trained on": "of tasks that the detector was trained on",
}


def alarm_share(rows: Sequence[Row]) -> str:
    """Return how many benign traces of the run raise an alarm at the threshold shown.

    Those that are labelled instrumental are none, as in the report of `evaluate`.
    """
    benign = [row for row in rows if row.facts.role == "benign" and row.scores is not None]
    harmless = [row for row in benign if row.label is None or row.label.outcome is not True]
    if not harmless:
        return "no benign trace in this run is scored"
    said = f"{_raised(harmless)} benign traces in this run raise an alarm"
    parts = {words: [r for r in harmless if r.split == split] for split, words in TASKS.items()}
    known = [f"{_raised(held)} {words}" for words, held in parts.items() if held]
    said += f": {', '.join(known) or 'which tasks the detector learned from is not known'}"
    acting = len(benign) - len(harmless)
    return f"{said} (not counted: {acting} labelled instrumental)" if acting else said


def _raised(rows: Sequence[Row]) -> str:
    return f"{sum(row.alarm is not None for row in rows)} of {len(rows)}"
