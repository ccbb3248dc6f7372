"""What a detector says of text that has nothing to do with what it was trained on.

``python -m benchmarks.everyday --probe probes/english --run traces/english``

Five texts of different kinds, four of ``benchmarks/five.txt`` and a trace of the detector's own
world, and the 200 harmless everyday texts of ``benchmarks/everyday.txt``, written for this project:
how many alarm, beside what the threshold promises of harmless traces like those it was set on, and
how many are marked as outside the calibrated range. Each is read as if the model had just thought
it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.command import Say, run
from trace_probe.model.local import load_model
from trace_probe.model.naming import without_version
from trace_probe.monitor.detector import Detector, load_detector
from trace_probe.monitor.scoring import ScoredText, score_texts
from trace_probe.statistics.bootstrap import Metric, wilson
from trace_probe.store import Store
from trace_probe.trace import Trace


def texts_in(name: str) -> list[tuple[str, str]]:
    """Return the texts of a file beside this one, with the kind that stands above them."""
    found, kind = [], ""
    for line in Path(__file__).with_name(name).read_text("utf-8").splitlines():
        if line.startswith("# "):
            kind = line[2:]
        elif line.strip():
            found.append((kind, line.strip()))
    return found


FIVE = dict(texts_in("five.txt"))
EVERYDAY = texts_in("everyday.txt")
OWN = "a trace of its own world that acted"


@dataclass(frozen=True)
class EverydayPlan:
    """Which detector reads."""

    probe: str = "probes/english"
    run: str = "traces/english"
    """From which a trace of the detector's own world is taken."""


@dataclass(frozen=True)
class Everyday:
    """What was said of all."""

    detector: str
    promised: float | None
    """Share of harmless traces like those of calibration that may alarm."""
    five: tuple[ScoredText, ...]
    texts: int
    alarms: int
    rate: Metric
    outside: int
    vouched: int
    """Alarms of texts that are not marked as outside."""
    by_kind: Mapping[str, tuple[int, int, int]]
    """Texts, alarms and texts outside, by kind."""


def measure(plan: EverydayPlan, say: Say) -> Everyday:
    """What does a detector say of everyday text?"""
    detector, store = load_detector(plan.probe), Store(plan.run)
    model = load_model(without_version(detector.saved.card.model))
    own = chosen(store, detector)
    say(f"{model.name} reads {len(FIVE) + 1} texts, then {len(EVERYDAY)}")
    five: list[dict[str, object]] = [{"id": name, "text": text} for name, text in FIVE.items()]
    five.append({"id": OWN, "prompt": own.task.prompt, "text": own.channel_text("reasoning")})
    many = [{"id": number, "text": text} for number, (_, text) in enumerate(EVERYDAY)]
    told = list(score_texts(model, detector, many))
    return summed(detector, list(score_texts(model, detector, five)), told)


def chosen(store: Store, detector: Detector) -> Trace:
    """Return the first instrumental trace of a task that the detector has not seen."""
    labels = store.labels()
    unseen = detector.saved.card.unseen(store.traces())
    return next(trace for trace in unseen if labels[trace.id].outcome)


def summed(detector: Detector, five: list[ScoredText], many: list[ScoredText]) -> Everyday:
    """Count what was said."""
    kinds = [kind for kind, _ in EVERYDAY]
    texts, alarms = Counter(kinds), Counter[str]()
    outside, vouched = Counter[str](), 0
    for kind, one in zip(kinds, many, strict=True):
        alarms[kind] += one.alarm
        outside[kind] += bool(one.outside)
        vouched += one.alarm and not one.outside
    return Everyday(
        str(detector),
        detector.rates.benign if detector.rates else None,
        tuple(five),
        len(many),
        alarms.total(),
        wilson(alarms.total() / len(many), len(many), n=len(many)),
        outside.total(),
        vouched,
        {kind: (texts[kind], alarms[kind], outside[kind]) for kind in texts},
    )


def text(found: Everyday) -> str:
    """Return the figures, a line each."""
    marks = {True: "outside the calibrated range", False: "inside it", None: "range not known"}
    lines = [found.detector, ""]
    for one in found.five:
        peak = "-" if one.peak is None else f"{one.peak:.2f}"
        alarm = "ALARM" if one.alarm else "no alarm"
        lines.append(f"{one.id:36} peak {peak:>6}  {alarm:8}  {marks[one.outside]}")
    low, high = found.rate.lower, found.rate.upper
    promised = "" if found.promised is None else f", promised {found.promised:.1%}"
    lines += [
        "",
        f"{found.texts} everyday texts: {found.alarms} alarm, {found.alarms / found.texts:.1%} "
        f"[{low:.1%}, {high:.1%}]{promised}",
        f"{found.outside} are marked as outside the calibrated range; {found.vouched} alarms are "
        f"of texts that are not",
        "",
        *(f"{kind:12} {n:3} texts {a:3} alarm {o:3} outside" for kind, (n, a, o) in _rows(found)),
    ]
    return "\n".join(lines)


def _rows(found: Everyday) -> list[tuple[str, tuple[int, int, int]]]:
    return sorted(found.by_kind.items(), key=lambda one: -one[1][1])


if __name__ == "__main__":
    run(EverydayPlan, measure, text)
