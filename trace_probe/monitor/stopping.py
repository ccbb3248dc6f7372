"""Probes that watch a call of transformers' own `generate`: a criterion and a streamer.

    with GenerateWatch(network, tokenizer, probes) as watch:
        written = network.generate(**batch, stopping_criteria=[watch.criteria])
    texts = [tokenizer.decode(row) for row in watch.kept(written)]

A token's score is known once the model has read it, one step after it was drawn; so an alarm
comes at least one token after the sentence that raises it, and a row's last token of all,
which `generate` never reads, has no score. Rows are cut at their own alarm by `kept`.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from trace_probe.errors import ProbeError
from trace_probe.model.blocks import HookedBlocks, RowTap
from trace_probe.model.local import stop_tokens
from trace_probe.model.tokenizer import ChatTokenizer
from trace_probe.monitor.detector import Detector, as_detectors
from trace_probe.monitor.memory import layers_of
from trace_probe.monitor.scorer import Reading, ScoredSentence
from trace_probe.monitor.watched import WatchedText
from trace_probe.probing.probe import SavedProbe
from trace_probe.text.channels import format_of


class _Row(WatchedText):
    """One row of the batch while it is written."""

    alarmed = False
    stop: int | None = None
    """Tokens to keep, once the row has alarmed or ended."""
    tokens: tuple[int, ...] = ()


class GenerateWatch:
    """Watches one call of `generate`; use as ``with``, once.

    Example:
        >>> import transformers
        >>> from trace_probe.model.checkpoint import organism_path
        >>> from trace_probe.probing.probe import load_probe
        >>> folder = organism_path("rl-s0")
        >>> network = transformers.AutoModelForCausalLM.from_pretrained(folder)
        >>> tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        >>> ids = tokenizer("the boxes are short .", return_tensors="pt").input_ids
        >>> with GenerateWatch(network, tokenizer, load_probe("probes/demo")) as watch:
        ...     written = network.generate(
        ...         ids, max_new_tokens=8, do_sample=False, stopping_criteria=[watch.criteria]
        ...     )
        >>> watch.alarms, len(watch.kept(written))
        ([False], 1)
    """

    def __init__(
        self,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        probes: SavedProbe | Detector | Sequence[SavedProbe | Detector],
        *,
        stop: bool = True,
        every: int = 8,
    ) -> None:
        """Put probes on a network; rows stop at their first alarm unless `stop` is false.

        Tokens are looked at in groups of `every`: a row may run on for so many, which `kept`
        cuts off again. The model's name is not known here, so it is not checked.

        Raises:
            ProbeError: a probe is of another tokenizer, width or depth.
            ModelError: the blocks of the network cannot be found, or there is no chat template.
        """
        self.detectors = as_detectors(probes)
        self._chat = ChatTokenizer(tokenizer, network.name_or_path or "this model")
        _check(network, self._chat, self.detectors)
        self._format = format_of(self._chat.chat_template, self._chat.name)
        self._tap = RowTap(layers_of([detector.saved.card for detector in self.detectors]))
        blocks = HookedBlocks(network, self._chat.name)
        self._hooks = blocks.tapped(self._tap.layers, self._tap.consume)
        self._stops = stop_tokens(network, tokenizer)
        self._stop, self._every = stop, every
        self._rows: list[_Row] = []
        self.prompt = 0
        """Length of the padded prompts in tokens."""
        self._stopped: torch.Tensor | None = None
        self.criteria = AlarmCriteria(self)

    def __enter__(self) -> "GenerateWatch":
        """Put the hooks on."""
        self._hooks.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the hooks off."""
        self._hooks.__exit__(None, None, None)

    @property
    def alarms(self) -> list[bool]:
        """Return for each row whether a probe has alarmed."""
        return [row.alarmed for row in self._rows]

    @property
    def sentences(self) -> list[list[ScoredSentence]]:
        """Return for each row the sentences that have ended and were judged."""
        return [row.sentences for row in self._rows]

    def streamer(self, on_reading: Callable[[Reading], None]) -> "ReadingStreamer":
        """Return a streamer for a single row that hands on each reading as it comes."""
        return ReadingStreamer(self, on_reading)

    def kept(self, written: torch.Tensor) -> list[list[int]]:
        """Return the new tokens of each row up to its own alarm or end of turn.

        `written` is what `generate` returned. A row that has finished goes on emitting tokens
        until all rows have, where the model has no end-of-turn token to pad it with.
        """
        rows = written[:, self.prompt :].tolist()
        self.advance(
            [row[len(known.tokens) :] for row, known in zip(rows, self._rows, strict=True)]
        )
        return [row[: known.stop] for row, known in zip(rows, self._rows, strict=True)]

    def begin(self, prompts: list[list[int]]) -> bool:
        """Start the rows of a batch, each with the tokens of its prompt, padded or not.

        Return whether they were not there before.
        """
        if self._rows:
            return False
        self.prompt = len(prompts[0])
        given = self.detectors, self._chat, self._format
        self._rows += [_Row(*given, prompt, every=self._every) for prompt in prompts]
        return True

    def advance(self, new: Sequence[Sequence[int]]) -> list[list[Reading]]:
        """Take the new tokens of each row; return the readings of those the model has read.

        Raises:
            ProbeError: the forward passes are not one a token.
        """
        if not new[0]:
            return [[] for _ in new]
        read = self._tap.take()
        count, passes = read.shape[:2]
        if passes not in (len(new[0]), len(new[0]) - 1) or count != len(new):
            raise ProbeError(
                f"{len(new[0])} tokens of {len(new)} rows came with {passes} forward passes of "
                f"{count}: beams, assisted decoding and a watch that is used twice cannot be "
                f"followed"
            )
        return [self._read(*each) for each in zip(self._rows, read, new, strict=True)]

    def _read(self, row: _Row, rows: NDArray[np.float32], tokens: Sequence[int]) -> list[Reading]:
        """Send the tokens of a row that the model has read through its scorer."""
        row.tokens += tuple(tokens)
        found = (self._step(row, held) for held in rows)
        return [reading for reading in found if reading is not None]

    def _step(self, row: _Row, held: NDArray[np.float32]) -> Reading | None:
        if row.stop is not None:
            return None
        token = row.tokens[max(row.read, 0)]
        ended = token in self._stops
        reading = row.follow(held, token, last=ended)
        if reading is None:
            return None
        if ended:
            row.stop = row.read
        if reading.alarm and not row.alarmed:
            row.alarmed = True
            alarming = next((s for s in reading.ended if s.alarms), None)
            stop = alarming.stop if alarming else row.read  # else it became unreadable
            row.stop = stop if self._stop else row.stop
        return reading

    def stopped(self, ids: torch.Tensor) -> torch.Tensor:
        """Return (row,), whether to stop; the ids are read off the device every few tokens.

        `ids` (row, token) are those of prompts and new tokens.

        Raises:
            ProbeError: they are of another call of `generate`, or cannot be followed.
        """
        if not self._rows:
            self.begin(ids[:, :-1].tolist())
        if self._stopped is None:
            self._stopped = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        new = ids[:, self.prompt + len(self._rows[0].tokens) :]
        if not new.shape[1]:
            raise ProbeError("a watch follows one call of generate: make another for the next")
        if new.shape[1] >= self._every:
            self.advance(new.tolist())
            alarmed = [self._stop and row.alarmed for row in self._rows]
            self._stopped = torch.tensor(alarmed, device=ids.device)
        return self._stopped


