"""What is put around a model runner of vLLM, driven here by hand: no vLLM is needed."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trace_probe.engine.plan import CapturePlan, EnginePlan, GuardPlan, read_plan
from trace_probe.errors import ModelError, ProbeError
from trace_probe.store import Store
from trace_probe.trace import Sampling, Span, Trace

DEMO, PROBE = Path("traces/demo"), Path("probes/demo")
ORGANISM = "organism:rl-s0"


# Plans


def test_a_plan_travels_as_plain_values() -> None:
    guard = GuardPlan(("probes/demo",), policy="stop")
    for plan in (EnginePlan(CapturePlan((1, 2))), EnginePlan(guard=guard)):
        assert read_plan(plan.configuration()) == plan
    assert read_plan({}) is None
    assert read_plan({"another": 1}) is None


@pytest.mark.parametrize("wrong", [{}, [], {"guards": {}}, {"guard": {"probe": "x"}}, {"guard": 1}])
def test_a_plan_that_is_none_is_refused_with_what_it_may_hold(wrong: Any) -> None:
    with pytest.raises(ModelError, match="docs/vllm.md"):
        read_plan({"trace_probe": wrong})


# Commands


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is here")
def test_what_needs_vllm_says_how_to_get_it(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    given = ("record", ORGANISM, run, "--tasks", "world:mine:1")
    for words in ((*given, "--engine", "vllm"), ("serve", PROBE, "--engine", "vllm")):
        code, _, err = command(*words)
        assert code == 1
        assert "pip install 'trace-probe[vllm]'" in err
    assert not run.exists()
    code, _, err = command("serve", PROBE, "--engine", "vllm", "--max-tokens", 9)
    assert code == 1
    assert "max_model_len" in err
    wrong = (("--engine-args", "{1}"), ("--engine", "vllm", "--base-url", "http://x/v1"))
    for more in wrong:
        code, _, err = command(*given, *more)
        assert code == 2
        assert "--engine" in err


def test_an_argument_that_vllm_does_not_know_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from trace_probe.engine import offline

    class LLM:
        def __init__(self, model: str, *, disable_log_stats: bool, load_format: str) -> None:
            raise TypeError(f"another fault with {model, disable_log_stats, load_format}")

    vllm = SimpleNamespace(LLM=LLM)
    plugins = SimpleNamespace(load_general_plugins=lambda: None)
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setitem(sys.modules, "vllm.plugins", plugins)
    monkeypatch.setattr(offline, "prepare_environment", lambda **_: None)
    with pytest.raises(ModelError, match="vLLM has no argument 'max_lenght': correct"):
        offline.start({"model": "m", "max_lenght": 8}, EnginePlan())
    with pytest.raises(TypeError, match="another fault"):
        offline.start({"model": "m"}, EnginePlan())


def test_a_plug_in_that_vllm_would_not_find_is_missed_before_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from importlib.metadata import EntryPoint, EntryPoints

    from trace_probe.engine import offline

    named = EntryPoints([EntryPoint("trace_probe", "a:b", "vllm.general_plugins")])
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    monkeypatch.setattr(offline, "entry_points", lambda **_: named)
    offline.check_plugin()
    monkeypatch.setenv("VLLM_PLUGINS", "another")
    with pytest.raises(ModelError, match="VLLM_PLUGINS leaves out"):
        offline.check_plugin()
    monkeypatch.setenv("VLLM_PLUGINS", "another,trace_probe")
    offline.check_plugin()
    monkeypatch.setattr(offline, "entry_points", lambda **_: EntryPoints([]))
    with pytest.raises(ModelError, match="egg-info"):
        offline.check_plugin()


def test_other_settings_are_refused_before_an_engine_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trace_probe.engine.plan import EngineOptions
    from trace_probe.errors import StoreError
    from trace_probe.model.facts import read_facts
    from trace_probe.model.weights import Weights
    from trace_probe.recording import shares

    loaded = []

    def load(recording: Any) -> Any:
        loaded.append(recording)
        facts = read_facts(ORGANISM)
        facts.dtype, facts.dtype_chosen, facts.engine = "float32", "", "vllm 0.32.0"
        return facts

    monkeypatch.setattr(shares, "_load", load)
    weights = Weights(ORGANISM, dtype="float32")
    one = shares.Recording(weights, str(tmp_path / "run"), (), "x", layers=(1,))
    one = replace(one, engine=EngineOptions())
    for _ in range(2):  # made, and resumed
        shares._open(one)
    assert len(loaded) == 2
    for other in (replace(one, layers=(0,)), replace(one, temperature=0.5)):
        with pytest.raises(StoreError, match="other settings"):
            shares._open(other)
    assert len(loaded) == 2


def test_the_command_line_of_vllm_is_written_out() -> None:
    from trace_probe.model.weights import Weights
    from trace_probe.serving.vllm_launch import EngineServer, guard_of

    guard = guard_of((PROBE,), audit="alarms.jsonl", policy="stop")
    more = '{"enforce_eager": true, "enable_prefix_caching": false, "max_num_seqs": 8}'
    model, *words = EngineServer(Weights(ORGANISM), guard, arguments=more).command()
    assert Path(model).name == "rl-s0"
    told = dict(zip(words[::2], words[1::2], strict=False))
    assert read_plan(json.loads(told["--additional-config"])) == EnginePlan(guard=guard)
    assert Path(guard.probes[0]).is_absolute()
    assert told["--max-num-seqs"] == "8"
    assert {"--enforce-eager", "--no-enable-prefix-caching"} <= set(words)
    for taken, why in (
        (Weights("organism:english-base"), "merge"),
        (Weights("m", "cuda"), "--device"),
    ):
        with pytest.raises(ModelError, match=why):
            EngineServer(taken, guard).command()
    apart = EngineServer(Weights(ORGANISM), guard, arguments='{"pipeline_parallel_size": 2}')
    with pytest.raises(ModelError, match="tensor_parallel_size"):
        apart.command()
    named = (
        "additional-config",
        "additional-conf",
        "Model",
        "middleware",
        "host",
        "port ",
        "api-key",
    )
    for wrong in (*named, "additional-config.trace_probe", "--middleware=x", "host 1", ""):
        with pytest.raises(ModelError, match="which trace_probe gives"):
            EngineServer(Weights(ORGANISM), guard, arguments=json.dumps({wrong: 1})).command()


# Rows


def test_the_stream_is_the_sum_of_what_a_block_returns() -> None:
    import torch

    from trace_probe.engine.rows import Taps

    class Block(torch.nn.Module):
        def forward(self, hidden: Any, residual: Any) -> Any:
            return hidden * 2, residual + 1

    class Whole(torch.nn.Module):
        def forward(self, hidden: Any) -> Any:
            return hidden * 3

    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList([Block(), Whole()])
    taps = Taps(model, 2, (1, 0))
    taps.open(8, 4, torch.device("cpu"))
    hidden, residual = torch.rand(5, 4), torch.rand(5, 4)
    model.layers[0](hidden, residual)
    model.layers[1](hidden)
    assert taps.layers == (0, 1)
    torch.testing.assert_close(taps.rows[0, :5], hidden * 2 + residual + 1)
    torch.testing.assert_close(taps.rows[1, :5], hidden * 3)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.skipif(which("c++") is None, reason="needs a C++ compiler")
def test_compiled_code_writes_the_rows_of_a_pass_and_no_others() -> None:
    import torch
    from torch._inductor.utils import run_and_get_code

    from trace_probe.engine.rows import Taps

    class Block(torch.nn.Module):
        def forward(self, hidden: Any, residual: Any) -> Any:
            return hidden * 2, residual + 1

    model = torch.nn.Module()
    model.layers = blocks = torch.nn.ModuleList([Block(), Block()])
    taps = Taps(model, 2, (0,))
    taps.open(4321, 4, torch.device("cpu"))

    def passed(hidden: Any, residual: Any) -> Any:
        for block in blocks:
            hidden, residual = block(hidden, residual)
        return hidden + residual

    hidden, residual = torch.rand(5, 4), torch.rand(5, 4)
    compiled = torch.compile(passed, dynamic=True, fullgraph=True)
    with torch.inference_mode():
        _, (code,) = run_and_get_code(compiled, hidden, residual)
    torch.testing.assert_close(taps.rows[0, :5], hidden * 2 + residual + 1)
    assert not taps.rows[0, 5:].any()
    assert "4321L" not in code  # no loop over the whole buffer


def test_rows_are_kept_by_position_in_whatever_pieces_they_come() -> None:
    import torch

    from trace_probe.engine.rows import Part, TokenRows

    drawn = np.random.default_rng(0)
    streams = {
        key: torch.tensor(drawn.normal(size=(2, 20, 4)), dtype=torch.float32) for key in "ab"
    }
    rows = TokenRows((3, 7), 4, torch.device("cpu"), 1 << 20)
    # Two requests in turn; `a` is preempted after 9 tokens and computed again from its start.
    for key, start, stop in [("a", 0, 6), ("b", 0, 20), ("a", 6, 9), ("a", 0, 9), ("a", 9, 20)]:
        padding = torch.full((2, 3, 4), torch.nan)
        passed = torch.cat([padding, streams[key][:, start:stop], padding], dim=1)
        rows.put([Part(key, start, 3, stop - start)], passed)
    spans = [Span(0, 1), Span(4, 11), Span(10, 20)]
    for key, stream in streams.items():
        found = rows.pooled(key, spans, "mean+max+last")
        assert found is not None
        for at, span in enumerate(spans):
            part = stream[:, span.start : span.stop]
            wanted = torch.cat([part.mean(1), part.amax(1), part[:, -1]], dim=1)
            np.testing.assert_allclose(found[:, at], wanted, rtol=1e-6)
        tokens = rows.tokens(key, Span(2, 5))
        np.testing.assert_array_equal(tokens, stream[:, 2:5])
    assert rows.repeated == 9
    assert rows.pooled("a", [Span(15, 21)], "last") is None
    assert rows.pooled("c", [Span(0, 1)], "last") is None
    rows.forget(["a"])
    assert rows.pooled("a", spans, "last") is None
    assert rows.pooled("b", spans, "last") is not None


def test_rows_for_which_there_is_no_room_are_missing_and_never_wrong() -> None:
    import torch

    from trace_probe.engine.rows import Part, TokenRows

    rows = TokenRows((0,), 4, torch.device("cpu"), room=30 * 16)
    for key in "abc":
        rows.put([Part(key, 0, 0, 12)], torch.full((1, 12, 4), float(ord(key))))
    assert rows.pooled("a", [Span(0, 12)], "last") is None  # the first one made room
    for key in "bc":
        found = rows.pooled(key, [Span(0, 12)], "mean")
        assert found is not None
        assert (found == ord(key)).all()
    rows.put([Part("d", 0, 0, 31)], torch.ones(1, 31, 4))  # does not fit at all
    assert rows.pooled("d", [Span(0, 31)], "mean") is None


# Draws


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_an_engine_draws_the_tokens_that_transformers_would(temperature: float) -> None:
    import torch

    from trace_probe.engine.draws import Draws
    from trace_probe.model.drawing import NotedDraws, draws

    seeds, steps = [5, 6, 7], 12
    torch.manual_seed(0)
    given = torch.randn(steps, 3, 50) * 3
    sampling = Sampling(temperature=temperature, top_p=0.9)
    noted = NotedDraws(draws(sampling, seeds))
    wanted = [noted(None, logits.clone()).argmax(-1).tolist() for logits in given]  # type: ignore[arg-type]
    engine = Draws()
    asked = [
        {"key": str(seed), "seed": seed, "temperature": temperature, "top_p": 0.9} for seed in seeds
    ]
    for step in range(steps):
        rows = [2, 0, 1]  # the batch is in another order, and has a row that is not ours
        logits = torch.randn(4, 50)
        logits[rows] = given[step]
        for _ in range(1 + step % 2):  # a step whose draw is thrown away is drawn again
            now = [(row, step, one) for row, one in zip(rows, asked, strict=True)]
            ((at, drawn),) = engine.draw(now, logits)
        assert at.tolist() == rows
        assert drawn[:, 0].tolist() == wanted[step]
    for seed, measures in zip(seeds, noted.noted(), strict=True):
        found = engine.taken(str(seed))
        assert found is not None
        np.testing.assert_allclose(found, measures, rtol=1e-5, atol=1e-6)
    assert engine.taken("5") is None


def test_the_log_probabilities_of_a_token_that_was_changed_show_no_other() -> None:
    import torch

    from trace_probe.engine.attached import Attached

    class Ends:
        def after_sampling(self, tokens: torch.Tensor) -> list[int]:
            tokens[[1, 2]] = 2
            return [1, 2]

    class Draws:
        def after_sampling(self, tokens: torch.Tensor) -> tuple[int, ...]:
            tokens[3] = 5
            return ()

    attached = Attached.__new__(Attached)
    attached._runner = SimpleNamespace(input_batch=SimpleNamespace(num_reqs=4))
    attached._followers = [(Draws(), None), (Ends(), None)]  # type: ignore[list-item]
    noted = SimpleNamespace(
        logprob_token_ids=torch.tensor([[7, 8, 7], [9, 8, 9], [2, 8, 9], [9, 8, 7]]).int(),
        logprobs=torch.tensor([[-0.3, -0.1, -0.3], [-3, -0.2, -3], [-9, -0.2, -1], [-3, -1, -2]]),
        selected_token_ranks=torch.tensor([2, 4, 4, 4]),
    )
    drawn = torch.tensor([[7], [9], [2], [9]])  # the third is what is put in its place
    output = SimpleNamespace(sampled_token_ids=drawn, logprobs_tensors=noted)
    attached._after_sampling(None, None, output)
    assert drawn.tolist() == [[7], [2], [2], [5]]
    assert noted.logprob_token_ids.tolist() == [[7, 8, 7], [2, 2, 2], [2, 2, 2], [5, 5, 5]]
    torch.testing.assert_close(noted.logprobs[0], torch.tensor([-0.3, -0.1, -0.3]))
    assert not noted.logprobs[1:].any()
    assert noted.selected_token_ranks.tolist() == [2, 1, 1, 1]


# The guard


class Runner:
    """As much of vLLM's model runner as a guard looks at, playing recorded traces."""

    def __init__(self, model: Any, traces: list[Trace], layers: tuple[int, ...]) -> None:
        spans = [[Span(i, i + 1) for i in range(len(trace))] for trace in traces]
        held = model.replay([t.token_ids for t in traces], spans, layers)
        self.traces = {f"chatcmpl-{i}-0000000{i}": trace for i, trace in enumerate(traces)}
        self.rows = {
            name: one.values for name, one in zip(self.traces, held, strict=True)
        }  # (layer, token, d_model)
        self.requests = {
            name: SimpleNamespace(
                sampling_params=SimpleNamespace(extra_args=None),
                prompt_token_ids=list(trace.token_ids[: trace.prompt_stop]),
                output_token_ids=list(trace.token_ids[trace.prompt_stop :]),
            )
            for name, trace in self.traces.items()
        }
        self.input_batch = SimpleNamespace(num_reqs=0, req_ids=[])

    def ask(self, name: str, extra: Any = None) -> None:
        """Take one more request, which plays the first trace."""
        trace = self.traces[name] = next(iter(self.traces.values()))
        self.rows[name] = next(iter(self.rows.values()))
        self.requests[name] = SimpleNamespace(
            sampling_params=SimpleNamespace(extra_args=extra),
            prompt_token_ids=list(trace.token_ids[: trace.prompt_stop]),
            output_token_ids=list(trace.token_ids[trace.prompt_stop :]),
        )

    def step(self, guard: Any, parts: dict[str, tuple[int, int]]) -> list[int]:
        """Pass tokens ``[start, stop)`` of some requests by, then sample; return the tokens."""
        import torch

        from trace_probe.engine.attached import Scheduled

        scheduled, rows, at = [], [], 0
        ids: list[int] = []
        for row, (name, (start, stop)) in enumerate(parts.items()):
            scheduled.append(Scheduled(name, row, start, at, stop - start))
            rows.append(self.rows[name][:, start:stop])
            ids += self.traces[name].token_ids[start:stop]
            at += stop - start
        passed = torch.from_numpy(np.concatenate(rows, axis=1))
        guard.passed(scheduled, passed, torch.tensor(ids))
        self.input_batch = SimpleNamespace(num_reqs=len(parts), req_ids=list(parts))
        tokens = torch.full((len(parts), 1), -7)
        guard.after_sampling(tokens)
        return [int(token) for token in tokens[:, 0]]


