"""Tasks to traces through servers: generated anywhere, kept as if recorded here."""

import asyncio
import json
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

from trace_probe.errors import ServerError
from trace_probe.model.dialect import Turn
from trace_probe.model.endpoint import HOPELESS, Patience, RequestError, Servers
from trace_probe.model.keys import refuse_secrets
from trace_probe.model.reply import Reply
from trace_probe.model.tokenizer import messages, switch
from trace_probe.recording.plan import Planned, RecordReport, check_samples, planned_traces
from trace_probe.store import Manifest, Store
from trace_probe.text.channels import (
    Format,
    Split,
    format_alone,
    format_of,
    format_under,
    split,
)
from trace_probe.text.layout import Layout, lay_out
from trace_probe.text.parts import (
    after_prompt,
    as_recorded,
    cut_words,
    join_parts,
    with_calls,
)
from trace_probe.text.written import read_back
from trace_probe.trace import Sampling, Task, Trace

if TYPE_CHECKING:
    from trace_probe.model.tokenizer import ChatTokenizer

SEEDS = 2**31
"""Servers keep seeds in 32 or 64 bits, with or without a sign."""
TOKEN_IDS = "return_token_ids"
"""What vLLM calls the wish for exact ids."""
NO_CONDITION = frozenset({TOKEN_IDS})
"""What may be asked of a server without a change in what the model writes."""


@dataclass(frozen=True)
class Served:
    """A model, the servers that have it, and what to ask them beyond the sampling.

    Example:
        >>> served = Served("Qwen/Qwen3-8B", ("http://localhost:8000/v1",))
        >>> served.model
        'Qwen/Qwen3-8B'
    """

    model: str
    """The name under which the servers know it."""
    urls: tuple[str, ...] = ()
    """Base URLs such as ``http://localhost:8000/v1``; traces are shared out among them."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the request; None leaves one of ours out."""
    tokenizer: "ChatTokenizer | None" = None
    """Gives traces their token ids; without it words stand for tokens."""
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        """Refuse a key among what the run will keep, and answers that would not be kept."""
        refuse_secrets(self.urls, self.extra)
        if self.extra.get("n") not in (None, 1):
            raise ServerError(
                "a trace is one answer, so `n` is 1: ask for more traces of a task with samples "
                "(--samples)"
            )

    @property
    def name(self) -> str:
        """Return the name for manifests and traces; a server does not say which revision."""
        return f"{self.model}@served"

    def under(self, task: Task) -> Task:
        """Return a task whose condition names what else is asked of the servers."""
        asked = {key: value for key, value in self.extra.items() if key not in NO_CONDITION}
        if not asked:
            return task
        text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
        return Task(**{**vars(task), "condition": {**task.condition, "request": text}})


def served_manifest(served: Served, sampling: Sampling, *, tasks: str = "") -> Manifest:
    """Return the manifest of a run of a served model, which has no activations."""
    return Manifest(
        model=served.name,
        tokenizer=served.tokenizer.fingerprint if served.tokenizer else "words",
        sampling=sampling,
        tasks=tasks,
        version=version("trace-probe"),
    )


class Made(NamedTuple):
    """A trace that can be committed."""

    trace: Trace
    tokens: int
    """That were written for it."""

    @property
    def report(self) -> RecordReport:
        """Return the report of it."""
        return replace(RecordReport.of(self.trace), tokens=self.tokens)


Make = Callable[["Asking", "Planned"], Coroutine[Any, Any, Made]]
"""Makes one trace; RequestError if it cannot be had."""


def one_call(served: Served, store: Store) -> Make:
    """Return what makes a trace of a single reply."""
    sampling = store.manifest.sampling

    async def make(asking: "Asking", planned: Planned) -> Made:
        reply = await asking.reply(request(served, planned.task, planned.seed, sampling))
        trace = served_trace(served, planned, reply, sampling)
        return Made(trace, reply.completion_tokens or 0)

    return make


