"""What a foreign file calls the things we want, and its lines read through that."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from trace_probe.errors import TraceError
from trace_probe.files import json_object
from trace_probe.interop.bounds import LONGEST_LINE, lines
from trace_probe.interop.left_out import LeftOut
from trace_probe.text.contents import Contents, contents
from trace_probe.visible import whole

T = TypeVar("T")
_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
ENOUGH = 100
"""Unreadable lines after which a file is what its first line looks like, and no JSON lines."""
REPLACED = "Half of a surrogate pair, read as U+FFFD"


@dataclass(frozen=True)
class FieldMapping:
    """For each thing we want, the names it may have in a line; the first that is filled counts."""

    id: tuple[str, ...] = ("id", "trace_id", "uuid")
    task: tuple[str, ...] = ("task_id",)
    """Groups the samples of one task; without it category and index do, else the prompt."""
    index: tuple[str, ...] = ("task_index", "index")
    """Place of the task in its category, counted from 1."""
    category: tuple[str, ...] = ("category",)
    system: tuple[str, ...] = ("system", "system_prompt")
    prompt: tuple[str, ...] = ("prompt_sent", "prompt", "task", "question", "input")
    messages: tuple[str, ...] = ("messages", "conversation", "traj")
    """A whole chat, which takes the place of prompt, reasoning and answer."""
    reasoning: tuple[str, ...] = ("reasoning", "reasoning_content", "cot", "thinking")
    answer: tuple[str, ...] = ("answer", "response", "completion", "output")
    """The answer, or, where no reasoning is given apart, the completion with its tags."""
    calls: tuple[str, ...] = ("tool_calls",)
    """Tool calls of the answer, in the form of OpenAI or a similar one."""
    closed: tuple[str, ...] = ("think_closed",)
    """Whether the reasoning came to its end; without it, it did if an answer or a call follows."""
    finish: tuple[str, ...] = ("finish_reason", "stop_reason")
    model: tuple[str, ...] = ("model",)
    temperature: tuple[str, ...] = ("temperature",)
    max_new_tokens: tuple[str, ...] = ("max_new_tokens", "max_tokens")
    condition: tuple[str, ...] = ("mode", "nudge")
    """Facts of the experiment: all of these that are there go into `Task.condition`."""
    label: tuple[str, ...] = ("label", "outcome", "judge_decision")
    """1, true, yes or convergence; 0, false, no or no_convergence; all else is unknown."""
    labeller: tuple[str, ...] = ("judge_model", "labeller")
    rationale: tuple[str, ...] = ("judge_reason", "rationale")
    said: tuple[str, ...] = ("said",)
    """A verbatim quote of the first sentence that states the intent."""

    @classmethod
    def parse(cls, text: str) -> "FieldMapping":
        """Return the mapping with what ``reasoning=cot,condition=mode+nudge`` replaces in it.

        ``label=`` names no field: a file's labels are not read then.

        Raises:
            TraceError: a name on the left is not one of ours, or the form is another.
        """
        names = [field.name for field in fields(cls)]
        replaced = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            ours, equals, theirs = (piece.strip() for piece in part.partition("="))
            aliases = tuple(filter(None, (name.strip() for name in theirs.split("+"))))
            if ours not in names or not equals:
                raise TraceError(
                    f"cannot map {part!r}: write NAME=FIELD or NAME=FIELD+FIELD, or NAME= to read "
                    f"no field, where NAME is one of {', '.join(names)}"
                )
            replaced[ours] = aliases
        return replace(cls(), **replaced)

    def overrides(self) -> dict[str, tuple[str, ...]]:
        """Return what differs from the default mapping."""
        pairs = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: v for k, v in pairs.items() if v != getattr(DEFAULT_MAPPING, k)}

    def __str__(self) -> str:
        """Return the overrides as `parse` reads them."""
        return ",".join(f"{name}={'+'.join(v)}" for name, v in self.overrides().items())


DEFAULT_MAPPING = FieldMapping()


@dataclass(frozen=True)
class Line:
    """One object of a file of JSON lines, read through a mapping.

    Every reader returns the first field that is filled, or None, and raises TraceError if
    that is of another type.
    """

    record: dict[str, Any]
    mapping: FieldMapping
    notes: list[str] = field(default_factory=list)
    """What was changed in this line, or not read."""
    no_prompt: str = ""
    """What stands for the prompt where there is none; empty if it must be there."""

    def names(self, name: str) -> tuple[str, ...]:
        """Return the fields that may hold `name`."""
        names: tuple[str, ...] = getattr(self.mapping, name)
        return names

    def text(self, name: str) -> str | None:
        """Return a text."""
        return self._read(name, "a text", lambda v: v if isinstance(v, str) else None)

    def contents(self, name: str) -> Contents | None:
        """Return a text, or the texts and thoughts of a list of contents."""
        return self._read(name, "a text", contents)

    def key(self, name: str) -> str | None:
        """Return an id, which may be a text or a whole number."""
        return self._read(name, "a text or a whole number", _key)

    def whole(self, name: str) -> int | None:
        """Return a whole number, which may be written as 3.0 or in quotes."""
        return self._read(name, "a whole number", _whole)

    def number(self, name: str) -> float | None:
        """Return a number, which may be written in quotes."""
        return self._read(name, "a number", _number)

    def flag(self, name: str) -> bool | None:
        """Return true or false, which may be written as 1 and 0, or in quotes."""
        return self._read(name, "true or false", _flag)

    def every(self, name: str) -> dict[str, str]:
        """Return all fields that are filled, other values than texts as JSON."""
        found = {key: self.record.get(key) for key in self.names(name)}
        return {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in found.items()
            if value is not None
        }

    def filled(self, name: str) -> tuple[str, Any] | None:
        """Return the first field that is filled, else the first that is there, with its value."""
        there = [
            (key, value)
            for key in self.names(name)
            if (value := self.record.get(key)) is not None and not _is_nan(value)
        ]
        full = ((key, value) for key, value in there if not _is_blank(value))
        return next(full, there[0] if there else None)

    def spare(self, read: Callable[[str], T | None], name: str) -> T | None:
        """Return what is not needed; where it cannot be read, note so and do without."""
        try:
            return read(name)
        except TraceError as error:
            self.notes.append(f"Not read, {error}")
            return None

    def _read(self, name: str, wanted: str, make: Callable[[Any], T | None]) -> T | None:
        found = self.filled(name)
        if found is None:
            return None
        made = make(found[1])
        if made is None:
            raise TraceError(f"field {found[0]!r} is {found[1]!r:.40}, expected {wanted}")
        return made


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _is_blank(value: object) -> bool:
    return value in ([], {}) or (isinstance(value, str) and not value.strip())


def _whole(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number.is_integer() else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None  # bool is a subclass of int
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _key(value: object) -> str | None:
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    plain = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value) if plain else None


def _flag(value: object) -> bool | None:
    if isinstance(value, float):
        value = _key(value)
    return _FLAGS.get(str(value).strip().lower())


def read_lines(
    path: Path, mapping: FieldMapping, aside: LeftOut | None = None
) -> Iterator[tuple[int, Line]]:
    """Yield the objects of a file with their line numbers; blank lines are no objects.

    A file that is one JSON object on many lines counts as one line. Lines that cannot be read go
    into `aside`, if that is given.

    Raises:
        TraceError: the file is of another kind or cannot be read, or, without `aside`, a line of
            it cannot.
    """
    one, torn = _one_object(path)
    if one is not None:
        yield 1, Line(one, mapping)
        return
    passed = None if aside is None else lambda n, why: aside.row(f"line {n}", why)
    bad, read = _Unreadable(path, aside), False
    for number, line in lines(path, passed=passed):
        if not line.strip():
            continue
        try:
            record, whole = _record(line, f"{path}, line {number}")
        except TraceError as error:
            bad.take(number, line, error, alone=not read)
        else:
            read = True
            yield number, Line(record, mapping, [] if whole else [REPLACED])
    if not read:
        bad.check()
        if torn is not None:
            raise torn


@dataclass
class _Unreadable:
    """The lines of a file that are no JSON objects."""

    path: Path
    aside: LeftOut | None
    kind: str = ""
    """What the file is instead, as far as its first such line tells."""
    count: int = 0

    def take(self, number: int, line: bytes, error: TraceError, *, alone: bool) -> None:
        """Leave a line out; `alone` says that no line could be read so far."""
        self.count += 1
        if self.count == 1 and alone:
            self.kind = _kind(line, self.path)
        if alone and (self.aside is None or self.count == ENOUGH):
            self.check()
        if self.aside is None:
            raise error
        why = str(error).removeprefix(f"{self.path}, line {number} ")
        self.aside.row(f"line {number}", why, line.decode(errors="replace").rstrip("\n"))

    def check(self) -> None:
        """Raise TraceError if the file is of another kind."""
        if self.kind:
            raise TraceError(f"{self.path}, line 1 {self.kind}")


def _record(line: bytes, name: str) -> tuple[dict[str, Any], bool]:
    """Return the object on a line, and whether it is as it stands there."""
    try:
        return json_object(line, name, TraceError), True
    except TraceError as error:
        if not isinstance(error.__cause__, UnicodeEncodeError):
            raise
    text = whole(json.dumps(json.loads(line), ensure_ascii=False))
    return json_object(text, name, TraceError), False


def _kind(line: bytes, path: Path) -> str:
    """Return what a file is whose lines are no JSON objects, by the first; empty if unclear."""
    each = "write one JSON object a line"
    start = line.lstrip()
    if line.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in line[:8]:
        return "is not UTF-8 but UTF-16: save the file as UTF-8"
    if line.startswith((b"PAR1", b"PK\x03\x04", b"\x1f\x8b", b"(\xb5/\xfd")):
        return f"is packed or Parquet, not text: unpack it, and {each}"
    if start.startswith(b"["):
        return f"begins a JSON array: {each}, for example with `jq -c '.[]' {path.name}`"
    table = path.suffix.lower() in {".csv", ".tsv"} or any(mark in line for mark in b",;\t")
    if table and not start.startswith(b"{"):
        return (
            f"is the head of a table (CSV), not JSON: {each}, for example with pandas: "
            f"read_csv(FILE).to_json(OUT, orient='records', lines=True)"
        )
    return ""


def _one_object(path: Path) -> tuple[dict[str, Any] | None, TraceError | None]:
    """Return the object that a file is if it is written on many lines, or what is wrong with it.

    Raises:
        TraceError: it is too long.
    """
    try:
        with open(path, "rb") as file:
            head = file.readline(3)
            if head.strip() not in (b"{", b"{}"):
                return None, None
            text = head + file.read(LONGEST_LINE)
        if len(text) <= LONGEST_LINE:
            return json_object(text, str(path), TraceError), None
    except OSError:
        return None, None  # it is read line by line, and what is wrong with it is said then
    except TraceError as error:
        return None, error  # perhaps only its first line is
    raise TraceError(
        f"{path} is one object on many lines, longer than {LONGEST_LINE >> 20} MB: take pictures "
        f"out of it, or write one transcript a line"
    )
