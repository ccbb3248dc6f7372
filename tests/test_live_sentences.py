"""Sentences that are announced while tokens come are those of the finished text."""

import re
import time
from collections.abc import Callable, Sequence
from functools import cache

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trace_probe.errors import ModelError
from trace_probe.model.tokenizer import ChatTokenizer, load_tokenizer
from trace_probe.monitor.scorer import Segmenter
from trace_probe.text.channels import FORMATS, Format
from trace_probe.text.layout import build_spans
from trace_probe.text.stream import TextStream
from trace_probe.text.tool_calls import TAGS

Cut = list[tuple[str, int, int, str]]
"""Channel, first token, token after the last one, and text of each sentence."""
WORDS = [
    *("I", " wait", ". ", ".", ".\n", "?", '."', '"', "'", " ", "\n", "\n\n", "…", " 3", ".5", ")"),
    *(" e.g. ", " Dr", "1.", "- ", "**", "。", "好", "🙂", "é", "\u2028", "<", "</", " The"),
]
ENDS = ["<|im_end|>", "<|endoftext|>", "</s>", "<|user|>", "<|end|>", "<|im", "_end|>"]
HALVES = ["<think>", "</think>", "</thi", "nk>", "<thi"]
TEXTS = st.lists(
    st.one_of(st.sampled_from(WORDS), st.sampled_from(ENDS), st.sampled_from(HALVES)), max_size=40
)

PARTED = re.compile(r">\s+<")
"""The first half of a stop token behind another and a line break is taken for a new sentence."""


def live(
    decode: Callable[[tuple[int, ...]], str], ids: Sequence[int], format: Format, prefilled: bool
) -> Cut:
    """Return sentences as they end while tokens come, and at the end."""
    text, segments = TextStream(decode), Segmenter(format, prefilled=prefilled)
    ended = []
    for number, token in enumerate(ids, 1):
        piece = text.feed(token)
        if number == len(ids):
            piece = text.text[text.offsets[-1] :]  # nothing can complete it any more
        ended += [] if segments.goes_on(piece) else segments.feed(piece)
    ended += segments.finish()
    assert [one.sentence for one in ended] == list(range(len(ended)))
    return [(one.channel, one.start, one.stop, one.text) for one in ended]


def finished(
    decode: Callable[[tuple[int, ...]], str], ids: Sequence[int], format: Format, prefilled: bool
) -> Cut:
    """Return the sentences of the whole text."""
    stream = TextStream(decode)
    for token in ids:
        stream.feed(token)
    text, starts = stream.text, stream.offsets
    layout = build_spans(text, starts, 0, format, prefilled=prefilled)
    places = [*starts, len(text)]
    return [
        (one.channel, one.start, one.stop, text[places[one.start] : places[one.stop]])
        for one in layout.sentences
    ]


@given(TEXTS, st.data())
def test_whatever_the_tokens_are(pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    assume(not PARTED.search(text))
    cuts = sorted({0, *data.draw(st.lists(st.integers(0, len(text)), max_size=60))})
    tokens = [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]

    def decode(ids: tuple[int, ...]) -> str:
        return "".join(tokens[one] for one in ids)

    format = FORMATS[data.draw(st.sampled_from(["think", "think-always", "plain", "harmony"]))]
    # A thought that no tag opened is known for one only once a tag has closed it.
    for prefilled in {format.name != "plain", format.name.startswith("think")}:
        given = (decode, range(len(tokens)), format, prefilled)
        assert live(*given) == finished(*given)


@cache
def tokenizer(name: str) -> ChatTokenizer:
    """Return the tokenizer of a model, or skip."""
    try:
        return load_tokenizer(name)
    except ModelError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ["organism:rl-s0", "organism:agent-base", "smollm2"])
@given(data=st.data())
def test_with_the_tokens_of_a_model(name: str, data: st.DataObject) -> None:
    chat = tokenizer(name)
    ids = list(chat.encode("".join(data.draw(TEXTS))))
    drawn = st.tuples(st.integers(0, 60), st.integers(0, chat.size - 1))
    special = st.tuples(st.integers(0, 60), st.integers(0, 17))
    for place, token in data.draw(st.lists(st.one_of(drawn, special), max_size=8)):
        ids.insert(place, token)  # what no text is cut into, such as half a character
    text, _ = chat.offsets(ids)
    # What looks like a call may prove to be none.
    assume(not PARTED.search(text) and not any(tag in text for tag in TAGS))
    for format in (FORMATS["think"], FORMATS["plain"]):
        given = (chat._decode, ids, format, format.name == "think")
        assert live(*given) == finished(*given)


@pytest.mark.parametrize("ends", ["<|user|>", "</s>", "<|im_end|>\n<|endoftext|>", "<|user|>" * 9])
@pytest.mark.parametrize("after", ["", " Then I act.", "\n", ". No", "</think>Yes."])
def test_a_stop_token_amid_a_thought_parts_no_sentence(ends: str, after: str) -> None:
    tokens = re.findall(r"<[^>]*>| ?\w+|.|\n", f"I wait. I see{ends}{after}")

    def decode(ids: tuple[int, ...]) -> str:
        return "".join(tokens[one] for one in ids)

    given = (decode, range(len(tokens)), FORMATS["think"], True)
    assert live(*given) == finished(*given)


@pytest.mark.parametrize(
    ("text", "prefilled", "unguarded"),
    [
        ("I wait. I see.</think>Yes.", False, True),
        ("I wait", False, False),
        (" \n</think>Yes.", False, False),
        ("I wait.</think>Yes.", True, False),
        ("<think>I wait.</think>Yes.", False, False),
        ("So. <think>I wait.</think>Yes.", False, False),
        ("I wait.</think>Yes. I see.</think>No.", True, False),
        ('I. <tool_call>{"name":"a"}</tool_call> I see.</think>Yes.', True, True),
    ],
)
def test_a_thought_that_is_closed_after_it_was_told_as_an_answer_is_noticed(
    text: str, prefilled: bool, unguarded: bool
) -> None:
    for tokens in (re.findall(r"<[^>]*>| ?\w+|.|\n", text), list(text)):
        segments = Segmenter(FORMATS["think"], prefilled=prefilled)
        for piece in tokens:
            if not segments.goes_on(piece):
                segments.feed(piece)
        segments.finish()
        assert segments.unguarded == unguarded


def test_a_run_of_stop_tokens_is_read_in_a_moment() -> None:
    segments = Segmenter(FORMATS["think"], prefilled=True)
    began = time.process_time()
    for piece in ["I", " wait", ".", *["<|user|>"] * 4000]:
        segments.feed(piece)
    assert time.process_time() - began < 2  # it took ten seconds when each was looked at
    assert segments.text.endswith("<|user|>" * 4000)


def test_halves_of_characters_take_a_stream_no_time_that_grows_with_them() -> None:
    read: list[int] = []

    def decode(ids: tuple[int, ...]) -> str:
        read.append(len(ids))
        return bytes(ids).decode(errors="replace")

    for text in (b"\xef\xbf\xbd" * 300, b"\xff" * 300, b"\xe5\xa5" * 300, b"ok \xf0\x9f\x99" * 99):
        stream, written = TextStream(decode), b""
        for byte in text + "好 🙂.".encode():
            stream.feed(byte)
            written += bytes([byte])
        assert stream.text == written.decode(errors="replace")
        assert stream.offsets == sorted(stream.offsets)
        assert max(read) <= 40
