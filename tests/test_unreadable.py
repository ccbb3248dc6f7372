"""A model that holds what is no number is an error or an alarm, never a quiet trace."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_probes import TASK, a_probe, recorded
from tiny_models import random_network, word_tokenizer

from trace_probe.activations import ActivationMatrix, Activations, pooled_spans
from trace_probe.errors import ModelError, ProbeError
from trace_probe.probing.corpus import Corpus
from trace_probe.trace import Sampling, Span

BROKEN = [np.nan, np.inf, -np.inf]


def break_at(model: Any, monkeypatch: pytest.MonkeyPatch, token: int, value: float) -> None:
    """Let what probes read hold no number from a token on; what is written stays as it is."""
    from trace_probe.model.blocks import RowTap

    consume, seen = RowTap.consume, [0]

    def broken(self: Any, layer: int, hidden: Any) -> Any:
        seen[0] += 1
        if seen[0] > token:
            hidden = hidden.clone()
            hidden[..., 3] = value
        consume(self, layer, hidden)

    monkeypatch.setattr(RowTap, "consume", broken)
    assert model


def long_thought(monitor: Any) -> Sampling:
    """Return a sampling under which the model thinks for more than twenty tokens."""
    return next(
        sampling
        for sampling in (Sampling(seed=seed, max_new_tokens=40) for seed in range(50))
        if sum(one.channel == "reasoning" for one in monitor.watch(TASK, sampling)) > 20
    )


@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize("every", [1, 16])
def test_a_monitor_that_cannot_score_says_so_and_alarms(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, value: float, every: int
) -> None:
    from trace_probe.monitor.display import Display
    from trace_probe.monitor.live import Monitor

    model = tiny()
    monitor = Monitor(model, a_probe(model), every=every)
    sampling = long_thought(monitor)
    quiet = list(monitor.watch(TASK, sampling))
    assert not any(reading.alarm or reading.unreadable for reading in quiet)
    break_at(model, monkeypatch, 5, value)
    found = list(monitor.watch(TASK, sampling))
    assert [reading.text for reading in found] == [reading.text for reading in quiet]
    first = next(n for n, reading in enumerate(found) if reading.unreadable)
    assert first <= 5 + every
    assert all(reading.unreadable and reading.alarms == ("p",) for reading in found[first:])
    scores = [score for reading in found for score in reading.scores]
    assert np.isfinite(scores).all()
    shown = "".join(piece.text for r in found for piece in Display(monitor.detectors[:1]).show(r))
    assert "ALARM unreadable" in shown


@pytest.mark.parametrize("policy", ["annotate", "stop", "withhold"])
def test_a_server_follows_the_policy_of_an_alarm_where_it_cannot_score(
    tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    pytest.importorskip("fastapi", reason="the server needs fastapi: pip install -e .[test]")
    from test_endpoint import up, whole

    model = tiny()
    break_at(model, monkeypatch, 1, np.nan)
    with up(model, tmp_path / "a.jsonl", policy=policy) as server:
        answer = whole(server, 1)
        entries = server.entries()
    assert answer["trace_probe"]["alarm"]
    assert answer["trace_probe"]["unreadable"]
    ended = answer["choices"][0]["finish_reason"]
    assert (ended == "content_filter") == (policy != "annotate")
    assert bool(answer["choices"][0]["message"]["refusal"]) == (policy == "withhold")
    assert [(one["event"], one["reason"]) for one in entries] == [("alarm", "unreadable")]
    json.dumps(answer, allow_nan=False)


def test_generation_under_guard_stops_where_it_cannot_be_scored(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trace_probe.monitor.live import Monitor

    model = tiny()
    monitor = Monitor(model, a_probe(model), every=1)
    sampling = long_thought(monitor)
    break_at(model, monkeypatch, 5, np.nan)
    stopped = next(n for n, one in enumerate(monitor.watch(TASK, sampling), 1) if one.alarm)
    assert stopped == 5


@pytest.mark.parametrize("value", BROKEN)
def test_a_recorded_trace_without_numbers_is_an_error_that_names_it(
    tiny: Callable[..., Any], tmp_path: Path, value: float
) -> None:
    model = tiny()
    (trace,) = recorded(model, tmp_path / "run", 1)
    (held,) = model.replay([trace.token_ids], [pooled_spans(trace)], (2,))
    rows = held.values.copy()
    thought = next(n for n, s in enumerate(trace.sentences) if s.channel == "reasoning")
    rows[:, thought + 1] = value
    matrix = ActivationMatrix(rows, (2,), np.array([0]), held.pooling)
    with pytest.raises(ProbeError, match=f"trace {trace.id} is unreadable"):
        a_probe(model).scores(Corpus((trace,), {}, matrix))


def test_activations_that_are_no_numbers_are_not_recorded() -> None:
    from trace_probe.activations import Fidelity
    from trace_probe.model.fidelity import refuse_unfaithful

    values = np.zeros((1, 2, 4), np.float32)
    spans = (Span(0, 1), Span(1, 2))
    fine = Activations(values, (0,), spans, fidelity=Fidelity("log-probabilities", 0.0))
    refuse_unfaithful("t", fine, "float32")
    values[0, 1, 2] = np.nan
    with pytest.raises(ModelError, match="trace t is unreadable"):
        refuse_unfaithful("t", fine, "float32")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_an_error(temperature: float) -> None:
    import torch

    from trace_probe.model.local import Model
    from trace_probe.monitor.live import Monitor

    network = random_network()
    with torch.no_grad():
        network.get_output_embeddings().weight[7] = torch.nan
    model = Model(network, word_tokenizer(), "broken@0")
    sampling = Sampling(temperature=temperature, max_new_tokens=8)
    with pytest.raises(ModelError, match="logits of the model are inf or nan"):
        list(Monitor(model, a_probe(model)).watch(TASK, sampling))
    if temperature:
        with pytest.raises(ModelError, match="logits of the model are inf or nan"):
            model.generate([model.render(TASK)], [1], sampling)


@pytest.mark.parametrize("policy", ["stop", "withhold"])
def test_a_thought_that_was_taken_for_an_answer_is_withheld_like_one(policy: Any) -> None:
    from trace_probe.monitor.detector import load_detector
    from trace_probe.monitor.scorer import LiveScorer
    from trace_probe.serving.reply import Reply
    from trace_probe.text.channels import FORMATS, ChannelReader

    detector, format = load_detector(Path("probes/demo"), threshold=1e9), FORMATS["think"]
    rows = [np.zeros((1, 1, detector.saved.card.d_model), dtype=np.float32)]  # of the prompt

    def take() -> Any:
        taken = np.concatenate(rows)
        rows[:] = [taken[:0]]
        return taken

    scorer = LiveScorer([detector], format, prefilled=False, take=take)
    reader = ChannelReader(format, prefilled=False)
    reply = Reply("id", "model", [detector], policy, reader, format, 99)
    parts = []
    for piece in ("I", " wait", ".", " I", " see", ".", "</think>", "Yes", "."):
        rows.append(np.zeros_like(rows[0][:1], shape=(1, *rows[0].shape[1:])))
        reading = scorer.read(piece)
        assert reading.unreadable == bool(reading.alarms) == (piece == "</think>")
        parts += reply.take(reading)
        if reply.over:
            break
    parts += reply.finish()
    message = reply.completion(parts, 1)["choices"][0]["message"]
    assert reply.reason() == "content_filter"
    assert message["reasoning_content"] is None
    assert message["content"] == (None if policy == "withhold" else "I wait. I see.")
