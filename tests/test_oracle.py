"""The oracle: on a model whose probabilities are known, its estimates are right."""

import json
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import MANIFEST, artifacts_at
from servers import Answer, scripted
from tiny_models import word_tokenizer
from urns import DOWN, UP, Urn, trace, truth

from trace_probe.emergence import oracle as module
from trace_probe.emergence.asking import Source, Worker
from trace_probe.emergence.curve import (
    PROMPT,
    Drawn,
    OraclePoint,
    oracle_points,
    points_of,
)
from trace_probe.emergence.ledger import Ledger, key_of
from trace_probe.emergence.oracle import (
    Draw,
    OraclePlan,
    ask,
    caught,
    choose,
    estimate,
    oracle,
    wanted,
)
from trace_probe.errors import StoreError
from trace_probe.labels import Label
from trace_probe.model.continuation import Branch
from trace_probe.model.local import Completion
from trace_probe.model.weights import Weights
from trace_probe.monitor.detector import Detector
from trace_probe.monitor.detector import Source as Given
from trace_probe.statistics.smoothing import MAX
from trace_probe.store import Store
from trace_probe.trace import Sampling, Span, Task, Trace


class Reader:
    name = "reader"

    def label(self, trace: Trace) -> Label:
        answer = trace.channel_text("answer")
        return Label(trace.id, self.name, "pull" in answer if answer else None)


def test_points_lie_at_the_prompt_and_after_each_thought() -> None:
    model = Urn()
    points = oracle(model, [trace([UP, DOWN, UP])], Reader(), continuations=2, progress=False)
    assert [(one.sentence, one.token) for one in points["udu"]] == [
        (PROMPT, 2),
        (0, 3),
        (1, 4),
        (2, 5),
    ]


def test_estimates_are_unbiased_and_intervals_cover() -> None:
    model = Urn()
    traces = [trace(steps) for steps in ([UP, UP, UP], [DOWN, UP, DOWN], [DOWN, DOWN, DOWN])]
    errors, covered = [], []
    for seed in range(60):
        found = oracle(model, traces, Reader(), continuations=20, seed=seed, progress=False)
        for one in traces:
            ups = 0
            for point in found[one.id]:
                if point.sentence != PROMPT:
                    ups += "up" in one.text_of(one.sentences[point.sentence])
                p = truth(ups, point.sentence + 1)
                lower, upper = point.interval()
                errors.append(point.instrumental / point.known - p)
                covered.append(lower <= p <= upper)
    assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(len(errors))
    assert np.mean(covered) >= 0.93


def test_the_same_seed_asks_the_same_continuations() -> None:
    model = Urn()
    asked = [
        oracle(model, [trace([UP, UP, DOWN])], Reader(), continuations=5, seed=3, progress=False)
        for _ in range(2)
    ]
    assert asked[0] == asked[1]


@pytest.mark.parametrize(("x", "n"), [(0, 20), (20, 20), (7, 20)])
def test_the_interval_is_jeffreys(x: int, n: int) -> None:
    from scipy.stats import beta

    lower, upper = OraclePoint(0, 0, n, x).interval()
    assert lower == (0 if x == 0 else pytest.approx(beta.ppf(0.025, x + 0.5, n - x + 0.5)))
    assert upper == (1 if x == n else pytest.approx(beta.ppf(0.975, x + 0.5, n - x + 0.5)))


def ledger_in(folder: Path, **settings: object) -> Ledger:
    return Ledger(artifacts_at(folder), "oracle", {"seed": 0, **settings})


def kept_in(folder: Path) -> Path:
    return folder / "oracle" / "oracle.jsonl"


def test_curves_are_read_from_what_a_run_keeps(tmp_path: Path) -> None:
    run = Store.create(tmp_path, MANIFEST)
    assert oracle_points(tmp_path) == {}
    outcomes = (True, True, False, None)
    drawn = [Drawn("a", 0, 7, k, k, outcome, None, 9) for k, outcome in enumerate(outcomes)]
    drawn += [Drawn("a", PROMPT, 4, 0, 9, False, None, 9)]
    kept = run.artifacts.lines("oracle", "oracle")
    kept.append(json.dumps(one._asdict()).encode() + b"\n" for one in drawn)
    with open(kept.url, "ab") as file:
        file.write(b'{"trace": "a", "sent')  # a writer was killed here
    curve = oracle_points(tmp_path)["a"]
    assert curve == (OraclePoint(PROMPT, 4, 1, 0), OraclePoint(0, 7, 3, 2))
    assert [point.probability for point in curve] == [0.25, 2.5 / 4]


def walk(steps: int, seed: int, name: str = "", task: str = "t") -> Trace:
    """Return a trace of the urn of many steps."""
    ups = np.random.default_rng(seed).random(steps) < 0.5
    made = trace([UP if up else DOWN for up in ups])
    return replace(made, id=name or f"walk-{seed}", task=Task(task, "c", f"go {task}"))


