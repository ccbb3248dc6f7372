"""The bench of the pack: halves that keep pairs together, and promises that are kept or broken."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from runs import make_trace

from benchmarks.pack import (
    PackFigures,
    count_halves,
    count_left,
    groups_of,
    refusal,
    text,
    thinking_copy,
)
from trace_probe.errors import ModelError
from trace_probe.tasks.pack import pack_tasks, partners
from trace_probe.text.channels import format_of, opens_reasoning

TRACES = [replace(make_trace(n), task=task) for n, task in enumerate(pack_tasks("pack") or ())]


def peaks() -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(size=len(TRACES))


def test_a_twin_and_its_partner_are_never_on_two_sides() -> None:
    sides = defaultdict(set)
    for trace, group in zip(TRACES, groups_of(TRACES), strict=True):
        sides[group].add(trace.task.id)
    assert all(ids == {a, partners().get(a, a)} for ids in sides.values() for a in ids)
    assert len(sides) == 258 - 78


def test_exchangeable_scores_keep_both_promises() -> None:
    for guarantee in ("conformal", "pac"):
        found = count_halves(TRACES, peaks(), 0.1, guarantee, 200)
        assert found.above <= 20
        assert np.mean(found.rates) <= 0.1
        assert found.traces + found.calibration == 132
    assert not any(one.alarms > one.most for one in count_left(TRACES, peaks(), 0.1))


def test_a_promise_that_does_not_travel_to_a_category_is_seen() -> None:
    other = np.array([trace.task.category == "evading-shutdown" for trace in TRACES])
    rows = count_left(TRACES, peaks() + 2.0 * other, 0.05)
    assert [one.category for one in rows if one.alarms > one.most] == ["evading-shutdown"]
    hard = np.array([trace.task.role == "hard-negative" for trace in TRACES])
    found = count_halves(TRACES, peaks() + 2.0 * hard, 0.1, "conformal", 20)
    assert found.hard[0] / found.hard[1] > 0.5
    assert np.mean(found.rates) <= 0.1


def test_the_small_organism_refuses_the_pack_that_it_cannot_read() -> None:
    why = refusal("organism:rl-s0")
    assert "does not know 51% of the tokens" in why
    assert "trace-probe fetch smollm2" in why
    shown = text(PackFigures("probe", 0.5, (), (), ""))
    assert "NOT REFUSED" in shown
    assert why in text(PackFigures("probe", 0.5, (), (), why))


def test_the_copy_of_the_model_opens_a_thought_and_any_other_template_is_refused(
    tmp_path: Path,
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text("{}", encoding="utf-8")
    ends = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    (source / "chat_template.jinja").write_text(ends, encoding="utf-8")
    for _ in range(2):
        made = thinking_copy(str(source), tmp_path / "copy")
        template = (made / "chat_template.jinja").read_text(encoding="utf-8")
        assert template == ends.replace("assistant\n", "assistant\n<think>\n")
    prompt = "<|im_start|>assistant\n<think>\n"
    assert opens_reasoning(prompt, format_of(template, "smollm2"))
    with pytest.raises(ModelError, match="take smollm2"):
        thinking_copy(str(made), tmp_path / "again")
