"""A fitted probe with its card, and how both are saved.

A folder of ``card.json`` and ``probe.safetensors``; nothing is ever unpickled.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_probe.activations import RowEnd
from trace_probe.errors import ProbeError
from trace_probe.files import MARKS, checked_name
from trace_probe.model.naming import same_model, without_version
from trace_probe.probing.binary import BinaryProbe, Floats
from trace_probe.probing.corpus import Corpus
from trace_probe.probing.distance import RowDistance
from trace_probe.probing.fitting import HEADS, parameters, probe_scores, several_scores
from trace_probe.probing.hub import local_folder
from trace_probe.probing.kept import AGAIN, CARD, MEND, read_json, read_weights, write_probe
from trace_probe.probing.linear import LinearProbe as LinearProbe
from trace_probe.probing.recipe import (
    Feature,
    Focus,
    Head,
    Method,
    Rows,
    Target,
    features_from,
    pooling_for,
)
from trace_probe.probing.recipe import Recipe as Recipe
from trace_probe.statistics.calibration import Binding, Guarantee, Rates, Threshold, impossible
from trace_probe.statistics.metrics import Scores
from trace_probe.statistics.smoothing import Smoothing, parse_smoothing
from trace_probe.storage.seals import Seals
from trace_probe.storage.typed import from_plain, renamed, to_plain
from trace_probe.store import Manifest, Store
from trace_probe.trace import Trace

_SAME = ("false_alarm_rate", "target_sibling_rate", "sibling_alarm_rate", "siblings", "binds")
LIMIT = {
    "threshold": "value",
    "target_false_alarm_rate": "target_rate",
    "guaranteed_false_alarm_rate": "guaranteed_rate",
    "guarantee": "method",
    **{name: name for name in _SAME},
}
"""Fields of a card that say how its threshold was set, as fields of a `Threshold`."""


@dataclass(frozen=True)
class ProbeCard:
    """What a probe is, what it was made from, and what it is not good for."""

    __pydantic_config__ = {"allow_inf_nan": False, "extra": "forbid"}

    name: str
    model: str
    """Name and revision of the model whose activations it reads."""
    tokenizer: str
    layers: tuple[int, ...]
    """0-based blocks; the residual stream after each."""
    d_model: int
    features: tuple[Feature, ...]
    """What it reads of each layer; see `probing.features`."""
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
    guaranteed_false_alarm_rate: float
    """Whole-trace rate that the calibration traces can guarantee."""
    figures: dict[str, float] = field(default_factory=dict)
    """Cross-validated figures of the training tasks by name."""
    limits: tuple[str, ...] = ()
    version: str = ""
    """Version of trace_probe."""
    target: Target = "outcome"
    focus: Focus = "all"
    guard_tokens: int = 0
    guarantee: Guarantee = "conformal"
    smoothing: str = "max"
    """What its alarm follows, chosen on training tasks; see `statistics.smoothing`."""
    ranked_by: str = "max"
    """What is made of its scores where traces are ranked at a moment; chosen likewise."""
    head: Head = "linear"
    """What turns a row into a score."""
    twin: dict[str, Any] | None = None
    """Of a head that is not linear, the settings of the linear probe to be shown beside it."""
    false_alarm_rate: float | None = None
    """Share of the calibration traces that alarm; None if it was not measured."""
    target_sibling_rate: float | None = None
    """Share of siblings that may alarm (see `statistics.siblings`); None if nobody asked."""
    sibling_alarm_rate: float | None = None
    """Share of the training tasks' siblings that alarm, each scored by a probe that has not seen
    its task; None if there are too few to know."""
    siblings: int = 0
    """How many siblings that is a share of."""
    row_end: RowEnd = "token"
    """Where the rows that it reads end; as in the manifest of a run."""
    binds: Binding | None = None
    """Whose guarantee set the threshold; None if the card is of an earlier version."""

    @property
    def layer(self) -> int:
        """Return the deepest layer that it reads."""
        return max(self.layers)

    @property
    def seen(self) -> frozenset[str]:
        """Return the tasks that set its weights or its threshold: never test on them."""
        return frozenset((*self.training_tasks, *self.calibration_tasks))

    def unseen(self, traces: Iterable[Trace]) -> list[Trace]:
        """Return the traces of tasks that set neither its weights nor its threshold."""
        seen = self.seen
        return [trace for trace in traces if trace.task.id not in seen]

    @property
    def rates(self) -> Rates:
        """Return the rates that its threshold guarantees and those that were measured."""
        return replace(self.limit.rates, binds=self.binds)

    @property
    def limit(self) -> Threshold:
        """Return its threshold with all that is known of it."""
        known: dict[str, Any] = {its: getattr(self, own) for own, its in LIMIT.items()}
        known["binds"] = self.binds or "benign"
        return Threshold(n=len(self.calibration_tasks), **known)

    @property
    def width(self) -> int:
        """Return how many numbers a row holds."""
        return len(self.layers) * len(self.features) * self.d_model

    @property
    def pooling(self) -> str:
        """Return the pooling that a run has to be recorded with at least, such as ``last+max``."""
        return pooling_for(self.features)

    @property
    def linear_twin(self) -> Recipe | None:
        """Return the recipe of the linear probe to be shown beside another head."""
        if self.twin is None:
            return None
        said = {**to_plain(self.recipe), **self.twin, "head": "linear"}
        return from_plain(Recipe, said, "the twin on the card", wrong=ProbeError, advice=MEND)

    @property
    def recipe(self) -> Recipe:
        """Return how it was trained."""
        return Recipe(**{one.name: getattr(self, one.name) for one in fields(Recipe)})


def settings(recipe: Recipe) -> dict[str, Any]:
    """Return what tells a linear recipe from another head's, as a card holds it."""
    read = {"layers": list(recipe.layers), "features": list(recipe.features)}
    return {**read, "C": recipe.C, "focus": recipe.focus}


