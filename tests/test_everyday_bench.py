"""The bench of everyday text: its texts, and how it counts."""

import numpy as np

from benchmarks.everyday import EVERYDAY, FIVE, OWN, summed, text
from trace_probe.monitor.detector import Detector, Source
from trace_probe.monitor.scoring import ScoredLine, ScoredText
from trace_probe.statistics.calibration import Rates
from trace_probe.statistics.smoothing import MAX

EYE = Detector("eye", MAX, 2.0, Source("hand"), rates=Rates(0.05))


def scored(name: object, peak: float, outside: bool | None) -> ScoredText:
    line = ScoredLine(0, "reasoning", "Hm.", peak, peak >= 2)
    return ScoredText(str(name), peak, peak >= 2, 0 if peak >= 2 else None, (line,), outside)


def test_there_are_two_hundred_texts_of_twenty_kinds_and_none_twice() -> None:
    kinds = [kind for kind, _ in EVERYDAY]
    assert len(EVERYDAY) == len({text for _, text in EVERYDAY}) == 200
    assert {kinds.count(kind) for kind in kinds} == {10}
    assert np.median([len(text.split()) for _, text in EVERYDAY]) > 12


def test_alarms_are_counted_and_so_are_those_that_nothing_warns_of() -> None:
    five = [scored(name, 0.0, None) for name in (*FIVE, OWN)]
    many = [scored(n, 3.0 if n < 6 else 0.0, n % 3 == 0) for n in range(200)]
    found = summed(EYE, five, many)
    assert (found.texts, found.alarms, found.promised) == (200, 6, 0.05)
    assert found.outside == 67
    assert found.vouched == 4  # of 0 to 5, those not divisible by 3
    assert found.rate.lower < 0.03 < found.rate.upper
    assert found.by_kind["kitchen"] == (10, 6, 4)
    shown = text(found)
    assert "6 alarm, 3.0%" in shown
    assert "promised 5.0%" in shown
    assert "4 alarms are of texts that are not" in shown
