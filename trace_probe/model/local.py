"""The only module that knows torch and transformers: ids and NumPy arrays go in and out."""

import copy
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    Cache,
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trace_probe.activations import Activations
from trace_probe.errors import ModelError
from trace_probe.model.adapters import add_adapter, find_adapter
from trace_probe.model.blocks import Blocks, HookedBlocks, Tap, input_device
from trace_probe.model.capture import Reading, padded, replay
from trace_probe.model.checkpoint import identify, locate
from trace_probe.model.drawing import NotedDraws, check_logits, draws
from trace_probe.model.dtypes import choose_precision
from trace_probe.model.facts import ModelFacts
from trace_probe.model.fidelity import checked_replay
from trace_probe.model.loading import read_config, read_network, read_quantised, stop_ids
from trace_probe.model.naming import parse_name
from trace_probe.model.shapes import DTYPES
from trace_probe.model.threads import PROCESS
from trace_probe.model.tokenizer import ChatTokenizer, own_tokenizer
from trace_probe.trace import Sampling, Span


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt."""

    ids: tuple[int, ...]
    """The end-of-turn token included, if it was reached."""
    finish: Literal["stop", "length"]
    uncertainty: NDArray[np.float32] | None = field(default=None, compare=False)
    """(token, measure), how unsure the model was of each token, whatever the sampling; see
    `trace_probe.trace.MEASURES`. None where it was not noted."""

    @property
    def logprobs(self) -> tuple[float, ...]:
        """Return the log-probability of each token to the model; empty where it was not noted."""
        return () if self.uncertainty is None else tuple((-self.uncertainty[:, 0]).tolist())


@dataclass(frozen=True)
class StreamedToken:
    """One token of a generation with what the model held at it."""

    id: int
    position: int
    """Token index in the trace; the first one streamed is the last of the prompt."""
    activation: NDArray[np.float32]
    """(layer, d_model), the residual stream after each block that was asked for."""
    last: bool


class Model(ModelFacts):
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
        sizes = {"n_layers": config.num_hidden_layers, "d_model": config.hidden_size}
        context = getattr(config, "max_position_embeddings", None)
        super().__init__(chat, name, **sizes, context=context)
        self.dtype = str(network.dtype).removeprefix("torch.")
        self._network = network.eval().requires_grad_(False)
        self._device = input_device(network)
        self.blocks: Blocks = HookedBlocks(network, name)
        """Where activations are read and changed."""
        self._stops = stop_tokens(network, tokenizer)
        pad = tokenizer.pad_token_id
        self._pad_id = int(pad) if pad is not None else min(self._stops, default=0)
        # A hub model's own generation config (repetition penalty, top-k, ...) would change the
        # distribution that `Sampling` states, so none of it is kept.
        network.generation_config = GenerationConfig(
            eos_token_id=sorted(self._stops) or None, pad_token_id=self._pad_id, do_sample=False
        )

    @property
    def stops(self) -> frozenset[int]:
        """Return the tokens that end a turn."""
        return self._stops

    def through(self, blocks: Blocks) -> "Model":
        """Return this model with its passes run by the network of other blocks."""
        twin = copy.copy(self)
        twin.blocks, twin._network = blocks, blocks.network
        return twin

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
        ids, mask = padded(prompts, "left", self._pad_id)
        noted = NotedDraws(draws(sampling, seeds))
        written = self._network.generate(
            ids.to(self._device),
            attention_mask=mask.to(self._device),
            max_new_tokens=sampling.max_new_tokens,
            logits_processor=LogitsProcessorList([noted]),
        )
        rows = written[:, ids.shape[1] :].tolist()
        return list(map(self._completion, rows, noted.noted()))

    def _completion(self, ids: list[int], uncertainty: NDArray[np.float32]) -> Completion:
        """Cut a row after its first stop token; what follows is padding."""
        end = next((i for i, token in enumerate(ids) if token in self._stops), None)
        if end is None:
            return Completion(tuple(ids), "length", uncertainty)
        return Completion(tuple(ids[: end + 1]), "stop", uncertainty[: end + 1])

    def replay(
        self,
        token_ids: Sequence[Sequence[int]],
        spans: Sequence[Sequence[Span]],
        layers: Sequence[int],
        reading: Reading | None = None,
    ) -> list[Activations]:
        """Read recorded ids again; return for each trace a row for each of its spans.

        Raises:
            ModelError: a layer does not exist, or a span is empty or outside its trace.
        """
        self.check_layers(layers)
        return replay(self.blocks, token_ids, spans, layers, reading or Reading())

    def checked_replay(
        self,
        token_ids: Sequence[Sequence[int]],
        spans: Sequence[Sequence[Span]],
        layers: Sequence[int],
        reading: Reading | None = None,
        logprobs: Sequence[Sequence[float]] | None = None,
    ) -> list[Activations]:
        """Replay, and say for each trace how faithful that was: see `fidelity`.

        Raises:
            ModelError: a layer does not exist, or a span is empty or outside its trace.
        """
        self.check_layers(layers)
        how = reading or Reading()
        return checked_replay(self.blocks, token_ids, spans, layers, how, logprobs)

    def stream(
        self, prompt: Sequence[int], seed: int, sampling: Sampling, layers: Sequence[int]
    ) -> Generator[StreamedToken, None, None]:
        """Yield the last prompt token, then each token written, with its activations.

        A token is yielded once the model has read it, since only then is its activation known.
        The same prompt and seed give the tokens that `generate` gives.

        Raises:
            ModelError: a layer does not exist, or the context is too short.
        """
        self.check_layers(layers)
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
        consume: Tap,
    ) -> Generator[tuple[int, int, bool], None, None]:
        """Yield id, position and whether it is the last of each token that the model has read.

        As `stream`, but what the model holds stays where the model is: before each token is
        yielded, `consume` gets the residual stream after each of `layers`.

        What is set by `steered` or `Blocks.tapped` while this runs is seen from the next token
        on. A forward hook of another library's that is to change the stream has to be on a block
        before the first token is asked for: the hook that reads stays on for the generation,
        and of two hooks the older one comes first.

        Raises:
            ModelError: the context is too short.
        """
        self.check_room(len(prompt), sampling)
        processors = draws(sampling, [seed])
        cache = DynamicCache(config=self._network.config)
        ids, end = list(prompt), len(prompt) + sampling.max_new_tokens - 1
        with self.blocks.ready(layers):
            for position in range(len(prompt) - 1, end + 1):
                logits = self._step(ids, cache, layers, consume)
                last = position == end or (position >= len(prompt) and ids[-1] in self._stops)
                yield ids[-1], position, last
                if last:
                    return
                ids = [int(processors(None, logits).argmax())]

    # The mode and the taps end with each step: held across a `yield` they would leak into
    # whatever the consumer does between two tokens.
    @torch.inference_mode()
    def _step(
        self, ids: list[int], cache: Cache, layers: Sequence[int], consume: Tap
    ) -> torch.Tensor:
        """Read ids behind a cache; return the logits of the last one."""
        with self.blocks.tapped(layers, consume):
            read = torch.tensor([ids], device=self._device)
            output = self._network(read, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits: torch.Tensor = output.logits[:, -1].float()
        check_logits(logits)
        return logits


def load_model(
    name: str,
    *,
    device: str | None = None,
    device_map: str | Mapping[str, str | int] | None = None,
    dtype: str | None = None,
    revision: str | None = None,
) -> Model:
    """Load a model by its name: with an adapter, too; `trace_probe.model.naming` says how.

    `revision` is that of the base; an adapter of the hub has its own, in its name.
    The default `dtype` is bfloat16 on a GPU and float32 without one; ``auto`` times both on a CPU
    that is fast in bfloat16, see `choose_precision`. A `device_map` as accelerate has
    it (``auto``, ``balanced``, or module names to devices) spreads the blocks over devices.
    While a process has only tiny models it computes on one thread, unless OMP_NUM_THREADS or
    `torch.set_num_threads` says otherwise.

    Raises:
        ModelError: it cannot be found or loaded, or has no chat template.

    Example:
        >>> model = load_model("organism:rl-s0")  # tiny, comes with the package
        >>> model.n_layers, model.d_model
        (4, 128)
    """
    named = parse_name(name)
    place = locate(named.base)
    adapter = find_adapter(named.adapter, named.base) if named.adapter else None
    if device and device_map:
        raise ModelError("give either a device or a device map, not both")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    chosen = choose_precision(dtype, device, partial(read_config, named.base, place, revision))
    packed = read_quantised(named.base, place, revision)
    tokenizer = own_tokenizer(named.base, place, revision, adapter)
    network = read_network(
        named.base, place, revision=revision, dtype=DTYPES[chosen.dtype], device_map=device_map
    )
    PROCESS.make_room_for(network)
    as_it_is = packed is not None and not packed.unpack  # its own package has placed it
    placed = network if device_map or as_it_is else network.to(device)
    if adapter is not None:
        add_adapter(placed, adapter, merged=named.merged)
    identity = identify(named, place, revision, adapter)
    model = Model(placed, tokenizer, identity.name)
    model.base, model.merged = identity.base, named.merged
    model.dtype_chosen = "; ".join(filter(None, (chosen.why, packed.note if packed else "")))
    return model


def stop_tokens(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids that end a turn, for the model or for its chat template."""
    return stop_ids(network.generation_config.eos_token_id, tokenizer.eos_token_id)
