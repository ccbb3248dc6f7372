"""Commands that bring runs in and out: ``import``, ``export`` and ``inspect``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import trace_probe as tp
from trace_probe.commands.options import AsJson, Force, Run, check_free, show_result

if TYPE_CHECKING:
    from trace_probe.interop.transcripts import ImportReport
    from trace_probe.model.tokenizer import ChatTokenizer

interchange = typer.Typer()
inspect = typer.Typer(help="Logs of Inspect: read them, score them.", no_args_is_help=True)
interchange.add_typer(inspect, name="inspect")

Log = Annotated[Path, typer.Argument(help="An Inspect log, .eval or .json.")]
Tokenizer = Annotated[
    str,
    typer.Option(help="A model's folder or name: chats come in its tokens instead of words."),
]


@interchange.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            help="Transcripts or chats, one JSON object a line; an ATIF trajectory; an Inspect "
            "log; a run from `export`. The kind of file is recognised."
        ),
    ],
    run: Run,
    fields: Annotated[
        str, typer.Option(help="Field names, such as reasoning=cot,answer=reply,label=harm.")
    ] = "",
    tokenizer: Tokenizer = "",
    as_json: AsJson = False,
) -> None:
    """Bring foreign transcripts, chats and their labels, or an exported run, into a run."""
    from trace_probe.interop.bounds import is_inspect_log
    from trace_probe.interop.exchange import import_export, is_export
    from trace_probe.interop.fields import FieldMapping
    from trace_probe.interop.transcripts import import_transcripts

    exported, log = is_export(file), is_inspect_log(file)
    if fields and (exported or log):
        kind = "an exported run" if exported else "an Inspect log"
        raise typer.BadParameter(f"{kind} needs no field names")
    if log:
        import_inspect(file, run, tokenizer=tokenizer, as_json=as_json)
    elif exported:
        count = import_export(file, run)
        show_result({"added": count}, f"{count} added", as_json=as_json)
    else:
        names = FieldMapping.parse(fields)
        _show(import_transcripts(file, run, names, _loaded(tokenizer)), as_json=as_json)


def _loaded(tokenizer: str) -> "ChatTokenizer | None":
    from trace_probe.model.tokenizer import load_tokenizer

    return load_tokenizer(tokenizer) if tokenizer else None


def _show(report: "ImportReport", *, as_json: bool) -> None:
    """Say what an import took its entries for, what it made of them, and what it left out."""
    from trace_probe.interop.transcripts import COUNTS

    found = asdict(report)
    kinds = report.formats.items()
    formats = ", ".join(f"{n} x {name}" for name, n in kinds)
    counts = ", ".join(f"{found[name]} {name.replace('_', ' ')}" for name in (*COUNTS, "left_out"))
    text = "\n".join((f"recognised: {formats}", counts, *report.notes))
    show_result(found, text, as_json=as_json)


@interchange.command()
def export(
    run: Run,
    file: Annotated[Path, typer.Argument(help="JSON lines to write.")],
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write the traces and labels of a run to one file, which `import` reads back."""
    from trace_probe.interop.exchange import export_run

    check_free(file, force=force)
    count = export_run(tp.Store(run), file)
    show_result({"traces": count}, f"{file}: {count} traces", as_json=as_json)


@inspect.command("import")
def import_inspect(
    log: Log,
    run: Run,
    role: Annotated[
        str,
        typer.Option(
            help="Import the calls of this role. Default: `target`, or calls without a role."
        ),
    ] = "",
    tokenizer: Tokenizer = "",
    as_json: AsJson = False,
) -> None:
    """Bring the samples of an Inspect log into a run."""
    from trace_probe.interop.inspect_log import import_inspect as read

    _show(read(log, run, role=role, tokenizer=_loaded(tokenizer)), as_json=as_json)


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
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a detector's scores into a copy of the log that a run was imported from."""
    from trace_probe.interop.inspect_scores import score_inspect
    from trace_probe.monitor.detector import recorded_detector

    check_free(out, force=force)
    store = tp.Store(run)
    used = recorded_detector(store, detector, threshold=threshold)
    count = score_inspect(store, log, out, used)
    result = {"scored": count, "threshold": used.threshold, "smoothing": used.smoothing.name}
    text = f"{out}: {count} samples scored\n{used}"
    show_result(result | {"source": str(used.source)}, text, as_json=as_json)
