"""One answer in the making: readings in, text of each channel out, under the policy on alarm."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trace_probe.monitor.detector import Detector, outside_of
from trace_probe.monitor.scorer import Reading, ScoredSentence
from trace_probe.serving.tools import as_answered, calls_in
from trace_probe.text.channels import ChannelReader, Format
from trace_probe.text.python_calls import Call
from trace_probe.text.tool_calls import TAGS, parse_calls

Policy = Literal["annotate", "stop", "withhold"]
"""On alarm: only say so; end the generation there, with no tool call; end it and give no answer."""
Finish = Literal["stop", "length", "tool_calls", "content_filter"]
FIELD = {"reasoning": "reasoning_content", "answer": "content", "action": "content"}
"""For each channel the field of the message; a tool call reaches the client as it is written."""
ACT = frozenset({"answer", "action"})
HELD: dict[Policy, frozenset[str]] = {
    "annotate": frozenset(),
    "stop": frozenset({"action"}),
    "withhold": ACT,
}
"""What is held back until the whole is known to be quiet, and never given after an alarm: a client
carries a tool call out once it has the whole, so that it loses nothing by waiting."""
WITHHELD = "The answer is withheld: a probe on the model's reasoning raised an alarm."


def described(detector: Detector) -> dict[str, Any]:
    """Return what a client is told of a detector."""
    return {
        "name": detector.name,
        "layer": detector.saved.card.layer,
        "smoothing": detector.smoothing.name,
        "threshold": detector.threshold,
        "source": str(detector.source),
    }


def judged(
    detectors: Sequence[Detector],
    policy: str,
    alarms: Sequence[str],
    sentences: Sequence[dict[str, Any]],
    *,
    unreadable: bool,
) -> dict[str, Any]:
    """Return what probes say of a whole answer; `sentences` as `risk_of` gives them."""
    return {
        "policy": policy,
        "alarm": bool(alarms),
        "alarms": list(alarms),
        "unreadable": unreadable,
        "probes": [described(one) for one in detectors],
        "sentences": sentences,
    }


def risk_of(
    detectors: Sequence[Detector], scored: ScoredSentence, *, hidden: bool
) -> dict[str, Any]:
    """Return what probes say of one sentence, without its text if that is to stay hidden."""
    by_probe = zip(detectors, scored.scores, scored.statistics, strict=False)
    return {
        "sentence": scored.sentence,
        "channel": scored.channel,
        "tokens": [scored.start, scored.stop],
        "text": None if hidden else scored.text,
        "risk": [
            {"probe": detector.name, "score": score, "statistic": value}
            for detector, score, value in by_probe
        ],
        "alarms": list(scored.alarms),
    }


@dataclass
class Reply:
    """What has been written so far and what of it the client may have."""

    id: str
    model: str
    detectors: Sequence[Detector]
    policy: Policy
    channels: ChannelReader
    format: Format
    most_tokens: int
    stops: tuple[str, ...] = ()
    """Texts before which the answer ends."""
    tools: bool = False
    """Whether the client named tools: then it gets calls apart from the text, else as written."""
    before: int = 0
    """Tokens that the model wrote in earlier calls of the session."""
    created: int = field(default_factory=lambda: int(time.time()))
    tokens: int = 0
    sentences: list[ScoredSentence] = field(default_factory=list)
    alarms: tuple[str, ...] = ()
    unreadable: bool = False
    """Whether nothing can be scored any more, so that every probe alarms."""
    calls: tuple[Call, ...] = ()
    """The tool calls that the client gets."""
    call_withheld: bool = False
    """Whether a tool call was written that the client does not get."""
    _text: str = ""
    _sent: int = 0
    """Characters that were given to the client, or were markup."""
    _finished: bool = False
    _stopped: bool = False
    """Whether one of `stops` has come."""
    _searched: int = 0
    """Characters in which none of them begins."""

    def take(self, reading: Reading) -> list[dict[str, Any]]:
        """Take a reading; return the parts of the message that may go out now."""
        self.tokens += 1
        self.sentences += reading.ended
        self.alarms, self.unreadable = reading.alarms, reading.unreadable
        behind = all(each.stop < self.before + self.tokens for each in reading.ended)
        if not (self._filtered and behind):  # else it is the first token after the alarm
            self._text += reading.text
            self.channels.feed(reading.text)
            self._look_for_stops()
        return self._deltas(self._certain())

    def finish(self) -> list[dict[str, Any]]:
        """Return the rest of the message, once nothing more will come."""
        self._finished = True
        rest: list[dict[str, Any]] = [*self._deltas(len(self._text))]
        if self.tools and not self._filtered:
            found = calls_in(self._text, self.channels.split().ranges)
            self.calls = tuple(call for call in found if call.name)
        return [*rest, {"tool_calls": as_answered(self.calls)}] if self.calls else rest

    @property
    def asks(self) -> bool:
        """Return whether the model asked for a tool."""
        return any(one.channel == "action" for one in self.channels.split().ranges)

    def _look_for_stops(self) -> None:
        """Cut the answer before the first of `stops` that has come in it."""
        if not self.stops or self._stopped:
            return
        answers = [start for name, start, _ in self.channels.split().ranges if name in ACT]
        if not answers:
            return
        longest = max(map(len, self.stops))
        first = max(answers[0], self._searched)
        places = [at for stop in self.stops if (at := self._text.find(stop, first)) >= 0]
        if places:
            self._text, self._stopped = self._text[: min(places)], True
        self._searched = max(first, len(self._text) - longest + 1)

    @property
    def over(self) -> bool:
        """Return whether the generation ends here: by the policy, or by a stop of the client."""
        return self._filtered or self._stopped

    @property
    def _filtered(self) -> bool:
        return self.policy != "annotate" and bool(self.alarms)

    def reason(self) -> Finish:
        """Return why it ended."""
        if self._filtered:
            return "content_filter"
        if self._stopped:
            return "stop"
        if self.calls:
            return "tool_calls"
        return "length" if self.tokens >= self.most_tokens else "stop"

    @property
    def refusal(self) -> str | None:
        """Return what stands for an answer that is withheld."""
        return WITHHELD if self.policy == "withhold" and self.alarms else None

    def _certain(self) -> int:
        """Return how many characters no later one can turn into half a tag, or half a stop."""
        if self._stopped:
            return len(self._text)
        tags = (self.format.open, self.format.close, *TAGS, *self.stops)
        longest = max((len(tag) for tag in tags), default=0)
        decided = min(self.channels.decided, len(self._text))
        for start in range(max(0, len(self._text) - longest + 1), decided):
            if any(tag.startswith(self._text[start:]) for tag in tags if tag):
                return start
        return decided

    def _deltas(self, stop: int) -> list[dict[str, str]]:
        """Return the text of characters ``[sent, stop)`` by field of the message."""
        found = []
        for channel, start, end in self.channels.split().ranges:
            first, last = max(start, self._sent), min(end, stop)
            name = FIELD.get(channel)
            if first >= last or name is None:
                continue
            apart = self.tools and channel == "action"
            if apart or channel in HELD[self.policy]:
                if not self._finished:
                    stop = min(stop, first)  # no word of it before the whole is known to be quiet
                    break
                if self._filtered:
                    self.call_withheld |= channel == "action"
                    continue
                if apart and _readable(self._text, start, end):
                    continue
            found.append({name: self._text[first:last]})
        self._sent = max(self._sent, stop)
        return found

    def extension(self, drift: str = "") -> dict[str, Any]:
        """Return what the probes say of the whole answer."""
        sentences = [self.risk(each) for each in self.sentences]
        about = self.detectors, self.policy, self.alarms, sentences
        outside = outside_of(self.detectors, [each.distances for each in self.sentences])
        more = {"call_withheld": self.call_withheld, "drift": drift or None, "outside": outside}
        return judged(*about, unreadable=self.unreadable) | more

    def risk(self, scored: ScoredSentence) -> dict[str, Any]:
        """Return what the probes say of one sentence; an answer withheld is not told this way."""
        hidden = self.policy == "withhold" and scored.channel == "answer"
        return risk_of(self.detectors, scored, hidden=hidden)

    def usage(self, prompt: int) -> dict[str, int]:
        """Return the tokens read and written."""
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.tokens,
            "total_tokens": prompt + self.tokens,
        }

    def chunk(self, delta: dict[str, Any], finish: Finish | None = None) -> dict[str, Any]:
        """Return one event of a stream."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return self._head("chat.completion.chunk") | {"choices": [choice]}

    def completion(self, parts: Sequence[dict[str, Any]], prompt: int) -> dict[str, Any]:
        """Return the whole answer at once."""
        texts = {n: "".join(part.get(n, "") for part in parts) for n in set(FIELD.values())}
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if self.refusal else texts["content"],
            "reasoning_content": texts["reasoning_content"] or None,
            "refusal": self.refusal,
        }
        calls = [call for part in parts for call in part.get("tool_calls", ())]
        if calls:
            message["tool_calls"] = calls
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": self.reason(),
            "logprobs": None,
        }
        return self._head("chat.completion") | {"choices": [choice], "usage": self.usage(prompt)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def _readable(text: str, start: int, stop: int) -> bool:
    """Return whether every call in a part of a text can be read; else it is given as written."""
    return all(call.name for call in parse_calls(text, start, stop))
