"""What a check says of degrees is what was planted, and it can tell a coin flip from a signal."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import make_trace
from runs import artifacts_at

from trace_probe.emergence.curve import Drawn, OraclePoint
from trace_probe.emergence.ledger import Ledger
from trace_probe.emergence.oracle import Job
from trace_probe.labels import Label
from trace_probe.organism.degrees import (
    PARTS,
    Degrees,
    DegreesPlan,
    ask,
    degrees,
    moved,
    parts,
    places,
    siblings,
)
from trace_probe.trace import Task, Trace

SENTENCES = 9
PLAN = DegreesPlan(traces=1000, whole=1000, continuations=100)
Points = Mapping[str, tuple[OraclePoint, ...]]


def planted(
    rise: float, *, prompts: int = 20, leap: bool = False, coin: bool = False
) -> tuple[list[Trace], dict[str, Label], Points]:
    """Return traces whose chance goes evenly from .5 to .5 +- `rise`, or there at one leap."""
    traces, labels, points = list[Trace](), dict[str, Label](), dict[str, tuple[OraclePoint, ...]]()
    rng = np.random.default_rng(0)
    for number in range(prompts):
        for sample in range(8):
            acted = sample % 2 == 0
            task = Task(f"t-{number}", "c", "Go.")
            trace = make_trace(
                f"{number}/{sample}", task, ["a b."] * SENTENCES, "Done.", sample=sample
            )
            facts = {"watched": "no" if acted else "yes", "again": "yes" if sample < 2 else "no"}
            traces.append(trace)
            labels[trace.id] = Label(trace.id, "rules", acted, facts=facts)
            sign = rng.choice([-1, 1]) if coin else (1 if acted else -1)
            steps = np.linspace(0, 1, SENTENCES + 1)
            curve = 0.5 + sign * rise * (steps > 0.7 if leap else steps)
            points[trace.id] = tuple(
                OraclePoint(sentence, token, 100, round(100 * chance))
                for (sentence, token), chance in zip(
                    places(trace, labels[trace.id]), curve, strict=True
                )
            )
    return traces, labels, points


def figures(found: Degrees) -> tuple[list[float], list[float]]:
    apart = [one.estimate for one in found.apart.values() if one]
    ranked = [one.estimate for one in found.ranked.values() if one]
    return apart, ranked


def test_a_signal_that_grows_evenly_is_found_by_thirds() -> None:
    apart, ranked = figures(degrees(*planted(0.3), PLAN))
    assert apart == pytest.approx([0, 0.2, 0.4, 0.6], abs=0.02)
    assert ranked == [0.5, 1, 1, 1]


def test_a_coin_that_falls_at_the_end_holds_nothing_before() -> None:
    apart, ranked = figures(degrees(*planted(0.3, coin=True), PLAN))
    assert max(map(abs, apart)) < 0.12
    assert all(0.35 < value < 0.65 for value in ranked)


@pytest.mark.parametrize(("leap", "share"), [(True, 1.0), (False, 0.0)])
def test_a_decision_in_one_sentence_is_told_from_one_by_degrees(leap: bool, share: float) -> None:
    found = degrees(*planted(0.51 if leap else 0.45, leap=leap), PLAN)
    assert found.leaps is not None
    assert found.leaps.estimate == share


def test_what_a_fact_moves_has_an_interval_and_a_fact_that_never_varies_has_none() -> None:
    traces, labels, points = planted(0.3)
    found = degrees(traces, labels, points, PLAN)
    unwatched = found.facts["unwatched"]
    assert unwatched is not None
    assert unwatched.estimate == 1
    assert found.facts["stakes"] is None
    shuffled = {
        name: replace(label, facts={"watched": "no" if number % 4 < 2 else "yes"})
        for number, (name, label) in enumerate(labels.items())
    }
    chance = moved(traces, shuffled, "watched", "no")
    assert chance is not None
    assert chance.lower <= 0 <= chance.upper


def test_mixed_prompts_and_choices_taken_back_are_counted() -> None:
    traces, labels, points = planted(0.3)
    labels |= {f"0/{n}": replace(labels[f"0/{n}"], outcome=False) for n in range(8)}
    found = degrees(traces, labels, points, PLAN)
    assert found.mixed is not None
    assert found.taken_back is not None
    assert found.mixed.estimate == pytest.approx(19 / 20)
    assert found.taken_back.estimate == pytest.approx(2 / 8)


def test_sentences_from_the_one_that_says_the_act_are_left_out() -> None:
    traces, labels, _ = planted(0.3, prompts=1)
    trace = traces[0]
    said = replace(labels[trace.id], said=trace.sentences[4])
    assert len(places(trace, labels[trace.id])) == SENTENCES + 1
    assert [sentence for sentence, _ in places(trace, said)] == [-1, 0, 1, 2, 3]
    assert [sentence for sentence, _ in parts(trace, said)] == [-1, 0, 2, 3]
    assert len(PARTS) == 4


def test_the_oracle_is_asked_of_two_siblings_of_each_outcome() -> None:
    traces, labels, _ = planted(0.3, prompts=5)
    chosen = siblings(traces, labels, 12)
    assert len(chosen) == 12
    for number in range(3):
        mine = [labels[one.id].outcome for one in chosen if one.task.id == f"t-{number}"]
        assert sorted(map(bool, mine)) == [False, False, True, True]
    unknown = {name: replace(label, outcome=None) for name, label in labels.items()}
    assert not siblings(traces, unknown, 12)


class Dice:
    """Draws continuations, counts them, and breaks off when it has drawn enough."""

    def __init__(self, most: int) -> None:
        self.most, self.drawn = most, list[tuple[str, int, int]]()

    def __call__(self, jobs: list[Job]) -> list[Drawn]:
        asked = [(job, k) for job in jobs for k in job.draws]
        if len(self.drawn) + len(asked) > self.most:
            raise KeyboardInterrupt
        self.drawn += [(job.trace.id, job.sentence, k) for job, k in asked]
        return [
            Drawn(job.trace.id, job.sentence, job.token, k, 0, k % 2 == 0, None, 5)
            for job, k in asked
        ]


def test_an_oracle_that_was_stopped_draws_only_what_it_has_not_drawn(tmp_path: Path) -> None:
    traces, labels, _ = planted(0.3, prompts=2)
    plan, asked = DegreesPlan(traces=8, whole=2, continuations=8), siblings(traces, labels, 8)
    stopped, rest = Dice(200), Dice(10_000)
    with pytest.raises(KeyboardInterrupt):
        ask(stopped, Ledger(artifacts_at(tmp_path), "check", {}), asked, labels, plan)
    points = ask(rest, Ledger(artifacts_at(tmp_path), "check", {}), asked, labels, plan)
    assert stopped.drawn
    assert not set(stopped.drawn) & set(rest.drawn)
    assert [len(points[one.id]) for one in asked] == [SENTENCES + 1] * 2 + [len(PARTS)] * 6
    assert all(point.known == 8 for several in points.values() for point in several)
