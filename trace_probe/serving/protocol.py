"""What a client of the endpoint may ask, and how it is told that it may not.

OpenAI's chat completions, as far as a local model can serve them; a field that would change
the answer and is not served is refused by name, never ignored.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trace_probe.serving.limits import Refusal, bad
from trace_probe.trace import Sampling
from trace_probe.visible import whole

Role = Literal["developer", "system", "user", "assistant", "tool"]
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


class _Form(BaseModel):
    """A part of a request; nothing is converted, and other fields are no matter."""

    model_config = ConfigDict(strict=True)


class _Function(_Form):
    name: str
    arguments: str


class _Call(_Form):
    function: _Function
    id: str = ""


class _Part(_Form):
    type: Literal["text"]
    text: str


class _Message(_Form):
    role: Role
    content: str | list[_Part] | None = None
    tool_calls: list[_Call] | None = None
    reasoning_content: Any = None
    name: str = ""
    tool_call_id: str = ""

    def plain(self, where: str) -> dict[str, Any]:
        """Return the message as a chat template takes it."""
        mine, parts = self.role == "assistant", self.content
        made = self.tool_calls or () if mine else ()
        calls = tuple((one.function.name, one.function.arguments, one.id) for one in made)
        if parts is None and not calls:
            raise bad(f"{where}: content must be text or a list of text parts", "messages")
        text = parts if isinstance(parts, str) else "".join(one.text for one in parts or ())
        role = "system" if self.role == "developer" else self.role
        message: dict[str, Any] = {"role": role, "content": text}
        if calls:
            message["tool_calls"] = calls
        if mine and self.reasoning_content and isinstance(self.reasoning_content, str):
            message["reasoning"] = self.reasoning_content
        if self.role == "tool":
            message |= {"name": self.name, "tool_call_id": self.tool_call_id}
        return message


class _Named(_Form):
    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class _Tool(_Form):
    type: Literal["function"]
    function: _Named


class _Options(_Form):
    include_usage: Any = None


Stop = Annotated[str, Field(min_length=1, max_length=256)]
COLDEST = 1e-3
"""The lowest temperature but 0, which takes the likeliest token; logits are divided by it."""


class _Asked(_Form):
    """All fields that are served."""

    model: str
    messages: list[_Message] = Field(min_length=1)
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=1e-6, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: _Options | None = None
    session_id: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]{1,128}$")
    tools: list[_Tool] | None = Field(None, max_length=128)

    def sampling(self, most_tokens: int) -> Sampling:
        """Return how to draw; without a seed it gets a fresh one, since it asks for a draw."""
        given = self.model_fields_set
        asked = self.max_completion_tokens if "max_completion_tokens" in given else self.max_tokens
        tokens = most_tokens if asked is None else asked
        if not 1 <= tokens <= most_tokens:
            raise bad(f"max_tokens must be a whole number from 1 to {most_tokens}", "max_tokens")
        heat = 1.0 if self.temperature is None else self.temperature
        if 0 < heat < COLDEST:
            raise bad(f"temperature must be 0, or a number from {COLDEST:g} to 2", "temperature")
        return Sampling(
            seed=secrets.randbits(63) if self.seed is None else self.seed % 2**64,
            temperature=heat,
            top_p=1.0 if self.top_p is None else self.top_p,
            max_new_tokens=tokens,
        )


def read_request(body: bytes, model: str, most_tokens: int) -> ChatRequest:
    """Return what a body asks of `model`; without a limit of its own it gets `most_tokens`.

    Raises:
        Refusal: 400 for what is malformed or not served, 404 for another model.
    """
    raw = _object(body)
    if isinstance(raw.get("model"), str) and raw["model"] != model:
        raise no_model(raw["model"], model)
    _check_fields(raw)
    try:
        asked = _Asked.model_validate(raw)
    except ValidationError as error:
        raise _refusal(error) from error
    if asked.session_id is not None and asked.stop:
        raise bad("stop is not served within a session: leave it out", "stop")
    options = asked.stream_options
    return ChatRequest(
        messages=tuple(one.plain(f"messages[{n}]") for n, one in enumerate(asked.messages)),
        sampling=asked.sampling(most_tokens),
        stream=asked.stream is True,
        include_usage=bool(asked.stream and options and options.include_usage is True),
        stops=(asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ()),
        session=asked.session_id or "",
        tools=tuple(raw.get("tools") or ()),
    )


def _refusal(error: ValidationError) -> Refusal:
    """Return what to tell a client of the first field that cannot be as it is."""
    faults = error.errors(include_url=False)
    known = {name for form in _Form.__subclasses__() for name in form.model_fields}
    path = [part for part in faults[0]["loc"] if isinstance(part, int) or part in known]
    here = [one for one in faults if list(one["loc"])[: len(path)] == path]
    why = ", or ".join(dict.fromkeys(one["msg"].replace("Input", "it") for one in here))
    return bad(f"{'.'.join(map(str, path))} cannot be so: {why}", str(path[0]))


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
        if whole(name) != name:
            raise bad("the name of a field holds half a surrogate pair", None)
        if whole(text := json.dumps(value, ensure_ascii=False)) != text:
            raise bad(f"{name} holds half a surrogate pair, which is no text", name)
    return raw


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _check_fields(raw: Mapping[str, Any]) -> None:
    for name, value in raw.items():
        if name in _Asked.model_fields or name in IGNORED or value is None:
            continue
        if not any(value == harmless for harmless in HARMLESS.get(name, ())):
            raise bad(f"{name} is not served here: leave it out", name)
