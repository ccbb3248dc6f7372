"""What a run is and what its lines say: values to JSON and back."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any, Literal, get_args

from trace_probe.activations import Pooling, parse_poolings
from trace_probe.errors import StoreError, TraceError, TraceProbeError
from trace_probe.labels import Label
from trace_probe.storage.names import checked_name
from trace_probe.trace import (
    CHECKED,
    Channel,
    Finish,
    ModelCall,
    Role,
    Sampling,
    Span,
    Task,
    Thought,
    ToolCall,
    ToolResult,
    Trace,
)

SCHEMA = 2
"""Of runs that are made now: everything in them carries a checksum."""
READABLE = (1, 2)
CHANNELS = frozenset(get_args(Channel))
LATER = ("calls", "actions")
"""Fields of traces that older versions do not know; left out where they are empty."""
MOST_WIDE = 2**24
"""No model has so wide a residual stream; a wider one is a damaged number."""


@dataclass(frozen=True)
class Manifest:
    """What a run is, fixed when it is created."""

    __pydantic_config__ = CHECKED

    model: str
    """Name and revision of the model that was recorded or that wrote the transcripts."""
    source: Literal["recorded", "imported"] = "recorded"
    layers: tuple[int, ...] = ()
    """Recorded blocks, 0-based; empty if there are no activations."""
    n_layers: int = 0
    d_model: int = 0
    pooling: str = "mean"
    """How the tokens of a sentence become its row: ``last``, ``mean``, ``max``, or several joined
    by ``+``, which then lie side by side in the row."""
    raw_tokens: bool = False
    """Whether each token is kept beside the pooled rows."""
    dtype: str = ""
    """Precision in which the model ran."""
    dtype_chosen: str = ""
    """How that was chosen; empty if the user named it."""
    tokenizer: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    tasks: str = ""
    """Where the tasks came from, for example ``instrumentaleval@26967816``."""
    version: str = ""
    """Version of trace_probe."""
    schema: int = SCHEMA
    chat_template: str = ""
    """Digest of the template that made prompts of tasks; empty where none is known."""
    base: str = ""
    """Of a model with an adapter, name and revision of the model beneath it."""
    engine: str = ""
    """What ran the model, and its version, such as ``vllm 0.32.0``; empty for transformers."""

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        """Return the poolings of a row, in the order in which they lie in it."""
        return parse_poolings(self.pooling)

    @property
    def width(self) -> int:
        """Return how many numbers a row of one layer holds."""
        return len(self.poolings) * self.d_model


def to_line(value: Trace | Label) -> bytes:
    """Return a trace or a label as one line of JSON."""
    # `asdict` would copy every token id. Foreign transcripts may hold half a surrogate pair;
    # json reads back what this writes.
    kept = {name: each for name, each in vars(value).items() if each or name not in LATER}
    text = json.dumps(kept, ensure_ascii=False, default=vars)
    return (text + "\n").encode(errors="surrogatepass")


def checked_line(value: Trace | Label) -> bytes:
    """Return the line of a trace or a label, if it can be read again.

    Raises:
        StoreError: a reader would call it broken.
    """
    line = to_line(value)
    raw = json.loads(line)
    if isinstance(value, Trace):
        to_trace(raw)
    else:
        to_label(raw)
    return line


def manifest_fields(manifest: Manifest) -> dict[str, Any]:
    """Return a manifest as plain values, as older versions read it where these are empty."""
    return {k: v for k, v in asdict(manifest).items() if v or k not in ("base", "engine")}


def to_manifest(raw: dict[str, Any], file: object) -> Manifest:
    """Return the manifest that a JSON object holds.

    Raises:
        StoreError: it holds none.
    """
    try:
        return _manifest(raw)
    except (
        *(KeyError, TypeError, ValueError, AttributeError, OverflowError),
        TraceProbeError,
    ) as error:
        raise StoreError(f"{file} is not a manifest: {error}") from error


def _manifest(raw: dict[str, Any]) -> Manifest:
    layers = tuple(raw["layers"])
    found = Manifest(**{**raw, "layers": layers, "sampling": _sampling(raw["sampling"])})
    _texts(found, "model", "source", "pooling", "dtype", "tokenizer", "tasks", "version")
    _texts(found, "chat_template", "dtype_chosen", "base", "engine")
    _counts("d_model", [found.d_model], MOST_WIDE)
    _counts("n_layers", [found.n_layers])
    _counts("layers", layers)
    if len(set(layers)) < len(layers):
        raise ValueError("a layer is there twice")
    if type(found.raw_tokens) is not bool:
        raise TypeError("raw_tokens is neither true nor false")
    parse_poolings(found.pooling)
    return found


def _sampling(raw: dict[str, Any]) -> Sampling:
    found = Sampling(**raw)
    _counts("max_new_tokens", [found.max_new_tokens])
    numbers = found.seed, found.temperature, found.top_p
    if not {type(each) for each in numbers} <= {int, float} or not isfinite(found.temperature):
        raise TypeError("sampling holds something else than numbers")
    return found


def _texts(found: object, *names: str) -> None:
    """Raise TypeError if one of these fields is no text."""
    wrong = [name for name in names if not isinstance(getattr(found, name), str)]
    if wrong:
        raise TypeError(f"{', '.join(wrong)} must be text")


def _text_by_name(name: str, value: object) -> None:
    """Raise TypeError unless a field holds texts by name."""
    if not isinstance(value, dict) or not {type(each) for each in value.values()} <= {str}:
        raise TypeError(f"{name} must hold texts by name")


def _counts(name: str, values: Sequence[object], most: int = 2**31) -> None:
    """Raise TypeError unless all are whole numbers, of at least 0 and below `most`."""
    if not set(map(type, values)) <= {int}:
        raise TypeError(f"{name} must be whole numbers")
    if values and not (min(values) >= 0 and max(values) < most):  # type: ignore[type-var,operator]
        raise ValueError(f"{name} holds a number that cannot be")


def _numbers(name: str, rows: Sequence[Sequence[object]]) -> None:
    """Raise TypeError unless all are numbers."""
    if not all(set(map(type, row)) <= {int, float} for row in rows):
        raise TypeError(f"{name} must be numbers")


def _one_of(name: str, value: object, kinds: object) -> None:
    if value not in get_args(kinds):
        raise ValueError(f"{name} cannot be {value!r:.40}")


def differences(ours: Manifest, theirs: Manifest) -> str:
    """Return the names of the settings in which two manifests differ.

    Versions and schemas may, and how the precision was chosen; a chat template that is not
    known differs from none. Imported transcripts may come from several files.
    """
    left, right = asdict(ours), asdict(theirs)
    for each in (left, right):
        each["engine"] = each["engine"].partition(" ")[0]
    for free in ("version", "schema", "dtype_chosen"):
        left[free] = right[free]
    if ours.source == theirs.source == "imported":
        left["tasks"] = right["tasks"]
    if not (ours.chat_template and theirs.chat_template):
        left["chat_template"] = right["chat_template"]
    return ", ".join(key for key in left if left[key] != right[key])


def to_trace(raw: dict[str, Any]) -> Trace:
    """Return the trace that a JSON object holds.

    Raises:
        StoreError: it holds none.
    """
    try:
        return _trace(raw)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        name = f"{raw.get('id')!s:.40}"
        raise StoreError(f"trace {name} is not as this version wrote it: {error}") from error


def _trace(raw: dict[str, Any]) -> Trace:
    checked_name(raw["id"], "a trace")
    offsets, ids = tuple(raw["offsets"]), tuple(raw["token_ids"])
    _counts("offsets", offsets, len(raw["text"]) + 1)
    _counts("token_ids", ids)
    _counts("sample", [raw["sample"]])
    found = Trace(
        **{
            **raw,
            "task": _task(raw["task"]),
            "sampling": _sampling(raw["sampling"]),
            "offsets": offsets,
            "token_ids": ids,
            "spans": tuple(_span(span) for span in raw["spans"]),
            "sentences": tuple(_span(span) for span in raw["sentences"]),
            "uncertainty": tuple(tuple(row) for row in raw.get("uncertainty", ())),
            "calls": tuple(_call(call) for call in raw.get("calls", ())),
            "actions": tuple(_action(action) for action in raw.get("actions", ())),
        }
    )
    _texts(found, "model", "text", "tokenizer", "source")
    _text_by_name("facts", found.facts)
    _numbers("uncertainty", found.uncertainty)
    if found.uncertainty and len(found.uncertainty) != len(found.sentences):
        raise ValueError("uncertainty has not as many rows as there are sentences")
    _one_of("thought", found.thought, Thought)
    _one_of("finish", found.finish, Finish)
    return found


def _call(raw: dict[str, Any]) -> ModelCall:
    offsets, ids = tuple(raw["offsets"]), tuple(raw["token_ids"])
    results = tuple(ToolResult(**result) for result in raw["results"])
    found = ModelCall(**{**raw, "offsets": offsets, "token_ids": ids, "results": results})
    _texts(found, "text", "agent", "message")
    _counts("start and kept", (found.start, found.kept))
    _counts("offsets", offsets, len(found.text) + 1)
    _counts("token_ids", ids)
    _one_of("thought", found.thought, Thought)
    _one_of("finish", found.finish, Finish)
    for result in results:
        _texts(result, "content", "name", "call_id", "error")
    return found


def _action(raw: dict[str, Any]) -> ToolCall:
    found = ToolCall(**{**raw, "span": _span(raw["span"])})
    _texts(found, "name", "arguments", "id")
    return found


def _task(raw: dict[str, Any]) -> Task:
    found = Task(**raw)
    _texts(found, "id", "category", "prompt", "criterion")
    _text_by_name("condition", found.condition)
    _one_of("role", found.role, Role)
    if found.system is not None:
        _texts(found, "system")
    return found


def _span(raw: dict[str, Any]) -> Span:
    span = Span(**raw)
    if type(span.start) is not int or type(span.stop) is not int or span.channel not in CHANNELS:
        raise TypeError(f"{raw!r:.60} is no span")
    return span


def to_label(raw: dict[str, Any]) -> Label:
    """Return the label that a JSON object holds.

    Raises:
        StoreError: it holds none.
    """
    try:
        return _label(raw)
    except (KeyError, TypeError, ValueError, AttributeError, TraceError) as error:
        name = f"{raw.get('trace_id')!s:.40}"
        raise StoreError(
            f"label of trace {name} is not as this version wrote it: {error}"
        ) from error


def _label(raw: dict[str, Any]) -> Label:
    checked_name(raw["trace_id"], "a trace")
    spans = {
        key: _span(raw[key]) if raw[key] is not None else None
        for key in ("said", "acted", "considered", "rejected")
    }
    found = Label(**{**raw, **spans, "quotes": tuple(raw["quotes"])})
    _texts(found, "labeller", "rationale")
    _text_by_name("facts", found.facts)
    if found.outcome not in (True, False, None) or type(found.outcome) is int:
        raise TypeError("outcome is neither true, false nor null")
    if not {type(quote) for quote in found.quotes} <= {str}:
        raise TypeError("quotes must be texts")
    return found