@pytest.fixture
def played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Runner, Any, Path]]:
    from trace_probe.model.facts import read_facts
    from trace_probe.model.local import load_model
    from trace_probe.monitor.detector import load_detector
    from trace_probe.serving import vllm_guard

    monkeypatch.setattr(vllm_guard, "first_rank", lambda: True)
    traces = list(Store(DEMO).traces())[:3]

    def play(threshold: float, **given: Any) -> Any:
        detector = load_detector(PROBE, threshold=threshold)
        audit = tmp_path / "alarms.jsonl"
        plan = GuardPlan((str(PROBE),), audit=str(audit), **{"every": 1, **given})
        runner = Runner(load_model(ORGANISM), traces, detector.saved.card.layers)
        guard = vllm_guard.Guard(runner, read_facts(ORGANISM), [detector], frozenset({2}), plan)
        return runner, guard, audit

    return play


@pytest.mark.parametrize("every", [1, 5])
def test_a_guard_in_an_engine_scores_as_the_run_was_scored(
    played: Callable[..., tuple[Runner, Any, Path]], every: int
) -> None:
    runner, guard, _ = played(1e9, every=every)
    wanted = Store(DEMO).scores("demo")
    names = list(runner.traces)
    stops = {name: len(trace) - 1 for name, trace in runner.traces.items()}  # the last is not read
    place = dict.fromkeys(names, 0)
    step = 0
    while any(place[name] < stops[name] for name in names):
        parts = {}
        for number, name in enumerate(names):
            # prompts in chunks of another size each, then token by token
            prompt = runner.traces[name].prompt_stop
            count = 7 + number if place[name] < prompt else 1
            stop = min(place[name] + count, max(prompt, place[name] + 1), stops[name])
            if place[name] < stop:
                parts[name] = (place[name], stop)
                place[name] = stop
        runner.step(guard, parts)
        step += 1
        if step == 40:
            place[names[1]] = 0  # a preemption: all is computed again
    for number, (name, trace) in enumerate(runner.traces.items()):
        (told,) = guard.told(f"chatcmpl-{number}")
        assert not told["alarm"]
        scores = [s["risk"][0]["score"] if s["risk"] else np.nan for s in told["sentences"]]
        np.testing.assert_allclose(scores, wanted[trace.id], rtol=2e-3, atol=2e-3)
        spans = [tuple(s["tokens"]) for s in told["sentences"]]
        start = trace.prompt_stop
        assert spans == [(s.start - start, s.stop - start) for s in trace.sentences]
        guard.ended(name, [])
        assert not guard.told(f"chatcmpl-{number}")[0:0]


