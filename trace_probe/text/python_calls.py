"""Tool calls that a model writes as expressions of Python: ``look_up(item="bolt", near=null)``."""

import ast
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

LITERALS = {"true": True, "false": False, "null": None}
"""As OLMo 3 writes them among expressions of Python."""
STRING = re.compile(r"""\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'""", re.S)
_HEAD = re.compile(r"\n\s*[A-Za-z_][\w.]*\(")
TORN = 64
"""Calls of a text that may be torn; what follows on more is one that cannot be read."""
_QUOTES, _OPEN, _CLOSE = "\"'", "([{", ")]}"


class Call(NamedTuple):
    """One tool call in a text."""

    name: str
    """Of the tool; empty if the call cannot be read."""
    arguments: str
    """As written where that is JSON, else the same as one JSON object, else the text."""
    start: int
    stop: int
    """Characters ``[start, stop)`` of the call."""
    id: str = ""


def calls_in(text: str, first: int = 0, last: int | None = None) -> Iterator[Call]:
    """Yield the calls in ``text[first:last]``, one on a line or several in a list.

    One that cannot be read does not hide the others: where a quote or a bracket is open to the end,
    it was meant to be shut in its line.
    """
    end = len(text) if last is None else last
    for _ in range(TORN):
        torn = -1
        for start, stop in _statements(text, first, end):
            try:
                calls = list(_read(text[start:stop], start))
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                line = text.find("\n", start, stop)
                torn = line if _HEAD.search(text, line, stop) and line >= 0 else -1
                stop = torn if torn >= 0 else stop
                calls = [Call("", text[start:stop], start, stop)]
            yield from calls
            if torn >= 0:
                break
        if torn < 0:
            return
        first = torn
    yield Call("", text[first:end].strip(), first, end)


def _statements(text: str, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield where each line stands; several are one within brackets or quotes."""
    begin, depth, quote, place = first, 0, "", first
    while place < last:
        char = text[place]
        if quote:
            place += char == "\\"
            quote = "" if char == quote else quote
        elif char in _QUOTES:
            quote = char
        elif char == "\n" and depth <= 0:
            yield from _stripped(text, begin, place)
            begin, depth = place + 1, 0
        else:
            depth += (char in _OPEN) - (char in _CLOSE)
        place += 1
    yield from _stripped(text, begin, last)


def _stripped(text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    part = text[start:stop]
    if part.strip():
        yield start + len(part) - len(part.lstrip()), stop - len(part) + len(part.rstrip())


def _read(source: str, first: int) -> Iterator[Call]:
    """Yield the calls of one statement, which begins at character `first` of the whole."""
    # Python has no line break within quotes: one character stands for it, so that places hold.
    stand_in = next(char for char in map(chr, range(0xE000, 0xF8FF)) if char not in source)
    source = STRING.sub(lambda text: text[0].replace("\n", stand_in), source)
    source = source.replace("\r", " ").replace("\n", " ")
    body, encoded = ast.parse(source, mode="eval").body, source.encode()
    for call in body.elts if isinstance(body, ast.List) else [body]:
        if not isinstance(call, ast.Call):
            raise ValueError("no call")
        ends = call.col_offset, call.end_col_offset or 0
        start, stop = (first + len(encoded[:column].decode()) for column in ends)
        written = json.dumps(_arguments(call), ensure_ascii=False, default=str)
        yield Call(ast.unparse(call.func), written.replace(stand_in, "\\n"), start, stop)


def _arguments(call: ast.Call) -> dict[str, Any]:
    """Return the arguments of a call by name; those without a name as ``args``."""
    named = {word.arg or "kwargs": _value(word.value) for word in call.keywords}
    return {"args": [_value(one) for one in call.args], **named} if call.args else named


class _Constants(ast.NodeTransformer):
    """Makes constants of the names that JSON has for them."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(LITERALS[node.id]) if node.id in LITERALS else node


def _value(node: ast.expr) -> Any:  # noqa: ANN401
    """Return the value of a literal of Python, or of JSON."""
    return ast.literal_eval(_Constants().visit(node))
