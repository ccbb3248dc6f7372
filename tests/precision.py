"""Every road that touches a model, as a check that can be run in each precision.

A road takes a `Case` and fails if the road does. What is compared: the same model read in another
way, in the same precision; and the same weights in float32, which says that the numbers are not
only stable but right.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_probes import a_probe
from tiny_models import COMMON, SENTENCES, SPECIFIC, each_token, word_tokenizer

from trace_probe.errors import ModelError
from trace_probe.trace import Sampling, Span, Task

DTYPES = ("float32", "bfloat16", "float16")
LAYERS = (0, 1, 2)
WITHIN = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 6e-2}
"""Most by which two readings in one precision may differ, root mean square over root mean square.

One rounding is at most 2**-24, 2**-11 or 2**-8 of a value. Three blocks round some fifty times,
and other sizes of chunks round otherwise; so about 20 roundings are allowed. A token or a mask in
the wrong place gives 0.5.
"""
OF_FLOAT32 = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 0.15}
"""The same against float32: there every rounding counts, not only those that differ."""
OF_OTHER_EXPERTS = 0.15
"""The same for a mixture of experts in half precision: where two experts are nearly alike, a
rounding sends a token to the other one (here 1 token in 60, which is then half wrong)."""
NATS = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}
"""Tolerated by the package between log-probabilities of writing and of reading again."""
CONTEXT = 4096
SHORT, LONG = 60, 2100
"""Tokens; the long ones exceed a block of keys (512), a pass (2048) and every window (8)."""
NEW = 6


@dataclass(frozen=True)
class Case:
    """One cell of the table."""

    family: str
    dtype: str
    tokens: int
    folder: Path

    @property
    def model(self) -> Any:
        return model_of(self.family, self.dtype)

    @property
    def exact(self) -> Any:
        """The same weights, widened to float32."""
        return model_of(self.family, self.dtype, widened=True)

    @property
    def reading(self) -> Any:
        """Chunks of the default size for long texts, and tiny ones for short texts."""
        from trace_probe.model.capture import Reading

        return Reading(pass_tokens=64) if self.tokens > SHORT else Reading(pass_tokens=8, chunk=7)

    @property
    def of_float32(self) -> float:
        """How far from float32 the model may be."""
        mixture = self.family in ("qwen3_moe", "gpt_oss") and self.dtype != "float32"
        return OF_OTHER_EXPERTS if mixture else OF_FLOAT32[self.dtype]

    @property
    def nats(self) -> float:
        """How far the log-probabilities of `NEW` tokens, read again, may be from those noted.

        Twice as far where one of so few tokens may go to another expert.
        """
        return NATS[self.dtype] * (2 if self.of_float32 == OF_OTHER_EXPERTS else 1)

    def ids(self, seed: int = 0, tokens: int | None = None) -> list[int]:
        return list(map(int, np.random.default_rng(seed).integers(6, 30, tokens or self.tokens)))

    def task(self, seed: int = 0) -> Task:
        """A task whose prompt is about as long as the case says."""
        words = SENTENCES.split()
        drawn = np.random.default_rng(seed).choice(words[3:], max(self.tokens - 20, 3))
        return Task(f"t-{seed}", "c", " ".join(drawn))


@cache
def model_of(family: str, dtype: str, *, widened: bool = False) -> Any:
    """Return a tiny model in a precision, loaded as checkpoints are: only weights are rounded."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from trace_probe.model.local import Model

    tokenizer = word_tokenizer()
    settings = {**COMMON, "max_position_embeddings": CONTEXT, **SPECIFIC.get(family, {})}
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **settings)
    torch.manual_seed(0)
    weights = AutoModelForCausalLM.from_config(config).state_dict()
    network = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    network.load_state_dict(weights)
    if widened:
        rounded = network.state_dict()
        network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        network.load_state_dict(rounded)
    return Model(network, tokenizer, f"tiny-{family}@00000000")


@cache
def folder_of(family: str, dtype: str, folder: Path) -> Path:
    model_of(family, dtype).blocks.network.save_pretrained(folder / "model")
    word_tokenizer().save_pretrained(folder / "model")
    return folder / "model"


def far(got: np.ndarray, wanted: np.ndarray) -> float:
    """Return the root mean square of a difference over that of what was wanted; nan if any is."""
    error: float = np.sqrt(np.square(got - wanted).mean() / np.square(wanted).mean())
    return float(error)


# Reading


