"""Commands that bring runs in and out: ``import``, ``export`` and ``inspect``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trace_probe.commands.options import AsJson, Run, show_result

interchange = typer.Typer()
inspect = typer.Typer(help="Logs of Inspect: read them, score them.", no_args_is_help=True)
interchange.add_typer(inspect, name="inspect")

Log = Annotated[Path, typer.Argument(help="An Inspect log, .eval or .json.")]


@interchange.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="Transcripts, one JSON object a line.")],
    run: Run,
    fields: Annotated[
        str, typer.Option(help="Field names, such as reasoning=cot,answer=reply,label=harm.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Bring foreign transcripts and their labels, or an exported run, into a run."""
    from trace_probe.interop.exchange import import_export, is_export
    from trace_probe.interop.fields import FieldMapping
    from trace_probe.interop.transcripts import import_transcripts

    if is_export(file):
        if fields:
            raise typer.BadParameter("an exported run needs no field names")
        report = {"added": import_export(file, run)}
    else:
        report = asdict(import_transcripts(file, run, FieldMapping.parse(fields)))
    show_result(report, ", ".join(f"{n} {key}" for key, n in report.items()), as_json=as_json)


@interchange.command()
def export(
    run: Run,
    file: Annotated[Path, typer.Argument(help="JSON lines to write.")],
    as_json: AsJson = False,
) -> None:
    """Write the traces and labels of a run to one file, which `import` reads back."""
    from trace_probe.interop.exchange import export_run
    from trace_probe.store import Store

    count = export_run(Store(run), file)
    show_result({"traces": count}, f"{file}: {count} traces", as_json=as_json)


@inspect.command("import")
def import_inspect(log: Log, run: Run, as_json: AsJson = False) -> None:
    """Bring the samples of an Inspect log into a run."""
    from trace_probe.interop.inspect_log import import_inspect as read

    report = asdict(read(log, run))
    show_result(report, ", ".join(f"{n} {key}" for key, n in report.items()), as_json=as_json)


@inspect.command()
def score(
    run: Run,
    log: Log,
    out: Annotated[Path, typer.Argument(help="Copy of the log to write, with the scores.")],
    *,
    detector: Annotated[str, typer.Option(help="Whose scores, as `flag` or `evaluate` kept them.")],
    threshold: Annotated[
        float | None, typer.Option(help="Alarm from this score on; by default as `flag` does.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a detector's scores into a copy of the log that a run was imported from."""
    from trace_probe.interop.inspect_scores import score_inspect
    from trace_probe.monitor.detector import recorded_detector
    from trace_probe.store import Store

    store = Store(run)
    used = recorded_detector(store, detector, threshold=threshold)
    count = score_inspect(store, log, out, used)
    result = {"scored": count, "threshold": used.threshold, "smoothing": used.smoothing.name}
    text = f"{out}: {count} samples scored\n{used}"
    show_result(result | {"source": str(used.source)}, text, as_json=as_json)