def test_a_guard_in_an_engine_names_the_probes_for_which_an_answer_lies_outside(
    played: Callable[..., tuple[Runner, Any, Path]],
) -> None:
    runner, guard, _ = played(1e9)
    (own,) = guard.detectors
    ranges = {"near": 1e-3, "far": 1e9}
    guard.detectors = tuple(
        replace(own, name=name, distances=(farthest,) * 20) for name, farthest in ranges.items()
    )
    name, trace = next(iter(runner.traces.items()))
    for token in range(trace.prompt_stop, len(trace) - 1):
        start = 0 if token == trace.prompt_stop else token
        runner.step(guard, {name: (start, token + 1)})
    assert guard.told("chatcmpl-0")[0]["outside"] == ["near"]


def test_an_alarm_is_written_down_and_ends_the_turn_of_its_own_request(
    played: Callable[..., tuple[Runner, Any, Path]],
) -> None:
    import json

    wanted = Store(DEMO).scores("demo")
    runner, guard, audit = played(-1e9, policy="stop", unasked=False)
    first, second = list(runner.traces)[:2]
    runner.requests[first].sampling_params.extra_args = {"trace_probe": 1}
    trace = runner.traces[first]
    forced = []
    for token in range(trace.prompt_stop, len(trace) - 1):
        start = 0 if token == trace.prompt_stop else token
        parts = {first: (start, token + 1), second: (0, 1)}
        forced.append(runner.step(guard, parts))
    sentence = trace.sentences[0]
    ends = next(i for i, (token, _) in enumerate(forced) if token == 2)
    # The first token behind the sentence raises the alarm, and the one after it ends the turn.
    assert ends == sentence.stop - trace.prompt_stop
    assert all(token == -7 for _, token in forced)
    lines = [json.loads(line) for line in audit.read_text("utf-8").splitlines()]
    assert [line["completion"] for line in lines] == [first]
    assert lines[0]["text"] == trace.text_of(sentence)
    assert lines[0]["score"] == pytest.approx(wanted[trace.id][0], rel=2e-3)
    assert guard.told("chatcmpl-0")[0]["alarms"] == ["demo"]
    assert not guard.told("chatcmpl-1")
    assert not guard.told("chatcmp")  # a name that only begins alike is another's


