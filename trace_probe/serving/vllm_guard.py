"""Probes inside vLLM's workers: they read along with each request, where its rows are.

The scorer is that of every other guard, so scores and alarms are the same. Only scores and the
text of scored sentences leave a worker: into the audit log, and to the server when it asks.
"""

import logging
import re
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_probe.engine.attached import Scheduled, first_rank, rows_at
from trace_probe.engine.plan import ASKED, KEY, GuardPlan
from trace_probe.errors import ModelError, StoreError
from trace_probe.model.checkpoint import locate
from trace_probe.model.facts import ModelFacts, read_facts
from trace_probe.model.loading import read_stops
from trace_probe.model.tokenizer import ChatTokenizer
from trace_probe.monitor.detector import Detector, load_detector, outside_of
from trace_probe.monitor.memory import layers_of
from trace_probe.monitor.recheck import check_reads, check_rechecked
from trace_probe.monitor.scorer import Reading, new_alarms
from trace_probe.monitor.watched import WatchedText
from trace_probe.serving.audit import AuditLog
from trace_probe.serving.reply import judged, risk_of
from trace_probe.text.channels import (
    END_OF_TURN,
    Format,
    format_of,
    opens_reasoning,
    split,
)

POLICIES = ("annotate", "stop", "withhold")
TOLD, UNASKED = 65536, 4096
"""Requests that have ended whose scores are kept until the server asks for them, and others.

It asks once for each that it has named, so the first number is out of reach."""
_LOG = logging.getLogger(__name__)


class _Stream(WatchedText):
    """One request under guard."""

    request = ""
    alarms: tuple[str, ...] = ()
    unreadable = False
    over = False
    """Whether nothing more is read of it."""
    told = False
    """Whether the server has heard of it."""
    unlogged = False
    """Whether an alarm of it could not be written to the audit log."""


