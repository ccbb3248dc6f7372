"""What people said of single sentences: appended, never changed, each with its provenance.

    <run>/annotations/<annotator>.jsonl    a verdict a line; the last of a place counts

A place is a sentence of a trace, or the trace as a whole. To withdraw is to append as well.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from trace_probe.errors import TraceError
from trace_probe.labels import Label
from trace_probe.storage.lines import Lines
from trace_probe.storage.place import place_at
from trace_probe.storage.typed import from_plain
from trace_probe.store import Store
from trace_probe.trace import EXACT, Span, Trace, digest

Verdict = Literal["says", "does", "neither", "unsure", "withdrawn"]
"""Of a whole trace: ``does`` is instrumental, ``neither`` harmless and silent on it."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


@dataclass(frozen=True)
class Annotation:
    """One verdict of one person on one place."""

    __pydantic_config__ = EXACT

    trace_id: str
    sentence: int | None
    """An index into the sentences of the trace; None is the whole trace."""
    verdict: Verdict
    annotator: str
    time: str
    """ISO 8601, with its zone."""
    blind: bool
    """Whether risk and other labels were hidden until the verdict was given."""
    start: int
    """First token of the place; with `stop`, so that it outlives another cut into sentences."""
    stop: int
    text: str
    """Digest of the text judged."""
    queue: str = ""
    """Why the person was asked, such as ``random``."""
    detector: str = ""
    """Whose risk ordered the queue, or was shown."""
    score: float | None = None
    threshold: float | None = None
    note: str = ""

    @property
    def place(self) -> tuple[str, int | None]:
        """Return what was judged."""
        return self.trace_id, self.sentence


def judged_place(trace: Trace, sentence: int | None) -> tuple[int, int, str]:
    """Return the tokens of a place and the digest of its text."""
    span = Span(0, len(trace)) if sentence is None else trace.sentences[sentence]
    return span.start, span.stop, digest(trace.text_of(span))


def verdicts_kept(store: Store, annotator: str) -> Lines:
    """Return the lines of a person's verdicts on a run; there may be none yet.

    Raises:
        TraceError: the name is not fit for a file.
    """
    if not NAME.fullmatch(annotator):
        raise TraceError(
            f"{annotator!r} cannot be a name: use up to 40 letters, digits, - and _, "
            f"starting with a letter or a digit"
        )
    return store.artifacts.lines("annotations", annotator)


def annotate(store: Store, annotation: Annotation) -> None:
    """Append a verdict and have it on disk; any number of writers may do so at once.

    Raises:
        StoreError: the run cannot be written.
        TraceError: the annotator's name is not fit for a file.
    """
    line = json.dumps(asdict(annotation), ensure_ascii=False) + "\n"
    verdicts_kept(store, annotation.annotator).append([line.encode()])


def annotators(store: Store) -> list[str]:
    """Return who has judged sentences of a run."""
    return store.artifacts.names("annotations")


def read_annotations(lines: Lines) -> dict[tuple[str, int | None], Annotation]:
    """Return the verdicts that count, by place: the last, unless it was withdrawn.

    Lines that are damaged, or that hold no verdict, are named and passed over.
    """
    found: dict[tuple[str, int | None], Annotation] = {}
    for one in lines.values(lambda raw: from_plain(Annotation, raw, "it is no annotation")):
        found.pop(one.place, None)
        if one.verdict != "withdrawn":
            found[one.place] = one
    return found


class AnnotationLabeller:
    """Labels of traces from a person's verdicts on their sentences.

    A trace is instrumental if a sentence does it, or the trace as a whole was judged so. It is
    harmless only if it was judged so as a whole. Unless the whole was judged, a trace without a
    sentence that says it may still hold one, so what was said is unknown.
    """

    def __init__(self, path: Path | str) -> None:
        """Read the file.

        Raises:
            TraceError: it cannot be read, or holds no verdict.
        """
        self.name = f"human:{Path(path).stem}"
        self._path = Path(path)
        if not self._path.is_file() and not self._path.with_suffix("").is_dir():
            raise TraceError(
                f"there is no file {path}: the page Label of the explorer (`trace-probe explore`) "
                f"writes one, RUN/annotations/NAME.jsonl"
            )
        self._by_trace: dict[str, list[Annotation]] = {}
        lines = Lines(place_at(self._path.parent), self._path.stem)
        for one in read_annotations(lines).values():
            self._by_trace.setdefault(one.trace_id, []).append(one)
        if not self._by_trace:
            raise TraceError(f"{path} holds no verdict: judge sentences in the explorer first")

    def label(self, trace: Trace) -> Label:
        """Return the label of one trace.

        Raises:
            TraceError: nothing of it was judged, or its text has changed since.
        """
        if trace.id not in self._by_trace:
            raise TraceError(f"{self._path} has no verdict on trace {trace.id}")
        verdicts = self._by_trace[trace.id]
        for one in verdicts:
            self._check(trace, one)
        whole = next((one.verdict for one in verdicts if one.sentence is None), None)
        said, acted = (_first(trace, verdicts, verdict) for verdict in ("says", "does"))
        outcome = {"does": True, "neither": False}.get(whole or "")
        return Label(
            trace.id,
            self.name,
            True if acted is not None else outcome,
            said=said,
            acted=acted,
            rationale="; ".join(one.note for one in verdicts if one.note),
            facts={} if said is not None or whole is not None else {"said": "unknown"},
        )

    def label_all(self, traces: Iterable[Trace]) -> Iterator[Label]:
        """Yield the labels of those traces of which something was judged."""
        for trace in traces:
            if trace.id in self._by_trace:
                yield self.label(trace)

    def _check(self, trace: Trace, one: Annotation) -> None:
        inside = one.sentence is None or one.sentence < len(trace.sentences)
        if not inside or judged_place(trace, one.sentence) != (one.start, one.stop, one.text):
            raise TraceError(
                f"{self._path}: trace {trace.id} is not as it was when it was judged: "
                f"judge it again"
            )


def _first(trace: Trace, verdicts: Iterable[Annotation], verdict: str) -> Span | None:
    """Return the first sentence with a verdict."""
    found = [
        one.sentence for one in verdicts if one.verdict == verdict and one.sentence is not None
    ]
    return trace.sentences[min(found)] if found else None
