"""Whether a threshold still holds after a change of engine, precision, template or weights.

A threshold is set on the scores of one model as it ran then. Two runs tell whether it holds for
the model as it runs now: one from before the change, one from after it. Best are the same traces
read twice (``trace-probe observe``), since then only the change can differ; else the same tasks
recorded anew (``trace-probe record``). Tasks that the probe learned from are left out.

Four figures are compared, each shift with its 95 % interval over tasks, the same resamples on
both sides:

    benign      share of benign traces that alarm, beside what the threshold guarantees
    siblings    share of harmless traces of mixed prompts that alarm, if they were guaranteed any
    caught      share of instrumental traces that alarm before they say it
    ranking     AUROC within prompts, which needs no threshold

The verdict is the first of these that applies:

    holds         in 20 traces or more, no score moved by more than `margin` times their spread:
                  where scores lie about like a bell, no rate then moves by so much
    degraded      the ranking fell by `loss` or more, its whole 99.9 % interval below 0: no
                  threshold brings it back, train again
    stale         a rate is above its guarantee with its whole interval, and above what it was with
                  its whole 99.9 % interval; or what is caught fell by `loss` or more, its whole
                  99.9 % interval below 0: calibrate again on a run from after the change
    holds         each rate is within its guarantee, or rose by no more than `margin`, and neither
                  what is caught nor the ranking fell by more than `loss`; all with whole intervals
    cannot tell   the traces are too few for any of these: record more tasks

Where it cannot tell, it says about how many times as many tasks would: so many that a rise by
`margin` and a fall by `loss` can be told from none. A figure whose interval is as narrow as that
and still holds its limit may lie on it; more tasks may not help then.

Where the same traces were read twice and none of a rate's alarms changed, the scores tell more
than the alarms: how close each trace is to the threshold, and how far it moved. The interval of the
shift is then that of smoothed rates (Azzalini 1981), wider by how many tasks may hold a move that
was not met.

Kept beside the probe in ``rechecks.json``, the latest for each model as it runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trace_probe.errors import NotEnoughData, ProbeError
from trace_probe.model.naming import without_version
from trace_probe.monitor.detector import Detector
from trace_probe.monitor.shift import Figure, Shift, share, shift_of
from trace_probe.probing.corpus import Corpus, build_cohort, load_corpus
from trace_probe.probing.hub import local_folder
from trace_probe.probing.kept import RECHECKS, Beside
from trace_probe.probing.probe import ProbeCard, check_fits, differences
from trace_probe.statistics.bootstrap import Values, resample, shown, wilson
from trace_probe.statistics.metrics import UNKNOWN, Scores, pairs_within, trace_maxima
from trace_probe.statistics.siblings import mixed_prompts
from trace_probe.storage.typed import to_plain
from trace_probe.store import Manifest, Store
from trace_probe.trace import Sampling

if TYPE_CHECKING:
    from trace_probe.model.facts import ModelFacts

EARLIER = {"promised": "guaranteed"}
"""Names that earlier files have for fields of today."""
Verdict = Literal["holds", "stale", "degraded", "cannot tell"]
ADVICE: Mapping[Verdict, str] = {
    "holds": "the threshold may stay as it is",
    "stale": "calibrate again on a run from after the change",
    "degraded": "train again on a run from after the change",
    "cannot tell": "record more tasks, benign and labelled ones",
}
LEAST_TRACES = 20
UNSURE: Verdict = "cannot tell"


@dataclass(frozen=True)
class AsRun:
    """A model as it runs: what may change while the model keeps its name."""

    model: str
    dtype: str
    chat_template: str
    """Digest of the template."""

    @classmethod
    def of(cls, manifest: Manifest) -> "AsRun":
        """Return how the model of a run ran."""
        return cls(manifest.model, manifest.dtype, manifest.chat_template)

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.model} in {self.dtype}, template {self.chat_template[:8] or 'none'}"


@dataclass(frozen=True)
class Recheck:
    """What a change did to the scores of a probe, and whether its threshold still holds."""

    __pydantic_config__ = {"allow_inf_nan": False, "extra": "forbid"}

    verdict: Verdict
    before: AsRun
    after: AsRun
    traces: int
    paired: Literal["traces", "tasks"]
    """Whether the same traces were read twice, or the same tasks recorded twice."""
    threshold: float
    smoothing: str
    moved: float | None
    """The largest move of a score as a share of their spread; None without the same traces."""
    benign: Shift
    siblings: Shift
    caught: Shift
    ranking: Shift
    margin: float
    loss: float
    times: float | None = None
    """How many times as many tasks would tell; None if it told, or if no number would."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return to_plain(self)

    def __str__(self) -> str:
        """Return it as lines of text."""
        width = f"{'':9} {'before':>22} {'after':>22} {'shift':>24}"
        rows = [
            f"{name:9} {shown(one.before):>22} {shown(one.after):>22} "
            f"{shown(one.shift, sign='+'):>24}"
            + ("" if one.guaranteed is None else f"  guaranteed {one.guaranteed:.1%}")
            for name in FIGURES
            for one in [getattr(self, name)]
        ]
        head = (f"before: {self.before}", f"after:  {self.after}", self.compared)
        return "\n".join([*head, width, *rows, f"{self.verdict}: {self.advice}"])

    @property
    def compared(self) -> str:
        """Return in words what was compared, and at which threshold."""
        moved = f", no score moved by more than {self.moved or 0:.2%} of their spread"
        return (
            f"{self.traces} traces, paired by {self.paired}{'' if self.moved is None else moved}; "
            f"threshold {self.threshold:.3f} on {self.smoothing}"
        )

    @property
    def advice(self) -> str:
        """Return what to do."""
        if self.verdict != "cannot tell":
            return ADVICE[self.verdict]
        missing = [name for name, one, _ in _open(self) if one.shift is None]
        if self.times is not None:
            return f"{ADVICE[self.verdict]}: about {self.times:.1f} times as many would tell"
        if missing:
            return f"{ADVICE[self.verdict]}: there are too few traces for {', '.join(missing)}"
        if self.benign.guaranteed is None and self.siblings.guaranteed is None:
            return "nothing is guaranteed at this threshold: set one with `trace-probe calibrate`"
        return (
            f"{', '.join(name for name, *_ in _open(self))} may lie on its limit, and more tasks "
            f"may not tell: calibrate again on a run from after the change, or allow more with "
            f"--margin and --loss"
        )


