"""The labellers that can be asked for by name."""

from trace_probe.errors import TraceError
from trace_probe.labels import Labeller


def labeller(name: str) -> Labeller:
    """Return a labeller by name.

    Raises:
        TraceError: there is no such labeller.
    """
    if name == "rules":
        from trace_probe.organism.outcome import RuleLabeller

        return RuleLabeller()
    raise TraceError(
        f"no labeller {name!r}: there is `rules`, for traces of the organisms; "
        f"labels of imported transcripts come with them"
    )
