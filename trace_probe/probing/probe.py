"""A fitted probe with its card, and how both are saved.

A folder of ``card.json`` and ``probe.safetensors``; nothing is ever unpickled.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_probe.activations import Pooling
from trace_probe.errors import ProbeError
from trace_probe.probing.dataset import Corpus, Dataset, activations_of
from trace_probe.probing.kept import AGAIN, CARD, check_fields, read_json, read_weights, write_probe
from trace_probe.probing.linear import LinearProbe as LinearProbe
from trace_probe.probing.recipe import Focus, Method, Rows, Target
from trace_probe.probing.recipe import Recipe as Recipe
from trace_probe.statistics.calibration import Promise
from trace_probe.statistics.metrics import Scores
from trace_probe.statistics.smoothing import Smoothing, parse_smoothing
from trace_probe.storage.names import checked_name
from trace_probe.storage.seals import Seals
from trace_probe.store import Manifest


def fit_dataset(dataset: Dataset, recipe: Recipe) -> LinearProbe:
    """Fit a probe under which every trace counts as its recipe says."""
    probe = LinearProbe(method=recipe.method, C=recipe.C)
    return probe.fit(dataset.X, dataset.y, sample_weight=dataset.weight)


def probe_scores(probe: LinearProbe, corpus: Corpus, layer: int) -> dict[str, NDArray[np.float32]]:
    """Return the score of each reasoning sentence of each trace; nan for other sentences.

    Raises:
        ProbeError: the corpus has no activations of that layer.
    """
    return several_scores([probe], corpus, layer)[0]


def several_scores(
    probes: Sequence[LinearProbe], corpus: Corpus, layer: int
) -> list[dict[str, NDArray[np.float32]]]:
    """Return the scores of several probes of a layer in one pass; see `probe_scores`."""
    matrix = activations_of(corpus)
    values = matrix.at(layer)
    coef = np.concatenate([probe.coef_ for probe in probes]).astype(np.float32)
    intercept = np.stack([probe.intercept_ for probe in probes]).astype(np.float32)
    found: list[dict[str, NDArray[np.float32]]] = [{} for _ in probes]
    for trace, first in zip(corpus.traces, matrix.start + 1, strict=True):
        rows = values[first : first + len(trace.sentences)].astype(np.float32)
        thinking = np.array([span.channel == "reasoning" for span in trace.sentences], dtype=bool)
        each = np.where(thinking, coef @ rows.T + intercept, np.float32(np.nan))
        for scores, row in zip(found, each, strict=True):
            scores[trace.id] = row
    return found


@dataclass(frozen=True)
class ProbeCard:
    """What a probe is, what it was made from, and what it is not good for."""

    name: str
    model: str
    """Name and revision of the model whose activations it reads."""
    tokenizer: str
    layer: int
    """0-based block; the residual stream after it."""
    d_model: int
    pooling: Pooling
    rows: Rows
    guard: int
    labeller: str
    method: Method
    C: float
    training_tasks: tuple[str, ...]
    calibration_tasks: tuple[str, ...]
    """Benign tasks that set the threshold; together with the training tasks never tested on."""
    threshold: float
    """A sentence alarms where its smoothed score is equal to it or above."""
    target_false_alarm_rate: float
    honest_false_alarm_rate: float
    """Whole-trace rate that the calibration traces can promise."""
    figures: dict[str, float] = field(default_factory=dict)
    """Cross-validated figures of the training tasks by name."""
    limits: tuple[str, ...] = ()
    version: str = ""
    """Version of trace_probe."""
    target: Target = "outcome"
    focus: Focus = "all"
    guard_tokens: int = 0
    promise: Promise = "conformal"
    smoothing: str = "max"
    """What its alarm follows, chosen on training tasks; see `statistics.smoothing`."""
    ranked_by: str = "max"
    """What is made of its scores where traces are ranked at a moment; chosen likewise."""
    benign_weight: float = 1.0

    @property
    def recipe(self) -> Recipe:
        """Return how it was trained."""
        return Recipe(
            self.layer,
            self.method,
            self.C,
            self.rows,
            self.guard,
            self.guard_tokens,
            self.focus,
            self.benign_weight,
        )


@dataclass(frozen=True)
class SavedProbe:
    """A fitted probe and its card."""

    card: ProbeCard
    probe: LinearProbe

    def scores(self, corpus: Corpus) -> Scores:
        """Return the score of each reasoning sentence of each trace."""
        return probe_scores(self.probe, corpus, self.card.layer)

    @property
    def smoothing(self) -> Smoothing:
        """Return what its alarm follows."""
        return parse_smoothing(self.card.smoothing)

    @property
    def ranked_by(self) -> Smoothing:
        """Return what it is ranked by."""
        return parse_smoothing(self.card.ranked_by)


def save_probe(path: Path | str, saved: SavedProbe) -> None:
    """Write ``probe.safetensors`` and then ``card.json`` into a folder, each atomically."""
    write_probe(Path(path), asdict(saved.card), saved.probe.to_tensors())


def load_probe(path: Path | str, seals: Seals | None = None) -> SavedProbe:
    """Read a saved probe; for `seals` see `trace_probe.probing.kept.read_json`.

    Raises:
        ProbeError: there is no probe at `path`, its files are damaged or do not belong
            together, or a weight or threshold is not finite.
    """
    folder = Path(path)
    raw, seals = read_json(folder / CARD, seals)
    tensors = read_weights(folder, seals)
    try:
        card = _to_card(raw)
        checked_name(card.name, "a probe", ProbeError)
        check_fields(card, folder / CARD)
        probe = LinearProbe.from_tensors(tensors, method=card.method, C=card.C)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ProbeError(f"{folder} does not hold a whole probe ({error}): {AGAIN}") from error
    width = probe.n_features_in_
    if width != card.d_model:
        raise ProbeError(
            f"{folder}: {width} weights but d_model {card.d_model} on the card: train it again"
        )
    return SavedProbe(card, probe)


def _to_card(raw: dict[str, Any]) -> ProbeCard:
    tuples = {key: tuple(raw[key]) for key in ("training_tasks", "calibration_tasks", "limits")}
    named = {"smoothing" if key == "rule" else key: value for key, value in raw.items()}
    return ProbeCard(**{**named, **tuples})  # cards of earlier versions say `rule`


def check_fits(card: ProbeCard, manifest: Manifest) -> None:
    """Refuse a probe on activations of another model.

    Raises:
        ProbeError: it was trained on another model, tokenizer, width, pooling or layer.
    """
    _check(card, manifest, ("model", "tokenizer", "d_model", "pooling"))


def check_shape(card: ProbeCard, manifest: Manifest) -> None:
    """Refuse a probe on activations that it cannot read; they may be of another model.

    Raises:
        ProbeError: it was trained on another width, pooling or layer.
    """
    _check(card, manifest, ("d_model", "pooling"))


def _check(card: ProbeCard, manifest: Manifest, facts: tuple[str, ...]) -> None:
    differing = [
        f"{fact} {getattr(manifest, fact)!r}, not {getattr(card, fact)!r}"
        for fact in facts
        if getattr(manifest, fact) != getattr(card, fact)
    ]
    if card.layer not in manifest.layers:
        differing.append(f"layers {list(manifest.layers)}, without {card.layer}")
    if differing:
        raise ProbeError(
            f"probe {card.name} does not fit: the run has {'; '.join(differing)}. "
            f"Record with the probe's model and layer, or train a probe on this run"
        )