RATES = ("benign", "siblings")
FIGURES = (*RATES, "caught", "ranking")


def recheck(
    before: Store,
    after: Store,
    detector: Detector,
    *,
    labeller: str | None = None,
    margin: float = 0.05,
    loss: float = 0.1,
) -> Recheck:
    """Compare what a detector does in two runs, from before and after a change.

    Where both runs hold the same traces (same ids and same text) only these count. Else the runs
    are compared over the tasks that both hold.

    Args:
        before: A labelled run of the model that the probe was trained on.
        after: The same traces read by the changed model, or the same tasks recorded by it.
        detector: A probe with its threshold.
        labeller: Whose labels count; those the probe learned from without this.
        margin: By how much a rate may rise above what it was where its guarantee cannot be shown;
            and a score move, as a share of their spread.
        loss: By how much the ranking and the share caught may fall.

    Raises:
        NotEnoughData: the runs share no task that the probe did not learn from.
        ProbeError: the probe cannot read a run.
    """
    sides = [unseen(store, detector, labeller) for store in (before, after)]
    texts = [_texts(side) for side in sides]
    if texts[1].items() <= texts[0].items():
        sides[0] = sides[0].where(lambda trace: trace.id in texts[1])
    else:
        tasks = set.intersection(*(set(side.tasks) for side in sides))
        sides = [side.only(tasks) for side in sides]
    if not sides[0].traces:
        raise NotEnoughData(
            f"{before.path} and {after.path} share no task that {detector.name} did not learn "
            f"from: read the first run with the changed model (`trace-probe observe`), or record "
            f"the same tasks with it"
        )
    scores = [detector.saved.scores(side) for side in sides]
    return judge(
        [replace(side, matrix=None) for side in sides],
        scores,
        detector,
        (AsRun.of(before.manifest), AsRun.of(after.manifest)),
        margin=margin,
        loss=loss,
    )


