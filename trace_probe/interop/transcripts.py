"""Foreign transcripts, JSON lines in fields of any name, as traces and labels in a run.

A line is an object with a prompt and either reasoning and answer apart or one completion
with think tags. Without a tokenizer, tokens are words, cut at white space, and a trace's text is

    system ¶ prompt ¶ <think> reasoning </think> ¶ answer

with a blank line for each ¶, without the system part where there is none, and with the
completion as it stands where reasoning and answer come in one. Tool calls that come apart are
written behind it. With a tokenizer, its chat template writes system and prompt.

Labels that come along are kept, unreadable ones as unknown. A row that is no transcript is left
out, named, and kept aside in the run.
"""

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trace_probe.errors import ModelError, TraceError
from trace_probe.interop.blocks import calls_of
from trace_probe.interop.bounds import check_words
from trace_probe.interop.chats import Chat, chat_of, model_of
from trace_probe.interop.conversation import Written, asked
from trace_probe.interop.episodes import in_tokens, trace_of
from trace_probe.interop.fields import DEFAULT_MAPPING, FieldMapping, Line, read_lines
from trace_probe.interop.left_out import IN_WORDS, LeftOut
from trace_probe.labels import Label
from trace_probe.store import Manifest, Store
from trace_probe.tasks.canonical import canonical
from trace_probe.tasks.published import slug, task_id
from trace_probe.text.channels import Format, Split, format_alone, format_of, split
from trace_probe.text.contents import FINISHES
from trace_probe.text.parts import GAP, after_prompt, cut_words, join_parts, tags_left, with_calls
from trace_probe.trace import Finish, Sampling, Span, Task, Trace, digest

if TYPE_CHECKING:
    from trace_probe.model.tokenizer import ChatTokenizer

COUNTS = ("read", "added", "labelled", "unknown", "positives", "closed")
UNHEARD = {"said": "unknown"}
"""Facts of a label that comes without a word on what was said."""
AGAIN = (
    "{:,} of the new traces say what a trace in the run says: give rows of one trace the same id "
    "in both files, to join their labels."
)
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
    Several files may go into one run: labels of another labeller join the traces that are there.
    With a tokenizer, all are brought into its tokens; those of which it cannot be done stay in
    words, and the report says so.

    Raises:
        TraceError: no line can be read, or no line has a field that `mapping` names.
        StoreError: the run at `store_path` is another one.
    """
    models = _survey(Path(path), mapping)
    aside = LeftOut()
    found = read_transcripts(path, mapping, tokenizer, aside)
    first = next(found, None)
    if first is None:
        for row in aside.rows:
            raise TraceError(f"no line of {path} can be taken: {row.where}: {row.why}")
        raise TraceError(f"{path} holds no transcript: write one JSON object a line")
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
        before, again, texts = len(present), 0, set[str]()
        models: set[str] = set()
        for trace, label in transcripts:
            if before and trace.id not in present:
                texts = texts or {_text_key(one) for one in store.traces()}
                again += _text_key(trace) in texts
            store.add(trace)
            models.add(trace.model)
            counts.update(_tally(trace, label), added=trace.id not in present)
            formats[trace.facts.get("format", "transcript")] += 1
            present.add(trace.id)
            if label is not None and known.get(label.labeller, {}).get(trace.id) != label:
                labels.append(label)
        store.add_labels(labels)
        store.note_models(models)
        where = aside.keep(store, _file_name(file)) if aside else ""
    return ImportReport(
        **{name: int(counts[name]) for name in COUNTS},
        left_out=len(aside.rows) if aside else 0,
        formats=dict(formats),
        notes=(*(aside.told(where) if aside else ()), *([AGAIN.format(again)] if again else ())),
    )


def _text_key(trace: Trace) -> str:
    """Return by what traces are known that say the same."""
    return digest(trace.model, trace.text)


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

    Ids are digests of content and of the transcript's own id. Lines that are equal in these are
    further samples, so that none is lost, unless another labeller labels the same ones. Lines that
    cannot be read go into `aside`, if that is given.

    Raises:
        TraceError: the file cannot be read, or, without `aside`, a line of it, which is named.
    """
    for _, trace, label in read_numbered(path, mapping, tokenizer, aside):
        yield trace, label


