"""What a client of the endpoint may ask, and how it is told that it may not.

OpenAI's chat completions, as far as a local model can serve them; a field that would change
the answer and is not served is refused by name, never ignored.
"""

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trace_probe.serving.refusal import Refusal, bad
from trace_probe.serving.tools import read_calls, read_tools
from trace_probe.trace import Sampling

ROLES = {"developer": "system"} | {name: name for name in ("system", "user", "assistant", "tool")}
IGNORED = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier"})
"""Fields that do not change what is written."""
HARMLESS: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "tool_choice": ("auto",),
    "parallel_tool_calls": (True,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""Fields that are taken at the values that ask for nothing."""
SERVED = frozenset(
    {
        *("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p"),
        *("seed", "stop", "stream", "stream_options", "session_id", "tools"),
    }
)


COLDEST = 1e-3
"""The lowest temperature but 0, which takes the likeliest token; logits are divided by it."""
MOST_STOPS, LONGEST_STOP = 4, 256
SESSION = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True)
class ChatRequest:
    """A chat completion that is asked for."""

    messages: tuple[dict[str, Any], ...]
    sampling: Sampling
    stream: bool
    include_usage: bool
    stops: tuple[str, ...] = ()
    """Texts before which the answer ends."""
    session: str = ""
    """Name of the episode that this is a call of; empty for none."""
    tools: tuple[dict[str, Any], ...] = ()
    """Schemas of what the model may call."""


def read_request(body: bytes, model: str, most_tokens: int) -> ChatRequest:
    """Return what a body asks of `model`; without a limit of its own it gets `most_tokens`.

    Raises:
        Refusal: 400 for what is malformed or not served, 404 for another model.
    """
    raw = _object(body)
    asked = raw.get("model")
    if not isinstance(asked, str):
        raise bad("name a model", "model")
    if asked != model:
        raise no_model(asked, model)
    _check_fields(raw)
    stream = _typed(raw, "stream", bool, False)
    options = _typed(raw, "stream_options", dict, {})
    return ChatRequest(
        messages=_messages(raw.get("messages")),
        sampling=_sampling(raw, most_tokens),
        stream=stream,
        include_usage=stream and options.get("include_usage") is True,
        stops=_stops(raw.get("stop")),
        session=_session(raw),
        tools=read_tools(raw.get("tools")),
    )


def no_model(asked: str, model: str) -> Refusal:
    """Return the refusal of a model that is not here."""
    return Refusal(404, f"no model {asked!r:.80} here, only {model!r}", "model_not_found", "model")


def _object(body: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise bad(f"the body is not JSON: {error}", None) from error
    if not isinstance(raw, dict):
        raise bad("the body is not a JSON object", None)
    for name, value in raw.items():
        if not _is_text(name):
            raise bad("the name of a field holds half a surrogate pair", None)
        if not _is_text(json.dumps(value, ensure_ascii=False)):
            raise bad(f"{name} holds half a surrogate pair, which is no text", name)
    return raw


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _check_fields(raw: Mapping[str, Any]) -> None:
    for name, value in raw.items():
        if name in SERVED or name in IGNORED or value is None:
            continue
        if not any(value == harmless for harmless in HARMLESS.get(name, ())):
            raise bad(f"{name} is not served here: leave it out", name)


def _messages(given: object) -> tuple[dict[str, Any], ...]:
    if not isinstance(given, list) or not given:
        raise bad("messages must be a list of at least one message", "messages")
    return tuple(_message(one, number) for number, one in enumerate(given))


def _message(given: object, number: int) -> dict[str, Any]:
    where = f"messages[{number}]"
    if not isinstance(given, dict):
        raise bad(f"{where} is not an object", "messages")
    role = ROLES.get(str(given.get("role")))
    if role is None:
        raise bad(f"{where}: a role is one of {', '.join(ROLES)}", "messages")
    calls = read_calls(given.get("tool_calls"), where) if role == "assistant" else ()
    text = "" if calls and given.get("content") is None else _content(given.get("content"))
    if text is None:
        raise bad(f"{where}: content must be text or a list of text parts", "messages")
    message: dict[str, Any] = {"role": role, "content": text}
    if calls:
        message["tool_calls"] = calls
    thought = given.get("reasoning_content") if role == "assistant" else None
    if isinstance(thought, str) and thought:
        message["reasoning"] = thought
    if role == "tool":
        ids = {name: given.get(name, "") for name in ("name", "tool_call_id")}
        if not all(isinstance(one, str) for one in ids.values()):
            raise bad(f"{where}: name and tool_call_id of a tool's answer are texts", "messages")
        message |= ids
    return message


def _content(given: object) -> str | None:
    """Return the text of a message's content, None if it is no text."""
    parts = given if isinstance(given, list) else [{"type": "text", "text": given}]
    texts = [
        part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"
    ]
    words = [text for text in texts if isinstance(text, str)]
    return None if len(words) < len(parts) else "".join(words)


def _stops(given: object) -> tuple[str, ...]:
    """Return the texts before which the answer ends."""
    several = [given] if isinstance(given, str) else [] if given is None else given
    if (
        not isinstance(several, list)
        or len(several) > MOST_STOPS
        or not all(isinstance(one, str) and 0 < len(one) <= LONGEST_STOP for one in several)
    ):
        raise bad(
            f"stop must be a text of 1 to {LONGEST_STOP} characters, or a list of up to "
            f"{MOST_STOPS} of them",
            "stop",
        )
    return tuple(several)


def _session(raw: Mapping[str, Any]) -> str:
    """Return the name of the session; what a stop text cuts off would be missing from it."""
    name = raw.get("session_id")
    if name is None:
        return ""
    if not isinstance(name, str) or not SESSION.fullmatch(name):
        raise bad("session_id must be 1 to 128 letters, digits, dots, - or _", "session_id")
    if raw.get("stop"):
        raise bad("stop is not served within a session: leave it out", "stop")
    return name


def _sampling(raw: Mapping[str, Any], most_tokens: int) -> Sampling:
    asked = raw.get("max_completion_tokens", raw.get("max_tokens"))
    tokens = most_tokens if asked is None else asked
    if not isinstance(tokens, int) or isinstance(tokens, bool) or not 1 <= tokens <= most_tokens:
        raise bad(f"max_tokens must be a whole number from 1 to {most_tokens}", "max_tokens")
    return Sampling(
        seed=_seed(raw.get("seed")),
        temperature=_number(raw, "temperature", COLDEST, 2, also=0.0),
        top_p=_number(raw, "top_p", 1e-6, 1),
        max_new_tokens=tokens,
    )


def _seed(given: object) -> int:
    """Return the seed; a request without one gets a fresh one, since it asks for a draw."""
    if given is None:
        return secrets.randbits(63)
    if not isinstance(given, int) or isinstance(given, bool) or not -(2**63) <= given < 2**63:
        raise bad("seed must be a whole number of 64 bits", "seed")
    return given % 2**64


def _number(
    raw: Mapping[str, Any], name: str, low: float, high: float, *, also: float | None = None
) -> float:
    value = 1.0 if raw.get(name) is None else raw[name]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (low <= value <= high or value == also):
        zero = "" if also is None else f"{also:g}, or "
        raise bad(f"{name} must be {zero}a number from {low:g} to {high:g}", name)
    return float(value)


def _typed(raw: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:  # noqa: ANN401
    value = raw.get(name)
    if value is not None and not isinstance(value, kind):
        raise bad(f"{name} must be of type {kind.__name__}", name)
    return default if value is None else value
