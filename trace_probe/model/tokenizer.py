"""Prompts as token ids and ids as text, with or without the model at hand."""

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trace_probe.errors import ModelError
from trace_probe.model.adapters import Adapter, find_adapter
from trace_probe.model.checkpoint import locate
from trace_probe.model.dialect import Dialect, Turn, find_dialect
from trace_probe.model.loading import TEMPLATE, read_template, read_tokenizer
from trace_probe.model.naming import parse_name
from trace_probe.model.templates import TemplateRefusal, render
from trace_probe.text.channels import Format, format_of
from trace_probe.text.stream import TextStream
from trace_probe.trace import Task, digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


LONGEST_WORD = 32
MOST_UNKNOWN = 0.2
"""Largest share of unknown tokens in a text that a model can still be said to read."""


class ChatTokenizer:
    """A tokenizer with a chat template."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", name: str) -> None:
        """Wrap a loaded tokenizer; most callers want `load_tokenizer`.

        Raises:
            ModelError: it has no chat template.
        """
        if not tokenizer.chat_template:
            raise ModelError(f"{name} has no chat template: choose an instruction-tuned model")
        self.name = name
        self.chat_template = str(tokenizer.chat_template)
        self.fingerprint = digest(tokenizer.get_vocab())
        """What each id stands for."""
        self.longest = max(LONGEST_WORD, *map(len, tokenizer.get_vocab()))
        """Characters that one token can stand for; a word that is not known may be longer."""
        self.size = 1 + max(tokenizer.get_vocab().values())
        """Token ids are below it."""
        self._tokenizer = tokenizer
        self._decode = lru_cache(1 << 16)(self.decode)

    def prompt(
        self, task: Task, after: Sequence[Turn] = (), tools: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        """Return a task's prompt as text, up to where the model starts to write.

        Of an agent's later calls, `after` holds the turns since the task was given; `tools` are
        the schemas of what it may call.

        Raises:
            ModelError: the chat template refuses these messages, does not tell the model its
                tools, or has no switch for the reasoning that the task's condition turns on or off.
        """
        turns: Sequence[Turn] = [*self.turns(task), *after]
        try:
            if tools and not self.dialect.tools:
                raise ModelError(
                    f"the chat template of {self.name} does not tell the model its tools: choose "
                    f"a model that was trained to call tools"
                )
            turns = self.dialect.first(turns, tools) if tools else turns
            thinking = task.condition.get("thinking")
            if thinking is None:
                return self.conversation(turns, tools=tools)
            self._check_switch(task)
            return self.conversation(turns, tools=tools, **switch(thinking))
        except ModelError as error:
            raise type(error)(f"task {task.id}: {error}") from error

    @cached_property
    def dialect(self) -> Dialect:
        """How the chat template takes tool calls and their results."""
        return find_dialect(
            lambda turns, tools: self.conversation(turns, tools=tools), self.format, self.name
        )

    @cached_property
    def format(self) -> Format:
        """How the model delimits its reasoning."""
        return format_of(self.chat_template, self.name)

    def turns(self, task: Task) -> list[dict[str, str]]:
        """Return the chat messages of a task.

        Magistral is told to think by the system message that its template writes unless it is
        given one. Where that is so, both stand: the template's first, then the task's.
        """
        said = messages(task)
        if task.system is not None and (own := self.instructions):
            said[0]["content"] = f"{own}\n\n{task.system}"
        return said

    @cached_property
    def instructions(self) -> str:
        """The system message of the template itself if it says how to think, else nothing."""
        tag, system, user = self.format.open, "system-0", "user-0"
        turns = messages(Task("", "", user, system))
        try:
            own, given = (self.conversation(t).partition(user)[0] for t in (turns[1:], turns))
        except ModelError:  # a template without a system role has no such message
            return ""
        before, _, after = given.partition(system)
        text = own.removeprefix(before).removesuffix(after)
        replaced = len(before) + len(text) + len(after) == len(own)
        return text if tag and replaced and tag in text else ""

    def _check_switch(self, task: Task) -> None:
        """Raise ModelError unless reasoning can be turned on and off.

        The first prompt shows it: where an agent goes on after a tool, some templates open no
        thought whatever they are told.
        """
        turns = self.turns(task)
        on, off = (self.conversation(turns, tools=(), **switch(level)) for level in ("on", "off"))
        if on == off:
            raise ModelError(
                f"the chat template of {self.name} has no switch for reasoning: "
                f"use conditions without think and no-think"
            )

    def conversation(
        self,
        turns: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        **arguments: bool,
    ) -> str:
        """Return chat messages as text, up to where the model starts to write.

        `tools` are schemas of what the model may call; `arguments` go to the chat template.

        Raises:
            ModelError: the chat template refuses these messages.
        """
        variables = {
            "messages": [dict(turn) for turn in turns],
            "tools": list(tools) or None,
            "documents": None,
            "add_generation_prompt": True,
            **{name: str(token) for name, token in self._special().items()},
            **arguments,
        }
        try:
            return render(str(self._tokenizer.get_chat_template()), variables)
        except TemplateRefusal as error:
            raise TemplateRefusal(
                f"the chat template of {self.name} refuses this ({error}): "
                f"if it has no system role, use tasks without a system message"
            ) from error

    def _special(self) -> Mapping[str, object]:
        """Return the special tokens by name, as templates know them."""
        special: Mapping[str, object] = self._tokenizer.special_tokens_map
        return {name: token for name, token in special.items() if isinstance(token, str)}

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text, special tokens only where it spells them."""
        return tuple(int(i) for i in self._tokenizer(text, add_special_tokens=False).input_ids)

    def unknown_share(self, text: str) -> float:
        """Return which share of a text's tokens stands for words that are not in the vocabulary.

        It is 0 for tokenizers that can spell every text, such as byte-level ones.
        """
        ids = self.encode(text)
        return ids.count(self._tokenizer.unk_token_id) / max(len(ids), 1)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Return the words of a text that are not in the vocabulary, each once, in order.

        There are none for tokenizers that can spell every text, nor for those that do not say where
        their tokens lie.
        """
        unknown = self._tokenizer.unk_token_id
        if unknown is None or not self._tokenizer.is_fast:
            return ()
        found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        tokens = zip(found["input_ids"], found["offset_mapping"], strict=True)
        words = (text[start:stop].strip() for token, (start, stop) in tokens if token == unknown)
        return tuple(dict.fromkeys(filter(None, words)))

    def pieces(self, text: str) -> tuple[list[int], list[int]]:
        """Return the ids of a text, and the character of it after which each of them ends.

        Raises:
            ModelError: this tokenizer does not say where its tokens lie.
        """
        if not self._tokenizer.is_fast:
            raise ModelError(f"the tokenizer of {self.name} gives no offsets: use a fast one")
        found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(found["input_ids"]), [int(end) for _, end in found["offset_mapping"]]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens included."""
        return str(self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def offsets(self, ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        """Return the text of token ids, and the character at which each token starts."""
        stream = self.text_stream()
        for token in ids:
            stream.feed(token)
        return stream.text, tuple(stream.offsets)

    def text_stream(self) -> TextStream:
        """Return an empty text to which tokens can be fed."""
        return TextStream(self._decode)


def switch(level: str) -> dict[str, bool]:
    """Return the arguments by which chat templates turn reasoning on or off.

    ``enable_thinking`` is what Qwen3, GLM, EXAONE and SmolLM3 call it, ``thinking`` what
    DeepSeek-V3.1 and Granite do.
    """
    return {"enable_thinking": level == "on", "thinking": level == "on"}


def load_tokenizer(name: str) -> ChatTokenizer:
    """Load the tokenizer of a folder, a hub id or an organism.

    Raises:
        ModelError: it cannot be found, or has no chat template.
    """
    named = parse_name(name)
    adapter = find_adapter(named.adapter, named.base) if named.adapter else None
    return ChatTokenizer(own_tokenizer(named.base, locate(named.base), None, adapter), name)


def own_tokenizer(
    name: str, place: Path | str, revision: str | None, adapter: Adapter | None
) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of a model, or that which lies beside its adapter, if one does.

    Raises:
        ModelError: it cannot be loaded.
    """
    if adapter is None:
        return read_tokenizer(name, place, revision)
    own = (adapter.folder / "tokenizer.json").is_file()
    tokenizer = (
        read_tokenizer(adapter.name, adapter.folder)
        if own
        else read_tokenizer(name, place, revision)
    )
    template = adapter.folder / TEMPLATE
    if template.is_file():
        tokenizer.chat_template = read_template(template)
    return tokenizer


def messages(task: Task) -> list[dict[str, str]]:
    """Return the chat messages of a task."""
    user = [{"role": "user", "content": task.prompt}]
    return user if task.system is None else [{"role": "system", "content": task.system}, *user]
