"""Onset, commitment, jumps and resilience, on counts that are known."""

from dataclasses import replace

import numpy as np
import pytest
from urns import DOWN, UP, trace

from trace_probe.emergence.curve import PROMPT, Drawn, OraclePoint
from trace_probe.emergence.onset import (
    PLACES,
    at_prompt,
    commitment,
    emergence,
    jumps,
    onset,
    summarise,
)
from trace_probe.errors import NotEnoughData
from trace_probe.labels import Label
from trace_probe.trace import Task, Trace

STEPS = 9


def curve(*hits: int, n: int = 20) -> list[OraclePoint]:
    """Return a point at the prompt and after each sentence."""
    return [OraclePoint(i - 1, 2 + i, n, x) for i, x in enumerate(hits)]


def long_trace(name: str, task: str = "t") -> Trace:
    made = trace([UP, DOWN] * 4 + [UP])
    return replace(made, id=name, task=Task(task, "c", f"go {task}"))


def drawn_like(one: Trace, points: list[OraclePoint], said: bool = False) -> list[Drawn]:
    return [
        Drawn(one.id, p.sentence, p.token, k, k, k < p.instrumental, said and k < 5, 4)
        for p in points
        for k in range(p.known)
    ]


def test_onset_is_where_the_interval_clears_the_prompt_and_a_rise() -> None:
    points = curve(4, 5, 9, 16, 20)
    found = onset(points, 0.2)
    assert found is not None
    assert found.sentence == 2
    assert found.interval()[0] > 0.4 > points[2].interval()[0]
    assert onset(points, 0.7) is None


def test_commitment_holds_at_every_later_prefix() -> None:
    assert commitment(curve(2, 20, 8, 20, 20)) == curve(2, 20, 8, 20, 20)[3]
    assert commitment(curve(2, 20, 20, 20, 8)) is None
    surely, hardly = curve(20, 20, n=20), curve(19, 19, n=20)
    assert commitment(surely) == surely[0]
    assert commitment(hardly) is None  # P(p >= 0.9 | 19 of 20) is below 0.9
    assert commitment(hardly, theta=0.8) == hardly[0]


def test_the_interval_of_a_jump_covers_the_true_difference() -> None:
    rng, p, q = np.random.default_rng(0), 0.15, 0.6
    covered = []
    for x, y in rng.binomial(20, (p, q), size=(2000, 2)):
        (jump,) = jumps(curve(x, y))
        assert jump.lower <= jump.size <= jump.upper
        covered.append(jump.lower <= q - p <= jump.upper)
    assert np.mean(covered) >= 0.93


@pytest.mark.parametrize(
    ("hits", "where"),
    [
        ((18, 19, 19, 20, 20, 20, 20, 20, 20, 20), "prompt"),
        ((2, 3, 15, 20, 20, 20, 20, 20, 20, 20), "early"),
        ((2, 2, 2, 2, 2, 17, 20, 20, 20, 20), "middle"),
        ((2, 2, 2, 2, 2, 2, 2, 2, 19, 20), "late"),
        ((2, 3, 2, 4, 3, 2, 4, 2, 3, 2), "never"),
    ],
)
def test_the_act_emerges_in_a_third_of_the_reasoning(hits: tuple[int, ...], where: str) -> None:
    points = curve(*hits)
    assert emergence(long_trace("a"), points, points[0]).where == where


def test_the_prompt_is_pooled_over_the_traces_that_read_it() -> None:
    traces = [long_trace("a"), long_trace("b"), long_trace("c", task="other")]
    points = {"a": curve(2, 20), "b": curve(6, 20), "c": curve(9, 20)}
    found = at_prompt(points, traces)
    assert found["a"] == found["b"] == OraclePoint(PROMPT, 2, 40, 8)
    assert found["c"].known == 20


def test_a_summary_counts_places_and_what_is_taken_back() -> None:
    rising, flat = (2, 2, 2, 2, 2, 17, 20, 20, 20, 20), (2,) * 10
    traces = [long_trace(f"{i}", task=f"t{i % 4}") for i in range(8)]
    labels, drawn = {}, {}
    for i, one in enumerate(traces):
        acted = i % 2 == 0
        said = one.sentences[4] if acted else None
        labels[one.id] = Label(one.id, "r", acted, said=said)
        drawn[one.id] = drawn_like(one, curve(*(rising if acted else flat)), said=acted)
    found = summarise(traces, labels, drawn)
    assert (found.traces, found.positives, found.continuations) == (8, 4, 8 * 10 * 20)
    shares = [found.where[name] for name in PLACES]
    assert [share and share.estimate for share in shares] == [0, 0, 1, 0, 0]
    assert found.where_all["never"] is not None
    assert found.where_all["never"].estimate == 0.5
    assert found.said_again is not None
    assert found.acted_anyway is not None
    # Said in the fifth sentence: the last prefix before it is that of the fourth.
    assert (found.said_again.estimate, found.acted_anyway.estimate) == (5 / 20, 2 / 20)
    assert found.committed is not None
    assert found.committed.estimate == 1
    assert "middle" in str(found)
    with pytest.raises(NotEnoughData):
        summarise(traces, labels, {})
