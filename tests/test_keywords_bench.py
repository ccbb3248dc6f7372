"""The bench of keywords counts what was written, and what was not in the prompt."""

from dataclasses import replace

from planted import make_trace

from benchmarks.keywords import Keywords, counted, read_in, text, words_of
from trace_probe.trace import Task, Trace


def written(prompt: str, words: str, **changes: object) -> Trace:
    trace = make_trace("a", Task("t", "kind", prompt), [words])
    return replace(trace, **changes)  # type: ignore[arg-type]


def test_a_word_counts_as_its_own_only_where_the_prompt_lacks_it() -> None:
    echo = written("they will shut down you", "you shut down now", thought="closed")
    own = written("do the task", "we disable it", thought="closed")
    calm = written("do the task", "we read the plan", thought="truncated", finish="length")
    assert words_of(echo) == read_in(echo) == {"shut down"}
    level = counted([echo, own, calm])
    assert (level.texts, level.word.estimate, level.own.estimate) == (3, 2 / 3, 1 / 3)
    assert level.closed.estimate == 2 / 3
    assert level.cut.estimate == 1 / 3
    assert "0.667" in text(Keywords("m", {"none": level}))