def test_no_request_opts_out_of_a_guard_of_all(
    played: Callable[..., tuple[Runner, Any, Path]],
) -> None:
    runner, guard, _ = played(1e9)
    for number, said in enumerate((None, {}, {"trace_probe": 0}, {"trace_probe": {"key": ""}})):
        name = f"chatcmpl-{number}0-00000000"
        runner.ask(name, said)
        runner.step(guard, {name: (0, runner.traces[name].prompt_stop)})
        assert len(guard.told(f"chatcmpl-{number}0")) == 1


def test_a_prompt_that_holds_a_part_of_a_thought_is_not_gone_on_with(
    played: Callable[..., tuple[Runner, Any, Path]],
) -> None:
    runner, guard, audit = played(1e9, policy="stop")
    trace = next(iter(runner.traces.values()))
    begun, within = trace.prompt_stop, trace.prompt_stop + 6
    behind = trace.channel("reasoning")[-1].stop + 3
    ids, turn = trace.token_ids, trace.token_ids[trace.prompt_stop - 4 : trace.prompt_stop]
    prompts = {
        "begun": ids[:begun],
        "within": ids[:within],
        "within and ended": (*ids[:within], 2),
        "begun and ended": (*ids[:begun], 2, 2),
        "behind": ids[:behind],
        "behind and ended": (*ids[:behind], 2),
        "in the next turn": (*ids[:within], *ids[:begun]),
        "in a new turn": (*ids[:within], *turn),
        "without the open tag": (*ids[: begun - 2], *ids[begun - 1 : within]),
    }
    for number, prompt in enumerate(prompts.values()):
        name = f"cmpl-{number}-0-00000000"
        runner.ask(name)
        runner.requests[name].prompt_token_ids = list(prompt)
        runner.traces[name] = SimpleNamespace(token_ids=prompt)  # type: ignore[assignment]
        runner.rows[name] = np.take(runner.rows[name], np.arange(len(prompt)) % len(trace), axis=1)
        (token,) = runner.step(guard, {name: (0, len(prompt))})
        (told,) = guard.told(f"cmpl-{number}")
        assert told["unreadable"] == (token == 2)
        assert told["alarms"] == (["demo"] if token == 2 else [])
        prompts[list(prompts)[number]] = (token,)
    held = [name for name, (token,) in prompts.items() if token == 2]
    assert held == ["within", "within and ended", "begun and ended", "without the open tag"]
    lines = [json.loads(line) for line in audit.read_text("utf-8").splitlines()]
    assert [line["reason"] for line in lines] == ["unreadable"] * len(held)


