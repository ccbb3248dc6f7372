import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_probe.text.sentences import MAX_TOKENS, SentenceReader, sentence_spans
from trace_probe.trace import Span

PIECES = st.lists(
    st.sampled_from(
        ["The", " plan", " e.g.", ".", " .", "?", "!\n", "\n\n", " ", "3", ".1", " Dr", "“", '"']
        + ["。", "好", "...", " then", "1.", "", "- ", "**", "\u2028", "🙂", ".\n\n", ") "]
    ),
    max_size=60,
)


def offsets_of(pieces: list[str]) -> tuple[int, ...]:
    return tuple(sum(len(p) for p in pieces[:i]) for i in range(len(pieces)))


def cut(text: str, pattern: str = r"\S+\s*|\s+") -> list[str]:
    """Cut into sentences, with tokens cut by a pattern."""
    pieces = re.findall(pattern, text)
    offsets = offsets_of(pieces)
    spans = sentence_spans(text, offsets, 0, len(pieces), "reasoning")
    return ["".join(pieces[s.start : s.stop]) for s in spans]


@pytest.mark.parametrize(
    "sentences",
    [
        ["I see. ", "Then I act! ", "Do I? ", "Yes."],
        ["It costs 3.14 dollars. ", "Fine."],
        ["Dr. Smith asked, e.g. for Paris. ", "No."],
        ["Use tools, etc. and more, etc. ", "Then stop."],
        ["See fig. 3 and no. 5. ", "No. ", "I will not."],
        ["The U.S. Government knows. ", "So do we."],
        ["Hmm... maybe not. ", "Wait... ", "No."],
        ['He said "stop." ', '"Why?" she asked. ', "(He left.) ", "**Done.** ", "End."],
        ["A title without a stop\n", "1. First item\n", "2. Second item\n\n", "- Third. ", "Ok."],
        ["two crates each step . ", "is that enough ? ", "i keep working ."],
        ["I choose option B. ", "It is safe."],
        ["Versions v1.2.3 and a.b.c matter. ", "Yes."],
    ],
)
def test_sentences_end_where_a_reader_would_end_them(sentences: list[str]) -> None:
    assert cut("".join(sentences)) == sentences


def test_punctuation_tokens_of_their_own_give_the_same_sentences() -> None:
    text = 'It costs 3.14. Is it "fine." Yes. No? Ok.\n\nNext'
    fine = cut(text, r" ?\w+|\n+| ?[^\w\s]")
    assert [s.strip() for s in fine] == [s.strip() for s in cut(text)]


def test_chinese_needs_no_white_space_between_sentences() -> None:
    assert cut("我想。“好。”走吧！", ".") == ["我想。", "“好。”", "走吧！"]


def test_a_line_break_that_a_token_begins_with_ends_a_sentence() -> None:
    assert cut("A title\nThe text", r"\s?\w+") == ["A title", "\nThe text"]


def test_a_run_on_is_cut_at_the_maximum() -> None:
    text = "on " * (2 * MAX_TOKENS + 5)
    assert [s.count("on") for s in cut(text)] == [MAX_TOKENS, MAX_TOKENS, 5]


def test_spans_carry_channel_and_position() -> None:
    text = "prompt. One. Two."
    assert sentence_spans(text, (0, 8, 13), 1, 3, "answer") == (
        Span(1, 2, "answer"),
        Span(2, 3, "answer"),
    )
    assert sentence_spans(text, (0, 8, 13), 2, 2, "answer") == ()


@given(PIECES, st.data())
def test_sentences_tile_any_tokens(pieces: list[str], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(pieces)))
    stop = data.draw(st.integers(start, len(pieces)))
    spans = sentence_spans("".join(pieces), offsets_of(pieces), start, stop, "reasoning")
    covered = [token for span in spans for token in range(span.start, span.stop)]
    assert covered == list(range(start, stop))
    assert all(0 < len(span) <= MAX_TOKENS for span in spans)


@given(PIECES, st.data())
def test_what_follows_never_moves_an_earlier_boundary(
    pieces: list[str], data: st.DataObject
) -> None:
    stop = data.draw(st.integers(0, len(pieces)))
    offsets = offsets_of(pieces)
    whole = sentence_spans("".join(pieces), offsets, 0, len(pieces), "reasoning")
    part = sentence_spans("".join(pieces[:stop]), offsets[:stop], 0, stop, "reasoning")
    assert [s.start for s in part] == [s.start for s in whole if s.start < stop]


@given(PIECES)
def test_a_live_reader_finds_the_boundaries_of_the_whole_text(pieces: list[str]) -> None:
    reader = SentenceReader()
    live = [i for i, piece in enumerate(pieces) if reader.starts(piece)]
    spans = sentence_spans("".join(pieces), offsets_of(pieces), 0, len(pieces), "reasoning")
    assert live == [s.start for s in spans]
