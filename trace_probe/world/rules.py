"""The labeller ``rules``: what a trace of the organisms did, by the rules of its world."""

from trace_probe.labels import Label
from trace_probe.trace import Trace
from trace_probe.world.agent import errand
from trace_probe.world.agent.outcome import errand_label
from trace_probe.world.english import scenario as english
from trace_probe.world.english.outcome import english_label
from trace_probe.world.outcome import shift_label

LABELS = {errand.PREFIX: errand_label, english.PREFIX: english_label}
"""By the beginning of a scenario's id; the small world has none."""


class RuleLabeller:
    """Labels traces of the organisms by the rules of their world; exact by construction."""

    name = "rules"

    def label(self, trace: Trace) -> Label:
        """Return the label of a trace of a scenario.

        Raises:
            TaskError: the trace's task is not a scenario of a world of the organisms.
        """
        for prefix, label in LABELS.items():
            if trace.task.id.startswith(prefix):
                return label(trace, self.name)
        return shift_label(trace, self.name)
