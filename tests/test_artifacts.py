"""Every part of a run, in a folder, in memory and in a bucket: the same tests on all three."""

import json
from pathlib import Path

import numpy as np
import pytest
from runs import MANIFEST, contents, fill, label_of, make_run, make_trace
from test_places import bucket as bucket
from test_places import root as root

from trace_probe.emergence.curve import Drawn, drawn_of, oracle_points
from trace_probe.emergence.ledger import Cells, Ledger
from trace_probe.emergence.readout import Readout
from trace_probe.errors import StoreError
from trace_probe.evaluation.layers import (
    LayerScale,
    read_layers,
    read_scales,
    write_layers,
)
from trace_probe.labelling.annotations import (
    Annotation,
    annotate,
    annotators,
    read_annotations,
    verdicts_kept,
)
from trace_probe.probing.sentence_map import SentenceMap, mapped_layers, read_map, write_map
from trace_probe.storage.place import place_at
from trace_probe.store import Store
from trace_probe.upkeep.pack import pack
from trace_probe.upkeep.repair import repair
from trace_probe.upkeep.seal import migrate, seal
from trace_probe.upkeep.verify import verify


def test_maps_come_back(root: str) -> None:
    run = make_run(f"{root}/one", range(2))
    ids = tuple(sorted(run.ids()))
    xy = np.arange(4, dtype=np.float32).reshape(2, 2)
    write_map(run, SentenceMap(3, ids, np.array([0, 1], np.int32), xy))
    again = Store(f"{root}/one")
    assert mapped_layers(again) == [3]
    found = read_map(again, 3)
    assert found.traces == ids
    assert np.array_equal(found.xy, xy)
    with pytest.raises(StoreError, match="has no map of layer 1"):
        read_map(again, 1)


def test_layers_come_back(root: str) -> None:
    run = make_run(f"{root}/one", range(2))
    scales = (LayerScale(1, 0.5, 0.0, 1.0), LayerScale(3, 0.6, -1.0, 2.0))
    scores = {layer: {"a": np.array([layer, np.nan], np.float32)} for layer in (1, 3)}
    write_layers(run, "eye", scales, scores)
    again = Store(f"{root}/one")
    assert read_scales(again, "eye") == scales
    assert [row.layer for row in read_layers(again, "eye", "a")] == [1, 3]
    np.testing.assert_array_equal(read_layers(again, "eye", "a")[1].scores, scores[3]["a"])
    assert read_scales(again, "other") == ()


def test_what_an_oracle_drew_comes_back_and_is_not_drawn_twice(root: str) -> None:
    run = make_run(f"{root}/one", range(1))
    drawn = [Drawn("a", 0, 7, k, k, k == 0, None, 9) for k in range(3)]
    ledger = Ledger(run.artifacts, "oracle", {"seed": 0})
    ledger.add(drawn[:2])
    ledger.add(drawn[1:])
    again = Store(f"{root}/one")
    assert drawn_of(again) == {"a": drawn}
    assert oracle_points(again)["a"][0].known == 3
    assert again.artifacts.names("oracle") == ["oracle"]
    assert len(Ledger(again.artifacts, "oracle", {"seed": 0}).drawn) == 3
    with pytest.raises(StoreError, match="was made with seed 0"):
        Ledger(again.artifacts, "oracle", {"seed": 1})


def test_an_experiment_comes_back_and_no_condition_is_run_twice(root: str) -> None:
    run = make_run(f"{root}/one", range(1))
    made = [Readout("t", True, None, True, 0.5)]
    assert Cells(run.artifacts, "steer", {}).run("a", lambda: made) == made
    again = Cells(Store(f"{root}/one").artifacts, "steer", {})
    assert again.run("a", list) == made


def test_annotations_come_back_in_the_order_in_which_they_were_given(root: str) -> None:
    run = make_run(f"{root}/one", range(1))
    for verdict in ("says", "neither", "does"):
        one = Annotation("t", 1, verdict, "ada", "now", True, 0, 1, "digest")
        annotate(run, one)
    again = Store(f"{root}/one")
    assert annotators(again) == ["ada"]
    assert read_annotations(verdicts_kept(again, "ada"))["t", 1].verdict == "does"


