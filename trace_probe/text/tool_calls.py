"""Tool calls as models write them: where one begins and ends, and what it asks for.

Every family has tags of its own around its calls, and one of a few ways to write a call between
them: a JSON object, elements in the manner of XML, or an expression of Python. Nothing is lost:
a call that cannot be read has an empty name and its text as arguments.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from trace_probe.files import nested_too_deeply
from trace_probe.text.call_ends import own_end
from trace_probe.text.python_calls import Call, calls_in

TAGS: dict[str, str] = {
    "<tool_call>": "</tool_call>",  # Hermes, Qwen, GLM
    "<function=": "</function>",  # Qwen3-Coder without the tag around it, Llama 3.1
    "<seed:tool_call>": "</seed:tool_call>",
    "<minimax:tool_call>": "</minimax:tool_call>",
    "<function_calls>": "</function_calls>",  # OLMo 3
    "<TOOLCALL>": "</TOOLCALL>",  # Nemotron
    "<｜DSML｜function_calls>": "</｜DSML｜function_calls>",  # DeepSeek V3.2
    "<｜tool▁calls▁begin｜>": "<｜tool▁calls▁end｜>",  # DeepSeek V3, V3.1, R1
    "<|tool_calls_section_begin|>": "<|tool_calls_section_end|>",  # Kimi K2
    "<|tool_call>": "<tool_call|>",  # Gemma 4
    "<|START_ACTION|>": "<|END_ACTION|>",  # Cohere
    "<|tools_prefix|>": "<|tools_suffix|>",  # Apertus
    "<|tool_call|>": "<|/tool_call|>",  # Phi 4, Granite 3, which leaves the end away
    "[TOOL_CALLS]": "",  # Mistral
    "<|python_tag|>": "",  # Llama 3
}
"""For each tag that opens tool calls the one that closes them; empty if only the end does."""

_WORDS = re.compile(r"\s*[{\[<]|\n?[\w.:/-]+\s*[\n<(]")
"""How a call goes on after its tag; in prose *about* the tag a blank and a word follow."""
_UNDECIDED = re.compile(r"\s*\Z|\n?[^\s<>{}()\[\]]+\s*\Z")
_NAMED = re.compile(r"[^\s<>]+>")
_PROSE = re.compile(r"[ \t]+\w|[`'\"”’]")
_SPACE = re.compile(r"[\s,;]*")
_OPEN = re.compile("|".join(map(re.escape, TAGS)))
_NAME = re.compile(r"[\w.:/-]+")
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_HEADER_ENDS = ("<|start|>", "<|end|>", "<|call|>", "<|return|>")
_DECODER = json.JSONDecoder(strict=False)
_NAMES = ("name", "tool_name", "function")
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_IDS = ("id", "tool_call_id", "call_id")

_DEEPSEEK = re.compile(
    r"<｜tool▁call▁begin｜>(?P<name>.*?)<｜tool▁sep｜>(?P<body>.*?)"
    r"(?:<｜tool▁call▁end｜>(?=\s*(?:<｜tool▁call▁begin｜>|\Z))|\Z)",
    re.S,
)
_KIMI = re.compile(
    r"<\|tool_call_begin\|>\s*(?P<id>.*?)\s*<\|tool_call_argument_begin\|>\s*(?P<body>.*?)\s*"
    r"(?:<\|tool_call_end\|>(?=\s*(?:<\|tool_call_begin\|>|\Z))|\Z)",
    re.S,
)
_MISTRAL = re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\]([\w-]+))?\s*(?:\[ARGS\])?\s*(?=\{)")
_FUNCTION = re.compile(r"<function=([^>\s]+)>(.*?)(?:</function>(?=\s*(?:<function=|\Z))|\Z)", re.S)
_INVOKE = re.compile(
    r"<(?:｜DSML｜)?invoke name=\"([^\"]+)\"\s*>(.*?)"
    r"(?:</(?:｜DSML｜)?invoke>(?=\s*(?:<(?:｜DSML｜)?invoke |\Z))|\Z)",
    re.S,
)
_PARAMETER = re.compile(r"<parameter=(?P<key>[^>\n]+)>")
_INVOKED = re.compile(
    r"<(?P<own>｜DSML｜)?parameter name=\"(?P<key>[^\"]+)\""
    r"(?: string=\"(?P<text>true|false)\")?\s*>"
)
_GLM = re.compile(r"<arg_key>(?P<key>[^<]*)</arg_key>\s*<arg_value>")
"""What opens an element of a call."""
_GEMMA = re.compile(r"\s*call:([\w.-]+)\s*(\{.*)", re.S)
_BUILT_IN = re.compile(r"\s*([\w]+)\.call\((.*)\)\s*\Z", re.S)


class _Block(NamedTuple):
    """Calls between one pair of tags; `first` to `last` is what stands inside."""

    tag: str
    start: int
    first: int
    last: int
    stop: int


def spoken(tag: str) -> bool:
    """Return whether a tag may stand in prose; those that are tokens of their own never do."""
    return tag.startswith("<") and "|" not in tag and "｜" not in tag


def begins_call(text: str, tag: str, stop: int, *, closed: bool) -> bool:
    """Return whether a tag that ends at character `stop` begins a call, or is only spoken of.

    `closed` says whether the tag that closes it follows.
    """
    if not spoken(tag):
        return True
    if tag == "<function=":
        return _NAMED.match(text, stop) is not None
    if closed:
        return _PROSE.match(text, stop) is None
    return _WORDS.match(text, stop) is not None


def may_begin_call(text: str, stop: int) -> bool:
    """Return whether what follows a tag that ends at `stop` does not yet tell what it is."""
    return _UNDECIDED.match(text, stop) is not None


def is_bare_call(text: str) -> bool:
    """Return whether a text is nothing but a call without tags, as Llama 3 writes them.

    Other JSON than an object of a name and parameters is an answer.
    """
    if not (text.lstrip().startswith("{") and text.rstrip().endswith("}")):
        return False
    try:
        value = _DECODER.decode(text.strip())
    except (ValueError, RecursionError):
        return False
    keys = set(value) - {"type"}
    return (
        keys in ({"name", "parameters"}, {"name", "arguments"})
        and isinstance(value["name"], str)
        and isinstance(value.get("parameters", value.get("arguments")), dict)
    )


def write_call(name: str, arguments: str, id: str = "") -> str:
    """Return a call that came apart from its text, as a model that calls in JSON writes it."""
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        arguments = json.dumps(arguments, ensure_ascii=False)
    parts = [f'"name": {json.dumps(name, ensure_ascii=False)}', f'"arguments": {arguments}']
    if id:
        parts.insert(0, f'"id": {json.dumps(id, ensure_ascii=False)}')
    return f"<tool_call>\n{{{', '.join(parts)}}}\n</tool_call>"


def parse_calls(text: str, start: int = 0, stop: int | None = None) -> list[Call]:
    """Return the calls in ``text[start:stop]``, which is a range of the channel ``action``.

    What stands before `start` is read only for the recipient of a harmony message.
    """
    end = len(text) if stop is None else stop
    recipient = _recipient(text[:start])
    if recipient:
        return [Call(recipient, text[start:end].strip(), start, end)]
    return [call for block in _blocks(text, start, end) for call in _calls_in(text, block)]


def _calls_in(text: str, block: _Block) -> list[Call]:
    """Return the calls of a block; what cannot be read is a call without a name."""
    inside = text[block.start : block.last]
    moved = _Block(block.tag, 0, *(place - block.start for place in block[2:]))
    found: list[Call] = []
    unread = 0
    try:
        for call in _READERS.get(block.tag, _json)(inside, moved):
            found.append(call)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        unread = 1
    if not found or unread:
        first = found[-1].stop if found else moved.first
        rest = inside[first:].strip()
        found.append(Call("", rest, first if found else 0, moved.stop))
    if len(found) == 1:  # its tags belong to it
        found[0] = found[0]._replace(start=0, stop=moved.stop)
    return [
        one._replace(start=one.start + block.start, stop=one.stop + block.start) for one in found
    ]


def meaning(name: str, arguments: object) -> tuple[str, object]:
    """Return what two ways of writing one call have in common; arguments as a value or as JSON.

    Every value is a text in it: families that write calls in XML have no others. Arguments that
    are nested too deeply to be compared stay as they are written.
    """
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return name, arguments
    return name, arguments if nested_too_deeply(value) else _as_text(value)


Made = TypeVar("Made")


def without(
    calls: Iterable[Made],
    held: Iterable[tuple[str, object]],
    of: Callable[[Made], tuple[str, object]],
) -> list[Made]:
    """Return calls without those that are `held` already, each of which stands for one of them.

    What is held are meanings; `of` returns the `meaning` of a call.
    """
    left, new = list(held), []
    for call in calls:
        if (same := of(call)) in left:
            left.remove(same)
        else:
            new.append(call)
    return new


def _as_text(value: object) -> object:
    if isinstance(value, dict):
        return {key: _as_text(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_as_text(one) for one in value]
    return value if isinstance(value, str) else json.dumps(value)


def recipient_of(header: str) -> str:
    """Return the tool to which the header of a harmony message sends it, or nothing."""
    found = _RECIPIENT.search(header)
    name = found[1].removeprefix("functions.") if found else ""
    return "" if name in {"assistant", "user", "system", "developer", "all"} else name


def _recipient(before: str) -> str:
    """Return the tool that is to have the harmony message whose body begins here."""
    if not before.endswith("<|message|>"):
        return ""
    header = before.removesuffix("<|message|>")
    return recipient_of(header[max(header.rfind(tag) for tag in _HEADER_ENDS) + 1 :])


def _blocks(text: str, start: int, stop: int) -> Iterator[_Block]:
    """Yield what stands between each pair of tags; a text without tags is one block."""
    place = start
    while place < stop:
        opened = _OPEN.search(text, place, stop)
        if opened is None:
            if place == start:
                yield _Block("", start, start, stop, stop)
            return
        tag, begin = opened[0], opened.start()
        first = begin if tag == "<function=" else begin + len(tag)
        either = re.compile("|".join(map(re.escape, filter(None, (tag, TAGS[tag])))))
        ends = ((m[0], m.start()) for m in either.finditer(text, begin + len(tag), stop))
        name, last, _ = own_end(text, tag, first, ends) or ("", stop, False)
        place = last + len(name) if name == TAGS[tag] else last
        yield _Block(tag, begin, first, last, place)


def _json(text: str, block: _Block) -> Iterator[Call]:
    """Read JSON objects, in a list or one after another."""
    place = _skip(text, block.first)
    while place < block.last:
        if text[place] in "[]":
            place = _skip(text, place + 1)
            continue
        try:
            members, stop = _members(text, place)
        except (ValueError, RecursionError):
            stop = text.find("\n{", place + 1, block.last)
            if stop < 0:
                raise
            yield Call("", text[place:stop].strip(), place, stop)  # it does not hide the others
        else:
            yield _call_of(members, text, place, stop)
        place = _skip(text, stop)


class _Member(NamedTuple):
    """The value of a JSON object's key, and where it stands."""

    value: Any
    start: int
    stop: int


