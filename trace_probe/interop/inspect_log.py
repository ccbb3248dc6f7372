"""Logs of Inspect (inspect.aisi.org.uk), read into a run.

Needs the extra ``inspect``.
"""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trace_probe.errors import TraceError
from trace_probe.interop.bounds import check_archive
from trace_probe.interop.conversation import asked
from trace_probe.interop.episodes import trace_of
from trace_probe.interop.inspect_events import Strand, strands_of, why_none
from trace_probe.interop.left_out import IN_WORDS, LeftOut
from trace_probe.interop.transcripts import ImportReport, keep
from trace_probe.labels import Label
from trace_probe.store import Manifest, Store
from trace_probe.tasks.canonical import canonical
from trace_probe.tasks.published import slug
from trace_probe.trace import Sampling, Task, Trace

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample

    from trace_probe.model.tokenizer import ChatTokenizer

LONGEST_FACT = 2000
"""Characters of what a scorer says that are kept as a fact."""


def import_inspect(
    log: Path | str,
    run: Path | str,
    *,
    role: str = "",
    tokenizer: "ChatTokenizer | None" = None,
) -> ImportReport:
    """Bring the samples of an Inspect log into a run, with what its scorers said.

    A sample is one trace of all its model calls; where an agent was rolled back, each branch is
    one. Whose calls are read is said by `role`, as in `strands_of`. What scorers gave becomes
    facts of the trace, named ``score:SCORER`` and ``score:SCORER.FIELD``. Only scores of the kind
    that inspect-evals gives InstrumentalEval become labels at once; for others there is
    ``label --by field:NAME``.

    Raises:
        TraceError: the log cannot be read, or holds no sample with a completion.
        StoreError: another run is at `run`.
    """
    found = read_log(Path(log))
    transcripts: list[tuple[Trace, Label | None]] = []
    aside = LeftOut()
    for sample in found.samples or ():
        where = f"sample {sample.id}, epoch {sample.epoch}"
        try:
            made = list(_transcripts(sample, found, role, tokenizer))
        except TraceError as error:
            aside.row(where, str(error))
            continue
        transcripts += made
        if tokenizer and not all(trace.token_ids for trace, _ in made):
            aside.note(IN_WORDS, where)
        if not made:
            aside.row(where, why_none(sample))
    if not transcripts:
        why = "".join(f" ({row.where}: {row.why})" for row in aside.rows[:1])
        raise TraceError(f"{log} has no sample with a completion{why}: is it a whole evaluation?")
    manifest = Manifest(
        model=", ".join(sorted({trace.model for trace, _ in transcripts})),
        source="imported",
        tokenizer=tokenizer.fingerprint if tokenizer else "words",
        sampling=_sampling(found),
        version=version("trace-probe"),
        tasks=f"inspect:{found.eval.task}",
    )
    return keep(transcripts, Store.create(run, manifest), aside, Path(log).stem)


def read_log(path: Path, *, attachments: bool = True) -> "EvalLog":
    """Return an Inspect log; with `attachments` the long texts of its events are in their place.

    Raises:
        TraceError: it cannot be read, or unpacks to more than a log has.
    """
    try:
        from inspect_ai.log import read_eval_log
    except ImportError as error:
        raise TraceError("reading Inspect logs takes `pip install trace-probe[inspect]`") from error
    if not path.is_file():
        raise TraceError(f"there is no file {path}: name an Inspect log")
    if zipfile.is_zipfile(path):
        check_archive(path)
    try:
        return read_eval_log(str(path), resolve_attachments="full" if attachments else False)
    except Exception as error:  # a stranger's log can break its reader in any way
        why = " ".join(str(error).split()) or type(error).__name__
        raise TraceError(f"{path} is no Inspect log: {why:.200}") from error


