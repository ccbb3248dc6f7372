"""From a labelled run to a probe with a threshold.

Neither the recipe nor the threshold ever sees a test task: the split comes first.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Literal

from trace_probe.execution.executor import Executor, LocalExecutor
from trace_probe.probing.corpus import Corpus, Split, load_corpus, split_by_role
from trace_probe.probing.distance import RowDistance
from trace_probe.probing.features import build_dataset
from trace_probe.probing.fitting import probe_scores
from trace_probe.probing.probe import LIMIT, ProbeCard, SavedProbe, check_fits, settings
from trace_probe.probing.recipe import Feature, Head, Recipe, Rows, Target, check_features
from trace_probe.probing.selection import (
    HEADLINE,
    choose,
    choose_head,
    choose_smoothing,
    rival_recipes,
    set_threshold,
)
from trace_probe.probing.sweep import Grid, sweep_layers
from trace_probe.statistics.calibration import Guarantee, Threshold, check_rates
from trace_probe.statistics.metrics import Scores
from trace_probe.statistics.smoothing import CANDIDATES, CUSUM, parse_smoothing
from trace_probe.store import Store

Progress = Callable[[str], None]


def train(  # noqa: PLR0913 - these are the options of the command
    store: Store,
    *,
    name: str | None = None,
    labeller: str | None = None,
    layers: Iterable[int] | None = None,
    features: Sequence[Feature] | None = None,
    head: Head | Literal["auto"] = "linear",
    target_rate: float = 0.01,
    sibling_rate: float = 0.05,
    seed: int = 0,
    rows: Rows = "before-said",
    target: Target = "outcome",
    guarantee: Guarantee = "conformal",
    smoothing: str | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> SavedProbe:
    """Train a probe on a labelled run and set its threshold by two guarantees.

    What is not given is chosen on training tasks, out of fold, by the headline (see
    `selection.criterion`), and the simplest wins that is not clearly worse: features, layer,
    focus and strength by ridge probes, then the head, then the smoothing. The probe is the mean
    of the probes of four folds, so that the threshold for siblings is set on scores of the very
    probes that ship, each on tasks that it has not seen. Layers are swept by the executor, each
    read by itself.

    Args:
        store: A labelled run with benign tasks.
        name: Of the probe; else it is called after the run and the layer.
        labeller: Whose labels count, where the run has several.
        layers: Blocks to choose from; else all that were recorded.
        features: What it reads of a layer; else `candidate_features` are compared.
        head: ``linear``, ``mlp``, or ``auto``, which takes the MLP where it is clearly better.
        target_rate: Share of whole benign traces that may alarm.
        sibling_rate: Share of siblings that may alarm (see `statistics.siblings`).
        seed: Of the split and the folds.
        rows: Which sentences it learns from.
        target: What is to be told.
        guarantee: Whether both rates hold on average or for this very threshold.
        smoothing: What the alarm follows; ``cusum`` without a drift learns it.
        executor: Where layers are swept.
        progress: Called with a line for each step.

    Raises:
        NotEnoughData: too few tasks, one outcome only, no benign trace, or a rate that is not
            between 0 and 1.
        StoreError: the run has no activations of a layer.
        ProbeError: there is no such smoothing or head, or the run cannot give a feature.
    """
    tell = progress or (lambda _: None)
    check_rates(target_rate, sibling_rate)
    candidates, chosen = _smoothings(smoothing), store.known_layers(layers)
    if features is not None:
        check_features(features, store.manifest.pooling)
    tell("reading labels")
    corpus = load_corpus(store, labeller, (), target, needed=True)
    split = split_by_role(corpus.traces, seed=seed)
    grid = Grid(rows=rows, seed=seed, features=None if features is None else (tuple(features),))
    run = store.place.folder
    address = store.place.url if run is None else str(run.resolve())
    sweeper = (address, labeller, target, split.train, grid)
    cells = sweep_layers(executor or LocalExecutor(), sweeper, chosen, tell)
    recipe, figures = choose(cells)
    rivals = rival_recipes(cells, head)
    layers = sorted({layer for one in (recipe, *rivals) for layer in one.layers})
    learned, calm = (part.with_activations(store, layers) for part in corpus.parts(split))
    made, compared = choose_head(learned, recipe, rivals, head, seed=seed, tell=tell)
    smooth, tried = choose_smoothing(learned, made.scores, rows, candidates)
    tell(f"{made.recipe.head} head, the alarm follows {smooth.name}")
    probe = made.mean()
    threshold = set_threshold(
        smooth.apply(probe_scores(probe, calm, made.recipe)),
        (learned, smooth.apply(made.scores)),
        rate=target_rate,
        sibling_rate=sibling_rate,
        guarantee=guarantee,
    )
    read = build_dataset(learned, made.recipe)
    card = _card(store, corpus, split, made.recipe, threshold, {**figures, **compared, **tried})
    twin = None if made.recipe.head == "linear" else settings(recipe)
    card = replace(card, name=name or card.name, smoothing=smooth.name, twin=twin)
    return SavedProbe(card, probe, RowDistance.fit(read.X))


def _smoothings(asked: str | None) -> tuple[str, ...]:
    """Return what the alarm may follow: all candidates, or the one that is asked for."""
    if asked is None:
        return (*CANDIDATES, CUSUM)
    return (asked if asked == CUSUM else parse_smoothing(asked).name,)


def _card(
    store: Store,
    corpus: Corpus,
    split: Split,
    recipe: Recipe,
    threshold: Threshold,
    figures: dict[str, float],
) -> ProbeCard:
    manifest = store.manifest
    return ProbeCard(
        name=f"{store.name}-layer-{recipe.layer}",
        model=manifest.model,
        tokenizer=manifest.tokenizer,
        **vars(recipe),
        d_model=manifest.d_model,
        row_end=manifest.row_end,
        target=corpus.target,
        labeller=next(iter(corpus.labels.values())).labeller,
        training_tasks=split.train,
        calibration_tasks=split.calibration,
        **{own: getattr(threshold, its) for own, its in LIMIT.items()},
        figures=figures,
        limits=tuple(_limits(store, threshold, figures)),
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
            "No training prompt has both outcomes: the recipe was chosen by pooled AUROC, which "
            "also rewards telling tasks apart."
        )
    elif not any(name.startswith(HEADLINE) for name in figures):
        yield (
            "Training prompts with both outcomes are too few for the headline: the recipe was "
            "chosen by the AUROC within prompts."
        )


def score_run(store: Store, saved: SavedProbe) -> Scores:
    """Return the score of each reasoning sentence of every trace of a run.

    Raises:
        ProbeError: the probe was trained on another model, or the run lacks what it reads.
    """
    return saved.scores(read_run(store, saved))


def read_run(store: Store, saved: SavedProbe) -> Corpus:
    """Return all traces of a run with what a probe reads of them, without labels.

    Raises:
        ProbeError: the probe was trained on another model, or the run lacks what it reads.
    """
    check_fits(saved.card, store)
    corpus = Corpus(tuple(store.traces()), {})
    return corpus.with_activations(store, saved.card.layers)
