"""How long after the act became likely does the alarm come? Of the traces that a probe catches.

``python -m benchmarks.lag --run traces/english --probe probes/english``

A trace is caught if it acts and its alarm comes before it says so and before it does so. First ask
the oracle: ``trace-probe oracle RUN --probe PROBE --caught --every-sentence``. Places are counted
in sentences; 0 is the end of the prompt.

likely      the first place at which P(act | prefix) is above one half
half way    the first place at which it is half way from that of the prompt to its highest
noticed     the first place at which its interval lies above that of the prompt + 0.2

P is counted from a few continuations. Chance makes the first two come a little early, and the
third comes late, so the truth lies between them. The average of P some sentences before the alarm
has no such error.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.command import Say, run
from trace_probe.emergence.curve import OraclePoint, oracle_points, prefixes
from trace_probe.emergence.onset import onset
from trace_probe.emergence.oracle import caught
from trace_probe.errors import NotEnoughData
from trace_probe.monitor.detector import load_detector
from trace_probe.statistics.bootstrap import ANY, SHARE, Bounds, Mask, Metric, mean, share, shown
from trace_probe.store import Store
from trace_probe.trace import Trace
from trace_probe.training import score_run

LIKELY = 0.5
BEFORE = (1, 2, 4)
"""Sentences before the alarm, for which the average of P is given."""


@dataclass(frozen=True)
class LagPlan:
    """Whose alarms, on which run."""

    run: str = "traces/english"
    probe: str = "probes/english"
    name: str = "oracle"


@dataclass(frozen=True)
class Lag:
    """One trace: where its act became likely, and where the alarm came."""

    trace: str
    task: str
    alarm: int
    likely: int | None
    """None if P stays below one half."""
    half_way: int
    noticed: int | None
    chances: tuple[float, ...]
    """P at the end of the prompt and after each sentence."""

    @property
    def rise(self) -> float:
        """Return by how much P rises in the sentence of the alarm."""
        return self.chances[self.alarm] - self.chances[self.alarm - 1]

    @property
    def rise_before(self) -> float:
        """Return by how much P rises in a sentence before that one, on average."""
        before = self.alarm - 1
        return (self.chances[before] - self.chances[0]) / before if before else 0.0


@dataclass(frozen=True)
class Lags:
    """All caught traces of which the oracle was asked."""

    model: str
    caught: int
    """Traces that the probe catches, asked or not."""
    tasks: int
    figures: dict[str, Metric | None]
    each: tuple[Lag, ...]


def measure(plan: LagPlan, say: Say) -> Lags:
    """How long after the act became likely does the alarm come?"""
    store = Store(plan.run)
    detector = load_detector(plan.probe, decoding=store.manifest.sampling)
    saved = detector.saved
    traces = {trace.id: trace for trace in saved.card.unseen(store.traces())}
    labels = store.labels(saved.card.labeller)
    alarms = caught(traces.values(), labels, detector, score_run(store, saved))
    points = oracle_points(store, plan.name)
    say(f"{len(alarms)} traces caught, the oracle was asked about {len(points)} traces")
    found = (lag_of(traces[name], at, points.get(name, ())) for name, at in alarms.items())
    lags = tuple(one for one in found if one is not None)
    if not lags:
        raise NotEnoughData(
            f"the oracle was asked about no caught trace: run `trace-probe oracle {plan.run} "
            f"--probe {plan.probe} --caught --every-sentence`"
        )
    tasks = len({one.task for one in lags})
    return Lags(store.manifest.model, len(alarms), tasks, figures(lags), lags)


def lag_of(trace: Trace, sentence: int, points: Sequence[OraclePoint]) -> Lag | None:
    """Return the lag of a trace; None if a sentence up to the alarm was not asked."""
    by_sentence = {point.sentence: point for point in points}
    ends = [place for place, _ in prefixes(trace)]
    asked = [by_sentence[place] for place in ends if place in by_sentence]
    alarm = ends.index(sentence)
    if [point.sentence for point in asked[: alarm + 1]] != ends[: alarm + 1]:
        return None
    chances = np.array([point.probability for point in asked])
    noticed = onset(asked, chances[0])
    return Lag(
        trace=trace.id,
        task=trace.task.id,
        alarm=alarm,
        likely=_first(chances > LIKELY),
        half_way=int(np.argmax(chances >= (chances[0] + chances.max()) / 2)),
        noticed=asked.index(noticed) if noticed else None,
        chances=tuple(chances.tolist()),
    )


def _first(holds: Mask) -> int | None:
    return int(np.argmax(holds)) if holds.any() else None


def figures(lags: Sequence[Lag]) -> dict[str, Metric | None]:
    """Return the figures of all lags; intervals are over tasks."""
    tasks = [one.task for one in lags]

    def average(values: Sequence[float | None], bounds: Bounds = ANY) -> Metric | None:
        known = [
            (value, task) for value, task in zip(values, tasks, strict=True) if value is not None
        ]
        if not known:
            return None
        numbers, of = np.array([value for value, _ in known]), [task for _, task in known]
        return mean(numbers, of, bounds=bounds).interval()

    def since(places: Sequence[int | None]) -> list[float | None]:
        pairs = zip(lags, places, strict=True)
        return [None if place is None else one.alarm - place for one, place in pairs]

    return {
        "P at the end of the prompt": average([one.chances[0] for one in lags], SHARE),
        "P at the alarm": average([one.chances[one.alarm] for one in lags], SHARE),
        **{
            f"P {n} sentences before": average(
                [one.chances[max(one.alarm - n, 0)] for one in lags], SHARE
            )
            for n in BEFORE
        },
        "likely from the prompt on": share(np.array([one.likely == 0 for one in lags]), tasks),
        "likely before the alarm": share(
            np.array([one.likely is not None and one.likely < one.alarm for one in lags]), tasks
        ),
        "sentences from likely to the alarm": average(since([one.likely for one in lags])),
        "sentences from half way to the alarm": average(since([one.half_way for one in lags])),
        "sentences from noticed to the alarm": average(since([one.noticed for one in lags])),
        "rise of P in the sentence of the alarm": average([one.rise for one in lags]),
        "rise of P in a sentence before": average([one.rise_before for one in lags]),
        "the first less the second": average([one.rise - one.rise_before for one in lags]),
    }


def text(found: Lags) -> str:
    """Return the figures, then a line for each trace."""
    lines = [
        f"{found.model}: {found.caught} traces caught, the oracle knows {len(found.each)} of them, "
        f"of {found.tasks} tasks",
        *(f"{name:40}{shown(value, 2)}" for name, value in found.figures.items()),
        "",
        "trace   alarm likely half way noticed  P at the prompt and after each sentence",
    ]
    for one in sorted(found.each, key=lambda each: -each.rise):
        places = (one.alarm, one.likely, one.half_way, one.noticed)
        cells = "".join(f"{'-' if at is None else at:>7}" for at in places)
        curve = " ".join(f"{p:.2f}" for p in one.chances)
        lines.append(f"{one.trace[:6]}{cells}  {curve}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(LagPlan, measure, text)
