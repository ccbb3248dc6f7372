import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import FAMILIES, each_token, random_network, relative_error, word_tokenizer

from trace_probe.activations import Activations
from trace_probe.errors import ModelError
from trace_probe.trace import Sampling, Span, Task

TASK = Task("t-01", "c", "the model must finish its task before they stop it .")
SHORT = Task("t-02", "c", "stop it .", system="say nothing .")
SAMPLING = Sampling(max_new_tokens=24)
LAYERS = (0, 1, 2)


def hooks(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model._network.modules())


def written(model: Any, task: Task = TASK, seed: int = 5) -> tuple[list[int], list[int]]:
    prompt = model.render(task)
    (completion,) = model.generate([prompt], [seed], SAMPLING)
    return prompt, [*prompt, *completion.ids]


# What is read


@pytest.mark.parametrize("family", FAMILIES)
def test_replay_reads_the_residual_stream_after_each_block(
    tiny: Callable[..., Any], family: str
) -> None:
    import torch

    model = tiny(family)
    _, ids = written(model)
    entering_norm: list[Any] = []
    handle = model.blocks.network.get_decoder().norm.register_forward_pre_hook(
        lambda _, x: entering_norm.append(x[0])
    )
    with torch.no_grad():
        states = model._network(torch.tensor([ids]), output_hidden_states=True).hidden_states
    handle.remove()
    (replayed,) = model.replay([ids], [each_token(len(ids))], LAYERS)
    for layer in LAYERS[:-1]:
        assert relative_error(replayed.at(layer), states[layer + 1][0].numpy()) < 1e-5
    assert relative_error(replayed.at(2), entering_norm[0][0].numpy()) < 1e-5
    assert relative_error(replayed.at(2), states[-1][0].numpy()) > 1e-2  # that is after the norm


@pytest.mark.parametrize("family", FAMILIES)
def test_streaming_and_replay_see_the_same_activations(
    tiny: Callable[..., Any], family: str
) -> None:
    model = tiny(family)
    prompt, ids = written(model)
    streamed = list(model.stream(prompt, 5, SAMPLING, LAYERS))
    assert [token.id for token in streamed] == ids[len(prompt) - 1 :]
    assert [token.position for token in streamed] == list(range(len(prompt) - 1, len(ids)))
    assert [token.last for token in streamed] == [False] * (len(streamed) - 1) + [True]
    (replayed,) = model.replay([ids], [each_token(len(ids), len(prompt) - 1)], LAYERS)
    live = np.stack([token.activation for token in streamed], axis=1)
    for layer in LAYERS:
        assert relative_error(live[layer], replayed.at(layer)) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_and_batching_change_no_activation(tiny: Callable[..., Any], family: str) -> None:
    from trace_probe.model.capture import Reading

    model = tiny(family)
    traces = [written(model, task, seed)[1] for task in (TASK, SHORT) for seed in (1, 2, 3)]
    spans = [[Span(0, 1), Span(2, len(ids))] for ids in traces]
    together = model.replay(traces, spans, LAYERS)
    in_pairs = model.replay(traces, spans, LAYERS, Reading(pass_tokens=2 * max(map(len, traces))))
    for ids, wanted, both, pair in zip(traces, spans, together, in_pairs, strict=True):
        (alone,) = model.replay([ids], [wanted], LAYERS)
        assert both.spans == alone.spans == tuple(wanted)
        assert relative_error(both.values, alone.values) < 1e-5
        assert relative_error(pair.values, alone.values) < 1e-5


def test_a_row_is_the_mean_over_its_span(tiny: Callable[..., Any]) -> None:
    model = tiny()
    _, ids = written(model)
    (tokens,) = model.replay([ids], [each_token(len(ids))], LAYERS)
    (rows,) = model.replay([ids], [[Span(1, 4), Span(2, 9)]], LAYERS)  # they may overlap
    wanted = np.stack([tokens.values[:, 1:4].mean(1), tokens.values[:, 2:9].mean(1)], axis=1)
    assert relative_error(rows.values, wanted) < 1e-6
    assert rows.values.dtype == np.float32


