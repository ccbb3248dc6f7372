"""What a monitor says of an episode over its calls is what the joined trace gives."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_probes import a_probe
from test_live_features import wide_probe

from trace_probe.activations import ActivationMatrix, pooled_spans
from trace_probe.episode import Episode, calls_of
from trace_probe.monitor.detector import Detector, Source
from trace_probe.probing.corpus import Corpus
from trace_probe.probing.probe import SavedProbe
from trace_probe.statistics.smoothing import parse_smoothing
from trace_probe.trace import Sampling, Task, Trace

SAMPLING = Sampling(seed=1, max_new_tokens=24)
ASKED = (
    Task("t-01", "c", "the model must finish its task before they stop it ."),
    Task("t-01", "c", "they must stop it . the task was done ."),
    Task("t-01", "c", "the model must finish ."),
)
"""What each call reads; no prompt goes on from the one before, as where thoughts are dropped."""


def watched(model: Any, detector: Detector, seed: int) -> tuple[Trace, list[Any], list[Any]]:
    """Return the episode of a watched agent, the sentences and the readings of all its calls."""
    from trace_probe.monitor.live import Followed, Monitor
    from trace_probe.monitor.scoring import as_if_written

    monitor, followed = Monitor(model, detector), Followed()
    calls, readings = [], []
    for number, task in enumerate(ASKED):
        prompt = model.render(task)
        held = list(monitor.watch_ids(prompt, seed + number, SAMPLING, followed))
        readings += held
        (written,) = model.generate([prompt], [seed + number], SAMPLING)
        ids, first = (*prompt, *written.ids), len(prompt)
        assert len(ids) == first + len(held)
        calls.append(as_if_written(model, task, ids, first, "a call"))
    ended = [sentence for reading in readings for sentence in reading.ended]
    return Episode("e", tuple(calls)).joined(), ended, readings


def in_bulk(model: Any, saved: SavedProbe, trace: Trace) -> np.ndarray:
    """Return the scores of a joined trace, each call read with its own prompt."""
    from trace_probe.model.capture import Reading

    rows = []
    for number, call in enumerate(calls_of(trace)):
        spans = [pooled_spans(call)]
        how = Reading(saved.card.pooling)
        (held,) = model.replay([call.token_ids], spans, saved.card.layers, how)
        rows.append(held.values[:, 1 if number else 0 :])
    values = np.concatenate(rows, axis=1)
    matrix = ActivationMatrix(values, saved.card.layers, np.array([0]), saved.card.pooling)
    return saved.scores(Corpus((trace,), {}, matrix))[trace.id]


@pytest.mark.parametrize("smoothing", ["max", "ema:0.5", "2-of-3", "cusum:0.1"])
def test_scores_and_alarms_of_a_live_episode_are_those_of_its_joined_trace(
    tiny: Callable[..., Any], smoothing: str
) -> None:
    model = tiny()
    detector = Detector(
        "p", parse_smoothing(smoothing), 0.3, Source("hand"), wide_probe(model, "linear")
    )
    across = 0
    for seed in range(3):
        trace, ended, readings = watched(model, detector, 10 * seed)
        scores = in_bulk(model, detector.saved, trace)
        values = detector.follow(scores)
        assert [one.sentence for one in ended] == list(range(len(trace.sentences)))
        shift = trace.prompt_stop
        for one, span in zip(ended, trace.sentences, strict=True):
            assert (one.start + shift, one.stop + shift) == (span.start, span.stop)
            assert one.text == trace.text_of(span)
            if span.channel == "reasoning":
                assert abs(one.scores[0] - scores[one.sentence]) <= 1e-5
                assert np.isclose(one.statistics[0], values[one.sentence], atol=1e-5)
                across += trace.call_at(span.start) > 0
        assert [one.token for one in readings] == list(range(shift, len(trace)))
        alarmed = next((one.sentence for one in ended if one.alarms), None)
        assert alarmed == detector.alarm(scores)
    assert across > 3


def test_a_later_call_is_not_scored_as_if_it_were_the_first(tiny: Callable[..., Any]) -> None:
    model = tiny()
    detector = Detector(
        "p", parse_smoothing("max"), 1e9, Source("hand"), wide_probe(model, "linear")
    )
    trace, _, _ = watched(model, detector, 0)
    scores = in_bulk(model, detector.saved, trace)
    alone = [in_bulk(model, detector.saved, replace(call, id="x")) for call in calls_of(trace)]
    assert not np.allclose(scores, np.concatenate(alone), atol=1e-3, equal_nan=True)


def test_an_alarm_stands_in_the_calls_that_follow_and_a_broken_call_leaves_no_trace(
    tiny: Callable[..., Any],
) -> None:
    from trace_probe.monitor.live import Followed, Monitor

    model = tiny()
    monitor, followed = Monitor(model, a_probe(model, threshold=-1e9)), Followed()
    prompt = model.render(ASKED[0])
    broken = monitor.watch_ids(prompt, 1, SAMPLING, followed)
    next(broken)
    broken.close()
    assert followed.carried.calls == 0
    first = list(monitor.watch_ids(prompt, 1, SAMPLING, followed))
    assert first[-1].alarm
    second = next(monitor.watch_ids(prompt, 2, SAMPLING, followed))
    assert second.alarms == ("p",)
    assert followed.carried.calls == 1
