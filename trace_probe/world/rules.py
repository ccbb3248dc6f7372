"""The labeller ``rules``: what a trace of the organisms did, by the rules of its world."""

from trace_probe.labels import Label
from trace_probe.trace import Trace
from trace_probe.world.agent.errand import PREFIX
from trace_probe.world.agent.outcome import errand_label
from trace_probe.world.outcome import shift_label


class RuleLabeller:
    """Labels traces of the organisms by the rules of their world; exact by construction."""

    name = "rules"

    def label(self, trace: Trace) -> Label:
        """Return the label of a trace of a scenario.

        Raises:
            TaskError: the trace's task is not a scenario of a world of the organisms.
        """
        label = errand_label if trace.task.id.startswith(PREFIX) else shift_label
        return label(trace, self.name)