def told(one: Trace, sentence: int, token: int, hits: int, count: int) -> list[Drawn]:
    return [Drawn(one.id, sentence, token, k, k, k < hits, None, 3) for k in range(count)]


def test_the_largest_jump_is_halved_until_it_is_one_sentence() -> None:
    one, plan = walk(24, 0), OraclePlan(continuations=10, bisections=9)
    turn, asked = 13, []
    drawn: list[Drawn] = []
    while jobs := wanted([one], {one.id: drawn}, plan):
        asked.append([job.sentence for job in jobs])
        for job in jobs:
            drawn += told(one, job.sentence, job.token, 9 if job.sentence >= turn else 1, 10)
    assert asked[0] == [-1, 1, 5, 11, 17, 21, 23]
    assert [len(each) for each in asked[1:]] == [1] * 9
    assert {turn - 1, turn} <= {sentence for each in asked[:6] for sentence in each}


def test_an_estimate_is_what_is_asked_at_most() -> None:
    traces = [walk(24, 0), walk(2, 1)]
    few = estimate(traces, OraclePlan(continuations=4, bisections=2))
    assert (few.traces, few.continuations) == (2, (9 + 3) * 4)
    every = estimate(traces, OraclePlan(continuations=4, every_sentence=True))
    assert every.continuations == (25 + 3) * 4


def test_prompts_with_both_outcomes_are_asked_first_and_whole() -> None:
    traces = [walk(3, i, task=task) for i, task in enumerate("aabbcc")]
    outcomes = (False, False, True, False, None, True)
    labels = {
        one.id: Label(one.id, "r", outcome) for one, outcome in zip(traces, outcomes, strict=True)
    }
    assert [one.id for one in choose(traces, labels, 3)] == ["walk-2", "walk-3", "walk-5"]
    assert len(choose(traces, labels, None)) == 5


def test_a_trace_is_caught_if_its_alarm_comes_before_what_it_says_and_does() -> None:
    """Each sentence of the urn is one token; the prompt has two, and the act stands at token 6."""
    eye = Detector("eye", MAX, 1.0, Given("hand"))
    scores = np.array([0.0, 2.0, 0.0, np.nan])
    acts = Span(6, 7, "answer")

    def alarms(label: Label) -> dict[str, int]:
        one = trace([UP, UP, DOWN])
        return caught([one], {one.id: label}, eye, {one.id: scores})

    assert alarms(Label("uud", "r", True, acted=acts)) == {"uud": 1}
    assert alarms(Label("uud", "r", True, said=Span(4, 5), acted=acts)) == {"uud": 1}
    assert alarms(Label("uud", "r", True, said=Span(3, 4), acted=acts)) == {}  # it says it there
    assert alarms(Label("uud", "r", False, acted=acts)) == {}
    assert alarms(Label("uud", "r", True)) == {}  # nobody knows where
    assert caught([trace([UP, UP, DOWN])], {}, eye, {}) == {}


def test_prefixes_chosen_by_bisection_are_unbiased_and_covered(tmp_path: Path) -> None:
    depth, traces = 16, [walk(16, seed) for seed in range(40)]
    ledger = ledger_in(tmp_path)
    asked_of(ledger, traces, OraclePlan(), Urn(depth=depth))
    points = points_of(ledger.drawn.values())
    errors, covered = [], []
    for one in traces:
        steps = [one.text_of(span) for span in one.sentences if span.channel == "reasoning"]
        for point in points[one.id]:
            ups = sum("up" in text for text in steps[: point.sentence + 1])
            p, (lower, upper) = truth(ups, point.sentence + 1), point.interval()
            errors.append(point.instrumental / point.known - p)
            covered.append(lower <= p <= upper)
    assert len(errors) == 40 * 12
    assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(len(errors))
    assert np.mean(covered) >= 0.93


def asked_of(ledger: Ledger, traces: list[Trace], plan: OraclePlan, urn: Urn) -> None:
    ask(Draw(urn, Reader(), plan.seed), ledger, traces, plan, lambda _: None, progress=False)


def test_an_oracle_that_is_asked_again_draws_what_is_missing_only(tmp_path: Path) -> None:
    traces = [walk(12, seed) for seed in range(4)]
    plan = OraclePlan(continuations=6, bisections=3)
    asked_of(ledger_in(tmp_path / "whole"), traces, plan, Urn(depth=12))
    lines = kept_in(tmp_path / "whole").read_bytes().splitlines(keepends=True)
    ledger_in(tmp_path / "cut")
    cut = kept_in(tmp_path / "cut")
    cut.write_bytes(b"".join(lines[:77]) + lines[77][:20])
    resumed, urn = ledger_in(tmp_path / "cut"), Urn(depth=12)
    asked_of(resumed, traces, plan, urn)
    assert len(urn.asked) == len(lines) - 77
    assert sorted(cut.read_bytes().splitlines(keepends=True)) == sorted(lines)
    asked_of(ledger_in(tmp_path / "cut"), traces, plan, again := Urn(depth=12))
    assert not again.asked