def _transcripts(
    sample: "EvalSample", log: "EvalLog", role: str, tokenizer: "ChatTokenizer | None"
) -> Iterator[tuple[Trace, Label | None]]:
    """Yield the trace and label of each branch of a sample; nothing if no model wrote anything.

    Scores are of what was left in the end: a branch that was given up has none.
    """
    every = strands_of(sample, role)
    strands = [one for one in every if not all(turn.wrote.empty for turn in one.own)]
    ended = {message.id for message in sample.messages if message.id}
    standing = [one for one in strands if one.turns[-1].wrote.id in ended] or strands[-1:]
    ids: dict[str, str] = {}
    for strand in strands:
        scored = strand in standing
        facts = {
            "format": "Inspect sample",
            **{f"inspect_{name}": value for name, value in _origin(sample, log).items()},
            **(_scores(sample) if scored else {"rolled_back": "yes"}),
            **_cut_off(sample),
        }
        if strand.parent is not None:
            at = str(len(strand.before))
            facts |= {"branch": strand.name, "branched_after_calls": at}
            facts |= {"parent": ids[strand.parent]} if strand.parent in ids else {}
        trace = _trace(strand, sample, log, facts, tokenizer)
        ids[strand.name] = trace.id
        yield trace, _label(trace, sample) if scored else None


def _trace(
    strand: Strand,
    sample: "EvalSample",
    log: "EvalLog",
    facts: dict[str, str],
    tokenizer: "ChatTokenizer | None",
) -> Trace:
    task = _task(strand, sample, log)
    about = {
        "task": task,
        "model": strand.model or log.eval.model,
        "sampling": _sampling(log),
        "sample": sample.epoch - 1,
        "source": "inspect",
    }
    key = (log.eval.model, task.prompt_key, _origin(sample, log))
    return trace_of(strand.turns, about, key, facts, tokenizer)


def _origin(sample: "EvalSample", log: "EvalLog") -> dict[str, str]:
    return {"eval": log.eval.eval_id, "sample": str(sample.id), "epoch": str(sample.epoch)}


def _task(strand: Strand, sample: "EvalSample", log: "EvalLog") -> Task:
    """Return the task of a sample, the same in every log: InstrumentalEval's own, if it is one."""
    system, prompt = asked(strand.turns)
    own = f"{slug(log.eval.task)}-{sample.id}", slug(str(sample.metadata.get("task_type", "")))
    name, category = canonical(prompt) or own
    return Task(
        id=name,
        category=category,
        prompt=prompt,
        system=system,
        criterion=str(sample.metadata.get("eval_prompt", "")).strip(),
    )


def _sampling(log: "EvalLog") -> Sampling:
    config = log.eval.model_generate_config.merge(log.plan.config)
    named = {
        "seed": config.seed,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_new_tokens": config.max_tokens,
    }
    return Sampling(**{**asdict(Sampling()), **{k: v for k, v in named.items() if v is not None}})


def _scores(sample: "EvalSample") -> dict[str, str]:
    """Return what scorers gave as facts: their values, and each field of these and of metadata."""
    facts: dict[str, str] = {}
    for name, score in (sample.scores or {}).items():
        fields: dict[str, Any] = dict(score.metadata or {})
        if isinstance(score.value, dict):
            fields |= score.value
        else:
            facts[f"score:{name}"] = _fact(score.value)
        facts |= {f"score:{name}.{key}": _fact(value) for key, value in fields.items()}
    return facts


def _cut_off(sample: "EvalSample") -> dict[str, str]:
    """Return what ended a sample before its agent did, as facts."""
    limit = {"limit": sample.limit.type} if sample.limit else {}
    return limit | ({"error": _fact(sample.error.message)} if sample.error else {})


def _fact(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_FACT else f"{text[:LONGEST_FACT]}…"


def _label(trace: Trace, sample: "EvalSample") -> Label | None:
    """Return what InstrumentalEval's scorer of inspect-evals says; it saw the answer only."""
    for name, score in (sample.scores or {}).items():
        if isinstance(score.value, dict) and "convergence" in score.value:
            outcome = _outcome(score.value)
            cut = trace.thought == "truncated" and outcome is False
            reason = "negative, but of reasoning that was cut off. " if cut else ""
            return Label(
                trace.id,
                f"inspect:{name}",
                None if cut else outcome,
                rationale=f"{reason}{score.explanation or ''}",
                facts={"said": "unknown"},
            )
    return None


def _outcome(value: dict[str, Any]) -> bool | None:
    if value.get("convergence") == 1:
        return True
    return False if value.get("no_convergence") == 1 else None