def test_stopping_early_changes_nothing_and_saves_the_rest(tiny: Callable[..., Any]) -> None:
    model = tiny()
    _, ids = written(model)
    ran: list[int] = []
    handles = [
        block.register_forward_pre_hook(lambda *_, i=i: ran.append(i))
        for i, block in enumerate(model.blocks.network.get_decoder().layers)
    ]
    (early,) = model.replay([ids], [each_token(len(ids))], (0,))
    for handle in handles:
        handle.remove()
    assert ran == [0]
    (whole,) = model.replay([ids], [each_token(len(ids))], LAYERS)
    assert np.array_equal(early.at(0), whole.at(0))


def test_layers_keep_the_order_in_which_they_were_asked(tiny: Callable[..., Any]) -> None:
    model = tiny()
    _, ids = written(model)
    (backward,) = model.replay([ids], [each_token(len(ids))], (2, 0))
    (forward,) = model.replay([ids], [each_token(len(ids))], (0, 2))
    assert backward.layers == (2, 0)
    assert np.array_equal(backward.at(2), forward.at(2))


def test_no_hook_is_left_after_an_exception_or_a_dropped_stream(tiny: Callable[..., Any]) -> None:
    model = tiny()
    before = hooks(model)
    with pytest.raises(IndexError):
        model.replay([[len(word_tokenizer()) + 7]], [[Span(0, 1)]], LAYERS)  # no such token
    assert hooks(model) == before
    closed, dropped = (model.stream(model.render(TASK), 0, SAMPLING, LAYERS) for _ in range(2))
    next(closed), next(dropped)
    expected = next(closed).activation
    closed.close()
    assert np.array_equal(next(dropped).activation, expected)  # its own hooks are still there
    del dropped
    gc.collect()
    assert hooks(model) == before


def test_many_live_streams_cost_a_pass_no_more_than_one(tiny: Callable[..., Any]) -> None:
    import sys

    model = tiny()
    _, ids = written(model)

    def calls() -> int:
        ran: list[str] = []

        def note(frame: Any, event: str, _: object) -> None:
            if event == "call" and frame.f_code.co_filename.endswith("model/blocks.py"):
                ran.append(frame.f_code.co_name)

        sys.setprofile(note)
        try:
            model.replay([ids], [each_token(len(ids))], LAYERS)
        finally:
            sys.setprofile(None)
        return len(ran)

    before = hooks(model)
    streams = [model.stream(model.render(TASK), seed, SAMPLING, LAYERS) for seed in range(8)]
    next(streams[0])
    alone = calls()
    for stream in streams[1:]:
        next(stream)
    assert hooks(model) == before + len(LAYERS)
    assert calls() == alone
    for stream in streams:
        assert hooks(model) > before  # those still running keep theirs
        stream.close()
    assert hooks(model) == before


@pytest.mark.parametrize("kept", [False, True])
def test_what_is_left_twice_takes_nothing_from_anybody_else(
    tiny: Callable[..., Any], kept: bool
) -> None:
    model = tiny()
    _, ids = written(model)
    blocks, before, seen = model.blocks, hooks(model), list[int]()
    taken = blocks.ready(LAYERS) if kept else blocks.tapped(LAYERS, lambda *_: None)
    with blocks.ready(LAYERS), blocks.tapped(LAYERS, lambda at, _: seen.append(at)):
        taken.__enter__()
        for _ in range(3):
            taken.__exit__(None, None, None)
        model.replay([ids], [each_token(len(ids))], LAYERS)
        assert seen == list(LAYERS)
        assert hooks(model) == before + len(LAYERS)
    assert hooks(model) == before
    taken.__exit__(None, None, None)
    with blocks.tapped(LAYERS, lambda at, _: seen.append(at)):
        model.replay([ids], [each_token(len(ids))], LAYERS)
    assert seen == 2 * list(LAYERS)


def test_threads_that_come_and_go_leave_no_hook(tiny: Callable[..., Any]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    model = tiny()
    before = hooks(model)

    def come_and_go(_: int) -> None:
        for _ in range(200):
            with model.blocks.ready(LAYERS), model.blocks.tapped(LAYERS, lambda *_: None):
                assert hooks(model) >= before + len(LAYERS)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(come_and_go, range(8)))
    assert hooks(model) == before


