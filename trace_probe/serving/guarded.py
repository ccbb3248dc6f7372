"""Watched generations for many clients: from a request to readings, alarms written down."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Any

from trace_probe.errors import ModelError, TraceError
from trace_probe.monitor.calibrated import level
from trace_probe.monitor.drift import DriftCheck
from trace_probe.monitor.live import Followed, Monitor, check_readable
from trace_probe.monitor.scorer import Reading, ScoredSentence, new_alarms
from trace_probe.serving.audit import AuditLog
from trace_probe.serving.limits import Limits, Refusal
from trace_probe.serving.protocol import ChatRequest
from trace_probe.serving.reply import Policy, Reply
from trace_probe.serving.scheduler import Scheduler, Stream
from trace_probe.serving.sessions import Session, Sessions
from trace_probe.serving.telemetry import Telemetry
from trace_probe.serving.tools import prompt_of
from trace_probe.serving.webhook import Hook, Webhook
from trace_probe.text.channels import ChannelReader, format_of, format_under

READERS = 2
"""Prompts that are turned into tokens at a time."""
Part = dict[str, Any] | ScoredSentence
"""Text for a field of the message, or a sentence that has ended."""


@dataclass
class Answer:
    """One answer under way."""

    reply: Reply
    prompt_tokens: int
    stream: Stream
    uncalibrated: str
    """What is to be said if the thresholds were set under another decoding."""
    episode: Followed
    session: Session | None = None
    call: int = 1
    """Which model call of the session this is, counted from 1."""
    whole: bool = False
    """Whether all of it was given."""
    ended: bool = False

    @property
    def place(self) -> dict[str, str | int]:
        """Return the session and the call, as they stand in the audit log and the answer."""
        return {} if self.session is None else {"session": self.session.name, "call": self.call}


class GuardedModel:
    """A monitored model that several clients share."""

    def __init__(
        self,
        monitor: Monitor,
        audit: AuditLog,
        *,
        policy: Policy,
        limits: Limits,
        hook: Hook | None = None,
    ) -> None:
        """Put a monitor behind a queue; `hook` says where alarms are sent besides the log."""
        self.name = monitor.model.name.partition("@")[0]
        self.scheduler = Scheduler(limits.streams)
        self.telemetry = Telemetry(lambda: self.scheduler.active)
        sent = self.telemetry.sent
        self.webhook = Webhook(hook, lambda came: sent.labels(came).inc()) if hook else None
        self.policy: Policy = policy
        self._stops = policy != "annotate"
        """Whether an alarm ends a generation."""
        self.sessions = Sessions(limits.sessions, limits.session_seconds, limits.session_calls)
        self._monitor, self._audit = monitor, audit
        self.detectors = monitor.detectors
        levels = self.detectors[0].levels
        self._drift = DriftCheck(levels) if levels else None
        self._told_drift = False
        self._draining = False
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="prompt")

    def drain(self) -> None:
        """Start no more generations."""
        self._draining = True

    async def begin(self, request: ChatRequest, caller: str = "") -> Answer:
        """Start a generation; the prompt is read in a thread, however long that takes.

        `end` it, however it ends. `caller` is whom a session belongs to.

        Raises:
            Refusal: 400 if the prompt does not fit, 403, 409 or 429 by the session, 429 if too
                many are under way, 503 if the model does not run any more, or soon will not.
        """
        if self._draining or not self.scheduler.alive:
            raise Refusal(503, "the server is stopping, or its model has", "unavailable")
        self.scheduler.check_room()
        if not request.session:
            return await self._begin(request, None)
        session = self.sessions.enter(caller, request.session, stops=self._stops)
        try:
            return await self._begin(request, session)
        except BaseException:
            self.sessions.leave(session)
            raise

    async def _begin(self, request: ChatRequest, session: Session | None) -> Answer:
        monitor, loop = self._monitor, asyncio.get_running_loop()
        prompt, reply = await loop.run_in_executor(self._readers, self._read, request)
        episode, ids = Followed(), {"gen_ai.response.id": reply.id}
        if session is not None:
            episode.carried = session.carried
            reply.before, reply.alarms = session.tokens, session.alarms
            ids["gen_ai.conversation.id"] = session.name
        episode.ids = ids
        readings = monitor.watch_ids(prompt, request.sampling.seed, request.sampling, episode)
        stream = self.scheduler.submit(readings, stops=self._stops)
        note = ", ".join(monitor.uncalibrated(request.sampling))
        note = note and f"calibrated under another decoding: {note}"
        call = 1 if session is None else session.call
        return Answer(reply, len(prompt), stream, note, episode, session, call)

    def end(self, answer: Answer) -> None:
        """End a generation if it is under way, and let the next one of its session in."""
        answer.stream.cancel()
        if answer.session is not None and not answer.ended:
            carried = answer.episode.carried if answer.whole else None
            over = answer.whole and not answer.reply.asks
            self.sessions.leave(answer.session, answer.reply.alarms, carried, over=over)
        answer.ended = True

    def _read(self, request: ChatRequest) -> tuple[list[int], Reply]:
        """Return the prompt as token ids, and the reply to come.

        Raises:
            Refusal: 400 if the prompt does not fit, or if the model does not know its words.
        """
        model = self._monitor.model
        said = [each["content"] for each in request.messages]
        try:
            model.check_length(sum(map(len, said)))
            check_readable(model.chat, "\n".join(said), "the messages")
            prompt = self._prompt(request)
            model.check_room(len(prompt), request.sampling)
        except ModelError as error:
            raise Refusal(400, str(error), "context_length_exceeded", "messages") from error
        except TraceError as error:
            raise Refusal(400, str(error), "unreadable_text", "messages") from error
        return prompt, self._reply(prompt, request)

    def _prompt(self, request: ChatRequest) -> list[int]:
        """Return the prompt as token ids; that of an agent in its model's way of showing tools."""
        model = self._monitor.model
        acts = any(each["role"] == "tool" or len(each) > 2 for each in request.messages)
        if request.tools or acts:
            return prompt_of(model.chat, request.messages, request.tools)
        return model.render_chat(request.messages)

    def _reply(self, prompt: list[int], request: ChatRequest) -> Reply:
        model = self._monitor.model
        text, _ = model.offsets(prompt[-64:])
        format, prefilled = format_under(text, format_of(model.chat_template, model.name))
        return Reply(
            id=f"chatcmpl-{secrets.token_hex(12)}",
            model=self.name,
            detectors=self.detectors,
            policy=self.policy,
            channels=ChannelReader(format, prefilled=prefilled),
            format=format,
            most_tokens=request.sampling.max_new_tokens,
            stops=request.stops,
            tools=bool(request.tools),
        )

    async def parts(self, answer: Answer) -> AsyncGenerator[Part, None]:
        """Yield the answer as it comes; leaving early ends the generation.

        An alarm is in the audit log before anything that follows it is yielded.

        Raises:
            Refusal: 500 if the generation broke.
        """
        reply, broke = answer.reply, False
        try:
            async with aclosing(self._readings(answer)) as readings:
                async for reading in readings:
                    told = reply.alarms
                    parts = reply.take(reading)
                    await self._record(answer, reading, told)
                    for ended in reading.ended:
                        yield ended
                    for part in parts:
                        yield part
                    if reply.over:
                        break
            for part in reply.finish():
                yield part
            answer.whole = True
            await self._finished(reply)
        except Refusal:
            broke = True  # it broke here; the client did not leave
            raise
        finally:
            self.end(answer)
            if not answer.whole and not broke:
                self.telemetry.disconnects.inc()

    async def _readings(self, answer: Answer) -> AsyncGenerator[Reading, None]:
        while True:
            try:
                reading = await answer.stream.next()
            except Exception as error:  # whatever it was, its client is told and the others go on
                raise Refusal(500, "the generation broke off", "internal") from error
            if reading is None:
                return
            self.telemetry.tokens.inc()
            yield reading

    async def _record(self, answer: Answer, reading: Reading, told: tuple[str, ...]) -> None:
        """Count the sentences of a reading and write new alarms down."""
        reply = answer.reply
        if reading.unreadable and set(told) != set(reading.alarms):
            await self._record_unreadable(answer, reading, told)
        for scored in reading.ended:
            if scored.scores:
                self.telemetry.scores.observe(scored.scores[0])
        for alarm in new_alarms(reply.detectors, reading, told):
            self.telemetry.alarms.labels(alarm.probe).inc()
            await self._tell(answer, asdict(alarm))

    async def _tell(self, answer: Answer, alarm: Mapping[str, Any]) -> None:
        """Write an alarm down; once it is on disk the webhook gets it, which nobody waits for."""
        entry = {
            "event": "alarm",
            "completion": answer.reply.id,
            **answer.place,
            "model": self._monitor.model.name,
            **alarm,
            "policy": self.policy,
        }
        await asyncio.to_thread(self._audit.write, entry)
        if self.webhook is not None:
            self.webhook.put(entry)

    async def _record_unreadable(
        self, answer: Answer, reading: Reading, told: tuple[str, ...]
    ) -> None:
        """Write down that nothing can be scored any more, an alarm of every probe."""
        probes = [name for name in reading.alarms if name not in told]
        for name in probes:
            self.telemetry.alarms.labels(name).inc()
        alarm = {"reason": "unreadable", "probes": probes, "position": reading.token}
        await self._tell(answer, alarm)

    async def _finished(self, reply: Reply) -> None:
        """Take a whole answer into the drift check."""
        scores = [each.scores[0] for each in reply.sentences if each.scores]
        lies = level(scores)
        drift = self._drift.add(lies) if self._drift and lies is not None else None
        self.telemetry.finished(drift)
        if drift and drift.drifted and not self._told_drift:
            self._told_drift = True
            await asyncio.to_thread(
                self._audit.write,
                {"event": "drift", "evidence": drift.evidence, "note": drift.note},
            )

    def extension(self, answer: Answer) -> dict[str, Any]:
        """Return what the probes say of a whole answer, and of which session and call it is.

        Also why their guarantee may not hold for it.
        """
        notes = answer.uncalibrated, self._drift.drift.note if self._drift else ""
        return {**answer.reply.extension("; ".join(filter(None, notes))), **answer.place}

    def close(self) -> None:
        """End all generations."""
        self.scheduler.close()
        self._readers.shutdown(cancel_futures=True)
        self._audit.close()
