"""Controlled comparisons, and the paper's rates and tests on paired tasks."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import make_trace

from trace_probe.errors import NotEnoughData
from trace_probe.labels import Label
from trace_probe.store import Manifest, Store
from trace_probe.study.pairs import COUSINS, PAIRS, SWITCHES, format_registry, steps, variant_of
from trace_probe.study.rates import Pairing
from trace_probe.study.study import Side, compare_runs, study
from trace_probe.study.tables import format_study
from trace_probe.trace import Sampling, Task

R1 = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
DEEPSCALER = "agentica-org/DeepScaleR-1.5B-Preview"
PLAIN = frozenset({"nudge=none"})


def identity(name: str) -> str:
    """Return what a run keeps of a model; of an organism, what identifies its weights."""
    from trace_probe.model.checkpoint import fingerprint
    from trace_probe.model.naming import organism_path

    small = name.startswith("organism:") and "english" not in name
    return f"{name}@{fingerprint(organism_path(name))[:8] if small else '0123abcd'}"


def side(name: str, /, **settings_: object) -> Side:
    manifest = Manifest(identity(name), dtype="bfloat16")
    made = Side(name.rpartition("/")[2], manifest, frozenset({"judge:a"}), PLAIN)
    own = {k: v for k, v in settings_.items() if k in ("labellers", "conditions", "prompts")}
    rest = {k: v for k, v in settings_.items() if k not in own}
    return replace(made, manifest=replace(manifest, **rest), **own)  # type: ignore[arg-type]


def test_ids_are_whole_and_no_step_is_listed_twice() -> None:
    models = [model for pair in PAIRS for model in (pair.parent, pair.child)]
    models += [model for one in COUSINS for model in (one.first, one.second)]
    for model in [*models, *(one.model for one in SWITCHES)]:
        assert re.fullmatch(r"[\w-]+/[\w.-]+|organism:[\w-]+", model), model
    assert len({(pair.parent, pair.child) for pair in PAIRS}) == len(PAIRS)
    assert not [pair for pair in PAIRS if pair.parent == pair.child]
    alike = {frozenset((one.first, one.second)) for one in COUSINS}
    assert len(alike) == len(COUSINS)
    assert not [one for one in COUSINS if len(steps(one.first, one.second)) == 1]


@pytest.mark.parametrize(
    ("first", "second", "differs"),
    [
        (R1, DEEPSCALER, "RL"),
        (DEEPSCALER, R1, "RL"),
        ("Qwen/Qwen2.5-Math-1.5B", R1, "SFT"),
        ("allenai/Olmo-3-7B-Think-DPO", "allenai/Olmo-3-7B-Think", "RL"),
        ("organism:rl-s0", "organism:rlhf-s0", "reward"),
        ("organism:base", "organism:rl-s1", "RL"),
        ("organism:rl-s0", "organism:rl-s1", "the seed of training only, s0 against s1"),
    ],
)
def test_a_known_step_between_like_runs_is_controlled(
    first: str, second: str, differs: str
) -> None:
    found = compare_runs(side(first), side(second))
    assert found.controlled
    assert found.differs.startswith(differs)
    assert "differ in one thing" in str(found)


def test_the_same_model_under_other_prompts_differs_in_the_prompt_only() -> None:
    pushed = side("Qwen/Qwen3-8B", conditions=frozenset({"nudge=push"}))
    found = compare_runs(side("Qwen/Qwen3-8B"), pushed)
    assert found.controlled
    assert found.differs.startswith("the prompt only")


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (side(R1), side("Qwen/Qwen2.5-1.5B-Instruct"), "no single step is known"),
        (
            side("allenai/Olmo-3-7B-Think-SFT"),
            side("allenai/Olmo-3-7B-Think"),
            "DPO and RL lie between",
        ),
        (side(R1), side(DEEPSCALER, sampling=Sampling(temperature=0.6)), "temperature 1.0 against"),
        (side(R1), side(DEEPSCALER, sampling=Sampling(max_new_tokens=9)), "max_new_tokens 512"),
        (side(R1), side(DEEPSCALER, dtype="float32"), "dtype bfloat16 against float32"),
        (side(R1), side(DEEPSCALER, labellers=frozenset({"paper:a"})), "labels by judge:a against"),
        (side(R1), side(DEEPSCALER, conditions=frozenset({"nudge=push"})), "different conditions"),
        (side(R1), side(R1, model=f"{R1}@ffff0000"), "revision"),
        (side("organism:rl-s0"), side("organism:rlhf-s1"), "no single step"),
        (
            side("Qwen/Qwen3-4B-Instruct-2507"),
            side("Qwen/Qwen3-4B-Thinking-2507"),
            "separate post-training",
        ),
        (side("deepseek-ai/DeepSeek-V3"), side("deepseek-ai/DeepSeek-R1"), "own SFT and RL"),
        (
            side(R1, prompts={"a": "x", "b": "y", "c": "z"}),
            side(DEEPSCALER, prompts={"a": "x", "b": "other"}),
            "RL (GRPO on mathematics, same form of reasoning); the chat templates write 1 of 2",
        ),
    ],
)
def test_whatever_else_differs_makes_a_comparison_uncontrolled(
    first: Side, second: Side, reason: str
) -> None:
    found = compare_runs(first, second)
    assert not found.controlled
    assert reason in found.differs
    assert "NOT a controlled pair" in str(found)


SMOLLM2, FINETUNE = "smollm2@7dba6baa", "some-finetune@8771de94"


def english(variant: str, base: str = SMOLLM2) -> Side:
    return side(f"organism:english-{variant}", base=base)


def test_organisms_on_one_base_are_controlled_and_on_two_are_not() -> None:
    found = compare_runs(english("rl-s0"), english("base"))
    assert (found.controlled, found.differs) == (True, "RL (reward rl)")
    for other in ("smollm2@00000000", FINETUNE):
        moved = compare_runs(english("rl-s0", other), english("base"))
        assert not moved.controlled
        assert f"base {other} against {SMOLLM2}" in moved.differs
    assert "is on some-finetune@8771de94, and that organism is an adapter of" in moved.differs


@pytest.mark.parametrize(
    ("spoof", "why"),
    [
        (side("organism:rl-s0", model="organism:rl-s0@0123abcd"), "whose weights are @20da8b17"),
        (side("organism:rl-s0", base=FINETUNE), "is not the organism of that name"),
        (side("organism:rl-s1", model="organism:rl-s1"), "is not the organism of that name"),
        (side("organism:rlhf-s0", model="organism:rl-s9@0123abcd"), "no organism organism:rl-s9"),
        (english("rl-s0", ""), "has no base, and that organism is an adapter of smollm2"),
    ],
    ids=lambda one: one.manifest.model if isinstance(one, Side) else "",
)
def test_a_name_that_only_looks_like_an_organism_s_is_not_believed(spoof: Side, why: str) -> None:
    for other in (side("organism:base"), side("organism:rl-s0"), english("base")):
        found = compare_runs(spoof, other)
        assert not found.controlled
        assert why in found.differs


def test_merged_and_unmerged_are_one_variant_apart_from_rounding() -> None:
    merged, beside = (
        replace(english("rl-s0"), manifest=Manifest(f"organism:english-rl-s0{how}", base=SMOLLM2))
        for how in ("@01234567", ",unmerged@89abcdef")
    )
    found = compare_runs(merged, beside)
    assert found.differs == "merged against unmerged, which are one variant apart from rounding"
    assert not found.controlled
    base = english("base", SMOLLM2)
    base = replace(base, manifest=replace(base.manifest, dtype=""))
    found = compare_runs(beside, base)
    assert found.differs.startswith("RL (reward rl); merged against unmerged")
    both = replace(
        base, manifest=replace(base.manifest, model="organism:english-base,unmerged@0123abcd")
    )
    assert compare_runs(beside, both).differs == "RL (reward rl)"


def test_another_seed_is_another_draw_and_no_difference() -> None:
    found = compare_runs(side(R1), side(R1, sampling=Sampling(seed=9)))
    assert found.controlled
    assert found.differs.startswith("the draw only")


def test_chains_go_through_known_steps_in_either_direction() -> None:
    ends = "allenai/Olmo-3-7B-Think-SFT", "allenai/Olmo-3-7B-Think"
    assert [pair.differs for pair in steps(*ends)] == ["DPO", "RL"]
    assert steps(*ends) == steps(*ends[::-1])
    assert steps(ends[0], "nobody/nothing") == ()


@settings(max_examples=60, deadline=None)
@given(
    table=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30),
)
def test_mcnemar_is_that_of_statsmodels(table: list[tuple[bool, bool]]) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports warn
        theirs = pytest.importorskip("statsmodels.stats.contingency_tables")
    first, second = np.array(table, dtype=float).T
    found = Pairing(first, second).mcnemar()
    counts = [[0, 0], [0, 0]]
    for one, other in table:
        counts[one][other] += 1
    assert (found.first_only, found.second_only) == (counts[1][0], counts[0][1])
    assert (found.both, found.neither) == (counts[1][1], counts[0][0])
    if found.first_only + found.second_only == 0:
        assert found.p == 1.0
    else:
        assert found.p == pytest.approx(theirs.mcnemar(counts, exact=True).pvalue)


def run(path: Path, model: str, outcomes: dict[tuple[str, str, str], bool]) -> Store:
    """Write a run with one trace for each (task, category, nudge)."""
    store = Store.create(path, Manifest(model=model))
    with store.writing():
        for (name, category, nudge), outcome in outcomes.items():
            task = Task(name, category, "do it", condition={"nudge": nudge})
            trace = make_trace(f"{name}-{nudge}", task, ["we think"], sample=0)
            store.add(trace)
            store.add_labels([Label(trace.id, "planted", outcome)])
    return store


def planted(counts: dict[tuple[str, str], tuple[int, int]]) -> dict[tuple[str, str, str], bool]:
    """Return outcomes with so many instrumental tasks of so many, by category and nudge."""
    return {
        (f"{category}-{n}", category, nudge): n < hits
        for (category, nudge), (hits, tasks) in counts.items()
        for n in range(tasks)
    }


def test_ir_and_cir_are_shares_of_tasks_under_each_condition(tmp_path: Path) -> None:
    counts = {("a", "none"): (2, 10), ("b", "none"): (5, 20), ("a", "push"): (9, 10)}
    found = study([run(tmp_path / "one", "m", planted(counts))])
    rates = {(one.condition, one.category): one for one in found.rates}
    expected = {
        ("nudge=none", "all"): (7 / 30, 30),
        ("nudge=none", "a"): (0.2, 10),
        ("nudge=none", "b"): (0.25, 20),
        ("nudge=push", "all"): (0.9, 10),
        ("nudge=push", "a"): (0.9, 10),
    }
    assert {k: (one.value.estimate, one.value.n) for k, one in rates.items()} == expected
    for one in rates.values():
        assert one.value.lower < one.value.estimate < one.value.upper
        assert one.figure == ("IR" if one.category == "all" else "CIR")


def test_a_nudge_s_share_of_the_rate_is_recovered(tmp_path: Path) -> None:
    counts = {("a", "none"): (8, 40), ("a", "push"): (32, 40)}
    found = study([run(tmp_path / "one", "m", planted(counts))])
    (added,) = found.added
    assert (added.condition, added.level, added.neutral) == ("nudge", "push", "none")
    assert (added.rate.estimate, added.without.estimate) == (0.8, 0.2)
    assert added.explained is not None
    assert added.explained.estimate == pytest.approx(24 / 32)
    assert added.added.estimate == pytest.approx(24 / 40)
    assert (added.mcnemar.first_only, added.mcnemar.second_only) == (24, 0)
    assert added.mcnemar.p == pytest.approx(2 * 0.5**24)


def test_a_nudge_that_does_nothing_explains_nothing(tmp_path: Path) -> None:
    counts = {("a", "none"): (8, 40), ("a", "push"): (8, 40), ("a", "neutral"): (0, 40)}
    found = study([run(tmp_path / "one", "m", planted(counts))])
    neutral, push = found.added
    assert (neutral.level, neutral.explained) == ("neutral", None)
    assert push.explained is not None
    assert push.explained.estimate == 0.0
    assert push.mcnemar.p == 1.0
    assert neutral.mcnemar.p < 0.01
    assert push.added.lower < 0 < push.added.upper  # 40 tasks alike are not certainty


def test_two_runs_under_other_prompts_are_paired_by_task(tmp_path: Path) -> None:
    calm = run(tmp_path / "calm", "m@1", planted({("a", "none"): (1, 20)}))
    pushed = run(tmp_path / "pushed", "m@1", planted({("a", "push"): (15, 20)}))
    found = study([calm, pushed])
    difference = next(one for one in found.differences if one.figure == "instrumental")
    assert (difference.first, difference.second) == ("pushed", "calm")
    assert difference.value.estimate == pytest.approx(14 / 20)
    (comparison,) = found.comparisons
    assert comparison.controlled
    assert "the prompt only" in format_study(found)


def test_what_nobody_looked_for_is_not_silence(tmp_path: Path) -> None:
    store = run(tmp_path / "one", "m", planted({("a", "none"): (4, 4)}))
    with store.writing():
        unknown = {"said": "unknown"}
        store.add_labels(
            replace(label, facts=unknown) if n else label
            for n, label in enumerate(store.labels().values())
        )
    silent = [one.value for one in study([store]).shares if one.figure == "silent"]
    assert [(value.estimate, value.n) for value in silent] == [(1.0, 1)]


def test_two_runs_of_one_name_are_refused(tmp_path: Path) -> None:
    outcomes = planted({("a", "none"): (1, 2)})
    stores = [run(tmp_path / place / "run", "m", outcomes) for place in ("x", "y")]
    with pytest.raises(NotEnoughData, match="same name"):
        study(stores)


def test_the_registry_says_of_every_pair_whether_it_is_a_control() -> None:
    text = format_registry()
    controlled, look_alikes = text.split("NOT controlled")
    for pair in PAIRS:
        assert f"{pair.parent} -> {pair.child}" in controlled
    for switch in SWITCHES:
        assert f"{switch.model}  {switch.argument}" in controlled
    for one in COUSINS:
        assert f"{one.first} / {one.second}: {one.why}" in look_alikes


def test_a_seed_is_read_from_the_name_of_an_organism_only() -> None:
    assert variant_of("organism:rl-monitored-s1") == ("organism:rl-monitored", "s1")
    assert variant_of("organism:rl-s1,unmerged") == ("organism:rl", "s1")
    assert variant_of("organism:base") == ("organism:base", "")
    assert variant_of("someone/model-s1") == ("someone/model-s1", "")
