"""A model provider for Inspect: a model that runs here, scored by a probe while it writes.

Needs the extra ``inspect``. What it notes in the metadata of an output are token ids and scores,
so that a log can be scored again exactly; activations are not kept.
"""

import json
import logging
import os
import secrets
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from anyio import from_thread, to_thread
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    Content,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.tool import ToolCall, ToolChoice, ToolInfo

from trace_probe.interop.chats import tools_of
from trace_probe.interop.conversation import Message, Turn
from trace_probe.interop.episodes import prompt_of
from trace_probe.interop.inspect_events import NOTES, message_of
from trace_probe.interop.inspect_verdict import loaded, models_turn, told
from trace_probe.interop.inspect_watch import PROBE, WATCHING, policy_of, reader_of
from trace_probe.monitor.live import Followed, Monitor
from trace_probe.monitor.scorer import FRESH, Carried, ScoredSentence
from trace_probe.monitor.scoring import as_if_written
from trace_probe.trace import Sampling, Task, Trace, digest
from trace_probe.trace import ToolCall as Action

MOST_TOKENS = 2048
"""New tokens of a call where the task does not say, as far as the context has room."""
MOST_KNOWN = 4096
"""Calls after which an episode can go on with its running features."""
_LOGGER = logging.getLogger(__name__)


class _Written(NamedTuple):
    """What the model wrote in one call."""

    ids: tuple[int, ...]
    sentences: tuple[ScoredSentence, ...] = ()
    unreadable: bool = False
    stopped: bool = False
    """Whether an alarm ended it."""
    carried: Carried | None = None


