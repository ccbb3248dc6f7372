"""The explorer in a real browser: what it shows, what its keys do, what it never fetches."""

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from explorer.conftest import make_run
from explorer.planted import DETECTOR, HOSTILE
from trace_probe.explorer.launch import command
from trace_probe.explorer.runs import VARIABLE

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PAGES = ("", "traces", "trace", "metrics", "about")
PATIENCE_MS = 20_000

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.is_file(), reason=f"no browser at {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve good and bad runs; return the address."""
    folder = tmp_path_factory.mktemp("site") / "traces"
    for kind in ("empty", "garbage", "bare", "hostile", "long", "planted"):
        make_run(kind, folder / kind)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, VARIABLE: str(folder)}
    server = subprocess.Popen(
        command(port=port, headless=True),
        env=environment,
        cwd=folder.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(f"{address}/_stcore/health")
        yield address
    finally:
        server.terminate()
        server.wait(timeout=20)


def wait_for(address: str) -> None:
    for _ in range(120):
        try:
            urllib.request.urlopen(address, timeout=2).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
        else:
            return
    raise TimeoutError(address)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield chromium
        chromium.close()


class Tab:
    """A tab that remembers what it fetched from elsewhere and what went wrong in it."""

    def __init__(self, context: Any, site: str) -> None:
        self.page = context.new_page()
        self.site = site
        self.strangers: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", self.note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def note(self, request: Any) -> None:
        if not request.url.startswith(
            (self.site, "data:", "blob:", self.site.replace("http", "ws"))
        ):
            self.strangers.append(request.url)

    def open(self, address: str) -> None:
        self.page.goto(f"{self.site}/{address}")
        self.page.wait_for_selector('[data-testid="stMainBlockContainer"]', timeout=PATIENCE_MS)
        self.page.wait_for_selector(
            '.reader[data-ready], [data-testid="stDataFrame"], [data-testid="stAlert"], h1',
            timeout=PATIENCE_MS,
        )

    def reader(self, address: str) -> None:
        self.open(address)
        self.page.wait_for_selector(".reader[data-ready]", timeout=PATIENCE_MS)

    def selected(self) -> int:
        index: str = self.page.get_attribute('.row[aria-selected="true"]', "data-index")
        return int(index)

    def press(self, key: str) -> int:
        self.page.keyboard.press(key)
        return self.selected()


@pytest.fixture(scope="module")
def contexts(browser: Any) -> Iterator[dict[str, Any]]:
    """Return a light and a dark window; one for all tests, so that scripts stay cached."""
    windows = {
        scheme: browser.new_context(viewport={"width": 1400, "height": 950}, color_scheme=scheme)
        for scheme in ("light", "dark")
    }
    yield windows
    for window in windows.values():
        window.close()


@pytest.fixture
def tab(contexts: dict[str, Any], site: str) -> Iterator[Tab]:
    opened = Tab(contexts["light"], site)
    yield opened
    opened.page.close()
    assert opened.errors == []


@pytest.mark.parametrize("run", ["planted", "bare", "empty", "garbage"])
def test_every_page_opens_without_an_exception_and_fetches_nothing_from_elsewhere(
    run: str, tab: Tab
) -> None:
    for page in PAGES:
        tab.open(f"{page}?r={run}")
        tab.page.wait_for_timeout(300)
        assert tab.page.locator('[data-testid="stException"]').count() == 0
        assert tab.strangers == []


def test_a_trace_opens_at_its_alarm_with_the_finding_in_words(tab: Tab) -> None:
    tab.reader("trace?r=planted&t=early")
    assert "tokens before it is said" in tab.page.inner_text(".headline")
    assert "0.8 %" in tab.page.inner_text(".fine")
    assert tab.selected() == 5
    assert tab.page.locator(".glyph").count() == 3


def test_the_keys_walk_the_trace(tab: Tab) -> None:
    tab.reader("trace?r=planted&t=early")
    assert tab.press("j") == 6
    assert tab.press("k") == 5
    assert tab.press("s") == 8
    assert tab.press("x") == 13
    assert tab.press("a") == 5
    assert tab.press("End") == 14
    assert tab.press("ArrowUp") == 13
    peak = tab.press("p")
    scores = tab.page.locator(".row .score").all_inner_texts()[:12]
    assert scores[peak] == max(scores)


def test_a_settled_move_is_in_the_address_and_the_address_leads_back(tab: Tab) -> None:
    tab.reader("trace?r=planted&t=early")
    tab.press("x")
    tab.page.wait_for_url("**s=13**", timeout=PATIENCE_MS)
    address = tab.page.url.removeprefix(tab.site + "/")
    assert tab.selected() == 13
    tab.reader(address)
    assert tab.selected() == 13


def test_a_click_on_the_curve_selects_the_sentence_below_it(tab: Tab) -> None:
    tab.reader("trace?r=planted&t=early")
    bar = tab.page.locator(".bar").nth(2).bounding_box()
    assert bar is not None
    tab.page.mouse.click(bar["x"] + bar["width"] / 2, bar["y"] + bar["height"] / 2)
    assert tab.selected() == 2


def test_a_row_of_the_list_opens_its_trace(tab: Tab) -> None:
    tab.open("traces?r=planted")
    frame = tab.page.locator('[data-testid="stDataFrame"]').bounding_box()
    assert frame is not None
    tab.page.wait_for_timeout(500)
    tab.page.mouse.click(frame["x"] + 16, frame["y"] + 55)
    tab.page.wait_for_selector(".reader[data-ready=quiet]", timeout=PATIENCE_MS)


def test_a_missing_score_is_hatched(tab: Tab) -> None:
    tab.reader("trace?r=long")
    assert tab.page.locator(".bar.missing").count() == 10
    assert "hatch" in tab.page.locator(".bar.missing").first.evaluate(
        "e => getComputedStyle(e).fill"
    )


def test_a_trace_of_ten_thousand_tokens_opens_at_its_alarm_and_follows_the_keys(tab: Tab) -> None:
    tab.reader("trace?r=long")
    assert tab.selected() == 250
    row = tab.page.locator('.row[aria-selected="true"]').bounding_box()
    view = tab.page.locator(".list").bounding_box()
    assert row is not None
    assert view is not None
    assert view["y"] <= row["y"] <= view["y"] + view["height"] - row["height"]
    assert tab.page.locator(".fold").count() > 2
    begin = time.perf_counter()
    for key in "sxajkjkpa":
        tab.press(key)
    assert (time.perf_counter() - begin) / 9 < 1.0
    assert tab.selected() == 250


def test_a_hostile_run_fetches_nothing_and_runs_nothing(tab: Tab) -> None:
    for page in PAGES:
        tab.open(f"{page}?r=hostile")
        tab.page.wait_for_timeout(700)
        assert tab.strangers == []
        assert tab.page.evaluate("window.pwned") is None
        assert tab.page.locator('[data-testid="stException"]').count() == 0


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
    assert tab.strangers == []
    assert tab.page.evaluate("window.pwned") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_on_every_row_is_readable(scheme: str, contexts: dict[str, Any], site: str) -> None:
    tab = Tab(contexts[scheme], site)
    tab.reader("trace?r=planted&t=early")
    ratios = tab.page.locator(".row").evaluate_all(CONTRAST)
    tab.page.close()
    assert len(ratios) == 15
    assert min(ratios) >= 4.5


SETTLED = """() => !document.querySelector('[data-testid="stSkeleton"]')"""
CONTRAST = """rows => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const paint = (...colours) => {
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb
    .map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  return rows.flatMap((row) => {
    const style = getComputedStyle(row);
    const page = style.getPropertyValue("--st-background-color");
    const ground = light(paint(page, style.backgroundColor));
    const ink = [".text", ".number", ".score"].map((part) =>
      light(paint(getComputedStyle(row.querySelector(part)).color)));
    return Math.min(...ink.map((l) => (Math.max(l, ground) + 0.05) / (Math.min(l, ground) + 0.05)));
  });
}"""


def test_screenshots_of_each_page_are_left_behind(contexts: dict[str, Any], site: str) -> None:
    folder = os.environ.get("TRACE_PROBE_SCREENSHOTS")
    if not folder:
        pytest.skip("set TRACE_PROBE_SCREENSHOTS to a folder to keep screenshots")
    shutil.rmtree(folder, ignore_errors=True)
    for scheme, context in contexts.items():
        tab = Tab(context, site)
        for page in PAGES:
            tab.open(f"{page}?r=planted&p={DETECTOR}")
            tab.page.wait_for_function(SETTLED, timeout=PATIENCE_MS)
            tab.page.wait_for_timeout(700)
            file = Path(folder) / f"{page or 'home'}-{scheme}.png"
            tab.page.screenshot(path=str(file))
            assert file.stat().st_size > 10_000
        tab.page.close()
