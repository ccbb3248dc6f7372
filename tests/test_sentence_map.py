import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explorer.planted import make_trace
from typer.testing import CliRunner

from trace_probe.activations import Activations, pooled_spans
from trace_probe.commands.main import app
from trace_probe.errors import NotEnoughData, StoreError
from trace_probe.labels import Label
from trace_probe.probing.sentence_map import (
    build_map,
    mapped_layers,
    read_map,
    to_plane,
    write_map,
)
from trace_probe.store import Manifest, Store

pytestmark = pytest.mark.filterwarnings("ignore")  # numba's and umap's own
WIDTH = 16


def recorded_run(path: Path, traces: int = 12) -> Store:
    """Write a run whose sentences held one of two directions, by parity of their place."""
    draw = np.random.default_rng(0)
    centres = draw.normal(0, 10, (2, WIDTH))
    manifest = Manifest(model="m@0", layers=(1, 3), n_layers=4, d_model=WIDTH)
    store = Store.create(path, manifest)
    with store.writing():
        for number in range(traces):
            trace = make_trace(["One."] * 5, ["Two."] * 2, name=f"t{number:02}")
            spans = pooled_spans(trace)
            rows = np.stack([centres[i % 2] + draw.normal(0, 0.5, WIDTH) for i in range(8)])
            values = np.stack([rows, rows]).astype(np.float32)
            store.add(trace, Activations(values, (1, 3), spans))
            store.add_labels([Label(trace.id, "rule", True, said=trace.sentences[2])])
    return store


def test_sentences_that_held_like_activations_are_neighbours(tmp_path: Path) -> None:
    found = build_map(recorded_run(tmp_path / "run"), 3, progress=False)
    assert len(found) == 12 * 7
    kind = found.sentences % 2
    distance = np.linalg.norm(found.xy[:, None] - found.xy[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (kind[distance.argmin(axis=1)] == kind).mean() == 1.0


def test_the_same_seed_gives_the_same_map() -> None:
    values = np.random.default_rng(1).normal(size=(60, WIDTH)).astype(np.float32)
    one, same = (to_plane(values, seed=4, progress=False) for _ in range(2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, to_plane(values, seed=5, progress=False))


def test_a_draw_keeps_every_sentence_that_says_it(tmp_path: Path) -> None:
    found = build_map(recorded_run(tmp_path / "run"), 3, most=20, progress=False)
    assert len(found) == 20
    assert sum(sentence == 2 for sentence in found.sentences) >= 12
    assert len(set(zip(found.traces, found.sentences.tolist(), strict=True))) == 20


def test_a_map_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    store = recorded_run(tmp_path / "run")
    found = build_map(store, 1, progress=False)
    write_map(store, found)
    again = read_map(store, 1)
    assert mapped_layers(store) == [1]
    assert again.traces == found.traces
    assert np.array_equal(again.sentences, found.sentences)
    assert np.array_equal(again.xy, found.xy)


def test_a_missing_and_a_broken_map_say_what_to_do(tmp_path: Path) -> None:
    store = recorded_run(tmp_path / "run", traces=1)
    with pytest.raises(StoreError, match="run `trace-probe map"):
        read_map(store, 2)
    store.place.write("maps/layer-2.parquet", [b"PAR1 but not really"])
    with pytest.raises(StoreError, match="damaged: .* make it again with `trace-probe map"):
        read_map(store, 2)


def test_too_few_sentences_are_no_map(tmp_path: Path) -> None:
    with pytest.raises(NotEnoughData, match="record more"):
        build_map(recorded_run(tmp_path / "run", traces=1), 3, progress=False)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_the_command_keeps_a_map_of_the_last_layer(tmp_path: Path) -> None:
    store = recorded_run(tmp_path / "run")
    done = run("map", str(store.path), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["points"] == 12 * 7
    assert mapped_layers(store) == [3]


def test_the_command_refuses_a_run_without_activations(tmp_path: Path) -> None:
    Store.create(tmp_path / "run", Manifest(model="m"))
    done = run("map", str(tmp_path / "run"))
    assert done.exit_code == 1
    assert isinstance(done.exception, StoreError)
    assert "recorded or observed run" in str(done.exception)
