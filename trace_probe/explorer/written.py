"""Text that somebody brings along, as a trace with scores: by a probe, or by its words alone."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import NotEnoughData, TraceError
from trace_probe.interop.transcripts import read_transcripts
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

Scores = NDArray[np.floating]


@dataclass(frozen=True)
class Scored:
    """One text as a trace, with what an alarm follows after each sentence."""

    trace: Trace
    scores: Scores
    label: Label | None = None
    outside: bool | None = None
    """Whether it lies outside the range that the threshold was calibrated on; None if unknown."""


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


def transcripts(content: bytes) -> Iterator[tuple[Trace, Label | None]]:
    """Yield the transcripts of a file's content, at most `MOST_TEXTS` of them.

    Raises:
        TraceError: a line cannot be read, or there are too many.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "upload.jsonl"
        file.write_bytes(content)
        for number, found in enumerate(read_transcripts(file)):
            if number >= MOST_TEXTS:
                raise TraceError(
                    f"more than {MOST_TEXTS} transcripts: import the file with "
                    f"`trace-probe import`, which makes a run of it"
                )
            yield found


def score_words(content: bytes, run: Store, labeller: str | None = None) -> list[Scored]:
    """Score transcripts by their words, as learned from the labelled traces of a run.

    Raises:
        NotEnoughData: the run has not both outcomes.
        TraceError: a transcript cannot be read.
    """
    learned = Corpus(tuple(run.traces()), run.labels(labeller))
    if not learned.known:
        raise NotEnoughData(f"{run.path} is not labelled, so there is nothing to learn from")
    brought = list(transcripts(content))
    read = Corpus(tuple(trace for trace, _ in brought), {})
    texts = read_texts(learned)
    rows = training_rows(texts, Recipe((0,)), "all")
    others = read_texts(read, vocabulary=texts.words.vocabulary)
    scores = fitted_scores(texts, rows, TextRecipe(C=TEXT_PENALTY), others)
    return [Scored(trace, scores[trace.id], label) for trace, label in brought]


def score_with_probe(content: bytes, model: "Model", detector: Detector) -> list[Scored]:
    """Score transcripts by a probe: the model reads each as if it had just written it.

    Raises:
        ProbeError: the probe is of another model.
        TraceError: a transcript cannot be read, or is longer than the model's context.
    """
    from trace_probe.monitor.scoring import read_scores

    traces = [as_written(trace, model) for trace, _ in transcripts(content)]
    return [
        Scored(trace, detector.follow(scores), outside=detector.outside(distances))
        for trace, (scores, distances) in zip(
            traces, read_scores(model, detector.saved, traces), strict=True
        )
    ]


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
    return read_as_written(model, task, prompt, text, f"transcript {foreign.id}")
