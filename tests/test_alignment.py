from dataclasses import replace

import numpy as np

from trace_probe.evaluation.details import OFFSETS, event_aligned, pseudo_events
from trace_probe.statistics.bootstrap import resample
from trace_probe.statistics.metrics import Cohort


def cohort(tasks: int = 20, samples: int = 8) -> Cohort:
    rng = np.random.default_rng(0)
    n = tasks * samples
    positive = rng.random(n) < 0.5
    task = np.repeat(np.arange(tasks), samples)
    return Cohort(
        ids=tuple(str(i) for i in range(n)),
        positive=positive,
        task=task,
        prompt=task,
        sentences=tuple(np.arange(16) for _ in range(n)),
        said=np.where(positive, rng.integers(8, 12, n), -1),
    )


def test_a_planted_emergence_is_recovered() -> None:
    group = cohort()
    rows = np.random.default_rng(1).normal(size=(len(group.ids), 16)) / 10
    for row, said in zip(rows, group.said, strict=True):
        if said >= 0:
            row[said - 3 :] += 1.0
    found = event_aligned(group, rows, resample(group.n_tasks))
    assert found.emergence == -3
    difference = dict(zip(OFFSETS, filter(None, found.difference), strict=True))
    assert abs(difference[-4].estimate) < 0.1
    assert abs(difference[-3].estimate - 1.0) < 0.1
    assert difference[0].n <= group.positive.sum()


def test_what_grows_with_position_alone_does_not_emerge() -> None:
    group = cohort()
    noise = np.random.default_rng(2).normal(size=(len(group.ids), 16)) / 10
    found = event_aligned(group, noise + np.arange(16), resample(group.n_tasks))
    assert found.emergence is None


def test_a_pseudo_event_is_that_of_a_positive_of_the_same_prompt() -> None:
    group = cohort()
    events = pseudo_events(group)
    for i in np.flatnonzero(~group.positive):
        same = group.said[group.positive & (group.prompt == group.prompt[i])]
        assert not len(same) or events[i] in same


def test_traces_that_never_say_it_have_no_curve() -> None:
    group = cohort()
    silent = Cohort(
        group.ids,
        group.positive,
        group.task,
        group.prompt,
        group.sentences,
        np.full(len(group.ids), -1),
    )
    found = event_aligned(silent, np.zeros((len(group.ids), 16)), resample(group.n_tasks))
    assert found.emergence is None
    assert not any(found.difference)


def test_a_few_traces_alone_are_no_emergence() -> None:
    """One trace of each outcome differs at every offset, in every resample, by chance alone."""
    for tasks, expected in ((1, None), (4, None), (5, -8)):
        group = cohort(tasks=tasks, samples=2)
        group = replace(
            group,
            positive=np.arange(2 * tasks) % 2 == 0,
            said=np.where(np.arange(2 * tasks) % 2 == 0, 9, -1),
        )
        apart = np.where(group.positive, 1.0, 0.0)[:, None] + np.zeros(16)
        found = event_aligned(group, apart, resample(group.n_tasks))
        assert found.emergence == expected
        own = found.difference[8]
        assert own is not None
        assert own.estimate == 1.0
