"""What a run will take on this machine in time, memory and disk, forecast from a rehearsal."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trace_probe.doctor.rates import PROMPT_WORDS, Rates, RehearsalPlan, Say, measure
from trace_probe.model.rehearsed import CHECKED_ROWS
from trace_probe.model.shapes import WORDS_A_SENTENCE
from trace_probe.recording.record import default_layers

GIB = 2**30
GROWTH = 1.5
"""How much larger than its content a cache may be, since it grows in steps."""
UNITS = ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))


@dataclass(frozen=True)
class Forecast:
    """What is expected of the whole run, in seconds and bytes."""

    seconds: dict[str, float]
    """By step of the road."""
    watch_seconds: float
    """A token, while one text is watched."""
    weight_bytes: int
    memory_bytes: int
    """Peak, weights included."""
    disk_bytes: float
    """Of one trace."""

    @property
    def total(self) -> float:
        """Return the seconds of all steps."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Rehearsal:
    """A rehearsal and the forecast that follows from it."""

    plan: RehearsalPlan
    rates: Rates
    forecast: Forecast

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "total_seconds": self.forecast.total}

    def __str__(self) -> str:
        """Return the rates and the forecast as text."""
        plan, rates, found = self.plan, self.rates, self.forecast
        shape = rates.shape
        built = (
            f"all {shape.blocks} blocks"
            if shape.built == shape.blocks
            else f"{shape.built} of {shape.blocks} blocks, scaled up"
        )
        why = f" ({shape.dtype_chosen})" if shape.dtype_chosen else ""
        thousand = 1000 / plan.tokens / plan.traces
        lines = [
            f"{plan.model}: {shape.parameters / 1e9:.2f} billion parameters, {shape.dtype}{why}, "
            f"on {shape.device}; rehearsed with {built}",
            "",
            f"{plan.traces} traces of {plan.tokens} tokens, batches of {plan.batch_size}",
            f"{'':14}{'whole run':>16}{'1000 tokens':>16}",
            *(
                f"{name:14}{duration(seconds):>16}{f'{seconds * thousand:.3g} s':>16}"
                for name, seconds in found.seconds.items()
            ),
            f"{'all':14}{duration(found.total):>16}{f'{found.total * thousand:.3g} s':>16}",
            f"{'watch':14}{'':>16}{f'{found.watch_seconds * 1000:.3g} s':>16}   one text at a time",
            "",
            f"{'memory':14}{f'{found.memory_bytes / GIB:.1f} GiB':>16}   at most, "
            f"{found.weight_bytes / GIB:.1f} GiB of it weights",
            f"{'disk':14}{f'{found.disk_bytes * plan.traces / GIB:.2f} GiB':>16}   "
            f"{found.disk_bytes / 2**20:.2f} MiB a trace",
            "",
            "Weights, texts and outcomes are random: only time, memory and disk mean anything.",
            f"Sentences of {WORDS_A_SENTENCE} tokens are assumed, and that every trace has its "
            f"full length.",
        ]
        return "\n".join(lines)


def rehearse(plan: RehearsalPlan, say: Say) -> Rehearsal:
    """Go the road with random weights of a model's shape and forecast a run of that model.

    Raises:
        ModelError: the shape is not known, does not fit, or cannot be recorded.
    """
    rates = measure(plan, say)
    return Rehearsal(plan, rates, forecast(plan, rates))


def forecast(plan: RehearsalPlan, rates: Rates) -> Forecast:
    """Return what a run takes, from what its parts took.

    Seconds of blocks are scaled from those that were built to all of the model; a head is
    there once. Steps after recording grow evenly with the number of rows.
    """
    shape, layers = rates.shape, plan.layers or len(default_layers(rates.shape.blocks))
    deeper, rows_a_trace = layers / rates.recorded_layers, plan.tokens / WORDS_A_SENTENCE
    rows = plan.traces * rows_a_trace
    batch = min(plan.batch_size, plan.traces)
    context = PROMPT_WORDS + plan.tokens / 2
    step = _whole(rates.step, rates.heads[plan.batch_size], shape.scale)
    step = step * batch / plan.batch_size + rates.step_a_token * shape.scale * batch * context
    read = _whole(rates.read, rates.heads[CHECKED_ROWS], shape.scale)
    after = {name: max(_line(points, rows), 0.0) for name, points in rates.learned.items()}
    after["store"] *= deeper
    after["train"] *= deeper
    cache = batch * shape.cached(PROMPT_WORDS + plan.tokens) * GROWTH
    return Forecast(
        seconds={
            "write": plan.traces / batch * plan.tokens * step,
            "read again": plan.traces * read,
            **after,
        },
        watch_seconds=_whole(rates.watch, rates.heads[1], shape.scale),
        weight_bytes=shape.weight_bytes,
        memory_bytes=int(
            (rates.base_bytes if shape.device == "cpu" else 0)
            + shape.weight_bytes
            + max(rates.write_bytes + cache, rates.read_bytes)
        ),
        disk_bytes=_line(rates.disk, rows) / plan.traces * deeper,
    )


def _whole(seconds: float, head: float, scale: float) -> float:
    """Return the seconds of the whole model: its head once, its blocks scaled up."""
    return min(head, seconds) + max(seconds - head, 0.0) * scale


def _line(points: Sequence[tuple[int, float]], at: float) -> float:
    """Return the value at a number of rows on the line through two measurements.

    A line that falls, or begins below nothing, is replaced by one through the larger.
    """
    (x0, y0), (x1, y1) = points
    slope = (y1 - y0) / (x1 - x0)
    start = y0 - slope * x0
    return start + slope * at if slope > 0 and start >= 0 else y1 / x1 * at


def duration(seconds: float) -> str:
    """Return seconds in the unit that suits them."""
    size, unit = next((one for one in UNITS if seconds >= 2 * one[0]), UNITS[-1])
    return f"{seconds / size:.1f} {unit}"
