"""The explorer in a real browser: what it shows, what its keys do, what it never fetches."""

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks.explorer import BUDGETS, bench_explorer, format_explorer, server
from benchmarks.generated import Size
from explorer.browsing import CONTRAST, PATIENCE_MS, Tab, needs_browser
from explorer.conftest import make_run
from explorer.planted import DETECTOR, HOSTILE, MONITOR
from trace_probe.explorer.links import VIEWS
from trace_probe.interop.transcripts import import_transcripts

PAGES = ("", *sorted(view.stem for view in VIEWS.glob("[a-z]*.py") if view.stem != "home"))
RUNS = ("hostile", "rich")
REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "qwen3_4b_thinking_traces.jsonl"

GROUND = "getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor"

pytestmark = needs_browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve good and bad runs; return the address."""
    folder = tmp_path_factory.mktemp("site") / "traces"
    for kind in RUNS:
        make_run(kind, folder / kind)
    if REAL.is_file():
        import_transcripts(REAL, folder / "real")
    with server(folder) as (address, _):
        yield address


@pytest.fixture
def tab(windows: dict[str, Any], site: str) -> Iterator[Tab]:
    opened = Tab(windows["light"], site)
    yield opened
    opened.page.close()
    assert opened.errors == []
    assert opened.strangers == []


@pytest.mark.skipif(not REAL.is_file(), reason="the real transcripts are not beside the checkout")
def test_every_page_opens_on_real_transcripts_and_fetches_nothing_from_elsewhere(tab: Tab) -> None:
    for page in PAGES:
        tab.open(f"{page}?r=real")
        tab.settle()
        assert tab.page.locator('[data-testid="stException"]').count() == 0, page


@pytest.mark.parametrize("page", PAGES)
def test_hostile_text_fetches_nothing_and_runs_nothing_on_any_page(page: str, tab: Tab) -> None:
    tab.open(f"{page}?r=hostile")
    tab.settle()
    assert tab.page.locator('[data-testid="stException"]').count() == 0
    assert tab.page.evaluate("window.pwned") is None
    assert tab.strangers == []
    assert tab.page.locator("[src*='evil'], [href*='evil'], [action*='evil']").count() == 0
    shown = tab.page.inner_text("body")
    for hidden in ("\x1b", "\u202e", "\u200b", "\u2066"):
        assert hidden not in shown


@pytest.mark.parametrize("view", ["Read", "Raw"])
def test_hostile_text_appears_literally(view: str, tab: Tab) -> None:
    tab.reader("trace?r=hostile&t=hostile")
    if view == "Raw":
        tab.page.get_by_text("Raw", exact=True).click()
        tab.page.wait_for_selector('[data-testid="stCode"]', timeout=PATIENCE_MS)
        shown = "".join(tab.page.locator('[data-testid="stCode"]').all_inner_texts())
    else:
        shown = "".join(tab.page.locator(".row .text").all_inner_texts())
    for text in HOSTILE[:6]:
        assert text in shown
    assert "\u202e" not in shown
    assert "\u27e6U+202E\u27e7" in shown
    assert tab.page.evaluate("window.pwned") is None


@pytest.mark.parametrize("page", PAGES)
def test_nothing_on_any_page_bars_the_way_of_a_screen_reader_in_light_or_in_dark(
    page: str, tab: Tab
) -> None:
    """And no exception is shown. Pictures of both are left in TRACE_PROBE_SCREENSHOTS."""
    tab.open(f"{page}?r=rich&p={DETECTOR}")
    grounds, found = set[str](), list[str]()
    for scheme in ("light", "dark"):
        tab.page.emulate_media(color_scheme=scheme)
        tab.settle()
        grounds.add(tab.page.evaluate(GROUND))
        found += [f"{scheme}: {one}" for one in tab.violations()]
        if folder := os.environ.get("TRACE_PROBE_SCREENSHOTS"):
            file = Path(folder) / f"{page or 'home'}-{scheme}.png"
            tab.page.screenshot(path=str(file))
            assert file.stat().st_size > 10_000
    assert len(grounds) == 2, "the page did not change its colours"
    assert not found, "\n".join(found)
    assert tab.page.locator('[data-testid="stException"]').count() == 0


def test_a_deep_link_lands_on_its_sentence_and_a_settled_move_is_in_the_address(tab: Tab) -> None:
    tab.reader("trace?r=rich&t=early&s=2")
    assert tab.selected() == 2
    assert tab.press("x") == 13
    tab.page.wait_for_url(re.compile("s=13"), timeout=PATIENCE_MS)
    assert tab.selected() == 13
    tab.reader(tab.page.url.removeprefix(tab.site + "/"))
    assert tab.selected() == 13


def test_a_threshold_that_moves_brings_its_words_its_address_and_the_sidebar(tab: Tab) -> None:
    tab.reader(f"trace?r=rich&t=early&p={DETECTOR}")
    before = tab.page.inner_text(".headline")
    moved = tab.page.locator(".headline").filter(has_not_text=before)
    for _ in range(200):  # on a busy machine a redrawing may swallow some
        tab.page.locator(".list").press("+")  # which takes the focus back if a redrawing took it
        if moved.count():
            break
    moved.wait_for(timeout=PATIENCE_MS)
    assert "chosen by hand" in tab.page.inner_text(".fact.sure")
    tab.page.wait_for_url(re.compile("th="), timeout=PATIENCE_MS)
    tab.page.get_by_role("slider").wait_for(timeout=PATIENCE_MS)


def test_a_slash_leads_to_the_search_which_finds_words_in_the_texts(tab: Tab) -> None:
    tab.open(f"traces?r=rich&p={DETECTOR}")
    field = tab.page.get_by_role("textbox", name="Search")
    field.wait_for(timeout=PATIENCE_MS)
    tab.settle()
    tab.page.keyboard.press("/")
    tab.page.keyboard.type("nobody can stop/")
    assert field.input_value() == "nobody can stop/"
    tab.page.keyboard.press("Backspace")
    tab.page.keyboard.press("Enter")
    tab.page.get_by_text("3 of 7 traces").wait_for(timeout=PATIENCE_MS)


def test_brackets_walk_from_trace_to_trace(tab: Tab) -> None:
    tab.reader(f"trace?r=rich&t=early&p={DETECTOR}")
    tab.page.keyboard.press("]")
    tab.page.wait_for_selector(".reader:not([data-ready=early])[data-ready]", timeout=PATIENCE_MS)
    tab.settle()
    tab.page.keyboard.press("[")
    tab.page.wait_for_selector(".reader[data-ready=early]", timeout=PATIENCE_MS)


def test_layer_and_a_second_detector_are_drawn_and_the_layer_is_in_the_address(tab: Tab) -> None:
    tab.reader(f"trace?r=rich&t=early&p={DETECTOR}&l=2")
    assert "layer 2" in tab.page.inner_text(".fact.sure")
    assert "not measured" in tab.page.inner_text(".fact.sure")
    assert "l=2" in tab.page.url
    assert MONITOR in (tab.page.locator(".curve svg").text_content() or "")


def test_a_trace_can_be_taken_away_as_one_file(tab: Tab, tmp_path: Path) -> None:
    tab.reader(f"trace?r=hostile&t=hostile&p={DETECTOR}")
    with tab.page.expect_download(timeout=PATIENCE_MS) as download:
        tab.page.get_by_role("button", name="Download").click()
    file = tmp_path / "trace.html"
    download.value.save_as(file)
    assert "default-src 'none'" in file.read_text(encoding="utf-8")
    tab.file(file)
    assert tab.page.evaluate("window.pwned") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_on_every_row_is_readable(scheme: str, windows: dict[str, Any], site: str) -> None:
    tab = Tab(windows[scheme], site)
    tab.reader("trace?r=rich&t=early")
    ratios = tab.page.locator(".row").evaluate_all(CONTRAST)
    tab.page.close()
    assert len(ratios) == 15
    assert min(ratios) >= 4.5


def test_the_bench_walks_through_and_keeps_what_does_not_depend_on_the_machine() -> None:
    size = Size(traces=200, long_tokens=10_000)
    # A thread of its own: the browser of the other tests holds this one's event loop.
    with ThreadPoolExecutor(1) as other:
        found = other.submit(bench_explorer, size, say=lambda _: None, repeats=1).result()
    assert found.median("payload") < BUDGETS["payload"]
    assert found.median("memory") < BUDGETS["memory"]
    assert found.median("key") < 10 * BUDGETS["key"]
    assert all(name in format_explorer(found) for name in BUDGETS)
    assert found.to_json()["budget"] == BUDGETS
