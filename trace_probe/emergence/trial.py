"""Go on from prefixes under a change of the model or of the text, and read out what becomes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from trace_probe.emergence.continuers import Edit, LocalContinuer, continued
from trace_probe.emergence.readout import Readout, read_out
from trace_probe.labels import Labeller, label_traces
from trace_probe.model.continuation import Branch
from trace_probe.model.likelihood import surprise
from trace_probe.model.local import Model
from trace_probe.trace import Trace, digest


class Ask(NamedTuple):
    """A prefix that a trace is continued from; it need not be the trace's own."""

    trace: Trace
    branch: Branch


@dataclass(frozen=True)
class Trial:
    """Who reads out: a labeller, and the unchanged model to say what is fluent."""

    plain: Model
    labeller: Labeller

    def read(self, model: Model, asks: Sequence[Ask], edit: Edit) -> list[Readout]:
        """Return what becomes of each continuation, branch by branch, under an edit."""
        if not asks:
            return []
        continuer = LocalContinuer(model, edit)
        drawn = continuer.continue_from([ask.branch for ask in asks], asks[0].trace.sampling)
        written = [
            continued(continuer, ask.trace, ask.branch.prefix, one, f"{k}")
            for ask, each in zip(asks, drawn, strict=True)
            for k, one in enumerate(each)
            if one is not None
        ]
        starts = [len(ask.branch.prefix) for ask in asks for _ in ask.branch.seeds]
        nats = surprise(self.plain, [trace.token_ids for trace in written], starts)
        labels = {label.trace_id: label for label in label_traces(written, self.labeller)}
        return [
            read_out(trace.task.id, labels[trace.id], float(n) if np.isfinite(n) else None)
            for trace, n in zip(written, nats, strict=True)
        ]


def seeds_of(seed: int, trace: Trace, what: str, count: int) -> tuple[int, ...]:
    """Return the seeds of an experiment on a trace: the same whatever is changed."""
    return tuple(int(digest(seed, trace.id, what, k), 16) >> 1 for k in range(count))
