"""What an alarm says: which probe raised it in which sentence, and by how much."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from trace_probe.monitor.detector import Detector
from trace_probe.monitor.scorer import Reading


@dataclass(frozen=True)
class Alarm:
    """The first alarm of a probe in a trace."""

    probe: str
    smoothing: str
    threshold: float
    source: str
    """Where the threshold comes from, in words."""
    statistic: float
    """The smoothed score, which the alarm follows."""
    score: float
    sentence: int
    """Index into the sentences of the trace."""
    token: int
    """The last one of the sentence, counted from the start of the completion."""
    text: str


def new_alarms(
    detectors: Sequence[Detector], reading: Reading, told: Collection[str]
) -> Iterator[Alarm]:
    """Yield the alarms that a reading brings, less those of probes that were `told` before.

    A reading that is unreadable alarms for every probe without a score, so none is yielded: look
    at `Reading.unreadable`.
    """
    known = set(told)
    for ended in reading.ended:
        values = zip(detectors, ended.scores, ended.statistics, strict=False)
        for detector, score, statistic in values:
            if detector.name in ended.alarms and detector.name not in known:
                known.add(detector.name)
                yield Alarm(
                    probe=detector.name,
                    smoothing=detector.smoothing.name,
                    threshold=detector.threshold,
                    source=str(detector.source),
                    statistic=statistic,
                    score=score,
                    sentence=ended.sentence,
                    token=ended.stop - 1,
                    text=ended.text,
                )
