"""A linear probe: one direction of the residual stream and one threshold.

A scikit-learn estimator, so that it works in `Pipeline`, `GridSearchCV` and `clone`. Saved
as a folder of ``card.json`` and ``probe.safetensors``; nothing is ever unpickled.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted, validate_data

from trace_probe.activations import Pooling
from trace_probe.errors import NotEnoughData, ProbeError
from trace_probe.probing.binary import BinaryClassifier, Floats
from trace_probe.probing.dataset import Corpus, Dataset, activations_of
from trace_probe.probing.recipe import Focus, Method, Rows, Target
from trace_probe.probing.recipe import Recipe as Recipe
from trace_probe.statistics.bootstrap import Index
from trace_probe.statistics.calibration import Promise
from trace_probe.statistics.metrics import Scores
from trace_probe.statistics.rules import Rule, parse_rule, statistics
from trace_probe.store import Manifest, write_bytes, write_json


class LinearProbe(BinaryClassifier):
    """Linear classifier of activation rows.

    Rows are standardised within classes for the fit and the scale is folded back, so
    `coef_` (d_model,) and `intercept_` act on raw activations: a score is one dot product.
    ``difference-of-means`` (Marks and Tegmark, arXiv 2310.06824) is not standardised; ``lda``
    whitens it with the covariance within classes, shrunk as of Ledoit and Wolf (2004).
    """

    def __init__(
        self,
        method: Method = "logistic",
        C: float = 0.01,
        class_weight: Literal["balanced"] | None = "balanced",
    ) -> None:
        """Choose a method; a smaller `C` penalises more (logistic and ridge only)."""
        self.method = method
        self.C = C
        self.class_weight = class_weight

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to rows (row, d_model) and two classes, the greater of which is the positive one.

        Raises:
            NotEnoughData: there are not two classes.
            ProbeError: there is no such method.
        """
        rows, targets = validate_data(self, X, y, dtype=np.float32)
        self.classes_, codes = np.unique(targets, return_inverse=True)
        if len(self.classes_) != 2:
            raise NotEnoughData(
                f"a probe tells two outcomes apart, these rows have {len(self.classes_)}: "
                f"record more samples or other tasks"
            )
        weight = _weights(codes, sample_weight, self.class_weight)
        mean = np.average(rows, axis=0, weights=weight).astype(np.float32)
        scale = _within_scale(rows, codes, weight)
        if self.method == "difference-of-means":
            scale[:] = 1.0
        coef, intercept = self._solve((rows - mean) / scale, codes, weight)
        self.coef_ = coef / scale
        self.intercept_ = float(intercept - self.coef_ @ mean)
        return self

    def _solve(self, Z: NDArray[np.float32], codes: Index, weight: Floats) -> tuple[Floats, float]:
        """Return direction and offset in standardised space."""
        if self.method == "logistic":
            return _logistic(Z, codes, weight, self.C)
        if self.method == "ridge":
            return _ridge(Z, codes, weight, self.C)
        if self.method == "lda":
            return _lda(Z, codes, weight)
        if self.method == "difference-of-means":
            low, high = _means(Z, codes, weight)
            return high - low, float(-(high - low) @ (high + low) / 2)
        raise ProbeError(
            f"no method {self.method!r}: use logistic, difference-of-means, lda or ridge"
        )

    def decision_function(self, X: ArrayLike) -> Floats:
        """Return (row,) scores, in log odds for ``logistic``; positive means the positive class."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float32, reset=False)
        scores: Floats = rows @ self.coef_.astype(np.float32) + np.float32(self.intercept_)
        return scores


def _weights(codes: Index, sample_weight: ArrayLike | None, class_weight: str | None) -> Floats:
    """Return row weights; balanced ones give both classes half of the total."""
    given = np.ones(len(codes)) if sample_weight is None else np.asarray(sample_weight, float)
    if class_weight is None:
        return given
    total = np.bincount(codes, given)
    balanced: Floats = given * (given.sum() / 2 / total)[codes]
    return balanced


def _within_scale(X: NDArray[np.float32], codes: Index, weight: Floats) -> NDArray[np.float32]:
    """Return the standard deviation of each axis around the class means.

    The total deviation would shrink the very axes that separate the classes. A constant
    axis keeps its scale.
    """
    centred = X - np.stack(_means(X, codes, weight)).astype(np.float32)[codes]
    scale = np.sqrt(np.average(centred**2, axis=0, weights=weight)).astype(np.float32)
    return np.where(scale < 1e-6, np.float32(1.0), scale)


def _means(Z: NDArray[np.float32], codes: Index, weight: Floats) -> tuple[Floats, Floats]:
    low, high = (
        np.average(Z[codes == code].astype(float), axis=0, weights=weight[codes == code])
        for code in (0, 1)
    )
    return np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)


def _logistic(
    Z: NDArray[np.float32], codes: Index, weight: Floats, C: float
) -> tuple[Floats, float]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=C, max_iter=1000, tol=1e-4)
    model.fit(Z, codes, sample_weight=weight.astype(Z.dtype))
    return model.coef_[0].astype(float), float(model.intercept_[0])


def _ridge(Z: NDArray[np.float32], codes: Index, weight: Floats, C: float) -> tuple[Floats, float]:
    """Solve weighted least squares on targets of -1 and 1 with a penalty of ``1 / C``."""
    target = 2.0 * codes - 1.0
    offset = float(np.average(target, weights=weight))
    weighted = (Z * weight[:, None]).astype(np.float64)
    gram = weighted.T @ Z + np.eye(Z.shape[1]) / C
    return np.asarray(np.linalg.solve(gram, weighted.T @ (target - offset)), np.float64), offset


def _lda(Z: NDArray[np.float32], codes: Index, weight: Floats) -> tuple[Floats, float]:
    """Solve linear discriminant analysis with the shrinkage of Ledoit and Wolf (2004)."""
    from sklearn.covariance import ledoit_wolf

    low, high = _means(Z, codes, weight)
    centred = Z - np.stack([low, high])[codes]
    covariance, _ = ledoit_wolf(
        centred * np.sqrt(weight / weight.mean())[:, None], assume_centered=True
    )
    coef = np.linalg.solve(covariance, high - low)
    prior = np.bincount(codes, weight)
    return coef, float(np.log(prior[1] / prior[0]) - coef @ (high + low) / 2)


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
    coef = np.stack([probe.coef_ for probe in probes]).astype(np.float32)
    intercept = np.array([[probe.intercept_] for probe in probes], dtype=np.float32)
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
    """A sentence alarms where the statistic of the rule is equal to it or above."""
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
    rule: str = "max"
    """What its alarm follows, chosen on training tasks; see `statistics.rules`."""
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
    def rule(self) -> Rule:
        """Return what its alarm follows."""
        return parse_rule(self.card.rule)

    @property
    def ranked_by(self) -> Rule:
        """Return what it is ranked by."""
        return parse_rule(self.card.ranked_by)

    def alarm_statistics(self, scores: Scores) -> Scores:
        """Return what its alarm follows, from its scores: it alarms at the card's threshold."""
        return statistics(scores, self.rule)


