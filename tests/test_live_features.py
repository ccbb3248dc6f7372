"""One row, however it is made: while a model writes, from a replay, from what is stored."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_probes import SAMPLING, TASK, a_probe, recorded
from planted import make_trace

from trace_probe.activations import ActivationMatrix, pooled_spans
from trace_probe.monitor.memory import HELD, Memory
from trace_probe.probing.corpus import Corpus
from trace_probe.probing.features import feature_rows
from trace_probe.probing.linear import LinearProbe
from trace_probe.probing.mlp import MLPProbe
from trace_probe.probing.probe import SavedProbe
from trace_probe.probing.recipe import FEATURES, Head
from trace_probe.store import Store
from trace_probe.trace import Span, Task, Trace

LAYERS = (0, 2)
HEADS: tuple[Head, ...] = ("linear", "mlp")


def wide_probe(model: Any, head: Head, seed: int = 0) -> SavedProbe:
    """Return a probe of all features of two layers; its scores are of the size of activations."""
    saved = a_probe(model)
    card = replace(saved.card, layers=LAYERS, features=FEATURES, head=head)
    rng = np.random.default_rng(seed)
    if head == "linear":
        return SavedProbe(card, LinearProbe.of(rng.normal(size=card.width) / card.width**0.5, 0.1))
    sizes = {"mean": (card.width,), "hidden_weight": (16, card.width), "hidden_bias": (16,)}
    tensors = {name: rng.normal(size=shape) for name, shape in sizes.items()}
    tensors |= {"scale": np.full(card.width, 2.0), "out_weight": rng.normal(size=16) / 16}
    tensors["hidden_weight"] /= card.width**0.5
    tensors["out_bias"] = np.zeros(1)
    return SavedProbe(
        card, MLPProbe.from_tensors({k: v.astype(np.float32) for k, v in tensors.items()})
    )


def replayed(model: Any, saved: SavedProbe, trace: Trace, **reading: Any) -> np.ndarray:
    """Return the scores of a finished trace that is read again in float32."""
    from trace_probe.model.capture import Reading

    how = Reading(saved.card.pooling, **reading)
    spans = [pooled_spans(trace)]
    (held,) = model.replay([trace.token_ids], spans, saved.card.layers, how)
    matrix = ActivationMatrix(held.values, held.layers, np.array([0]), held.pooling)
    scores = saved.scores(Corpus((trace,), {}, matrix))[trace.id]
    return scores[~np.isnan(scores)]


def live(model: Any, saved: SavedProbe, sample: int) -> np.ndarray:
    from trace_probe.monitor.live import Monitor

    readings = Monitor(model, saved).watch(TASK, SAMPLING, sample=sample)
    return np.array([one.scores[0] for r in readings for one in r.ended if one.scores])


@pytest.mark.parametrize("head", HEADS)
def test_live_scores_of_all_features_are_those_of_a_replay_in_one_pass_and_in_chunks(
    tiny: Callable[..., Any], tmp_path: Path, head: Head
) -> None:
    model = tiny()
    saved, seen = wide_probe(model, head), 0
    for trace in recorded(model, tmp_path / "run", samples=4):
        scores = live(model, saved, trace.sample)
        assert np.abs(scores - replayed(model, saved, trace)).max(initial=0) <= 1e-5
        chunks = replayed(model, saved, trace, pass_tokens=8, chunk=7)  # sentences cross borders
        assert np.abs(scores - chunks).max(initial=0) <= 1e-5
        seen += len(scores)
    assert seen > 4


@pytest.mark.parametrize("head", HEADS)
def test_rows_of_a_resumed_run_score_as_live_ones_up_to_their_rounding(
    tiny: Callable[..., Any], tmp_path: Path, head: Head
) -> None:
    model = tiny()
    saved = wide_probe(model, head)
    recorded(model, tmp_path / "run", samples=3)
    traces = recorded(model, tmp_path / "run", samples=8)
    stored = saved.scores(Corpus(tuple(traces), {}, Store(tmp_path / "run").matrix(traces)))
    pairs = [
        (a, b)
        for trace in traces
        for a, b in zip(
            live(model, saved, trace.sample),
            stored[trace.id][~np.isnan(stored[trace.id])],
            strict=True,
        )
    ]
    now, then = np.array(pairs).T
    assert np.abs(now - then).max() <= 1e-2 * then.std()
    limits = np.quantile(then, [0.5, 0.8, 0.95])
    changed = [int(((now >= limit) != (then >= limit)).sum()) for limit in limits]
    assert sum(changed) <= 3  # a score that lies on the threshold itself


@pytest.mark.parametrize("head", HEADS)
def test_rows_of_a_left_padded_batch_score_as_each_does_alone(
    tiny: Callable[..., Any], head: Head
) -> None:
    from test_stopping import PROMPTS, scores_of
    from tiny_models import random_network, word_tokenizer

    network = random_network("qwen3", eos_token_id=None).eval()
    network.generation_config.eos_token_id = None
    network.generation_config.pad_token_id = 0
    parts, saved = (network, word_tokenizer()), wide_probe(tiny(), head)
    together = scores_of(parts, saved, PROMPTS)
    assert sum(map(len, together)) > 4
    for prompt, row in zip(PROMPTS, together, strict=True):
        (alone,) = scores_of(parts, saved, (prompt,))
        for mine, its in zip(row, alone, strict=True):
            assert mine[:3] == its[:3]
            assert abs(mine[3] - its[3]) <= 1e-5


# The memory by itself


def a_thought(sizes: tuple[int, ...]) -> tuple[Trace, np.ndarray]:
    """Return a trace with sentences of so many tokens, and (token, layer, d_model) of it."""
    words = [" ".join(["word"] * size) for size in sizes]
    trace = make_trace("t", Task("t", "c", "what is it"), words)
    return trace, np.random.default_rng(5).normal(size=(len(trace), 2, 32)).astype(np.float32)


def in_bulk(saved: SavedProbe, trace: Trace, tokens: np.ndarray, count: int) -> np.ndarray:
    """Return the scores of the first sentences, by way of pooled rows."""
    spans = [Span(trace.prompt_stop - 1, trace.prompt_stop), *trace.sentences[:count]]
    parts = [tokens[span.start : span.stop] for span in spans]
    pools = [[p[-1] for p in parts], [p.mean(0) for p in parts], [p.max(0) for p in parts]]
    values = np.concatenate([np.stack(pool, axis=1) for pool in pools], axis=2)
    matrix = ActivationMatrix(values, LAYERS, np.array([0]), "last+mean+max")
    where = np.zeros(count, dtype=int), np.arange(count)
    X = feature_rows(matrix, [trace], saved.card.layers, saved.card.features, *where)
    return np.asarray(saved.probe.raw_scores(X))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("every", [1, 5, 16, 1000])
def test_a_memory_that_is_fed_in_pieces_scores_as_whole_rows_do(
    tiny: Callable[..., Any], head: Head, every: int
) -> None:
    sizes = (3, 128, 1, 90, 17, 128)
    trace, tokens = a_thought(sizes)
    saved = wide_probe(tiny(), head)
    memory, first = Memory([saved]), trace.prompt_stop
    memory.add(tokens[first - 1 : first])
    found: list[float] = []
    held = 0
    for start, stop in zip(
        np.cumsum((0, *sizes)).tolist(), np.cumsum(sizes).tolist(), strict=False
    ):
        for token in range(start, stop, every):
            memory.add(tokens[first + token : first + min(token + every, stop)])
            memory.fold(start)
            held = max(held, len(memory._rows))
            assert len(memory.scores(start, memory.known)) == 1
        found += memory.end(start, stop)
    expected = in_bulk(saved, trace, tokens, len(sizes))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    if every < HELD:
        assert held <= 2 * HELD  # though a sentence has four times as many tokens


def test_a_score_within_a_sentence_is_that_of_the_sentence_so_far(
    tiny: Callable[..., Any],
) -> None:
    trace, tokens = a_thought((4, 6))
    saved, first = wide_probe(tiny(), "mlp"), trace.prompt_stop
    memory = Memory([saved])
    memory.add(tokens[first - 1 : first + 4])
    memory.end(0, 4)
    memory.add(tokens[first + 4 : first + 7])
    second = trace.sentences[1]
    cut = replace(
        trace,
        spans=(trace.spans[0], Span(first, first + 7), Span(first + 7, len(trace), "answer")),
        sentences=(
            trace.sentences[0],
            Span(second.start, first + 7),
            Span(first + 7, len(trace), "answer"),
        ),
    )
    np.testing.assert_allclose(memory.scores(4, 7)[0], in_bulk(saved, cut, tokens, 2)[1], atol=1e-5)


def test_a_probe_that_reads_less_reads_the_same_beside_one_that_reads_all(
    tiny: Callable[..., Any],
) -> None:
    trace, tokens = a_thought((4, 6))
    wide, first = wide_probe(tiny(), "linear"), trace.prompt_stop
    card = replace(wide.card, layers=(2,), features=("running-max", "last"))
    narrow = SavedProbe(card, LinearProbe.of(np.random.default_rng(1).normal(size=64), 0.0))
    both, alone = Memory([wide, narrow]), Memory([narrow])
    both.add(tokens[first - 1 :])
    alone.add(tokens[first - 1 :, 1:])
    for start, stop in ((0, 4), (4, 10)):
        assert both.end(start, stop)[1] == pytest.approx(alone.end(start, stop)[0], abs=1e-5)