def plan_served(
    served: Served, tasks: Iterable[Task], manifest: Manifest, samples: int
) -> list[Planned]:
    """Return all traces of a run: the first sample of every task first, none twice.

    Raises:
        ServerError: the run is of another model.
        ModelError: greedy decoding was asked to vary.
    """
    if manifest.model != served.name:
        raise ServerError(
            f"the run is of {manifest.model}, not {served.name}: choose another folder"
        )
    check_samples(manifest.sampling, samples)
    every = {task.prompt_key: (task, ()) for task in map(served.under, tasks)}
    plan = planned_traces(served.name, every.values(), manifest.sampling, samples)
    return [planned._replace(seed=planned.seed % SEEDS) for planned in plan]


async def record_all(
    served: Served,
    plan: Sequence[Planned],
    store: Store,
    bar: Any,  # noqa: ANN401 - of tqdm
    make: Make,
) -> list[Made]:
    """Ask for every planned trace and commit each as it comes.

    Raises:
        ServerError: after all that could be had is committed, if any could not; or at once,
            if no request can succeed.
    """
    made, faults, waiting = list[Made](), list[str](), iter(plan)
    async with Servers(served.urls, served.patience) as servers:
        asking = Asking(served, servers)

        async def work() -> None:
            for planned in waiting:
                try:
                    one = await make(asking, planned)
                except RequestError as error:
                    if error.status in HOPELESS:
                        raise ServerError(f"{served.model} cannot be asked: {error}") from error
                    faults.append(str(error))
                    continue
                store.add(one.trace)
                made.append(one)
                bar.update()

        await _together(work, min(served.patience.concurrency, len(plan)))
    if faults:
        raise ServerError(
            f"{len(faults)} of {len(plan)} traces are missing ({faults[-1]}): "
            f"run the same command again to get them"
        )
    return made


