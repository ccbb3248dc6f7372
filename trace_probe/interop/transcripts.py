"""Foreign transcripts, JSON lines in fields of any name, as traces and labels in a run.

A line is an object with a prompt and either reasoning and answer apart or one completion
with think tags. Tokens are words, cut at white space, and a trace's text is

    system ¶ prompt ¶ <think> reasoning </think> ¶ answer

with a blank line for each ¶, without the system part where there is none, and with the
completion as it stands where reasoning and answer come in one. Labels that come along are
kept, unreadable ones as unknown.
"""

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trace_probe.errors import TraceError
from trace_probe.interop.chats import FINISHES, Chat, chat_of, model_of
from trace_probe.interop.conversation import asked
from trace_probe.interop.episodes import trace_of
from trace_probe.interop.fields import DEFAULT_MAPPING, FieldMapping, Line, read_lines
from trace_probe.interop.left_out import LeftOut
from trace_probe.labels import Label
from trace_probe.store import Manifest, Store
from trace_probe.tasks.canonical import canonical
from trace_probe.tasks.sources import slug, task_id
from trace_probe.text.channels import Split, format_of, split
from trace_probe.text.parts import after_prompt, cut_words, join_parts
from trace_probe.trace import Sampling, Span, Task, Trace, digest

if TYPE_CHECKING:
    from trace_probe.model.tokenizer import ChatTokenizer

COUNTS = ("read", "added", "labelled", "unknown", "positives", "closed")
UNHEARD = {"said": "unknown"}
"""Facts of a label that comes without a word on what was said."""
_FINISH: dict[str, Literal["stop", "length"]] = {"stop": "stop", "length": "length"}
_POSITIVE = frozenset({"1", "1.0", "true", "yes", "convergence"})
_NEGATIVE = frozenset({"0", "0.0", "false", "no", "no_convergence"})


@dataclass(frozen=True)
class ImportReport:
    """What an import found in a file and changed in a run."""

    read: int
    added: int
    """Traces that were not in the run before."""
    labelled: int
    """Traces whose outcome is known."""
    unknown: int
    """Traces with a label that says neither yes nor no."""
    positives: int
    closed: int
    """Traces whose reasoning came to its end."""
    left_out: int = 0
    """Entries that could not be read; they are kept in the run, in ``left_out``."""
    formats: dict[str, int] = field(default_factory=dict, compare=False)
    """What the entries were taken for, such as ``{"OpenAI chat": 3}``."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What a user must be told, such as why entries were left out."""


def import_transcripts(
    path: Path | str,
    store_path: Path | str,
    mapping: FieldMapping = DEFAULT_MAPPING,
    tokenizer: "ChatTokenizer | None" = None,
) -> ImportReport:
    """Bring a file of transcripts into a run; repeated, it adds only what is missing.

    A line that cannot be read is left out: it is counted and kept in the run with the reason.
    With a tokenizer, chats are brought into its tokens; other transcripts stay in words.

    Raises:
        TraceError: no line can be read, or no line has a field that `mapping` names.
        StoreError: the run at `store_path` is another one.
    """
    models = _survey(Path(path), mapping)
    aside = LeftOut()
    found = read_transcripts(path, mapping, tokenizer, aside)
    first = next(found, None)
    if first is None:
        why = "".join(f" ({row.where}: {row.why})" for row in aside.rows[:1])
        raise TraceError(f"{path} holds no transcript{why}: write one JSON object a line")
    manifest = Manifest(
        model=", ".join(sorted(models)),
        source="imported",
        tokenizer=tokenizer.fingerprint if tokenizer else "words",
        version=version("trace-probe"),
        tasks="?".join(filter(None, (Path(path).name, str(mapping)))),
    )
    store = Store.create(store_path, manifest)
    return keep(chain([first], found), store, aside, Path(path).stem)


