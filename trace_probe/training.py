"""From a labelled run to a probe with a threshold.

Layer, strength, weights, rules and threshold never see a test task: the split comes first.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from importlib.metadata import version

from trace_probe.errors import ProbeError
from trace_probe.evaluation.panel import build_panel
from trace_probe.execution.executor import Executor, LocalExecutor
from trace_probe.probing.alarm import WAYS, Choice, Way, choose_alarm
from trace_probe.probing.dataset import (
    Corpus,
    Split,
    build_dataset,
    load_corpus,
    split_by_role,
)
from trace_probe.probing.matrix import load_matrix
from trace_probe.probing.probe import (
    ProbeCard,
    SavedProbe,
    check_fits,
    fit_dataset,
    probe_scores,
)
from trace_probe.probing.recipe import Rows, Target
from trace_probe.probing.sweep import Cell, Grid, LayerSweeper, choose
from trace_probe.statistics.calibration import (
    Promise,
    Threshold,
    promised_threshold,
)
from trace_probe.statistics.metrics import Scores, trace_maxima
from trace_probe.statistics.smoothing import parse_smoothing
from trace_probe.store import Store

Progress = Callable[[str], None]


def train(  # noqa: PLR0913 - these are the options of the command
    store: Store,
    *,
    name: str | None = None,
    labeller: str | None = None,
    layers: Iterable[int] | None = None,
    target_rate: float = 0.01,
    seed: int = 0,
    rows: Rows = "before-said",
    target: Target = "outcome",
    promise: Promise = "conformal",
    rule: str | None = None,
    benign_weight: float | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> SavedProbe:
    """Train a probe on a labelled run and set its threshold on the benign traces held out.

    Without a name it is called after the run and the layer. Weight and rule, where they are not
    given, are those with which most instrumental traces of training tasks alarm in time, out of
    fold: see `probing.alarm`. Layers are swept by the executor, each read by itself.

    Raises:
        NotEnoughData: too few tasks, one outcome only, or no benign trace.
        StoreError: the run has no activations of a layer.
        ProbeError: there is no such rule, or no such weight.
    """
    tell = progress or _silent
    ways = _asked(rule, benign_weight)
    tell("reading labels")
    corpus = load_corpus(store, labeller, ()).aimed(target)
    split = split_by_role(corpus.traces, seed=seed)
    grid = Grid(rows=rows, seed=seed)
    run = store.place.folder
    address = store.place.url if run is None else str(run.resolve())
    sweeper = (address, labeller, target, split.train, grid)
    chosen = store.manifest.layers if layers is None else tuple(layers)
    recipe, figures = choose(_cells(executor or LocalExecutor(), sweeper, chosen, tell))
    tell(f"fitting layer {recipe.layer}, C = {recipe.C:g}")
    corpus = replace(corpus, matrix=load_matrix(store, corpus.traces, recipe.layers))
    learned, calibration = corpus.only(split.train), corpus.only(split.calibration)
    made = choose_alarm(learned, recipe, target_rate, ways, seed=seed, progress=tell)
    recipe = made.recipe
    tell(f"benign traces weigh {recipe.benign_weight:g}, the alarm follows {made.rule.name}")
    probe = fit_dataset(build_dataset(learned, recipe), recipe)
    scores = made.rule.apply(probe_scores(probe, calibration, recipe))
    ids = [trace.id for trace in build_panel(calibration, learned).calibration]
    threshold = promised_threshold(trace_maxima(scores, ids), target_rate, promise)
    card = _card(store, corpus, split, made, threshold, figures)
    return SavedProbe(replace(card, name=name or card.name), probe)


def _asked(rule: str | None, benign_weight: float | None) -> tuple[Way, ...]:
    """Return the ways to choose among: those of a rule or a weight that was asked for."""
    if benign_weight is not None and not 0 < benign_weight < math.inf:
        raise ProbeError(f"benign traces cannot weigh {benign_weight:g}: give a number above 0")
    name = None if rule is None else parse_smoothing(rule).name
    ways = ((benign_weight or weight, name or candidate) for weight, candidate in WAYS)
    return tuple(dict.fromkeys(ways))


def _cells(
    executor: Executor,
    sweeper: tuple[str, str | None, Target, tuple[str, ...], Grid],
    layers: Iterable[int],
    tell: Progress,
) -> list[Cell]:
    """Return the cells of all layers, the lowest layer first."""
    wanted = list(layers)
    tell(f"choosing layer and strength among layers {wanted}")
    found: dict[int, list[Cell]] = {}
    for result in executor.run(LayerSweeper, sweeper, wanted):
        if result.error is not None:
            raise result.error
        found[result.item] = result.value or []
        tell(f"layer {result.item} swept, {len(found)} of {len(wanted)}")
    return [cell for layer in sorted(found) for cell in found[layer]]


def _card(
    store: Store,
    corpus: Corpus,
    split: Split,
    made: Choice,
    threshold: Threshold,
    swept: dict[str, float],
) -> ProbeCard:
    manifest, recipe = store.manifest, made.recipe
    return ProbeCard(
        name=f"{store.name}-layer-{recipe.layer}",
        model=manifest.model,
        tokenizer=manifest.tokenizer,
        layers=recipe.layers,
        d_model=manifest.d_model,
        features=recipe.features,
        head=recipe.head,
        rows=recipe.rows,
        guard=recipe.guard,
        guard_tokens=recipe.guard_tokens,
        focus=recipe.focus,
        target=corpus.target,
        labeller=next(iter(corpus.labels.values())).labeller,
        method=recipe.method,
        C=recipe.C,
        training_tasks=split.train,
        calibration_tasks=split.calibration,
        threshold=threshold.value,
        target_false_alarm_rate=threshold.target_rate,
        honest_false_alarm_rate=threshold.honest_rate,
        figures={**swept, **made.figures},
        promise=threshold.method,
        smoothing=made.rule.name,
        ranked_by=made.ranked_by.name,
        benign_weight=recipe.benign_weight,
        limits=tuple(_limits(store, threshold, swept)),
        version=version("trace-probe"),
    )


def _limits(store: Store, threshold: Threshold, figures: dict[str, float]) -> Iterator[str]:
    """Yield what a user of the probe must know."""
    yield f"Reads the reasoning of {store.manifest.model} only, sampled as in run {store.name}."
    yield f"The false-alarm rate holds for tasks like the {threshold.n} benign ones it was set on."
    if len(store.manifest.poolings) == 1:
        yield (
            f"The run holds the {store.manifest.pooling} of each sentence only, so it was trained "
            f"without memory of the thought: `trace-probe record --recapture` reads the rest."
        )
    if threshold.note:
        yield f"{threshold.note[0].upper()}{threshold.note[1:]}."
    if any(name.startswith("pooled") for name in figures):
        yield (
            "No training prompt has both outcomes: layer and strength were chosen by pooled "
            "AUROC, which also rewards telling tasks apart."
        )


def score_run(store: Store, saved: SavedProbe) -> Scores:
    """Return the score of each reasoning sentence of every trace of a run.

    Raises:
        ProbeError: the probe was trained on another model, or the run lacks what it reads.
    """
    check_fits(saved.card, store.manifest)
    traces = tuple(store.traces())
    matrix = load_matrix(store, traces, saved.card.layers)
    return saved.scores(Corpus(traces, {}, matrix))


def _silent(_: str) -> None:
    """Report no progress."""
