"""Language models as labellers: asked in parallel, remembered by content, never guessed for.

What a judge did not clearly say is *unknown*, with the reason in the label; a fault, a
refusal or a reply out of form is never a negative, nor is a thought that was cut off.

From what a judge found to a label; whatever is in doubt becomes unknown, with the reason.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from trace_probe.errors import ServerError
from trace_probe.files import load_json, write_json
from trace_probe.labelling.protocol import (
    VERSION,
    Finding,
    Part,
    ProtocolName,
    Question,
    Unreadable,
    questions,
    read_finding,
)
from trace_probe.labelling.quotes import find_quote, first_quoted
from trace_probe.labels import Label
from trace_probe.model.endpoint import (
    HOPELESS,
    Patience,
    RequestError,
    Servers,
    run,
)
from trace_probe.model.keys import refuse_secrets
from trace_probe.model.reply import Reply
from trace_probe.trace import Span, Trace, digest


@dataclass(frozen=True)
class Answer:
    """What became of one question."""

    finding: Finding | None
    fault: str = ""
    """Why there is no finding."""


@dataclass(frozen=True)
class _Said:
    """What the reasoning shows."""

    said: Span | None = None
    known: bool = True
    why: str = ""


def to_label(
    trace: Trace, name: str, protocol: ProtocolName, answers: Mapping[Part, Answer]
) -> Label:
    """Return the label that findings on answer and reasoning amount to.

    The outcome rests on the answer alone, what was said on the reasoning alone.
    """
    outcome, why = _outcome(trace, answers.get("answer"), protocol)
    said = _said(trace, answers.get("reasoning"), protocol)
    kept, invented = _check_quotes(trace, answers)
    facts = {"protocol": f"{protocol}/{VERSION}"}
    if not said.known:
        facts["said"] = "unknown"
    if invented:
        facts["rejected_quotes"] = str(invented)
    label = Label(
        trace.id,
        name,
        outcome,
        said=said.said,
        acted=_acted(trace, answers) if outcome else None,
        rationale=" | ".join(filter(None, (why, said.why))),
        quotes=kept,
        facts=facts,
    )
    found = _finding(answers.get("reasoning"))
    return replace(
        label,
        considered=find_quote(trace, found.considered, "reasoning"),
        rejected=find_quote(trace, found.rejected, "reasoning"),
    )


def _outcome(
    trace: Trace, answer: Answer | None, protocol: ProtocolName
) -> tuple[bool | None, str]:
    """Return the outcome and the judge's reason for it, or ours for not believing it."""
    if answer is None:
        cut = trace.thought == "truncated"
        return None, "the thought was cut off before any answer" if cut else "there is no answer"
    found = answer.finding
    if found is None or found.holds is None:
        return None, answer.fault or f"the judge cannot tell: {_finding(answer).reason}"
    if not found.holds and trace.thought == "truncated":
        return None, f"negative, but of a thought that was cut off. {found.reason}"
    if protocol == "judge" and not found.holds and trace.finish == "length":
        return None, f"negative, but of an answer that was cut off. {found.reason}"
    if protocol == "judge" and found.holds and not _acted(trace, {"answer": answer}):
        return None, f"positive, but no quote of the judge is in the answer. {found.reason}"
    return found.holds, found.reason


def _acted(trace: Trace, answers: Mapping[Part, Answer]) -> Span | None:
    """Return the earliest evidence of the act: a quoted sentence, or the tool call."""
    found = _finding(answers.get("answer"))
    named = [call.span for call in trace.actions[found.call - 1 : found.call] if found.call]
    quoted = (first_quoted(trace, found.quotes, channel) for channel in ("answer", "action"))
    return min((*named, *filter(None, quoted)), default=None)