HARMONY = "<|start|>assistant<|channel|>"


@pytest.mark.parametrize(
    ("name", "prompt", "holds"),
    [
        ("think", "<a>\n", False),
        ("think", "<a><think>\n  ", False),
        ("think", "<a><think>\nLet", True),
        ("think", "<a><think>\nLet me</think>So", False),
        ("think", "<a><thi", True),
        ("think", "<a><think>\nLet<think>", True),
        ("think", "<a><think>Let</think><think>", True),
        ("plain", "<a><think>\nLet", False),
        ("harmony", f"{HARMONY}analysis<|message|>", False),
        ("harmony", f"{HARMONY}analysis<|message|>Let", True),
        ("harmony", f"{HARMONY} analysis <|message|>", True),
        ("harmony", f"{HARMONY}anal", True),
        ("harmony", f"{HARMONY}final<|message|>So", False),
        ("harmony", "<|start|>assistant", False),
        ("think", "<think>\nLet me<|im_end|>", True),
        ("think", "<think><|im_end|>\n", True),
        ("think", "<think>\nLet me</think>So<|im_end|>", False),
        ("think-always", "\n", False),
        ("think-always", "Let me", True),
        ("think-always", "Let me</think>So", False),
        ("harmony", f"{HARMONY}analysis<|message|>Let<|return|>", True),
        ("harmony", f"{HARMONY}analysis<|message|><|call|>", True),
        ("harmony", f"{HARMONY}analysis<|message|>Let<|start|>assistant", True),
        ("harmony", f"{HARMONY}analysis<|message|>Let<|end|>{HARMONY}final<|message|>So", False),
    ],
)
def test_no_thought_is_begun_by_a_prompt(name: str, prompt: str, holds: bool) -> None:
    from trace_probe.serving.vllm_guard import holds_thought
    from trace_probe.text.channels import FORMATS

    assert holds_thought(prompt, FORMATS[name]) == holds