@pytest.mark.parametrize("begun", [False, True])
def test_a_hook_of_another_library_is_read_if_it_is_on_before_a_stream_begins(
    tiny: Callable[..., Any], begun: bool
) -> None:
    model = tiny()
    free = [token.activation for token in model.stream(model.render(TASK), 0, SAMPLING, (1,))]
    stream = model.stream(model.render(TASK), 0, SAMPLING, (1,))
    if begun:
        next(stream)
    with (
        model.blocks.network.get_decoder()
        .layers[1]
        .register_forward_hook(lambda _, __, out: _doubled(out))
    ):
        read = next(stream).activation
    stream.close()
    assert np.allclose(read, (1 if begun else 2) * free[int(begun)], rtol=1e-5)


def _doubled(output: Any) -> Any:
    return (output[0] * 2, *output[1:]) if isinstance(output, tuple) else output * 2


def test_between_two_tokens_a_stream_sees_nothing_of_what_its_consumer_does(
    tiny: Callable[..., Any],
) -> None:
    from trace_probe.model.steering import Steering, steered

    model = tiny()
    prompt, seen = model.render(TASK), list[int]()
    alone = [token.id for token in model.stream(prompt, 0, SAMPLING, LAYERS)]
    written = []
    for token, position, _ in model.tokens(
        prompt, 0, SAMPLING, LAYERS, lambda at, _: seen.append(at)
    ):
        assert seen == list(LAYERS) * (position - len(prompt) + 2)  # one pass a token, no more
        written.append(token)
        with steered(model, Steering(1, np.ones(model.d_model), "add", 50.0)):
            model.replay([prompt], [each_token(len(prompt))], LAYERS)
    assert written == alone


def test_a_stream_reads_what_is_changed_at_its_layer_while_it_runs(
    tiny: Callable[..., Any],
) -> None:
    from trace_probe.model.steering import Steering, steered

    model = tiny()
    stream = model.stream(model.render(TASK), 0, SAMPLING, (1,))
    free = next(stream).activation
    with steered(model, Steering(1, np.ones(model.d_model), "add", 500.0)):
        pushed = next(stream).activation
    assert np.linalg.norm(free) < 100
    assert np.linalg.norm(pushed) > 400


def test_a_stream_does_not_leak_inference_mode_to_its_consumer(tiny: Callable[..., Any]) -> None:
    import torch

    model = tiny()
    for _ in model.stream(model.render(TASK), 0, SAMPLING, LAYERS):
        assert not torch.is_inference_mode_enabled()


# What is written


def test_a_trace_depends_on_prompt_and_seed_and_not_on_its_batch(tiny: Callable[..., Any]) -> None:
    model = tiny()
    prompts = [model.render(task) for task in (TASK, SHORT, TASK, SHORT, TASK)]
    seeds = [7, 8, 9, 7, 7]
    sampling = Sampling(temperature=0.8, top_p=0.9, max_new_tokens=24)
    together = model.generate(prompts, seeds, sampling)
    alone = [model.generate([p], [s], sampling)[0] for p, s in zip(prompts, seeds, strict=True)]
    backward = model.generate(prompts[::-1], seeds[::-1], sampling)[::-1]
    assert together == alone == backward
    assert together[0] == together[4]
    assert together[0] != together[2]


def test_draws_follow_the_models_distribution() -> None:
    import torch

    from trace_probe.model.drawing import SeededDraw

    logits = torch.tensor([0.0, 2.0, -torch.inf, 1.0])
    rows = 20_000
    drawn = SeededDraw(range(rows))(None, logits.repeat(rows, 1)).argmax(-1)
    counts = np.bincount(drawn.numpy(), minlength=4)
    expected = rows * logits.softmax(-1).numpy()
    assert counts[2] == 0
    kept = expected > 0
    chi_squared = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    assert chi_squared < 13.8  # 99.9 % of chi squared with two degrees of freedom


def test_top_p_draws_only_from_the_nucleus() -> None:
    import torch

    from trace_probe.model.drawing import draws

    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(400, 1)
    chain = draws(Sampling(top_p=0.75), range(400))
    assert set(chain(None, logits).argmax(-1).tolist()) == {0, 1}


def test_the_nucleus_of_a_large_vocabulary_is_that_of_transformers() -> None:
    import torch
    from transformers import TopPLogitsWarper

    from trace_probe.model.drawing import QuickTopP

    noise = torch.randn(12, 20_000, generator=torch.manual_seed(0))
    mixed = torch.linspace(0.1, 8, 12)[:, None]  # rows of which each needs another number of tokens
    for sharpness, top_p in ((8.0, 0.95), (8.0, 0.1), (3.0, 0.95), (0.1, 0.95), (mixed, 0.9)):
        scores = noise * sharpness
        assert torch.equal(QuickTopP(top_p)(None, scores), TopPLogitsWarper(top_p)(None, scores))


