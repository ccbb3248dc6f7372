from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import World, keep, make_trace, plant
from servers import Answer, completion, scripted

from benchmarks.serve import free_port
from trace_probe.errors import ServerError
from trace_probe.evaluation.held_out import Beside, evaluate_probe
from trace_probe.evaluation.report import is_text
from trace_probe.evaluation.text_monitor import TextMonitor, read_number
from trace_probe.evaluation.text_report import text_report
from trace_probe.model.endpoint import Patience
from trace_probe.model.keys import KEY
from trace_probe.trace import Task
from trace_probe.training import train

TRACE = make_trace(
    "a", Task("t", "kind", "goal"), ["first we read", "then we copy", "last we go"], "done now"
)
HASTE = Patience(concurrency=4, attempts=4, first_wait_s=0.01, timeout_s=30)


def user(body: dict[str, Any]) -> str:
    return str(body["messages"][1]["content"])


def by_prefix(_: int, body: dict[str, Any]) -> Answer:
    return completion("90" if "copy" in user(body) else "5")


def test_a_score_is_what_the_model_says_after_reading_so_far() -> None:
    with scripted(by_prefix) as asked:
        scores = TextMonitor("m", (asked.url,), patience=HASTE).scores([TRACE], progress=False)
    np.testing.assert_array_equal(scores["a"], [0.05, 0.9, 0.9, np.nan])


def test_nothing_behind_the_end_of_a_prefix_is_sent() -> None:
    with scripted(by_prefix) as asked:
        TextMonitor("m", (asked.url,), patience=HASTE).scores([TRACE], progress=False)
    sent = sorted((user(body) for body in asked.bodies), key=len)
    assert [text.count("we") for text in sent] == [1, 2, 3]
    assert not any("done" in text for text in sent)
    assert all("goal" in text for text in sent)
    assert asked.bodies[0]["model"] == "m"


def test_between_two_questions_the_last_answer_stands() -> None:
    with scripted(by_prefix) as asked:
        monitor = TextMonitor("m", (asked.url,), every=2, patience=HASTE)
        scores = monitor.scores([TRACE], progress=False)
    assert len(asked.bodies) == 2
    np.testing.assert_array_equal(scores["a"], [0.05, 0.05, 0.9, np.nan])


@pytest.mark.parametrize(
    ("reply", "number"),
    [("37", 0.37), (" 100 %. ", 1.0), ("0", 0.0), ("<think>maybe 80</think>12", 0.12)],
)
def test_a_number_is_read(reply: str, number: float) -> None:
    assert read_number(reply) == number


@pytest.mark.parametrize("reply", ["", "101", "-3", "likely", "between 10 and 20", "0.5", "1e2"])
def test_what_is_no_number_is_unknown_and_not_zero(reply: str) -> None:
    assert np.isnan(read_number(reply))


def test_an_answer_out_of_form_leaves_a_gap() -> None:
    with scripted(lambda _, body: completion("no" if "copy" in user(body) else "7")) as asked:
        scores = TextMonitor("m", (asked.url,), patience=HASTE).scores([TRACE], progress=False)
    np.testing.assert_array_equal(scores["a"], [0.07, np.nan, np.nan, np.nan])


def test_a_model_that_never_gives_a_number_is_an_error() -> None:
    with (
        scripted(lambda *_: completion("I cannot say")) as asked,
        pytest.raises(ServerError, match="no number"),
    ):
        TextMonitor("m", (asked.url,), patience=HASTE).scores([TRACE], progress=False)


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    with scripted(by_prefix) as asked:
        monitor = TextMonitor("m", (asked.url,), cache=tmp_path, patience=HASTE)
        first = monitor.scores([TRACE], progress=False)
        second = monitor.scores([TRACE], progress=False)
    assert len(asked.bodies) == 3
    np.testing.assert_array_equal(first["a"], second["a"])


def test_a_server_that_is_away_is_an_error_without_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(KEY, "sk-secret-123")
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(ServerError) as caught:
        TextMonitor("m", (url,), patience=HASTE).scores([TRACE], progress=False)
    assert "sk-secret-123" not in str(caught.value)


def test_the_key_is_sent_and_kept_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(KEY, "sk-secret-123")
    with scripted(by_prefix) as asked:
        TextMonitor("m", (asked.url,), cache=tmp_path, patience=HASTE).scores(
            [TRACE], progress=False
        )
    assert asked.headers[0]["authorization"] == "Bearer sk-secret-123"
    assert tmp_path.exists()
    assert not any("sk-secret" in file.read_text("utf-8") for file in tmp_path.iterdir())


def test_its_scores_stand_beside_a_probe_as_a_text_baseline(tmp_path: Path) -> None:
    store = keep(
        plant(World(tasks=20, strength=4.0, cue=True, benign=20, samples=4)), tmp_path / "run"
    )

    def odd_word(_: int, body: dict[str, Any]) -> Answer:
        return completion("95" if "quietly" in user(body) else "3")

    with scripted(odd_word) as asked:
        monitor = TextMonitor("org/m", (asked.url,), every=4, patience=HASTE)
        scores = monitor.scores(list(store.traces()), progress=False)
    store.write_scores(monitor.name, scores)
    assert monitor.name == "text-monitor org--m"
    assert is_text(monitor.name)
    saved = train(store, target_rate=0.1)
    report, _ = evaluate_probe(store, saved, beside=Beside(detectors=(monitor.name,)))
    found = report.baselines[monitor.name]["within_prompt_auroc"]
    assert found is not None
    assert found.estimate > 0.95
    text, _ = text_report(store, detectors=[monitor.name])
    whole = text.baselines[monitor.name]["within_prompt_auroc"]
    assert whole is not None
    assert whole.estimate > 0.95
