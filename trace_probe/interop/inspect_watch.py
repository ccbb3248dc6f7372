"""A sample of Inspect under watch while it runs: alarms in its transcript, and what they lead to.

Needs the extra ``inspect``.
"""

import os
from functools import cache
from typing import Literal, get_args

from trace_probe.errors import TraceError, TraceProbeError
from trace_probe.interop.inspect_verdict import Judged, Reader, Seen, Verdict, judge

PROBE = "TRACE_PROBE_PROBE"
"""The environment variable that names the folder of a probe."""
POLICY = "TRACE_PROBE_POLICY"
"""The environment variable that says what an alarm leads to."""
Policy = Literal["annotate", "stop"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
SOURCE = "trace_probe"
WATCHING: set[str] = set()
"""Models of our provider in this process that a probe watches."""


def policy_of(given: str | None = None) -> Policy:
    """Return what an alarm leads to, as it was given or as the environment says.

    Raises:
        TraceProbeError: it is not known.
    """
    named = given or os.environ.get(POLICY) or "annotate"
    for known in POLICIES:
        if named == known:
            return known
    raise TraceProbeError(f"no policy {named!r}: set {POLICY} to annotate or stop")


@cache
def reader_of(probe: str, model: str | None = None) -> Reader:
    """Return the reader of a probe, the same one whenever it is asked for.

    Raises:
        ProbeError: there is no probe in that folder, or it has no threshold.
    """
    return Reader(probe, model)


async def verdict_on(
    sample: Seen, probe: str | None, model: str | None, role: str, *, again: bool
) -> Verdict:
    """Return what a probe, or the one that the environment names, says of a sample.

    Raises:
        TraceError: the calls cannot be read, or none has a thought that could be scored.
        ProbeError: there is no such probe, or it is of another model.
    """
    folder = probe or os.environ.get(PROBE)
    verdict = await judge(sample, reader_of(folder, model) if folder else None, role, again=again)
    if verdict is None or not verdict.sentences:
        hint = "" if folder else f": name a probe with the argument probe=FOLDER or {PROBE}"
        raise TraceError(f"no thought of the model that a probe could score{hint}")
    return verdict


class Watch:
    """One sample while it runs."""

    def __init__(self) -> None:
        """Begin a sample."""
        from anyio import Lock

        self.scoring = False
        """Whether the solver has ended; what models write from then on is not watched."""
        self._turn = Lock()
        self._seen: set[str] = set()
        """Model events that were looked at; each comes more than once."""
        self._told: set[str] = set()
        self._why = ""
        """Why the sample is to be stopped."""
        self._value = self._limit = 0.0
        try:
            self._policy = policy_of()
        except TraceProbeError as error:  # Inspect would only log it, and go on unguarded
            self._policy, self._why = "stop", str(error)

    async def look(self) -> None:
        """Score what is new among the sample's model calls; write alarms into its transcript."""
        from inspect_ai.log import transcript

        async with self._turn:
            events = transcript().events
            done = {one.uuid for one in events if one.event == "model" and not one.pending}
            if self.scoring or done <= self._seen:
                return
            probe = os.environ.get(PROBE)
            try:
                reader = reader_of(probe) if probe else None
                verdict = await judge(Seen(events, (), None), reader)
            except TraceProbeError as error:
                self._blind(str(error))
            else:
                if verdict is not None:
                    self._tell(verdict)
            self._seen |= done

    def _tell(self, verdict: Verdict) -> None:
        from inspect_ai.log import transcript

        for message, alarm in verdict.alarms.items():
            if message in self._told:
                continue
            self._told.add(message)
            transcript().info(_entry(message, alarm, verdict), source=SOURCE)
            self._why = self._why or f"alarm of {verdict.detector['probe']} at: {alarm.text!r:.200}"
        self._value, self._limit = verdict.peak, verdict.detector["threshold"] or 0.0

    def _blind(self, why: str) -> None:
        """Say once that the sample cannot be scored; under the policy stop that ends it."""
        from inspect_ai.log import transcript

        if why not in self._told:
            self._told.add(why)
            transcript().info({"alarm": False, "not_scored": why}, source=SOURCE)
        self._why = self._why or f"not scored: {why}"

    def check(self) -> None:
        """End the sample if the policy is to stop and there was an alarm, or nobody could tell.

        Raises:
            LimitExceededError: which ends it, and lets its scorers run.
        """
        from inspect_ai.util import LimitExceededError

        if self._policy == "stop" and self._why and not self.scoring:
            raise LimitExceededError(
                "custom",
                value=self._value,
                limit=self._limit,
                message=f"stopped by trace_probe before the next model call: {self._why}",
            )


def _entry(message: str, alarm: Judged, verdict: Verdict) -> dict[str, object]:
    """Return an alarm as the transcript shows it."""
    return {
        "alarm": True,
        "sentence": alarm.text,
        "score": alarm.statistic,
        "message": message,
        "ids": verdict.read,
        **verdict.detector,
    }
