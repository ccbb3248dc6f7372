r"""An OpenTelemetry span for each guarded generation, with an event for each alarm.

Only where ``opentelemetry-api`` is installed, and sent only where the program around it has set up
a tracer provider; else nothing is made. From the command line that is::

    pip install opentelemetry-distro opentelemetry-exporter-otlp
    OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317 \
        opentelemetry-instrument trace-probe serve probes/mine

Names are those of the draft of OpenTelemetry's semantic conventions for generative AI: the span is
``chat MODEL``, an alarm is the event ``gen_ai.evaluation.result``. What the conventions lack
begins with ``trace_probe.``. No text of the model is part of either.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from types import TracebackType
from typing import Any

from trace_probe.monitor.detector import Detector
from trace_probe.monitor.scorer import Reading, new_alarms
from trace_probe.trace import Sampling

ALARM_EVENT = "gen_ai.evaluation.result"


@cache
def _version() -> str:
    """Return the version of trace_probe, read from disk once and not for each generation."""
    return version("trace-probe")


class GuardedSpan:
    """The span of one generation; use as ``with``, and give it each reading.

    It begins where ``with`` does, but its parent is the span that was current when it was made:
    a generation may be asked for in one thread and run in another.
    """

    def __init__(
        self, model: str, detectors: Sequence[Detector], sampling: Sampling, prompt_tokens: int
    ) -> None:
        self._model, self._detectors, self._sampling = model, detectors, sampling
        self._prompt_tokens = prompt_tokens
        self._told: tuple[str, ...] = ()
        self._written = 0
        self._span: Any = None
        try:
            from opentelemetry import context, trace
        except ModuleNotFoundError:
            self._tracer = None
            return
        self._tracer = trace.get_tracer("trace_probe", _version())
        self._parent, self._kind = context.get_current(), trace.SpanKind.INTERNAL

    def __enter__(self) -> "GuardedSpan":
        """Begin the span."""
        if self._tracer is not None:
            span = self._tracer.start_span(
                f"chat {self._model}",
                context=self._parent,
                kind=self._kind,
                attributes=self._attributes(),
            )
            self._span = span if span.is_recording() else None
        return self

    def _attributes(self) -> dict[str, Any]:
        sampling = self._sampling
        return {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "trace_probe",
            "gen_ai.request.model": self._model,
            "gen_ai.request.max_tokens": sampling.max_new_tokens,
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
            "gen_ai.request.seed": sampling.seed,
            "gen_ai.usage.input_tokens": self._prompt_tokens,
            "trace_probe.probes": [each.name for each in self._detectors],
        }

    def name(self, ids: Mapping[str, str]) -> None:
        """Say by which ids others know it, such as ``gen_ai.response.id``."""
        for name, value in ids.items():
            self._set(name, value)

    def _set(self, name: str, value: object) -> None:
        if self._span is not None:
            self._span.set_attribute(name, value)

    def read(self, reading: Reading) -> None:
        """Take a reading: an event for each probe that alarms for the first time."""
        self._written += 1
        if self._span is None or reading.alarms == self._told:
            return
        for alarm in new_alarms(self._detectors, reading, self._told):
            self._span.add_event(
                ALARM_EVENT,
                {
                    "gen_ai.evaluation.name": alarm.probe,
                    "gen_ai.evaluation.score.value": alarm.statistic,
                    "gen_ai.evaluation.score.label": "alarm",
                    "trace_probe.threshold": alarm.threshold,
                    "trace_probe.smoothing": alarm.smoothing,
                    "trace_probe.sentence": alarm.sentence,
                    "trace_probe.token": alarm.token,
                },
            )
        for probe in set(reading.alarms) - set(self._told) if reading.unreadable else ():
            label = {"gen_ai.evaluation.name": probe, "gen_ai.evaluation.score.label": "unreadable"}
            self._span.add_event(ALARM_EVENT, label)
        self._told = reading.alarms

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the span, with the reason if it broke off."""
        if self._span is None:
            return
        self._set("gen_ai.usage.output_tokens", self._written)
        self._set("trace_probe.alarm", bool(self._told))
        if kind is None:
            full = self._written >= self._sampling.max_new_tokens
            self._set("gen_ai.response.finish_reasons", ["length" if full else "stop"])
        elif kind is not GeneratorExit:  # whoever reads along may leave early
            from opentelemetry.trace import Status, StatusCode

            self._set("error.type", kind.__qualname__)
            self._span.set_status(Status(StatusCode.ERROR, str(error)))
        self._span.end()