def reads_whole(case: Case) -> None:
    """Texts of several lengths, padded to share a pass, hold what each holds alone."""
    from trace_probe.model.capture import Reading

    texts = [case.ids(0), case.ids(1, case.tokens * 2 // 3), case.ids(2, 5)]
    spans, at_once = [each_token(len(ids)) for ids in texts], Reading(pass_tokens=3 * case.tokens)
    together = case.model.replay(texts, spans, LAYERS, at_once)
    exact = case.exact.replay(texts, spans, LAYERS, at_once)
    alone = [case.model.replay([ids], [each_token(len(ids))], LAYERS, at_once)[0] for ids in texts]
    ours, theirs, wanted = (
        np.concatenate([one.values for one in held], axis=1) for held in (together, alone, exact)
    )
    assert far(ours, theirs) <= WITHIN[case.dtype]
    assert far(ours, wanted) <= case.of_float32


def reads_in_chunks(case: Case) -> None:
    """A text read in chunks holds what it holds when it is read at once."""
    from trace_probe.model.capture import Reading

    ids, whole = case.ids(), Reading(pass_tokens=CONTEXT)
    (pieces,) = case.model.replay([ids], [each_token(len(ids))], LAYERS, case.reading)
    (at_once,) = case.model.replay([ids], [each_token(len(ids))], LAYERS, whole)
    (exact,) = case.exact.replay([ids], [each_token(len(ids))], LAYERS, whole)
    assert far(pieces.values, at_once.values) <= WITHIN[case.dtype]
    assert far(pieces.values, exact.values) <= case.of_float32


def reads_twice(case: Case) -> None:
    """Without log-probabilities the second reading agrees as far as the package demands."""
    from trace_probe.model.fidelity import SHARE

    ids = case.ids()
    spans = [[Span(i, i + 10) for i in range(0, len(ids), 10)]]
    (found,) = case.model.checked_replay([ids], spans, LAYERS, case.reading)
    assert found.fidelity is not None
    assert found.fidelity.error <= SHARE[case.dtype]


def finds_likely(case: Case) -> None:
    """The likelihood of a text is what it is in float32."""
    from trace_probe.model.likelihood import surprise

    texts = [case.ids(0), case.ids(1, case.tokens // 2)]
    found, exact = (surprise(model, texts, [3, 4]) for model in (case.model, case.exact))
    assert np.abs(found - exact).max() <= NATS[case.dtype]


def steers(case: Case) -> None:
    """A push and an ablation change the stream by what they say, in chunks too."""
    from trace_probe.model.steering import Steering, steered

    ids, unit = case.ids(), np.eye(32)[3]
    (plain,) = case.model.replay([ids], [each_token(len(ids))], (1,), case.reading)
    size = float(np.linalg.norm(plain.values, axis=-1).mean())
    with steered(case.model, Steering(1, unit, strength=size, start=4)):
        (pushed,) = case.model.replay([ids], [each_token(len(ids))], (1,), case.reading)
    with steered(case.model, Steering(1, unit, "project-out", start=4)):
        (ablated,) = case.model.replay([ids], [each_token(len(ids))], (1,), case.reading)
    within = size * WITHIN[case.dtype]
    assert np.abs(pushed.values[0, 4:, 3] - plain.values[0, 4:, 3] - size).max() <= within
    assert np.abs(ablated.values[0, 4:, 3]).max() <= within
    assert np.array_equal(pushed.values[:, :4], plain.values[:, :4])


# Writing


def records(case: Case) -> None:
    """A batch with padding on the left is written, read again, found faithful and kept."""
    from trace_probe.recording.record import new_manifest, record
    from trace_probe.store import Store

    store = Store.create(
        case.folder / "run", new_manifest(case.model, Sampling(seed=1, max_new_tokens=NEW))
    )
    tasks = [case.task(0), Task("t-short", "c", "stop it .")]
    most = case.nats
    record(case.model, tasks, store, samples=2, progress=False, tolerance=most)
    for trace in (kept := list(Store(case.folder / "run").traces())):
        fidelity = store.vault.fidelity(trace.id)
        assert fidelity is not None
        assert fidelity.error <= most
        assert np.isfinite(store.activations(trace).values).all()
    assert len(kept) == 4


def records_through_transformer_lens(case: Case) -> None:
    """TransformerLens holds what the hooks hold, and what it writes is found faithful."""
    from trace_probe.model.bridge import ONLY_FLOAT32, bridged

    if case.family in ONLY_FLOAT32 and case.dtype != "float32":
        with pytest.raises(ModelError, match="use the backend hooks, or --dtype float32"):
            bridged(case.model)
        return
    lens, ids = bridged(case.model), case.ids()
    (ours,), (theirs,) = (
        model.replay([ids], [each_token(len(ids))], LAYERS, case.reading)
        for model in (case.model, lens)
    )
    assert far(theirs.values, ours.values) <= WITHIN[case.dtype]
    prompts = [case.ids(0), case.ids(1, 9)]
    written = lens.generate(prompts, [1, 2], Sampling(max_new_tokens=NEW))
    texts = [[*prompt, *one.ids] for prompt, one in zip(prompts, written, strict=True)]
    spans, noted = [each_token(len(text)) for text in texts], [one.logprobs for one in written]
    for one in lens.checked_replay(texts, spans, LAYERS, case.reading, noted):
        assert one.fidelity is not None
        assert one.fidelity.error <= NATS[case.dtype]


def recaptures(case: Case) -> None:
    """What is read again is what was recorded, and other layers are read too."""
    from trace_probe.recording.observe import recapture, recapture_manifest
    from trace_probe.recording.record import new_manifest, record
    from trace_probe.store import Store

    sampling = Sampling(seed=1, max_new_tokens=NEW)
    run = Store.create(case.folder / "run", new_manifest(case.model, sampling, layers=(1,)))
    record(case.model, [case.task()], run, samples=2, progress=False, tolerance=case.nats)
    for layers in ((1, 2), (0,)):  # compared with what was recorded, and with a second reading
        out = Store.create(
            case.folder / f"{len(layers)}", recapture_manifest(case.model, run, layers)
        )
        assert recapture(case.model, run, out, progress=False).read == 2


def observes(case: Case) -> None:
    """Another model's traces are read, and what was held is kept."""
    from trace_probe.recording.observe import observe, observer_manifest
    from trace_probe.recording.record import new_manifest, record
    from trace_probe.store import Store

    writer = model_of("qwen2", "float32")
    run = Store.create(
        case.folder / "run", new_manifest(writer, Sampling(max_new_tokens=NEW), layers=())
    )
    record(writer, [case.task()], run, samples=2, progress=False)
    out = Store.create(case.folder / "out", observer_manifest(case.model, run))
    assert observe(case.model, run, out, progress=False).read == 2
    for trace in run.traces():
        assert np.isfinite(out.activations(trace).values).all()


def watches(case: Case) -> None:
    """Live scores are those of the finished trace, within what its activations are."""
    from trace_probe.monitor.live import Monitor
    from trace_probe.monitor.scoring import as_if_written, read_scores

    saved = a_probe(case.model)
    prompt = case.model.render(case.task())
    readings = Monitor(case.model, saved).watch_ids(prompt, 3, Sampling(max_new_tokens=12))
    ended = [each for reading in readings for each in reading.ended]
    (written,) = case.model.generate([prompt], [3], Sampling(max_new_tokens=12))
    trace = as_if_written(case.model, case.task(), (*prompt, *written.ids), len(prompt), "it")
    ((bulk, _),) = read_scores(case.model, saved, [trace])
    (held,) = case.model.replay([trace.token_ids], [[Span(0, len(trace))]], (2,))
    scale = float(np.linalg.norm(held.values)) + 1
    live = {one.sentence: one.scores[0] for one in ended if one.scores}
    same = sum(np.isfinite(bulk)) == len(live)
    assert same or case.dtype != "float32"  # in half precision another token may be drawn
    for sentence, score in live.items():
        assert np.isfinite(score)
        assert not same or abs(bulk[sentence] - score) <= scale * case.of_float32


def scores(case: Case) -> None:
    """A text is scored as in float32."""
    from trace_probe.monitor.detector import as_detector
    from trace_probe.monitor.scoring import score_texts

    text = f" {case.task().prompt} ."
    found, exact = (
        next(score_texts(model, as_detector(a_probe(model)), [{"reasoning": text}])).sentences
        for model in (case.model, case.exact)
    )
    ours, theirs = ([s.score for s in each if s.score is not None] for each in (found, exact))
    assert ours
    scale = float(np.abs(theirs).max()) + 1
    assert np.abs(np.subtract(ours, theirs)).max() <= scale * 2 * case.of_float32


def serves(case: Case) -> None:
    """An answer comes over HTTP, its sentences scored."""
    from test_endpoint import up

    from trace_probe.serving.limits import Limits

    limits = Limits(tokens=48, body_bytes=1 << 20)
    messages: Any = [{"role": "user", "content": case.task().prompt}]
    with up(case.model, case.folder / "audit.jsonl", limits=limits) as server:
        answer = server.client().chat.completions.create(
            model=server.served.name, messages=messages, max_tokens=NEW, seed=1
        )
        assert answer.usage is not None
        assert 0 < answer.usage.completion_tokens <= NEW


def continues(case: Case) -> None:
    """Continuations of prefixes of two lengths are those of `generate`, up to rounding."""
    from trace_probe.model.continuation import Branch, continue_from

    first = tuple(case.ids())
    branches = [Branch(first, (1, 2), NEW), Branch(first[: len(first) // 2], (3,), NEW)]
    drawn = continue_from(case.model, branches, Sampling())
    prompts, seeds = [first, first, branches[1].prefix], [1, 2, 3]
    wanted = case.model.generate(prompts, seeds, Sampling(max_new_tokens=NEW))
    found = [one for own in drawn for one in own]
    same = sum(a.ids[0] == b.ids[0] for a, b in zip(found, wanted, strict=True))
    assert same >= (3 if case.dtype == "float32" else 2)


def intervenes(case: Case) -> None:
    """Alarmed traces go on under ablation and reflection, and their likelihood is known."""
    from acts import Acts, cause, traces

    from trace_probe.emergence.intervention import Alarm, Responses
    from trace_probe.emergence.readout import Trial
    from trace_probe.model.steering import Steering

    ablation = Steering(1, cause(case.model).vector, "project-out")
    responses = Responses(case.model, Trial(case.model, Acts()), ablation, "so let us wait .", 2)
    every = traces(case.model, 2)
    alarms = [Alarm(one, one.prompt_stop + 2) for one in every]
    for policy in ("go on", "ablate", "reflect"):
        readouts = responses.respond(policy, alarms)
        assert len(readouts) == 4
        assert all(one.surprise is not None and np.isfinite(one.surprise) for one in readouts)


def generates_on_guard(case: Case) -> None:
    """transformers' own `generate`, with padding on the left, is watched; under autocast too."""
    import torch

    from trace_probe.model.capture import padded
    from trace_probe.monitor.stopping import GenerateWatch

    network = case.model.blocks.network
    ids, mask = padded([case.ids(0), case.ids(1, 9)], "left")
    half = torch.autocast("cpu", torch.bfloat16) if case.dtype == "float32" else nullcontext()
    with half, GenerateWatch(network, word_tokenizer(), a_probe(case.model)) as watch:
        written = network.generate(ids, attention_mask=mask, max_new_tokens=NEW,
                                   stopping_criteria=[watch.criteria])  # fmt: skip
        assert all(map(len, watch.kept(written)))


def embeds(case: Case) -> None:
    """Sentences are embedded as in float32, whatever the precision of the encoder's file."""
    from trace_probe.model.embedder import Embedder

    embed = Embedder(str(folder_of(case.family, case.dtype, case.folder)))
    found = embed([case.task().prompt, "stop it ."])
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-3)


def records_with_workers(case: Case) -> None:
    """Workers of a Ray cluster load the model in the precision that they are told."""
    from trace_probe.execution.executor import RayExecutor
    from trace_probe.model.weights import Weights
    from trace_probe.recording.shares import Recording, record_shares
    from trace_probe.store import Store

    recording = Recording(
        weights=Weights(str(folder_of(case.family, case.dtype, case.folder)), dtype=case.dtype),
        run=str(case.folder / "shared"),
        tasks=(case.task(), Task("t-short", "c", "stop it .")),
        source="here",
        max_new_tokens=NEW,
    )
    assert record_shares(recording, RayExecutor(cool_down=0.1), progress=False).recorded == 2
    assert Store(recording.run).manifest.dtype == case.dtype


ROADS: tuple[Callable[[Case], None], ...] = (
    reads_whole, reads_in_chunks, reads_twice, finds_likely, steers, records,
    records_through_transformer_lens, recaptures, observes, watches, scores, serves, continues,
    intervenes, generates_on_guard, embeds, records_with_workers,
)  # fmt: skip
NO_LENGTH = {intervenes}
"""Roads whose tests make their own short prompts."""
NO_FAMILY = {embeds, records_with_workers}
"""Roads that load a model from a folder, and are the same for each family from there on."""