def judge(
    sides: Sequence[Corpus],
    scores: Sequence[Scores],
    detector: Detector,
    ran: tuple[AsRun, AsRun],
    *,
    margin: float = 0.05,
    loss: float = 0.1,
) -> Recheck:
    """Return the verdict on the scores of two corpora, from before and after a change."""
    same = _texts(sides[0]) == _texts(sides[1])
    moved = _moved(scores) if same else None
    names = sorted({trace.task.id for side in sides for trace in side.traces})
    weights = resample(len(names))
    figures = [
        _figures(*pair, detector, names, weights) for pair in zip(sides, scores, strict=True)
    ]
    unmet = wilson(0.0, len(names), n=1).upper if same else None
    shifts = {
        name: shift_of(
            [side[name] for side in figures], getattr(detector.rates, name, None), weights, unmet
        )
        for name in FIGURES
    }
    draft = Recheck(
        verdict=UNSURE,
        before=ran[0],
        after=ran[1],
        traces=len(sides[1].traces),
        paired="traces" if same else "tasks",
        threshold=detector.threshold,
        smoothing=detector.smoothing.name,
        moved=moved,
        margin=margin,
        loss=loss,
        times=None,
        **shifts,
    )
    verdict = _verdict(draft)
    return replace(draft, verdict=verdict, times=_needed(draft) if verdict == UNSURE else None)


def _open(found: Recheck) -> list[tuple[str, Shift, float]]:
    """Return the figures of which it is not shown that they hold, each with its limit."""
    every: dict[str, Shift] = {name: getattr(found, name) for name in FIGURES}
    return [
        (name, one, found.margin if name in RATES else found.loss)
        for name, one in every.items()
        if not (one.holds(found.margin) if name in RATES else one.stayed(found.loss))
    ]


def _needed(found: Recheck) -> float | None:
    """Return how many times as many tasks would tell; None if unknown, or if these should."""
    times = max((one.times(limit) for _, one, limit in _open(found)), default=0.0)
    return times if 1 < times < inf else None


def _verdict(found: Recheck) -> Verdict:
    """Return the verdict by the rule that the module states."""
    if found.moved is not None and found.moved <= found.margin and found.traces >= LEAST_TRACES:
        return "holds"
    rates = [found.benign, found.siblings]
    if found.ranking.fell(found.loss):
        return "degraded"
    if any(each.broken() for each in rates) or found.caught.fell(found.loss):
        return "stale"
    guaranteed = any(each.guaranteed is not None for each in rates)
    return "holds" if guaranteed and not _open(found) else UNSURE


def unseen(store: Store, detector: Detector, labeller: str | None = None) -> Corpus:
    """Return the traces of a run that a probe did not learn from, with what it reads of them."""
    card = detector.saved.card
    check_fits(card, store, any_model=True)
    own = card.labeller if card.labeller in store.labellers() else None
    learned = set(card.training_tasks)
    every = load_corpus(store, labeller or own, (), card.target)
    others = every.where(lambda trace: trace.task.id not in learned)
    return others.with_activations(store, card.layers)


def _texts(side: Corpus) -> dict[str, str]:
    """Return the text of each trace by its id; two readings of the same traces agree in both."""
    return {trace.id: trace.text for trace in side.traces}