async def _together(work: Callable[[], Coroutine[Any, Any, None]], workers: int) -> None:
    """Run several workers; the first error ends them all and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors.exceptions[0].__cause__


class Asking:
    """Requests to servers that are asked for exact token ids until one does not know the field."""

    def __init__(self, served: Served, servers: Servers) -> None:
        """Take the open servers."""
        self._servers = servers
        self._ids = served.tokenizer is not None and TOKEN_IDS not in served.extra

    async def reply(self, body: Mapping[str, Any]) -> Reply:
        """Return the reply to one request.

        Raises:
            RequestError: it came to nothing.
        """
        asked = self._ids
        try:
            return await self._servers.ask({**body, TOKEN_IDS: True} if asked else body)
        except RequestError as error:
            if not asked or error.status not in (400, 422) or TOKEN_IDS not in str(error):
                raise
            self._ids = False
        return await self._servers.ask(body)


class Asked(NamedTuple):
    """What a call of an agent is made of beyond its task."""

    after: Sequence[Turn] = ()
    """The turns since the task was given."""
    tools: Sequence[dict[str, Any]] = ()
    """The schemas of what may be called."""


TASK_ALONE = Asked()


def request(
    served: Served, task: Task, seed: int, sampling: Sampling, asked: Asked = TASK_ALONE
) -> dict[str, Any]:
    """Return the body of a chat completion request.

    Reasoning is switched as vLLM, SGLang and llama.cpp have it, by arguments of the template.
    """
    thinking = task.condition.get("thinking")
    turns = served.tokenizer.turns(task) if served.tokenizer else messages(task)
    return {
        "model": served.model,
        "messages": [*turns, *asked.after],
        "seed": seed,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_new_tokens,
        **({"tools": list(asked.tools)} if asked.tools else {}),
        **({"chat_template_kwargs": switch(thinking)} if thinking else {}),
        **served.extra,
    }


def without_echo(reply: Reply, task: Task) -> Reply:
    """Return a reply without the prompt that a server gave as its answer.

    `transformers serve` does so where a reply is cut off within its reasoning.
    """
    _, said, rest = reply.text.rpartition(task.prompt.strip())
    named = len(re.findall(r"\w+", re.sub(r"<[^>]*>|\[[^]]*\]", " ", rest)))
    echo = reply.finish == "length" and reply.reasoning is not None and said and named <= 2
    return replace(reply, text="") if echo else reply


def served_trace(
    served: Served, planned: Planned, reply: Reply, sampling: Sampling, asked: Asked = TASK_ALONE
) -> Trace:
    """Return a reply as a trace, in the best tokens there are."""
    reply = without_echo(reply, planned.task)
    text, offsets, layout, ids, how = _tokens(served, planned.task, reply, asked)
    counts = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
    return Trace(
        id=planned.id,
        task=planned.task,
        model=served.name,
        sampling=sampling,
        sample=planned.sample,
        text=text,
        offsets=offsets,
        **layout._asdict(),
        token_ids=ids,
        tokenizer=served.tokenizer.fingerprint if ids and served.tokenizer else "words",
        finish=reply.finish,
        source="served",
        facts={"ids": how, **{f"served_{key}": str(n) for key, n in counts.items() if n}},
    )


class _Tokens(NamedTuple):
    """A trace in the making."""

    text: str
    offsets: tuple[int, ...]
    layout: Layout
    ids: tuple[int, ...]
    how: str
    """``served``: exact; ``retokenised``: of the same text, but perhaps cut elsewhere;
    ``none``: words stand for tokens."""


def _tokens(served: Served, task: Task, reply: Reply, asked: Asked) -> _Tokens:
    """Return a reply in the best tokens there are."""
    tokenizer = served.tokenizer
    if tokenizer is None:
        return _as_words(served, task, reply, asked)
    prompt = tokenizer.prompt(task, asked.after, asked.tools)
    if reply.token_ids:
        before = reply.prompt_ids or tokenizer.encode(prompt)
        ids = (*before, *reply.token_ids)
        found = read_back(tokenizer, ids, len(before))
        layout = Layout(found.spans, found.sentences, found.thought, found.actions)
        if found.actions or not reply.calls:
            return _Tokens(found.text, found.offsets, layout, ids, "served")
    return _retokenised(tokenizer, prompt, reply) or _as_words(served, task, reply, asked)


def _retokenised(tokenizer: "ChatTokenizer", prompt: str, reply: Reply) -> _Tokens | None:
    """Return a reply in tokens of its text, or None if they do not write that text back."""
    own = format_of(tokenizer.chat_template, tokenizer.name)
    format, opened = format_under(prompt, own)
    completion, cut = completed(reply, format, opened=opened)
    start = tokenizer.encode(prompt)
    ids = (*start, *tokenizer.encode(completion))
    text, offsets = tokenizer.offsets(ids)
    if text != prompt + completion:
        return None
    cut = after_prompt(prompt, as_recorded(completion, cut))
    layout = lay_out(text, offsets, len(start), cut)
    return _Tokens(text, offsets, layout, ids, "retokenised")


def _as_words(served: Served, task: Task, reply: Reply, asked: Asked) -> _Tokens:
    turns = [turn["content"] or json.dumps(turn, ensure_ascii=False) for turn in asked.after]
    prompt = "\n\n".join(filter(None, (task.system, task.prompt, *turns))) + "\n\n"
    format = format_of(None, served.model)
    off = task.condition.get("thinking") == "off"
    completion, cut = completed(reply, replace(format, untagged="absent") if off else format)
    text = prompt + completion
    return _Tokens(text, *cut_words(text, after_prompt(prompt, cut)), (), "none")


def completed(reply: Reply, format: Format, *, opened: bool = False) -> tuple[str, Split]:
    """Return a reply as one completion, and its channels; `format` is that of its model."""
    if reply.reasoning is not None:
        closed = bool(reply.text.strip() or reply.calls)
        text, cut = join_parts(reply.reasoning, reply.text, format, closed=closed, opened=opened)
    else:
        cut_off = reply.finish == "length"
        own = format_alone(reply.text, format, reply.finish)
        text, cut = reply.text, split(reply.text, 0, own, prefilled=opened and cut_off)
    return with_calls(text, cut, reply.calls)
