"""What is put on a model runner of vLLM: taps on its blocks, and what is done with their rows.

It stands around two calls of the runner (V1 of vLLM 0.32): the forward pass, after which the rows
of the pass are handed on with the requests that they are of, and the sampler, before which logits
may be changed. Neither is a part of what is compiled or captured in graphs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from trace_probe.engine.draws import Draws
from trace_probe.engine.plan import KEY, CapturePlan, EnginePlan, GuardPlan
from trace_probe.engine.rows import Part, Taps, TokenRows
from trace_probe.errors import ModelError


@dataclass(frozen=True, slots=True)
class Scheduled:
    """The tokens of one request in a pass."""

    request: str
    """What vLLM calls it."""
    row: int
    """Its place in the batch."""
    position: int
    """Of its first token in the pass."""
    start: int
    """Where in the pass that lies."""
    count: int


class Follower(Protocol):
    """What is done with the rows of each pass."""

    layers: tuple[int, ...]

    def passed(self, scheduled: list[Scheduled], rows: torch.Tensor, ids: torch.Tensor) -> None:
        """Take (layer, token, d_model) of a pass and the token ids that were read in it."""

    def before_sampling(self, logits: torch.Tensor) -> None:
        """Look at logits, (request, vocabulary)."""

    def after_sampling(self, tokens: torch.Tensor) -> Sequence[int]:
        """Change the tokens that were drawn, (request, 1), in place.

        Return the rows of which nobody is to see what the model itself would have written.
        """

    def ended(self, request: str, written: Sequence[int]) -> None:
        """Hear that a request has ended, however it did, and which tokens it wrote."""


class Asker(Follower, Protocol):
    """A guard that can be asked about what it watched."""

    def told(self, name: str) -> list[dict[str, Any]]:
        """Return what is known of the requests whose answer a client knows by a name."""

    def untold(self) -> list[dict[str, Any]]:
        """Return what is known of requests that are over and that nobody asks for."""


MakeGuard = Callable[[Any, GuardPlan], Asker]
"""Takes a model runner of vLLM, and what is to be guarded."""


def rows_at(rows: torch.Tensor, tokens: Sequence[int]) -> NDArray[np.float32]:
    """Return (token, layer, d_model) of some tokens of a pass: one transfer."""
    picked = rows.index_select(1, torch.tensor(tokens, device=rows.device))
    found: NDArray[np.float32] = picked.transpose(0, 1).contiguous().cpu().numpy()
    return found


class Attached:
    """Taps on the model of a runner, and those who follow its passes."""

    def __init__(
        self,
        runner: Any,  # noqa: ANN401 - of vLLM
        plan: EnginePlan,
        make_guard: MakeGuard,
    ) -> None:
        """Put the taps on.

        Raises:
            ModelError: the engine is run in a way in which rows cannot be followed.
        """
        check_supported(runner.vllm_config)
        self._runner = runner
        config = runner.model_config.hf_text_config
        self.capture: Capture | None = None
        self.guard: Asker | None = None
        followers: list[Follower] = []
        if plan.capture is not None:
            self.capture = Capture(runner, plan.capture, config.hidden_size)
            followers.append(self.capture)
        if plan.guard is not None:
            self.guard = make_guard(runner, plan.guard)
            followers.append(self.guard)
        layers = sorted({layer for one in followers for layer in one.layers})
        wrong = [layer for layer in layers if not 0 <= layer < config.num_hidden_layers]
        if wrong:
            raise ModelError(
                f"no layer {wrong[0]}: the model has blocks 0-{config.num_hidden_layers - 1}"
            )
        self.taps = taps = Taps(runner.get_model(), config.num_hidden_layers, layers)
        if self.guard is not None and set(self.guard.layers) - set(taps.layers):
            raise ModelError(
                "a guard needs all of its layers in one worker: serve without pipeline parallelism"
            )
        self.taps.open(_most_tokens(runner), config.hidden_size, runner.device)
        self._followers = [(one, self._places(one.layers)) for one in followers]
        self._stand_around(runner)

    def _places(self, layers: tuple[int, ...]) -> torch.Tensor | None:
        """Return where the layers of a follower lie among those tapped; None if they are all."""
        here = [place for place, layer in enumerate(self.taps.layers) if layer in layers]
        return None if len(here) == len(self.taps.layers) else torch.tensor(here)

    def _stand_around(self, runner: Any) -> None:  # noqa: ANN401 - of vLLM
        forward, removed = runner._model_forward, runner._on_request_state_removed

        def model_forward(*given: Any, **named: Any) -> Any:  # noqa: ANN401
            output = forward(*given, **named)
            ids = named.get("input_ids")
            self._passed(given[0] if ids is None and given else ids)
            return output

        def request_removed(request: str, state: Any) -> None:  # noqa: ANN401
            for follower, _ in self._followers:
                follower.ended(request, state.output_token_ids if state else ())
            removed(request, state)

        runner._model_forward = model_forward
        runner._on_request_state_removed = request_removed
        runner.sampler.register_forward_pre_hook(self._before_sampling, with_kwargs=True)
        runner.sampler.register_forward_hook(self._after_sampling)

    def _passed(self, ids: Any) -> None:  # noqa: ANN401 - a tensor, or what vLLM gives
        scheduled = list(self._scheduled())
        if not scheduled:
            return  # a rehearsal of vLLM's own
        rows = self.taps.rows[:, : scheduled[-1].start + scheduled[-1].count]
        for follower, places in self._followers:
            own = rows if places is None else rows[places.to(rows.device)]
            follower.passed(scheduled, own, ids)

    def _scheduled(self) -> Iterator[Scheduled]:
        """Yield the requests of the pass that has just been made."""
        batch = self._runner.input_batch
        count = batch.num_reqs
        starts = self._runner.query_start_loc.np[: count + 1].tolist()
        positions = batch.num_computed_tokens_cpu[:count].tolist()
        for row, request in enumerate(batch.req_ids[:count]):
            start, stop = starts[row], starts[row + 1]
            yield Scheduled(request, row, positions[row], start, stop - start)

    def _before_sampling(
        self, _sampler: object, given: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        logits = named.get("logits", given[0] if given else None)
        if logits is not None and self._runner.input_batch.num_reqs == len(logits):
            for follower, _ in self._followers:
                follower.before_sampling(logits)

    def _after_sampling(self, _sampler: object, _given: object, output: Any) -> None:  # noqa: ANN401
        tokens, noted = output.sampled_token_ids, output.logprobs_tensors
        if self._runner.input_batch.num_reqs != len(tokens):
            return
        drawn = None if noted is None else tokens.clone()
        hidden = [row for one, _ in self._followers for row in one.after_sampling(tokens)]
        if drawn is not None:
            # The model may have drawn the very token that was put in the place of its own.
            changed = (tokens != drawn).any(1)
            changed[hidden] = True
            _make_certain(noted, tokens, changed)


def _make_certain(noted: Any, tokens: torch.Tensor, rows: torch.Tensor) -> None:  # noqa: ANN401
    """Let nothing but the token be seen in the log-probabilities of some rows.

    vLLM looks the token up among those that it has noted. The others are what the model would have
    written, so each column gets the token too.
    """
    noted.logprob_token_ids[rows] = tokens[rows, :1].to(noted.logprob_token_ids.dtype)
    noted.logprobs[rows] = 0.0
    noted.selected_token_ranks[rows] = 1


class Capture:
    """Keeps the rows of the requests that ask for it, and draws their tokens."""

    def __init__(self, runner: Any, plan: CapturePlan, width: int) -> None:  # noqa: ANN401
        self.layers = plan.layers
        self._runner = runner
        self._width, self._room = width, plan.room
        self._rows: TokenRows | None = None
        self.draws = Draws()
        self._drawn: list[tuple[torch.Tensor, torch.Tensor]] = []

    @property
    def rows(self) -> TokenRows:
        """Return the rows of the layers that this worker has."""
        if self._rows is None:
            here = tuple(n for n in self._runner.trace_probe.taps.layers if n in self.layers)
            self._rows = TokenRows(here, self._width, self._runner.device, self._room)
        return self._rows

    def passed(self, scheduled: list[Scheduled], rows: torch.Tensor, ids: torch.Tensor) -> None:
        """Keep the rows of a pass."""
        del ids
        parts = [
            Part(str(asked["key"]), one.position, one.start, one.count)
            for one in scheduled
            if (asked := asked_of(self._runner, one.request)) is not None
        ]
        if self.layers and parts:
            self.rows.put(parts, rows)

    def before_sampling(self, logits: torch.Tensor) -> None:
        """Draw the tokens of the requests that ask for it."""
        batch, requests = self._runner.input_batch, self._runner.requests
        asked = [
            (row, len(requests[request].output_token_ids), wanted)
            for row, request in enumerate(batch.req_ids[: batch.num_reqs])
            if (wanted := asked_of(self._runner, request)) is not None
        ]
        self._drawn = self.draws.draw(asked, logits) if asked else []

    def after_sampling(self, tokens: torch.Tensor) -> Sequence[int]:
        """Put the tokens that were drawn in the place of vLLM's own."""
        for rows, drawn in self._drawn:
            tokens[rows] = drawn.to(tokens.dtype)
        return ()

    def ended(self, request: str, written: Sequence[int]) -> None:
        """Do nothing: the rows stay until they are asked for."""


