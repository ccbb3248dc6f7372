"""Studies: rates and paired differences on the tasks that runs share."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import make_trace

from trace_probe.errors import NotEnoughData
from trace_probe.labels import Label
from trace_probe.model.checkpoint import fingerprint
from trace_probe.model.naming import organism_path
from trace_probe.store import Manifest, Store
from trace_probe.study.study import study
from trace_probe.study.tables import format_study
from trace_probe.trace import Task


def run(path: Path, rates: dict[str, float], tasks: int = 40, samples: int = 5) -> Store:
    """Write a run whose instrumental rate under each nudge is planted."""
    rng = np.random.default_rng(len(path.name))
    store, labels = Store.create(path, Manifest(model=path.name)), []
    with store.writing():
        for number in range(tasks):
            for nudge, rate in rates.items():
                task = Task(f"task-{number}", "kind", "do it", condition={"nudge": nudge})
                for sample in range(samples):
                    name = f"{task.id}-{nudge}-{sample}"
                    store.add(make_trace(name, task, ["we think"], sample=sample))
                    labels.append(Label(name, "planted", bool(rng.random() < rate)))
        store.add_labels(labels)
    return store


def test_planted_rates_and_differences_lie_in_their_intervals(tmp_path: Path) -> None:
    high = run(tmp_path / "high", {"none": 0.6, "push": 0.9})
    low = run(tmp_path / "low-rate", {"none": 0.2, "push": 0.2})
    found = study([high, low])
    shares = {(one.run, one.figure, one.group): one.value for one in found.shares}
    for key, truth in {("high", "nudge=push"): 0.9, ("low-rate", "nudge=none"): 0.2}.items():
        value = shares[key[0], "instrumental", key[1]]
        assert value.lower <= truth <= value.upper
    gaps = {(one.first, one.second, one.group, one.figure): one.value for one in found.differences}
    between = gaps["low-rate", "high", "nudge=none", "instrumental"]
    assert between.lower <= -0.4 <= between.upper
    assert between.upper < 0
    added = {(one.run, one.level): one.added for one in found.added}
    nudge = added["high", "push"]
    assert nudge.lower <= 0.3 <= nudge.upper
    nothing = added["low-rate", "push"]
    assert nothing.lower <= 0 <= nothing.upper
    assert found.tasks == 40
    assert "high" in format_study(found)


def test_unknown_outcomes_and_control_tasks_do_not_count(tmp_path: Path) -> None:
    store = run(tmp_path / "one", {"none": 1.0}, tasks=4, samples=2)
    benign = Task("benign", "kind", "count", role="benign")
    with store.writing():
        store.add(make_trace("benign-0", benign, ["we count"]))
        store.add_labels([Label("benign-0", "planted", False)])
        store.add_labels([replace(store.labels()["task-0-none-0"], outcome=None)])
    found = study([store])
    rate = next(one.value for one in found.shares if one.group == "all")
    assert (rate.estimate, rate.n) == (1.0, 7)


def test_only_shared_tasks_are_compared(tmp_path: Path) -> None:
    one = run(tmp_path / "many", {"none": 0.5}, tasks=6, samples=1)
    two = run(tmp_path / "few", {"none": 0.5}, tasks=4, samples=1)
    found = study([one, two])
    assert found.tasks == 4
    assert found.notes == ("2 tasks of many are in no other run",)


def test_runs_without_a_common_task_are_refused(tmp_path: Path) -> None:
    one = run(tmp_path / "one", {"none": 0.5}, tasks=2, samples=1)
    other = Store.create(tmp_path / "other", Manifest(model="m"))
    with pytest.raises(NotEnoughData, match="same tasks"):
        study([one, other])


def identity(model: str) -> str:
    """Return what a run keeps of a model; of an organism, what identifies its weights."""
    small = model.startswith("organism:")
    return f"{model}@{fingerprint(organism_path(model))[:8] if small else '0'}"


def acts(path: Path, model: str, rate: float, silent: float = 0.5, *, seed: int = 0) -> Store:
    """Write a run of 40 tasks by 6 samples whose labels know who watched and what was said."""
    rng = np.random.default_rng(seed)
    store, labels = Store.create(path, Manifest(model=identity(model))), []
    with store.writing():
        for number in range(40):
            task = Task(f"task-{number}", "kind", "do it", condition={"nudge": "none"})
            for sample in range(6):
                name, watched = f"{task.id}-{sample}", bool(rng.random() < 0.5)
                acted = bool(rng.random() < (rate / 2 if watched else rate))
                trace = make_trace(name, task, ["we think"], sample=sample)
                said = None if rng.random() < silent else trace.sentences[0]
                facts = {"watched": "yes" if watched else "no", "unfaithful": "no"}
                store.add(trace)
                labels.append(Label(name, "planted", acted, said=said, facts=facts))
        store.add_labels(labels)
    return store


def test_rates_are_broken_down_by_any_fact_or_condition_and_two_are_crossed(
    tmp_path: Path,
) -> None:
    store = acts(tmp_path / "one", "m", 0.8, seed=1)
    found = study([store], by=("nudge", "watched"))
    assert [(one.name, one.levels, one.kind) for one in found.factors] == [
        ("nudge", ("none",), "condition"),
        ("watched", ("no", "yes"), "fact"),
    ]
    rates = {one.group: one.value for one in found.shares if one.figure == "instrumental"}
    assert set(rates) == {
        *("all", "nudge=none", "watched=no", "watched=yes"),
        *("nudge=none, watched=no", "nudge=none, watched=yes"),
    }
    assert rates["watched=no"].lower <= 0.8 <= rates["watched=no"].upper
    assert rates["nudge=none, watched=yes"].lower <= 0.4 <= rates["nudge=none, watched=yes"].upper
    assert "watched: known only after the act" in format_study(found)
    assert [one.name for one in study([store]).factors] == ["watched"]
    three = study([store], by=("nudge", "watched", "category")).shares
    assert not [one.group for one in three if "," in one.group]
    with pytest.raises(NotEnoughData, match="no factor 'moon': .*category, nudge, .*watched"):
        study([store], by=("moon",))


def test_facts_that_come_with_the_act_make_no_groups_to_compare_runs_by(tmp_path: Path) -> None:
    runs = [acts(tmp_path / name, name, 0.8) for name in ("one", "two")]
    groups = {one.group for one in study(runs, by=("nudge", "watched")).differences}
    assert groups == {"all", "nudge=none"}


def test_what_no_label_knows_is_not_zero(tmp_path: Path) -> None:
    found = study([run(tmp_path / "one", {"none": 1.0}, tasks=4, samples=1)])
    assert {one.figure for one in found.shares} == {"instrumental", "silent"}


def test_a_planted_difference_of_variants_is_found_in_every_seed(tmp_path: Path) -> None:
    plan = {"rlhf-s0": (0.2, 0.1), "rlhf-s1": (0.2, 0.1), "rl-s0": (0.8, 0.6), "rl-s1": (0.7, 0.6)}
    runs = [
        acts(tmp_path / name, f"organism:{name}", *rates, seed=seed)
        for seed, (name, rates) in enumerate(plan.items())
    ]
    base = acts(tmp_path / "base", "organism:base", 0.2, 0.1, seed=9)
    found = study([base, *runs])
    across = {(one.first, one.second, one.figure): one for one in found.across_seeds}
    effect = across["organism:rl", "organism:rlhf", "instrumental"]
    assert set(effect.seeds) == {"s0", "s1"}
    assert effect.in_every_seed
    assert effect.mean is not None
    assert effect.mean.estimate == pytest.approx(0.75 * 0.55, abs=0.1)  # half are watched
    one, other = effect.seeds["s0"].estimate, effect.seeds["s1"].estimate
    assert effect.mean.estimate == pytest.approx((one + other) / 2)
    silence = across["organism:rl", "organism:rlhf", "silent"]
    assert silence.mean is not None
    assert silence.mean.estimate == pytest.approx(0.5, abs=0.1)
    assert silence.mean.lower > 0
    nothing = across["organism:rlhf", "organism:base", "instrumental"]
    assert set(nothing.seeds) == {"s0", "s1"}
    assert not nothing.in_every_seed
    pooled = [one for one in found.shares if one.run == "organism:rl (s0, s1)"]
    assert next(one.value.n for one in pooled if one.group == "all") == 480
    assert "excludes 0 in every seed" in format_study(found)


def test_a_model_that_only_bears_an_organism_s_name_is_no_seed_of_its_variant(
    tmp_path: Path,
) -> None:
    runs = [acts(tmp_path / name, f"organism:{name}", 0.5) for name in ("rl-s0", "rl-s1", "base")]
    spoofed = Store.create(tmp_path / "spoofed", Manifest(model="organism:rlhf-s1@0123abcd"))
    with spoofed.writing():
        for trace in runs[0].traces():
            spoofed.add(trace)
        spoofed.add_labels(runs[0].labels().values())
    across = {one.first for one in study([*runs, spoofed]).across_seeds}
    across |= {one.second for one in study([*runs, spoofed]).across_seeds}
    assert across == {"organism:rl", "organism:base", "organism:rlhf-s1@0123abcd"}


def test_several_labellers_of_a_run_are_set_beside_each_other(tmp_path: Path) -> None:
    store = run(tmp_path / "one", {"none": 0.5}, tasks=8, samples=1)
    with store.writing():
        store.add_labels(replace(label, labeller="other") for label in store.labels().values())
    found = study([store])
    assert found.agreement["one"].iar is not None
    assert found.agreement["one"].iar.estimate == 1.0
    assert "other / planted" in format_study(found) or "planted / other" in format_study(found)


def test_a_study_is_one_json_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trace_probe.commands import main as cli

    stores = [acts(tmp_path / f"rl-s{n}", f"organism:rl-s{n}", 0.8, seed=n) for n in (0, 1)]
    runs = [str(store.path) for store in stores]
    command = ["trace-probe", "study", *runs, "--by", "nudge,watched", "--json"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert {one["run"] for one in found["shares"]} == {"rl-s0", "rl-s1", "organism:rl (s0, s1)"}
    assert found["comparisons"][0]["differs"].startswith("the seed of training only")
