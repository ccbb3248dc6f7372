"""Efficiency: the oracle itself gets all of its gain, the prompt none, and noise is taken off."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from made_probes import planted_probe
from urns import DOWN, UP, trace, truth

from trace_probe.emergence.curve import Drawn, points_of, prefixes
from trace_probe.emergence.efficiency import (
    BEFORE_SAID,
    PROMPT,
    BesideOracle,
    as_estimator,
    efficiency,
)
from trace_probe.errors import NotEnoughData
from trace_probe.labels import Label
from trace_probe.statistics.metrics import Scores
from trace_probe.statistics.smoothing import parse_smoothing
from trace_probe.trace import Task, Trace

STEPS = 12
CARD = planted_probe(0.0).card


class Urns:
    """Traces of Polya's urn, whose P after every step is known, and continuations of each."""

    def __init__(self, tasks: int = 24, samples: int = 12, count: int = 20) -> None:
        rng = np.random.default_rng(0)
        self.traces: list[Trace] = []
        self.labels: dict[str, Label] = {}
        self.drawn: dict[str, list[Drawn]] = {}
        self.p: dict[str, list[float]] = {}
        for i in range(tasks * samples):
            steps: list[int] = []
            p = [truth(0, 0)]
            while len(steps) < STEPS:
                steps.append(UP if rng.random() < p[-1] else DOWN)
                p.append(truth(steps.count(UP), len(steps)))
            task = Task(f"t{i % tasks}", "c", f"go {i % tasks}")
            one = replace(trace(steps), id=f"{i}", task=task)
            self.traces.append(one)
            self.labels[one.id] = Label(one.id, "r", bool(rng.random() < p[-1]))
            self.p[one.id] = p
            self.drawn[one.id] = [
                Drawn(one.id, sentence, token, k, k, bool(rng.random() < p[at]), None, 3)
                for at, (sentence, token) in enumerate(prefixes(one))
                for k in range(count)
            ]

    def scores(self, noise: float, seed: int = 1) -> Scores:
        """Return the log odds of P at each step, with noise."""
        rng = np.random.default_rng(seed)
        return {name: self._row(p, noise, rng) for name, p in self.p.items()}

    def _row(self, p: Sequence[float], noise: float, rng: np.random.Generator) -> np.ndarray:
        odds = np.log(np.array(p[1:]) / (1 - np.array(p[1:])))
        row = np.full(STEPS + 1, np.nan)  # the act has none
        row[:STEPS] = odds + noise * rng.normal(size=STEPS)
        return row


@pytest.fixture(scope="module")
def urns() -> Urns:
    return Urns()


def eta(share: BesideOracle) -> float:
    assert share.eta is not None
    assert share.eta.lower <= share.eta.estimate <= share.eta.upper
    return share.eta.estimate


def test_who_knows_more_gets_more_of_the_oracle_s_gain(urns: Urns) -> None:
    detectors = {"best": urns.scores(0.0), "fair": urns.scores(1.5), "blind": urns.scores(1e6)}
    found = efficiency(urns.traces, urns.labels, urns.drawn, detectors)
    for moment in ("0.5", "1.0", BEFORE_SAID):
        at = found.auroc[moment]
        prompt = at[PROMPT]
        assert prompt.value is not None
        assert prompt.value.estimate == 0.5  # it is the same for a whole prompt
        assert prompt.eta is None
        assert eta(at["best"]) > 0.85
        assert eta(at["best"]) > eta(at["fair"]) > eta(at["blind"])
        assert abs(eta(at["blind"])) < 0.25
        oracle, part = at["oracle"].value, at["fair"].of_oracle
        assert oracle is not None
        assert part is not None
        assert at["fair"].value is not None
        assert part.estimate == pytest.approx(at["fair"].value.estimate / oracle.estimate)
        assert at["oracle"].of_oracle is None
    caught = {name: share.value for name, share in found.caught[BEFORE_SAID].items()}
    assert caught["best"] is not None
    assert caught["blind"] is not None
    assert caught["best"].estimate > caught["blind"].estimate
    text = str(found)
    assert "share of the oracle's gain" in text
    assert "blind" in text


def test_a_probe_is_ranked_and_alarms_by_the_rules_of_its_card(urns: Urns) -> None:
    """Single scores swing; their mean does not."""
    scores = {"eye": urns.scores(2.0), "other": urns.scores(0.0)}
    plain = efficiency(urns.traces, urns.labels, urns.drawn, scores)
    card = replace(CARD, name="eye", smoothing="mean:5", ranked_by="mean:3")
    found = efficiency(urns.traces, urns.labels, urns.drawn, scores, card=card)
    smooth = {"eye": parse_smoothing("mean:3").apply(scores["eye"]), "other": scores["other"]}
    by_hand = efficiency(urns.traces, urns.labels, urns.drawn, smooth)
    end = "1.0"
    assert found.auroc[end]["eye"] == by_hand.auroc[end]["eye"] != plain.auroc[end]["eye"]
    assert found.as_estimator["eye"] == by_hand.as_estimator["eye"] != plain.as_estimator["eye"]
    assert found.as_estimator["other"] == plain.as_estimator["other"]
    assert found.caught[end]["eye"] != plain.caught[end]["eye"]
    better, own = (each.auroc[end]["other"].value for each in (found, plain))
    assert better is not None
    assert own is not None
    assert better.estimate >= own.estimate


@pytest.mark.parametrize(("tasks", "exists"), [(4, False), (5, True)])
def test_of_very_few_tasks_there_is_no_eta(tasks: int, exists: bool) -> None:
    few = Urns(tasks=tasks, samples=60)
    found = efficiency(few.traces, few.labels, few.drawn, {"best": few.scores(0.0)})
    best = found.auroc["1.0"]["best"]
    assert best.value is not None
    assert best.of_oracle is not None
    assert (best.eta is not None) is exists


def test_without_a_gain_of_the_oracle_there_is_no_efficiency(urns: Urns) -> None:
    rng = np.random.default_rng(3)
    nothing = {
        name: [one._replace(outcome=bool(rng.random() < 0.5)) for one in drawn]
        for name, drawn in urns.drawn.items()
    }
    found = efficiency(urns.traces, urns.labels, nothing, {"best": urns.scores(0.0)})
    assert all(each["best"].eta is None for each in found.auroc.values())


def test_traces_of_one_outcome_have_no_efficiency(urns: Urns) -> None:
    harmless = {name: replace(label, outcome=False) for name, label in urns.labels.items()}
    with pytest.raises(NotEnoughData, match="one outcome only"):
        efficiency(urns.traces, harmless, urns.drawn, {})


@pytest.mark.parametrize("count", [5, 40])
def test_what_is_explained_does_not_depend_on_how_many_are_counted(count: int) -> None:
    urns = Urns(tasks=20, samples=8, count=count)
    points = points_of(one for drawn in urns.drawn.values() for one in drawn)
    best = as_estimator(urns.traces, points, urns.scores(0.0))
    assert best.explained is not None
    assert best.explained.estimate == pytest.approx(1.0, abs=0.06)
    assert best.brier == pytest.approx(0.0, abs=0.004)
    assert best.constant == pytest.approx(
        np.var([p for each in urns.p.values() for p in each[1:]]), abs=0.006
    )
    poor = as_estimator(urns.traces, points, urns.scores(1.5))
    assert poor.explained is not None
    assert poor.explained.estimate < 0.8
