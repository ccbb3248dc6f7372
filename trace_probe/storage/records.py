"""What a run is and what its lines say: values to JSON and back."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from trace_probe.activations import Pooling, RowEnd, parse_poolings
from trace_probe.errors import ProbeError, StoreError
from trace_probe.files import checked_name
from trace_probe.labels import Label
from trace_probe.storage.typed import from_plain
from trace_probe.trace import EXACT, ModelCall, Sampling, Trace

SCHEMA = 2
"""Of runs that are made now: everything in them carries a checksum."""
READABLE = (1, 2)
LATER = ("calls", "actions")
"""Fields of traces that older versions do not know; left out where they are empty."""
MOST_WIDE = 2**24
"""No model has so wide a residual stream; a wider one is a damaged number."""


@dataclass(frozen=True)
class Manifest:
    """What a run is, fixed when it is created."""

    __pydantic_config__ = EXACT

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
    row_end: RowEnd = "token"
    """Where the row of a sentence ends; so those of earlier versions and of small organisms do."""
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
    raw = asdict(manifest)
    if manifest.row_end == "token":
        del raw["row_end"]
    return {k: v for k, v in raw.items() if v or k not in ("base", "engine")}


def to_manifest(raw: object, file: object) -> Manifest:
    """Return the manifest that a JSON object holds.

    Raises:
        StoreError: it holds none.
    """
    what = f"{file} is not a manifest"
    found = from_plain(Manifest, raw, what, advice="put the run's own run.json back")
    _within(what, "d_model", [found.d_model], MOST_WIDE)
    _within(what, "n_layers", [found.n_layers])
    _within(what, "layers", found.layers)
    if len(set(found.layers)) < len(found.layers):
        raise StoreError(f"{what}: a layer is there twice")
    try:
        parse_poolings(found.pooling)
    except ProbeError as error:
        raise StoreError(f"{what}: {error}") from error
    return found


def _within(what: str, name: str, values: Sequence[int], most: int = 2**31) -> None:
    """Refuse numbers below 0, or not below `most`."""
    if values and not (min(values) >= 0 and max(values) < most):
        raise StoreError(f"{what}: {name} holds a number that cannot be")


def differences(ours: Manifest, theirs: Manifest) -> str:
    """Return the names of the settings in which two manifests differ.

    Versions and schemas may, and how the precision was chosen; a chat template that is not
    known differs from none. Imported transcripts may come from several files, which may hold
    transcripts of several models and have one in common.
    """
    left, right = asdict(ours), asdict(theirs)
    for each in (left, right):
        each["engine"] = each["engine"].partition(" ")[0]
    for free in ("version", "schema", "dtype_chosen"):
        left[free] = right[free]
    if ours.source == theirs.source == "imported":
        left["tasks"] = right["tasks"]
        if set(ours.model.split(", ")) & set(theirs.model.split(", ")):
            left["model"] = right["model"]
    if not (ours.chat_template and theirs.chat_template):
        left["chat_template"] = right["chat_template"]
    return ", ".join(key for key in left if left[key] != right[key])


def to_trace(raw: dict[str, Any]) -> Trace:
    """Return the trace that a JSON object holds.

    Raises:
        StoreError: it holds none.
    """
    what = f"trace {raw.get('id')!s:.40} is not as this version wrote it"
    found = from_plain(Trace, raw, what)
    checked_name(found.id, "a trace")
    _within(what, "sample", [found.sample])
    parts: tuple[Trace | ModelCall, ...] = (found, *found.calls)
    for part in parts:
        _within(what, "offsets", part.offsets, len(part.text) + 1)
        _within(what, "token_ids", part.token_ids)
    for call in found.calls:
        _within(what, "start and kept", (call.start, call.kept))
    if found.uncertainty and len(found.uncertainty) != len(found.sentences):
        raise StoreError(f"{what}: uncertainty has not as many rows as there are sentences")
    return found


def to_label(raw: dict[str, Any]) -> Label:
    """Return the label that a JSON object holds.

    Raises:
        StoreError: it holds none.
    """
    name = f"{raw.get('trace_id')!s:.40}"
    found = from_plain(Label, raw, f"label of trace {name} is not as this version wrote it")
    checked_name(found.trace_id, "a trace")
    return found
