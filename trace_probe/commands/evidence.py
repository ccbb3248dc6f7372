"""Commands that ask how good a probe is, and beside what."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from trace_probe.commands.options import (
    AsJson,
    BaseUrls,
    Extra,
    Labeller,
    Probe,
    Run,
    integers,
    json_object,
    show_result,
)

evidence = typer.Typer()


@evidence.command()
def evaluate(
    run: Run,
    probe: Annotated[Path | None, typer.Argument(help="A probe; without it, text only.")] = None,
    trained_on: Annotated[
        Path | None, typer.Option(help="Run the probe was trained on, to judge it on another.")
    ] = None,
    observer: Annotated[
        Path | None, typer.Option(help="What `observe` made of this run: a further baseline.")
    ] = None,
    beside: Annotated[
        list[str] | None, typer.Option(help="Detector whose scores are kept in the run.")
    ] = None,
    labeller: Labeller = None,
    seed: int = 0,
    as_json: AsJson = False,
) -> None:
    """Evaluate a probe on tasks it never saw, beside every baseline; keep the report."""
    from trace_probe.evaluation.report import format_report
    from trace_probe.probing.probe import load_probe
    from trace_probe.store import Store
    from trace_probe.training import Beside, evaluate_probe, keep, text_report

    store = Store(run)
    if probe is None and (trained_on or observer):
        raise typer.BadParameter("--trained-on and --observer need a probe to evaluate")
    if probe is None:
        report, scores = text_report(store, labeller, seed=seed, detectors=beside or ())
    else:
        others = Beside(
            Store(trained_on) if trained_on else None,
            Store(observer) if observer else None,
            tuple(beside or ()),
        )
        saved = load_probe(probe)
        report, scores = evaluate_probe(store, saved, labeller=labeller, seed=seed, beside=others)
    keep(store, report, scores)
    show_result(report.to_json(), format_report(report), as_json=as_json)


@evidence.command()
def compare(
    run: Run,
    probe: Probe,
    other: Annotated[Path, typer.Argument(help="The probe to compare it with.")],
    other_run: Annotated[
        Path | None, typer.Option(help="Run of the other probe, where it is not this one.")
    ] = None,
    labeller: Labeller = None,
    seed: int = 0,
    as_json: AsJson = False,
) -> None:
    """Set two probes, or two runs, side by side on tasks that neither has seen."""
    from trace_probe.evaluation.compare import compare_probes, format_comparison
    from trace_probe.probing.probe import load_probe
    from trace_probe.store import Store

    first = (Store(run), load_probe(probe))
    second = (Store(other_run or run), load_probe(other))
    found = compare_probes(first, second, labeller=labeller, seed=seed)
    show_result(asdict(found), format_comparison(found), as_json=as_json)


@evidence.command()
def transfer(
    probe: Annotated[Path, typer.Argument(help="A probe, whose layer and settings are used.")],
    runs: Annotated[list[Path], typer.Argument(help="A run, or several of the same layers.")],
    across: Annotated[
        Literal["category", "nudge", "run"], typer.Option(help="What differs between kinds.")
    ] = "category",
    labeller: Labeller = None,
    seed: int = 0,
    as_json: AsJson = False,
) -> None:
    """Train on one kind of trace and judge on the others: categories, nudges or runs."""
    from trace_probe.evaluation.transfer import (
        by_condition,
        format_transfer,
        leave_one_category_out,
        transfer_matrix,
    )
    from trace_probe.probing.dataset import load_corpus
    from trace_probe.probing.probe import load_probe
    from trace_probe.store import Store

    if (len(runs) > 1) != (across == "run"):
        raise typer.BadParameter("give several runs with --across run, else one")
    card = load_probe(probe).card
    kinds = {
        str(run): load_corpus(Store(run), labeller or card.labeller, (card.layer,)) for run in runs
    }
    corpus = kinds[str(runs[0])]
    if across == "category":
        found = leave_one_category_out(corpus, card.recipe, seed=seed)
    else:
        parts = by_condition(corpus, across) if across == "nudge" else kinds
        found = transfer_matrix(across, parts, card.recipe, seed=seed)
    show_result(asdict(found), format_transfer(found), as_json=as_json)


@evidence.command()
def observe(
    run: Run,
    model: Annotated[str, typer.Argument(help="The reader: hub id, folder, or organism:NAME.")],
    out: Annotated[Path, typer.Argument(help="Folder for what it held while reading.")],
    layers: Annotated[str | None, typer.Option(help="Blocks, 0-based, such as 12,18.")] = None,
    device: str | None = None,
    dtype: str | None = None,
    as_json: AsJson = False,
) -> None:
    """Let another model read the traces of a run; `evaluate --observer` probes it."""
    from trace_probe.model.local import load_model
    from trace_probe.model.tokenizer import load_tokenizer
    from trace_probe.recording.observe import observe as read
    from trace_probe.recording.observe import observer_manifest
    from trace_probe.store import Store

    store, loaded = Store(run), load_model(model, device=device, dtype=dtype)
    into = Store.create(out, observer_manifest(loaded, store, integers(layers)))
    report = read(loaded, load_tokenizer(model), store, into)
    text = f"{out}: {report.read} traces read by {loaded.name}, {report.resumed} were there"
    show_result(asdict(report), text, as_json=as_json)


@evidence.command("text-monitor")
def text_monitor(
    run: Run,
    model: Annotated[str, typer.Argument(help="Model that is asked, by the server's name for it.")],
    base_url: BaseUrls = None,
    every: Annotated[int, typer.Option(min=1, help="Sentences between two questions.")] = 1,
    extra: Extra = None,
    as_json: AsJson = False,
) -> None:
    """Ask a language model after each sentence what will follow; keep its scores in the run."""
    from trace_probe.evaluation.text_monitor import TextMonitor
    from trace_probe.store import Store

    store = Store(run)
    cache = store.cache / "text-monitor"
    monitor = TextMonitor(model, tuple(base_url or ()), every, cache, json_object(extra))
    scores = monitor.scores(list(store.traces()))
    with store.writing():
        store.write_scores(monitor.name, scores)
    text = f"{run}: {len(scores)} traces scored as {monitor.name!r}"
    show_result({"detector": monitor.name, "traces": len(scores)}, text, as_json=as_json)
