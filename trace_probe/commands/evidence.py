"""Commands on how good a probe is and how models differ, and what prepares the explorer."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

import trace_probe as tp
from trace_probe.commands import options
from trace_probe.commands.model_options import Loading, loads_model
from trace_probe.commands.options import integers, json_object, say, show_result
from trace_probe.files import MARKS

evidence = typer.Typer()


@evidence.command()
def train(
    run: options.Run,
    probe: options.Probe,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Layers to choose from: 0-based blocks, such as 12,18. Default: all recorded."
        ),
    ] = None,
    rate: options.AlarmRate = 0.01,
    guarantee: options.GuaranteeKind = "conformal",
    sibling_rate: options.SiblingRate = 0.05,
    smoothing: Annotated[
        str | None,
        typer.Option(
            help="How scores are smoothed: max (not at all), mean:N or ema:WEIGHT. Default: "
            "chosen on training tasks."
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="What the probe reads, such as last,running-max. Default: chosen on training "
            "tasks."
        ),
    ] = None,
    head: Annotated[
        Literal["linear", "mlp", "auto"],
        typer.Option(help="auto takes the MLP where it is clearly better on training tasks."),
    ] = "linear",
    target: Annotated[
        Literal["outcome", "verbalisation", "situation"],
        typer.Option(
            help="What the probe learns to recognise: traces that act, traces that state the "
            "plan, or tasks that offer the means."
        ),
    ] = "outcome",
    rows: Annotated[
        Literal["before-said", "reasoning", "prompt"],
        typer.Option(
            help="What it is trained on: the sentences before the plan is stated, those before "
            "the act, or the prompt."
        ),
    ] = "before-said",
    executor: options.ExecutorName = "local",
    workers: options.Workers = None,
    labeller: options.Labeller = None,
    seed: options.Seed = 0,
    force: options.Force = False,
    as_json: options.AsJson = False,
) -> None:
    """Train a probe on the training tasks of a run and calibrate its threshold."""
    from trace_probe.execution.executor import executor_named
    from trace_probe.probing.features import parse_features
    from trace_probe.probing.probe import check_overwrites, save_probe
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
    show_result(card, "\n".join([text, *card.limits]), as_json=as_json)


@evidence.command()
def evaluate(
    run: options.Run,
    probe: Annotated[
        Path | None,
        typer.Argument(help="Folder of a probe. Without it only the text baselines are evaluated."),
    ] = None,
    trained_on: Annotated[
        Path | None, typer.Option(help="Run the probe was trained on, to judge it on another.")
    ] = None,
    observer: Annotated[
        Path | None, typer.Option(help="What `observe` made of this run: a further baseline.")
    ] = None,
    embeddings: Annotated[
        str | None, typer.Option(help="Sentence encoder, hub id or folder: a further baseline.")
    ] = None,
    beside: Annotated[
        list[str] | None, typer.Option(help="Detector whose scores are kept in the run.")
    ] = None,
    labeller: options.Labeller = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Evaluate a probe on held-out tasks, beside every baseline, and keep the report."""
    from trace_probe.emergence.standing import beside_oracle
    from trace_probe.evaluation.held_out import Beside, evaluate_probe, keep
    from trace_probe.evaluation.report import format_report
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
    show_result(report, format_report(report), as_json=as_json)


