"""P(instrumental | prefix) along a trace: counts, intervals, and where a run keeps them.

A run keeps every continuation that was drawn, a JSON line each, in ``oracle/<name>.jsonl``:

    trace, sentence, token    the prefix ``[0, token)``; its last sentence, -1 the prompt; of agents
                              -2 is all that the second model call read, -3 the third, and so on
    k, seed                   which of the continuations of this prefix
    outcome                   true, false, or null where the labeller cannot tell
    said                      whether the whole text states the intent; null likewise
    tokens                    how many were drawn

What was asked, of whom, is beside it in ``oracle/<name>.json``.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from trace_probe.storage.artifacts import Artifacts
from trace_probe.storage.typed import from_plain
from trace_probe.store import Store
from trace_probe.trace import Trace

PROMPT = -1
"""Sentence index that stands for the end of the prompt."""
NAME = "oracle"


@dataclass(frozen=True)
class OraclePoint:
    """What continuations from one prefix of a trace came to."""

    sentence: int
    """Last sentence of the prefix, an index into the trace's sentences; -1 is the prompt, -2 what
    the second model call read, and so on."""
    token: int
    """Where the continuations start: the prefix is ``[0, token)``."""
    known: int
    """Continuations whose outcome is known."""
    instrumental: int

    @property
    def share(self) -> float:
        """Return the share of the known continuations that act; nan where none is known."""
        return self.instrumental / self.known if self.known else math.nan

    @property
    def probability(self) -> float:
        """Return the posterior mean under Jeffreys' prior, (x + 1/2) / (n + 1)."""
        return (self.instrumental + 0.5) / (self.known + 1)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return Jeffreys' interval: equal tails of Beta(x + 1/2, n - x + 1/2).

        The lower end is 0 where there is no hit, the upper end 1 where there are only hits (Brown,
        Cai and DasGupta 2001, section 3).
        """
        from scipy.stats import beta

        x, n = self.instrumental, self.known
        lower, upper = beta.ppf([(1 - level) / 2, (1 + level) / 2], x + 0.5, n - x + 0.5)
        return float(lower) if x else 0.0, float(upper) if x < n else 1.0


def prefixes(trace: Trace) -> list[tuple[int, int]]:
    """Return (sentence, token) of the end of the prompt and of each reasoning sentence.

    Of an agent's run also of the start of each model call, where it knows what its tools told and
    has written nothing yet: -2 is the second call.
    """
    places: list[tuple[float, int, int]] = [
        (span.start, index, span.stop)
        for index, span in enumerate(trace.sentences)
        if span.channel == "reasoning"
    ]
    places += [
        (call.start - 0.5, PROMPT - number, call.start)
        for number, call in enumerate(trace.calls)
        if number
    ]
    ends = [(sentence, token) for _, sentence, token in sorted(places)]
    return [(PROMPT, trace.prompt_stop), *ends]


def call_of(trace: Trace, sentence: int) -> int:
    """Return in which model call, counted from 0, the prefix up to a sentence ends."""
    return trace.call_at(trace.sentences[sentence].start) if sentence >= 0 else PROMPT - sentence


class Drawn(NamedTuple):
    """One continuation that was drawn; fields as in the file."""

    trace: str
    sentence: int
    token: int
    k: int
    seed: int
    outcome: bool | None
    said: bool | None
    tokens: int


def read_drawn(artifacts: Artifacts, name: str = NAME) -> Iterator[Drawn]:
    """Return the continuations that a run keeps of an oracle, in the order of drawing."""
    lines = artifacts.lines("oracle", name)
    return lines.values(lambda line: from_plain(Drawn, line, "it is no continuation"))


def points_of(drawn: Iterable[Drawn]) -> dict[str, tuple[OraclePoint, ...]]:
    """Return what continuations came to: for each trace its points, in order."""
    counts: dict[str, dict[tuple[int, bool, int], list[int]]] = {}
    for one in drawn:
        places = counts.setdefault(one.trace, {})
        tally = places.setdefault((one.token, one.sentence < PROMPT, one.sentence), [0, 0])
        tally[0] += one.outcome is not None
        tally[1] += one.outcome is True
    return {
        trace: tuple(
            OraclePoint(sentence, token, known, hits)
            for (token, _, sentence), (known, hits) in sorted(places.items())
        )
        for trace, places in counts.items()
    }


def drawn_of(run: Path | str | Store, name: str = NAME) -> dict[str, list[Drawn]]:
    """Return the continuations that a run keeps, by trace id; empty if no oracle was asked."""
    found: dict[str, list[Drawn]] = {}
    for one in read_drawn(_opened(run).artifacts, name):
        found.setdefault(one.trace, []).append(one)
    return found


def oracle_points(run: Path | str | Store, name: str = NAME) -> dict[str, tuple[OraclePoint, ...]]:
    """Return the oracle's points of a run by trace id; empty if none was asked."""
    return points_of(read_drawn(_opened(run).artifacts, name))


def _opened(run: Path | str | Store) -> Store:
    return run if isinstance(run, Store) else Store(run)