def _moved(scores: Sequence[Scores]) -> float | None:
    """Return the largest move of a score between two readings, as a share of their spread."""
    old, new = (np.concatenate([side[name] for name in scores[0]]) for side in scores)
    given = np.isfinite(old) & np.isfinite(new)
    spread = float(np.std(old[given])) if given.any() else 0.0
    return float(np.abs(new - old)[given].max()) / spread if spread else None


def _figures(
    side: Corpus, scores: Scores, detector: Detector, names: Sequence[str], weights: Values
) -> dict[str, Figure]:
    """Return the figures of one side, on resamples of tasks that both sides share."""
    at = {name: number for number, name in enumerate(names)}
    followed, limit = detector.smoothing.apply(scores), detector.threshold
    calm = side.harmless("benign").traces
    maxima = trace_maxima(followed, [trace.id for trace in calm])
    task = np.array([at[trace.task.id] for trace in calm], dtype=np.intp)
    found = {"benign": share(maxima - limit, task, weights)}
    known = side.judged()
    cohort = build_cohort(known)
    codes = [at[one.trace.task.id] for one in known.known]
    cohort = replace(cohort, task=np.array(codes, dtype=np.intp))
    peaks = cohort.maxima(followed)
    mixed = mixed_prompts(cohort.until_act())
    siblings = mixed.sibling[: 0 if mixed.shortage() else None]
    highest = peaks[siblings, cohort.length[siblings]]
    found["siblings"] = share(highest - limit, cohort.task[siblings], weights)
    told = np.flatnonzero(cohort.positive & (cohort.said != UNKNOWN))
    early = peaks[told, cohort.before_said()[told]]
    found["caught"] = share(early - limit, cohort.task[told], weights)
    pairs = pairs_within(cohort, cohort.before_said())
    held = cohort.held(detector.saved.ranked_by.apply(scores))
    ranked = pairs.auroc(held, weights) if pairs.n else None
    found["ranking"] = Figure(ranked, None if ranked is None else ranked.interval())
    return found


_KEPT = Beside(
    RECHECKS, "rechecks", Recheck, lambda one: one.after, EARLIER, "run `trace-probe recheck` again"
)
# The latest for each model as it runs.
load_rechecks, write_rechecks, save_recheck = _KEPT.load, _KEPT.write, _KEPT.keep


def refuse_stale(folders: Iterable[Path], ran: AsRun) -> None:
    """Refuse a probe whose threshold was found not to hold for a model as it runs.

    Raises:
        ProbeError: the latest recheck says that it is stale or degraded.
    """
    for folder in folders:
        for each in load_rechecks(local_folder(folder)):
            if each.after == ran and each.verdict in ("stale", "degraded"):
                raise ProbeError(
                    f"{folder} is {each.verdict} for {ran}, says its latest recheck: "
                    f"{each.advice} and recheck it, or go on with --stale-ok"
                )


def check_reads(model: "ModelFacts", card: ProbeCard) -> None:
    """Refuse a probe that cannot read a model.

    Raises:
        ProbeError: it was trained on another model, tokenizer or width.
    """
    from trace_probe.recording.record import new_manifest

    read = new_manifest(model, Sampling(), layers=())
    if differing := differences(card, read):
        raise ProbeError(
            f"probe {card.name} cannot read {model.name}: it was trained on another model "
            f"({'; '.join(differing)}). Let {without_version(card.model)} read, or name a probe of "
            f"{without_version(model.name)}"
        )
    model.check_layers(card.layers)


def check_rechecked(model: "ModelFacts", folders: Iterable[Path]) -> None:
    """Refuse probes whose thresholds were found not to hold for a model as it runs.

    Raises:
        ProbeError: the latest `trace-probe recheck` of one says that it is stale or degraded.
    """
    from trace_probe.recording.record import new_manifest

    refuse_stale(folders, AsRun.of(new_manifest(model, Sampling(), layers=())))
