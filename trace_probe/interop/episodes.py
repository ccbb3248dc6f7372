"""The model calls of a foreign chat as one trace, in the best tokens that there are.

A prompt is the plain text of its messages, what tools gave back between ``<tool_response>`` tags,
and tokens are words. With a tokenizer, its chat template writes the prompts and the text is cut
into its tokens (``retokenised``); where the file has the ids of all calls, these are taken
(``exact``). The fact ``ids`` of a trace says which it is.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from trace_probe.episode import Episode, alike, thought_of
from trace_probe.errors import ModelError, TraceError
from trace_probe.interop.conversation import (
    GAP,
    Message,
    Turn,
    Written,
    goes_on,
    result_of,
    written,
)
from trace_probe.model.dialect import Dialect, Said
from trace_probe.text.channels import Range, Split, format_under
from trace_probe.text.layout import Layout, lay_out
from trace_probe.text.parts import OPEN, after_prompt, as_recorded, cut_words
from trace_probe.text.tool_calls import write_call
from trace_probe.text.written import read_back
from trace_probe.trace import Finish, ModelCall, Span, ToolCall, ToolResult, Trace, digest

if TYPE_CHECKING:
    from trace_probe.model.tokenizer import ChatTokenizer

MOST_READ = 1 << 28
"""Characters of prompts of one episode that do not go on with those before them."""
TOOL_RESULT = ("<tool_response>\n", "\n</tool_response>")


def trace_of(
    turns: Sequence[Turn],
    about: Mapping[str, Any],
    key: Sequence[object],
    facts: Mapping[str, str] | None = None,
    tokenizer: "ChatTokenizer | None" = None,
) -> Trace:
    """Return model calls as one trace; calls in which nothing was written are left out.

    `about` holds the fields of a `Trace` that do not depend on its tokens, such as task and model;
    the id is a digest of `key` and of what was written and read.

    Raises:
        TraceError: nothing was written in any call, or the calls read more than can be looked at.
    """
    told = [turn for turn in turns if not turn.wrote.empty]
    if not told:
        raise TraceError("the model wrote nothing, neither a text nor a call: leave it out")
    trace = _joined(told, {"id": "call", **about}, tokenizer)
    given = {**(facts or {}), "ids": trace.facts["ids"], **_odd(told, turns)}
    trace = replace(trace, facts={**trace.facts, **given})
    name = digest(*key, trace.text, *(call.text for call in trace.calls[1:]))
    if len(told) > 1 or told[0].results:
        return replace(trace, id=name)
    message = {"message": told[0].wrote.id} if told[0].wrote.id else {}
    return replace(trace, id=name, calls=(), facts={**trace.facts, **message})


def _odd(told: Sequence[Turn], every: Sequence[Turn]) -> dict[str, str]:
    """Return what a reader must know of calls that are not whole, as facts."""
    hidden = sum(any(part.hidden for part in turn.wrote.parts) for turn in told)
    facts = {"hidden_reasoning": f"in {hidden} of {len(told)} calls"} if hidden else {}
    if len(told) < len(every):
        facts["empty_calls"] = str(len(every) - len(told))
    return facts


def _joined(
    turns: Sequence[Turn], about: Mapping[str, Any], tokenizer: "ChatTokenizer | None"
) -> Trace:
    """Return the calls as one trace in the best tokens that all of them have; a fact says which."""
    calls, how = None, ""
    if tokenizer is not None:
        calls, how = _all(_exact(tokenizer, turn, about) for turn in turns), "exact"
        if calls is None:
            last = turns[-1]
            made = (_retokenised(tokenizer, turn, about, last=turn is last) for turn in turns)
            calls, how = _all(made), "retokenised"
    if calls is None:
        grown = _as_words(turns, about)
        return replace(grown, facts={**grown.facts, "ids": "words"})
    results, agents, messages = zip(
        *map(_beside, turns, [_several(turns)] * len(turns)), strict=True
    )
    return Episode("episode", tuple(calls), results, agents, messages, {"ids": how}).joined()


def _several(turns: Sequence[Turn]) -> bool:
    """Return whether more than one agent made the calls."""
    return len({turn.agent for turn in turns}) > 1


def _beside(turn: Turn, several: bool) -> tuple[tuple[ToolResult, ...], str, str]:
    """Return what a trace keeps of a call beside its tokens: results, agent and message."""
    return turn.results, turn.agent if several else "", turn.wrote.id


def _all(traces: Iterable[Trace | None]) -> list[Trace] | None:
    """Return all traces, or None as soon as one cannot be had."""
    found: list[Trace] = []
    for trace in traces:
        if trace is None:
            return None
        found.append(trace)
    return found


def _exact(tokenizer: "ChatTokenizer", turn: Turn, about: Mapping[str, Any]) -> Trace | None:
    """Return a call in the ids that the file gives.

    None if it gives none, or if the text of the ids does not hold the tool calls that it gives.
    """
    if not turn.prompt_ids or not turn.token_ids:
        return None
    ids = (*turn.prompt_ids, *turn.token_ids)
    read = read_back(tokenizer, ids, len(turn.prompt_ids))
    given = turn.wrote.calls
    if given and len(given) != len(read.actions):
        return None
    named = [replace(one, id=call.id) for one, call in zip(read.actions, given, strict=False)]
    return Trace(
        **about,
        **{**read._asdict(), "actions": tuple(named) or read.actions},
        token_ids=ids,
        tokenizer=tokenizer.fingerprint,
        finish=turn.finish,
    )


def _retokenised(
    tokenizer: "ChatTokenizer", turn: Turn, about: Mapping[str, Any], *, last: bool
) -> Trace | None:
    """Return a call in tokens of its text, or None if they do not write that text back."""
    try:
        prompt = prompt_of(tokenizer, turn)
    except ModelError:  # the template does not take such messages
        return None
    return in_tokens(
        tokenizer, prompt, written(turn, str(about["model"]), last=last), about, turn.finish
    )


def in_tokens(
    tokenizer: "ChatTokenizer",
    prompt: str,
    mine: Written,
    about: Mapping[str, Any],
    finish: Finish,
) -> Trace | None:
    """Return a prompt and what was written behind it, in tokens of that text.

    None if the tokens do not write the text back. `about` is as in `trace_of`, with an id.
    """
    _, opened = format_under(prompt, tokenizer.format)
    if opened and mine.text.startswith(OPEN):
        mine = _without(mine, len(OPEN))
    start = tokenizer.encode(prompt)
    ids = (*start, *tokenizer.encode(mine.text))
    text, offsets = tokenizer.offsets(ids)
    if text != prompt + mine.text:
        return None
    cut = after_prompt(prompt, as_recorded(mine.text, mine.cut))
    layout = lay_out(text, offsets, len(start), cut)
    own = [offset - len(prompt) for offset in offsets]
    return Trace(
        **about,
        text=text,
        offsets=offsets,
        **_as_given(layout, mine, own)._asdict(),
        token_ids=ids,
        tokenizer=tokenizer.fingerprint,
        finish=finish,
    )


def _without(mine: Written, head: int) -> Written:
    """Return what was written without its first characters, which the prompt holds already."""
    ranges = [Range(c, max(a - head, 0), b - head) for c, a, b in mine.cut.ranges if b > head]
    calls = tuple((call, start - head, stop - head) for call, start, stop in mine.calls)
    return Written(mine.text[head:], Split(ranges, mine.cut.thought), calls)


def prompt_of(tokenizer: "ChatTokenizer", turn: Turn) -> str:
    """Return what a call read as the chat template writes it, in the form that loses nothing.

    Raises:
        ModelError: the template does not take such messages.
    """
    acts = turn.tools or any(message.calls or message.role == "tool" for message in turn.read)
    dialect = tokenizer.dialect if acts else Dialect()
    turns: list[dict[str, Any]] = []
    for message in turn.read:
        if message.role == "tool":
            result = result_of(message)
            turns += dialect.results([replace(result, content=result.content or result.error)])
        elif message.role == "assistant":
            turns.append(dialect.turn(_said(message), tokenizer.format))
        else:
            turns.append({"role": message.role, "content": message.text})
    tools = turn.tools if dialect.tools else ()
    return tokenizer.conversation(dialect.first(turns, tools), tools=tools)


def _said(message: Message) -> Said:
    """Return a message of the model by channel."""
    thoughts = (part.text for part in message.parts if part.kind == "reasoning" and part.text)
    calls = [(call.name, call.text or "{}", call.id) for call in message.calls]
    texts = [write_call(name, arguments) for name, arguments, _ in calls]
    return Said(GAP.join(thoughts), message.text, tuple(calls), "\n".join(texts))


class _Words(NamedTuple):
    """A text, and where its words start."""

    text: str
    offsets: tuple[int, ...]


def _joint(pieces: Iterable[_Words]) -> _Words:
    """Return pieces as one text."""
    texts, offsets, stop = [], list[int](), 0
    for text, starts in pieces:
        offsets += [stop + start for start in starts]
        texts.append(text)
        stop += len(text)
    return _Words("".join(texts), tuple(offsets))


class _Prompts:
    """What each call of an episode reads, as what is new in it."""

    def __init__(self, model: str) -> None:
        self._model = model
        self.shown: list[_Words] = []
        """All that the latest call read and wrote, in pieces."""
        self._held = 0
        self._anew = 0
        """Characters of prompts that do not go on with all that the call before read and wrote."""

    def read(self, turn: Turn, before: Turn | None) -> tuple[int, _Words]:
        """Return how many words a call reads again, and what it reads behind them."""
        if before and goes_on(turn.read, before.read, before.wrote):
            kept, new = self._held, _joint(self._pieces(turn.read[len(before.read) + 1 :], True))
            self.wrote(new)
            return kept, new
        whole, old = _joint(self._pieces(turn.read, False)), _joint(self.shown)
        self._anew += len(whole.text) if before else 0
        if self._anew > MOST_READ:
            raise TraceError(
                f"its model calls begin anew with more than {MOST_READ >> 20} million characters: "
                f"leave it out"
            )
        self.shown, self._held = [whole], len(whole.offsets)
        same = alike(old.text, whole.text)
        ends = (*whole.offsets[1:], len(whole.text))
        pairs = zip(old.offsets, whole.offsets, ends, strict=False)
        kept = sum(1 for _ in takewhile(lambda one: one[0] == one[1] and one[2] <= same, pairs))
        begin = whole.offsets[kept] if kept < len(whole.offsets) else len(whole.text)
        rest = tuple(offset - begin for offset in whole.offsets[kept:])
        return kept, _Words(whole.text[begin:], rest)

    def wrote(self, words: _Words) -> None:
        """Take what the model wrote, as later prompts will hold it."""
        self.shown.append(words)
        self._held += len(words.offsets)

    def _pieces(self, messages: Iterable[Message], more: bool) -> Iterator[_Words]:
        """Yield messages as text; `more` says that they stand behind others."""
        gap = _Words(GAP, (0,))
        if more:
            yield gap
        for message in messages:
            if message.role == "assistant":
                said = written(Turn((), message, "stop"), self._model, last=False)
                yield _Words(said.text, cut_words(said.text, said.cut)[0])
                yield gap
                continue
            text = message.text
            if message.role == "tool":
                text = (text or message.error).join(TOOL_RESULT)
            if text:
                text += GAP
                whole = Split([Range("prompt", 0, len(text))], "absent")
                yield _Words(text, cut_words(text, whole)[0])


def _as_words(turns: Sequence[Turn], about: Mapping[str, Any]) -> Trace:
    """Return all calls as one trace with words for tokens, in time that grows with what is new."""
    model, several = str(about["model"]), _several(turns)
    prompts, calls, layouts = _Prompts(model), list[ModelCall](), list[Layout]()
    wrote: list[_Words] = []
    start = 0
    for k, turn in enumerate(turns):
        kept, new = prompts.read(turn, turns[k - 1] if k else None)
        if k == 0:  # it stands in the trace itself
            start, new = len(new.offsets), _Words("", ())
            wrote += prompts.shown
        mine = written(turn, model, last=turn is turns[-1])
        own, layout = cut_words(mine.text, mine.cut)
        layout = _as_given(layout, mine, own)
        prompts.wrote(_Words(mine.text, own))
        results, agent, message = _beside(turn, several)
        thought, finish = layout.thought, turn.finish
        calls.append(ModelCall(start, kept, *new, (), thought, finish, agent, message, results))
        layouts.append(_behind(layout, start) if k == 0 else _shifted(layout, start))
        wrote.append(_Words(mine.text, own))
        start += len(own)
    return Trace(
        **about,
        **_joint(wrote)._asdict(),
        spans=tuple(span for part in layouts for span in part.spans),
        sentences=tuple(span for part in layouts for span in part.sentences),
        actions=tuple(one for part in layouts for one in part.actions),
        thought=thought_of([part.thought for part in layouts]),
        finish=turns[-1].finish,
        tokenizer="words",
        calls=tuple(calls),
    )


def _behind(layout: Layout, shift: int) -> Layout:
    """Return the layout of a completion as it is behind a prompt of so many tokens."""
    prompt = [Span(0, shift, "prompt")] if shift else []
    moved = _shifted(layout, shift)
    return moved._replace(spans=(*prompt, *moved.spans))


def _shifted(layout: Layout, shift: int) -> Layout:
    """Return a layout as it is behind so many tokens."""
    return Layout(
        tuple(_moved(span, shift) for span in layout.spans),
        tuple(_moved(span, shift) for span in layout.sentences),
        layout.thought,
        tuple(replace(one, span=_moved(one.span, shift)) for one in layout.actions),
    )


def _moved(span: Span, shift: int) -> Span:
    return Span(span.start + shift, span.stop + shift, span.channel)


def _as_given(layout: Layout, mine: Written, offsets: Sequence[int]) -> Layout:
    """Return a layout whose tool calls are those of the file, where it has them apart.

    `offsets` are those of the tokens, counted from where the model began to write.
    """
    given = [
        ToolCall(
            call.name,
            call.text or "{}",
            Span(bisect_left(offsets, start), bisect_left(offsets, stop), "action"),
            call.id,
        )
        for call, start, stop in mine.calls
    ]
    taken = {token for one in given for token in range(one.span.start, one.span.stop)}
    read = [one for one in layout.actions if one.span.start not in taken]
    return layout._replace(actions=tuple(sorted([*read, *given], key=lambda one: one.span)))