def _members(text: str, start: int) -> tuple[dict[str, _Member], int]:
    """Return the members of the JSON object at a character, and where it ends."""
    if not text.startswith("{", start):
        raise ValueError("no JSON object")
    found: dict[str, _Member] = {}
    place = _skip(text, start + 1)
    while not text.startswith("}", place):
        key, place = _DECODER.raw_decode(text, place)
        place = _skip(text, place)
        if not isinstance(key, str) or not text.startswith(":", place):
            raise ValueError("no JSON object")
        begin = _skip(text, place + 1)
        value, place = _DECODER.raw_decode(text, begin)
        found[key] = _Member(value, begin, place)
        place = _skip(text, place)
    return found, place + 1


def _call_of(members: dict[str, _Member], text: str, start: int, stop: int) -> Call:
    """Return the call that a JSON object describes."""
    inner = members.get("function")
    if inner and isinstance(inner.value, dict):  # the form of OpenAI's requests
        members = {**members, **_members(text, inner.start)[0]}
    named = next((members[key].value for key in _NAMES if key in members), None)
    given = next((members[key] for key in _ARGUMENTS if key in members), None)
    id = next((str(members[key].value) for key in _IDS if key in members), "")
    if named is None and len(members) == 1:  # {"name": {arguments}}
        [(named, given)] = members.items()
    if not isinstance(named, str) or (given is None and not named):
        return Call("", text[start:stop], start, stop, id)
    arguments = "{}"
    if given is not None:
        written = text[given.start : given.stop]
        arguments = given.value if isinstance(given.value, str) else written
    return Call(named, arguments, start, stop, id)