def test_a_broken_line_is_passed_over_and_set_aside(
    root: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(f"{root}/one", range(4))
    file = run.lines_of("labels").files()[0]
    data = run.place.read(file)
    run.place.write(file, [data.replace(b'"labeller": "rule"', b'"labeller": "rulf"', 1)])
    again = Store(f"{root}/one")
    assert len(again.labels()) == 3
    assert "labels" in caplog.text
    assert "is broken at line 1: its checksum does not fit" in caplog.text
    report = repair(again, progress=False)
    assert (report.lines, report.left) == (1, ())
    assert len(Store(f"{root}/one").labels()) == 3
    assert verify(Store(f"{root}/one"), progress=False).problems == ()


def test_damaged_activations_are_named_and_set_aside(root: str) -> None:
    run = make_run(f"{root}/one", range(4))
    trace = make_trace(2, 4)
    data = bytearray(run.place.read(run.vault.file(trace.id)))
    data[-1] ^= 2
    run.place.write(run.vault.file(trace.id), [bytes(data)])
    with pytest.raises(StoreError, match="the checksum of layer 3 does not fit"):
        Store(f"{root}/one").activations(trace)
    assert repair(Store(f"{root}/one"), progress=False).traces == [trace.id]
    again = Store(f"{root}/one")
    assert len(contents(again)["traces"]) == 3  # type: ignore[arg-type]
    assert verify(again, progress=False).problems == ()


@pytest.mark.parametrize("packed", [False, True])
def test_everything_is_sealed_again_and_reads_the_same(root: str, packed: bool) -> None:
    run = make_run(f"{root}/one", range(3))
    if packed:
        pack(run, progress=False)
    before = contents(Store(f"{root}/one"))
    seal(Store(f"{root}/one", "ignored"), progress=False)
    migrate(Store(f"{root}/one"), progress=False)
    again = Store(f"{root}/one")
    assert contents(again) == before
    assert verify(again, progress=False).problems == ()


def test_a_run_that_was_uploaded_opens_whole(root: str, tmp_path: Path) -> None:
    """A folder that was copied file by file has files that grew where nothing grows."""
    run = make_run(tmp_path / "here", range(6))
    run.write_scores("eye", {name: np.zeros(2, np.float32) for name in run.ids()})
    run.write_report("eye", {"threshold": 0.5})
    Ledger(run.artifacts, "oracle", {"seed": 0}).add([Drawn("a", 0, 7, 0, 0, True, None, 9)])
    annotate(run, Annotation("t", 1, "says", "ada", "now", True, 0, 1, "digest"))
    there = place_at(f"{root}/there")
    for file in (tmp_path / "here").rglob("*"):
        if file.is_file() and not file.name.startswith("."):
            there.write(str(file.relative_to(tmp_path / "here")), [file.read_bytes()])
    again = Store(f"{root}/there")
    assert contents(again) == contents(run)
    assert again.report("eye") == {"threshold": 0.5}
    assert drawn_of(again) == drawn_of(run)
    assert read_annotations(verdicts_kept(again, "ada"))
    with again.writing():
        fill(again, [6])
        again.add_labels([label_of(make_trace(6))])
    annotate(again, Annotation("t", 2, "does", "ada", "now", True, 0, 1, "digest"))
    last = Store(f"{root}/there")
    assert [trace.sample for trace in last.traces()] == list(range(7))
    assert len(last.labels()) == 7
    assert len(read_annotations(verdicts_kept(last, "ada"))) == 2


def test_a_name_that_leads_elsewhere_is_refused(root: str) -> None:
    run = Store.create(f"{root}/one", MANIFEST)
    for name in ("../x", "a/b", "", ".x", "a\n"):
        with pytest.raises(StoreError, match="cannot be called"):
            run.write_report(name, {})
        with pytest.raises(StoreError, match="cannot be called"):
            run.scores(name)
        with pytest.raises(StoreError, match="cannot be called"):
            run.artifacts.lines("oracle", name)
    assert json.loads(run.place.read("run.json"))["schema"] == 2
