import json
from dataclasses import asdict, replace

import pytest
from planted import World, plant

from trace_probe.errors import ProbeError
from trace_probe.evaluation.transfer import (
    Transfer,
    by_condition,
    by_target,
    leave_one_category_out,
    transfer_matrix,
)
from trace_probe.probing.corpus import Corpus, split_by_role
from trace_probe.probing.probe import Recipe
from trace_probe.statistics.bootstrap import Metric
from trace_probe.statistics.smoothing import parse_smoothing

RECIPE = Recipe((3,))
SIGNAL = World(strength=4.0, benign=20)


def within(transfer: Transfer, source: str, target: str) -> Metric:
    found = transfer.cells[source][target]["within_prompt_auroc"]
    assert found is not None
    return found


def turned(corpus: Corpus) -> Corpus:
    """Return a corpus in which the signal points the other way."""
    assert corpus.matrix is not None
    return replace(corpus, matrix=replace(corpus.matrix, values=-corpus.matrix.values))


def nudged(corpus: Corpus) -> Corpus:
    """Return a corpus whose even samples were nudged and whose odd ones were not."""
    traces = tuple(
        replace(
            trace,
            task=replace(trace.task, condition={"nudge": "none" if trace.sample % 2 else "push"}),
        )
        for trace in corpus.traces
    )
    return replace(corpus, traces=traces)


def test_a_shared_signal_transfers_and_a_reversed_one_does_not() -> None:
    corpus = plant(SIGNAL)
    kinds = {"here": corpus, "same": plant(replace(SIGNAL, seed=1)), "turned": turned(corpus)}
    found = transfer_matrix("run", kinds, RECIPE)
    assert within(found, "here", "here").lower > 0.6
    assert within(found, "here", "same").lower > 0.6
    assert within(found, "here", "turned").upper < 0.5
    assert within(found, "turned", "turned").lower > 0.6
    json.dumps(asdict(found))
    assert len(str(found).splitlines()) == 11


def test_no_task_is_learned_from_under_one_nudge_and_judged_under_another() -> None:
    corpus = nudged(plant(World(strength=4.0, said=None, benign=10)))
    test = split_by_role(corpus.traces).test
    flipped = {
        trace.id: replace(corpus.labels[trace.id], outcome=not corpus.outcome(trace))
        for trace in corpus.traces
        if trace.task.id in test and trace.task.role == "test"
    }
    upside_down = replace(corpus, labels={**corpus.labels, **flipped})
    before, after = (
        transfer_matrix("nudge", by_condition(each, "nudge"), RECIPE)
        for each in (corpus, upside_down)
    )
    for source in ("none", "push"):
        for target in ("none", "push"):
            ours, theirs = within(before, source, target), within(after, source, target)
            assert ours.estimate == pytest.approx(1 - theirs.estimate)
            assert ours.estimate > 0.8


def test_harmless_traces_belong_to_every_level() -> None:
    corpus = nudged(plant(World(tasks=4, samples=2, benign=3)))
    for level in by_condition(corpus, "nudge").values():
        assert sum(trace.task.role == "benign" for trace in level.traces) == 3
        assert sum(trace.task.role == "test" for trace in level.traces) == 4


def test_a_category_is_judged_by_a_probe_that_never_saw_it() -> None:
    corpus = plant(World(tasks=24, strength=4.0, benign=12))
    spoiled = corpus.where(lambda trace: trace.task.category == "kind-1")
    labels = {
        **corpus.labels,
        **{
            trace.id: replace(corpus.labels[trace.id], outcome=not corpus.outcome(trace))
            for trace in spoiled.traces
            if trace.task.role == "test"
        },
    }
    found = leave_one_category_out(replace(corpus, labels=labels), RECIPE)
    assert set(found.cells) == {f"all but kind-{i}" for i in range(4)}
    # The labels of that category are upside down, which only a probe that saw them could know.
    assert within(found, "all but kind-1", "kind-1").upper < 0.4
    assert within(found, "all but kind-0", "kind-0").lower > 0.5


def test_a_kind_with_one_outcome_has_no_figure() -> None:
    corpus = plant(SIGNAL)
    calm = replace(
        corpus,
        labels={name: replace(label, outcome=False) for name, label in corpus.labels.items()},
    )
    found = transfer_matrix("run", {"both": corpus, "calm": calm}, RECIPE)
    nothing = {"within_prompt_auroc": None, "pooled_auroc": None}
    assert found.cells["calm"]["both"] == nothing
    assert found.cells["both"]["calm"] == nothing
    assert found.cells["both"]["both"]["within_prompt_auroc"] == pytest.approx(
        within(found, "both", "both")
    )


def test_a_probe_of_the_act_does_not_tell_the_situation_and_the_other_way_round() -> None:
    corpus = plant(World(tasks=24, strength=4.0, said=None, benign=60))
    assert corpus.matrix is not None
    values = corpus.matrix.values.copy()
    for trace, first in zip(corpus.traces, corpus.matrix.start, strict=True):
        if trace.task.role == "test":  # what offers the act is written across one axis
            values[:, first : first + len(trace.sentences) + 1, 4] += 6.0
    marked = replace(corpus, matrix=replace(corpus.matrix, values=values))
    found = transfer_matrix("target", by_target(marked), RECIPE)
    assert set(found.cells) == {"outcome", "verbalisation", "situation"}
    situation = found.cells["situation"]
    assert situation["situation"]["within_prompt_auroc"] is None
    assert situation["situation"]["pooled_auroc"].estimate > 0.95  # type: ignore[union-attr]
    assert within(found, "outcome", "outcome").estimate > 0.9
    assert within(found, "situation", "outcome").estimate < 0.7
    # Nobody says it, so that nothing can be learned of saying it.
    assert found.cells["verbalisation"]["outcome"]["pooled_auroc"] is None


def test_traces_are_ranked_by_the_rule_that_is_named() -> None:
    corpus = plant(replace(SIGNAL, strength=1.5, said=None))
    smooth = parse_smoothing("mean:5")
    plain = transfer_matrix("run", {"here": corpus}, RECIPE)
    ranked = transfer_matrix("run", {"here": corpus}, RECIPE, ranked_by=smooth)
    # Half of the noise of a sentence averages out, since the signal lasts.
    assert within(ranked, "here", "here").estimate > within(plain, "here", "here").estimate + 0.03
    apart = leave_one_category_out(corpus, RECIPE, ranked_by=smooth)
    assert apart.cells != leave_one_category_out(corpus, RECIPE).cells
    assert [found.ranked_by for found in (plain, ranked, apart)] == ["max", "mean:5", "mean:5"]
    assert "ranked by plain scores" in str(plain).splitlines()[0]
    assert "ranked by mean:5" in str(ranked).splitlines()[0]


def test_runs_of_different_widths_are_refused() -> None:
    kinds = {"one": plant(World(tasks=4)), "other": plant(World(tasks=4, d_model=5))}
    with pytest.raises(ProbeError, match=r"widths \[5, 12\]"):
        transfer_matrix("run", kinds, RECIPE)
