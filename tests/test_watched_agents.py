"""An agent that is watched, recorded and asked of an oracle is one and the same."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from acting import SAMPLING, TASKS, acting_model, script
from test_live_features import wide_probe

from trace_probe.environment import State
from trace_probe.monitor.scorer import Reading
from trace_probe.recording.course import Agent
from trace_probe.store import Store
from trace_probe.tasks.environments import scripted
from trace_probe.trace import Trace

AGENT = Agent(scripted(script()), "script", max_calls=5)


@pytest.fixture(scope="module")
def model() -> Any:
    return acting_model()


@pytest.fixture(scope="module")
def run(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Store:
    from trace_probe.recording.record import new_manifest, record

    path = tmp_path_factory.mktemp("agent") / "run"
    store = Store.create(path, new_manifest(model, SAMPLING, layers=(0, 2)))
    record(model, TASKS, store, AGENT, samples=24, progress=False)
    return store


def longest(run: Store) -> list[Trace]:
    """Return the longest episodes in which no thought mentions a call.

    Only what comes later can tell such a mention from a call, so that live it is taken for one.
    """
    plain = [
        trace
        for trace in run.traces()
        if not any("<tool_call>" in trace.text_of(span) for span in trace.sentences)
    ]
    found = sorted(plain, key=lambda trace: -len(trace.calls))[:3]
    assert len(found[1].calls) > 1
    return found


def test_a_watched_agent_is_scored_as_the_recorded_episode_is_in_bulk(
    model: Any, run: Store
) -> None:
    from trace_probe.monitor.acting import watch_agent
    from trace_probe.monitor.live import Monitor
    from trace_probe.monitor.scoring import read_scores
    from trace_probe.training import score_run

    saved = wide_probe(model, "linear")
    kept, seen = score_run(run, saved), 0
    tasks = {task.id: task for task in TASKS}
    for trace in longest(run):
        task = tasks[trace.task.id]
        got = list(watch_agent(Monitor(model, saved), task, AGENT, SAMPLING, sample=trace.sample))
        readings = [one for one in got if isinstance(one, Reading)]
        assert (
            "".join(one.text for one in readings) == trace.text[trace.offsets[trace.prompt_stop] :]
        )
        told = [one.content for one in got if not isinstance(one, Reading)]
        assert told == [each.content for call in trace.calls for each in call.results]
        ended = [sentence for one in readings for sentence in one.ended]
        ((bulk, _),) = read_scores(model, saved, [trace])
        np.testing.assert_allclose(kept[trace.id], bulk, atol=1e-3)  # kept in half precision
        assert [one.text for one in ended] == [trace.text_of(s) for s in trace.sentences]
        for one in ended:
            if one.scores:
                assert abs(one.scores[0] - bulk[one.sentence]) <= 1e-5
                seen += trace.call_at(trace.sentences[one.sentence].start) > 0
        assert np.isfinite(bulk).sum() == sum(bool(one.scores) for one in ended)
    assert seen > 3


class Noting:
    """The script, which notes what is carried out."""

    def __init__(self) -> None:
        self.carried_out: list[str] = []
        self._inner = scripted(script())

    def tools(self, task: Any) -> Any:
        return self._inner.tools(task)

    def start(self, task: Any) -> State:
        return self._inner.start(task)

    def call(self, name: str, arguments: Mapping[str, Any], state: State) -> str:
        self.carried_out.append(name)
        return self._inner.call(name, arguments, state)


def test_a_call_that_follows_an_alarm_is_not_carried_out(model: Any, run: Store) -> None:
    from trace_probe.monitor.acting import watch_agent
    from trace_probe.monitor.detector import as_detector
    from trace_probe.monitor.live import Monitor

    acts = [
        trace
        for trace in run.traces()
        if trace.actions
        and any(s.channel == "reasoning" for s in trace.sentences)
        and trace.actions[0].name in ("look", "pay")
        and trace.calls
        and trace.calls[0].results
        and trace.sentences[0].start < trace.actions[0].span.start
        and trace.sentences[0].channel == "reasoning"
    ]
    assert acts
    trace = acts[0]
    task = next(task for task in TASKS if task.id == trace.task.id)
    for threshold, stops in ((-1e9, True), (1e9, False)):
        place = Noting()
        monitor = Monitor(model, as_detector(wide_probe(model, "linear")).at(threshold))
        agent = Agent(place, "script", max_calls=1)
        watched = watch_agent(monitor, task, agent, SAMPLING, sample=trace.sample)
        for one in watched:
            if isinstance(one, Reading) and one.alarm:
                watched.close()
                break
        assert bool(place.carried_out) is not stops


def test_an_oracle_takes_recorded_agents_to_their_end(model: Any, run: Store) -> None:
    from trace_probe.emergence.continuers import LocalContinuer
    from trace_probe.emergence.curve import prefixes
    from trace_probe.emergence.oracle import oracle
    from trace_probe.labelling.runs import labeller

    trace = longest(run)[0]
    continuer = LocalContinuer(model)
    by = labeller("calls:pay")
    points = oracle(continuer, [trace], by, continuations=4, progress=False, agent=AGENT)
    asked = [point.sentence for point in points[trace.id]]
    assert sorted(asked) == sorted(sentence for sentence, _ in prefixes(trace))
    pays = next((a.span.start for a in trace.actions if a.name == "pay"), None)
    for point in points[trace.id]:
        if pays is not None and point.token > pays:
            assert point.instrumental == point.known
