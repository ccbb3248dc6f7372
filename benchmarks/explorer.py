"""The explorer on a large run in a real browser: how long one waits, what is sent, what is held.

Seconds are those of a user: from the request, click or key to the drawn result, measured in
headless Chromium on this machine, with whatever else it is doing.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np

from benchmarks.command import Say, run
from benchmarks.generated import DETECTOR, LONG, Size, generate
from benchmarks.serve import free_port, resident, wait_until_up
from trace_probe.errors import TraceProbeError
from trace_probe.explorer.launch import command
from trace_probe.explorer.runs import VARIABLE

BUDGETS = {
    "list": 1.5,
    "trace": 1.0,
    "key": 0.150,
    "threshold": 0.300,
    "words": 0.300,
    "search": 0.300,
    "payload": 400_000.0,
    "memory": 1e9,
}
"""What a user may be made to wait, in seconds; bytes of a trace's payload; bytes of the server.

A threshold is moved when bars and rows have its colours; *words* is when alarm and headline, which
come from the server, follow. A search is the server's: to filter, sort and draw the list again.
"""
UNITS = {"payload": "KB", "memory": "MB"}
PATIENCE_MS = 120_000
SIZE = {"width": 1400, "height": 950}
KEYS = "jjjkkJJKsaxpjkJa"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]

KEY_TO_PAINT = """key => new Promise((done) => {
  const shadows = [...document.querySelectorAll("*")].map((node) => node.shadowRoot);
  const root = shadows.find((shadow) => shadow?.querySelector(".list"));
  const list = root.querySelector(".list");
  const begin = performance.now();
  list.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, composed: true }));
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - begin)));
})"""
"""Press a key on the list and wait until the browser has painted the answer; milliseconds."""


@dataclass(frozen=True)
class ExplorerBench:
    """What was measured, each quantity several times, beside what is allowed."""

    size: Size
    measured: dict[str, tuple[float, ...]] = field(default_factory=dict)
    first_list: float = 0.0
    """Seconds until the list is ready when the server has never read the run."""
    first_trace: float = 0.0
    """Seconds until the long trace is ready by a link, the page itself included."""

    def median(self, name: str) -> float:
        """Return the median of a quantity; of the payload the highest, since it is sent once."""
        values = self.measured[name]
        return max(values) if name == "payload" else float(np.median(values))

    @property
    def within(self) -> bool:
        """Return whether every median is within its budget."""
        return all(self.median(name) < budget for name, budget in BUDGETS.items())

    def to_json(self) -> dict[str, Any]:
        """Return figures, budgets and whether they are kept."""
        medians = {name: self.median(name) for name in BUDGETS}
        return {**asdict(self), "median": medians, "budget": BUDGETS, "within": self.within}


def bench_explorer(size: Size, say: Say, *, repeats: int = 5) -> ExplorerBench:
    """Generate a run, serve it, and walk through it in a browser.

    Raises:
        TraceProbeError: Playwright or a Chromium is missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        traces = Path(folder) / "traces"
        with browser() as chromium:
            say(f"generating {size.traces:,} traces")
            generate(traces / "generated", size)
            with server(traces) as (address, process):
                walk = Walk(chromium.new_context(viewport=SIZE), address, say, repeats)
                found = walk.measure()
                found["memory"] = (resident(process.pid),)
    return ExplorerBench(size, found, walk.first_list, walk.first_trace)


