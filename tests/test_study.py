"""Studies: rates and paired differences on the tasks that runs share."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import make_trace

from trace_probe.errors import NotEnoughData
from trace_probe.labels import Label
from trace_probe.store import Manifest, Store
from trace_probe.study.study import format_study, study
from trace_probe.trace import Task


def run(path: Path, rates: dict[str, float], tasks: int = 40, samples: int = 10) -> Store:
    """Write a run whose instrumental rate under each nudge is planted."""
    rng = np.random.default_rng(len(path.name))
    store = Store.create(path, Manifest(model=path.name))
    with store.writing():
        for number in range(tasks):
            for nudge, rate in rates.items():
                task = Task(f"task-{number}", "kind", "do it", condition={"nudge": nudge})
                for sample in range(samples):
                    name = f"{task.id}-{nudge}-{sample}"
                    store.add(make_trace(name, task, ["we think"], sample=sample))
                    store.add_labels([Label(name, "planted", bool(rng.random() < rate))])
    return store


def test_planted_rates_and_differences_lie_in_their_intervals(tmp_path: Path) -> None:
    high = run(tmp_path / "high", {"none": 0.6, "push": 0.9})
    low = run(tmp_path / "low-rate", {"none": 0.2, "push": 0.2})
    found = study([high, low])
    shares = {(one.run, one.figure, one.group): one.value for one in found.shares}
    for key, truth in {("high", "nudge=push"): 0.9, ("low-rate", "nudge=none"): 0.2}.items():
        value = shares[key[0], "instrumental", key[1]]
        assert value.lower <= truth <= value.upper
    gaps = {(one.first, one.second, one.group): one.value for one in found.differences}
    between = gaps["high", "low-rate", "nudge=none"]
    assert between.lower <= 0.4 <= between.upper
    assert between.lower > 0
    nudge = gaps["high push", "high none", "nudge"]
    assert nudge.lower <= 0.3 <= nudge.upper
    nothing = gaps["low-rate push", "low-rate none", "nudge"]
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