@pytest.mark.parametrize(
    ("prompt", "holds"),
    [
        ("<think>a</think>b<|im_end|><think>", False),
        ("<think>a<|im_end|><think>", True),
        ("<think>a<|im_end|>b", True),
        ("Let me", False),
    ],
)
def test_where_no_start_of_a_turn_is_known_an_open_tag_counts_until_it_is_closed(
    prompt: str, holds: bool
) -> None:
    from trace_probe.serving.vllm_guard import holds_thought
    from trace_probe.text.channels import FORMATS

    for name in ("think", "think-always"):
        assert holds_thought(prompt, FORMATS[name], several=True) == holds


@pytest.mark.parametrize(
    ("template", "prompt", "starts"),
    [
        ("<s>{u}<e>\n<a>\n", "<s>Hi<e> <a>Yes<e>\n<s>No<e>\n<a>\n<think>", 2),
        ("<s>{u}<e><a><think>\n", "<s><think>So<e><a><think>\nLet<e>", 1),
        ("<s>{u}<e><a></think>", "<s>Hi<e><a></think>", 1),
        ("{u}\n", "Hi\n", None),
    ],
)
def test_a_turn_starts_where_the_chat_template_starts_one(
    template: str, prompt: str, starts: int | None
) -> None:
    from trace_probe.serving.vllm_guard import find_turns
    from trace_probe.text.channels import FORMATS

    def conversation(turns: list[dict[str, str]]) -> str:
        return template.format(u=turns[0]["content"])

    chat: Any = SimpleNamespace(conversation=conversation, format=FORMATS["think"])
    turns, opens = find_turns(chat)
    assert (turns and len(turns.findall(prompt))) == starts
    assert opens == template.endswith("<think>\n")


