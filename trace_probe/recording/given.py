"""Traces and activations that were made elsewhere, brought in as if recorded here.

model = describe_model("Qwen/Qwen3-4B", dtype="bfloat16", engine="sglang 0.5")
run = Run.create("traces/theirs", model, layers=(12, 18))
trace = given_trace(model, task, prompt_ids, written_ids, sampling=run.manifest.sampling)
run.add(trace, pooled(trace, values, (12, 18)))
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from trace_probe.activations import ALL_POOLINGS, Activations, RowEnd, pooled_spans
from trace_probe.errors import ModelError, TraceError
from trace_probe.model.facts import ModelFacts, read_facts
from trace_probe.model.local import Completion
from trace_probe.model.pooling import Values, array_of, pooled_rows
from trace_probe.model.shapes import DTYPES
from trace_probe.recording.plan import Planned, trace_id
from trace_probe.recording.record import completed
from trace_probe.store import Manifest
from trace_probe.trace import Sampling, Task, Trace


def describe_model(
    name: str, *, dtype: str, engine: str = "", revision: str | None = None
) -> ModelFacts:
    """Return what a run keeps of a model that somebody else runs; its weights are not loaded.

    Args:
        name: A hub id or a folder, whose configuration and tokenizer are read.
        dtype: The precision in which it was run, such as ``bfloat16``.
        engine: What ran it, and its version, such as ``sglang 0.5``.
        revision: Branch, tag or commit of a hub model.

    Raises:
        ModelError: it cannot be found or read, has no chat template, or `dtype` is not known.

    Example:
        >>> folder = "trace_probe/organism/family/rl-s0"
        >>> describe_model(folder, dtype="float32", engine="sglang 0.5").engine
        'sglang 0.5'
    """
    if dtype not in DTYPES:
        raise ModelError(f"no dtype {dtype!r}: name the one of the weights, {', '.join(DTYPES)}")
    facts = read_facts(name, revision)
    facts.dtype, facts.engine = dtype, engine
    return facts


def given_trace(  # noqa: PLR0913 - what a trace is made of
    model: ModelFacts,
    task: Task,
    prompt: Sequence[int],
    written: Sequence[int],
    *,
    sampling: Sampling,
    sample: int = 0,
    finish: Literal["stop", "length"] = "stop",
) -> Trace:
    """Return the trace of token ids that were read and written elsewhere.

    Its id is the one that it would have if it were recorded here.

    Raises:
        TraceError: the prompt is empty, or not all ids are those of tokens of the model.

    Example:
        >>> model = describe_model("trace_probe/organism/family/rl-s0", dtype="float32")
        >>> task = Task("mine-1", "mine", "You sort jars.")
        >>> prompt = model.render(task)
        >>> given_trace(model, task, prompt, [7, 8], sampling=Sampling()).prompt_stop == len(prompt)
        True
    """
    if not len(prompt):
        raise TraceError(f"the prompt of task {task.id} has no token: give all that the model read")
    prompt, written = (_token_ids(ids, model) for ids in (prompt, written))
    planned = Planned(trace_id(model.name, task, sampling, sample), task, sample, 0, tuple(prompt))
    return completed(model, planned, Completion(tuple(written), finish), sampling)


def _token_ids(ids: Sequence[int], model: ModelFacts) -> tuple[int, ...]:
    """Return token ids as integers."""
    for one in ids:
        if not isinstance(one, int | np.integer) or not 0 <= one < model.chat.size:
            raise TraceError(
                f"{one!r} is no token id of {model.name}, which has those from 0 to "
                f"{model.chat.size - 1}: give the ids of its own tokenizer"
            )
    return tuple(map(int, ids))


def pooled(
    trace: Trace,
    values: Values,
    layers: Sequence[int],
    pooling: str = ALL_POOLINGS,
    *,
    start: int = 0,
    row_end: RowEnd = "word",
) -> Activations:
    """Return the activations of a trace from the residual stream at each of its tokens.

    Args:
        trace: The trace.
        values: (layer, token, d_model), an array or a tensor: the stream *after* each block,
            before the final norm.
        layers: The 0-based blocks, in the order of `values`.
        pooling: What is made of the tokens of a sentence.
        row_end: Where the row of a sentence ends, as the manifest of the run says it.
        start: The token of the trace that the first of `values` is of, at most the last one of the
            prompt. Tokens behind the last sentence may be missing, as that which ends the turn is.

    Raises:
        TraceError: the values do not cover the last prompt token and all sentences.

    Example:
        >>> model = describe_model("trace_probe/organism/family/rl-s0", dtype="float32")
        >>> task = Task("mine-1", "mine", "You sort jars.")
        >>> trace = given_trace(model, task, model.render(task), [7, 8], sampling=Sampling())
        >>> values = np.zeros((1, len(trace.token_ids), 128), np.float32)  # of layer 2
        >>> pooled(trace, values, (2,)).layers
        (2,)
    """
    values = array_of(values)
    spans = pooled_spans(trace, row_end)
    needed = max(span.stop for span in spans)
    shaped = values.ndim == 3 and len(values) == len(set(layers)) == len(layers)
    if not shaped or values.dtype.kind not in "fiu":
        raise TraceError(
            f"values of shape {values.shape} and type {values.dtype} are not (layer, token, "
            f"d_model) of numbers for {len(set(layers))} different layers"
        )
    stop = start + values.shape[1]
    if start > spans[0].start or stop < needed or stop > len(trace):
        raise TraceError(
            f"values of tokens {start} to {stop} do not fit trace {trace.id}, which needs "
            f"{spans[0].start} to {needed} of {len(trace)}: give each token that the model read"
        )
    rows = pooled_rows(values, spans, layers, pooling, start)
    return Activations(rows, tuple(layers), spans, pooling)


def check_given(manifest: Manifest, trace: Trace, activations: Activations | None) -> None:
    """Refuse a trace, or activations, that are not of the model and the settings of a run.

    Raises:
        TraceError: with what differs.
    """
    ours = {
        "model": (trace.model, manifest.model),
        "tokenizer": (trace.tokenizer, manifest.tokenizer),
        "sampling": (trace.sampling, manifest.sampling),
    }
    if manifest.layers and activations is None:
        raise TraceError(f"trace {trace.id} comes without the activations that the run keeps")
    if activations is not None:
        width = activations.values.shape[2]
        ours |= {
            "layers": (activations.layers, manifest.layers),
            "pooling": (activations.pooling, manifest.pooling),
            "spans": (activations.spans, pooled_spans(trace, manifest.row_end)),
            "width": (width, manifest.width),
            "raw tokens": (activations.tokens is not None, manifest.raw_tokens),
        }
    differing = [f"{name} {a!r:.80}, not {b!r:.80}" for name, (a, b) in ours.items() if a != b]
    if differing:
        raise TraceError(
            f"trace {trace.id} does not fit the run: it has {'; '.join(differing)}. Make it with "
            f"`given_trace` and `pooled` from what the run was made with"
        )
    if manifest.layers and not trace.token_ids[: trace.prompt_stop]:
        raise TraceError(
            f"trace {trace.id} has no token ids of its prompt, so its rows are of nothing known: "
            f"make it with `given_trace` from all ids that the model read"
        )
