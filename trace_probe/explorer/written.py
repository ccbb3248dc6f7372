"""Text that somebody brings along, as a trace with scores: by a probe, or by its words alone."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import NotEnoughData, TraceError
from trace_probe.interop.left_out import LeftOut
from trace_probe.interop.transcripts import read_numbered
from trace_probe.labels import Label
from trace_probe.monitor.detector import Detector
from trace_probe.probing.corpus import Corpus
from trace_probe.probing.probe import Recipe
from trace_probe.probing.tfidf import TextRecipe, fitted_scores, read_texts, training_rows
from trace_probe.store import Store
from trace_probe.trace import Task, Trace

if TYPE_CHECKING:
    from trace_probe.model.local import Model

TEXT_DETECTOR = "words alone (TF-IDF)"
TEXT_PENALTY = 10.0
MOST_TEXTS = 200
NO_PROMPT = "(no prompt given)"
PASTED = "the text"
"""What errors call a text that came without a file."""

Scores = NDArray[np.floating]


@dataclass(frozen=True)
class Scored:
    """One text as a trace, with what an alarm follows after each sentence."""

    trace: Trace
    scores: Scores
    label: Label | None = None
    outside: bool | None = None
    """Whether it lies outside the range that the threshold was calibrated on; None if unknown."""
    unknown: tuple[str, ...] = ()
    """Words of it, and of its prompt, that the model does not know."""


@dataclass(frozen=True)
class Pasted:
    """What was pasted: a prompt, or `NO_PROMPT` in its place, and what a model wrote."""

    prompt: str
    reasoning: str
    answer: str

    def jsonl(self) -> bytes:
        """Return it as one line of a file of transcripts."""
        fields = {**vars(self), "prompt": self.prompt.strip() or NO_PROMPT}
        return json.dumps(fields, ensure_ascii=False).encode()


def transcripts(
    content: bytes, file: str = PASTED, aside: LeftOut | None = None
) -> Iterator[tuple[Trace, Label | None]]:
    """Yield the transcripts of a file's content, at most `MOST_TEXTS` of them.

    Errors call the file by its name, `file`. Lines that cannot be read go into `aside`, if that is
    given.

    Raises:
        TraceError: a line cannot be read, or no line of the file, or there are too many.
    """
    for _, trace, label in _numbered(content, file, aside):
        yield trace, label


def _numbered(
    content: bytes, file: str, aside: LeftOut | None
) -> Iterator[tuple[int, Trace, Label | None]]:
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "upload.jsonl"
        kept.write_bytes(content)
        read = read_numbered(kept, aside=aside, no_prompt=NO_PROMPT)
        try:
            for place, found in enumerate(read):
                if place >= MOST_TEXTS:
                    raise TraceError(
                        f"more than {MOST_TEXTS} transcripts: import the file with "
                        f"`trace-probe import`, which makes a run of it"
                    )
                yield found
        except TraceError as error:
            raise TraceError(str(error).replace(str(kept), file)) from error


def _check_some(found: Sequence[object], file: str, aside: LeftOut | None) -> None:
    """Refuse a file of which nothing can be scored."""
    if found:
        return
    for row in aside.rows if aside else ():
        raise TraceError(f"no line of {file} can be scored: {row.where}: {row.why}")
    raise TraceError(f"{file} holds no transcript: write one JSON object a line")


def score_words(
    content: bytes,
    run: Store,
    labeller: str | None = None,
    file: str = PASTED,
    aside: LeftOut | None = None,
) -> list[Scored]:
    """Score transcripts by their words, as learned from the labelled traces of a run.

    Raises:
        NotEnoughData: the run has not both outcomes.
        TraceError: a transcript cannot be read, or none where there is `aside` for them.
    """
    learned = Corpus(tuple(run.traces()), run.labels(labeller))
    if not learned.known:
        raise NotEnoughData(f"{run.path} is not labelled, so there is nothing to learn from")
    brought = list(transcripts(content, file, aside))
    _check_some(brought, file, aside)
    read = Corpus(tuple(trace for trace, _ in brought), {})
    texts = read_texts(learned)
    rows = training_rows(texts, Recipe((0,)), "all")
    others = read_texts(read, vocabulary=texts.words.vocabulary)
    scores = fitted_scores(texts, rows, TextRecipe(C=TEXT_PENALTY), others)
    return [Scored(trace, scores[trace.id], label) for trace, label in brought]


def score_with_probe(
    content: bytes,
    model: "Model",
    detector: Detector,
    file: str = PASTED,
    aside: LeftOut | None = None,
) -> list[Scored]:
    """Score transcripts by a probe: the model reads each as if it had just written it.

    Those that it cannot read go into `aside`, if that is given.

    Raises:
        ProbeError: the probe is of another model.
        TraceError: a transcript cannot be read, or is longer than the model's context; or none can
            be where there is `aside` for them.
    """
    from trace_probe.monitor.scoring import read_scores

    traces, unknown = [], []
    for number, foreign, _ in _numbered(content, file, aside):
        try:
            traces.append(as_written(foreign, model))
        except TraceError as error:
            if aside is None:
                raise
            aside.row(f"line {number}", str(error))
        else:
            unknown.append(unknown_words(foreign, model))
    _check_some(traces, file, aside)
    return [
        Scored(trace, detector.follow(scores), None, detector.outside(distances), words)
        for trace, words, (scores, distances) in zip(
            traces, unknown, read_scores(model, detector.saved, traces), strict=True
        )
    ]


def unknown_words(foreign: Trace, model: "Model") -> tuple[str, ...]:
    """Return the words of a transcript that a model does not know, each once, in order."""
    said = [span for span in foreign.spans if span.channel not in {"prompt", "markup"}]
    prompt = [text for text in (foreign.task.system, foreign.task.prompt) if text != NO_PROMPT]
    texts = [*filter(None, prompt), *map(foreign.text_of, said)]
    return model.chat.unknown_words("\n".join(texts))


def as_written(foreign: Trace, model: "Model") -> Trace:
    """Return a transcript as the trace that a model would have left, in its own tokens.

    A transcript does not tell which white space stood between thought and close tag, so the
    score of the last thought may differ from that of the model's own text.

    Raises:
        TraceError: it is longer than the model's context, or in words that it does not know.
    """
    from trace_probe.monitor.scoring import completion_of, read_as_written

    task = Task(foreign.task.id, foreign.task.category, foreign.task.prompt, foreign.task.system)
    prompt = model.render(task)
    act = (span for span in foreign.spans if span.channel in {"answer", "action"})
    answer = "".join(map(foreign.text_of, act)).strip()
    text = completion_of(model, prompt, foreign.channel_text("reasoning").strip(), answer)
    return read_as_written(model, task, prompt, text, "the text")
