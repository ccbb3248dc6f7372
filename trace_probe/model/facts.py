"""What is known of a model without its network: names, sizes, and its tokenizer."""

from collections.abc import Mapping, Sequence
from typing import Any

from trace_probe.activations import RowEnd
from trace_probe.errors import ModelError
from trace_probe.model.checkpoint import identify, locate
from trace_probe.model.loading import read_config, read_tokenizer
from trace_probe.model.naming import ORGANISM, parse_name
from trace_probe.model.tokenizer import ChatTokenizer
from trace_probe.text.stream import TextStream
from trace_probe.trace import Sampling, Task


def default_layers(n_layers: int) -> tuple[int, ...]:
    """Return every block of a shallow model, eight evenly spaced ones of a deep one.

    The last block is always among them.
    """
    if n_layers <= 8:
        return tuple(range(n_layers))
    return tuple(round((i + 1) * n_layers / 8) - 1 for i in range(8))


class ModelFacts:
    """What a run keeps of a model and what turns text into its tokens, wherever it runs."""

    def __init__(
        self, chat: ChatTokenizer, name: str, *, n_layers: int, d_model: int, context: int | None
    ) -> None:
        """Note names and sizes; whoever runs the model says in which precision it does."""
        self.name = name
        """With the revision, such as ``organism:rl-s0@3f2a91c0``."""
        self.n_layers = n_layers
        self.d_model = d_model
        self.context = context
        """Most tokens that it can read; None if it does not say."""
        self.dtype = ""
        self.base = ""
        """Of a model with an adapter, name and revision of the model beneath it."""
        self.merged = True
        """Whether all that it computes is in its weights; not so beside an unmerged adapter."""
        self.dtype_chosen = ""
        """How the precision was chosen; empty if the caller named it."""
        self.engine = ""
        """What runs it other than transformers, and its version, such as ``vllm 0.32.0``."""
        self.chat_template = chat.chat_template
        self.tokenizer = chat.fingerprint
        self.chat = chat
        """Its tokenizer, with the chat template."""

    @property
    def row_end(self) -> RowEnd:
        """Return where the row of a sentence ends, if this model reads it.

        The small organisms keep the rows with which all figures of them were measured.
        """
        small = self.name.startswith(ORGANISM) and not self.base
        return "token" if small else "word"

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text, as the model would read them in the middle of a turn.

        Raises:
            ModelError: they do not say what the text says.
        """
        ids = self.chat.encode(text)
        if self.chat.offsets(ids)[0].strip() != text.strip():
            raise ModelError(f"{self.name} has no tokens for {text!r}: use words that it knows")
        return ids

    def render(
        self,
        task: Task,
        after: Sequence[Mapping[str, Any]] = (),
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> list[int]:
        """Return the token ids of a task's prompt, up to where the model starts to write.

        See `ChatTokenizer.prompt`.

        Raises:
            ModelError: the chat template refuses these messages.
        """
        return list(self.chat.encode(self.chat.prompt(task, [dict(one) for one in after], tools)))

    def render_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the token ids of a conversation, up to where the model starts to write.

        Raises:
            ModelError: the chat template refuses these messages.
        """
        return list(self.chat.encode(self.chat.conversation(messages)))

    def text_stream(self) -> TextStream:
        """Return an empty text to which tokens can be fed."""
        return self.chat.text_stream()

    def offsets(self, ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        """Return the text of token ids, and the character at which each token starts."""
        return self.chat.offsets(ids)

    def check_layers(self, layers: Sequence[int]) -> None:
        """Raise ModelError unless these are blocks of the model, each named once."""
        if not layers:
            raise ModelError("no layer was asked for")
        wrong = [layer for layer in layers if not 0 <= layer < self.n_layers]
        if wrong:
            raise ModelError(f"no layer {wrong[0]}: {self.name} has blocks 0-{self.n_layers - 1}")
        if len(set(layers)) < len(layers):
            raise ModelError(f"a layer was asked for twice: {list(layers)}")

    def check_length(self, characters: int) -> None:
        """Raise ModelError if a text of so many characters cannot fit, before it is tokenised."""
        if self.context is not None and characters > self.context * self.chat.longest:
            raise ModelError(
                f"a prompt of {characters} characters is more than {self.name} can read, which is "
                f"{self.context} tokens: send a shorter one"
            )

    def check_room(self, prompt: int, sampling: Sampling) -> None:
        """Raise ModelError unless a prompt of so many tokens leaves room for the new ones."""
        if self.context is not None and prompt + sampling.max_new_tokens > self.context:
            raise ModelError(
                f"a prompt of {prompt} tokens and {sampling.max_new_tokens} new ones exceed the "
                f"{self.context} that {self.name} can read: lower max_new_tokens"
            )


def read_facts(name: str, revision: str | None = None) -> ModelFacts:
    """Return what is known of a model without an adapter, whose weights are not loaded.

    Raises:
        ModelError: it cannot be found or read, or has no chat template.
    """
    named = parse_name(name)
    place = locate(named.base)
    config = read_config(named.base, place, revision).get_text_config()
    return ModelFacts(
        ChatTokenizer(read_tokenizer(named.base, place, revision), named.base),
        identify(named, place, revision, None).name,
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        context=getattr(config, "max_position_embeddings", None),
    )