class Guard:
    """Watches the requests of one model runner; see `trace_probe.engine.attached.Follower`."""

    def __init__(
        self,
        runner: Any,  # noqa: ANN401 - of vLLM
        facts: ModelFacts,
        detectors: Sequence[Detector],
        stops: frozenset[int],
        plan: GuardPlan,
    ) -> None:
        """Take the probes; most callers want `load_guard`."""
        self.detectors = tuple(detectors)
        self.layers = layers_of([one.saved.card for one in detectors])
        self._runner, self._facts, self._plan = runner, facts, plan
        self._stops = stops
        self._turn, always = find_turns(facts.chat)
        own = format_of(facts.chat_template, facts.name)
        self._format = replace(own, untagged="truncated") if always else own
        self._audit = AuditLog(Path(plan.audit)) if first_rank() else None
        self._streams: dict[str, _Stream] = {}
        self._told: OrderedDict[str, _Stream] = OrderedDict()
        """Those that have ended, by request, until the server asks for them."""
        self._unasked: deque[_Stream] = deque(maxlen=UNASKED)
        self._unlogged: list[dict[str, Any]] = []
        """Alarms that the audit log did not take; they come first once it does."""

    def passed(self, scheduled: list[Scheduled], rows: Any, ids: Any) -> None:  # noqa: ANN401
        """Let the scorers of a pass read their new tokens."""
        new: list[tuple[_Stream, int, int]] = []
        picked: list[int] = []
        for one in scheduled:
            stream = self._stream(one.request)
            if stream is None:
                continue
            # What is computed again, after a preemption, was read before.
            first = max(stream.prompt + stream.read, one.position)
            count = one.position + one.count - first
            if count > 0:
                new.append((stream, first - one.position + one.start, count))
                picked += range(new[-1][1], new[-1][1] + count)
        if not picked:
            return
        values, tokens = rows_at(rows, picked), ids[picked].tolist()
        place = 0
        for stream, _, count in new:
            part = slice(place, place + count)
            self._read(stream, values[part], tokens[part])
            place += count

    def _stream(self, request: str) -> _Stream | None:
        """Return the stream of a request, None if it is not to be guarded."""
        if request not in self._streams:
            state = self._runner.requests[request]
            extra = (state.sampling_params and state.sampling_params.extra_args) or {}
            asked = extra.get(KEY)
            if not (asked or self._plan.unasked) or not state.prompt_token_ids:
                return None
            self._streams[request] = self._begun(request, state.prompt_token_ids)
        stream = self._streams[request]
        return None if stream.over else stream

    def _begun(self, request: str, prompt: Sequence[int]) -> _Stream:
        turn, known = self._last_turn(prompt)
        format = self._format
        if known and format.untagged == "truncated" and closes(turn, format):
            format = replace(format, untagged="absent")  # it goes on with an answer
        given = self.detectors, self._facts.chat, format, prompt
        stream = _Stream(*given, every=self._plan.every)
        stream.request = request
        if holds_thought(turn, self._format, several=not known):
            self._refused(stream)
        return stream

    def _last_turn(self, prompt: Sequence[int]) -> tuple[str, bool]:
        """Return what a prompt holds of the turn to write, and whether its start is known.

        If not, it is the whole prompt.
        """
        text = self._facts.chat.decode(prompt)
        starts = [found.end() for found in self._turn.finditer(text)] if self._turn else []
        return text[starts[-1] :] if starts else text, bool(starts)

    def _refused(self, stream: _Stream) -> None:
        """Raise every alarm at once: a thought cannot be judged of which a part is given."""
        stream.over = stream.unreadable = True
        stream.alarms = tuple(one.name for one in self.detectors)
        for name in stream.alarms:
            self._written(stream, {"probe": name, "reason": "unreadable"})

    def _written(self, stream: _Stream, why: dict[str, Any]) -> None:
        """Write one alarm down; an answer whose alarm cannot be written ends."""
        if self._audit is None:
            return
        known = {"event": "alarm", "completion": stream.request, "model": self._facts.name}
        self._unlogged.append({**known, **why, "policy": self._plan.policy})
        try:
            while self._unlogged:
                self._audit.write(self._unlogged[0])
                self._unlogged.pop(0)
        except StoreError as error:
            stream.unlogged = True
            _LOG.error("%s. The alarm is kept and its answer ended: %s", error, self._unlogged[-1])

    def _read(self, stream: _Stream, rows: NDArray[np.float32], tokens: Sequence[int]) -> None:
        """Let a scorer read tokens, of which the first of all is the last of the prompt."""
        for row, token in zip(rows, tokens, strict=True):
            if (reading := stream.follow(row, token)) is not None:
                self._noted(stream, reading)

    def _noted(self, stream: _Stream, reading: Reading) -> None:
        """Keep what a reading says, and write new alarms down before the token is sampled."""
        stream.unreadable = reading.unreadable
        told, stream.alarms = stream.alarms, reading.alarms
        if self._audit is None or told == reading.alarms:
            return
        alarms = {one.probe: asdict(one) for one in new_alarms(self.detectors, reading, told)}
        for name in reading.alarms:
            if name not in told:
                self._written(stream, alarms.get(name, {"probe": name, "reason": "unreadable"}))

    def before_sampling(self, logits: Any) -> None:  # noqa: ANN401 - a tensor
        """Do nothing: what is drawn is the model's own."""

    def after_sampling(self, tokens: Any) -> Sequence[int]:  # noqa: ANN401 - a tensor
        """End the turn of requests that are to stop; return their rows."""
        batch, ends = self._runner.input_batch, self._plan.policy != "annotate"
        rows = [
            row
            for row, request in enumerate(batch.req_ids[: batch.num_reqs])
            if (stream := self._streams.get(request)) is not None
            and (stream.unlogged or (ends and stream.alarms))
        ]
        if rows:
            tokens[rows] = min(self._stops)
        return rows

    def ended(self, request: str, written: Sequence[int]) -> None:
        """Finish the last sentence of a request, and keep its scores until they are asked for."""
        stream = self._streams.pop(request, None)
        if stream is None:
            return
        self._finish(stream, written)
        stream.close()
        if not stream.told and ASKED in request:
            self._told[request] = stream
        elif not stream.told:
            self._unasked.append(stream)
        while len(self._told) > TOLD:
            self._told.popitem(last=False)

    def untold(self) -> list[dict[str, Any]]:
        """Return what is known of requests that have ended and that the server does not ask for."""
        found = [self._extension(stream) for stream in self._unasked]
        self._unasked.clear()
        return found

    def _finish(self, stream: _Stream, written: Sequence[int]) -> None:
        """Read the last token that was written; the model never does, so its row is not there."""
        if stream.over or stream.read < 0:
            return
        stream.over = True
        text, read = stream.text, stream.read
        piece = text.text[text.complete :]
        # An engine that runs ahead has read the end of the turn itself; what it drew is dropped.
        whole = read and len(written) >= read and written[read - 1] in self._stops
        if len(written) > read and written[read] >= 0 and not whole:
            text.feed(written[read])
            piece = text.text[text.offsets[-1] :]  # nothing can complete it any more
        self._noted(stream, stream.note(piece, last=True))

    def told(self, name: str) -> list[dict[str, Any]]:
        """Return what is known of the requests whose answer a client knows by a name.

        They are over then. Of several answers to one request each has its own, in their order.
        """
        found = _named(name, {**self._told, **self._streams})
        if not found:  # a program that runs vLLM itself, without the server
            found = _named(name, {one.request: one for one in self._unasked})
            for stream in found.values():
                self._unasked.remove(stream)
        for stream in found.values():
            state = self._runner.requests.get(stream.request)
            self._finish(stream, state.output_token_ids if state else ())
            stream.told = True
            self._told.pop(stream.request, None)
        each = 1 + max((number for _, number in found), default=0)
        return [
            {"choice": prompt * each + number, **self._extension(found[prompt, number])}
            for prompt, number in sorted(found)
        ]

    def _extension(self, stream: _Stream) -> dict[str, Any]:
        """Return what the probes say of an answer."""
        withheld = self._plan.policy == "withhold"
        sentences = [
            risk_of(self.detectors, one, hidden=withheld or one.channel != "reasoning")
            for one in stream.sentences
        ]
        about = self.detectors, self._plan.policy, stream.alarms, sentences
        outside = outside_of(self.detectors, [one.distances for one in stream.sentences])
        more = {"outside": outside} | ({"unlogged": True} if stream.unlogged else {})
        return judged(*about, unreadable=stream.unreadable) | more