@dataclass(frozen=True)
class SavedProbe:
    """A fitted probe and its card."""

    card: ProbeCard
    probe: BinaryProbe
    distance: RowDistance | None = None
    """From the rows that it learned from; None in probes of earlier versions."""

    def scores(self, corpus: Corpus) -> Scores:
        """Return the score of each reasoning sentence of each trace."""
        return probe_scores(self.probe, corpus, self.card.recipe)

    def read(self, corpus: Corpus) -> tuple[Scores, Scores]:
        """Return the scores, and how far each sentence lies from what the probe learned from.

        The latter is empty if that is not known.
        """
        readers = (self.probe,) if self.distance is None else (self.probe, self.distance)
        scores, *distances = several_scores(readers, corpus, self.card.recipe)
        return scores, distances[0] if distances else {}

    def to_tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return all that its file holds."""
        known = {} if self.distance is None else self.distance.to_tensors()
        return {**self.probe.to_tensors(), **known}

    def direction(self, layer: int) -> Floats:
        """Return (d_model,), along which a layer raises the score most when every token moves.

        To move all tokens of the thought moves each of its pools by as much, so the weights of
        all features of the layer are added; only the prompt stays where it is.

        Raises:
            ProbeError: the probe does not read that layer.
        """
        card = self.card
        if layer not in card.layers:
            raise ProbeError(f"probe {card.name} reads layers {list(card.layers)}, not {layer}")
        weights = self.probe.direction().reshape(len(card.layers), len(card.features), card.d_model)
        moved = np.array([feature != "prompt" for feature in card.features])
        direction: Floats = weights[card.layers.index(layer), moved].sum(axis=0)
        return direction

    @property
    def smoothing(self) -> Smoothing:
        """Return what its alarm follows."""
        return parse_smoothing(self.card.smoothing)

    @property
    def ranked_by(self) -> Smoothing:
        """Return what it is ranked by."""
        return parse_smoothing(self.card.ranked_by)


def save_probe(path: Path | str, saved: SavedProbe) -> None:
    """Write ``probe.safetensors`` and then ``card.json`` into a folder, each atomically.

    Raises:
        ProbeError: the name on the card could lead out of a folder, or the folder holds a run.
        StoreError: the files cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     save_probe(folder, load_probe("probes/demo"))
        ...     load_probe(folder).card.name
        'demo'
    """
    _refuse_run(Path(path))
    raw = asdict(saved.card)
    if saved.card.row_end == "token":
        del raw["row_end"]  # as earlier versions read it
    write_probe(Path(path), raw, saved.to_tensors())


def _refuse_run(folder: Path) -> None:
    if (folder / MARKS["run"]).is_file():
        raise ProbeError(
            f"{folder} holds a run, not a probe: write the probe into a folder of its own, "
            f"such as probes/{folder.name}"
        )


def check_overwrites(
    path: Path | str, known: Mapping[str, object], saved: SavedProbe | None = None
) -> None:
    """Refuse to put a probe where another one lies; the same one may be written again.

    Before training, some fields of its card are `known`; afterwards it is `saved`.

    Raises:
        ProbeError: there is a probe of another card or of other weights.
    """
    folder = Path(path)
    _refuse_run(folder)
    if not (folder / CARD).is_file():
        return
    there = load_probe(folder)
    same = all(getattr(there.card, name) == value for name, value in known.items())
    if saved is not None:
        ours, theirs = saved.to_tensors(), there.to_tensors()
        same = same and replace(there.card, version=saved.card.version) == saved.card
        same = same and ours.keys() == theirs.keys()
        same = same and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    if not same:
        raise ProbeError(
            f"{folder} holds another probe, {there.card.name} of {there.card.model}: choose "
            f"another folder, or overwrite it with --force"
        )


def load_probe(
    path: Path | str, seals: Seals | None = None, *, endpoint: str | None = None
) -> SavedProbe:
    """Read a saved probe from a folder, or from a hub: ``hub:org/name@revision``.

    For `seals` see `trace_probe.probing.kept.read_json`, for `endpoint` `trace_probe.probing.hub`.

    Raises:
        ProbeError: there is no probe at `path`, its files are damaged or do not belong
            together, or a weight or threshold is not finite.

    Example:
        >>> load_probe("probes/demo").card.model.partition("@")[0]
        'organism:rl-s0'
    """
    folder = local_folder(path, endpoint)
    if folder != Path(path):
        seals = seals or "required"
    raw, seals = read_json(folder / CARD, seals)
    tensors, card = read_weights(folder, seals), _to_card(raw, folder / CARD)
    try:
        probe = HEADS[card.head].from_tensors(tensors, **parameters(card.recipe))
        distance = RowDistance.from_tensors(tensors)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ProbeError(f"{folder} does not hold a whole probe ({error}): {AGAIN}") from error
    widths = {probe.n_features_in_, *(() if distance is None else (len(distance.mean),))}
    if widths != {card.width}:
        raise ProbeError(
            f"{folder} reads rows of {sorted(widths)} numbers, its card asks for {card.width}: "
            f"train it again"
        )
    return SavedProbe(card, probe, distance)


EARLIER = {
    "rule": "smoothing",
    "honest_false_alarm_rate": "guaranteed_false_alarm_rate",
    "promise": "guarantee",
}
"""Names that earlier cards have for fields of today."""


def _to_card(raw: dict[str, Any], file: Path) -> ProbeCard:
    known = renamed(raw, EARLIER)
    known.pop("benign_weight", None)  # what benign traces weighed while it learned
    if "layer" in known:  # written before a probe could read several layers and features
        known |= {"layers": [known.pop("layer")], "features": [known.pop("pooling", None)]}
    checked_name(known.get("name"), "a probe", ProbeError)
    card = from_plain(ProbeCard, known, file, wrong=ProbeError, advice=MEND)
    if not card.layers or min(card.layers) < 0 or card.d_model < 1 or card.guard < 0:
        raise ProbeError(f"{file}: layers, d_model or guard is a number that cannot be: {MEND}")
    if wrong := impossible(card, card.threshold):
        raise ProbeError(f"{file}: {wrong}: {MEND}")
    for name in (card.smoothing, card.ranked_by):
        parse_smoothing(name)
    _ = card.linear_twin  # what it says of another head is read later, but refused here
    return card


def check_fits(card: ProbeCard, run: Store | Manifest, *, any_model: bool = False) -> None:
    """Refuse a probe on activations of another model, or on those that it cannot read.

    Raises:
        ProbeError: it was trained on another width, or the run lacks a layer or a pooling that it
            reads; or, unless any model will do, on another model or tokenizer.
    """
    manifest = run.manifest if isinstance(run, Store) else run
    where = str(run.path) if isinstance(run, Store) else "RUN"
    differing = differences(card, manifest, any_model=any_model)
    if not manifest.layers:
        held, way = ["no activations"], _reading(card, run, where)
    elif differing:
        held, way = differing, _another(card, manifest, where)
    elif manifest.row_end != card.row_end:
        held = [f"rows that end with a {manifest.row_end}, not with a {card.row_end}"]
        way = "Use a run of the version that made the probe, or train a probe on this run"
    else:
        held = _lacking(card, manifest)
        way = f"{_reading(card, run, where)}, or train a probe on this run"
    if held:
        raise ProbeError(f"probe {card.name} does not fit: the run has {'; '.join(held)}. {way}")


def differences(card: ProbeCard, manifest: Manifest, *, any_model: bool = False) -> list[str]:
    """Return what tells the model of a run, or one to be read, from the model of a probe."""
    facts = ("d_model",) if any_model else ("model", "tokenizer", "d_model")
    return [
        f"{fact} {getattr(manifest, fact)!r}, not {getattr(card, fact)!r}"
        for fact in facts
        if getattr(manifest, fact) != getattr(card, fact)
        and not (fact == "model" and same_model(manifest.model, card.model))
    ]


def _lacking(card: ProbeCard, manifest: Manifest) -> list[str]:
    """Return what a run of the model lacks of what a probe reads."""
    lacking = []
    if not set(card.layers) <= set(manifest.layers):
        without = sorted(set(card.layers) - set(manifest.layers))
        lacking.append(f"layers {list(manifest.layers)}, without {without}")
    unmade = [one for one in card.features if one not in features_from(manifest.pooling)]
    if unmade:
        lacking.append(f"pooling {manifest.pooling!r}, which cannot give {', '.join(unmade)}")
    return lacking


def _another(card: ProbeCard, manifest: Manifest, where: str) -> str:
    """Return what to do about a run of another model."""
    if manifest.source == "imported":
        return f"Read it with the probe's model: {_observing(card, where, card.model)}"
    return (
        f"The probe is of another model: name a probe of this one, train one "
        f"(`trace-probe train {where} NEW_PROBE`), or record a run with "
        f"{without_version(card.model)}"
    )


def _reading(card: ProbeCard, run: Store | Manifest, where: str) -> str:
    """Return how a run comes to hold what a probe reads: by its tokens, or else by its text."""
    manifest = run.manifest if isinstance(run, Store) else run
    reader, tokenizer = card.model, card.tokenizer
    if manifest.layers:
        reader, tokenizer = manifest.model, manifest.tokenizer
    if not isinstance(run, Store) or not all(
        trace.token_ids and trace.tokenizer == tokenizer for trace in run.traces()
    ):
        return f"Read its text with the model: {_observing(card, where, reader)}"
    return (
        f"Read it again: `trace-probe record {without_version(reader)} NEW_RUN --recapture "
        f"{where} {_wanted(card)}`"
    )


def _observing(card: ProbeCard, where: str, reader: str) -> str:
    return f"`trace-probe observe {where} {without_version(reader)} NEW_RUN {_wanted(card)}`"


def _wanted(card: ProbeCard) -> str:
    """Return the options by which a run is read as a probe needs it."""
    return f"--layers {','.join(map(str, card.layers))} --pooling {card.pooling}"