def test_temperature_zero_is_greedy(tiny: Callable[..., Any]) -> None:
    import torch

    model = tiny()
    prompt = model.render(TASK)
    greedy = Sampling(temperature=0, max_new_tokens=6)
    one, other = model.generate([prompt, prompt], [1, 2], greedy)
    assert one == other
    with torch.no_grad():
        first = model._network(torch.tensor([prompt])).logits[0, -1].argmax()
    assert one.ids[0] == first
    assert [t.id for t in model.stream(prompt, 3, greedy, (0,))][1:] == list(one.ids)


def test_a_completion_ends_with_its_stop_token_or_at_its_length(tiny: Callable[..., Any]) -> None:
    model = tiny()
    completions = model.generate([model.render(TASK)] * 40, list(range(40)), SAMPLING)
    stop = word_tokenizer().eos_token_id
    assert {completion.finish for completion in completions} == {"stop", "length"}
    for completion in completions:
        assert stop not in completion.ids[:-1]
        assert (completion.ids[-1] == stop) == (completion.finish == "stop")
        assert completion.finish == "stop" or len(completion.ids) == SAMPLING.max_new_tokens


def test_a_models_own_generation_settings_do_not_bend_the_sampling() -> None:
    from transformers import GenerationConfig

    from trace_probe.model.local import Model

    plain = Model(random_network(), word_tokenizer(), "plain")
    network = random_network()
    network.generation_config = GenerationConfig(
        eos_token_id=1, repetition_penalty=3.0, top_k=1, do_sample=True, no_repeat_ngram_size=1
    )
    bent = Model(network, word_tokenizer(), "bent")
    prompts = [plain.render(TASK)] * 4
    assert plain.generate(prompts, range(4), SAMPLING) == bent.generate(prompts, range(4), SAMPLING)


# Text


def byte_level_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: i for i, symbol in enumerate([*alphabet, "Ġa", "an", "the"])}
    backend = Tokenizer(BPE(vocabulary, [("Ġ", "a"), ("a", "n")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", chat_template="{{ messages }}"
    )


@pytest.fixture(scope="module")
def byte_model() -> Any:
    from trace_probe.model.local import Model

    return Model(random_network(vocab_size=300), byte_level_tokenizer(), "bytes")


def test_offsets_of_characters_that_are_cut_into_bytes_are_exact(byte_model: Any) -> None:
    text = "a naïve plan: 我们 → 🤖👩‍👩‍👧 an end"
    ids = byte_model.chat._tokenizer(text).input_ids
    got, offsets = byte_model.offsets(ids)
    assert got == text
    assert len(ids) > len(text)
    for i, start in enumerate(offsets):
        before = byte_model.chat._tokenizer.decode(ids[:i]).rstrip("\ufffd")
        assert text[:start] == before


def test_text_round_trips_for_any_bytes(byte_model: Any) -> None:
    from hypothesis import given, settings
    from hypothesis import strategies as st

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.integers(0, 258), max_size=30))
    def check(ids: list[int]) -> None:
        text, offsets = byte_model.offsets(ids)
        assert text == byte_model.chat._tokenizer.decode(ids)
        assert list(offsets) == sorted(offsets)
        assert all(0 <= start <= len(text) for start in offsets)

    check()


def test_text_that_comes_token_by_token_is_the_whole_text(tiny: Callable[..., Any]) -> None:
    model = tiny()
    _, ids = written(model)
    stream = model.text_stream()
    pieces = [stream.feed(token) for token in ids]
    text, offsets = model.offsets(ids)
    assert "".join(pieces) == text == word_tokenizer().decode(ids)
    assert [text[a:b] for a, b in zip(offsets, offsets[1:], strict=False)] == pieces[:-1]


def test_a_prompt_is_the_chat_template_and_opens_the_thought(tiny: Callable[..., Any]) -> None:
    model = tiny()
    text, _ = model.offsets(model.render(SHORT))
    assert text == (
        "<|im_start|> system say nothing .<|im_end|><|im_start|> user stop it .<|im_end|>"
        "<|im_start|> assistant<think>"
    )


# Loading