def find_turns(chat: ChatTokenizer) -> tuple[re.Pattern[str] | None, bool]:
    """Return what finds the starts of the assistant's turns in a prompt; None if none is known.

    It is what the chat template puts between the user's words and the model's. An end-of-turn token
    alone starts no turn: a client can put one into a thought, and the model goes on with it.

    Also return whether the template opens a thought there. Then the model always thinks first, and
    does so too where a client leaves the open tag out.
    """
    said = "trace-probe"
    try:
        _, found, head = chat.conversation([{"role": "user", "content": said}]).rpartition(said)
    except ModelError:
        return None, False
    opens = bool(found) and opens_reasoning(head, chat.format)
    for tag in filter(None, (chat.format.open.strip(), chat.format.close.strip())):
        head = head.partition(tag)[0]
    words = [re.escape(word) for word in head.split()]
    return (re.compile(r"\s*".join(words)) if found and words else None), opens


def holds_thought(turn: str, format: Format, *, several: bool = False) -> bool:
    """Return whether the assistant's turn, as far as a prompt holds it, has a part of a thought.

    Only the thought that goes on after the prompt counts. A turn that ends in the middle of the
    open tag counts too: only the rest of the tag would be seen, so the thought would be taken for
    an answer. Nothing but its close tag ends a thought. `several` says that there may be other
    turns before it, of which the starts are not known.
    """
    opened, closed, text = format.open.strip(), format.close.strip(), turn.rstrip()
    if not opened:
        return False
    if text.endswith(opened):  # the thought begins here, if no other did before
        before = text.removesuffix(opened)
        return holds_thought(f"{before}.", format, several=True) if several else opened in before
    if format.untagged == "truncated" and not several and closed not in text:
        return bool(text)  # a model that always reasons needs no open tag
    if format.name == "harmony":
        for end in {*END_OF_TURN} - {closed}:
            text = text.replace(end, "")
        _, tag, header = text.rpartition("<|channel|>")
        ranges = split(f"{text}.", 0, format, prefilled=False).ranges
        ends = [one.stop for one in ranges if one.channel == "reasoning"][-1:]
        unfinished = bool(tag) and "<|message|>" not in header
        return unfinished or any(closed not in text[end:] for end in ends)
    begun = any(text.endswith(opened[:count]) for count in range(1, len(opened)))
    return begun or (opened in text and not closes(text, format))


