"""A scanner for Inspect Scout: a probe's alarms beside the transcript, as links to its messages.

In a file of one's own::

    from inspect_scout import scan, transcripts_from
    from trace_probe.interop.scout import alarms

    scan([alarms(probe="probes/mine")], transcripts=transcripts_from("logs"), max_processes=1)

What it finds is what the scorer of Inspect's plug-in finds; see `inspect_plugin.probe`. Scout
imports scanners in every process, so nothing heavy is imported here.
"""

from inspect_scout import Result, Scanner, Transcript, scanner


@scanner(messages="all", events="all")  # type: ignore[untyped-decorator]
def alarms(
    probe: str | None = None, model: str | None = None, role: str = "", again: bool = False
) -> Scanner[Transcript]:
    """Find the messages at which a probe alarms.

    The value says whether there is one; it is None where no thought could be scored. Each alarm is
    cited as ``[M5]``, with a reference that Scout's viewer makes a link of.

    Args:
        probe: Folder of the probe; TRACE_PROBE_PROBE says it otherwise.
        model: The model that reads the calls, where it lies elsewhere than the probe's card says.
        role: Whose calls; by default those of ``target``, or those without a role.
        again: Read calls again that our own provider scored live.
    """

    async def scan(transcript: Transcript) -> Result:
        from inspect_ai.model import ModelOutput

        from trace_probe.errors import TraceError
        from trace_probe.interop.inspect_verdict import Seen, score_of
        from trace_probe.interop.inspect_watch import verdict_on

        seen = Seen(transcript.events, transcript.messages, ModelOutput())
        try:
            verdict = await verdict_on(seen, probe, model, role, again=again)
        except TraceError as error:  # of this transcript only
            return Result(value=None, explanation=str(error))
        found = score_of(verdict, transcript.messages)
        metadata = {**(found.metadata or {}), "peak": verdict.peak}
        return Result(
            value=metadata["alarm"],
            explanation=found.explanation,
            references=metadata.pop("scanner_references"),
            metadata=metadata,
            label="alarm" if metadata["alarm"] else None,
        )

    return scan