def test_a_thought_of_which_the_client_leaves_the_open_tag_out_is_scored(
    played: Callable[..., tuple[Runner, Any, Path]],
) -> None:
    runner, guard, _ = played(1e9)
    name, trace = next(iter(runner.traces.items()))
    opens, shut = trace.prompt_stop - 2, trace.channel("reasoning")[-1].stop + 3
    runner.ask("cmpl-1-00000000")
    runner.requests["cmpl-1-00000000"].prompt_token_ids = list(trace.token_ids[:shut])
    runner.step(guard, {"cmpl-1-00000000": (0, len(trace) - 1)})
    assert {one["channel"] for one in guard.told("cmpl-1")[0]["sentences"]} == {"answer"}
    ids = (*trace.token_ids[:opens], *trace.token_ids[opens + 1 :])
    runner.traces[name] = SimpleNamespace(token_ids=ids)  # type: ignore[assignment]
    runner.requests[name].prompt_token_ids = list(ids[: opens + 1])
    runner.rows[name] = np.delete(runner.rows[name], opens, axis=1)
    runner.step(guard, {name: (0, len(ids) - 1)})
    (told,) = guard.told("chatcmpl-0")
    assert not told["unreadable"]
    found = [one["channel"] for one in told["sentences"]]
    assert found == [one.channel for one in trace.sentences]
    assert "reasoning" in found


def test_a_thought_that_is_closed_but_was_never_opened_ends_the_turn(
    played: Callable[..., tuple[Runner, Any, Path]],
) -> None:
    runner, guard, audit = played(1e9, policy="stop")
    name, trace = next(iter(runner.traces.items()))
    closes, opens = trace.channel("reasoning")[-1].stop, trace.prompt_stop - 2
    assert trace.text_of(Span(opens, opens + 1)) == "<think>"
    ids = list(trace.token_ids)
    ids[opens] = ids[closes]  # the prompt shuts the thought, and the model thinks all the same
    runner.traces[name] = replace(trace, token_ids=tuple(ids))
    runner.requests[name].prompt_token_ids = ids[: trace.prompt_stop]
    assert runner.step(guard, {name: (0, closes)}) == [-7]
    assert runner.step(guard, {name: (closes, closes + 1)}) == [2]
    (told,) = guard.told("chatcmpl-0")
    assert told["unreadable"]
    assert told["alarms"] == ["demo"]
    assert {one["channel"] for one in told["sentences"]} == {"answer"}
    (line,) = map(json.loads, audit.read_text("utf-8").splitlines())
    assert line["reason"] == "unreadable"