def closes(turn: str, format: Format) -> bool:
    """Return whether a turn holds a tag that closes a thought, and none that opens one after it."""
    return turn.rfind(format.close.strip()) > turn.rfind(format.open.strip())


def _named(name: str, streams: Mapping[str, _Stream]) -> dict[tuple[int, int], _Stream]:
    """Return the streams of a request, by the numbers of their prompt and of their answer."""
    return {numbers: one for key, one in streams.items() if (numbers := _numbers(key, name))}


def _numbers(request: str, name: str) -> tuple[int, int] | None:
    """Return which prompt of an answer a request of vLLM is of, and which answer to that prompt.

    None where it is of another answer than the one that a client knows by this name. vLLM puts
    the number of the answer before it, of the prompt behind it, and random digits last.
    """
    found = re.fullmatch(rf"(?:(\d+)_)?{re.escape(name)}(?:-(\d+))?-[0-9a-f]{{8}}", request)
    return found and (int(found[2] or 0), int(found[1] or 0))


def read_probes(
    plan: GuardPlan, name: str, revision: str | None, dtype: str
) -> tuple[ModelFacts, list[Detector], frozenset[int]]:
    """Return what is known of a model, the probes that a plan names, and what ends a turn.

    No weights are loaded, so a server finds out at once whether its probes fit.

    Raises:
        ModelError: the plan names no probe, or the model's answers cannot be ended.
        ProbeError: a probe does not fit, or its threshold no longer holds.
    """
    if not plan.probes or plan.policy not in POLICIES:
        raise ModelError(f"a guard has `probes`, and a `policy` among {', '.join(POLICIES)}")
    facts = read_facts(name, revision)
    facts.dtype = dtype
    detectors = [
        load_detector(Path(folder), smoothing=plan.smoothing, threshold=plan.threshold)
        for folder in plan.probes
    ]
    for one in detectors:
        check_reads(facts, one.saved.card)
    if not plan.stale_ok:
        check_rechecked(facts, map(Path, plan.probes))
    stops = read_stops(name, locate(name), revision)
    if not stops:
        raise ModelError(f"{name} has no token that ends a turn, so no answer can be stopped")
    return facts, detectors, stops


def load_guard(runner: Any, plan: GuardPlan) -> Guard:  # noqa: ANN401 - of vLLM
    """Load the probes that a plan names, and see that they fit the model of a runner.

    Raises:
        ModelError: as `read_probes`.
        ProbeError: likewise.
    """
    config = runner.model_config
    dtype = str(config.dtype).removeprefix("torch.")
    found = read_probes(plan, plan.model or config.model, config.revision, dtype)
    return Guard(runner, *found, plan)
