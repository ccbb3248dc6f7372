"""Probes over transformers' own `generate`: rows stop one by one, padding changes nothing."""

from collections.abc import Callable
from typing import Any

import pytest
from made_probes import a_probe
from tiny_models import random_network, word_tokenizer

from trace_probe.errors import ProbeError

PROMPTS = (
    "stop it .",
    "the model must finish its task before they stop it .",
    "what can the model see ? say nothing .",
    "no one can see what was done here so let us wait or act now .",
)
NEW = 48


@pytest.fixture(scope="module")
def parts() -> tuple[Any, Any]:
    """Return a network that never ends a turn by itself, and its tokenizer."""
    network = random_network("qwen3", eos_token_id=None).eval()
    network.generation_config.eos_token_id = None
    network.generation_config.pad_token_id = 0
    return network, word_tokenizer()


def batch(tokenizer: Any, prompts: tuple[str, ...]) -> Any:
    tokenizer.padding_side = "left"
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        for prompt in prompts
    ]
    found = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    return {name: found[name] for name in ("input_ids", "attention_mask")}


def generate(
    parts: tuple[Any, Any], saved: Any, prompts: tuple[str, ...], *, every: int = 1, **more: Any
) -> tuple[Any, Any]:
    from trace_probe.monitor.stopping import GenerateWatch

    network, tokenizer = parts
    with GenerateWatch(network, tokenizer, saved, every=every, **more) as watch:
        written = network.generate(
            **batch(tokenizer, prompts),
            max_new_tokens=NEW,
            do_sample=False,
            stopping_criteria=[watch.criteria],
        )
    return watch, written


def probe_at(tiny: Callable[..., Any], threshold: float) -> Any:
    return a_probe(tiny(), threshold)


def scores_of(parts: tuple[Any, Any], saved: Any, prompts: tuple[str, ...]) -> list[list[Any]]:
    watch, _ = generate(parts, saved, prompts, stop=False)
    return [
        [(s.sentence, s.start, s.stop, s.scores[0]) for s in row if s.scores]
        for row in watch.sentences
    ]


def test_a_left_padded_batch_scores_as_single_runs_do(
    parts: tuple[Any, Any], tiny: Callable[..., Any]
) -> None:
    saved = probe_at(tiny, 1e9)
    together = scores_of(parts, saved, PROMPTS)
    assert sum(map(len, together)) > 4
    for prompt, row in zip(PROMPTS, together, strict=True):
        (alone,) = scores_of(parts, saved, (prompt,))
        assert [one[:3] for one in row] == [one[:3] for one in alone]
        assert all(abs(a[3] - b[3]) <= 1e-5 for a, b in zip(row, alone, strict=True))


@pytest.mark.parametrize("every", [1, 5, 16])
def test_each_row_is_cut_at_its_own_alarm_though_it_goes_on_emitting(
    parts: tuple[Any, Any], tiny: Callable[..., Any], every: int
) -> None:
    scored = scores_of(parts, probe_at(tiny, 1e9), PROMPTS)
    ordered = sorted({score for row in scored for *_, score in row})
    threshold = ordered[len(ordered) // 2] - 1e-4
    watch, written = generate(parts, probe_at(tiny, threshold), PROMPTS, every=every)
    _, free = generate(parts, probe_at(tiny, 1e9), PROMPTS)
    kept = watch.kept(written)
    for row, tokens, alarmed, all_of_it in zip(
        scored, kept, watch.alarms, free.tolist(), strict=True
    ):
        first = next((stop for _, _, stop, score in row if score >= threshold), None)
        if alarmed:
            assert len(tokens) == first
        else:
            assert first is None or first >= len(tokens) - 1
        assert tokens == all_of_it[watch.prompt :][: len(tokens)]
    assert True in watch.alarms
    assert len({len(row) for row in kept}) > 1


def test_the_streamer_gives_the_readings_of_the_watch(
    parts: tuple[Any, Any], tiny: Callable[..., Any]
) -> None:
    from trace_probe.monitor.stopping import GenerateWatch

    network, tokenizer = parts
    heard: list[Any] = []
    with GenerateWatch(network, tokenizer, probe_at(tiny, 1e9)) as watch:
        written = network.generate(
            **batch(tokenizer, PROMPTS[:1]),
            max_new_tokens=NEW,
            do_sample=False,
            streamer=watch.streamer(heard.append),
        )
    (kept,) = watch.kept(written)
    assert [reading.token - watch.prompt for reading in heard] == list(range(len(kept)))[:NEW]
    assert "".join(reading.text for reading in heard) == tokenizer.decode(kept)
    (row,) = scores_of(parts, probe_at(tiny, 1e9), PROMPTS[:1])
    streamed = [(s.sentence, s.start, s.stop) for r in heard for s in r.ended if s.scores]
    assert streamed == [one[:3] for one in row][: len(streamed)]
    assert streamed


def test_what_cannot_be_followed_is_refused(
    parts: tuple[Any, Any], tiny: Callable[..., Any]
) -> None:
    from trace_probe.monitor.stopping import GenerateWatch

    network, tokenizer = parts
    with GenerateWatch(network, tokenizer, probe_at(tiny, 1e9), every=1) as watch:
        settings = {"max_new_tokens": 4, "stopping_criteria": [watch.criteria]}
        network.generate(**batch(tokenizer, PROMPTS), **settings)
        with pytest.raises(ProbeError, match="one call of generate"):
            network.generate(**batch(tokenizer, PROMPTS), **settings)
    assert not any(block._forward_hooks for block in network.model.layers)
    with pytest.raises(ProbeError, match="layer 7"):
        GenerateWatch(network, tokenizer, a_probe(tiny(), 1.0, layer=7))
