"""A headless Chromium that remembers what it was made to fetch and what went wrong in it."""

import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE = "axe-core@4.11.0"
PATIENCE_MS = 60_000
SIZE = {"width": 1400, "height": 950}

needs_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.is_file(), reason=f"no browser at {CHROMIUM}"),
]


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a browser; skip the test where Playwright is missing."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


class Tab:
    """A tab of a window, on a site or on files."""

    def __init__(self, context: Any, site: str = "file:") -> None:
        self.page = context.new_page()
        self.site = site
        self.strangers: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", self.note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def note(self, request: Any) -> None:
        ours = (self.site, "data:", "blob:", "file:", self.site.replace("http", "ws"))
        if not request.url.startswith(ours):
            self.strangers.append(request.url)

    def open(self, address: str) -> None:
        self.page.goto(f"{self.site}/{address}")
        self.page.wait_for_selector('[data-testid="stMainBlockContainer"]', timeout=PATIENCE_MS)
        self.page.wait_for_selector(DRAWN, timeout=PATIENCE_MS, state="attached")

    def reader(self, address: str) -> None:
        self.open(address)
        self.page.wait_for_selector(".reader[data-ready]", timeout=PATIENCE_MS)

    def file(self, path: Path, fragment: str = "") -> None:
        self.page.goto(f"{path.as_uri()}{fragment}")
        self.page.wait_for_selector(".reader[data-ready]", timeout=PATIENCE_MS)

    def settle(self) -> None:
        """Wait until the page is drawn and the server has nothing more to say."""
        calm = 0
        while calm < 3:
            self.page.wait_for_function(SETTLED, timeout=PATIENCE_MS)
            self.page.wait_for_timeout(100)
            calm = calm + 1 if self.page.evaluate(f"({SETTLED})()") else 0

    def selected(self) -> int:
        index: str = self.page.get_attribute('.row[aria-selected="true"]', "data-index")
        return int(index)

    def press(self, key: str) -> int:
        self.page.keyboard.press(key)
        return self.selected()

    def violations(self) -> list[str]:
        """Return what axe-core holds to be a serious or critical barrier on this page."""
        self.page.evaluate(axe_script())
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['id']} ({one['impact']}): {node['target']} {node['failureSummary']}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]


def axe_script() -> str:
    """Return axe-core as the npm registry has it, kept in a cache; skip where it cannot be had."""
    folder = Path(os.environ.get("TRACE_PROBE_CACHE", Path.home() / ".cache" / "trace_probe"))
    script = folder / f"{AXE}.js"
    if not script.is_file():
        if which("npm") is None:
            pytest.skip(f"no npm to fetch {AXE} with")
        script.parent.mkdir(parents=True, exist_ok=True)
        fetched = script.with_name(f"{script.name}.{os.getpid()}")  # a test beside may want it too
        fetched.write_text(fetch_axe(), encoding="utf-8")
        fetched.replace(script)
    return script.read_text(encoding="utf-8")


def fetch_axe() -> str:
    """Return the script out of the package of the npm registry."""
    with tempfile.TemporaryDirectory() as scratch:
        pack = ["npm", "pack", AXE, "--silent", "--pack-destination", scratch]
        done = subprocess.run(pack, capture_output=True, text=True, timeout=120)
        if done.returncode:
            pytest.skip(f"cannot fetch {AXE}: {done.stderr.strip()[-200:]}")
        with tarfile.open(Path(scratch) / done.stdout.strip()) as archive:
            member = archive.extractfile("package/axe.min.js")
            assert member is not None
            return member.read().decode()


DRAWN = '[data-testid="stMainBlockContainer"] [data-testid="stElementContainer"]'
SETTLED = """() => document.querySelector(
  '[data-test-script-state="notRunning"] [data-testid="stMain"] [data-testid="stElementContainer"]'
) && !document.querySelector(
  '[data-testid="stSkeleton"], [data-testid="stAppSkeleton"], [data-testid="stStatusWidget"]'
)"""
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
"""Lowest contrast of text on its ground, in each row of sentences."""
