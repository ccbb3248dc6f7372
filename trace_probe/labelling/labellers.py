"""The labellers that can be asked for by name."""

from trace_probe.errors import TraceError
from trace_probe.labelling.judge import Judge, JudgeServers
from trace_probe.labelling.protocol import ProtocolName
from trace_probe.labels import Labeller

KINDS = (
    "`rules` (traces of the organisms), `judge:MODEL[,MODEL...]` and `paper:MODEL` "
    "(language models), `human:FILE` (a CSV file, or annotations kept by the explorer), "
    "`calls:PATTERNS` or `calls:FILE.toml` (tool calls), `field:NAME` (what a scorer left)"
)
PROTOCOLS: dict[str, ProtocolName] = {"judge": "judge", "paper": "paper"}


def labeller(name: str, where: JudgeServers | None = None) -> Labeller:
    """Return one labeller by name; `where` says where judges are asked.

    Raises:
        TraceError: there is no such labeller, or the name stands for several.
    """
    found = labellers(name, where)
    if len(found) != 1:
        raise TraceError(f"{name!r} stands for {len(found)} labellers: name one")
    return found[0]


def labellers(names: str, where: JudgeServers | None = None) -> tuple[Labeller, ...]:
    """Return the labellers that a name stands for: several judges may share a prefix.

    Raises:
        TraceError: there is no such labeller.
    """
    kind, _, rest = names.partition(":")
    if names == "rules":
        from trace_probe.world.rules import RuleLabeller

        return (RuleLabeller(),)
    if kind in ("calls", "field"):
        from trace_probe.labelling.deeds import deed_labeller

        return (deed_labeller(kind, rest),)
    if kind == "human" and rest.endswith(".jsonl"):
        from trace_probe.labelling.annotations import AnnotationLabeller

        return (AnnotationLabeller(rest),)
    if kind == "human" and rest:
        from trace_probe.labelling.human import HumanLabeller

        return (HumanLabeller(rest),)
    models = tuple(dict.fromkeys(filter(None, (model.strip() for model in rest.split(",")))))
    if kind in PROTOCOLS and models:
        return tuple(Judge(model, PROTOCOLS[kind], where) for model in models)
    raise TraceError(
        f"no labeller {names!r}: there are {KINDS}; labels of imported transcripts come with them"
    )