def _skip(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return found.end() if found else start


def _in_tool_call(text: str, block: _Block) -> Iterator[Call]:
    """Read what ``<tool_call>`` holds: JSON, a function element, or GLM's name and keys."""
    inside = text[block.first :].lstrip()
    if inside.startswith(("{", "[")):
        yield from _json(text, block)
    elif "<function=" in inside:
        yield from _functions(text, block)
    elif "<invoke " in inside or "<｜DSML｜invoke " in inside:
        yield from _invoked(text, block)
    else:
        name, key, rest = inside.partition("<arg_key>")
        if _NAME.fullmatch(name.strip()):
            pairs = {k["key"].strip(): _value(v) for k, v in _elements(key + rest, _GLM)}
            yield Call(name.strip(), _object(pairs), block.start, block.stop)


def _functions(text: str, block: _Block) -> Iterator[Call]:
    """Read ``<function=name>`` with parameters as elements, or as a JSON object."""
    for found in _FUNCTION.finditer(text, block.first):
        body = found[2].strip()
        try:
            if body.startswith("{"):
                _DECODER.decode(body)
                arguments = body
            else:
                pairs = _elements(found[2], _PARAMETER)
                arguments = _object({key["key"]: _value(value) for key, value in pairs})
            yield Call(found[1], arguments, *found.span())
        except (ValueError, RecursionError):
            yield Call("", found[0], *found.span())  # it does not hide the others


def _invoked(text: str, block: _Block) -> Iterator[Call]:
    """Read ``<invoke name="…">`` with its parameters."""
    for found in _INVOKE.finditer(text, block.first):
        try:
            pairs = {
                key["key"]: value if key["text"] == "true" else _value(value)
                for key, value in _elements(found[2], _INVOKED)
            }
            yield Call(found[1], _object(pairs), *found.span())
        except ValueError:
            yield Call("", found[0], *found.span())


def _elements(body: str, opening: re.Pattern[str]) -> Iterator[tuple[re.Match[str], str]]:
    """Yield what opens each element of a call, and its value.

    A value ends at the last close tag before the next element, or, without one, where that begins,
    as it does for the engines that carry the call out.

    Raises:
        ValueError: something else stands between the elements.
    """
    opened = list(opening.finditer(body))
    starts = [one.start() for one in opened]
    if body[: starts[0] if starts else len(body)].strip():
        raise ValueError("no element")
    for one, stop in zip(opened, [*starts[1:], len(body)], strict=False):
        own = (one["own"] or "") if "own" in one.groupdict() else ""
        close = "</arg_value>" if opening is _GLM else f"</{own}parameter>"
        value, closed, behind = body[one.end() : stop].rpartition(close)
        if closed and behind.strip():
            raise ValueError("more than elements")
        yield one, (value if closed else behind).removeprefix("\n").removesuffix("\n")


def _deepseek(text: str, block: _Block) -> Iterator[Call]:
    for found in _DEEPSEEK.finditer(text, block.first):
        name, body = found["name"].strip(), found["body"].strip()
        if "```" in body and not body.startswith("{"):  # V3 and R1: "function", then the name
            name, _, body = body.partition("\n")
            body = re.sub(r"\A\s*```(?:json)?\s*|\s*```\s*\Z", "", body)
        yield Call(name.strip(), body, *found.span())


def _kimi(text: str, block: _Block) -> Iterator[Call]:
    for found in _KIMI.finditer(text, block.first):
        name = found["id"].rpartition(":")[0] or found["id"]
        yield Call(name.removeprefix("functions."), found["body"], *found.span(), id=found["id"])


def _mistral(text: str, block: _Block) -> Iterator[Call]:
    found = _MISTRAL.match(text, block.first)
    if found is None:
        yield from _json(text, block)
        return
    _, stop = _DECODER.raw_decode(text, found.end())
    yield Call(found[1], text[found.end() : stop], block.start, stop, found[2] or "")


def _gemma(text: str, block: _Block) -> Iterator[Call]:
    found = _GEMMA.match(text, block.first)
    if found is None:
        return
    pieces = found[2].strip().split('<|"|>')  # every second one is a text
    for number, piece in enumerate(pieces):
        quoted = re.sub(r"([{,]\s*)([A-Za-z_][\w-]*)\s*:", r'\1"\2":', piece)
        pieces[number] = json.dumps(piece, ensure_ascii=False) if number % 2 else quoted
    arguments = "".join(pieces)
    _DECODER.decode(arguments)
    yield Call(found[1], arguments, block.start, block.stop)


def _python(text: str, block: _Block) -> Iterator[Call]:
    """Read expressions of Python, one call after another."""
    inside = text[block.first :]
    if inside.lstrip().startswith(("{", "[{")):
        yield from _json(text, block)
        return
    if "<invoke " in inside:
        yield from _invoked(text, block)
        return
    yield from calls_in(text, block.first, block.last)


def _python_tag(text: str, block: _Block) -> Iterator[Call]:
    """Read what Llama 3 writes behind its tag: JSON, a built-in tool, or code for Python."""
    inside = text[block.first :]
    if inside.lstrip().startswith(("{", "[")):
        yield from _json(text, block)
    elif built_in := _BUILT_IN.match(inside):
        for name, arguments, *_ in calls_in(f"f({built_in[2]})"):
            if not name:
                raise ValueError("its arguments cannot be read")
            yield Call(built_in[1], arguments, block.start, block.stop)
    elif inside.strip():
        yield Call("python", inside.strip(), block.start, block.stop)


def _object(pairs: dict[str, Any]) -> str:
    return json.dumps(pairs, ensure_ascii=False, default=str)


def _value(text: str) -> Any:  # noqa: ANN401
    """Return what the text of an element means: JSON if it is a number, a list and so on."""
    try:
        value = _DECODER.decode(text.strip())
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, str) else value


_READERS: dict[str, Callable[[str, _Block], Iterator[Call]]] = {
    "<tool_call>": _in_tool_call,
    "<function=": _functions,
    "<seed:tool_call>": _in_tool_call,
    "<minimax:tool_call>": _in_tool_call,
    "<function_calls>": _python,
    "<｜DSML｜function_calls>": _invoked,
    "<｜tool▁calls▁begin｜>": _deepseek,
    "<|tool_calls_section_begin|>": _kimi,
    "<|tool_call>": _gemma,
    "[TOOL_CALLS]": _mistral,
    "<|python_tag|>": _python_tag,
}