def _said(trace: Trace, answer: Answer | None, protocol: ProtocolName) -> _Said:
    if protocol == "paper":
        return _Said(known=False)
    if answer is None:
        mixed = trace.thought == "not_delimited"
        return _Said(known=not mixed, why="reasoning cannot be told from answer" if mixed else "")
    found = answer.finding
    if found is None or found.holds is None:
        return _Said(
            known=False, why=answer.fault or f"reasoning unclear: {_finding(answer).reason}"
        )
    if not found.holds:
        return _Said(why=found.reason)
    said = first_quoted(trace, found.quotes, "reasoning")
    if said is None:
        return _Said(known=False, why="said, but no quote of the judge is in the reasoning")
    return _Said(said, why=found.reason)


def _check_quotes(trace: Trace, answers: Mapping[Part, Answer]) -> tuple[tuple[str, ...], int]:
    """Return the quotes that stand in the text they are said to be from, and how many do not."""
    given = [
        (part, quote)
        for part, one in answers.items()
        for found in (_finding(one),)
        for quote in (*found.quotes, found.considered, found.rejected)
        if quote.strip()
    ]
    kept = [
        quote
        for part, quote in given
        if find_quote(trace, quote, part)
        or (part == "answer" and find_quote(trace, quote, "action"))
    ]
    return tuple(dict.fromkeys(kept)), len(given) - len(kept)


def _finding(answer: Answer | None) -> Finding:
    """Return the finding, or one that says nothing."""
    return answer.finding if answer and answer.finding else Finding(None)


TRIES = 2
"""How often a question is put whose answer is out of form."""
TOGETHER = 256
"""Traces judged in one go."""
CHARACTERS_A_TOKEN, REPLY_TOKENS = 4, 150
"""For estimates only: about what English text and a verdict take."""


@dataclass(frozen=True)
class JudgeServers:
    """Where judges are asked and what is remembered of them."""

    urls: tuple[str, ...] = ()
    """Base URLs; none means OpenAI's own."""
    cache: Path | None = None
    """Folder of verdicts by content; None keeps nothing."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of each request; None leaves one of ours out."""
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        """Refuse a key where a list of processes shows it."""
        refuse_secrets(self.urls, self.extra)