class AlarmCriteria(StoppingCriteria):  # type: ignore[misc]
    """Stops each row of a batch at its own alarm."""

    def __init__(self, watch: GenerateWatch) -> None:
        self._watch = watch

    def __call__(self, input_ids: torch.Tensor, _scores: torch.Tensor, **_: object) -> torch.Tensor:
        """Return (row,), whether to stop."""
        return self._watch.stopped(input_ids)


class ReadingStreamer(BaseStreamer):  # type: ignore[misc]
    """Hands on a reading for each token that the model has read, one step after it was drawn."""

    def __init__(self, watch: GenerateWatch, on_reading: Callable[[Reading], None]) -> None:
        self._watch = watch
        self._on_reading = on_reading

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, then each token.

        Raises:
            ProbeError: there is more than one row.
        """
        rows = value.reshape(-1, value.shape[-1]) if value.dim() > 1 else value[None]
        if len(rows) != 1:
            raise ProbeError("a streamer follows one row: use the criterion for a batch")
        if not self._watch.begin(rows.tolist()):
            for reading in self._watch.advance(rows.tolist())[0]:
                self._on_reading(reading)

    def end(self) -> None:
        """Do nothing: what was not read has no score."""


def _check(network: PreTrainedModel, chat: ChatTokenizer, detectors: Sequence[Detector]) -> None:
    """Raise ProbeError unless every probe can read this network."""
    config = network.config.get_text_config()
    for card in (detector.saved.card for detector in detectors):
        if (card.d_model, card.tokenizer) != (config.hidden_size, chat.fingerprint):
            raise ProbeError(
                f"probe {card.name} reads {card.model}, of width {card.d_model} and another "
                f"tokenizer than this model of width {config.hidden_size}"
            )
        if card.layer >= config.num_hidden_layers:
            raise ProbeError(
                f"probe {card.name} reads layer {card.layer}, beyond the "
                f"{config.num_hidden_layers} blocks of this model"
            )
