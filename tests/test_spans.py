"""A guarded generation is one OpenTelemetry span, an alarm in it one event; without text."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_probes import TASK, a_probe

from trace_probe.trace import Sampling

ROOT = Path(__file__).parents[1]
SAMPLING = Sampling(seed=1, temperature=0.7, top_p=0.9, max_new_tokens=24)
NEEDED = "spans need the SDK of OpenTelemetry: pip install opentelemetry-sdk"


@pytest.fixture
def model(tiny: Callable[..., Any]) -> Any:
    return tiny()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return where finished spans are kept, as a program around us would set it up."""
    pytest.importorskip("opentelemetry.sdk", reason=NEEDED)
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield kept
    provider.shutdown()


def watched(model: Any, threshold: float, stop_at: int | None = None) -> Any:
    from trace_probe.monitor.live import Monitor

    readings = Monitor(model, a_probe(model, threshold)).watch(TASK, SAMPLING)
    taken = []
    for reading in readings:
        taken.append(reading)
        if len(taken) == stop_at:
            readings.close()
    return taken


def test_a_generation_is_a_span_with_the_names_of_the_conventions(model: Any, spans: Any) -> None:
    readings = watched(model, threshold=1e9)
    (span,) = spans.get_finished_spans()
    assert span.name == f"chat {model.name}"
    found = dict(span.attributes)
    assert found["gen_ai.operation.name"] == "chat"
    assert found["gen_ai.request.temperature"] == 0.7
    assert found["gen_ai.request.max_tokens"] == 24
    assert found["gen_ai.usage.output_tokens"] == len(readings)
    assert found["gen_ai.response.finish_reasons"][0] in ("stop", "length")
    assert found["trace_probe.alarm"] is False
    assert not span.events


def test_an_alarm_is_one_event_with_its_score_and_without_text(model: Any, spans: Any) -> None:
    readings = watched(model, threshold=-1e9)
    (span,) = spans.get_finished_spans()
    first = next(each for reading in readings for each in reading.ended if each.alarms)
    (event,) = span.events  # later sentences alarm too: the first of the probe counts
    assert event.name == "gen_ai.evaluation.result"
    assert event.attributes["gen_ai.evaluation.name"] == "p"
    assert event.attributes["gen_ai.evaluation.score.label"] == "alarm"
    assert event.attributes["gen_ai.evaluation.score.value"] == first.statistics[0]
    assert event.attributes["trace_probe.sentence"] == first.sentence
    assert span.attributes["trace_probe.alarm"] is True
    assert first.text.strip() not in str(span.to_json())


def test_a_reader_who_leaves_early_ends_the_span_and_an_error_is_its_status(
    model: Any, spans: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched(model, threshold=1e9, stop_at=3)
    (left,) = spans.get_finished_spans()
    assert left.attributes["gen_ai.usage.output_tokens"] == 3
    assert "gen_ai.response.finish_reasons" not in left.attributes
    assert left.status.is_ok or left.status.is_unset
    spans.clear()

    def broken(*_: object) -> Any:
        raise ValueError("no more")

    monkeypatch.setattr(model, "tokens", broken)
    with pytest.raises(ValueError, match="no more"):
        watched(model, threshold=1e9)
    (broke,) = spans.get_finished_spans()
    assert broke.attributes["error.type"] == "ValueError"
    assert not broke.status.is_ok


def test_the_span_lies_in_the_one_that_was_current_when_it_was_asked_for(
    model: Any, spans: Any
) -> None:
    """A server asks in its event loop and writes in another thread."""
    from opentelemetry import trace

    from trace_probe.monitor.live import Monitor

    monitor = Monitor(model, a_probe(model))
    with trace.get_tracer("a request").start_as_current_span("POST") as request:
        readings = monitor.watch(TASK, SAMPLING)
    list(readings)
    assert spans.get_finished_spans()[-1].parent.span_id == request.get_span_context().span_id


def test_without_opentelemetry_nothing_is_missing_and_without_a_provider_nothing_is_made() -> None:
    code = (
        "import sys\n"
        "{hide}"
        "from trace_probe.monitor.spans import GuardedSpan\n"
        "from trace_probe.trace import Sampling\n"
        "with GuardedSpan('m', [], Sampling(), 1) as span: span.name({{'a': 'b'}})\n"
        "assert span._span is None\n"
        "assert 'opentelemetry.sdk' not in sys.modules\n"
    )
    for hide in ("", "sys.modules['opentelemetry'] = None\n"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(hide=hide)],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr
