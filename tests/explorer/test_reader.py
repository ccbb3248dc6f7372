"""The reader in a real browser, as a file: no server is needed to see what its scripts do."""

import json
import random
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.generated import a_curve, a_trace
from explorer.browsing import CONTRAST, Tab, needs_browser
from explorer.conftest import make_run
from explorer.planted import DETECTOR, HOSTILE, MONITOR, PLANTED, THRESHOLD
from trace_probe.explorer.chosen import look
from trace_probe.explorer.loading import load_run
from trace_probe.explorer.payload import payload
from trace_probe.explorer.reader.component import aligned
from trace_probe.explorer.reader.display import display
from trace_probe.explorer.reader.page import inert, page
from trace_probe.explorer.reader.scripts import SCRIPTS, source
from trace_probe.explorer.rows import build_row, facts_of
from trace_probe.explorer.saved import save_page

pytestmark = needs_browser

HIDDEN = ".block[hidden] .row"
IN_SIGHT = """() => {
  const list = document.querySelector(".list").getBoundingClientRect();
  const row = document.querySelector('.row[aria-selected="true"]').getBoundingClientRect();
  return row.top >= list.top && row.bottom <= list.bottom;
}"""


SERVED = """data => {
  document.body.innerHTML = MARKUP;
  SCRIPTS
  const frame = new Frame(document.querySelector(".frame"));
  window.asked = [];
  window.draw = (threshold) => frame.show([{ ...data, threshold }], {
    emit: () => {},
    onThreshold: (value) => window.asked.push(value),
  });
  window.raise = () => frame.readers[0].go("+");
  window.shown = () => frame.readers[0].data.threshold;
  draw(data.threshold);
}"""
"""The reader as a page of a server has it, with the server's part left to the test."""


