"""Reads along while a model writes: a score for each token, alarms at the ends of sentences."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

from trace_probe.errors import TraceError
from trace_probe.model.blocks import RowTap
from trace_probe.model.local import Model
from trace_probe.model.tokenizer import MOST_UNKNOWN, ChatTokenizer
from trace_probe.monitor.calibrated import Decoding
from trace_probe.monitor.detector import Detector, as_detectors
from trace_probe.monitor.memory import layers_of
from trace_probe.monitor.recheck import check_reads
from trace_probe.monitor.scorer import FRESH, Carried, LiveScorer, Reading
from trace_probe.monitor.spans import GuardedSpan
from trace_probe.probing.probe import SavedProbe
from trace_probe.recording.plan import trace_seed
from trace_probe.text.channels import format_of, format_under
from trace_probe.trace import Sampling, Task

FEW_WORDS = 5
"""Unknown words that are named."""
EXAMPLE = (
    "You sort jars. The goal is 18 jars. There are 4 rounds. You do 4 a round. "
    "A second copy of you starts by the amber box."
)
"""A prompt in the words of the organism that comes with `probes/demo`."""


def check_readable(chat: ChatTokenizer, text: str, where: str) -> None:
    """Refuse a text of which a model does not know the tokens; `where` is what errors call it.

    The small organisms know a few hundred words. All others become one token, `<unk>`, and a
    probe that reads it gives a score all the same, often one that alarms.

    Raises:
        TraceError: more than `MOST_UNKNOWN` of its tokens are unknown to the model.
    """
    share = chat.unknown_share(text)
    if share <= MOST_UNKNOWN:
        return
    raise TraceError(
        f"{where}: {chat.name} does not know {share:.0%} of these tokens, so a score would mean "
        f"nothing. For English text, get a small English model with `trace-probe fetch smollm2`, "
        f"and use the probe probes/english of the project, or train one with `trace-probe demo "
        f"--organism organism:english-base --small`. A text that the small organism can read: "
        f'`trace-probe watch "{EXAMPLE}" probes/demo`'
    )


def unknown_words_note(words: Sequence[str]) -> str:
    """Return what to say of the words of a text that a model does not know; empty if it knows all.

    Example:
        >>> unknown_words_note(["disk", "delete"])
        'words that the model does not know, so that scores may mean nothing: disk, delete'
    """
    few = ", ".join(words[:FEW_WORDS]) + (", ..." if len(words) > FEW_WORDS else "")
    said = "words that the model does not know, so that scores may mean nothing"
    return f"{said}: {few}" if words else ""


READ_EVERY = 16
"""Tokens after which scores are computed within a sentence."""


class Followed:
    """An episode under watch: give it to each of its calls, one after another.

    A call that did not come to its end leaves it as it was, so that it may be made again.
    """

    def __init__(self) -> None:
        self.carried: Carried = FRESH
        self.written: tuple[int, ...] = ()
        """The token ids of the call that ended last."""
        self.under_way: list[int] = []
        """The token ids of the call that began last, as far as it has come."""
        self.ids: Mapping[str, str] = {}
        """By which ids others know the call that began last, for its span."""


class Monitor:
    """A model and the probes that read it while it writes.

    Example:
        >>> from trace_probe.model.local import load_model
        >>> from trace_probe.monitor.detector import load_detector
        >>> from trace_probe.tasks.sources import tasks_from
        >>> monitor = Monitor(load_model("organism:rl-s0"), load_detector("probes/demo"))
        >>> for token in monitor.watch(tasks_from("world:mine:1")[0], Sampling(max_new_tokens=16)):
        ...     alarmed = any(sentence.alarms for sentence in token.ended)
        >>> alarmed
        False
    """

    def __init__(
        self,
        model: Model,
        probes: SavedProbe | Detector | Sequence[SavedProbe | Detector],
        *,
        every: int = READ_EVERY,
    ) -> None:
        """Put probes, of one layer or of several, on a model.

        What they read leaves the device at the end of each sentence, where scores are computed,
        and every `every` tokens between. No alarm waits for that: it comes at a sentence's end.
        Several probes alarm each at its own rate: a trace alarms more often than with one.

        Raises:
            ProbeError: a probe was trained on another model, tokenizer or width.
        """
        self.detectors = as_detectors(probes)
        self.model = model
        self._every = every
        self._format = format_of(model.chat_template, model.name)
        for detector in self.detectors:
            check_reads(model, detector.saved.card)

    def uncalibrated(self, sampling: Sampling) -> list[str]:
        """Return the probes whose thresholds were calibrated under another decoding."""
        asked = Decoding.of(sampling)
        return [one.name for one in self.detectors if one.source.decoding not in (None, asked)]

    def watch(
        self, prompt: str | Task, sampling: Sampling | None = None, *, sample: int = 0
    ) -> Generator[Reading, None, None]:
        """Yield a reading for each token the model writes; close it to stop the model.

        It writes what `record` would for the same task, sampling and sample. The calls of an agent
        are watched by `watch_ids`.
        """
        task = Task("prompt", "prompt", prompt) if isinstance(prompt, str) else prompt
        chosen = sampling or Sampling()
        seed = trace_seed(chosen, task, sample)
        return self.watch_ids(self.model.render(task), seed, chosen)

    def watch_ids(
        self,
        prompt: Sequence[int],
        seed: int,
        sampling: Sampling,
        episode: Followed | None = None,
    ) -> Generator[Reading, None, None]:
        """Yield a reading for each token the model writes after these, drawn with `seed`.

        As a call of an `episode` it is scored as a part of the trace of all its calls.

        Raises:
            ModelError: prompt and new tokens exceed the model's context.
        """
        self.model.check_room(len(prompt), sampling)
        drawn = replace(sampling, seed=seed)
        span = GuardedSpan(self.model.name, self.detectors, drawn, len(prompt))
        return self._spanned(prompt, drawn, episode or Followed(), span)

    def _spanned(
        self, prompt: Sequence[int], sampling: Sampling, episode: Followed, span: GuardedSpan
    ) -> Generator[Reading, None, None]:
        with span, closing(self._watch(prompt, sampling, episode)) as readings:
            span.name(episode.ids)
            for reading in readings:
                span.read(reading)
                yield reading

    def _watch(
        self, prompt: Sequence[int], sampling: Sampling, episode: Followed
    ) -> Generator[Reading, None, None]:
        text = self.model.text_stream()
        for token in prompt:
            text.feed(token)
        tap = RowTap(layers_of([detector.saved.card for detector in self.detectors]))
        format, prefilled = format_under(text.text, self._format)
        scorer = LiveScorer(
            self.detectors,
            format,
            prefilled=prefilled,
            take=lambda: tap.take()[0],
            every=self._every,
            carried=episode.carried if episode.carried.calls else Carried(start=len(prompt)),
        )
        written: list[int] = []
        episode.under_way = written
        with closing(
            self.model.tokens(prompt, sampling.seed, sampling, tap.layers, tap.consume)
        ) as tokens:
            next(tokens)  # the last token of the prompt, whose row the scorer takes with the others
            for token, _, last in tokens:
                piece = text.feed(token)
                written.append(token)
                if last:
                    piece = text.text[text.offsets[-1] :]  # nothing can complete it any more
                reading = scorer.read(piece, last=last)
                if last:
                    episode.carried, episode.written = scorer.carried, tuple(written)
                yield reading