def asked_of(runner: Any, request: str) -> dict[str, Any] | None:  # noqa: ANN401 - of vLLM
    """Return what a request asks to have captured, None if nothing."""
    parameters = runner.requests[request].sampling_params
    asked = ((parameters and parameters.extra_args) or {}).get(KEY)
    return asked if isinstance(asked, dict) else None


def first_rank() -> bool:
    """Return whether this worker is the first of those that hold the same rows."""
    from vllm.distributed.parallel_state import get_tp_group

    return bool(get_tp_group().rank_in_group == 0)


def _most_tokens(runner: Any) -> int:  # noqa: ANN401 - of vLLM
    """Return how many tokens a pass may have, padding included."""
    config = runner.vllm_config
    sizes = config.compilation_config.cudagraph_capture_sizes or [0]
    most = (config.scheduler_config.max_num_batched_tokens, runner.max_num_tokens, *sizes)
    return int(max(most)) + 64


def check_supported(config: Any) -> None:  # noqa: ANN401 - a VllmConfig
    """Refuse what rows cannot be followed through.

    Raises:
        ModelError: with what to change.
    """
    parallel = config.parallel_config
    refused = {
        "speculative decoding": config.speculative_config is not None,
        "adapters that are loaded at run time (LoRA)": config.lora_config is not None,
        "prompts that are given as embeddings": config.model_config.enable_prompt_embeds,
        "data parallelism": parallel.data_parallel_size > 1,
        "microbatches (dual batch overlap)": bool(getattr(parallel, "enable_dbo", False)),
        "context parallelism": max(
            getattr(parallel, "decode_context_parallel_size", 1),
            getattr(parallel, "prefill_context_parallel_size", 1),
        )
        > 1,
    }
    found = [what for what, is_so in refused.items() if is_so]
    if found:
        raise ModelError(
            f"trace_probe cannot follow the rows of requests through {found[0]} in vLLM: turn it "
            f"off"
        )