@dataclass(frozen=True)
class Cost:
    """What judging takes or took."""

    requests: int = 0
    cached: int = 0
    """Verdicts that were remembered."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    rejected_quotes: int = 0
    """Quotes that the judged text does not contain."""
    uncounted: int = 0
    """Requests of which the server gave no count of tokens, or one that cannot be."""

    def __add__(self, other: "Cost") -> "Cost":
        """Return both together."""
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def dollars(self, price: tuple[float, float]) -> float:
        """Return what it comes to at a price per million tokens read and written."""
        return (self.prompt_tokens * price[0] + self.completion_tokens * price[1]) / 1e6

    def to_json(self, price: tuple[float, float] | None = None) -> dict[str, float | None]:
        """Return the counts by name, and the dollars where the price of a token is known."""
        return {**asdict(self), "dollars": None if price is None else self.dollars(price)}


def _cost(reply: Reply) -> Cost:
    """Return what an answer took; tokens of which there is no count are left out and told."""
    read, written = reply.prompt_tokens, reply.completion_tokens
    return Cost(1, 0, read or 0, written or 0, uncounted=int(read is None or written is None))


class Judge:
    """A model that labels traces under one protocol; `spent` says what that has cost."""

    def __init__(
        self, model: str, protocol: ProtocolName, where: JudgeServers | None = None
    ) -> None:
        self.model = model
        self.protocol: ProtocolName = protocol
        self.spent = Cost()
        self._bench = where or JudgeServers()
        self._structured = True

    @property
    def name(self) -> str:
        """Return the name under which its labels are kept."""
        return f"{self.protocol}:{self.model}"

    def label(self, trace: Trace) -> Label:
        """Return the label of one trace.

        Raises:
            ServerError: the judge cannot be asked at all.
        """
        return next(self.label_all([trace]))

    def label_all(self, traces: Iterable[Trace]) -> Iterator[Label]:
        """Yield the label of each trace, in order.

        Raises:
            ServerError: the judge cannot be asked at all; what it judged before comes first.
        """
        waiting = iter(traces)
        while group := list(islice(waiting, TOGETHER)):
            for label in run(partial(self._label_group, group)):
                if isinstance(label, BaseException):
                    raise label
                yield label

    def estimate(self, traces: Iterable[Trace]) -> Cost:
        """Return about what it would cost to label these traces; nothing is asked."""
        cost = Cost()
        for question in (q for trace in traces for q in questions(self.protocol, trace)):
            if self._remembered(question):
                cost += Cost(cached=1)
            else:
                characters = len(question.system) + len(question.user)
                cost += Cost(1, 0, characters // CHARACTERS_A_TOKEN, REPLY_TOKENS)
        return cost

    async def _label_group(self, traces: Sequence[Trace]) -> list[Label | BaseException]:
        async with Servers(self._bench.urls, self._bench.patience) as servers:
            labels = (self._label(trace, servers) for trace in traces)
            return await asyncio.gather(*labels, return_exceptions=True)

    async def _label(self, trace: Trace, servers: Servers) -> Label:
        asked = questions(self.protocol, trace)
        heard = await asyncio.gather(*(self._hear(question, servers) for question in asked))
        found = {q.part: h for q, h in zip(asked, heard, strict=True)}
        label = to_label(trace, self.name, self.protocol, found)
        self.spent += Cost(rejected_quotes=int(label.facts.get("rejected_quotes", "0")))
        return label

    async def _hear(self, question: Question, servers: Servers) -> Answer:
        """Return what the judge finds, from memory if it was asked before."""
        remembered = self._remembered(question)
        if remembered:
            self.spent += Cost(cached=1)
            return Answer(read_finding(question, remembered))
        fault = ""
        for _ in range(TRIES):
            try:
                text = await self._ask(question, servers)
                finding = read_finding(question, text)
            except Unreadable as error:
                fault = str(error)
                continue
            except RequestError as error:
                if error.status in HOPELESS:
                    raise ServerError(f"{self.model} cannot judge: {error}") from error
                return Answer(None, f"the judge could not be asked: {error}")
            self._remember(question, text)
            return Answer(finding)
        return Answer(None, fault)

    async def _ask(self, question: Question, servers: Servers) -> str:
        """Return the text of the judge's reply.

        Raises:
            Unreadable: it refused to judge.
            RequestError: it could not be asked.
        """
        request = self._request(question)
        try:
            reply = await servers.ask(request)
        except RequestError as error:
            if error.status not in (400, 422) or "response_format" not in str(error):
                raise
            self._structured = False  # the prompt itself states the schema
            reply = await servers.ask(self._request(question))
        self.spent += _cost(reply)
        if reply.refusal:
            raise Unreadable(f"the judge refused: {reply.refusal:.200}")
        return reply.text.rpartition("</think>")[2]

    def _request(self, question: Question) -> dict[str, Any]:
        form = {"name": question.part, "strict": True, "schema": question.schema}
        wanted = {"type": "json_schema", "json_schema": form}
        return {
            "model": self.model,
            "messages": question.messages,
            "temperature": 0,
            "max_completion_tokens": 4096,
            "response_format": wanted if question.schema and self._structured else None,
            **self._bench.extra,
        }

    def _file(self, question: Question) -> Path | None:
        if self._bench.cache is None:
            return None
        key = digest(self.model, question.messages, question.schema, dict(self._bench.extra))
        return self._bench.cache / f"{key}.json"

    def _remembered(self, question: Question) -> str:
        file = self._file(question)
        return str(load_json(file).get("reply", "")) if file and file.is_file() else ""

    def _remember(self, question: Question, reply: str) -> None:
        file = self._file(question)
        if file:
            write_json(file, {"model": self.model, "part": question.part, "reply": reply})
