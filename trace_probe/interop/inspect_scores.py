"""A detector's scores written into a copy of an Inspect log, with references to its messages.

Needs the extra ``inspect``.
"""

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trace_probe.errors import NotEnoughData, TraceError
from trace_probe.interop.inspect_log import read_log
from trace_probe.monitor.detector import Detector
from trace_probe.statistics.metrics import Scores
from trace_probe.store import Store
from trace_probe.trace import Trace

if TYPE_CHECKING:
    from inspect_ai.log import EvalSample
    from inspect_ai.scorer import Score


def score_inspect(
    store: Store,
    log: Path | str,
    out: Path | str,
    detector: Detector,
) -> int:
    """Write a copy of a log with a detector's scores; return how many samples were scored.

    Samples in which nothing has a score are left as they are.
    An alarm is explained by the sentence it came at, with a reference to the message, so that
    Inspect's viewer shows it beside the transcript.

    Raises:
        TraceError: the log cannot be read, or none of the run's traces come from it.
        StoreError: the detector has not scored this run.
        NotEnoughData: the detector has no threshold.
    """
    from inspect_ai.log import write_eval_log

    found = read_log(Path(log), attachments=False)
    scores: Scores = store.scores(detector.name)
    if detector.source.kind == "none":
        raise NotEnoughData(
            f"no threshold of {detector.name} is known in {store.path}: give --threshold"
        )
    traces: dict[tuple[str, ...], list[Trace]] = defaultdict(list)
    for trace in store.traces():
        if trace.id in scores:
            traces[_origin(trace)].append(trace)
    scored = 0
    for sample in found.samples or ():
        own = traces.get((found.eval.eval_id, str(sample.id), str(sample.epoch)))
        seen = [one for one in own or () if np.isfinite(scores[one.id]).any()]
        if seen:
            trace = max(seen, key=lambda one: "rolled_back" not in one.facts)
            score = _score(trace, sample, scores[trace.id], detector)
            sample.scores = {**(sample.scores or {}), f"trace_probe/{detector.name}": score}
            scored += 1
    if not scored:
        raise TraceError(f"no scored trace of {store.path} comes from {log}: import that log first")
    write_eval_log(found, str(out))
    return scored


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

    alarm, followed = detector.alarm(scores), detector.follow(scores)
    at = int(np.nanargmax(followed)) if alarm is None else alarm
    sentence = trace.text_of(trace.sentences[at])
    name, place = _message(trace, trace.sentences[at].start, sample)
    cite = f"[M{place + 1}]"
    said = "no alarm" if alarm is None else f"alarm at: {sentence!r}"
    reference = Reference(type="message", cite=cite, id=name)
    return Score(
        value=float(np.nanmax(followed)),
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


def _message(trace: Trace, token: int, sample: "EvalSample") -> tuple[str, int]:
    """Return id and place of the message in which a token was written.

    Of messages that are equal each has its own id. One that was rolled back or compacted is not
    among those of the sample: then the last message of the model stands for it.
    """
    name = trace.calls[trace.call_at(token)].message if trace.calls else trace.facts.get("message")
    own = [(n, one.id) for n, one in enumerate(sample.messages) if one.role == "assistant"]
    found = [(n, known) for n, known in own if known and known == name] or own[-1:]
    if not found or not found[0][1]:
        raise NotEnoughData(
            f"the messages of trace {trace.id} have no ids in this log: score another copy of it"
        )
    place, known = found[0]
    return known, place
