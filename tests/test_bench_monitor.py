"""The bench of the monitor: each way writes the same tokens, on modules of its own."""

import json
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import pytest

from benchmarks import monitor
from benchmarks.monitor import BARE, EIGHT, ONE, MonitorPlan, bench_monitor, format_monitor
from trace_probe.trace import Sampling
from trace_probe.world.worlds import WORLDS

PLAN = MonitorPlan("random:2x64", rounds=2)
SHORT = 24


def test_a_twin_shares_every_weight_and_no_module() -> None:
    model = monitor._model(PLAN)
    twin = monitor._twin(model)
    ours, theirs = model.blocks.network, twin.blocks.network
    for kind in ("named_parameters", "named_buffers"):
        mine, its = (dict(getattr(one, kind)()) for one in (ours, theirs))
        assert mine.keys() == its.keys()
        assert all(its[name] is tensor for name, tensor in mine.items())
    assert not {id(m) for m in ours.modules()} & {id(m) for m in theirs.modules()}


def test_a_hook_on_the_twin_is_not_on_the_model() -> None:
    model = monitor._model(PLAN)
    twin, seen = monitor._twin(model), list[int]()
    prompt, sampling = list(range(8)), Sampling(max_new_tokens=1)
    with twin.blocks.tapped((0,), lambda layer, _: seen.append(layer)):
        list(model.tokens(prompt, 0, sampling, (), lambda *_: None))
        assert seen == []
        list(twin.tokens(prompt, 0, sampling, (), lambda *_: None))
        assert set(seen) == {0}


def test_each_way_writes_the_same_tokens_and_both_guards_have_an_overhead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[dict[str, int]] = []
    begin = monitor._ways

    def counted(*args: Any) -> dict[str, Generator[object, None, None]]:
        written.append({})
        return {name: count(name, way, written[-1]) for name, way in begin(*args).items()}

    def count(name: str, way: Any, into: dict[str, int]) -> Generator[object, None, None]:
        for one in way:
            into[name] = into.get(name, 0) + 1
            yield one

    monkeypatch.setattr(monitor, "_ways", counted)
    brief = replace(WORLDS["world"], max_new_tokens=SHORT)
    monkeypatch.setattr(monitor, "WORLDS", {"world": brief})
    found = bench_monitor(PLAN, say=lambda _: None)
    assert len(written) == 1 + PLAN.rounds  # the first warms up
    for ways in written:
        assert ways[BARE] - 1 == ways[ONE] == ways[EIGHT]  # it tells of the prompt's last token
    assert found.tokens == tuple(ways[ONE] - 1 for ways in written[1:])  # the first is not timed
    assert all(len(each) == PLAN.rounds for each in found.seconds.values())
    assert set(found.overhead) == {ONE, EIGHT}
    raw = json.loads(json.dumps(found.to_json()))
    for name in (ONE, EIGHT):
        ratios = [a / b - 1 for a, b in zip(found.seconds[name], found.seconds[BARE], strict=True)]
        assert raw["overhead"][name]["lowest"] == pytest.approx(min(ratios))
        assert raw["overhead"][name]["highest"] == pytest.approx(max(ratios))
    assert format_monitor(found).count("%") == 6
