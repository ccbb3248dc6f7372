"""Logs of Inspect (inspect.aisi.org.uk): read into a run, and scored with references back.

Needs the extra ``inspect``.
"""

import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trace_probe.errors import NotEnoughData, TraceError
from trace_probe.interop.bounds import check_archive
from trace_probe.interop.transcripts import ImportReport, keep
from trace_probe.labels import Label
from trace_probe.monitor.detector import Detector
from trace_probe.statistics.metrics import Scores
from trace_probe.store import Manifest, Store
from trace_probe.tasks.canonical import canonical
from trace_probe.tasks.sources import slug
from trace_probe.text.channels import format_of, split
from trace_probe.text.parts import after_prompt, cut_words, join_parts
from trace_probe.trace import Sampling, Task, Trace, digest

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample
    from inspect_ai.model import ChatMessageAssistant
    from inspect_ai.scorer import Score

_FINISH: dict[str, Literal["stop", "length"]] = {
    "stop": "stop",
    "max_tokens": "length",
    "model_length": "length",
}


def import_inspect(log: Path | str, run: Path | str) -> ImportReport:
    """Bring the samples of an Inspect log into a run, with what a scorer said of convergence.

    The last assistant message of a sample is the completion, all before it the prompt. Only
    scores of the kind that inspect-evals gives InstrumentalEval become labels: other scores
    say nothing of instrumental behaviour.

    Raises:
        TraceError: the log cannot be read, or holds no sample with a completion.
        StoreError: another run is at `run`.
    """
    found = _read(Path(log))
    transcripts = [pair for sample in found.samples or () for pair in _transcripts(sample, found)]
    if not transcripts:
        raise TraceError(f"{log} has no sample with a completion: is it a finished evaluation?")
    manifest = Manifest(
        model=found.eval.model,
        source="imported",
        tokenizer="words",
        sampling=_sampling(found),
        version=version("trace-probe"),
        tasks=f"inspect:{found.eval.task}",
    )
    return keep(transcripts, Store.create(run, manifest))


def score_inspect(
    store: Store,
    log: Path | str,
    out: Path | str,
    detector: Detector,
) -> int:
    """Write a copy of a log with a detector's scores; return how many samples were scored.

    An alarm is explained by the sentence it came at, with a reference to the message, so that
    Inspect's viewer shows it beside the transcript.

    Raises:
        TraceError: the log cannot be read, or none of the run's traces come from it.
        StoreError: the detector has not scored this run.
        NotEnoughData: the detector has no threshold.
    """
    from inspect_ai.log import write_eval_log

    found = _read(Path(log))
    scores: Scores = store.scores(detector.name)
    if detector.source.kind == "none":
        raise NotEnoughData(
            f"no threshold of {detector.name} is known in {store.path}: give --threshold"
        )
    traces = {_origin(trace): trace for trace in store.traces() if trace.id in scores}
    scored = 0
    for sample in found.samples or ():
        trace = traces.get((found.eval.eval_id, str(sample.id), str(sample.epoch)))
        if trace is not None:
            score = _score(trace, sample, scores[trace.id], detector)
            sample.scores = {**(sample.scores or {}), f"trace_probe/{detector.name}": score}
            scored += 1
    if not scored:
        raise TraceError(f"no trace of {store.path} comes from {log}: import that log first")
    write_eval_log(found, str(out))
    return scored


def _read(path: Path) -> "EvalLog":
    try:
        from inspect_ai.log import read_eval_log
    except ImportError as error:
        raise TraceError("reading Inspect logs takes `pip install trace-probe[inspect]`") from error
    if not path.is_file():
        raise TraceError(f"there is no file {path}: name an Inspect log")
    if zipfile.is_zipfile(path):
        check_archive(path)
    try:
        return read_eval_log(str(path))
    except Exception as error:  # a stranger's log can break its reader in any way
        why = " ".join(str(error).split()) or type(error).__name__
        raise TraceError(f"{path} is no Inspect log: {why:.200}") from error


def _transcripts(sample: "EvalSample", log: "EvalLog") -> Iterator[tuple[Trace, Label | None]]:
    """Yield the trace and label of a sample, or nothing if the model did not answer."""
    message = _last_message(sample)
    if message is not None:
        trace = _trace(sample, message, log)
        yield trace, _label(trace, sample)


