"""Models and probes, loaded when a page first needs them and kept for all sessions."""

from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import streamlit as st

from trace_probe.explorer.current import error_shown
from trace_probe.model.naming import without_version
from trace_probe.monitor.detector import Detector, load_detector
from trace_probe.trace import Sampling
from trace_probe.visible import visible

if TYPE_CHECKING:
    from trace_probe.explorer.words import ShownDetector
    from trace_probe.model.local import Model


@dataclass(frozen=True)
class Resident:
    """A model in memory, shared by all sessions of the server."""

    model: "Model"
    turn: Lock = field(default_factory=Lock)
    """Held while the model reads: its activations are tapped, so one session at a time."""


def _load_model(name: str) -> Resident:
    from trace_probe.model.local import load_model

    return Resident(load_model(name))


def _load_detector(folder: Path, decoding: Sampling | None, changed: tuple[int, ...]) -> Detector:
    """Return a detector; `changed` tells one content of its files from another."""
    del changed
    return load_detector(folder, decoding=decoding)


MODELS: Any = st.cache_resource(_load_model, max_entries=2, show_spinner="Loading the model")
DETECTORS: Any = st.cache_resource(_load_detector, max_entries=8, show_spinner=False)


def resident(model: str) -> Resident:
    """Return a model, without its revision in the name, as a run or a probe names it.

    Raises:
        ModelError: it is not on this machine and cannot be fetched.
    """
    found: Resident = MODELS(without_version(model))
    return found


def detector(folder: Path, decoding: Sampling | None = None) -> Detector:
    """Return the detector of a probe's folder as it now is on disk, for a way of decoding.

    Raises:
        ProbeError: its files are broken.
    """
    changed = tuple(file.stat().st_mtime_ns for file in folder.iterdir())
    found: Detector = DETECTORS(folder, decoding, changed)
    return found


def shown_probe(folder: Path, decoding: Sampling | None = None) -> Detector:
    """Read a probe and say what it is; end the page where it cannot be read."""
    with error_shown("This probe cannot be read"):
        found = detector(folder, decoding)
    card = found.saved.card
    st.text(visible(f"{card.model} · layer {card.layer} · {found}"))
    return found


def probes(traces: Path, shown: "ShownDetector | None" = None) -> dict[str, Path]:
    """Return the probes kept beside the runs, by name; that of the run at the left comes first."""
    first = "" if shown is None else shown.name
    cards = sorted((traces.resolve().parent / "probes").glob("*/card.json"))
    cards.sort(key=lambda card: card.parent.name != first)
    return {card.parent.name: card.parent for card in cards}