class LocalModel(ModelAPI):  # type: ignore[misc]
    """A model that is loaded here."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - as Inspect has it
        **model_args: Any,  # noqa: ANN401 - whatever -M gives
    ) -> None:
        """Load a model, and the probe that `-M probe=FOLDER` or the environment names.

        `-M policy=stop` ends what the model writes at an alarm; other arguments, such as
        `device` and `dtype`, are those of `load_model`.

        Raises:
            ModelError: the model cannot be loaded.
            ProbeError: there is no such probe, or it is of another model.
        """
        super().__init__(model_name, base_url, api_key, [], config)
        self._probe, self._policy = model_args.pop("probe", None), model_args.pop("policy", None)
        self._model = loaded(model_name, **model_args)
        self._monitors: dict[str, Monitor] = {}
        self._monitor()
        policy_of(self._policy)
        if self._probe:
            WATCHING.add(model_name)
        self._asked: Counter[str] = Counter()
        self._known: OrderedDict[str, Carried] = OrderedDict()
        """What is known of the episodes behind messages that this model wrote, by their ids."""

    def _monitor(self) -> Monitor | None:
        """Return what watches the model, if a probe is named.

        Inspect keeps models for later evaluations of the process, so the environment is asked
        anew for each call.
        """
        probe = self._probe or os.environ.get(PROBE)
        if probe and probe not in self._monitors:
            self._monitors[probe] = Monitor(self._model, reader_of(probe).detector)
        return self._monitors[probe] if probe else None

    def max_connections(self) -> int:
        """Return how many calls run at once: one, since each has the model to itself."""
        return 1

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """Let the model write what comes next, in a thread."""
        given = [] if tool_choice == "none" else tools
        schemas = tools_of([tool.model_dump(exclude_none=True) for tool in given])
        turn = Turn(tuple(map(message_of, input)), Message("assistant", ()), tools=schemas)
        if config.stop_seqs:
            _LOGGER.warning("trace_probe: stop sequences are ignored: set max_tokens instead")
        return await to_thread.run_sync(self._answer, turn, config)

    def _answer(self, turn: Turn, config: GenerateConfig) -> ModelOutput:
        prompt = self._model.chat.encode(prompt_of(self._model.chat, turn))
        room = MOST_TOKENS if self._model.context is None else self._model.context - len(prompt)
        if room < 1:
            said = f"the prompt of {len(prompt)} tokens leaves no room in {self._model.name}"
            return ModelOutput.from_content(self.model_name, said, stop_reason="model_length")
        sampling = Sampling(
            self._seed(config.seed, prompt),
            1.0 if config.temperature is None else config.temperature,
            1.0 if config.top_p is None else config.top_p,
            min(config.max_tokens or MOST_TOKENS, room),
        )
        monitor = self._monitor()
        with models_turn():
            written = self._written(monitor, prompt, sampling, self._before(turn))
        task = Task("inspect", "inspect", "")
        ids = (*prompt, *written.ids)
        call = as_if_written(self._model, task, ids, len(prompt), "the call")
        noted = self._notes(call, written)
        if monitor is not None:
            noted |= _scored(monitor, written, sampling)
        return self._output(call, written, noted, offered=bool(turn.tools))

    def _seed(self, given: int | None, prompt: Sequence[int]) -> int:
        """Return the seed of a call: by the prompt, and how often it was asked, if one is given."""
        if given is None:
            return secrets.randbits(62)
        key = digest(given, list(prompt))
        self._asked[key] += 1
        return int(digest(key, self._asked[key]), 16) >> 2

    def _before(self, turn: Turn) -> Carried:
        """Return what is known of the episode that a call goes on with."""
        last = next((one.id for one in reversed(turn.read) if one.id in self._known), "")
        return self._known.get(last, FRESH)

    def _written(
        self,
        monitor: Monitor | None,
        prompt: Sequence[int],
        sampling: Sampling,
        before: Carried,
    ) -> _Written:
        """Let the model write, watched if there is a probe."""
        if monitor is None:
            (completion,) = self._model.generate([prompt], [sampling.seed], sampling)
            return _Written(completion.ids)
        episode, sentences = Followed(), list[ScoredSentence]()
        episode.carried = before
        readings = monitor.watch_ids(prompt, sampling.seed, sampling, episode)
        policy = policy_of(self._policy)
        for reading in readings:
            from_thread.check_cancelled()
            sentences += [one for one in reading.ended if one.channel == "reasoning"]
            if reading.alarm and policy == "stop":
                readings.close()
                ids = tuple(episode.under_way)
                return _Written(ids, tuple(sentences), reading.unreadable, stopped=True)
        ids, carried = tuple(episode.under_way), episode.carried
        return _Written(ids, tuple(sentences), carried.unreadable, carried=carried)

    def _output(
        self, call: Trace, written: _Written, noted: dict[str, Any], *, offered: bool
    ) -> ModelOutput:
        """Return what was written as Inspect has it; what an alarm ended calls no tool."""
        readable = offered and not written.stopped and all(one.name for one in call.actions)
        answer = call.channel_text("answer").strip()
        if not readable:
            answer = f"{answer}\n{call.channel_text('action')}".strip()
        content: list[Content] = [ContentText(text=answer)]
        if thought := call.channel_text("reasoning").strip():
            content.insert(0, ContentReasoning(reasoning=thought))
        message = ChatMessageAssistant(
            id=secrets.token_urlsafe(16),
            content=content,
            tool_calls=[_called(one) for one in call.actions] if readable else None,
            model=self.model_name,
            source="generate",
        )
        if written.carried is not None:
            self._known[message.id] = written.carried
            if len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        usage = ModelUsage(
            input_tokens=call.prompt_stop,
            output_tokens=len(written.ids),
            total_tokens=len(call),
        )
        choice = ChatCompletionChoice(message=message, stop_reason=self._reason(written, message))
        return ModelOutput(
            model=self._model.name, choices=[choice], usage=usage, metadata={NOTES: noted}
        )

    def _reason(self, written: _Written, message: ChatMessageAssistant) -> str:
        if written.stopped:
            return "content_filter"
        if not written.ids or written.ids[-1] not in self._model.stops:
            return "max_tokens"
        return "tool_calls" if message.tool_calls else "stop"

    def _notes(self, call: Trace, written: _Written) -> dict[str, Any]:
        """Return the ids of a call."""
        return {
            "model": self._model.name,
            "prompt_token_ids": list(call.token_ids[: call.prompt_stop]),
            "token_ids": list(written.ids),
        }


def _scored(monitor: Monitor, written: _Written, sampling: Sampling) -> dict[str, Any]:
    """Return what a probe said of a call while it was written."""
    sentences = [
        {
            "text": one.text,
            "score": one.scores[0] if one.scores else None,
            "statistic": one.statistics[0] if one.statistics else None,
            "alarm": bool(one.alarms),
        }
        for one in written.sentences
    ]
    return {
        "detector": told(monitor.detectors[0]),
        "sentences": sentences,
        "unreadable": written.unreadable,
        "stopped": written.stopped,
        "other_decoding": bool(monitor.uncalibrated(sampling)),
    }


def _called(action: Action) -> ToolCall:
    """Return a tool call as Inspect has it."""
    id = action.id or f"call_{secrets.token_hex(12)}"
    try:
        arguments = json.loads(action.arguments or "{}")
    except (ValueError, RecursionError) as error:
        arguments = error
    if isinstance(arguments, dict):
        return ToolCall(id=id, function=action.name, arguments=arguments)
    wrong = f"the arguments {action.arguments!r:.200} are no JSON object"
    return ToolCall(id=id, function=action.name, arguments={}, parse_error=wrong)
