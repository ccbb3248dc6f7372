"""What a foreign file calls the things we want, and its lines read through that."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from trace_probe.errors import TraceError
from trace_probe.files import json_object
from trace_probe.interop.bounds import LONGEST_LINE, lines
from trace_probe.interop.left_out import LeftOut


@dataclass(frozen=True)
class FieldMapping:
    """For each thing we want, the names it may have in a line; the first that is there counts."""

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
    closed: tuple[str, ...] = ("think_closed",)
    """Whether the reasoning came to its end; without it, it did if there is an answer."""
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

        Raises:
            TraceError: a name on the left is not one of ours, or the form is another.
        """
        names = [field.name for field in fields(cls)]
        replaced = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            ours, equals, theirs = (piece.strip() for piece in part.partition("="))
            aliases = tuple(filter(None, (name.strip() for name in theirs.split("+"))))
            if ours not in names or not equals or not aliases:
                raise TraceError(
                    f"cannot map {part!r}: write NAME=FIELD or NAME=FIELD+FIELD, "
                    f"where NAME is one of {', '.join(names)}"
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

    def names(self, name: str) -> tuple[str, ...]:
        """Return the fields that may hold `name`."""
        names: tuple[str, ...] = getattr(self.mapping, name)
        return names

    def text(self, name: str) -> str | None:
        """Return a text."""
        value = self._filled(name, "a text", str)
        return None if value is None else str(value)

    def key(self, name: str) -> str | None:
        """Return an id, which may be a text or a whole number."""
        value = self._filled(name, "a text or a whole number", str, int)
        return None if value is None else str(value)

    def whole(self, name: str) -> int | None:
        """Return a whole number."""
        value = self._filled(name, "a whole number", int)
        return None if value is None else int(value)

    def number(self, name: str) -> float | None:
        """Return a number."""
        value = self._filled(name, "a number", int, float)
        return None if value is None else float(value)

    def flag(self, name: str) -> bool | None:
        """Return true or false."""
        value = self._filled(name, "true or false", bool)
        return None if value is None else bool(value)

    def every(self, name: str) -> dict[str, str]:
        """Return all fields that are filled, other values than texts as JSON."""
        found = {key: self.record.get(key) for key in self.names(name)}
        return {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in found.items()
            if value is not None
        }

    def _filled(self, name: str, wanted: str, *kinds: type) -> Any:  # noqa: ANN401
        for field in self.names(name):
            value = self.record.get(field)
            if value is not None:
                # bool is a subclass of int
                if type(value) not in kinds:
                    raise TraceError(f"field {field!r} is {value!r:.40}, expected {wanted}")
                return value
        return None


def read_lines(
    path: Path, mapping: FieldMapping, aside: LeftOut | None = None
) -> Iterator[tuple[int, Line]]:
    """Yield the objects of a file with their line numbers; blank lines are no objects.

    A file that is one JSON object on many lines counts as one line. What is no object goes into
    `aside`, if that is given.

    Raises:
        TraceError: the file cannot be read, or, without `aside`, a line of it.
    """
    if (whole := _whole(path)) is not None:
        yield 1, Line(whole, mapping)
        return
    for number, line in lines(path):
        if not line.strip():
            continue
        try:
            record = json_object(line, f"{path}, line {number}", TraceError)
        except TraceError as error:
            if aside is None:
                raise
            text = line.decode(errors="replace").rstrip("\n")
            aside.row(f"line {number}", str(error), text)
            continue
        yield number, Line(record, mapping)


def _whole(path: Path) -> dict[str, Any] | None:
    """Return the object that a file is if it is written on many lines, else None."""
    try:
        with open(path, "rb") as file:
            head = file.readline(3)
            if head.strip() not in (b"{", b"{}") or path.stat().st_size > LONGEST_LINE:
                return None
            return json_object(head + file.read(), str(path), TraceError)
    except (OSError, TraceError):
        return None  # it is read line by line, and what is wrong with it is said then