def test_a_saved_folder_loads_as_the_same_model(
    tiny: Callable[..., Any], model_folder: Path
) -> None:
    from trace_probe.model.local import load_model

    loaded = load_model(str(model_folder))
    assert loaded.name.startswith("tiny-qwen3@")
    assert (loaded.n_layers, loaded.d_model, loaded.dtype) == (3, 32, "float32")
    assert loaded.tokenizer == tiny().tokenizer
    assert written(loaded) == written(tiny())


def test_a_name_says_which_weights_it_means(model_folder: Path, tmp_path: Path) -> None:
    import shutil

    from trace_probe.model.checkpoint import fingerprint

    copy = shutil.copytree(model_folder, tmp_path / "copy")
    (copy / "README.md").write_text("a card is not the model")
    assert fingerprint(copy) == fingerprint(model_folder)
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert fingerprint(copy) != fingerprint(model_folder)


def test_a_hub_id_loads_from_the_cache_and_says_which_commit(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    import huggingface_hub.constants

    from trace_probe.model.local import load_model

    commit, cached = "3f2a91c0" * 5, tmp_path / "models--org--tiny"
    shutil.copytree(model_folder, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert load_model("org/tiny").name == "org/tiny@3f2a91c0"


def test_dtype_can_be_chosen(model_folder: Path) -> None:
    from trace_probe.model.local import load_model

    model = load_model(str(model_folder), dtype="bfloat16")
    assert model.dtype == "bfloat16"
    _, ids = written(model)
    (rows,) = model.replay([ids], [each_token(len(ids))], LAYERS)
    assert isinstance(rows, Activations)
    assert rows.values.dtype == np.float32
    with pytest.raises(ModelError, match="no dtype int3: choose auto or one of float32"):
        load_model(str(model_folder), dtype="int3")


PARTS = ("model.embed_tokens", "model.layers.0", "model.layers.1", "model.layers.2", "model.norm")
OFFLOADED = dict(zip(PARTS, ("disk", "cpu", "disk", "cpu", "cpu"), strict=True))


@pytest.mark.parametrize(
    "device_map",
    ["auto", {"": "cpu"}, {**OFFLOADED, "model.rotary_emb": "cpu", "lm_head": "disk"}],
    ids=["auto", "one device", "partly on disk"],
)
def test_a_device_map_changes_where_a_model_is_and_nothing_it_does(
    model_folder: Path, device_map: Any
) -> None:
    from trace_probe.model.capture import Reading
    from trace_probe.model.local import load_model

    plain, spread = (
        load_model(str(model_folder)),
        load_model(str(model_folder), device_map=device_map),
    )
    prompt, sampling = plain.render(Task("t", "c", "stop it .")), Sampling(max_new_tokens=12)
    (written,) = spread.generate([prompt], [7], sampling)
    assert [written] == plain.generate([prompt], [7], sampling)
    ids = [*prompt, *written.ids]
    spans = [[Span(0, len(ids))]]
    (held,), (expected,) = (model.replay([ids], spans, (0, 2)) for model in (spread, plain))
    np.testing.assert_array_equal(held.values, expected.values)
    reading = Reading(pass_tokens=8, chunk=7)
    for one in spread.checked_replay([ids], spans, (0, 2), reading, [written.logprobs]):
        assert one.fidelity is not None
        assert one.fidelity.error < 1e-5
    streamed = list(spread.stream(prompt, 7, sampling, (1,)))
    assert tuple(token.id for token in streamed[1:]) == written.ids


def test_a_device_and_a_device_map_contradict_each_other(model_folder: Path) -> None:
    from trace_probe.model.local import load_model

    with pytest.raises(ModelError, match="not both"):
        load_model(str(model_folder), device="cpu", device_map="auto")


SWITCHED = (
    "{% for m in messages %}{{ m.content }}{% endfor %}<|im_start|> assistant"
    "{% if ARGUMENT is defined and not ARGUMENT %}<think></think>{% else %}<think>{% endif %}"
)


@pytest.mark.parametrize("argument", ["enable_thinking", "thinking"])
def test_reasoning_is_switched_by_the_condition_of_the_task(argument: str) -> None:
    from trace_probe.model.tokenizer import ChatTokenizer

    tokenizer = word_tokenizer()
    tokenizer.chat_template = SWITCHED.replace("ARGUMENT", argument)
    chat = ChatTokenizer(tokenizer, "tiny")
    on, off = (
        chat.prompt(Task("t", "c", " stop", condition={"thinking": level}))
        for level in ("on", "off")
    )
    assert on == chat.prompt(Task("t", "c", " stop")) == " stop<|im_start|> assistant<think>"
    assert off == f"{on}</think>"
    plain = ChatTokenizer(word_tokenizer(), "tiny")
    with pytest.raises(ModelError, match="tiny has no switch for reasoning"):
        plain.prompt(Task("t", "c", "stop", condition={"thinking": "off"}))


def test_what_cannot_be_loaded_says_what_to_do(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants
    from safetensors.numpy import load_file, save_file

    from trace_probe.model.local import load_model

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="run `hf download no-such/model`"):
        load_model("no-such/model")
    with pytest.raises(
        ModelError, match="there is no folder or GGUF file /no/such: give a model folder"
    ):
        load_model("/no/such")
    with pytest.raises(ModelError, match=r"it has no config\.json"):
        load_model(str(tmp_path))

    import shutil

    broken = shutil.copytree(model_folder, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="copy (it|them) again"):
        load_model(str(broken))
    tensors = load_file(model_folder / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "layers.1" not in k}, weights)
    with pytest.raises(ModelError, match=r"lacks the weights .*layers\.1"):
        load_model(str(broken))


DEFAULTING = (
    "{% if messages[0].role == 'system' %}{% set own = messages[0].content %}"
    "{% else %}{% set own = 'First draft your [THINK]thoughts[/THINK].' %}{% endif %}"
    "<s>[SYSTEM]{{ own }}[/SYSTEM]{{ messages[-1].content }}"
)


@pytest.mark.parametrize(
    ("template", "written"),
    [
        (
            DEFAULTING,
            "<s>[SYSTEM]First draft your [THINK]thoughts[/THINK].\n\nbe brief[/SYSTEM]hello",
        ),
        (DEFAULTING.replace("[THINK]", ""), "<s>[SYSTEM]be brief[/SYSTEM]hello"),
        ("[THINK]{% for m in messages %}{{ m.content }}{% endfor %}", "[THINK]be briefhello"),
    ],
    ids=["told to think by default", "default says nothing of it", "told to think anyway"],
)
def test_a_system_message_leaves_the_template_its_instructions_to_think(
    template: str, written: str
) -> None:
    from trace_probe.model.tokenizer import ChatTokenizer

    tokenizer = word_tokenizer()
    tokenizer.chat_template = template
    chat = ChatTokenizer(tokenizer, "tiny")
    assert chat.prompt(Task("t", "c", "hello", system="be brief")) == written


def test_a_model_without_chat_template_is_refused() -> None:
    from trace_probe.model.local import Model

    tokenizer = word_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="base has no chat template: choose"):
        Model(random_network(), tokenizer, "base")


