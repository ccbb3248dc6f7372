"""What lists are filtered and sorted by, column by column, is what each row says of itself."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.generated import Size, generate
from explorer.planted import DETECTOR, planted_run
from trace_probe.explorer import given
from trace_probe.explorer.filters import Filters
from trace_probe.explorer.loading import Loaded, load_run
from trace_probe.explorer.rows import FACETS, QUICK_VIEWS, Row, ordered, passes
from trace_probe.explorer.seen import Rows
from trace_probe.labels import Label
from trace_probe.store import Store

DEMO = Path(__file__).parents[2] / "traces" / "demo"


@pytest.fixture(params=["the demo", "planted", "generated", "unscored"])
def seen(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Loaded, Rows]:
    if request.param == "generated":
        generate(tmp_path / "run", Size(traces=60, tokens=60, long_tokens=200))
    elif request.param != "the demo":
        planted_run(tmp_path / "run")
    run = load_run(DEMO if request.param == "the demo" else tmp_path / "run")
    detector = None if request.param == "unscored" else run.detector(run.detectors[0])
    return run, run.rows(detector)


def plain(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def test_columns_say_what_rows_say(seen: tuple[Loaded, Rows]) -> None:
    rows = seen[1]
    assert plain(rows.seen.alarm) == [row.alarm for row in rows]
    assert plain(rows.seen.lead) == [row.lead for row in rows]
    assert plain(rows.seen.peak) == [row.peak for row in rows]
    labels = [row.label for row in rows]
    assert rows.seen.placed == any(label and (label.said or label.acted) for label in labels)


@pytest.mark.parametrize("by", ["risk", "lead"])
def test_rows_are_sorted_as_each_row_would_be(seen: tuple[Loaded, Rows], by: str) -> None:
    rows = seen[1]
    assert by in ("risk", "lead")
    expected = ordered(list(rows), "risk" if by == "risk" else "lead")
    found = rows.ordered("risk" if by == "risk" else "lead")
    assert found.ids == [row.facts.id for row in expected]
    assert list(found) == expected


def test_every_view_and_facet_holds_what_its_rows_pass(seen: tuple[Loaded, Rows]) -> None:
    rows = seen[1]

    def expected(view: str | None, chosen: dict[str, list[str]]) -> list[str]:
        return [row.facts.id for row in rows if passes(view, chosen)(row)]

    for view in QUICK_VIEWS:
        assert rows.narrow(view, {}).ids == expected(view, {})
        assert rows.count(view) == len(expected(view, {}))
    for facet, value_of in FACETS.items():
        assert rows.choices(facet) == sorted({value_of(row) for row in rows})
        for value in rows.choices(facet):
            assert rows.narrow(None, {facet: [value]}).ids == expected(None, {facet: [value]})


def test_words_are_sought_in_texts_tasks_and_ids(seen: tuple[Loaded, Rows]) -> None:
    run, rows = seen
    first = rows[0].facts
    text = run.texts[first.id].strip()[:20]
    for words in (text.upper(), first.task, first.id, "nowhere in any text"):
        wanted = words.strip().lower()

        def holds(row: Row, wanted: str = wanted) -> bool:
            of = (run.texts[row.facts.id].lower(), row.facts.task.lower(), row.facts.id)
            return any(wanted in each for each in of)

        found = Filters(words=words).apply(rows, run.texts)
        assert sorted(found.ids) == sorted(row.facts.id for row in rows if holds(row))


def test_of_many_labels_only_those_of_traces_that_are_read_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(given, "FEW", 3)
    planted_run(tmp_path / "run")
    whole = {label.trace_id: label for label in Store(tmp_path / "run").every_label()}

    def refuse(_: Store) -> None:
        raise AssertionError("every label was read")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "every_label", refuse)
        run = load_run(tmp_path / "run")
        rows = run.rows(run.detector(DETECTOR)).ordered("risk")
        assert rows[0].label == whole[rows[0].facts.id]
    assert {row.facts.id: row.label for row in rows if row.label} == whole


def test_a_later_label_replaces_the_earlier_and_labellers_may_differ(tmp_path: Path) -> None:
    planted_run(tmp_path / "run")
    store = Store(tmp_path / "run")
    first = next(store.every_label())
    with store.writing():
        store.add_labels([replace(first, outcome=not first.outcome, labeller="another")])
        store.add_labels([replace(first, outcome=None, rationale="on second thoughts")])
    run = load_run(tmp_path / "run")
    assert run.labellers == ("another", first.labeller)
    assert run.labels[first.trace_id].rationale == "on second thoughts"
    assert run.row(first.trace_id, None).label == replace(
        first, outcome=None, rationale="on second thoughts"
    )
    with store.writing():
        store.add_labels([Label(first.trace_id, first.labeller, first.outcome)])
    rows = load_run(tmp_path / "run").rows(None)
    assert rows.narrow("Disagree", {}).ids == [first.trace_id]
