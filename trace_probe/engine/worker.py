"""What is asked of vLLM's workers by name, through its own calls to all workers.

Only plain values go in and out: pooled rows as bytes with their shape, no tensors and no pickles.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trace_probe.engine.attached import first_rank
from trace_probe.trace import Span

if TYPE_CHECKING:
    from trace_probe.engine.attached import Asker, Attached, Capture

Packed = dict[str, Any]
"""Values as bytes, their shape, and the layers that they are of."""


class WorkerExtension:
    """Methods that vLLM adds to its workers: give it as ``worker_extension_cls``."""

    model_runner: Any

    def trace_probe_rows(
        self, wanted: Sequence[tuple[str, Sequence[tuple[int, int]]]], pooling: str
    ) -> list[Packed | None]:
        """Return the rows of requests, pooled over spans; None where rows are missing.

        Without a pooling, single rows of the one span of each. Of ranks that hold the same rows,
        the first one answers.
        """
        kept = self._trace_probe_capture().rows
        if not first_rank() or not kept.layers:
            return []
        found = []
        for key, places in wanted:
            spans = [Span(*place) for place in places]
            rows = kept.pooled(key, spans, pooling) if pooling else kept.tokens(key, spans[0])
            found.append(None if rows is None else _packed(rows, kept.layers))
        return found

    def trace_probe_noted(self, keys: Sequence[str]) -> list[Packed | None]:
        """Return how sure the model was of each token of requests that have ended."""
        draws = self._trace_probe_capture().draws
        found = [draws.taken(key) for key in keys]
        return [None if rows is None else _packed(rows, ()) for rows in found]

    def trace_probe_forget(self, keys: Sequence[str]) -> None:
        """Let go of the rows of requests."""
        self._trace_probe_capture().rows.forget(keys)

    def trace_probe_repeated(self) -> int:
        """Return how many rows were computed again, as after a preemption."""
        return self._trace_probe_capture().rows.repeated

    def trace_probe_told(self, name: str) -> list[dict[str, Any]]:
        """Return what the guard knows of the requests whose answer a client knows by a name."""
        guard = self._trace_probe_guard()
        return guard.told(name) if guard and first_rank() else []

    def trace_probe_untold(self) -> list[dict[str, Any]]:
        """Return what the guard knows of requests that are over and that nobody asks for."""
        guard = self._trace_probe_guard()
        return guard.untold() if guard and first_rank() else []

    def _trace_probe_guard(self) -> "Asker | None":
        attached: Attached | None = getattr(self.model_runner, "trace_probe", None)
        return None if attached is None else attached.guard

    def _trace_probe_capture(self) -> "Capture":
        attached: Attached | None = getattr(self.model_runner, "trace_probe", None)
        if attached is None or attached.capture is None:
            raise RuntimeError(
                "nothing is captured in this engine: its plug-in trace_probe was not loaded; "
                "install trace-probe in the environment of vLLM, and leave VLLM_PLUGINS unset or "
                "name trace_probe in it"
            )
        return attached.capture


def _packed(values: Any, layers: Sequence[int]) -> Packed:  # noqa: ANN401 - an array
    whole = np.ascontiguousarray(values, dtype=np.float32)
    return {"data": whole.tobytes(), "shape": list(whole.shape), "layers": list(layers)}


def unpacked(packed: Packed) -> Any:  # noqa: ANN401 - an array
    """Return the values that a worker sent."""
    return np.frombuffer(packed["data"], dtype=np.float32).reshape(packed["shape"])