@evidence.command()
def compare(
    run: options.Run,
    probe: options.Probe,
    other: Annotated[Path, typer.Argument(help="The probe to compare it with.")],
    other_run: Annotated[
        Path | None, typer.Option(help="Run of the other probe, where it is not this one.")
    ] = None,
    labeller: options.Labeller = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Compare two probes, or two runs, on tasks that neither probe has seen."""
    from trace_probe.evaluation.compare import compare_probes, format_comparison

    if other_run is None and probe.resolve() == other.resolve():
        raise typer.BadParameter("both probes are the same: name another one, or --other-run")
    first = (tp.Store(run), tp.load_probe(probe))
    second = (tp.Store(other_run or run), tp.load_probe(other))
    found = compare_probes(first, second, labeller=labeller, seed=seed)
    show_result(found, format_comparison(found), as_json=as_json)


@evidence.command()
def transfer(
    probe: Annotated[Path, typer.Argument(help="A probe, whose layer and settings are used.")],
    runs: Annotated[list[Path], typer.Argument(help="A run, or several of the same layers.")],
    across: Annotated[
        Literal["category", "nudge", "run", "target"],
        typer.Option(help="What differs between kinds."),
    ] = "category",
    labeller: options.Labeller = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Train on one kind of trace and judge on the others: categories, nudges or runs."""
    from trace_probe.evaluation.transfer import (
        by_condition,
        by_target,
        format_transfer,
        leave_one_category_out,
        transfer_matrix,
    )
    from trace_probe.probing.dataset import load_corpus

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
    show_result(found, format_transfer(found), as_json=as_json)


@evidence.command()
@loads_model
def observe(
    run: options.Run,
    model: Annotated[str, typer.Argument(help="The reader: hub id, folder, or organism:NAME.")],
    out: Annotated[Path, typer.Argument(help="Folder for the activations of the reader.")],
    layers: Annotated[
        str | None,
        typer.Option(help="Layers to keep: 0-based blocks, such as 12,18. Default: all."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="How far two readings may differ, as a share of the greatest value. Default: by "
            "dtype.",
        ),
    ] = None,
    as_json: options.AsJson = False,
    *,
    loading: Loading,
) -> None:
    """Let another model read the traces of a run; `evaluate --observer` probes it."""
    from trace_probe.model.bridge import load_weights
    from trace_probe.recording.observe import check_observable, observer_manifest
    from trace_probe.recording.observe import observe as read
    from trace_probe.recording.plan import resumed_dtype

    store, chosen = tp.Store(run), integers(layers)
    check_observable(store, out, chosen)
    weights = loading.weights(model)
    loaded = load_weights(replace(weights, dtype=resumed_dtype(weights.dtype, out)))
    into = tp.Store.create(out, observer_manifest(loaded, store, chosen))
    report = read(loaded, store, into, tolerance=tolerance)
    text = (
        f"{out}: {report.read} traces read by {loaded.name}, {report.checked} of them twice; "
        f"{report.resumed} already there"
    )
    show_result(report, text, as_json=as_json)


@evidence.command("text-monitor")
def text_monitor(
    run: options.Run,
    model: Annotated[str, typer.Argument(help="Model that is asked, by the server's name for it.")],
    base_url: options.BaseUrls = None,
    every: Annotated[int, typer.Option(min=1, help="Sentences between two questions.")] = 1,
    extra: options.Extra = None,
    as_json: options.AsJson = False,
) -> None:
    """Ask a language model after each sentence what will follow; keep its scores in the run."""
    from trace_probe.evaluation.text_monitor import TextMonitor

    store = tp.Store(run)
    cache = store.cache / "text-monitor"
    monitor = TextMonitor(model, tuple(base_url or ()), every, cache, json_object(extra))
    scores = monitor.scores(list(store.traces()))
    with store.writing():
        store.write_scores(monitor.name, scores)
    text = f"{run}: {len(scores)} traces scored as {monitor.name!r}"
    show_result({"detector": monitor.name, "traces": len(scores)}, text, as_json=as_json)


@evidence.command()
def layers(run: options.Run, probe: options.Probe, as_json: options.AsJson = False) -> None:
    """Train and score a probe on every recorded layer, for the explorer's picture of all layers."""
    from trace_probe.evaluation.layers import score_layers

    saved = tp.load_probe(probe)
    store = tp.Store(run)
    scales = score_layers(store, saved, progress=say)
    rows = [f"layer {one.layer:3}  threshold {one.threshold:.3f}" for one in scales]
    result = {"probe": saved.card.name, "layers": scales}
    show_result(result, "\n".join(rows), as_json=as_json)


@evidence.command("map")
def map_(
    run: options.Run,
    layer: Annotated[
        int | None, typer.Option(help="Block, counted from 0. Default: the last one recorded.")
    ] = None,
    points: Annotated[
        int,
        typer.Option(
            min=10, max=20_000, help="The most sentences to draw; of more, a random sample."
        ),
    ] = 20_000,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Compute the explorer's map of the sentences of a run: PCA, then UMAP, both seeded."""
    from trace_probe.errors import StoreError
    from trace_probe.probing.sentence_map import build_map, write_map

    store = tp.Store(run)
    if not store.manifest.layers:
        raise StoreError(f"{run} has no activations: a map needs a recorded run")
    chosen = store.manifest.layers[-1] if layer is None else layer
    found = build_map(store, chosen, most=points, seed=seed, say=say)
    with store.writing():
        file = write_map(store, found)
    result = {"file": file, "layer": chosen, "points": len(found)}
    show_result(result, f"{file}: {len(found):,} sentences at layer {chosen}", as_json=as_json)


@evidence.command()
def study(
    runs: Annotated[list[Path], typer.Argument(help="Runs of the same tasks.")],
    by: Annotated[
        str,
        typer.Option(
            help="Break rates down by these conditions or facts; two are crossed: nudge,watched."
        ),
    ] = "",
    labeller: options.Labeller = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Compare runs on the tasks they share: rates, paired differences, what the nudge adds."""
    from trace_probe.study.study import study as compare
    from trace_probe.study.tables import format_study

    factors = tuple(filter(None, (name.strip() for name in by.split(","))))
    found = compare([tp.Store(run) for run in runs], labeller=labeller, by=factors, seed=seed)
    show_result(found, format_study(found), as_json=as_json)


@evidence.command()
def pairs(as_json: options.AsJson = False) -> None:
    """List the pairs of open models with one known difference, and those that only look so."""
    from trace_probe.study.pairs import COUSINS, PAIRS, SWITCHES, format_registry

    value = {
        "pairs": PAIRS,
        "switches": SWITCHES,
        "cousins": COUSINS,
    }
    show_result(value, format_registry(), as_json=as_json)
