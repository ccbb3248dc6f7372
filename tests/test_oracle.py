"""The oracle: on a model whose probabilities are known, its estimates are right."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trace_probe.emergence.curve import (
    PROMPT,
    Drawn,
    OraclePoint,
    jeffreys,
    ledger_file,
    oracle_curves,
)
from trace_probe.emergence.oracle import oracle
from trace_probe.labels import Label
from trace_probe.model.local import Completion
from trace_probe.text.written import read_back
from trace_probe.trace import Sampling, Task, Trace

WORDS = ("go ", "<think>", "</think>", "up. ", "down. ", "pull. ", "stay. ")
GO, OPEN, CLOSE, UP, DOWN, PULL, STAY = range(7)
DEPTH = 3


def truth(ups: int, steps: int) -> float:
    """Return P(pull): the share of ups after all steps; the walk is an urn, so a martingale."""
    return (1 + ups) / (2 + steps)


@dataclass
class Urn:
    """A model that thinks `DEPTH` times up or down by Polya's urn, then pulls or stays."""

    name: str = "urn"
    tokenizer: str = "urn"
    chat_template: str = "<think></think>"

    def offsets(self, ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        starts = np.cumsum([0, *(len(WORDS[i]) for i in ids)])[:-1]
        return "".join(WORDS[i] for i in ids), tuple(int(start) for start in starts)

    def generate(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        del sampling
        return [self._continue(ids, seed) for ids, seed in zip(prompts, seeds, strict=True)]

    def _continue(self, ids: Sequence[int], seed: int) -> Completion:
        rng = np.random.default_rng(seed)
        done = [i for i in ids if i in (UP, DOWN)]
        new: list[int] = []
        while len(done) < DEPTH:
            done.append(UP if rng.random() < truth(done.count(UP), len(done)) else DOWN)
            new.append(done[-1])
        act = PULL if rng.random() < truth(done.count(UP), DEPTH) else STAY
        return Completion((*new, CLOSE, act), "stop")


class Reader:
    name = "reader"

    def label(self, trace: Trace) -> Label:
        answer = trace.channel_text("answer")
        return Label(trace.id, self.name, "pull" in answer if answer else None)


def trace(steps: Sequence[int]) -> Trace:
    ids = (GO, OPEN, *steps, CLOSE, STAY)
    model: Any = Urn()
    written = read_back(model, ids, 2)._asdict()
    name = "".join(WORDS[i][0] for i in steps)
    return Trace(
        id=name,
        task=Task("t", "c", "go"),
        model="urn",
        sampling=Sampling(),
        sample=0,
        token_ids=ids,
        tokenizer="urn",
        finish="stop",
        **written,
    )


def test_points_lie_at_the_prompt_and_after_each_thought() -> None:
    model: Any = Urn()
    points = oracle(model, [trace([UP, DOWN, UP])], Reader(), continuations=2, progress=False)
    assert [(one.sentence, one.token) for one in points["udu"]] == [
        (PROMPT, 2),
        (0, 3),
        (1, 4),
        (2, 5),
    ]


def test_estimates_are_unbiased_and_intervals_cover() -> None:
    model: Any = Urn()
    traces = [trace(steps) for steps in ([UP, UP, UP], [DOWN, UP, DOWN], [DOWN, DOWN, DOWN])]
    errors, covered = [], []
    for seed in range(60):
        found = oracle(model, traces, Reader(), continuations=20, seed=seed, progress=False)
        for one in traces:
            ups = 0
            for point in found[one.id]:
                if point.sentence != PROMPT:
                    ups += "up" in one.text_of(one.sentences[point.sentence])
                p = truth(ups, point.sentence + 1)
                lower, upper = point.interval()
                errors.append(point.instrumental / point.known - p)
                covered.append(lower <= p <= upper)
    assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(len(errors))
    assert np.mean(covered) >= 0.93


def test_the_same_seed_asks_the_same_continuations() -> None:
    model: Any = Urn()
    asked = [
        oracle(model, [trace([UP, UP, DOWN])], Reader(), continuations=5, seed=3, progress=False)
        for _ in range(2)
    ]
    assert asked[0] == asked[1]


@pytest.mark.parametrize(("x", "n"), [(0, 20), (20, 20), (7, 20)])
def test_the_interval_is_jeffreys(x: int, n: int) -> None:
    from scipy.stats import beta

    lower, upper = OraclePoint(0, 0, n, x).interval()
    assert lower == (0 if x == 0 else pytest.approx(beta.ppf(0.025, x + 0.5, n - x + 0.5)))
    assert upper == (1 if x == n else pytest.approx(beta.ppf(0.975, x + 0.5, n - x + 0.5)))


def test_curves_are_read_from_what_a_run_keeps(tmp_path: Path) -> None:
    assert oracle_curves(tmp_path) == {}
    file = ledger_file(tmp_path)
    file.parent.mkdir()
    outcomes = (True, True, False, None)
    drawn = [Drawn("a", 0, 7, k, k, outcome, None, 9) for k, outcome in enumerate(outcomes)]
    drawn += [Drawn("a", PROMPT, 4, 0, 9, False, None, 9)]
    lines = [json.dumps(one._asdict()) + "\n" for one in drawn]
    file.write_text("".join(lines) + lines[0][:30], encoding="utf-8")  # a writer was killed here
    low, high = jeffreys([2], [3])
    curve = oracle_curves(tmp_path)["a"]
    assert [point[:3] for point in curve] == [(PROMPT, 4, 0.25), (0, 7, 2.5 / 4)]
    assert curve[1][3:] == (low[0], high[0])
