"""Token ids as text, cut into channels and sentences."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from trace_probe.text.channels import format_of, format_under
from trace_probe.text.layout import build_spans
from trace_probe.trace import Span, Thought, ToolCall


class Reader(Protocol):
    """What can turn ids into text: a model, or a tokenizer alone."""

    name: str
    chat_template: str

    def offsets(self, ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        """Return the text of token ids, and the character at which each token starts."""
        ...


class Written(NamedTuple):
    """What token ids are as text, cut into channels and sentences; fields as in `Trace`."""

    text: str
    offsets: tuple[int, ...]
    spans: tuple[Span, ...]
    sentences: tuple[Span, ...]
    thought: Thought
    actions: tuple[ToolCall, ...]


def read_back(reader: Reader, ids: Sequence[int], prompt_stop: int) -> Written:
    """Return what `ids` say, of which the first `prompt_stop` are the prompt."""
    text, offsets = reader.offsets(ids)
    start = offsets[prompt_stop] if prompt_stop < len(offsets) else len(text)
    format, prefilled = format_under(text[:start], format_of(reader.chat_template, reader.name))
    layout = build_spans(text, offsets, prompt_stop, format, prefilled=prefilled)
    return Written(text, offsets, *layout)