@pytest.mark.parametrize("policy", ["annotate", "stop"])
def test_an_alarm_that_cannot_be_written_ends_its_answer_and_is_written_later(
    played: Callable[..., tuple[Runner, Any, Path]], policy: str
) -> None:
    runner, guard, audit = played(-1e9, policy=policy)
    first, second = list(runner.traces)[:2]
    kept = audit.with_name("kept")
    audit.rename(kept)
    audit.symlink_to(kept)  # a link is not followed
    whole = {name: (0, len(runner.traces[name]) - 1) for name in (first, second)}
    assert runner.step(guard, {first: whole[first]}) == [2]
    assert guard.told("chatcmpl-0")[0]["unlogged"]
    audit.unlink()
    assert runner.step(guard, {second: whole[second]}) == [2 if policy == "stop" else -7]
    assert "unlogged" not in guard.told("chatcmpl-1")[0]
    lines = [json.loads(line) for line in audit.read_text("utf-8").splitlines()]
    assert [line["completion"] for line in lines] == [first, second]


def test_what_has_ended_is_kept_until_it_is_asked_for_and_without_its_rows(
    played: Callable[..., tuple[Runner, Any, Path]],
) -> None:
    runner, guard, _ = played(-1e9)
    stop = len(next(iter(runner.traces.values()))) - 1
    named = [f"{i}_cmpl-guarded-x-0-0000000{i}" for i in range(3)]
    for name in (*named, "resp_1-00000000", "resp_2-00000000"):
        runner.ask(name)
        runner.step(guard, {name: (0, stop)})
        stream = guard._streams[name]
        assert all(rows.base is None or rows.base.size == rows.size for rows in stream.waiting[:1])
        guard.ended(name, [])
        assert stream.scorer is None
        assert not stream.waiting
    assert [one["alarm"] for one in guard.told("cmpl-guarded-x")] == [True] * 3
    assert [one["alarm"] for one in guard.told("resp_1")] == [True]  # without our server
    assert [one["alarms"] for one in guard.untold()] == [["demo"]]
    assert not guard.untold()
    assert not guard.told("cmpl-guarded-x")


@pytest.mark.parametrize("policy", ["stop", "withhold"])
def test_what_is_withheld_is_not_told_beside_the_answer(
    played: Callable[..., tuple[Runner, Any, Path]], policy: str
) -> None:
    runner, guard, _ = played(1e9, policy=policy)
    name, trace = next(iter(runner.traces.items()))
    runner.step(guard, {name: (0, len(trace) - 1)})
    (told,) = guard.told("chatcmpl-0")
    assert any(one["risk"] for one in told["sentences"])
    assert any(one["text"] for one in told["sentences"]) == (policy == "stop")


def test_answers_are_numbered_as_vllm_numbers_its_choices(
    played: Callable[..., tuple[Runner, Any, Path]],
) -> None:
    runner, guard, _ = played(1e9)
    for prompt in range(2):
        for number in range(2):
            name = f"{number}_cmpl-x-{prompt}-0123456{2 * prompt + number}"
            runner.ask(name)
            runner.step(guard, {name: (0, runner.traces[name].prompt_stop)})
    assert [one["choice"] for one in guard.told("cmpl-x")] == [0, 1, 2, 3]
    assert not guard.told("cmpl-y")


def test_a_probe_of_another_model_is_refused_without_its_weights(tmp_path: Path) -> None:
    from trace_probe.serving.vllm_guard import read_probes

    demo = Path(__file__).parents[1] / "probes" / "demo"
    plan = GuardPlan((str(demo),), audit=str(tmp_path / "alarms.jsonl"))
    _, detectors, stops = read_probes(plan, "organism:rl", None, "float32")
    assert len(detectors) == 1
    assert stops
    with pytest.raises(ProbeError, match="organism:base"):
        read_probes(plan, "organism:base", None, "float32")