def keep(
    transcripts: Iterable[tuple[Trace, Label | None]],
    store: Store,
    aside: LeftOut | None = None,
    file: str = "",
) -> ImportReport:
    """Commit transcripts that a run does not hold yet, and labels that are new to it.

    What could not be read is in `aside` when the transcripts have come to their end.
    """
    counts: Counter[str] = Counter()
    formats: Counter[str] = Counter()
    with store.writing():
        known = {name: store.labels(name) for name in store.labellers()}
        present, labels = store.ids(), []
        for trace, label in transcripts:
            store.add(trace)
            counts.update(_tally(trace, label), added=trace.id not in present)
            formats[trace.facts.get("format", "transcript")] += 1
            present.add(trace.id)
            if label is not None and known.get(label.labeller, {}).get(trace.id) != label:
                labels.append(label)
        store.add_labels(labels)
        where = aside.keep(store, _file_name(file)) if aside else ""
    return ImportReport(
        **{name: int(counts[name]) for name in COUNTS},
        left_out=len(aside.rows) if aside else 0,
        formats=dict(formats),
        notes=aside.told(where) if aside else (),
    )


def _file_name(file: str) -> str:
    """Return a name that is safe in a path."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in file)
    return kept.strip("-")[:80] or "file"


def read_transcripts(
    path: Path | str,
    mapping: FieldMapping = DEFAULT_MAPPING,
    tokenizer: "ChatTokenizer | None" = None,
    aside: LeftOut | None = None,
) -> Iterator[tuple[Trace, Label | None]]:
    """Yield each transcript of a file as a trace, with its label if it has one.

    Ids are digests of content and of the transcript's own id; without one, equal
    transcripts count as further samples, so that none is lost. Lines that cannot be read go into
    `aside`, if that is given.

    Raises:
        TraceError: the file cannot be read, or, without `aside`, a line of it, which is named.
    """
    samples: Counter[str] = Counter()
    for number, line in read_lines(Path(path), mapping, aside):
        try:
            trace = _trace(line, samples, tokenizer)
            label = _label(line, trace)
        except TraceError as error:
            if aside is None:
                raise TraceError(f"{path}, line {number}: {error}") from error
            raw = json.dumps(line.record, ensure_ascii=False)
            aside.row(f"line {number}", str(error), raw)
            continue
        yield trace, label


def _survey(path: Path, mapping: FieldMapping) -> set[str]:
    """Return the models of a file.

    Raises:
        TraceError: a field that `mapping` names is in no line: it is misspelt.
    """
    present: set[str] = set()
    models: set[str] = set()
    for _, line in read_lines(path, mapping, LeftOut()):
        present |= line.record.keys()
        models.add(model_of(line))
    for ours, theirs in mapping.overrides().items():
        if present and not present.intersection(theirs):
            raise TraceError(
                f"no line of {path} has the field {' or '.join(theirs)} that {ours} is "
                f"mapped to; fields are {', '.join(sorted(present))}"
            )
    return models


def _trace(line: Line, samples: Counter[str], tokenizer: "ChatTokenizer | None") -> Trace:
    """Return the trace of one line; `samples` counts those of each prompt so far."""
    chat = chat_of(line)
    if chat is not None:
        return _chat_trace(line, chat, samples, tokenizer)
    task, own = _task(line), line.key("id")
    model = model_of(line)
    text, cut = _text(line, task)
    offsets, layout = cut_words(text, cut)
    place = digest(model, task.prompt_key)
    sample, samples[place] = samples[place], samples[place] + 1
    return Trace(
        digest(sample if own is None else own, model, task.prompt_key, text),
        task,
        model,
        _sampling(line),
        sample,
        text,
        offsets,
        **layout._asdict(),
        tokenizer="words",
        finish=_FINISH.get(line.text("finish") or "", "unknown"),
        source="imported",
    )


def _chat_trace(
    line: Line, chat: Chat, samples: Counter[str], tokenizer: "ChatTokenizer | None"
) -> Trace:
    """Return the trace of all model calls of a chat."""
    system, prompt = asked(chat.turns)
    names = line.mapping
    asked_for = {names.system[0]: system, names.prompt[0]: prompt}
    task = _task(Line({**line.record, **asked_for}, names))
    model = model_of(line)
    *before, last = chat.turns
    finish = FINISHES.get(line.text("finish") or "", last.finish)
    turns = [*before, replace(last, finish=finish, closed=line.flag("closed"))]
    place = digest(model, task.prompt_key)
    sample, samples[place] = samples[place], samples[place] + 1
    own = line.key("id") or chat.id
    about = {
        "task": task,
        "model": model,
        "sampling": _sampling(line),
        "sample": sample,
        "source": "imported",
    }
    key = (own or sample, model, task.prompt_key)
    return trace_of(turns, about, key, {"format": chat.shape}, tokenizer)


def _sampling(line: Line) -> Sampling:
    """Return how a transcript was sampled, as far as the line says so."""
    sampling = Sampling()
    temperature, limit = line.number("temperature"), line.whole("max_new_tokens")
    if temperature is not None:
        sampling = replace(sampling, temperature=temperature)
    return sampling if limit is None else replace(sampling, max_new_tokens=limit)


def _task(line: Line) -> Task:
    """Return the task of one line, with an id shared by all that is sampled from it."""
    prompt = line.text("prompt") or ""
    if not prompt.strip():
        raise TraceError(f"no prompt: fill one of the fields {', '.join(line.names('prompt'))}")
    category, index, name = slug(line.text("category") or ""), line.whole("index"), line.key("task")
    if name is None and category and index is not None:
        name = task_id(category, index)
    elif name is None and (known := canonical(prompt)):
        name, category = known
    elif name is None:
        name = f"{category or 'task'}-{digest(prompt)[:8]}"
    system = line.text("system") or None
    return Task(name, category, prompt, system=system, condition=line.every("condition"))


def _text(line: Line, task: Task) -> tuple[str, Split]:
    """Return the text of a trace and its channels, the prompt among them."""
    prompt = "\n\n".join(filter(None, (task.system, task.prompt))) + "\n\n"
    reasoning, answer, closed = line.text("reasoning"), line.text("answer"), line.flag("closed")
    if reasoning is None and answer is None:
        names = ", ".join(line.names("reasoning") + line.names("answer"))
        raise TraceError(f"neither reasoning nor answer: fill one of the fields {names}")
    answer = answer or ""
    if reasoning is None:
        completion = answer
        cut = split(completion, 0, format_of(completion), prefilled=False)
    else:
        ended = bool(answer.strip()) if closed is None else closed
        completion, cut = join_parts(reasoning, answer, closed=ended)
    return prompt + completion, after_prompt(prompt, cut)


def _label(line: Line, trace: Trace) -> Label | None:
    """Return the label of one line, or None if it has no field for one."""
    given = [line.record[name] for name in line.names("label") if name in line.record]
    if not given:
        return None
    outcome, rationale = _outcome(given[0]), line.text("rationale") or ""
    if trace.thought == "truncated" and outcome is False:
        outcome = None
        rationale = f"negative, but of reasoning that was cut off. {rationale}".rstrip()
    quote = line.text("said")
    return Label(
        trace.id,
        line.text("labeller") or "imported",
        outcome,
        said=None if quote is None else _sentence_of(quote, trace),
        rationale=rationale,
        quotes=() if quote is None else (quote,),
        facts={} if any(name in line.record for name in line.names("said")) else UNHEARD,
    )


def _outcome(value: object) -> bool | None:
    """Return what a foreign label says; None where that is neither yes nor no."""
    word = str(value).strip(" \t\r\n[]*.").lower().replace(" ", "_")
    if word in _POSITIVE:
        return True
    return False if word in _NEGATIVE else None


def _sentence_of(quote: str, trace: Trace) -> Span:
    """Return the sentence in which a verbatim quote starts.

    Raises:
        TraceError: the quote stands in neither reasoning nor answer.
    """
    for sentence in trace.sentences if quote.strip() else ():
        place = trace.text.find(quote.strip(), trace.offsets[sentence.start])
        token = bisect_right(trace.offsets, place) - 1
        if place >= 0 and sentence.start <= token < sentence.stop:
            return sentence
    raise TraceError(f"the quote {quote!r} stands in neither reasoning nor answer")


def _tally(trace: Trace, label: Label | None) -> dict[str, int]:
    """Return what one transcript adds to the counts of a report."""
    outcome = None if label is None else label.outcome
    return {
        "read": 1,
        "labelled": outcome is not None,
        "unknown": label is not None and outcome is None,
        "positives": outcome is True,
        "closed": trace.thought == "closed",
    }
