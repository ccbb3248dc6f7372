"""What a page shows, as a value that goes into the address bar and comes back."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ViewState:
    """Everything a link has to carry so that another person sees the same thing."""

    run: str | None = None
    trace: str | None = None
    sentence: int | None = None
    """0-based index into the sentences of the trace."""
    detector: str | None = None
    layer: int | None = None
    """0-based block; None is the layer that the detector reads."""
    threshold: float | None = None
    """A threshold of the reader's own; None is the calibrated one."""
    smoothing: str | None = None
    """A smoothing of the reader's own; None is the detector's."""
    labeller: str | None = None
    """Whose labels; None where a run has one labeller."""

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> "ViewState":
        """Read a query string; what is malformed counts as absent."""
        return cls(
            run=query.get("r") or None,
            trace=query.get("t") or None,
            sentence=_index(query.get("s", "")),
            detector=query.get("p") or None,
            layer=_index(query.get("l", "")),
            threshold=_threshold(query.get("th", "")),
            smoothing=query.get("sm") or None,
            labeller=query.get("by") or None,
        )

    def to_query(self) -> dict[str, str]:
        """Return the query string; what is absent is left out."""
        parts = {
            "r": self.run,
            "t": self.trace,
            "s": self.sentence,
            "p": self.detector,
            "l": self.layer,
            "th": None if self.threshold is None else f"{self.threshold:.6g}",
            "sm": self.smoothing,
            "by": self.labeller,
        }
        return {key: str(value) for key, value in parts.items() if value is not None}


def _index(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else None


def _threshold(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
