"""What a model held in its residual stream while it read, thought and said."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import ProbeError, TraceError
from trace_probe.trace import Span, Trace, to_last_word

Pooling = Literal["last", "mean", "max"]
"""How the tokens of a span become one vector: its last token, their mean, or the highest value of
each coordinate."""
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
ALL_POOLINGS = "+".join(POOLINGS)
"""What is recorded unless something else is asked for."""


def parse_poolings(text: str) -> tuple[Pooling, ...]:
    """Return the poolings that a text such as ``last+mean`` names, in its order.

    Raises:
        ProbeError: it names none, one that does not exist, or one twice.
    """
    names = text.split("+")
    known = [pooling for name in names for pooling in POOLINGS if pooling == name]
    if len(known) < len(names) or len(set(names)) < len(names):
        raise ProbeError(
            f"{text!r} is not a pooling: use {', '.join(POOLINGS)}, or several joined by +, "
            f"such as {ALL_POOLINGS}"
        )
    return tuple(known)


@dataclass(frozen=True)
class Fidelity:
    """How far reading a trace again was from what can be compared with it."""

    against: Literal["log-probabilities", "second-pass", "recorded-rows", "transformers"]
    """Those noted while the trace was written; its activations read once more in another way;
    those that another run holds of it; or, of an engine's, those that transformers reads."""
    error: float
    """Of log-probabilities the root mean square over tokens, in nats; else the greatest
    difference as a share of the greatest value of the layer."""
    tolerated: float | None = None
    """How far off it might have been; None where that is not kept."""


RowEnd = Literal["token", "word"]
"""Where the row of a sentence ends: with its last token, or with the last that is not white space.

A model holds little of a sentence at a line break after it, and more at the end of its words."""


class Rows:
    """Rows of numbers of some layers, each row with the poolings of its tokens side by side."""

    values: NDArray[np.floating[Any]]
    layers: tuple[int, ...]
    pooling: str

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        """Return the poolings of a row, in the order in which they lie in it."""
        return parse_poolings(self.pooling)

    @property
    def d_model(self) -> int:
        """Return the width of one pooling."""
        return int(self.values.shape[2]) // len(self.poolings)

    def at(self, layer: int) -> NDArray[np.floating[Any]]:
        """Return (row, width) of a layer.

        Raises:
            ProbeError: the layer is not among these.
        """
        if layer not in self.layers:
            raise ProbeError(f"layer {layer} is not here; there are {list(self.layers)}")
        values: NDArray[np.floating[Any]] = self.values[self.layers.index(layer)]
        return values

    def part(self, layer: int, pooling: Pooling | None = None) -> NDArray[np.floating[Any]]:
        """Return (row, d_model) of one pooling of a layer, without copying it.

        The first pooling where none is named.

        Raises:
            ProbeError: the layer is not among these, or the rows lack that pooling.
        """
        held, width = self.poolings, self.d_model
        if pooling is not None and pooling not in held:
            raise ProbeError(
                f"{pooling} was not recorded; there is {self.pooling}: read the run again with "
                f"`trace-probe record --recapture RUN`"
            )
        first = 0 if pooling is None else held.index(pooling) * width
        return self.at(layer)[:, first : first + width]


@dataclass(frozen=True)
class Activations(Rows):
    """Residual stream after chosen blocks, one row per span of tokens.

    Layer ``l`` is the 0-based block index, and its values are the residual stream *after*
    that block, before the model's final norm. (``hidden_states[-1]`` of transformers is
    after that norm and is therefore never used.)
    """

    values: NDArray[np.floating]
    """(layer, row, width), in the order of `layers` and `spans`. A row holds the poolings of its
    tokens side by side, each d_model wide, in the order in which `pooling` names them."""
    layers: tuple[int, ...]
    spans: tuple[Span, ...]
    """The tokens of each row: first the last prompt token, then the sentences of the trace."""
    pooling: str = "mean"
    """``last``, ``mean``, ``max``, or several joined by ``+``."""
    tokens: NDArray[np.floating] | None = None
    """(layer, token, d_model): each token from the first row on, where raw tokens are wanted."""
    fidelity: Fidelity | None = None
    """None where nothing was compared: without noted log-probabilities only some traces are."""

    def __post_init__(self) -> None:
        """Refuse values whose shape contradicts layers or spans."""
        if self.values.ndim != 3 or self.values.shape[:2] != (len(self.layers), len(self.spans)):
            raise TraceError(
                f"activations of shape {self.values.shape} do not fit "
                f"{len(self.layers)} layers and {len(self.spans)} spans"
            )
        raw = self.tokens
        if raw is not None and (raw.ndim != 3 or raw.shape[:2] != (len(self.layers), self.reach)):
            raise TraceError(
                f"raw activations of shape {raw.shape} do not fit {len(self.layers)} layers "
                f"and {self.reach} tokens"
            )

    @property
    def reach(self) -> int:
        """Return the number of tokens from the first of the first row to the last of any."""
        return max(span.stop for span in self.spans) - self.spans[0].start if self.spans else 0


def pooled_spans(trace: Trace, row_end: RowEnd = "token") -> tuple[Span, ...]:
    """Return the rows that are recorded for a trace: the last prompt token, then each sentence."""
    stop = trace.prompt_stop
    spans = (Span(max(stop - 1, 0), stop, "prompt"), *trace.sentences)
    return tuple(with_row_end(row_end, trace.text, trace.offsets, spans))


def with_row_end(
    row_end: RowEnd, text: str, offsets: Sequence[int], spans: Iterable[Span]
) -> list[Span]:
    """Return the tokens that are pooled of spans of a text; only sentences may get shorter."""
    return [
        to_last_word(text, offsets, span)
        if row_end == "word" and span.channel in ("reasoning", "answer")
        else span
        for span in spans
    ]


@dataclass(frozen=True)
class ActivationMatrix(Rows):
    """Activations of many traces in one array."""

    values: NDArray[np.floating[Any]]
    """(layer, row, width), in the precision of the store; poolings lie side by side in a row."""
    layers: tuple[int, ...]
    start: NDArray[np.intp]
    """For each trace its first row, the last prompt token; its sentences follow. There may be
    rows of other traces between them."""
    pooling: str = "mean"
    """What a row holds, as the manifest of the run says it."""
    row_end: RowEnd = "token"
    """Where the row of a sentence ends, likewise."""

    def sizes(self, trace: Trace) -> NDArray[np.intp]:
        """Return (sentence,), how many tokens were pooled of each sentence of a trace."""
        spans = pooled_spans(trace, self.row_end)[1:]
        return np.array([len(span) for span in spans], dtype=np.intp)

    @classmethod
    def of(
        cls, parts: Sequence[NDArray[np.floating[Any]]], layers: tuple[int, ...], pooling: str
    ) -> "ActivationMatrix":
        """Return the rows of several traces in one array, from (layer, row, width) of each."""
        start = np.cumsum([0, *(part.shape[1] for part in parts)])[:-1].astype(np.intp)
        return cls(np.concatenate(parts, axis=1), layers, start, pooling)