def _last_message(sample: "EvalSample") -> "ChatMessageAssistant | None":
    own = [message for message in sample.messages if message.role == "assistant"]
    return own[-1] if own else None


def _trace(sample: "EvalSample", message: "ChatMessageAssistant", log: "EvalLog") -> Trace:
    task, parts = _task(sample, log), _parts(message)
    before = sample.messages[: sample.messages.index(message)]
    prompt = "\n\n".join(one.text for one in before if one.text) + "\n\n"
    if parts[0]:
        completion, cut = join_parts(*parts, closed=bool(parts[1].strip()))
    else:
        completion = parts[1]
        cut = split(completion, 0, format_of(completion), prefilled=False)
    text = prompt + completion
    offsets, layout = cut_words(text, after_prompt(prompt, cut))
    origin = {"eval": log.eval.eval_id, "sample": str(sample.id), "epoch": str(sample.epoch)}
    return Trace(
        digest(log.eval.model, task.prompt_key, origin, text),
        task,
        log.eval.model,
        _sampling(log),
        sample.epoch - 1,
        text,
        offsets,
        **layout._asdict(),
        tokenizer="words",
        finish=_FINISH.get(sample.output.stop_reason if sample.output.choices else "", "unknown"),
        source="inspect",
        facts={f"inspect_{name}": value for name, value in origin.items()},
    )


def _task(sample: "EvalSample", log: "EvalLog") -> Task:
    """Return the task of a sample, the same in every log: InstrumentalEval's own, if it is one."""
    system = [one.text for one in sample.messages if one.role == "system"]
    user = [one.text for one in sample.messages if one.role == "user"]
    prompt = "\n\n".join(user)
    own = f"{slug(log.eval.task)}-{sample.id}", slug(str(sample.metadata.get("task_type", "")))
    name, category = canonical(prompt) or own
    return Task(
        id=name,
        category=category,
        prompt=prompt,
        system="\n\n".join(system) or None,
        criterion=str(sample.metadata.get("eval_prompt", "")).strip(),
    )


def _parts(message: "ChatMessageAssistant") -> tuple[str, str]:
    """Return reasoning and answer."""
    if isinstance(message.content, str):
        return "", message.content
    reasoning = [
        c.summary or "" if c.redacted else c.reasoning
        for c in message.content
        if c.type == "reasoning"
    ]
    return "\n\n".join(reasoning), "\n".join(c.text for c in message.content if c.type == "text")


def _sampling(log: "EvalLog") -> Sampling:
    config = log.eval.model_generate_config.merge(log.plan.config)
    named = {
        "seed": config.seed,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_new_tokens": config.max_tokens,
    }
    return Sampling(**{**asdict(Sampling()), **{k: v for k, v in named.items() if v is not None}})


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


def _origin(trace: Trace) -> tuple[str, str, str]:
    eval_, sample, epoch = (
        trace.facts.get(f"inspect_{n}", "") for n in ("eval", "sample", "epoch")
    )
    return eval_, sample, epoch


def _score(
    trace: Trace, sample: "EvalSample", scores: "np.ndarray[Any, Any]", detector: Detector
) -> "Score":
    """Return the score of one sample: the highest of its sentences, and where the alarm came."""
    from inspect_ai.scorer import Reference, Score

    message = _last_message(sample)
    if message is None or message.id is None or not np.isfinite(scores).any():
        raise NotEnoughData(f"trace {trace.id} has no score, or its message no id")
    cite = f"[M{sample.messages.index(message) + 1}]"
    alarm = detector.alarm(scores)
    said = "no alarm" if alarm is None else f"alarm at: {trace.text_of(trace.sentences[alarm])!r}"
    reference = Reference(type="message", cite=cite, id=message.id)
    return Score(
        value=float(np.nanmax(detector.follow(scores))),
        explanation=f"{said} {cite}",
        metadata={
            "scanner_references": [reference.model_dump()],
            "alarm": alarm is not None,
            "sentence": alarm,
            "threshold": detector.threshold,
            "smoothing": detector.smoothing.name,
            "source": str(detector.source),
        },
    )
