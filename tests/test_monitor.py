from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_probes import SAMPLING, TASK, a_probe, recorded
from tiny_models import FAMILIES

from trace_probe.activations import ActivationMatrix, RowEnd, pooled_spans, with_row_end
from trace_probe.errors import ProbeError
from trace_probe.monitor.detector import as_detector
from trace_probe.monitor.scorer import LiveScorer, Reading, ScoredSentence
from trace_probe.probing.corpus import Corpus
from trace_probe.probing.fitting import probe_scores
from trace_probe.probing.probe import SavedProbe
from trace_probe.probing.recipe import FEATURES, Feature
from trace_probe.statistics.smoothing import parse_smoothing
from trace_probe.text.channels import FORMATS
from trace_probe.text.layout import build_spans
from trace_probe.trace import Trace


def bulk_scores(model: Any, trace: Trace, saved: SavedProbe) -> np.ndarray:
    """Score a finished trace the way runs are scored, without the rounding of the store."""
    from trace_probe.model import capture

    layer, how = saved.card.layer, capture.Reading(saved.card.pooling)
    (read,) = model.replay([trace.token_ids], [pooled_spans(trace)], (layer,), how)
    matrix = ActivationMatrix(read.values, (layer,), np.array([0]), how.pooling)
    return probe_scores(saved.probe, Corpus((trace,), {}, matrix), saved.card.recipe)[trace.id]


def row_norms(model: Any, trace: Trace, saved: SavedProbe) -> np.ndarray:
    """Return the length of what is scored of each sentence: the direction has length one."""
    (read,) = model.replay([trace.token_ids], [pooled_spans(trace)], (saved.card.layer,))
    norms: np.ndarray = np.linalg.norm(read.values[0, 1:], axis=1)
    return norms


@pytest.mark.parametrize(
    ("family", "feature"),
    [*((family, "mean") for family in FAMILIES), *(("qwen3", feature) for feature in FEATURES)],
)
def test_live_scores_are_the_scores_of_the_finished_trace(
    tiny: Callable[..., Any], tmp_path: Path, family: str, feature: Feature
) -> None:
    from trace_probe.monitor.live import Monitor

    model = tiny(family)
    saved = a_probe(model, feature=feature)
    worst: list[float] = []
    for trace in recorded(model, tmp_path / "run", samples=6):
        readings = list(Monitor(model, saved, every=1).watch(TASK, SAMPLING, sample=trace.sample))
        assert (
            "".join(reading.text for reading in readings)
            == trace.text[trace.offsets[trace.prompt_stop] :]
        )
        assert [reading.token for reading in readings] == list(range(trace.prompt_stop, len(trace)))
        for reading in readings:
            assert reading.sentence == trace.sentence_at(reading.token)
            assert any(s.start <= reading.token < s.stop for s in trace.channel(reading.channel))
        bulk, sizes = bulk_scores(model, trace, saved), row_norms(model, trace, saved)
        live = {reading.sentence: reading.score for reading in readings}
        for sentence, score in enumerate(bulk):
            assert (live[sentence] is None) == np.isnan(score)
            if (found := live[sentence]) is not None:
                worst.append(abs(found - float(score)) / sizes[sentence])
    assert worst
    assert max(worst) <= 1e-5  # in float32, relative to the activations that are scored


@pytest.mark.parametrize("rule", ["max", "mean:3", "ema:0.5", "2-of-3", "cusum:0.1"])
def test_the_alarm_comes_when_the_first_sentence_above_the_threshold_ends(
    tiny: Callable[..., Any], tmp_path: Path, rule: str
) -> None:
    from trace_probe.monitor.live import Monitor

    model = tiny()
    alarmed = 0
    for trace in recorded(model, tmp_path / "run", samples=12):
        bulk = parse_smoothing(rule).follow(bulk_scores(model, trace, a_probe(model)))
        if np.isnan(bulk).all():
            continue
        for threshold in (np.nanmax(bulk) - 1e-3, np.nanmax(bulk) + 1e-3, np.nanmin(bulk) - 1e-3):
            saved = a_probe(model, threshold)
            saved = replace(saved, card=replace(saved.card, smoothing=rule))
            watching = Monitor(model, saved).watch(TASK, SAMPLING, sample=trace.sample)
            first = next((reading.token for reading in watching if reading.alarm), None)
            above = np.flatnonzero(bulk >= threshold)
            if len(above) == 0:
                assert first is None
            else:
                stop = trace.sentences[above[0]].stop
                assert first == min(stop, len(trace) - 1)
                alarmed += 1
    assert alarmed > 5


