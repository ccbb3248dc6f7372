"""The map of sentences: what kinds of points there are, and what a region shows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explorer.conftest import make_run
from explorer.pages import open_page, words
from explorer.planted import DETECTOR, HOSTILE, PLANTED, THRESHOLD
from trace_probe.explorer.atlas import (
    CHANNEL,
    COLOURINGS,
    LABEL,
    NUMBER,
    PALETTE,
    RISK,
    chart,
    chosen,
    grouped,
    groups_of,
    points,
)
from trace_probe.explorer.rows import build_row, facts_of
from trace_probe.explorer.sparks import OVER
from trace_probe.probing.sentence_map import SentenceMap, write_map
from trace_probe.store import Store

ROWS = [build_row(facts_of(t), label, scores, THRESHOLD) for t, label, scores in PLANTED]


def whole_map(rows: Any = ROWS) -> SentenceMap:
    """Return a map with every sentence, its place in its trace as its x."""
    places = [(row.facts.id, index) for row in rows for index in range(len(row.facts.stops))]
    sentences = np.array([index for _, index in places], dtype=np.int32)
    xy = np.column_stack([sentences, np.zeros(len(places))]).astype(np.float32)
    return SentenceMap(4, tuple(name for name, _ in places), sentences, xy)


def test_points_of_traces_that_are_gone_are_left_out() -> None:
    found = whole_map()
    assert len(points(found, ROWS)) == len(found)
    assert len(points(found, ROWS[1:])) == len(found) - 15


def test_what_is_over_the_threshold_is_a_kind_of_its_own_and_no_score_is_not_calm() -> None:
    row = ROWS[0]
    assert row.scores is not None
    row.scores[0] = np.nan
    kinds = grouped(points(whole_map(), ROWS), "risk")
    row.scores[0] = 0.1
    assert [point.sentence for point in kinds["no score"]] == [0]
    assert all((point.score or 0) >= THRESHOLD for point in kinds["over the threshold"])
    assert all((point.score or 0) < THRESHOLD for point in kinds["calm"])
    assert list(kinds)[-1] == "over the threshold"


def test_a_label_marks_the_sentences_that_say_it_and_do_it() -> None:
    kinds = grouped(points(whole_map(), ROWS), "label")
    assert {(p.row.facts.id, p.sentence) for p in kinds["says it"]} == {
        ("early", 8),
        ("late", 9),
        ("missed", 10),
    }
    assert {p.sentence for p in kinds["does it"]} == {13}
    assert {p.row.facts.id for p in kinds["not labelled"]} == {"unknown"}


@pytest.mark.parametrize("colouring", COLOURINGS)
def test_every_point_is_drawn_once_under_every_colouring(colouring: str) -> None:
    found = whole_map()
    groups = grouped(points(found, ROWS), colouring)
    kinds = chart(groups, found, colouring)["series"][: len(groups)]
    assert sum(len(series["data"]) for series in kinds) == len(found)
    looks = {series["symbol"] + series["itemStyle"]["color"] for series in kinds}
    assert len(looks) == len(groups)
    assert [series["xAxisIndex"] for series in kinds] == list(range(len(groups)))


def test_the_colour_of_what_is_over_the_threshold_means_nothing_else() -> None:
    others = [look for kinds in (LABEL, CHANNEL) for look in kinds.values()]
    others += [look for name, look in RISK.items() if name != "over the threshold"]
    colours = {look.colour for look in others} | set(PALETTE)
    assert RISK["over the threshold"].colour.lower() == OVER.lower()
    assert OVER.lower() not in {colour.lower() for colour in colours}


def test_groups_that_lie_apart_are_named_after_what_most_of_them_say() -> None:
    count = 15
    found = whole_map(ROWS[:2])
    apart = SentenceMap(
        4, found.traces, found.sentences, found.xy + np.repeat([[0.0, 0], [900, 0]], count, axis=0)
    )
    there = points(apart, ROWS)

    def text(point: Any) -> str:
        return "Something else." if point.sentence == 0 else f"So {point.sentence} of 9."

    named = groups_of(apart, there, text)
    assert [(one.number, len(one.members)) for one in named] == [(1, count), (2, count)]
    assert all(NUMBER.sub("#", one.text) == "So # of #." for one in named)
    assert groups_of(found, points(found, ROWS), text) == []


def test_a_region_lists_its_sentences_the_riskiest_first() -> None:
    groups = grouped(points(whole_map(), ROWS), "channel")
    selected = [{"series_index": 0, "data_indices": [0, 5, 6]}]
    scores = [point.score for point in chosen(groups, selected)]
    assert len(scores) == 3
    assert scores == sorted(scores, key=lambda score: -(score or 0))
    assert chosen(groups, [{"series_index": 9, "data_indices": [0]}]) == []


def select(app: Any, key: str, indices: list[int]) -> None:
    app.session_state[key] = {
        "selection": {"selected": [{"series_index": 0, "data_indices": indices}], "areas": []}
    }


def test_a_run_without_a_map_says_how_to_make_one_and_makes_none(traces: Path) -> None:
    make_run("planted", traces / "run")
    app = open_page("map")
    assert f"trace-probe map {traces / 'run'}" in words(app)
    assert not (traces / "run" / "maps").exists()


def test_a_run_without_activations_says_that_there_is_nothing_to_map(traces: Path) -> None:
    make_run("hostile", traces / "run")
    assert "no activations" in words(open_page("map"))


def test_a_region_shows_its_texts_and_a_row_opens_the_trace_there(traces: Path) -> None:
    make_run("planted", traces / "run")
    write_map(Store(traces / "run"), whole_map())
    app = open_page("map", colour="channel")
    assert not app.exception
    assert "draw a box or a lasso" in words(app)
    select(app, "map_run_channel", [3, 5])
    app.run()
    assert len(app.dataframe[0].value) == 2
    app.session_state["map_table_0"] = {"selection": {"rows": [0], "columns": [], "cells": []}}
    app.run()
    assert app.query_params["t"] == "early"
    assert app.query_params["s"] == "5"


def test_a_map_of_other_traces_says_so(traces: Path) -> None:
    make_run("planted", traces / "run")
    found = whole_map()
    gone = SentenceMap(4, ("gone", *found.traces[1:]), found.sentences, found.xy)
    write_map(Store(traces / "run"), gone)
    assert "1 points are of sentences that this run no longer has" in words(open_page("map"))


def test_a_broken_map_is_named(traces: Path) -> None:
    make_run("planted", traces / "run")
    file = traces / "run" / "maps" / "layer-4.parquet"
    file.parent.mkdir()
    file.write_bytes(b"PAR1 but not really")
    app = open_page("map")
    assert not app.exception
    assert "This map cannot be read" in words(app)


def test_hostile_categories_stay_data(traces: Path) -> None:
    make_run("hostile", traces / "run")
    count = 16
    found = SentenceMap(
        4,
        ("hostile",) * count,
        np.arange(count, dtype=np.int32),
        np.zeros((count, 2), dtype=np.float32),
    )
    write_map(Store(traces / "run"), found)
    app = open_page("map", colour="category", p=DETECTOR)
    assert not app.exception
    sinks = [*app.markdown, *app.caption]
    assert not [one for one in sinks if any(text in str(one.value) for text in HOSTILE)]
