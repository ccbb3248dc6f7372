"""The only module that knows torch and transformers: ids and NumPy arrays go in and out."""

import contextlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Cache,
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from trace_probe.activations import Activations
from trace_probe.errors import ModelError
from trace_probe.model.checkpoint import commit, failure, fingerprint, locate
from trace_probe.model.tap import Consume, find_blocks, tapped
from trace_probe.model.tokenizer import ChatTokenizer
from trace_probe.text.stream import TextStream
from trace_probe.trace import Sampling, Span, Task

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt."""

    ids: tuple[int, ...]
    """The end-of-turn token included, if it was reached."""
    finish: Literal["stop", "length"]


@dataclass(frozen=True)
class StreamedToken:
    """One token of a generation with what the model held at it."""

    id: int
    position: int
    """Token index in the trace; the first one streamed is the last of the prompt."""
    activation: NDArray[np.float32]
    """(layer, d_model), the residual stream after each block that was asked for."""
    last: bool


class SeededDraw:
    """Logits processor that leaves one token a row, drawn with the row's own seed.

    One uniform a step goes through the inverse of the row's cumulative distribution, so what
    is drawn depends on prompt and seed, and not on which other rows share the batch.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._sources = [np.random.Generator(np.random.Philox(seed)) for seed in seeds]

    def __call__(self, _ids: torch.Tensor | None, scores: torch.Tensor) -> torch.Tensor:
        """Return scores of 0 for the drawn tokens and -inf for all others."""
        cumulative = scores.double().softmax(-1).cumsum(-1)
        uniform = cumulative.new_tensor([[source.random()] for source in self._sources])
        drawn = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