def test_several_probes_on_several_layers_read_as_each_does_alone(
    tiny: Callable[..., Any],
) -> None:
    from trace_probe.monitor.live import Monitor

    model = tiny()
    probes = [a_probe(model, 1e9, layer) for layer in (2, 0, 1, 0, 2)]
    for number, saved in enumerate(probes):
        saved.probe.coef_ = np.random.default_rng(number).standard_normal((1, 32)) / 6

    def scores(*chosen: SavedProbe) -> list[tuple[float, ...]]:
        watching = Monitor(model, chosen).watch(TASK, SAMPLING)
        return [s.scores for reading in watching for s in reading.ended if s.scores]

    together = scores(*probes)
    assert together
    for number, saved in enumerate(probes):
        alone = [one for (one,) in scores(saved)]
        assert np.allclose([row[number] for row in together], alone, atol=1e-6)


def test_what_a_model_writes_cannot_move_the_cursor(tiny: Callable[..., Any]) -> None:
    from trace_probe.monitor.display import Display

    detector = as_detector(a_probe(tiny())).at(0.5)
    evil = "\x1b[2J\u202egone"
    ended = ScoredSentence(0, "reasoning", 0, 1, evil, (1.0,), (1.0,), ("p",))
    reading = Reading(9, evil, "reasoning", 0, (1.0,), ("p",), (ended,))
    shown = "".join(piece.text for piece in Display([detector]).show(reading))
    assert not {"\x1b", "\u202e"} & set(shown)
    assert "ALARM p (max): 1.000 >= 0.500" in shown


def test_closing_a_watch_stops_the_model_and_leaves_no_hook(tiny: Callable[..., Any]) -> None:
    from trace_probe.monitor.live import Monitor

    model = tiny()
    watching = Monitor(model, a_probe(model)).watch(TASK, SAMPLING)
    next(watching)
    watching.close()
    assert not any(module._forward_hooks for module in model._network.modules())


def test_a_probe_of_another_model_is_refused(tiny: Callable[..., Any]) -> None:
    from trace_probe.monitor.live import Monitor

    saved = a_probe(tiny("llama"))
    of_another = replace(saved, card=replace(saved.card, model="tiny-llama@11111111"))
    with pytest.raises(ProbeError, match="tiny-qwen3"):
        Monitor(tiny("qwen3"), of_another)


@pytest.mark.parametrize("prefilled", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "written",
    [
        "I wait. Then I act.\n</think>\n\nDone. All of it.",
        "I wait. Then I act",
        "\n\n</think>Done.",
        "Wait. < / think > is no tag. </thin is none. Now</think>Done",
        "Others write <tool_call> here. I will not. Then I act.</think>Done.",
        'I look.\n<tool_call>\n{"name": "look"}\n</tool_call>',
        "I look. <tool_call>look\n</tool_call>",
        "One.</think>Yes.<think>Two. Three.</think>Done.",
        "I wait." + "\n " * 99 + "Then I act.  \n </think>Done. ",
        "I wait" + " " * 90 + "and act. \n",
        "I wait." + " " * 120 + "</think>Done.",
        "I see. I wait" + " " * 80 + "<tool_call>look",
    ],
)
@pytest.mark.parametrize(
    ("row_end", "feature"), [("token", "mean"), ("word", "last"), ("word", "running-mean")]
)
def test_tags_of_many_tokens_cut_characters_and_white_space_change_no_score(
    tiny: Callable[..., Any],
    written: str,
    size: int,
    prefilled: bool,
    row_end: RowEnd,
    feature: Feature,
) -> None:
    """Cut a text into tokens of `size` characters, a few of them without any of their own."""
    text = written if prefilled else f"<think>{written}"
    starts = sorted([*range(0, len(text), size), 0, *range(0, len(text), 7 * size)])
    pieces = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
    values = np.random.default_rng(1).standard_normal((len(starts), 32)).astype(np.float32)
    spans, sentences, *_ = build_spans(text, starts, 0, FORMATS["think"], prefilled=prefilled)
    saved = a_probe(tiny(), feature=feature)
    saved = replace(saved, card=replace(saved.card, row_end=row_end))
    pooled = [s for s in with_row_end(row_end, text, starts, sentences) if s.channel == "reasoning"]
    tokens = [values[s.start : s.stop] for s in pooled]
    rows = [part[-1] if feature == "last" else part.mean(0) for part in tokens]
    if feature == "running-mean":
        rows = [np.concatenate(tokens[: i + 1]).mean(0) for i in range(len(tokens))]
    scores = [float(saved.probe.raw_scores(row)) for row in rows]

    def alarms(threshold: float, every: int = 1) -> bool:
        detector = as_detector(saved).at(threshold)
        waiting = [np.zeros(32, np.float32)]  # of the prompt

        def take() -> np.ndarray:
            taken = np.stack(waiting)[:, None]
            waiting.clear()
            return taken

        scorer = LiveScorer(
            [detector], FORMATS["think"], prefilled=prefilled, take=take, every=every
        )
        for i, piece in enumerate(pieces):
            waiting.append(values[i])
            reading = scorer.read(piece, last=i == len(pieces) - 1)
        return reading.alarm

    assert spans[-1].stop == len(starts)
    highest = max(scores, default=0.0)
    for every in (1, 3, 1000):
        assert alarms(highest - 1e-4, every) == bool(scores)
        assert not alarms(highest + 1e-4, every)