@contextmanager
def browser() -> Iterator[Any]:
    """Start a headless Chromium.

    Raises:
        TraceProbeError: Playwright or a Chromium is missing.
    """
    path = next((found for name in BROWSERS if (found := which(name))), None)
    if path is None:
        raise TraceProbeError("no Chromium on this machine: install it (Debian: chromium)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise TraceProbeError("no Playwright: pip install playwright") from error
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@contextmanager
def server(traces: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Serve a folder of runs on a free port; yield address and process."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        command(port=port, headless=True),
        env={**os.environ, VARIABLE: str(traces)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_up(f"{address}/_stcore/health", process)
        yield address, process
    finally:
        process.terminate()
        process.wait(timeout=20)


class Walk:
    """One window that walks through the explorer with a watch."""

    def __init__(
        self,
        window: Any,  # noqa: ANN401 - Playwright's own
        address: str,
        say: Say,
        repeats: int,
    ) -> None:
        """Start in an empty window."""
        self.window, self.address, self.say, self.repeats = window, address, say, repeats
        self.first_list = self.first_trace = 0.0
        self.received = 0

    def measure(self) -> dict[str, tuple[float, ...]]:
        """Return every quantity but memory."""
        self.page = self.window.new_page()
        self.page.on("websocket", self._listen)
        self.first_list = self._by_link(f"traces?p={DETECTOR}", LIST)
        self.say(f"first list {self.first_list:.2f} s")
        self.first_trace = self._by_link(f"trace?t={LONG}&p={DETECTOR}", READY)
        found = {"list": self._repeat(self.list_by_nav)}
        found["search"] = tuple(self.search(words) for words in SOUGHT[: self.repeats])
        found["bare"] = self._repeat(self.bare)
        self.say(f"list {np.median(found['list']):.2f} s")
        opened = [self.trace_from_list() for _ in range(self.repeats)]
        found["trace"] = tuple(seconds for seconds, _ in opened)
        found["payload"] = tuple(float(size) for _, size in opened)
        self.say(f"trace {np.median(found['trace']):.2f} s")
        found["key"] = tuple(self.key(key) for key in KEYS)
        moved = [self.threshold() for _ in range(self.repeats)]
        found["threshold"] = tuple(seen for seen, _ in moved)
        found["words"] = tuple(told for _, told in moved)
        return found

    def _listen(self, socket_: Any) -> None:  # noqa: ANN401 - Playwright's own
        socket_.on("framereceived", self._received)

    def _received(self, frame: str | bytes) -> None:
        self.received += len(frame)

    def _repeat(self, act: Callable[[], float]) -> tuple[float, ...]:
        return tuple(act() for _ in range(self.repeats))

    def _wait(self, selector: str) -> None:
        self.page.wait_for_selector(selector, timeout=PATIENCE_MS)

    def _by_link(self, path: str, selector: str) -> float:
        begin = time.perf_counter()
        self.page.goto(f"{self.address}/{path}")
        self._wait(selector)
        return time.perf_counter() - begin

    def _from_home(self, name: str, selector: str) -> float:
        self.page.get_by_role("link", name="Home", exact=True).click()
        self._wait("h1")
        self._settle()
        begin = time.perf_counter()
        self.page.get_by_role("link", name=name, exact=True).click()
        self._wait(selector)
        return time.perf_counter() - begin

    def list_by_nav(self) -> float:
        """Go from Home to the page of all traces."""
        return self._from_home("Traces", LIST)

    def search(self, words: str) -> float:
        """Look for words in every text, from the key to the shorter list; then take them away."""
        field = self.page.get_by_role("textbox", name="Search")
        whole = self.page.locator(f'[data-testid="stText"]:has-text("{COUNT}")').inner_text()
        field.fill(words)
        begin = time.perf_counter()
        field.press("Enter")
        gone = "whole => !document.body.innerText.includes(whole)"
        self.page.wait_for_function(gone, arg=whole, timeout=PATIENCE_MS)
        seconds = time.perf_counter() - begin
        field.fill("")
        field.press("Enter")
        self.page.get_by_text(whole).wait_for(timeout=PATIENCE_MS)
        self._settle()
        return seconds

    def bare(self) -> float:
        """Go from Home to About, which has nothing of the run to show: what any page costs."""
        return self._from_home("About", f"h1:has-text('{ABOUT}')")

    def trace_from_list(self) -> tuple[float, int]:
        """Find the long trace in the list and open it; return seconds and bytes received."""
        self.page.get_by_role("link", name="Traces", exact=True).click()
        self._wait(LIST)
        words = self.page.get_by_role("textbox", name="Search")
        words.fill(LONG)
        words.press("Enter")
        self.page.get_by_text("1 of ", exact=False).first.wait_for(timeout=PATIENCE_MS)
        self._settle()
        frame = self.page.locator('[data-testid="stDataFrame"]').bounding_box()
        before, begin = self.received, time.perf_counter()
        self.page.mouse.click(frame["x"] + 16, frame["y"] + 55)
        self._wait(READY)
        return time.perf_counter() - begin, self.received - before

    def key(self, key: str) -> float:
        """Press a key in the reader; return seconds until its answer is painted."""
        return float(self.page.evaluate(KEY_TO_PAINT, key)) / 1000

    def threshold(self) -> tuple[float, float]:
        """Raise the threshold a little; return seconds until it is seen, and until it is told."""
        reader = self.page.locator(".reader")
        before = reader.get_attribute("data-threshold")
        begin = time.perf_counter()
        seen = self.key("+")
        while reader.get_attribute("data-threshold") == before:
            if time.perf_counter() - begin > PATIENCE_MS / 1000:
                raise TraceProbeError("the threshold did not move")
        told = time.perf_counter() - begin
        self._settle()
        return seen, told

    def _settle(self) -> None:
        """Wait until the server has nothing more to say."""
        self.page.wait_for_timeout(600)


ABOUT = "About this run"
COUNT = "traces · click a row"
SOUGHT = ("plan is due", "and two parts", "are still open", "so we look", "two and due")
LIST = '[data-testid="stDataFrame"] canvas'
READY = f'.reader[data-ready="{LONG}"]'


def format_explorer(found: ExplorerBench) -> str:
    """Return a table of medians, extremes and budgets."""
    head = f"{'':12}{'median':>12}{'lowest':>12}{'highest':>12}{'budget':>12}"
    rows = [head]
    for name, budget in BUDGETS.items():
        values = found.measured[name]
        figures = (found.median(name), min(values), max(values), budget)
        kept = "" if figures[0] < budget else "  OVER"
        rows.append(f"{name:12}" + "".join(f"{_shown(name, one):>12}" for one in figures) + kept)
    rows.append(
        f"a page without data {1000 * found.median('bare'):.0f} ms, "
        f"first list {found.first_list:.2f} s, long trace by a link {found.first_trace:.2f} s; "
        f"{found.size.traces:,} traces, one of {found.size.long_tokens:,} tokens"
    )
    return "\n".join(rows)


def _shown(name: str, value: float) -> str:
    unit = UNITS.get(name)
    scale = {"KB": 1e3, "MB": 1e6}
    return f"{value / scale[unit]:.0f} {unit}" if unit else f"{1000 * value:.0f} ms"


if __name__ == "__main__":
    run(Size, bench_explorer, format_explorer)
