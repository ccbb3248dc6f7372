"""Commands that bring runs in and out: ``import``, ``export`` and ``inspect``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

import trace_probe as tp
from trace_probe.commands.documented import Commands, Told
from trace_probe.commands.options import check_free
from trace_probe.errors import TraceError

if TYPE_CHECKING:
    from trace_probe.interop.transcripts import ImportReport
    from trace_probe.model.tokenizer import ChatTokenizer

interchange = Commands()
inspect = Commands(help="Logs of Inspect: read them, score them.", no_args_is_help=True)
interchange.add_typer(inspect, name="inspect")


@interchange.command("import")
def import_(file: Path, run: Path, fields: str = "", tokenizer: str = "") -> Told:
    """Bring foreign transcripts, chats and their labels, or an exported run, into a run.

    Args:
        file: Transcripts or chats, one JSON object a line; an ATIF trajectory; an Inspect log; a
            run from `export`. The kind of file is recognised.
        fields: Field names, such as reasoning=cot,answer=reply,label=harm.
        tokenizer: A model's folder or name: texts come in its tokens instead of words, so that it
            can read them again (`record --recapture`).
    """
    from trace_probe.interop.bounds import is_inspect_log
    from trace_probe.interop.exchange import import_export, is_export
    from trace_probe.interop.fields import FieldMapping
    from trace_probe.interop.transcripts import import_transcripts

    _check_file(file, run, "import")
    exported, log = is_export(file), is_inspect_log(file)
    if fields and (exported or log):
        kind = "an exported run" if exported else "an Inspect log"
        raise typer.BadParameter(f"{kind} needs no field names")
    if log:
        return import_inspect(file, run, tokenizer=tokenizer)
    if exported:
        count = import_export(file, run)
        return Told({"added": count}, f"{count} added")
    names = FieldMapping.parse(fields)
    return _imported(import_transcripts(file, run, names, _loaded(tokenizer)))


def _check_file(file: Path, run: Path, command: str) -> None:
    """Refuse a folder where a file is to be read; perhaps the two were named the other way round.

    Raises:
        TraceError: it is a folder.
    """
    if file.is_dir():
        order = f"{run} {file}" if run.is_file() else "FILE RUN"
        raise TraceError(
            f"{file} is a folder: name the file that is read first, then the run, "
            f"`trace-probe {command} {order}`"
        )


def _loaded(tokenizer: str) -> "ChatTokenizer | None":
    from trace_probe.model.tokenizer import load_tokenizer

    return load_tokenizer(tokenizer) if tokenizer else None


def _imported(report: "ImportReport") -> Told:
    """Return what an import took its entries for, what it made of them, and what it left out."""
    from trace_probe.interop.transcripts import COUNTS

    found = asdict(report)
    kinds = report.formats.items()
    formats = ", ".join(f"{n} x {name}" for name, n in kinds)
    counts = ", ".join(f"{found[name]} {name.replace('_', ' ')}" for name in (*COUNTS, "left_out"))
    text = "\n".join((f"recognised: {formats}", counts, *report.notes))
    return Told(found, text)


@interchange.command()
def export(run: Path, file: Path, force: bool = False) -> Told:
    """Write the traces and labels of a run to one file, which `import` reads back.

    Args:
        file: JSON lines to write.
    """
    from trace_probe.interop.exchange import export_run

    check_free(file, force=force)
    count = export_run(tp.Store(run), file)
    return Told({"traces": count}, f"{file}: {count} traces")


@inspect.command("import")
def import_inspect(log: Path, run: Path, role: str = "", tokenizer: str = "") -> Told:
    """Bring the samples of an Inspect log into a run.

    Args:
        role: Import the calls of this role. Default: `target`, or calls without a role.
        tokenizer: A model's folder or name: chats come in its tokens instead of words, so that it
            can read them again (`record --recapture`).
    """
    from trace_probe.interop.inspect_log import import_inspect as read

    _check_file(log, run, "inspect import")
    return _imported(read(log, run, role=role, tokenizer=_loaded(tokenizer)))


@inspect.command()
def score(
    run: Path,
    log: Path,
    out: Path,
    *,
    detector: str,
    threshold: float | None = None,
    force: bool = False,
) -> Told:
    """Write a detector's scores into a copy of the log that a run was imported from.

    Args:
        out: Copy of the log to write, with the scores.
        detector: Whose scores, as `flag` or `evaluate` kept them.
        threshold: Alarm from this score on; by default as `flag` does.
    """
    from trace_probe.interop.inspect_scores import score_inspect
    from trace_probe.monitor.detector import recorded_detector

    check_free(out, force=force)
    store = tp.Store(run)
    used = recorded_detector(store, detector, threshold=threshold)
    count = score_inspect(store, log, out, used)
    result = {"scored": count, "threshold": used.threshold, "smoothing": used.smoothing.name}
    text = f"{out}: {count} samples scored\n{used}"
    return Told(result | {"source": str(used.source)}, text)
