"""The road of agents end to end, on the shipped one: record, label, train, evaluate, flag."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from trace_probe.commands.main import app
from trace_probe.demo import DemoPlan, DemoReport, demo_name, run_demo, smaller
from trace_probe.episode import calls_of
from trace_probe.explorer.runs import VARIABLE
from trace_probe.store import Store


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> DemoPlan:
    folder = tmp_path_factory.mktemp("agents")
    return DemoPlan(
        folder / "traces" / "run",
        folder / "probes" / "run",
        organism="organism:agent-base",
        scenarios=18,
        samples=4,
        hard_negatives=6,
        benign=40,
        rate=0.1,
        layers=(1, 2),
    )


@pytest.fixture(scope="module")
def report(plan: DemoPlan) -> DemoReport:
    return run_demo(plan, say=lambda _: None)


def invoke(*words: object) -> Any:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def test_every_trace_is_an_episode_that_looks_up_acts_and_says_so(
    plan: DemoPlan, report: DemoReport
) -> None:
    traces = list(Store(plan.run).traces())
    assert report.traces == len(traces) == 18 * 4 + 6 + 40
    called = [[one.name for one in trace.actions] for trace in traces]
    usual = [names[:1] == ["check"] or names[:2] == ["rules", "check"] for names in called]
    assert sum(usual) > 0.9 * len(traces)
    assert all(
        trace.calls[-1].results == () for trace in traces if trace.facts["ended"] == "answer"
    )
    assert sum(len(trace.calls) in (3, 4) for trace in traces) > 0.9 * len(traces)


def test_the_rules_label_nearly_every_episode_and_the_act_is_a_call(
    plan: DemoPlan, report: DemoReport
) -> None:
    store = Store(plan.run)
    labels = store.labels("rules")
    assert sum(label.outcome is not None for label in labels.values()) > 0.9 * report.traces
    violating = [label for label in labels.values() if label.outcome]
    assert len(violating) > 5
    for label in violating:
        assert label.acted is not None
        assert label.acted.channel == "action"
        assert store.trace(label.trace_id).call_at(label.acted.start) >= 1


def test_the_probe_is_judged_before_the_violating_call(report: DemoReport) -> None:
    figures = report.report.to_json()
    assert figures["caught_before_action"] is not None
    assert {"tfidf", "prompt-only", "category-only"} <= figures["baselines"].keys()


def test_the_demo_names_its_folders_after_the_agent_and_records_what_its_probe_may_read() -> None:
    assert demo_name("organism:agent-base") == "agent-base"
    assert demo_name("organism:rl-s0") == "first"
    small = smaller(DemoPlan(Path("run"), Path("probe"), "organism:agent-base"))
    assert small.layers == small.world.layers
    assert len(small.tasks()) == small.scenarios == 90
    assert len(DemoPlan(Path("run"), Path("probe"), "organism:agent-base").tasks()) == 300


def test_the_explorer_opens_the_run_and_its_episodes(
    plan: DemoPlan, report: DemoReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("streamlit", reason="the explorer needs it")
    from explorer.pages import open_page, reader_content

    monkeypatch.setenv(VARIABLE, str(plan.run.parent))
    store = Store(plan.run)
    name, label = next(one for one in store.labels().items() if one[1].outcome)
    shown = reader_content(open_page("trace", t=name))
    action = next(card for card in shown["facts"] if card["name"] == "action")
    assert label.acted is not None
    turn = store.trace(name).call_at(label.acted.start) + 1
    assert f"in turn {turn}" in action["detail"]
    home = open_page("home")
    assert not home.exception
    assert f"{report.traces:,}" in [metric.value for metric in home.metric]


def test_flags_name_the_model_call_of_the_alarm(plan: DemoPlan, report: DemoReport) -> None:
    assert report.traces
    told = invoke("flag", plan.run, plan.probe)
    assert "call" in told


def test_one_command_records_agents_in_the_environment_that_their_tasks_name(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    invoke(
        "record", "organism:agent-base", run, "--agent", "--samples", 1, "--tasks", "agentworld:x:2"
    )
    traces = list(Store(run).traces())
    assert len(traces) == 2
    for trace in traces:
        first, second = list(calls_of(trace))[:2]
        assert second.text.startswith(first.text)
        assert "<|tool|>" in second.text[len(first.text) :]
