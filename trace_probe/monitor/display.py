"""A watched generation as a person sees it: text as it comes, a score after each thought."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from trace_probe.monitor.detector import Detector
from trace_probe.monitor.scorer import Reading, ScoredSentence
from trace_probe.trace import ToolResult
from trace_probe.visible import snippet, visible

Tone = Literal["thought", "answer", "markup", "calm", "close", "alarm"]


UNREADABLE = (
    "ALARM unreadable: no probe can score from here on, because what the model holds is no number, "
    "or because it closed a thought that no tag had opened, at token"
)


class Piece(NamedTuple):
    """Text to print and how it is meant; nothing in it can move a cursor."""

    text: str
    tone: Tone


class Display:
    """Turns readings into pieces of text."""

    def __init__(self, detectors: Sequence[Detector]) -> None:
        self._detectors = detectors
        self._shown = 0
        """Tokens shown so far."""
        self._unreadable = False

    def show(self, reading: Reading) -> Iterator[Piece]:
        """Yield what to print for the next reading."""
        late = [each for each in reading.ended if each.stop > self._shown]
        for ended in reading.ended:
            if ended not in late:
                yield from self._end(ended)
        if reading.unreadable and not self._unreadable:
            self._unreadable = True
            yield Piece(f"\n{UNREADABLE} {reading.token}\n", "alarm")
        yield Piece(visible(reading.text), _tone(reading))
        self._shown += 1
        for ended in late:
            yield from self._end(ended)

    def came(self, result: ToolResult) -> Iterator[Piece]:
        """Yield what to print of what a tool answered."""
        yield Piece(f"\n[{visible(result.name)}] {visible(result.content)}\n", "answer")

    def _end(self, ended: ScoredSentence) -> Iterator[Piece]:
        """Yield the scores of a sentence, and a line for each alarm."""
        if not ended.scores:
            return
        for detector, score, value in zip(
            self._detectors, ended.scores, ended.statistics, strict=True
        ):
            yield Piece(f" [{score:.2f}]", _nearness(value, detector))
        yield Piece("" if ended.text.endswith("\n") else "\n", "markup")
        for detector, value in zip(self._detectors, ended.statistics, strict=True):
            if detector.name in ended.alarms:
                yield Piece(f"{alarm_line(detector, value, ended)}\n", "alarm")


def alarm_line(detector: Detector, value: float, ended: ScoredSentence) -> str:
    """Return one line that says which probe alarmed, why and where."""
    return (
        f"ALARM {detector.name} ({detector.smoothing.name}): "
        f"{value:.3f} >= {detector.threshold:.3f} at token {ended.stop - 1}, "
        f"sentence {ended.sentence + 1}: {snippet(ended.text, 80)}"
    )


def _tone(reading: Reading) -> Tone:
    names: dict[str, Tone] = {"reasoning": "thought", "answer": "answer", "action": "answer"}
    return names.get(reading.channel, "markup")


def _nearness(value: float, detector: Detector) -> Tone:
    """Return how near a statistic is to the alarm; close is the last unit of the score."""
    if value >= detector.threshold:
        return "alarm"
    return "close" if value >= detector.threshold - 1 else "calm"
