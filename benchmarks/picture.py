"""Takes the README's picture: a trace of a committed run in which the alarm came early.

``make picture`` does it. Which trace it is follows from the run, so a new run needs no new choice.
"""

import sys
from pathlib import Path

from benchmarks.explorer import PATIENCE_MS, browser, server
from trace_probe.errors import NotEnoughData
from trace_probe.explorer.heldout import to_begin_with, unseen
from trace_probe.explorer.loading import Loaded, load_run
from trace_probe.explorer.words import ShownDetector

SIZE = {"width": 1360, "height": 1250}
MOST_SENTENCES = 12
"""So that the picture holds the whole trace."""
STILL_MS = 1500


def choose(run: Loaded, detector: ShownDetector) -> str:
    """Return the trace in which the oracle rises most in the sentence of the alarm.

    It is of a task that the detector has not seen, short, said and done; where none of those says
    it, it is only done. Without an oracle it is the one with the longest warning.

    Raises:
        NotEnoughData: there is none.
    """
    short = [row for row in unseen(run.rows(detector)) if len(row.facts.stops) <= MOST_SENTENCES]
    early = [row for row in short if row.verdict == "early"]
    early = early or [row for row in short if row.verdict == "early, silent"]
    if not early:
        raise NotEnoughData(f"{run.path} holds no short trace with an early alarm")
    return to_begin_with(early, run.oracle).facts.id


def take(path: Path, file: Path) -> str:
    """Write the picture of a run; return the id of the trace it shows.

    Raises:
        TraceProbeError: there is no browser, or no trace to show.
    """
    run = load_run(path)
    detector = run.detector(run.detectors[0])
    trace_id = choose(run, detector)
    with browser() as chromium, server(path.parent) as (address, _):
        page = chromium.new_context(viewport=SIZE).new_page()
        page.goto(f"{address}/trace?r={run.name}&t={trace_id}&p={detector.name}")
        page.wait_for_selector(f'.reader[data-ready="{trace_id}"]', timeout=PATIENCE_MS)
        page.wait_for_timeout(STILL_MS)
        page.locator(".reader").screenshot(path=str(file))
    return trace_id


if __name__ == "__main__":
    sys.stdout.write(f"{take(Path(sys.argv[1]), Path(sys.argv[2]))}\n")
