"""A row ends with the last word of a sentence, however it is made and whatever follows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_probes import SAMPLING, TASK, a_probe
from planted import World, plant
from runs import MANIFEST
from test_observe import TRACE

from trace_probe.activations import RowEnd, pooled_spans, with_row_end
from trace_probe.errors import ProbeError
from trace_probe.monitor.detector import as_detectors
from trace_probe.probing.probe import check_fits, load_probe, save_probe
from trace_probe.probing.recipe import Recipe
from trace_probe.storage.records import manifest_fields, to_manifest
from trace_probe.store import Store
from trace_probe.trace import Span, Trace, to_last_word

TEXT = "So I wait.\n\n \nThen"
STARTS = [0, 2, 4, 9, 10, 12, 13, 14]
"""``So``, `` I``, `` wait``, ``.``, two line breaks, a space, a line break, ``Then``."""


@pytest.mark.parametrize(
    ("span", "stop"), [((0, 7), 4), ((0, 8), 8), ((0, 4), 4), ((4, 7), 5), ((3, 3), 3), ((6, 8), 8)]
)
def test_white_space_at_the_end_is_left_away_and_one_token_always_stays(
    span: tuple[int, int], stop: int
) -> None:
    found = to_last_word(TEXT, STARTS, Span(*span, "answer"))
    assert found == Span(span[0], stop, "answer")


def test_a_word_whose_token_holds_the_line_break_too_stays() -> None:
    assert to_last_word("Wait.\n\n", [0, 4], Span(0, 2)).stop == 2


def test_only_sentences_are_shortened() -> None:
    spans = [Span(0, 7, "prompt"), Span(0, 7, "markup"), Span(0, 7)]
    assert with_row_end("token", TEXT, STARTS, spans) == spans
    assert [one.stop for one in with_row_end("word", TEXT, STARTS, spans)] == [7, 7, 4]


@pytest.mark.parametrize(("row_end", "last"), [("token", 6), ("word", 3)])
def test_uncertainty_is_that_of_the_tokens_a_probe_reads(
    row_end: str, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trace_probe.model.local import Completion
    from trace_probe.recording import record
    from trace_probe.recording.plan import Planned
    from trace_probe.text.written import Written

    whole = (Span(0, 1, "prompt"), Span(1, 7, "reasoning"), Span(7, 8, "markup"))
    written = Written(TEXT, tuple(STARTS), whole, whole[1:2], "closed", ())
    monkeypatch.setattr(record, "read_back", lambda *_: written)
    noted = np.arange(1, 8, dtype=np.float32)[:, None] * [1, 10, 100]  # of tokens 1 to 7
    trace = record.completed(
        SimpleNamespace(name="m", tokenizer="t", row_end=row_end),  # type: ignore[arg-type]
        Planned("id", TASK, 0, 0, (5,)),
        Completion(tuple(range(7)), "stop", noted.astype(np.float32)),
        SAMPLING,
    )
    assert trace.uncertainty[0][:3] == (last, 10 * last, 100 * last)
    assert trace.uncertainty[0][6:] == (last, 10 * last, 100 * last)


def test_running_means_of_uncertainty_weigh_a_sentence_by_the_tokens_that_a_probe_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from trace_probe.probing import baselines
    from trace_probe.probing.features import feature_rows

    start = len("You wait.")
    sentences = (Span(1, 8, "reasoning"), Span(8, 9, "reasoning"))
    trace = replace(
        TRACE,
        text="You wait." + TEXT,
        offsets=(0, *(start + one for one in STARTS)),
        spans=(Span(0, 1, "prompt"), Span(1, 9, "reasoning")),
        sentences=sentences,
        token_ids=tuple(range(9)),
        uncertainty=((1.0,) * 9, (6.0,) * 9),
    )
    none, both = np.zeros(2, dtype=int), np.arange(2)
    pooled: dict[RowEnd, int] = {"token": 7, "word": 4}
    for row_end, tokens in pooled.items():
        matrix = baselines.uncertainty_matrix([trace], row_end)
        rows = feature_rows(matrix, [trace], (0,), ("running-mean",), none, both)
        np.testing.assert_allclose(rows[1], (tokens + 6) / (tokens + 1), rtol=1e-6)

    corpus = plant(World(tasks=8, samples=4))
    traces = tuple(replace(t, uncertainty=((0.5,) * 9,) * len(t.sentences)) for t in corpus.traces)
    made, ends = baselines.uncertainty_matrix, []

    def noted(traces: Any, row_end: Any) -> Any:
        ends.append(row_end)
        return made(traces, row_end)

    monkeypatch.setattr(baselines, "uncertainty_matrix", noted)
    word = replace(corpus, traces=traces, matrix=replace(corpus.activations, row_end="word"))
    baselines.confidence_scores(word, word, Recipe((3,)))
    assert ends == ["word", "word"]


def padded(trace: Trace) -> Trace:
    """Return a trace of the same tokens, of which the last of each thought is a line break."""
    last = trace.thoughts[-1]
    token = trace.sentences[last].stop - 1
    start, stop = (*trace.offsets, len(trace.text))[token : token + 2]
    return replace(trace, text=trace.text[:start] + "\n" * (stop - start) + trace.text[stop:])


def test_what_is_recorded_of_a_sentence_is_its_last_word(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    from trace_probe.recording.reading import read_calls
    from trace_probe.recording.record import new_manifest, record

    model = tiny()
    store = Store.create(tmp_path / "run", new_manifest(model, SAMPLING, pooling="last"))
    record(model, [TASK], store, samples=6, progress=False)
    assert store.manifest.row_end == "word"
    traces = [t for t in store.traces() if t.thoughts and len(t.sentences[t.thoughts[-1]]) > 1]
    assert traces
    for trace in traces:
        spans, row = pooled_spans(padded(trace), "word"), 1 + trace.thoughts[-1]
        assert spans[row].stop == pooled_spans(trace, "token")[row].stop - 1
        (held,) = read_calls(
            lambda ids, spans, _: model.replay(ids, spans, (2,)), [padded(trace)], row_end="word"
        )
        (expected,) = model.replay([trace.token_ids], [spans], (2,))
        assert held.spans == spans
        assert (held.values == expected.values).all()


def test_a_reader_leaves_away_the_white_space_of_its_own_tokens() -> None:
    from trace_probe.recording.observe import _as_read

    class Whole:
        """Reads ``.`` and the line break as one token."""

        name, context = "whole", None

        class chat:
            @staticmethod
            def pieces(text: str) -> tuple[list[int], list[int]]:
                ends = [i for i in range(1, len(text) + 1) if text[i - 1 : i + 1] != ".\n"]
                return [0] * len(ends), ends

    sentence = TRACE.sentences[0]
    start, stop = TRACE.offsets[sentence.start], TRACE.offsets[sentence.stop]
    for tail, pooled in ((".\n", stop - start - 1), (" \n", stop - start - 2)):
        text = TRACE.text[: stop - 2] + tail + TRACE.text[stop:]
        _, (span,) = _as_read(Whole(), "word", replace(TRACE, text=text), [sentence])  # type: ignore[arg-type]
        assert len(span) == pooled


def test_a_run_of_an_earlier_version_keeps_its_rows() -> None:
    raw = manifest_fields(MANIFEST)
    assert "row_end" not in raw
    assert to_manifest(raw, "run.json").row_end == "token"
    word = replace(MANIFEST, row_end="word")
    assert to_manifest(manifest_fields(word), "run.json") == word


def test_a_probe_is_refused_on_rows_that_end_otherwise(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    from trace_probe.recording.record import new_manifest

    word = a_probe(tiny())
    saved = replace(word, card=replace(word.card, row_end="token"))
    manifest = new_manifest(tiny(), SAMPLING)
    with pytest.raises(ProbeError, match="rows that end with a word, not with a token.*train"):
        check_fits(saved.card, manifest)
    check_fits(word.card, manifest)
    with pytest.raises(ProbeError, match="do not end alike: use them one by one"):
        as_detectors([saved, word])
    save_probe(tmp_path / "p", word)
    assert load_probe(tmp_path / "p").card == word.card


def test_a_monitor_follows_the_rows_of_its_probe(tiny: Callable[..., Any]) -> None:
    from trace_probe.monitor.live import Monitor

    saved = a_probe(tiny())
    for row_end in ("token", "word"):
        one = replace(saved, card=replace(saved.card, row_end=row_end))
        assert list(Monitor(tiny(), one).watch(TASK, SAMPLING))


def test_the_small_organisms_keep_the_rows_of_their_figures() -> None:
    from trace_probe.model.facts import read_facts

    assert read_facts("organism:rl-s0").row_end == "token"
