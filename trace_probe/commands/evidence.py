"""Commands on how good a probe is and how models differ, and what prepares the explorer."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

import trace_probe as tp
from trace_probe.commands import options
from trace_probe.commands.documented import Commands, Told
from trace_probe.commands.model_options import Loading
from trace_probe.commands.options import integers, json_object, say
from trace_probe.files import MARKS

evidence = Commands()


@evidence.command()
def train(
    run: Path,
    probe: Path,
    layers: str | None = None,
    rate: options.Share = 0.01,
    guarantee: options.Guarantee = "conformal",
    sibling_rate: options.Share = 0.05,
    smoothing: str | None = None,
    features: str | None = None,
    head: Literal["linear", "mlp", "auto"] = "linear",
    target: Literal["outcome", "verbalisation", "situation"] = "outcome",
    rows: Literal["before-said", "reasoning", "prompt"] = "before-said",
    executor: options.Executor = "local",
    workers: options.Limit = None,
    labeller: str | None = None,
    seed: int = 0,
    force: bool = False,
) -> Told:
    """Train a probe on the training tasks of a run and calibrate its threshold.

    Args:
        layers: Layers to choose from: 0-based blocks, such as 12,18. Default: all recorded.
        smoothing: How scores are smoothed: max (not at all), mean:N or ema:WEIGHT. Default: chosen
            on training tasks.
        features: What the probe reads, such as last,running-max. Default: chosen on training tasks.
        head: auto takes the MLP where it is clearly better on training tasks.
        target: What the probe learns to recognise: traces that act, traces that state the plan, or
            tasks that offer the means.
        rows: What it is trained on: the sentences before the plan is stated, those before the act,
            or the prompt.
    """
    from trace_probe.execution.executor import executor_named
    from trace_probe.probing.probe import check_overwrites, save_probe
    from trace_probe.probing.recipe import parse_features
    from trace_probe.training import train as train_probe

    if (probe / MARKS["run"]).is_file():
        raise typer.BadParameter(f"{probe} is a run: name the run first, then the new probe")
    chosen, store = integers(layers), tp.Store(run)
    if not force:
        asked: dict[str, object] = {"target": target, "rows": rows, "guarantee": guarantee}
        asked |= {"model": store.manifest.model, "target_false_alarm_rate": rate}
        asked["target_sibling_rate"] = sibling_rate
        check_overwrites(probe, asked)
    saved = train_probe(
        store,
        name=probe.name,
        labeller=labeller,
        layers=chosen,
        target_rate=rate,
        seed=seed,
        rows=rows,
        target=target,
        guarantee=guarantee,
        smoothing=smoothing,
        features=None if features is None else parse_features(features.split(",")),
        head=head,
        sibling_rate=sibling_rate,
        executor=executor_named(executor, workers),
        progress=say,
    )
    if not force:
        check_overwrites(probe, {}, saved)
    save_probe(probe, saved)
    card = saved.card
    text = (
        f"{probe}: {card.target}, {card.head} head on {', '.join(card.features)} of layer "
        f"{card.layer}, C {card.C:g}, {len(card.training_tasks)} training tasks\n"
        f"threshold {card.threshold:.3f} on {card.smoothing}; {card.rates}"
    )
    return Told(card, "\n".join([text, *card.limits]))


@evidence.command()
def evaluate(
    run: Path,
    probe: Annotated[Path | None, typer.Argument()] = None,
    trained_on: Path | None = None,
    observer: Path | None = None,
    embeddings: str | None = None,
    beside: list[str] | None = None,
    labeller: str | None = None,
    seed: int = 0,
) -> Told:
    """Evaluate a probe on held-out tasks, beside every baseline, and keep the report.

    Args:
        probe: Folder of a probe. Without it only the text baselines are evaluated.
        trained_on: Run the probe was trained on, to judge it on another.
        observer: What `observe` made of this run: a further baseline.
        embeddings: Sentence encoder, hub id or folder: a further baseline.
        beside: Detector whose scores are kept in the run.
    """
    from trace_probe.emergence.standing import beside_oracle
    from trace_probe.evaluation.held_out import Beside, evaluate_probe, keep
    from trace_probe.evaluation.text_report import text_report

    store = tp.Store(run)
    read = tp.Store(observer) if observer else None
    if probe is None and (trained_on or embeddings):
        raise typer.BadParameter("--trained-on and --embeddings need a probe to evaluate")
    if probe is None:
        report, scores = text_report(
            store, labeller, seed=seed, detectors=beside or (), observer=read
        )
    else:
        from trace_probe.model.embedder import Embedder

        saved = tp.load_probe(probe)
        others = Beside(
            tp.Store(trained_on) if trained_on else None,
            read,
            Embedder(embeddings) if embeddings else None,
            tuple(beside or ()),
        )
        report, scores = evaluate_probe(store, saved, labeller=labeller, seed=seed, beside=others)
        own = scores[saved.card.name]
        report = beside_oracle(report, store, saved.card, own, seed=seed)
    keep(store, report, scores)
    return Told(report)


@evidence.command()
def compare(
    run: Path,
    probe: Path,
    other: Path,
    other_run: Path | None = None,
    labeller: str | None = None,
    seed: int = 0,
) -> Told:
    """Compare two probes, or two runs, on tasks that neither probe has seen.

    Args:
        other: The probe to compare it with.
        other_run: Run of the other probe, where it is not this one.
    """
    from trace_probe.evaluation.compare import compare_probes

    if other_run is None and probe.resolve() == other.resolve():
        raise typer.BadParameter("both probes are the same: name another one, or --other-run")
    first = (tp.Store(run), tp.load_probe(probe))
    second = (tp.Store(other_run or run), tp.load_probe(other))
    return Told(compare_probes(first, second, labeller=labeller, seed=seed))


@evidence.command()
def transfer(
    probe: Path,
    runs: list[Path],
    across: Literal["category", "nudge", "run", "target"] = "category",
    labeller: str | None = None,
    seed: int = 0,
) -> Told:
    """Train on one kind of trace and judge on the others: categories, nudges or runs.

    Args:
        probe: A probe, whose layer and settings are used.
        runs: A run, or several of the same layers.
        across: What differs between kinds.
    """
    from trace_probe.evaluation.transfer import (
        by_condition,
        by_target,
        leave_one_category_out,
        transfer_matrix,
    )
    from trace_probe.probing.corpus import load_corpus

    if (len(runs) > 1) != (across == "run"):
        raise typer.BadParameter("give several runs with --across run, else one")
    saved = tp.load_probe(probe)
    card, ranked_by = saved.card, saved.ranked_by
    kinds = {
        str(run): load_corpus(tp.Store(run), labeller or card.labeller, card.layers) for run in runs
    }
    corpus = kinds[str(runs[0])]
    if across == "category":
        aimed = corpus.aimed(card.target)
        found = leave_one_category_out(aimed, card.recipe, ranked_by=ranked_by, seed=seed)
    else:
        if across == "target":
            parts = by_target(corpus)
        else:
            several = by_condition(corpus, across) if across == "nudge" else kinds
            parts = {kind: part.aimed(card.target) for kind, part in several.items()}
        found = transfer_matrix(across, parts, card.recipe, ranked_by=ranked_by, seed=seed)
    return Told(found)


@evidence.command()
def observe(
    run: Path,
    model: str,
    out: Path,
    layers: str | None = None,
    pooling: str | None = None,
    tolerance: Annotated[float | None, typer.Option(min=0)] = None,
    *,
    loading: Loading,
) -> Told:
    """Let a model read the text of a run's traces; `evaluate --observer` probes it.

    So it reads transcripts of your own, too, and `flag` can score what it read.

    Args:
        model: The reader: hub id, folder, or organism:NAME.
        out: Folder for the activations of the reader.
        layers: Layers to keep: 0-based blocks, such as 12,18. Default: all of a model of up to 8
            blocks, else 8 evenly spaced ones.
        pooling: What is kept of each sentence, as in `record`. Default: as in the run, or
            last+mean+max if that has no activations.
        tolerance: How far two readings may differ, as a share of the greatest value. Default: by
            dtype.
    """
    from trace_probe.model.bridge import load_weights
    from trace_probe.recording.observe import check_observable, observer_manifest
    from trace_probe.recording.observe import observe as read
    from trace_probe.recording.plan import resumed_dtype

    store, chosen = tp.Store(run), integers(layers)
    check_observable(store, out, chosen, pooling)
    weights = loading.weights(model)
    loaded = load_weights(replace(weights, dtype=resumed_dtype(weights.dtype, out)))
    into = tp.Store.create(out, observer_manifest(loaded, store, chosen, pooling))
    report = read(loaded, store, into, tolerance=tolerance)
    text = (
        f"{out}: {report.read} traces read by {loaded.name}, {report.checked} of them twice; "
        f"{report.resumed} already there"
    )
    return Told(report, text)


@evidence.command("text-monitor")
def text_monitor(
    run: Path,
    model: str,
    base_url: list[str] | None = None,
    every: options.Count = 1,
    extra: str | None = None,
) -> Told:
    """Ask a language model after each sentence what will follow; keep its scores in the run.

    Args:
        model: Model that is asked, by the server's name for it.
        every: Sentences between two questions.
    """
    from trace_probe.evaluation.text_monitor import TextMonitor

    store = tp.Store(run)
    cache = store.cache / "text-monitor"
    monitor = TextMonitor(model, tuple(base_url or ()), every, cache, json_object(extra))
    scores = monitor.scores(list(store.traces()))
    with store.writing():
        store.write_scores(monitor.name, scores)
    text = f"{run}: {len(scores)} traces scored as {monitor.name!r}"
    return Told({"detector": monitor.name, "traces": len(scores)}, text)


@evidence.command()
def layers(run: Path, probe: Path) -> Told:
    """Train and score a probe on every recorded layer, for the explorer's picture of all layers."""
    from trace_probe.evaluation.layers import score_layers

    saved = tp.load_probe(probe)
    store = tp.Store(run)
    scales = score_layers(store, saved, progress=say)
    rows = [f"layer {one.layer:3}  threshold {one.threshold:.3f}" for one in scales]
    result = {"probe": saved.card.name, "layers": scales}
    return Told(result, "\n".join(rows))


