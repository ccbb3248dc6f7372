"""What Inspect finds of this package: a scorer, a model provider, and a hook that writes alarms.

Inspect imports this module by its entry point, in whatever process it runs, so nothing heavy is
imported here. Without a probe, by `TRACE_PROBE_PROBE` or an argument, nothing of it does anything.
"""

import os
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from inspect_ai.hooks import Hooks, hooks
from inspect_ai.model import modelapi
from inspect_ai.scorer import Score, mean, scorer

if TYPE_CHECKING:
    from inspect_ai.hooks import BeforeModelGenerate, SampleEvent, SampleScoring
    from inspect_ai.model import ModelAPI
    from inspect_ai.scorer import Scorer, Target
    from inspect_ai.solver import TaskState

    from trace_probe.interop.inspect_watch import Watch


@modelapi(name="trace_probe")  # type: ignore[untyped-decorator]
def trace_probe() -> "type[ModelAPI]":
    """Return the provider of models that run here: ``--model trace_probe/organism:rl-s0``."""
    from trace_probe.interop.inspect_provider import LocalModel

    return LocalModel


@scorer(metrics=[mean()])  # type: ignore[untyped-decorator]
def probe(
    probe: str | None = None, model: str | None = None, role: str = "", again: bool = False
) -> "Scorer":
    """Score each sample by the highest score that a probe gives its model calls.

    Args:
        probe: Folder of the probe; TRACE_PROBE_PROBE says it otherwise.
        model: The model that reads the calls, where it lies elsewhere than the probe's card says.
        role: Whose calls; by default those of ``target``, or those without a role.
        again: Read calls again that our own provider scored live.
    """

    async def score(state: "TaskState", target: "Target") -> Score:  # noqa: ARG001 - as Inspect calls it
        from inspect_ai.log import transcript

        from trace_probe.errors import TraceError
        from trace_probe.interop.inspect_verdict import Seen, score_of
        from trace_probe.interop.inspect_watch import verdict_on

        seen = Seen(transcript().events, state.messages, state.output)
        try:
            verdict = await verdict_on(seen, probe, model, role, again=again)
        except TraceError as error:  # of this sample only
            return Score.unscored(reason="scoring_failed", explanation=str(error))
        return score_of(verdict, state.messages)

    return score


@hooks(name="alarms", description="Writes a probe's alarms into the transcript of each sample.")
class Alarms(Hooks):  # type: ignore[misc]
    """Watches the samples of this process while a probe is named."""

    def __init__(self) -> None:
        self._samples: WeakKeyDictionary[Any, Watch] = WeakKeyDictionary()
        """By transcript: the ids of samples that hooks are given are not the same everywhere."""

    def enabled(self) -> bool:
        """Return whether a probe is named, or a model of ours watches itself."""
        from trace_probe.interop.inspect_watch import PROBE, WATCHING

        return bool(os.environ.get(PROBE) or WATCHING)

    def _watch(self) -> "Watch":
        from inspect_ai.log import transcript

        from trace_probe.interop.inspect_watch import Watch

        return self._samples.setdefault(transcript(), Watch())

    async def on_sample_event(self, data: "SampleEvent") -> None:
        """Look at a model call once it is over."""
        if data.event.event == "model":
            await self._watch().look()

    async def on_before_model_generate(self, data: "BeforeModelGenerate") -> None:
        """Look at all calls before the next one begins, and end the sample if that is the policy.

        Events come through a queue, so the last one may not have been looked at.
        """
        if data.sample_id:  # else a model is asked outside of any sample
            watch = self._watch()
            await watch.look()
            watch.check()

    async def on_sample_scoring(self, data: "SampleScoring") -> None:  # noqa: ARG002 - as Inspect has it
        """Leave the models of scorers alone."""
        watch = self._watch()
        await watch.look()
        watch.scoring = True
