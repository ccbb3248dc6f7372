"""Sentences as points of a plane: neighbours had like activations.

PCA comes first, then UMAP (McInnes, Healy and Melville, arXiv 1802.03426), both seeded. It
takes minutes, so it is computed once and kept in the run, in ``maps/layer-<n>.parquet``.
"""

import contextlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from trace_probe.errors import NotEnoughData, StoreError
from trace_probe.store import Store

MOST_POINTS = 20_000
COMPONENTS = 50
NEIGHBOURS = 15
FEWEST_POINTS = 10
NAME = re.compile(r"layer-(\d{1,9})")

Points = NDArray[np.floating]


@dataclass(frozen=True)
class SentenceMap:
    """A point a sentence, in no order."""

    layer: int
    traces: tuple[str, ...]
    """For each point the id of its trace."""
    sentences: NDArray[np.int32]
    """And the sentence, an index into those of the trace."""
    xy: NDArray[np.float32]
    """(point, 2)."""

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.traces)


def build_map(
    store: Store,
    layer: int,
    *,
    most: int = MOST_POINTS,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
    progress: bool = True,
) -> SentenceMap:
    """Return the map of a run's sentences; of more than `most` a seeded draw.

    Marked sentences, those that say it or do it, are always among them.

    Raises:
        NotEnoughData: there are too few sentences with activations.
        StoreError: the layer was not recorded.
    """
    chosen = _choose(store, most, seed)
    if len(chosen) < FEWEST_POINTS:
        raise NotEnoughData(
            f"{store.path} has activations of {len(chosen)} sentences, a map takes "
            f"{FEWEST_POINTS}: record more traces"
        )
    values = _read(store, layer, chosen, progress=progress)
    say(f"{len(values):,} sentences, {values.shape[1]} dimensions")
    xy = to_plane(values, seed=seed, say=say, progress=progress)
    names = tuple(trace_id for trace_id, _ in chosen)
    return SentenceMap(layer, names, np.array([s for _, s in chosen], dtype=np.int32), xy)


def _choose(store: Store, most: int, seed: int) -> list[tuple[str, int]]:
    """Return trace and sentence of each point, by trace."""
    labels = store.labels()
    marked: list[tuple[str, int]] = []
    others: list[tuple[str, int]] = []
    for trace in store.traces():
        if not store.has_activations(trace.id):
            continue
        label = labels.get(trace.id)
        spans = (label.said, label.acted) if label else ()
        own = {trace.sentence_at(span.start) for span in spans if span is not None}
        for index in range(len(trace.sentences)):
            (marked if index in own else others).append((trace.id, index))
    room = max(most - len(marked), 0)
    if len(others) > room:
        drawn = np.random.default_rng(seed).choice(len(others), room, replace=False)
        others = [others[index] for index in drawn]
    return sorted(marked[:most] + others)


def _read(
    store: Store, layer: int, chosen: Sequence[tuple[str, int]], *, progress: bool
) -> NDArray[np.float32]:
    """Return (point, d_model)."""
    wanted: dict[str, list[int]] = {}
    for trace_id, index in chosen:
        wanted.setdefault(trace_id, []).append(index)
    parts = []
    for trace_id, rows in tqdm(wanted.items(), unit="trace", disable=not progress):
        whole = store.activations(store.trace(trace_id), (layer,))
        held = whole.part(layer, whole.poolings[0])
        parts.append(held[np.array(rows) + 1].astype(np.float32))  # row 0 is the prompt's
    return np.concatenate(parts)


def to_plane(
    values: Points,
    *,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
    progress: bool = True,
) -> NDArray[np.float32]:
    """Return (row, 2) for (row, d): the first principal components, then UMAP."""
    from sklearn.decomposition import PCA

    parts = min(COMPONENTS, *values.shape)
    pca = PCA(parts, random_state=seed)
    reduced = pca.fit_transform(values)
    say(f"{parts} components keep {pca.explained_variance_ratio_.sum():.1%} of the variance")
    import umap

    # One job: with a seed there can be no more, and it says so only if asked for more.
    reducer = umap.UMAP(
        n_neighbors=min(NEIGHBOURS, len(values) - 1),
        random_state=seed,
        n_jobs=1,
        init="pca",
        verbose=progress,
        tqdm_kwds={"disable": not progress, "unit": "epoch"},
    )
    with contextlib.redirect_stdout(sys.stderr):  # its progress is no result
        xy: NDArray[np.float32] = np.asarray(reducer.fit_transform(reduced), dtype=np.float32)
    return xy


def _name(layer: int) -> str:
    return f"layer-{layer}"


def mapped_layers(store: Store) -> list[int]:
    """Return the layers of which a run keeps a map."""
    names = (NAME.fullmatch(name) for name in store.artifacts.names("maps"))
    return sorted(int(name[1]) for name in names if name)


def write_map(store: Store, found: SentenceMap) -> str:
    """Keep a map in a run; return where."""
    import pyarrow as pa

    table = pa.table(
        {
            "trace_id": pa.array(found.traces).dictionary_encode(),
            "sentence": found.sentences,
            "x": found.xy[:, 0],
            "y": found.xy[:, 1],
        }
    )
    store.artifacts.write_table("maps", _name(found.layer), table)
    return store.artifacts.url("maps", _name(found.layer))


def read_map(store: Store, layer: int) -> SentenceMap:
    """Return the map of a layer that a run keeps.

    Raises:
        StoreError: there is none, or it is broken.
    """
    run = f"`trace-probe map {store.place.url} --layer {layer}`"
    table = store.artifacts.read_table("maps", _name(layer), f"make it again with {run}")
    if table is None:
        raise StoreError(f"{store.place.url} has no map of layer {layer}: run {run}")
    try:
        xy = np.column_stack([table["x"].to_numpy(), table["y"].to_numpy()]).astype(np.float32)
        traces = tuple(table["trace_id"].to_pylist())
        sentences = table["sentence"].to_numpy().astype(np.int32)
    except (ValueError, KeyError, TypeError) as error:
        file = store.artifacts.url("maps", _name(layer))
        raise StoreError(f"{file} holds no map: make it again with {run}") from error
    return SentenceMap(layer, traces, sentences, xy)