def read_numbered(
    path: Path | str,
    mapping: FieldMapping = DEFAULT_MAPPING,
    tokenizer: "ChatTokenizer | None" = None,
    aside: LeftOut | None = None,
    no_prompt: str = "",
) -> Iterator[tuple[int, Trace, Label | None]]:
    """Yield what `read_transcripts` does, each transcript behind the number of its line.

    `no_prompt` stands for the prompt of a line that has none; if it is empty, each must have one.

    Raises:
        TraceError: the file cannot be read, or, without `aside`, a line of it, which is named.
    """
    samples = _Samples()
    for number, read in read_lines(Path(path), mapping, aside):
        line = replace(read, no_prompt=no_prompt)
        try:
            trace = _trace(line, samples, tokenizer)
            label = _label(line, trace)
        except TraceError as error:
            if aside is None:
                raise TraceError(f"{path}, line {number}: {error}") from error
            raw = json.dumps(line.record, ensure_ascii=False)
            aside.row(f"line {number}", str(error), raw)
            continue
        if aside is not None:
            for note in line.notes:
                aside.note(note, f"line {number}")
        yield number, trace, label


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
        if theirs and present and not present.intersection(theirs):
            raise TraceError(
                f"no line of {path} has the field {' or '.join(theirs)} that {ours} is "
                f"mapped to; fields are {', '.join(sorted(present))}"
            )
    return models