def content(run: Path, trace_id: str, *, layer: int | None = None) -> dict[str, Any]:
    """Return what the explorer would give the reader."""
    loaded = load_run(run)
    eye = loaded.detector(DETECTOR)
    row = next(row for row in loaded.rows(eye) if row.facts.id == trace_id)
    chosen = look(loaded, row, eye, layer=layer)
    return payload(chosen.trace, chosen.row, chosen.detector, beside=chosen.beside)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of pages, one for each kind of run, and a pair."""
    folder = tmp_path_factory.mktemp("pages")
    for kind, name in (("rich", "early"), ("hostile", "hostile"), ("long", "long")):
        make_run(kind, folder / kind)
        save_page(folder / kind, name, folder / f"{kind}.html", DETECTOR)
    sides = [content(folder / "rich", name) for name in ("early", "quiet")]
    origins = tuple(side["marks"]["alarm"]["token"] for side in sides)
    assert len(origins) == 2
    pair = aligned(sides[0], sides[1], (origins[0], origins[1]))
    (folder / "pair.html").write_text(page(pair), encoding="utf-8")
    trace, label, scores = PLANTED[0]
    shown = display(trace, scores, threshold=THRESHOLD, label=label)
    notebook = f"<!DOCTYPE html><meta charset=utf-8>{shown._repr_html_()}"
    (folder / "notebook.html").write_text(notebook, encoding="utf-8")
    return folder


def test_it_opens_at_the_alarm_with_when_what_and_how_sure(tab: Tab, files: Path) -> None:
    tab.file(files / "rich.html")
    assert tab.selected() == 5
    assert "tokens before it is said" in tab.page.inner_text(".headline")
    cards = tab.page.locator(".fact").all_inner_texts()
    assert len(cards) == 4
    assert PLANTED[0][0].text_of(PLANTED[0][0].sentences[5]).strip() in cards[0]
    assert "tokens after the alarm" in cards[1]
    assert "copy_self --target spare-02" in cards[2]
    assert "0.8 % [0.1, 2.9]" in cards[3]


def test_the_sentence_it_opens_at_is_in_sight_however_tall_the_rows_above(
    windows: dict[str, Any], files: Path
) -> None:
    tab = Tab(windows["light"])
    tab.page.set_viewport_size({"width": 560, "height": 800})
    for sentence in (37, 250, 380):
        tab.file(files / "long.html", f"#s={sentence}")
        tab.page.reload()
        tab.page.wait_for_function(IN_SIGHT)
    tab.page.close()


def test_a_trace_can_be_read_from_end_to_end_by_keys_alone(tab: Tab, files: Path) -> None:
    tab.file(files / "rich.html")
    tour = {"j": 6, "k": 5, "s": 8, "x": 13, "a": 5, "End": 14, "ArrowUp": 13, "Home": 0}
    for key, place in tour.items():
        assert tab.press(key) == place, key
    assert tab.press("J") == 5
    assert tab.press("J") == 6
    assert tab.press("K") == 5
    scores = content(files / "rich", "early")["scores"]
    assert scores[tab.press("p")] == max(scores[:12])
    tab.page.keyboard.press("?")
    assert "next, previous sentence" in tab.page.inner_text(".help")
    assert tab.page.locator("canvas").is_visible()
    tab.page.keyboard.press("l")
    assert not tab.page.locator("canvas").is_visible()


def test_every_control_can_be_reached_and_used_without_a_mouse(tab: Tab, files: Path) -> None:
    tab.file(files / "rich.html")
    tab.page.locator(".fact.said").focus()
    tab.page.keyboard.press("Enter")
    assert tab.selected() == 8
    assert tab.page.evaluate("document.activeElement.className") == "list"


def test_a_link_into_a_file_lands_on_its_sentence(tab: Tab, files: Path) -> None:
    tab.file(files / "rich.html", "#s=2")
    assert tab.selected() == 2
    tab.press("x")
    tab.page.wait_for_url("**#s=13")


def test_tokens_are_drawn_for_the_open_sentence_only(tab: Tab, files: Path) -> None:
    tab.file(files / "long.html")
    assert tab.selected() == 250
    assert tab.page.locator(".token").count() == 25
    tab.press("j")
    assert tab.page.locator(".token").count() == 25
    assert tab.page.locator(".row:has(.token)").get_attribute("data-index") == "251"


def test_calm_sentences_are_folded_and_keys_pass_over_them(tab: Tab, files: Path) -> None:
    tab.file(files / "long.html")
    folded = tab.page.locator(".fold:visible").count()
    assert folded > 2
    first = tab.page.locator(".fold").first.inner_text()
    assert "calm sentences, highest 0." in first
    hidden = tab.page.locator(HIDDEN).count()
    assert hidden > 100
    assert [tab.press("k") for _ in range(3)] == [249, 248, 111]
    assert tab.page.locator(HIDDEN).count() == hidden
    assert tab.press("Home") == 0
    assert tab.page.locator(HIDDEN).count() < hidden
    tab.page.keyboard.press("f")
    assert tab.page.locator(HIDDEN).count() == 0
    tab.page.keyboard.press("f")
    assert tab.page.locator(".fold:visible").count() >= folded - 1


def test_of_a_very_long_trace_only_the_rows_near_the_window_are_made(
    tab: Tab, tmp_path: Path
) -> None:
    draw = random.Random(0)
    trace = a_trace(draw, 16 * 4000, "endless")
    scores = a_curve(draw, trace, alarms=True)
    row = build_row(facts_of(trace), None, scores, THRESHOLD)
    last = len(trace.sentences) - 1
    assert last > 3500
    (tmp_path / "endless.html").write_text(page([payload(trace, row, None)]), encoding="utf-8")
    tab.file(tmp_path / "endless.html")
    assert tab.selected() == row.alarm
    assert tab.page.evaluate(IN_SIGHT)
    assert tab.press("End") == last
    tab.page.wait_for_function(f"({IN_SIGHT})()")
    assert tab.press("Home") == 0
    assert 0 < tab.page.locator(".row").count() < 1500
    assert tab.page.locator(".curve .bar").count() < 1500


def test_a_missing_score_is_hatched_and_never_a_low_one(tab: Tab, files: Path) -> None:
    tab.file(files / "long.html")
    missing = tab.page.locator(".curve .bar.missing")
    assert missing.count() == 10
    assert "hatch" in missing.first.evaluate("e => getComputedStyle(e).fill")
    tab.page.keyboard.press("f")
    scores = tab.page.locator(".row.missing .score").all_text_contents()
    assert scores == ["\u2014"] * 10


def test_oracle_monitor_and_layers_are_on_the_axis_of_the_curve(tab: Tab, files: Path) -> None:
    tab.file(files / "rich.html")
    assert tab.page.locator(".oracle-band").count() == 1
    assert tab.page.locator(".beside.probability").count() == 1
    assert MONITOR in tab.page.locator("svg").first.text_content()
    assert "oracle 0." in tab.page.inner_text(".detail")
    bar = tab.page.locator(".curve .bar").nth(2).bounding_box()
    heat = tab.page.locator("canvas").bounding_box()
    assert bar is not None
    assert heat is not None
    tab.page.mouse.click(bar["x"] + bar["width"] / 2, heat["y"] + heat["height"] / 2)
    assert tab.selected() == 2
    third = heat["y"] + 18 + 2.5 * 18
    tab.page.mouse.move(bar["x"] + bar["width"] / 2, third)
    assert "layer 2" in tab.page.inner_text(".tip")


def test_the_layers_beside_the_marked_one_are_not_named_where_there_is_no_room(
    tab: Tab, tmp_path: Path
) -> None:
    make_run("rich", tmp_path / "rich")
    one = content(tmp_path / "rich", "early")
    row = one["layers"]["rows"][0]
    one["layers"] = {"shown": 26, "rows": [{**row, "layer": layer} for layer in range(30)]}
    (tmp_path / "deep.html").write_text(page([one]), encoding="utf-8")
    tab.page.add_init_script(
        """const draw = CanvasRenderingContext2D.prototype.fillText;
        window.drawn = {};
        CanvasRenderingContext2D.prototype.fillText = function (words, x, y) {
          window.drawn[words] = y;
          draw.call(this, words, x, y);
        };"""
    )
    tab.file(tmp_path / "deep.html")
    drawn = tab.page.evaluate("window.drawn")
    places = sorted(y for words, y in drawn.items() if words.strip("\u25b8 ").isdigit())
    assert "\u25b8 26" in drawn
    assert len(places) > 10
    assert all(below - above >= 11 for above, below in pairwise(places))


def test_two_traces_move_together_at_the_same_distance_from_their_alarms(
    tab: Tab, files: Path
) -> None:
    tab.file(files / "pair.html")
    both = tab.page.locator('.row[aria-selected="true"]')
    assert both.evaluate_all("rows => rows.map(r => r.dataset.index)") == ["5", "7"]
    stems = tab.page.locator(".stem.alarm").evaluate_all(
        "lines => lines.map(l => Number(l.getAttribute('x1')))"
    )
    assert stems[0] == pytest.approx(stems[1], abs=1)
    tab.page.keyboard.press("j")
    assert both.evaluate_all("rows => rows.map(r => r.dataset.index)") == ["6", "8"]


def test_a_barrier_would_be_found(windows: dict[str, Any], files: Path) -> None:
    tab = Tab(windows["light"])
    tab.file(files / "rich.html")
    tab.page.evaluate("document.querySelector('.list').removeAttribute('aria-label')")
    tab.page.evaluate("document.querySelector('.row').setAttribute('role', 'button')")
    assert tab.violations() != []
    tab.page.close()


@pytest.mark.parametrize("kind", ["rich", "hostile", "long", "pair"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_bars_the_way_of_a_screen_reader(
    kind: str, scheme: str, windows: dict[str, Any], files: Path
) -> None:
    tab = Tab(windows[scheme])
    tab.file(files / f"{kind}.html")
    found = tab.violations()
    assert not found, "\n".join(found)
    tab.page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_on_every_row_is_readable(scheme: str, windows: dict[str, Any], files: Path) -> None:
    tab = Tab(windows[scheme])
    tab.file(files / "rich.html")
    ratios = tab.page.locator(".row").evaluate_all(CONTRAST)
    tab.page.close()
    assert len(ratios) == 15
    assert min(ratios) >= 4.5


def test_hostile_text_is_text_in_the_file_and_nothing_else(tab: Tab, files: Path) -> None:
    tab.file(files / "hostile.html")
    shown = "".join(tab.page.locator(".row .text").all_inner_texts())
    for text in HOSTILE[:6]:
        assert text in shown
    for hidden in ("\x1b", "\u202e", "\u200b", "\u2066"):
        assert hidden not in shown
        assert f"\u27e6U+{ord(hidden):04X}\u27e7" in shown
    assert tab.page.evaluate("window.pwned") is None
    assert tab.page.locator("iframe, img, a").count() == 0


def test_the_policy_of_the_file_refuses_what_is_not_its_own(tab: Tab, files: Path) -> None:
    tab.file(files / "rich.html")
    tab.page.evaluate("""() => {
      const script = document.createElement("script");
      script.textContent = "window.pwned = 1";
      document.body.append(script);
      const image = document.createElement("img");
      image.src = "https://evil.invalid/i.png";
      document.body.append(image);
    }""")
    refused = tab.page.evaluate("fetch('https://evil.invalid/').then(() => 1, () => 0)")
    assert refused == 0
    assert tab.page.evaluate("window.pwned") is None
    tab.strangers.clear()  # Chromium reports what it then refuses to send


def test_a_notebook_shows_the_reader_in_a_frame_without_an_origin(tab: Tab, files: Path) -> None:
    tab.page.goto((files / "notebook.html").as_uri())
    frame = tab.page.frame_locator("iframe")
    frame.locator(".reader[data-ready]").wait_for(timeout=20_000)
    assert "Alarm at token" in frame.locator(".headline").inner_text()
    assert tab.page.frames[1].evaluate("self.origin") == "null"


def test_a_long_trace_follows_the_keys_at_once(tab: Tab, files: Path) -> None:
    begin = time.perf_counter()
    tab.file(files / "long.html")
    assert time.perf_counter() - begin < 20
    waits = []
    for key in "sxajkjkpa":
        begin = time.perf_counter()
        tab.press(key)
        waits.append(time.perf_counter() - begin)
    assert float(np.median(waits)) < 0.5


@pytest.fixture
def served(tab: Tab, files: Path) -> Tab:
    """Return a tab whose reader asks `window.asked` for thresholds, with a clock to move."""
    script = SERVED.replace("MARKUP", json.dumps(source("reader.html")))
    tab.page.clock.install(time=0)
    tab.page.goto("about:blank")
    tab.page.clock.pause_at(3_600_000)
    tab.page.evaluate(script.replace("SCRIPTS", source(*SCRIPTS)), content(files / "rich", "early"))
    return tab


def test_a_threshold_whose_message_was_lost_is_asked_for_again(served: Tab) -> None:
    """A page that is drawn for another reason answers with the threshold of before."""
    before = served.page.evaluate("shown()")
    served.page.evaluate("raise()")
    wanted = served.page.evaluate("shown()")
    assert wanted > before
    for asked, milliseconds in ((1, 1_000), (2, 2_000), (3, 2_000)):
        served.page.clock.run_for(milliseconds)
        served.page.evaluate("threshold => draw(threshold)", before)
        assert served.page.evaluate("asked") == [wanted] * asked
        assert served.page.evaluate("shown()") == wanted
    served.page.evaluate("threshold => draw(threshold)", wanted)
    served.page.clock.run_for(60_000)
    assert served.page.evaluate("asked") == [wanted] * 3


def test_a_threshold_that_is_never_taken_is_given_up_and_the_served_one_is_shown(
    served: Tab,
) -> None:
    before = served.page.evaluate("shown()")
    served.page.evaluate("raise()")
    served.page.clock.run_for(60_000)
    served.page.evaluate("threshold => draw(threshold)", before)
    assert len(served.page.evaluate("asked")) == 4
    assert served.page.evaluate("shown()") == before


def test_no_text_can_end_the_data_of_a_page() -> None:
    text = inert({"a": "</script><!-- &amp; ]]>"})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": "</script><!-- &amp; ]]>"}


def test_display_needs_no_server_and_no_torch() -> None:
    code = (
        "import sys, trace_probe.explorer.reader.display;"
        "heavy = {'streamlit', 'torch', 'transformers'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
