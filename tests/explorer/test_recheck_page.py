"""The page that shows what `trace-probe recheck` found."""

from dataclasses import replace
from pathlib import Path

from made_probes import planted_probe
from planted import World, plant

from explorer.conftest import make_run
from explorer.pages import open_page, words
from trace_probe.monitor.detector import as_detector
from trace_probe.monitor.recheck import AsRun, judge, save_recheck
from trace_probe.probing.probe import save_probe

BEFORE, AFTER = AsRun("m@1", "float32", ""), AsRun("m@1", "bfloat16", "")


def test_the_page_shows_each_recheck_of_a_probe_the_latest_first(traces: Path) -> None:
    make_run("planted", traces / "run")
    saved = planted_probe(threshold=3.4)
    corpus = plant(World(tasks=6, samples=4, strength=6.0, benign=30))
    scores = dict(saved.scores(corpus))
    lifted = {name: row + 9.0 for name, row in scores.items()}
    folder = traces.resolve().parent / "probes" / "mine"
    save_probe(folder, saved)
    assert "has not been rechecked yet" in words(open_page("recheck"))
    for after, ran in ((scores, replace(AFTER, model="m@2")), (lifted, AFTER)):
        found = judge([corpus, corpus], [scores, after], as_detector(saved), (BEFORE, ran))
        save_recheck(folder, found)
    app = open_page("recheck")
    assert not app.exception
    models = [part.value for part in app.subheader]
    assert models == [str(AFTER), str(replace(AFTER, model="m@2"))]
    assert "calibrate again on a run from after the change" in words(app)
    assert "the threshold may stay as it is" in words(app)
    assert list(app.dataframe[0].value["figure"]) == ["benign", "siblings", "caught", "ranking"]


def test_a_recheck_that_was_changed_by_hand_is_named_not_shown(traces: Path) -> None:
    make_run("planted", traces / "run")
    folder = traces.resolve().parent / "probes" / "mine"
    save_probe(folder, planted_probe())
    (folder / "rechecks.json").write_text('{"rechecks": [{"verdict": "**fine**"}]}', "utf-8")
    app = open_page("recheck")
    assert not app.exception
    assert "cannot be read" in words(app)
