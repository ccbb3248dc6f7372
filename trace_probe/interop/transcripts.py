"""Foreign transcripts, JSON lines in fields of any name, as traces and labels in a run.

A line is an object with a prompt and either reasoning and answer apart or one completion
with think tags. Tokens are words, cut at white space, and a trace's text is

    system ¶ prompt ¶ <think> reasoning </think> ¶ answer

with a blank line for each ¶, without the system part where there is none, and with the
completion as it stands where reasoning and answer come in one. Tool calls that come apart are
written behind it. Labels that come along are kept, unreadable ones as unknown. A row that is no
transcript is left out, named, and kept aside in the run.
"""

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from trace_probe.errors import TraceError
from trace_probe.interop.contents import calls
from trace_probe.interop.fields import DEFAULT_MAPPING, FieldMapping, Line, read_lines
from trace_probe.interop.left_out import LeftOut
from trace_probe.labels import Label
from trace_probe.store import Manifest, Store
from trace_probe.tasks.canonical import canonical
from trace_probe.tasks.sources import slug, task_id
from trace_probe.text.channels import Format, Split, format_alone, format_of, split, tags_left
from trace_probe.text.parts import after_prompt, cut_words, join_parts, with_calls
from trace_probe.trace import Finish, Sampling, Span, Task, Trace, digest

UNHEARD = {"said": "unknown"}
"""Facts of a label that comes without a word on what was said."""
FINISHES: dict[str, Finish] = {
    **dict.fromkeys(("stop", "end_turn", "stop_sequence", "eos", "completed"), "stop"),
    **dict.fromkeys(("tool_calls", "tool_use", "function_call"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "model_length", "incomplete"), "length"),
}
"""What the reasons that servers give for an end amount to."""
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
    """Rows that are no transcript."""
    notes: tuple[str, ...] = ()
    """What was left out or changed, and where."""


def import_transcripts(
    path: Path | str, store_path: Path | str, mapping: FieldMapping = DEFAULT_MAPPING
) -> ImportReport:
    """Bring a file of transcripts into a run; repeated, it adds only what is missing.

    Rows that cannot be read are left out and kept in the run's ``left_out``. Several files may go
    into one run: labels of another labeller join the traces that are there.

    Raises:
        TraceError: no line can be read, or no line has a field that `mapping` names.
        StoreError: the run at `store_path` is another one.
    """
    models = _survey(Path(path), mapping)
    manifest = Manifest(
        model=", ".join(sorted(models)),
        source="imported",
        tokenizer="words",
        version=version("trace-probe"),
        tasks="?".join(filter(None, (Path(path).name, str(mapping)))),
    )
    left = LeftOut(Path(path).name)
    return keep(read_transcripts(path, mapping, left), Store.create(store_path, manifest), left)


def keep(
    transcripts: Iterable[tuple[Trace, Label | None]], store: Store, left: LeftOut | None = None
) -> ImportReport:
    """Commit transcripts that a run does not hold yet, and labels that are new to it.

    What reading them has `left` out is kept in the run and told in the report.
    """
    counts: Counter[str] = Counter()
    left = left or LeftOut()
    with store.writing():
        known = {name: store.labels(name) for name in store.labellers()}
        present, labels = store.ids(), []
        for trace, label in transcripts:
            store.add(trace)
            counts.update(_tally(trace, label), added=trace.id not in present)
            present.add(trace.id)
            if label is not None and known.get(label.labeller, {}).get(trace.id) != label:
                labels.append(label)
        store.add_labels(labels)
        kept = left.keep(store)
    counted = ("read", "added", "labelled", "unknown", "positives", "closed")
    return ImportReport(
        **{name: int(counts[name]) for name in counted},
        left_out=len(left.rows),
        notes=left.told(kept),
    )


def read_transcripts(
    path: Path | str, mapping: FieldMapping = DEFAULT_MAPPING, left: LeftOut | None = None
) -> Iterator[tuple[Trace, Label | None]]:
    """Yield each transcript of a file as a trace, with its label if it has one.

    Ids are digests of content and of the transcript's own id. Lines that are equal in these are
    further samples, so that none is lost, unless another labeller labels the same ones. What
    cannot be read is told to `left` and passed over.

    Raises:
        TraceError: the file cannot be read, or a line cannot and there is no `left`; the text
            names the line.
    """
    samples = _Samples()
    for number, line in read_lines(Path(path), mapping, left):
        try:
            trace = _trace(line, samples)
            label = _label(line, trace)
        except TraceError as error:
            if left is None:
                raise TraceError(f"{path}, line {number}: {error}") from error
            left.row(f"line {number}", str(error), json.dumps(line.record))
            continue
        for note in line.notes if left else ():
            left.note(note, f"line {number}")
        yield trace, label


