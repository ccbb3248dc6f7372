"""What is indexed of each line, so that a run is listed and filtered without its texts."""

import json
from collections.abc import Callable
from typing import Any

from trace_probe.activations import pooled_spans
from trace_probe.storage.records import Manifest, to_label, to_trace
from trace_probe.storage.tensors import content_key

TRACES = {
    "id": "string",
    "key": "string",
    "rows": "int64",
    "task": "string",
    "category": "string",
    "role": "string",
    "condition": "string",
    "model": "string",
    "sample": "int64",
    "tokens": "int64",
    "sentences": "int64",
    "reasoning": "int64",
    "thought": "string",
    "finish": "string",
    "source": "string",
}
"""Columns of the index of traces; `reasoning` counts sentences, `condition` is JSON."""

LABELS = {
    "id": "string",
    "labeller": "string",
    "outcome": "bool",
    "said": "int64",
    "acted": "int64",
    "silent": "bool",
}
"""Columns of the index of labels; `said` and `acted` are the tokens at which they start."""


def about_trace(manifest: Manifest) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what makes an index row of the line of a trace of this run."""

    def about(raw: dict[str, Any]) -> dict[str, Any]:
        trace = to_trace(raw)
        spans = pooled_spans(trace)
        return {
            "id": trace.id,
            "key": content_key(manifest, trace, spans),
            "rows": len(spans),
            "task": _plain(trace.task.id),
            "category": _plain(trace.task.category),
            "role": trace.task.role,
            "condition": json.dumps(trace.task.condition, sort_keys=True),
            "model": _plain(trace.model),
            "sample": trace.sample,
            "tokens": len(trace),
            "sentences": len(trace.sentences),
            "reasoning": sum(span.channel == "reasoning" for span in trace.sentences),
            "thought": trace.thought,
            "finish": trace.finish,
            "source": trace.source,
        }

    return about


def about_label(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the index row of the line of a label."""
    label = to_label(raw)
    return {
        "id": label.trace_id,
        "labeller": _plain(label.labeller),
        "outcome": label.outcome,
        "said": label.said and label.said.start,
        "acted": label.acted and label.acted.start,
        "silent": label.silent,
    }


def _plain(text: str) -> str:
    """Return a text that every encoding takes; foreign transcripts may hold half a surrogate."""
    return text.encode("utf-8", "backslashreplace").decode()