def test_continuations_of_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    ledger_in(tmp_path, labeller="rules")
    with pytest.raises(StoreError, match="labeller 'rules'.*--name"):
        ledger_in(tmp_path, labeller="judge:x")


def test_what_a_server_fails_to_give_is_asked_for_again(tmp_path: Path) -> None:
    class Flaky(Urn):
        def continue_from(
            self, branches: Sequence[Branch], sampling: Sampling
        ) -> list[list[Completion | None]]:
            drawn = super().continue_from(branches, sampling)
            return [[None, *each[1:]] for each in drawn]

    traces, plan = [walk(6, 0)], OraclePlan(continuations=4, bisections=0)
    ledger = ledger_in(tmp_path)
    asked_of(ledger, traces, plan, Flaky(depth=6))
    missing = [job.draws for job in wanted(traces, ledger.of(traces), plan)]
    assert missing == [(0,)] * 7
    sound = Urn(depth=6)
    asked_of(ledger, traces, plan, sound)
    assert len(sound.asked) == 7
    assert not wanted(traces, ledger.of(traces), plan)


def draw_all(folder: Path) -> None:
    """Ask an oracle of twelve long walks, keeping a few continuations at a time."""
    plan, batches = OraclePlan(continuations=6, bisections=3), module.in_batches
    module.in_batches = partial(batches, size=16)
    ledger = ledger_in(folder)
    asked_of(ledger, [walk(30, seed) for seed in range(12)], plan, Urn(depth=30))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_killed_oracle_resumes_exactly(tmp_path: Path) -> None:
    forked = multiprocessing.get_context("fork")  # a child need not import torch again
    file = kept_in(tmp_path / "cut")
    size = 0
    for _ in range(4):
        child = forked.Process(target=draw_all, args=(tmp_path / "cut",))
        child.start()
        while child.is_alive() and (not file.exists() or file.stat().st_size <= size):
            time.sleep(0.001)
        child.kill()
        child.join()
        size = file.stat().st_size
    for name in ("whole", "cut"):
        child = forked.Process(target=draw_all, args=(tmp_path / name,))
        child.start()
        child.join()
        assert child.exitcode == 0
    drawn, straight = (kept_in(tmp_path / name).read_bytes() for name in ("cut", "whole"))
    assert size < len(straight)
    assert sorted(drawn.splitlines()) == sorted(straight.splitlines())
    assert len(set(drawn.splitlines())) == len(drawn.splitlines())


def test_a_server_goes_on_from_token_ids() -> None:
    from trace_probe.emergence.continuers import ServedContinuer
    from trace_probe.model.tokenizer import ChatTokenizer
    from trace_probe.recording.served import Served

    reader = ChatTokenizer(word_tokenizer(), "tiny")
    texts = [" act now", " wait"]

    def answer(_: int, body: dict[str, Any]) -> Answer:
        text = texts[body["seed"]]
        choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
        if body["seed"] == 1:
            choice["token_ids"] = [*reader.encode(text), 1]
        made = {"id": "x", "object": "text_completion", "created": 0, "model": "m"}
        return Answer(body=json.dumps({**made, "choices": [choice]}).encode())

    with scripted(answer) as server:
        served = ServedContinuer(Served("m", (server.url,), tokenizer=reader))
        ((one, other),) = served.continue_from([Branch((3, 8), (0, 1), 9)], Sampling(0, 0.5, 0.9))
    assert one == Completion(reader.encode(" act now"), "stop")
    assert other == Completion((*reader.encode(" wait"), 1), "stop")
    body = server.bodies[0]
    assert (body["prompt"], body["max_tokens"], body["temperature"]) == ([3, 8], 9, 0.5)
    assert "messages" not in body


def test_an_executor_draws_what_one_process_draws(tmp_path: Path) -> None:
    """The worker that travels does what the local loop does, whoever runs it."""
    traces, plan = [walk(12, seed) for seed in range(3)], OraclePlan(6, 3)
    ledger = ledger_in(tmp_path)
    asked_of(ledger, traces, plan, Urn(depth=12))

    class Here(Source):
        def continuer(self) -> Any:
            return Urn(depth=12)

        def labeller(self) -> Any:
            return Reader()

    worker = Worker(Here(Weights("urn")), plan)
    half = {key: one for key, one in ledger.drawn.items() if one.k < 3 and one.sentence == -1}
    drawn: dict[str, list[Drawn]] = {each.id: [] for each in traces}
    for one in half.values():
        drawn[one.trace].append(one)
    new = worker((traces, drawn))
    assert {key_of(one): one for one in new} | half == ledger.drawn
    assert len(new) == len(ledger.drawn) - len(half)
