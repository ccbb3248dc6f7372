"""What a run is and what its lines say: values to JSON and back."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from trace_probe.activations import Pooling, parse_poolings
from trace_probe.errors import StoreError
from trace_probe.labels import Label
from trace_probe.trace import Sampling, Span, Task, Trace

SCHEMA = 2
"""Of runs that are made now: everything in them carries a checksum."""
READABLE = (1, 2)


@dataclass(frozen=True)
class Manifest:
    """What a run is, fixed when it is created."""

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
    text = json.dumps(vars(value), ensure_ascii=False, default=vars)
    return (text + "\n").encode(errors="surrogatepass")


def to_manifest(raw: dict[str, Any], file: object) -> Manifest:
    """Return the manifest that a JSON object holds.

    Raises:
        StoreError: it holds none.
    """
    try:
        sampling = Sampling(**raw["sampling"])
        return Manifest(**{**raw, "layers": tuple(raw["layers"]), "sampling": sampling})
    except (KeyError, TypeError) as error:
        raise StoreError(f"{file} is not a manifest: {error}") from error


def differences(ours: Manifest, theirs: Manifest) -> str:
    """Return the names of the settings in which two manifests differ.

    Versions and schemas may, and how the precision was chosen; a chat template that is not
    known differs from none.
    """
    left, right = asdict(ours), asdict(theirs)
    for free in ("version", "schema", "dtype_chosen"):
        left[free] = right[free]
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
    except (KeyError, TypeError) as error:
        raise StoreError(
            f"trace {raw.get('id')} is not as this version wrote it: {error}"
        ) from error


def _trace(raw: dict[str, Any]) -> Trace:
    return Trace(
        **{
            **raw,
            "task": Task(**raw["task"]),
            "sampling": Sampling(**raw["sampling"]),
            "offsets": tuple(raw["offsets"]),
            "token_ids": tuple(raw["token_ids"]),
            "spans": tuple(Span(**span) for span in raw["spans"]),
            "sentences": tuple(Span(**span) for span in raw["sentences"]),
            "uncertainty": tuple(tuple(row) for row in raw.get("uncertainty", ())),
        }
    )


def to_label(raw: dict[str, Any]) -> Label:
    """Return the label that a JSON object holds.

    Raises:
        StoreError: it holds none.
    """
    try:
        return _label(raw)
    except (KeyError, TypeError) as error:
        raise StoreError(
            f"label of trace {raw.get('trace_id')} is not as this version wrote it: {error}"
        ) from error


def _label(raw: dict[str, Any]) -> Label:
    spans = {
        key: Span(**raw[key]) if raw[key] else None
        for key in ("said", "acted", "considered", "rejected")
    }
    return Label(**{**raw, **spans, "quotes": tuple(raw["quotes"])})