@evidence.command("map")
def map_(
    run: Path,
    layer: int | None = None,
    points: Annotated[int, typer.Option(min=10, max=20000)] = 20_000,
    seed: int = 0,
) -> Told:
    """Compute the explorer's map of the sentences of a run: PCA, then UMAP, both seeded.

    Args:
        layer: Block, counted from 0. Default: the last one recorded.
        points: The most sentences to draw; of more, a random sample.
    """
    from trace_probe.errors import StoreError
    from trace_probe.probing.sentence_map import build_map, write_map

    store = tp.Store(run)
    if not store.manifest.layers:
        raise StoreError(f"{run} has no activations: a map needs a recorded or observed run")
    chosen = store.manifest.layers[-1] if layer is None else layer
    found = build_map(store, chosen, most=points, seed=seed, say=say)
    with store.writing():
        file = write_map(store, found)
    result = {"file": file, "layer": chosen, "points": len(found)}
    return Told(result, f"{file}: {len(found):,} sentences at layer {chosen}")


@evidence.command()
def study(runs: list[Path], by: str = "", labeller: str | None = None, seed: int = 0) -> Told:
    """Compare runs on the tasks they share: rates, paired differences, what the nudge adds.

    Args:
        runs: Runs of the same tasks.
        by: Break rates down by these conditions or facts; two are crossed: nudge,watched.
    """
    from trace_probe.study.study import study as compare
    from trace_probe.study.tables import format_study

    factors = tuple(filter(None, (name.strip() for name in by.split(","))))
    found = compare([tp.Store(run) for run in runs], labeller=labeller, by=factors, seed=seed)
    return Told(found, format_study(found))


@evidence.command()
def pairs() -> Told:
    """List the pairs of open models with one known difference, and those that only look so."""
    from trace_probe.study.pairs import COUSINS, PAIRS, SWITCHES, format_registry

    value = {
        "pairs": PAIRS,
        "switches": SWITCHES,
        "cousins": COUSINS,
    }
    return Told(value, format_registry())
