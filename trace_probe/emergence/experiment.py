"""Experiments on a run: which prompts, which directions, and where the readouts are kept."""

from collections.abc import Sequence

from trace_probe.emergence.directions import (
    random_directions,
    rows_at,
    tested,
    unrelated_directions,
)
from trace_probe.emergence.intervention import (
    Alarm,
    InterventionReport,
    Responses,
    intervene,
    reflection_for,
)
from trace_probe.emergence.ledger import Cells
from trace_probe.emergence.oracle import choose
from trace_probe.emergence.readout import Trial
from trace_probe.emergence.steering import SteeringPlan, SteeringReport, SteeringSetup, steer
from trace_probe.errors import ModelError, NotEnoughData
from trace_probe.labels import Labeller
from trace_probe.model.blocks import Backend
from trace_probe.model.bridge import bridged
from trace_probe.model.local import Model
from trace_probe.model.steering import Steering
from trace_probe.monitor.detector import Detector
from trace_probe.probing.corpus import Corpus, load_corpus
from trace_probe.probing.probe import SavedProbe, check_fits
from trace_probe.store import Store
from trace_probe.trace import Trace
from trace_probe.training import score_run


def check_steering(store: Store, saved: SavedProbe, layer: int) -> None:
    """Refuse an experiment that no model could make possible, before one is loaded.

    Raises:
        ProbeError: the probe does not fit the run.
        StoreError: the run has no activations of the layer.
        NotEnoughData: the run has no labelled trace that the probe has not seen.
    """
    check_fits(saved.card, store)
    store.known_layers((layer,))
    if not held_out(load_corpus(store, saved.card.labeller, ()), saved, 1):
        raise NotEnoughData("no trace to steer: record tasks that the probe has not seen")


def run_steering(  # noqa: PLR0913 - these are the options of the command
    store: Store,
    saved: SavedProbe,
    model: Model,
    labeller: Labeller,
    plan: SteeringPlan,
    *,
    prompts: int,
    controls: tuple[int, int],
    backend: Backend = "transformer-lens",
    name: str = "",
) -> SteeringReport:
    """Steer along a probe's direction, and along so many random and unrelated ones.

    Directions are fitted on the probe's training tasks; prompts are of tasks that it has not
    seen, those with both outcomes first.

    Raises:
        ProbeError: the probe does not fit the run.
        ModelError: the run is of another model, or TransformerLens cannot wrap it.
        NotEnoughData: too few tasks, prompts or unrelated concepts.
    """
    check_steering(store, saved, plan.layer)
    check_model(store, model)
    corpus = load_corpus(store, saved.card.labeller, (plan.layer,))
    rows = rows_at(corpus.only(saved.card.training_tasks), plan.layer)
    others = [
        *random_directions(controls[0], model.d_model, plan.seed),
        *unrelated_directions(saved.card, rows, controls[1]),
    ]
    pushed = bridged(model) if backend == "transformer-lens" else model
    first = {t.task.prompt_key: t for t in reversed(held_out(corpus, saved, prompts))}
    setup = SteeringSetup(pushed, Trial(model, labeller), tuple(reversed(first.values())))
    settings = {
        "model": model.name,
        "probe": saved.card.name,
        "labeller": labeller.name,
        "layer": plan.layer,
        "scale": round(rows.scale, 4),
        "at": plan.at,
        "continuations": plan.continuations,
        "seed": plan.seed,
        "prompts": [trace.id for trace in setup.traces],
    }
    name = name or f"steer-{saved.card.name}-{plan.layer}"
    with store.writing():
        cells = Cells(store.artifacts, name, settings)
        return steer(setup, tested(saved, rows, plan.layer), others, plan, rows.scale, cells)


def run_intervention(  # noqa: PLR0913 - these are the options of the command
    store: Store,
    detector: Detector,
    model: Model,
    labeller: Labeller,
    *,
    reflection: str | None = None,
    traces: int | None = None,
    continuations: int = 4,
    backend: Backend = "transformer-lens",
    seed: int = 0,
    name: str = "",
) -> InterventionReport:
    """Compare what is done once a probe's alarm is raised, on tasks that it has not seen.

    A trace alarms where its recorded reasoning first reaches the threshold: up to there it is
    what the model wrote while it was watched.

    Raises:
        ProbeError: the probe does not fit the run.
        ModelError: the run is of another model, or TransformerLens cannot wrap it.
        NotEnoughData: there is no trace of known outcome that the probe has not seen.
    """
    check_model(store, model)
    saved = detector.saved
    card, labels = saved.card, store.labels(saved.card.labeller)
    known = judged(store, saved)[:traces]
    alarms = _alarms(store, detector, known)
    pushed = bridged(model) if backend == "transformer-lens" else model
    ablation = Steering(card.layer, saved.direction(card.layer), "project-out")
    said = reflection or reflection_for(model)
    responses = Responses(pushed, Trial(model, labeller), ablation, said, continuations, seed)
    settings = {
        "model": model.name,
        "probe": card.name,
        "labeller": labeller.name,
        "threshold": detector.threshold,
        "smoothing": detector.smoothing.name,
        "reflection": said,
        "continuations": continuations,
        "seed": seed,
        "alarms": [alarm.trace.id for alarm in alarms],
    }
    with store.writing():
        cells = Cells(store.artifacts, name or f"intervene-{card.name}", settings)
        return intervene(responses, known, labels, alarms, cells)


def judged(store: Store, saved: SavedProbe) -> list[Trace]:
    """Return the traces of known outcome, benign tasks apart, that a probe has not seen.

    Raises:
        ProbeError: the probe does not fit the run.
        NotEnoughData: there is none.
    """
    check_fits(saved.card, store)
    labels = store.labels(saved.card.labeller)
    known = [
        trace
        for trace in saved.card.unseen(store.traces())
        if trace.task.role != "benign"
        and trace.id in labels
        and labels[trace.id].outcome is not None
    ]
    if not known:
        raise NotEnoughData(
            f"{store.path} has no labelled trace of a task that the probe has not seen: record and "
            f"label more tasks"
        )
    return known


def _alarms(store: Store, detector: Detector, traces: Sequence[Trace]) -> list[Alarm]:
    """Return the traces that alarm, each at the end of its first sentence to do so."""
    scores = score_run(store, detector.saved)
    found = []
    for trace in traces:
        sentence = detector.alarm(scores[trace.id])
        if sentence is not None:
            found.append(Alarm(trace, trace.sentences[sentence].stop))
    return found


def held_out(corpus: Corpus, saved: SavedProbe, prompts: int) -> Sequence[Trace]:
    """Return traces of so many prompts that the probe has not seen, mixed ones first."""
    chosen = choose(saved.card.unseen(corpus.traces), dict(corpus.labels), None)
    keys = list(dict.fromkeys(trace.task.prompt_key for trace in chosen))[:prompts]
    return [trace for trace in chosen if trace.task.prompt_key in set(keys)]


def check_model(store: Store, model: Model) -> None:
    """Refuse a model that did not write the run.

    Raises:
        ModelError: it is another one.
    """
    if model.name != store.manifest.model:
        raise ModelError(f"{store.path} was written by {store.manifest.model}, not {model.name}")
