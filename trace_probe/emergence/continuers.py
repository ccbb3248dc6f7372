"""What can go on from a prefix: a model at hand, or servers that have it."""

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from trace_probe.errors import ModelError, ServerError
from trace_probe.model.continuation import Branch, continue_from
from trace_probe.model.endpoint import HOPELESS, RequestError, Servers, run
from trace_probe.model.local import Completion, Model
from trace_probe.model.reply import Reply
from trace_probe.model.tokenizer import ChatTokenizer
from trace_probe.recording.served import SEEDS, Served
from trace_probe.text.written import Reader, read_back
from trace_probe.trace import Sampling, Trace

Edit = Callable[[], AbstractContextManager[object]]
"""Makes what holds while tokens are drawn, such as a change of the residual stream."""


class Continuer:
    """Writes on from token ids."""

    def __init__(self, name: str, chat: ChatTokenizer, context: int | None) -> None:
        """Take what makes the prompts of an agent's later calls.

        `context` is how many tokens a prompt and what is written behind it may have; None where
        nobody knows.
        """
        self.name, self.chat, self.context = name, chat, context
        self.chat_template, self.tokenizer = chat.chat_template, chat.fingerprint

    def offsets(self, ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        """Return the text of token ids, and the character at which each token starts."""
        return self.chat.offsets(ids)

    @abstractmethod
    def continue_from(
        self, branches: Sequence[Branch], sampling: Sampling
    ) -> list[list[Completion | None]]:
        """Return the continuations of each branch, None for those that could not be had."""


class LocalContinuer(Continuer):
    """A model at hand, which reads a prefix once for all its continuations."""

    def __init__(self, model: Model, during: Edit = nullcontext) -> None:
        """Take a model, and what is to hold while it draws."""
        super().__init__(model.name, model.chat, model.context)
        self.model, self._during = model, during

    def continue_from(
        self, branches: Sequence[Branch], sampling: Sampling
    ) -> list[list[Completion | None]]:
        """Return the continuations of each branch."""
        drawn = continue_from(self.model, branches, sampling, during=self._during)
        return [list(each) for each in drawn]


class ServedContinuer(Continuer):
    """A model on servers with a completions interface that takes token ids, such as vLLM.

    Where they cache prefixes (vLLM does unless told otherwise), a prefix is read once for all
    its continuations. With ``return_token_ids`` among the fields of `Served.extra` the
    continuations are exact; without it they are read again from their text.
    """

    def __init__(self, served: Served) -> None:
        """Take a served model.

        Raises:
            ServerError: it comes without a tokenizer, so that its traces have no token ids.
        """
        if served.tokenizer is None:
            raise ServerError(f"to continue {served.model} from token ids name its --tokenizer")
        super().__init__(served.name, served.tokenizer, None)
        self._served = served

    def continue_from(
        self, branches: Sequence[Branch], sampling: Sampling
    ) -> list[list[Completion | None]]:
        """Ask for all continuations at once; the servers' patience bounds how many wait.

        Raises:
            ServerError: no request can succeed.
        """
        asked = [(branch, seed) for branch in branches for seed in branch.seeds]
        found = iter(run(lambda: self._ask_all(asked, sampling)))
        return [[next(found) for _ in branch.seeds] for branch in branches]

    async def _ask_all(
        self, asked: Sequence[tuple[Branch, int]], sampling: Sampling
    ) -> list[Completion | None]:
        async with Servers(self._served.urls, self._served.patience) as servers:

            async def one(branch: Branch, seed: int) -> Completion | None:
                try:
                    return self._completion(await servers.ask(self._body(branch, seed, sampling)))
                except RequestError as error:
                    if error.status in HOPELESS:
                        raise ServerError(f"{self._served.model}: {error}") from error
                    return None

            return list(await asyncio.gather(*(one(*each) for each in asked)))

    def _body(self, branch: Branch, seed: int, sampling: Sampling) -> dict[str, object]:
        return {
            "model": self._served.model,
            "prompt": list(branch.prefix),
            "seed": seed % SEEDS,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": branch.room,
            **self._served.extra,
        }

    def _completion(self, reply: Reply) -> Completion:
        ids = reply.token_ids or self.chat.encode(reply.text)
        return Completion(ids, "length" if reply.finish == "length" else "stop")


def branch_of(trace: Trace, token: int, seeds: Sequence[int]) -> Branch:
    """Return the branch of a trace's first tokens, with the room that the trace had left.

    Raises:
        ModelError: the trace came without token ids.
    """
    if not trace.token_ids:
        raise ModelError(
            f"trace {trace.id} has no token ids to continue from: record it with a tokenizer"
        )
    if trace.calls:
        raise ModelError(
            f"trace {trace.id} is an agent's run, which goes on in an environment: ask the oracle "
            f"with the environment it was recorded in"
        )
    room = trace.sampling.max_new_tokens - (token - trace.prompt_stop)
    return Branch(trace.token_ids[:token], tuple(seeds), max(room, 1))


def continued(
    reader: Reader, trace: Trace, prefix: Sequence[int], completion: Completion, name: str = ""
) -> Trace:
    """Return the trace that a prefix and its continuation are; `name` sets it apart."""
    ids = (*prefix, *completion.ids)
    written = read_back(reader, ids, trace.prompt_stop)._asdict()
    return replace(
        trace, id=f"{trace.id}/{name}", token_ids=ids, finish=completion.finish, **written
    )