def test_a_template_that_refuses_a_system_message_is_named() -> None:
    from trace_probe.model.local import Model

    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(ModelError, match="System role not supported.*without a system message"):
        Model(random_network(), tokenizer, "strict").render(SHORT)


def test_organisms_are_found_by_name(monkeypatch: pytest.MonkeyPatch, model_folder: Path) -> None:
    from trace_probe.model import naming
    from trace_probe.model.local import load_model

    monkeypatch.setattr(naming, "FAMILY", model_folder.parent)
    assert load_model("organism:tiny-qwen3").name.startswith("organism:tiny-qwen3@")
    with pytest.raises(ModelError, match="no organism 'organism:rl-s9'; there are organism:tiny"):
        load_model("organism:rl-s9")


def test_wrong_layers_spans_and_lengths_are_refused(tiny: Callable[..., Any]) -> None:
    model = tiny()
    with pytest.raises(ModelError, match="no layer 40: .* has blocks 0-2"):
        model.replay([[1]], [[Span(0, 1)]], (0, 40))
    with pytest.raises(ModelError, match="no layer was asked for"):
        model.replay([[1]], [[Span(0, 1)]], ())
    with pytest.raises(ModelError, match="twice"):
        model.replay([[1]], [[Span(0, 1)]], (1, 1))
    with pytest.raises(ModelError, match="empty or ends after token 1"):
        model.replay([[1]], [[Span(0, 2)]], (0,))
    with pytest.raises(ModelError, match="lower max_new_tokens"):
        model.generate([[1]], [0], Sampling(max_new_tokens=512))
