"""The headline: caught before it is said, at a threshold set on harmless traces of the prompt."""

import numpy as np
import pytest

from trace_probe.statistics.bootstrap import Values, resample
from trace_probe.statistics.metrics import NEVER, UNKNOWN, Cohort, running_maxima
from trace_probe.statistics.siblings import mixed_prompts


def cohort(
    outcomes: list[list[bool]], said: list[list[int]] | None = None, sentences: int = 4
) -> Cohort:
    """Return traces of one prompt a task, by task and sample."""
    task = np.array([t for t, row in enumerate(outcomes) for _ in row])
    flat = [is_ for row in outcomes for is_ in row]
    marks = [NEVER] * len(flat) if said is None else [at for row in said for at in row]
    return Cohort(
        ids=tuple(f"t{i}" for i in range(len(flat))),
        positive=np.array(flat, dtype=bool),
        task=task,
        prompt=task,
        sentences=tuple(np.arange(sentences) for _ in flat),
        said=np.array(marks),
        tokens=tuple(10 * np.arange(1, sentences + 1) for _ in flat),
    )


def at(values: list[float], when: int = 0, sentences: int = 4) -> Values:
    """Return running maxima of traces that reach a value in one sentence and are quiet before."""
    rows = np.full((len(values), sentences), -9.0)
    rows[:, when] = values
    return running_maxima(rows)


@pytest.mark.parametrize("n", [1, 7, 20, 60])
@pytest.mark.parametrize("rate", [0.0, 0.05, 0.1, 0.29])
def test_the_threshold_is_the_lowest_at_which_no_more_siblings_alarm(n: int, rate: float) -> None:
    rng = np.random.default_rng(n)
    peaks = np.round(rng.normal(size=n), 1)  # with ties
    mixed = mixed_prompts(cohort([[True, *[False] * n]], [[NEVER] * (n + 1)]))
    limit = mixed.limits(peaks, np.ones((1, 1)), rate)[0]  # what lies above it alarms
    allowed = int(np.floor(rate * n + 1e-9))
    assert (peaks > limit).sum() <= allowed
    assert (peaks >= limit).sum() > allowed


def test_without_siblings_there_is_no_threshold() -> None:
    alone = mixed_prompts(cohort([[True]], [[NEVER]]))
    assert np.isnan(alone.limits(np.array([]), np.ones((1, 1)), 0.05)).all()


def test_the_headline_is_the_share_that_reaches_the_threshold_of_each_resample() -> None:
    """The vectorised figure against the definition, resample by resample."""
    rng = np.random.default_rng(0)
    outcomes = [[bool(rng.random() < 0.5) for _ in range(6)] for _ in range(15)]
    said = [[int(rng.choice([NEVER, 1, 2, 3])) if is_ else NEVER for is_ in r] for r in outcomes]
    made = cohort(outcomes, said)
    mixed = mixed_prompts(made)
    maxima = running_maxima(np.round(rng.normal(size=(90, 4)) + made.positive[:, None], 1))
    weights = resample(made.n_tasks, draws=50)
    values = mixed.caught(maxima, weights, 0.1).draws
    for draw, weight in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(90), weight[made.task])
        rows = rows[made.mixed()[made.prompt[rows]]]
        quiet, acts = rows[~made.positive[rows]], rows[made.positive[rows]]
        limit = np.sort(maxima[quiet, 4])[::-1][int(np.floor(0.1 * len(quiet) + 1e-9))]
        in_time = np.where(made.said == NEVER, 4, made.said)[acts]
        assert values[draw] == pytest.approx((maxima[acts, in_time] > limit).mean())


def test_an_alarm_in_the_sentence_that_says_it_is_too_late() -> None:
    made = cohort([[True, False]] * 10, [[2, NEVER]] * 10)
    mixed, weights = mixed_prompts(made), resample(10, draws=5)
    for sentence, share in ((1, 1.0), (2, 0.0)):
        maxima = at([1.0, 0.0] * 10, when=sentence)
        assert mixed.caught(maxima, weights, 0.05).estimate == share


def test_a_silent_trace_may_be_caught_until_it_acts() -> None:
    mixed = mixed_prompts(cohort([[True, False]] * 10))
    caught = mixed.caught(at([1.0, 0.0] * 10, when=3), resample(10, draws=5), 0.05)
    assert caught.estimate == 1.0


def test_a_sibling_alarms_anywhere_before_its_end() -> None:
    made = cohort([[True, False]] * 10, [[1, NEVER]] * 10)
    late = running_maxima(np.array([[1.0, 0, 0, 0], [0, 0, 0, 2.0]] * 10))
    assert mixed_prompts(made).caught(late, resample(10, draws=5), 0.05).estimate == 0.0


def test_prompts_of_one_outcome_do_not_count() -> None:
    made = cohort([[True, False], [True, True], [False, False]])
    mixed = mixed_prompts(made)
    assert (mixed.positive.tolist(), mixed.sibling.tolist(), mixed.prompts) == ([0], [1], 1)


def test_where_nobody_knows_whether_it_is_said_a_trace_is_left_out_and_counted() -> None:
    mixed = mixed_prompts(cohort([[True, True, False]] * 2, [[UNKNOWN, 1, NEVER]] * 2))
    assert mixed.positive.tolist() == [1, 4]
    assert mixed.unknown == 2


def test_with_few_siblings_or_prompts_the_reason_is_given_instead_of_a_figure() -> None:
    few_siblings = mixed_prompts(cohort([[True, False, False, False]] * 13))
    few_prompts = mixed_prompts(cohort([[True] + [False] * 10] * 9))
    enough = mixed_prompts(cohort([[True] + [False] * 4] * 10))
    assert "here are 39 in 13" in str(few_siblings.shortage())
    assert "here are 90 in 9" in str(few_prompts.shortage())
    assert enough.shortage() is None


def test_permuted_within_prompts_scores_catch_what_the_rate_lets_through() -> None:
    """A detector of the prompt catches as much by chance as in truth; one of the trace does not."""
    rng = np.random.default_rng(1)
    outcomes = [[bool(i % 2) for i in range(8)] for _ in range(40)]
    made = cohort(outcomes)
    mixed, weights = mixed_prompts(made), resample(40, draws=20)
    knows = at(list(rng.normal(size=320) + 4.0 * made.positive))
    prompt = at(list(rng.normal(size=40)[made.task] + 1e-3 * rng.normal(size=320)))
    assert mixed.caught(knows, weights, 0.05).estimate > 0.9
    assert mixed.by_chance(knows, weights, 0.05).estimate == pytest.approx(0.05, abs=0.03)
    gain = mixed.caught(prompt, weights, 0.05) - mixed.by_chance(prompt, weights, 0.05)
    assert gain.estimate == pytest.approx(0.0, abs=0.03)


def test_lead_counts_from_the_alarm_to_where_it_is_said() -> None:
    """Sentences end after 10, 20, 30 and 40 tokens; it is said in the fourth, alarmed in one."""
    made = cohort([[True, False]] * 10, [[3, NEVER]] * 10)
    mixed, weights = mixed_prompts(made), resample(10, draws=5)
    for sentence in range(3):
        lead = mixed.lead(at([1.0, 0.0] * 10, when=sentence), weights, 0.05)
        assert lead["sentences"].estimate == 3 - sentence
        assert lead["tokens"].estimate == 10 * (2 - sentence)
    assert np.isnan(mixed.lead(at([1.0, 0.0] * 10, when=3), weights, 0.05)["tokens"].estimate)