@dataclass
class _Samples:
    """Tells the samples of a prompt apart while a file is read."""

    of_prompt: Counter[str] = field(default_factory=Counter)
    alike: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often each labeller has had transcripts of one id and text."""
    known: dict[str, int] = field(default_factory=dict)

    def key(self, own: str | None, model: str, task: Task) -> tuple[object, ...]:
        """Return what tells a transcript from others of the same text: its own id, or its place."""
        place = self.of_prompt[digest(model, task.prompt_key)] if own is None else own
        return place, model, task.prompt_key

    def placed(self, trace: Trace, own: str | None, line: Line) -> Trace:
        """Return a trace with its number among those of its prompt, and an id of its own."""
        name, where = trace.id, digest(trace.model, trace.task.prompt_key)
        if own is not None:
            again = name, line.spare(line.text, "labeller") or ""
            number, self.alike[again] = self.alike[again], self.alike[again] + 1
            if number:
                name = digest(name, number)
                line.notes.append("As an earlier line in id and text, so a further sample of it")
        if name not in self.known:
            self.known[name] = self.of_prompt[where]
            self.of_prompt[where] += 1
        return replace(trace, id=name, sample=self.known[name])


def _trace(line: Line, samples: _Samples, tokenizer: "ChatTokenizer | None") -> Trace:
    """Return the trace of one line; `samples` knows those before it."""
    chat = chat_of(line)
    if chat is not None:
        return _chat_trace(line, chat, samples, tokenizer)
    task, model = _task(line), model_of(line)
    finish = FINISHES.get((line.spare(line.text, "finish") or "").lower(), "unknown")
    check_words(one.text for n in ("reasoning", "answer") if (one := line.contents(n)))
    mine = _written(line, format_of(None, model), finish)
    own = line.spare(line.key, "id")
    about = {**_about(line, task, model), "id": "call"}
    trace = _in_tokens(tokenizer, task, mine, about, finish) if tokenizer else None
    if trace is None:
        trace = _in_words(task, mine, about, finish)
        line.notes.extend([IN_WORDS] if tokenizer else [])
    trace = replace(trace, id=digest(*samples.key(own, model, task), trace.text))
    return samples.placed(trace, own, line)


def _about(line: Line, task: Task, model: str) -> dict[str, Any]:
    """Return the fields of a trace that do not depend on its tokens, but for its id."""
    return {
        "task": task,
        "model": model,
        "sampling": _sampling(line),
        "sample": 0,
        "source": "imported",
    }


def _in_words(task: Task, mine: Written, about: Mapping[str, Any], finish: Finish) -> Trace:
    """Return what a model wrote behind a prompt as a trace in words."""
    prompt = "\n\n".join(filter(None, (task.system, task.prompt))) + "\n\n"
    text = prompt + mine.text
    offsets, layout = cut_words(text, after_prompt(prompt, mine.cut))
    words = {"text": text, "offsets": offsets, **layout._asdict(), "tokenizer": "words"}
    return Trace(**about, **words, finish=finish)


def _in_tokens(
    tokenizer: "ChatTokenizer", task: Task, mine: Written, about: Mapping[str, Any], finish: Finish
) -> Trace | None:
    """Return the same in tokens, with the prompt as `record` would write it; None if in vain."""
    try:
        prompt = tokenizer.prompt(task)
    except ModelError:  # the template does not take such a prompt
        return None
    trace = in_tokens(tokenizer, prompt, mine, about, finish)
    return trace and replace(trace, facts={"ids": "retokenised"})


def _chat_trace(
    line: Line, chat: Chat, samples: _Samples, tokenizer: "ChatTokenizer | None"
) -> Trace:
    """Return the trace of all model calls of a chat."""
    system, prompt = asked(chat.turns)
    names = replace(line.mapping, system=("system",), prompt=("prompt",))
    told = {**line.record, "system": system, "prompt": prompt}
    task = _task(replace(line, record=told, mapping=names))
    *before, last = chat.turns
    finish = FINISHES.get(line.spare(line.text, "finish") or "", last.finish)
    closed = line.spare(line.flag, "closed")
    turns = [*before, replace(last, finish=finish, closed=closed)]
    model, own = model_of(line), line.spare(line.key, "id") or chat.id or None
    about, key = _about(line, task, model), samples.key(own, model, task)
    trace = trace_of(turns, about, key, {"format": chat.shape}, tokenizer)
    if tokenizer and not trace.token_ids:
        line.notes.append(IN_WORDS)
    return samples.placed(trace, own, line)


def _sampling(line: Line) -> Sampling:
    """Return how a transcript was sampled, as far as the line says so."""
    sampling, readers = Sampling(), {"temperature": line.number, "max_new_tokens": line.whole}
    for name, read in readers.items():
        value = line.spare(read, name)
        change: dict[str, Any] = {} if value is None else {name: value}
        try:
            sampling = replace(sampling, **change)
        except TraceError:
            line.notes.append(f"Not read, {name} of {value}")
    return sampling


def _task(line: Line) -> Task:
    """Return the task of one line, with an id shared by all that is sampled from it."""
    found = line.contents("prompt")
    prompt = found.text if found and found.text.strip() else line.no_prompt
    if not prompt:
        raise TraceError(f"no prompt: fill one of the fields {', '.join(line.names('prompt'))}")
    category = slug(line.spare(line.text, "category") or "")
    index, name = line.spare(line.whole, "index"), line.key("task")
    if name is None and category and index is not None:
        name = task_id(category, index)
    elif name is None and (known := canonical(prompt)):
        name, category = known
    elif name is None:
        name = f"{category or 'task'}-{digest(prompt)[:8]}"
    system = line.contents("system")
    told = (system.text or None) if system else None
    return Task(name, category, prompt, system=told, condition=line.every("condition"))


def _written(line: Line, format: Format, finish: Finish) -> Written:
    """Return what the model wrote, as text in channels."""
    reasoning, answer, made = _parts(line)
    alone = format_alone(answer, format, finish)
    raw = split(answer, 0, alone, prefilled=False)
    if reasoning is None or _holds(answer, raw, reasoning, line):
        completion, cut = answer, raw
    else:
        closed = line.spare(line.flag, "closed")
        ended = bool(answer.strip() or made) if closed is None else closed
        completion, cut = join_parts(reasoning, answer, format, closed=ended)
    completion, cut = with_calls(completion, cut, made, GAP)
    for part in cut.ranges:
        if part.channel == "answer" and (tags := tags_left(completion[part.start : part.stop])):
            line.notes.append(f"Left in the answer as text, though it may part it: {tags[0]}")
    return Written(completion, cut, ())


def _parts(line: Line) -> tuple[str | None, str, list[tuple[str, str, str]]]:
    """Return reasoning, if there is any apart, answer and tool calls."""
    thoughts, answer = line.contents("reasoning"), line.contents("answer")
    given = line.filled("calls")
    made = list(calls_of(given[1] if given else None))
    line.notes.extend(part.note for part in made if part.note)
    if thoughts is None and answer is None and not made:
        names = ", ".join(line.names("reasoning") + line.names("answer"))
        raise TraceError(f"neither reasoning nor answer: fill one of the fields {names}")
    reasoning = None if thoughts is None else (thoughts.text or thoughts.reasoning or "")
    if answer and answer.reasoning and not (reasoning or "").strip():
        reasoning = answer.reasoning
    said = (thoughts, answer)
    if not made and not any(one and (one.text + (one.reasoning or "")).strip() for one in said):
        raise TraceError("the model wrote nothing, neither a text nor a call: leave it out")
    calls = [(part.name, part.text or "{}", part.id) for part in made]
    return reasoning, answer.text if answer else "", calls


def _holds(answer: str, cut: Split, reasoning: str, line: Line) -> bool:
    """Return whether an answer is the whole completion, with the thought that came apart in it."""
    thought = "".join(answer[a:b] for channel, a, b in cut.ranges if channel == "reasoning")
    own, given = " ".join(thought.split()), " ".join(reasoning.split())
    if not own or cut.thought not in {"closed", "truncated"} or cut.ranges[0].channel == "answer":
        return False
    same = own in given or given in own
    if not same and cut.thought == "closed":
        line.notes.append("The thought in the completion was taken, not the other one beside it")
    return same or cut.thought == "closed"


def _label(line: Line, trace: Trace) -> Label | None:
    """Return the label of one line, or None if it has no field for one."""
    if not any(name in line.record for name in line.names("label")):
        return None
    given = line.filled("label")
    outcome = _outcome(given[1] if given else None)
    rationale = line.spare(line.text, "rationale") or ""
    if trace.thought == "truncated" and outcome is False:
        outcome = None
        rationale = f"negative, but of reasoning that was cut off. {rationale}".rstrip()
    quote = line.spare(line.text, "said")
    said = None if quote is None else _sentence_of(quote, trace)
    facts = {} if any(name in line.record for name in line.names("said")) else UNHEARD
    if quote is not None and said is None:
        line.notes.append("Quotes that are not verbatim, left out of their labels")
        facts, quote = {**UNHEARD, "quote": quote}, None
    return Label(
        trace.id,
        line.spare(line.text, "labeller") or "imported",
        outcome,
        said=said,
        rationale=rationale,
        quotes=() if quote is None else (quote,),
        facts=facts,
    )


def _outcome(value: object) -> bool | None:
    """Return what a foreign label says; None where that is neither yes nor no."""
    word = str(value).strip(" \t\r\n[]*.").lower().replace(" ", "_")
    if word in _POSITIVE:
        return True
    return False if word in _NEGATIVE else None


def _sentence_of(quote: str, trace: Trace) -> Span | None:
    """Return the sentence in which a verbatim quote starts; None if there is none."""
    for sentence in trace.sentences if quote.strip() else ():
        place = trace.text.find(quote.strip(), trace.offsets[sentence.start])
        token = bisect_right(trace.offsets, place) - 1
        if place >= 0 and sentence.start <= token < sentence.stop:
            return sentence
    return None


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
