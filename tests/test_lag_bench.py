"""The bench of lags, on curves whose rise and whose alarm lie at known sentences."""

from dataclasses import replace

import pytest
from urns import DOWN, UP, trace

from benchmarks.lag import Lags, figures, lag_of, text
from trace_probe.emergence.curve import PROMPT, OraclePoint, prefixes
from trace_probe.trace import Task, Trace

STEPS = [UP, UP, DOWN, UP, UP]
RISES_LATE = (2, 2, 2, 19, 19, 19)
"""Of 20 continuations, from the prompt and from each of five sentences."""


def asked(one: Trace, hits: tuple[int, ...]) -> list[OraclePoint]:
    places = prefixes(one)[: len(hits)]
    return [OraclePoint(*place, 20, count) for place, count in zip(places, hits, strict=True)]


def test_an_alarm_two_sentences_after_the_rise_has_a_lag_of_two() -> None:
    one = trace(STEPS)
    lag = lag_of(one, 4, asked(one, RISES_LATE))
    assert lag is not None
    assert (lag.alarm, lag.likely, lag.half_way, lag.noticed) == (5, 3, 3, 3)
    found = figures([lag])
    for name in ("likely", "half way", "noticed"):
        value = found[f"sentences from {name} to the alarm"]
        assert value is not None
        assert value.estimate == 2
    assert lag.rise == 0
    assert lag.rise_before == pytest.approx((17 / 21) / 4)


def test_an_alarm_in_the_sentence_of_the_rise_has_a_lag_of_zero_and_all_of_the_rise() -> None:
    one = trace(STEPS)
    lag = lag_of(one, 2, asked(one, RISES_LATE))
    assert lag is not None
    assert (lag.alarm, lag.likely) == (3, 3)
    assert lag.rise == pytest.approx(17 / 21)
    assert lag.rise_before == 0


def test_a_trace_that_was_not_asked_at_every_sentence_up_to_the_alarm_does_not_count() -> None:
    one = trace(STEPS)
    points = asked(one, RISES_LATE)
    assert lag_of(one, 4, [*points[:2], *points[3:]]) is None
    assert lag_of(one, 0, [*points[:2], *points[3:]]) is not None
    assert lag_of(one, 0, []) is None


def test_an_act_that_never_is_likely_has_no_lag_and_intervals_are_over_tasks() -> None:
    first, other = trace(STEPS), replace(trace(STEPS), id="other", task=Task("u", "c", "go"))
    never = lag_of(first, 4, asked(first, (2, 2, 2, 2, 2, 2)))
    once = lag_of(other, 4, asked(other, RISES_LATE))
    assert never is not None
    assert once is not None
    assert never.likely is None
    found = figures([never, once])
    since, before = found["sentences from likely to the alarm"], found["likely before the alarm"]
    assert since is not None
    assert before is not None
    assert (since.n, before.n, before.estimate) == (1, 2, 0.5)
    chances = [value for name, value in found.items() if name.startswith("P ") and value]
    assert len(chances) == 5
    assert not [one for one in chances if one.lower < 0 or one.upper > 1]
    shown = text(Lags("urn", 3, 2, found, (never, once)))
    assert shown.startswith("urn: 3 traces caught, the oracle knows 2 of them, of 2 tasks")
    assert PROMPT not in (never.half_way, once.half_way)