def save_probe(path: Path | str, saved: SavedProbe) -> None:
    """Write ``probe.safetensors`` and then ``card.json`` into a folder, each atomically."""
    from safetensors.numpy import save

    tensors = {
        "coef": np.ascontiguousarray(saved.probe.coef_, dtype=np.float32),
        "intercept": np.array([saved.probe.intercept_], dtype=np.float32),
    }
    write_bytes(Path(path) / "probe.safetensors", save(tensors))
    write_json(Path(path) / "card.json", asdict(saved.card))


def load_probe(path: Path | str) -> SavedProbe:
    """Read a saved probe.

    Raises:
        ProbeError: there is no probe at `path`, or its files do not belong together.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    folder = Path(path)
    try:
        card = _to_card(json.loads((folder / "card.json").read_text(encoding="utf-8")))
        tensors = load((folder / "probe.safetensors").read_bytes())
        coef, intercept = tensors["coef"].astype(float), float(tensors["intercept"][0])
    except FileNotFoundError as error:
        raise ProbeError(f"no probe at {folder}: train one with `trace-probe train`") from error
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ProbeError(
            f"{folder} does not hold a whole probe ({error}): train it again"
        ) from error
    if coef.shape != (card.d_model,):
        raise ProbeError(f"{folder}: {coef.shape} weights but d_model {card.d_model} on the card")
    probe = LinearProbe(method=card.method, C=card.C)
    probe.coef_, probe.intercept_ = coef, intercept
    probe.classes_, probe.n_features_in_ = np.array([False, True]), card.d_model
    return SavedProbe(card, probe)


def _to_card(raw: dict[str, Any]) -> ProbeCard:
    tuples = {key: tuple(raw[key]) for key in ("training_tasks", "calibration_tasks", "limits")}
    return ProbeCard(**{**raw, **tuples})


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