class Model:
    """A causal language model and its tokenizer, on a device."""

    def __init__(
        self, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str
    ) -> None:
        """Wrap a loaded transformers model; most callers want `load_model`.

        Raises:
            ModelError: the tokenizer has no chat template, or the blocks cannot be found.
        """
        chat = ChatTokenizer(tokenizer, name)
        config = network.config.get_text_config()
        self.name = name
        """With the revision, such as ``organism:rl-s0@3f2a91c0``."""
        self.n_layers: int = config.num_hidden_layers
        self.d_model: int = config.hidden_size
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        self.dtype = str(network.dtype).removeprefix("torch.")
        self.chat_template = chat.chat_template
        self.tokenizer = chat.fingerprint
        self._chat = chat
        self._network = network.eval().requires_grad_(False)
        self._base = network.get_decoder()
        self._blocks = find_blocks(network, name)
        self._stops = stop_tokens(network, tokenizer)
        pad = tokenizer.pad_token_id
        self._pad_id = int(pad) if pad is not None else min(self._stops, default=0)
        # A hub model's own generation config (repetition penalty, top-k, ...) would change the
        # distribution that `Sampling` states, so none of it is kept.
        network.generation_config = GenerationConfig(
            eos_token_id=sorted(self._stops) or None, pad_token_id=self._pad_id, do_sample=False
        )

    def render(self, task: Task) -> list[int]:
        """Return the token ids of a task's prompt, up to where the model starts to write.

        Raises:
            ModelError: the chat template refuses these messages.
        """
        return list(self._chat.encode(self._chat.prompt(task)))

    def render_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the token ids of a conversation, up to where the model starts to write.

        Raises:
            ModelError: the chat template refuses these messages.
        """
        return list(self._chat.encode(self._chat.conversation(messages)))

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text, special tokens only where it spells them."""
        return self._chat.encode(text)

    def text_stream(self) -> TextStream:
        """Return an empty text to which tokens can be fed."""
        return self._chat.text_stream()

    def offsets(self, ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        """Return the text of token ids, and the character at which each token starts."""
        return self._chat.offsets(ids)

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        """Complete prompts in one batch; each row is a function of its prompt and seed alone.

        That holds up to rounding: a batch of another shape rounds logits differently, and a
        draw that falls between the two roundings changes (rare in float32, not in bfloat16).

        Raises:
            ModelError: a prompt and `max_new_tokens` do not fit the model's context.
        """
        self.check_room(max(map(len, prompts)), sampling)
        ids, mask = self._padded(prompts, "left")
        written = self._network.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=sampling.max_new_tokens,
            logits_processor=_processors(sampling, seeds),
        )
        return [self._completion(row) for row in written[:, ids.shape[1] :].tolist()]

    def _completion(self, ids: list[int]) -> Completion:
        """Cut a row after its first stop token; what follows is padding."""
        end = next((i for i, token in enumerate(ids) if token in self._stops), None)
        if end is None:
            return Completion(tuple(ids), "length")
        return Completion(tuple(ids[: end + 1]), "stop")

    def replay(
        self,
        token_ids: Sequence[Sequence[int]],
        spans: Sequence[Sequence[Span]],
        layers: Sequence[int],
        *,
        batch_tokens: int = 8192,
    ) -> list[Activations]:
        """Read recorded ids again and return for each trace the mean over each of its spans.

        One pass of the base model, without the head and no deeper than the deepest layer.

        Raises:
            ModelError: a layer does not exist, or a span is empty or outside its trace.
        """
        self._check_layers(layers)
        for ids, wanted in zip(token_ids, spans, strict=True):
            if any(not len(span) or span.stop > len(ids) for span in wanted):
                raise ModelError(f"a span to pool is empty or ends after token {len(ids)}")
        results: dict[int, Activations] = {}
        for batch in _token_batches([len(ids) for ids in token_ids], batch_tokens):
            values = self._pooled([token_ids[i] for i in batch], [spans[i] for i in batch], layers)
            ends = np.cumsum([len(spans[i]) for i in batch])[:-1]
            for i, rows in zip(batch, np.split(values, ends, axis=1), strict=True):
                results[i] = Activations(rows, tuple(layers), tuple(spans[i]))
        return [results[i] for i in range(len(token_ids))]

    @torch.inference_mode()
    def _pooled(
        self,
        token_ids: Sequence[Sequence[int]],
        spans: Sequence[Sequence[Span]],
        layers: Sequence[int],
    ) -> NDArray[np.float32]:
        """Return (layer, row, d_model): the rows of all traces of one batch, one after another."""
        # With causal attention nothing real can see what stands to the right of it.
        ids, mask = self._padded(token_ids, "right")
        flat = [
            torch.arange(span.start, span.stop) + trace * ids.shape[1]
            for trace, wanted in enumerate(spans)
            for span in wanted
        ]
        counts = torch.tensor([len(tokens) for tokens in flat], device=ids.device)
        tokens = torch.cat(flat).to(ids.device)
        rows = torch.arange(len(flat), device=ids.device).repeat_interleave(counts)
        held: dict[int, torch.Tensor] = {}

        def pool(layer: int, hidden: torch.Tensor) -> None:
            where = hidden.device
            chosen = hidden.flatten(0, 1)[tokens.to(where)].float()
            sums = chosen.new_zeros(len(flat), self.d_model).index_add_(0, rows.to(where), chosen)
            held[layer] = (sums / counts.to(where)[:, None]).cpu()
            if layer == max(layers):
                raise _DeepEnough

        with tapped(self._blocks, layers, pool), contextlib.suppress(_DeepEnough):
            self._base(input_ids=ids, attention_mask=mask, use_cache=False)
        return torch.stack([held[layer] for layer in layers]).numpy()

    def stream(
        self, prompt: Sequence[int], seed: int, sampling: Sampling, layers: Sequence[int]
    ) -> Generator[StreamedToken, None, None]:
        """Yield the last prompt token, then each token written, with its activations.

        A token is yielded once the model has read it, since only then is its activation known.
        The same prompt and seed give the tokens that `generate` gives.

        Raises:
            ModelError: a layer does not exist, or the context is too short.
        """
        self._check_layers(layers)
        held: dict[int, torch.Tensor] = {}

        def keep(layer: int, hidden: torch.Tensor) -> None:
            held[layer] = hidden[0, -1].float().cpu()

        for token, position, last in self.tokens(prompt, seed, sampling, layers, keep):
            activation = torch.stack([held[layer] for layer in layers]).numpy()
            yield StreamedToken(token, position, activation, last)

    def tokens(
        self,
        prompt: Sequence[int],
        seed: int,
        sampling: Sampling,
        layers: Sequence[int],
        consume: Consume,
    ) -> Generator[tuple[int, int, bool], None, None]:
        """Yield id, position and whether it is the last of each token that the model has read.

        As `stream`, but what the model holds stays where the model is: before each token is
        yielded, `consume` gets the residual stream after each of `layers`.

        Raises:
            ModelError: the context is too short.
        """
        self.check_room(len(prompt), sampling)
        processors = _processors(sampling, [seed])
        cache = DynamicCache(config=self._network.config)
        ids, end = list(prompt), len(prompt) + sampling.max_new_tokens - 1
        for position in range(len(prompt) - 1, end + 1):
            logits = self._step(ids, cache, layers, consume)
            last = position == end or (position >= len(prompt) and ids[-1] in self._stops)
            yield ids[-1], position, last
            if last:
                return
            ids = [int(processors(None, logits).argmax())]

    # The mode and the hooks end with each step: held across a `yield` they would leak into
    # whatever the consumer does between two tokens.
    @torch.inference_mode()
    def _step(
        self, ids: list[int], cache: Cache, layers: Sequence[int], consume: Consume
    ) -> torch.Tensor:
        """Read ids behind a cache; return the logits of the last one."""
        with tapped(self._blocks, layers, consume):
            read = torch.tensor([ids], device=self._network.device)
            output = self._network(read, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    def _padded(
        self, rows: Sequence[Sequence[int]], side: Literal["left", "right"]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and attention mask, (row, token), padded to the longest row."""
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self._pad_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            where = slice(width - len(row), width) if side == "left" else slice(len(row))
            ids[i, where] = torch.tensor(row)
            mask[i, where] = 1
        return ids.to(self._network.device), mask.to(self._network.device)

    def _check_layers(self, layers: Sequence[int]) -> None:
        if not layers:
            raise ModelError("no layer was asked for")
        wrong = [layer for layer in layers if not 0 <= layer < self.n_layers]
        if wrong:
            raise ModelError(f"no layer {wrong[0]}: {self.name} has blocks 0-{self.n_layers - 1}")
        if len(set(layers)) < len(layers):
            raise ModelError(f"a layer was asked for twice: {list(layers)}")

    def check_room(self, prompt: int, sampling: Sampling) -> None:
        """Raise ModelError unless a prompt of so many tokens leaves room for the new ones."""
        if self.context is not None and prompt + sampling.max_new_tokens > self.context:
            raise ModelError(
                f"a prompt of {prompt} tokens and {sampling.max_new_tokens} new ones exceed the "
                f"{self.context} that {self.name} can read: lower max_new_tokens"
            )


class _DeepEnough(Exception):
    """Ends a forward pass after the deepest block that was asked for."""


def load_model(
    name: str, *, device: str | None = None, dtype: str | None = None, revision: str | None = None
) -> Model:
    """Load a folder, a hub id, or an organism of the family (``organism:<variant>``).

    The default is bfloat16 on a GPU and float32 without one.

    Raises:
        ModelError: it cannot be found or loaded, or has no chat template.
    """
    place = locate(name)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    if dtype not in DTYPES:
        raise ModelError(f"no dtype {dtype}: choose one of {', '.join(DTYPES)}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision)
        network, report = AutoModelForCausalLM.from_pretrained(
            place, revision=revision, dtype=DTYPES[dtype], output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(failure(name, place, error)) from error
    if report["missing_keys"]:
        raise ModelError(f"{name} lacks the weights {sorted(report['missing_keys'])[:3]}")
    version = fingerprint(place) if isinstance(place, Path) else commit(place, revision)
    shown = place.resolve().name if isinstance(place, Path) and ":" not in name else name
    return Model(network.to(device), tokenizer, f"{shown}@{version[:8]}")


def stop_tokens(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids that end a turn, for the model or for its chat template."""
    stops = network.generation_config.eos_token_id
    several = stops if isinstance(stops, list) else [stops]
    return frozenset(int(i) for i in (*several, tokenizer.eos_token_id) if i is not None)


def _processors(sampling: Sampling, seeds: Sequence[int]) -> LogitsProcessorList:
    """Return what turns logits into a draw; nothing for greedy decoding."""
    chain = LogitsProcessorList()
    if sampling.temperature == 0:
        return chain
    if sampling.temperature != 1:
        chain.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_p < 1:
        chain.append(TopPLogitsWarper(sampling.top_p))
    chain.append(SeededDraw(seeds))
    return chain


def _token_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield indices in batches of similar length that stay, padded, within a token budget."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[i] > budget:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