def _survey(path: Path, mapping: FieldMapping) -> set[str]:
    """Return the models of a file, having read every line of it.

    Raises:
        TraceError: as above; a misspelt field would else be taken for one that is not there.
    """
    left = LeftOut(path.name)
    present = {name for _, line in read_lines(path, mapping, LeftOut()) for name in line.record}
    for ours, theirs in mapping.overrides().items():
        if theirs and present and not present.intersection(theirs):
            raise TraceError(
                f"no line of {path} has the field {' or '.join(theirs)} that {ours} is "
                f"mapped to; fields are {', '.join(sorted(present))}"
            )
    models = {trace.model for trace, _ in read_transcripts(path, mapping, left)}
    if not models and left.rows:
        raise TraceError(
            f"no line of {path} can be read, {left.rows[0].where} because: {left.rows[0].why}"
        )
    if not models:
        raise TraceError(f"{path} holds no transcript: write one JSON object a line")
    return models


@dataclass
class _Samples:
    """Tells the samples of a prompt apart while a file is read."""

    of_prompt: Counter[str] = field(default_factory=Counter)
    alike: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often each labeller has had transcripts of one id and text."""
    known: dict[str, int] = field(default_factory=dict)

    def place(self, line: Line, *content: str) -> tuple[str, int]:
        """Return the id of a transcript and which sample of its prompt it is."""
        model, prompt, _ = content
        own, where = line.spare(line.key, "id"), digest(model, prompt)
        name = digest(self.of_prompt[where] if own is None else own, *content)
        if own is not None:
            again = name, line.spare(line.text, "labeller") or ""
            number, self.alike[again] = self.alike[again], self.alike[again] + 1
            if number:
                name = digest(name, number)
                line.notes.append("As an earlier line in id and text, so a further sample of it")
        if name not in self.known:
            self.known[name] = self.of_prompt[where]
            self.of_prompt[where] += 1
        return name, self.known[name]


def _trace(line: Line, samples: _Samples) -> Trace:
    """Return the trace of one line; `samples` knows those before it."""
    task = _task(line)
    model = line.spare(line.text, "model") or "unknown"
    finish = FINISHES.get((line.spare(line.text, "finish") or "").lower(), "unknown")
    text, cut = _text(line, task, format_of(None, model), finish)
    offsets, layout = cut_words(text, cut)
    name, sample = samples.place(line, model, task.prompt_key, text)
    return Trace(
        name,
        task,
        model,
        _sampling(line),
        sample,
        text,
        offsets,
        **layout._asdict(),
        tokenizer="words",
        finish=finish,
        source="imported",
    )


def _sampling(line: Line) -> Sampling:
    """Return how a transcript was sampled, as far as the line says so."""
    sampling = Sampling()
    for theirs, ours, read in (
        ("temperature", "temperature", line.number),
        ("max_new_tokens", "max_new_tokens", line.whole),
    ):
        value = line.spare(read, theirs)
        try:
            sampling = sampling if value is None else replace(sampling, **{ours: value})
        except TraceError:
            line.notes.append(f"Not read, {theirs} of {value}")
    return sampling


def _task(line: Line) -> Task:
    """Return the task of one line, with an id shared by all that is sampled from it."""
    found = line.contents("prompt")
    prompt = found.text if found else ""
    if not prompt.strip():
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


def _text(line: Line, task: Task, format: Format, finish: Finish) -> tuple[str, Split]:
    """Return the text of a trace and its channels, the prompt among them."""
    prompt = "\n\n".join(filter(None, (task.system, task.prompt))) + "\n\n"
    reasoning, answer, made = _parts(line)
    alone = format_alone(answer, format, finish)
    raw = split(answer, 0, alone, prefilled=False)
    if reasoning is None or _holds(answer, raw, reasoning, line):
        completion, cut = answer, raw
    else:
        closed = line.spare(line.flag, "closed")
        ended = bool(answer.strip() or made or finish == "stop") if closed is None else closed
        completion, cut = join_parts(reasoning, answer, closed=ended)
    completion, cut = with_calls(completion, cut, made)
    for part in cut.ranges:
        if part.channel == "answer" and (tags := tags_left(completion[part.start : part.stop])):
            line.notes.append(f"Left in the answer as text, though it may part it: {tags[0]}")
    return prompt + completion, after_prompt(prompt, cut)


def _parts(line: Line) -> tuple[str | None, str, list[str]]:
    """Return reasoning, if there is any apart, answer and tool calls."""
    thoughts, answer = line.contents("reasoning"), line.contents("answer")
    given = line.filled("calls")
    made = calls(given[1]) if given else []
    if made is None:
        line.notes.append(f"Not read, tool calls in {given[0] if given else ''}")
    if thoughts is None and answer is None and not made:
        names = ", ".join(line.names("reasoning") + line.names("answer"))
        raise TraceError(f"neither reasoning nor answer: fill one of the fields {names}")
    reasoning = None if thoughts is None else (thoughts.text or thoughts.reasoning or "")
    if answer and answer.reasoning and not (reasoning or "").strip():
        reasoning = answer.reasoning
    return reasoning, answer.text if answer else "", made or []


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
    outcome, rationale = _outcome(given[1] if given else None), _rationale(line)
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


def _rationale(line: Line) -> str:
    return line.spare(line.text, "rationale") or ""


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
