"""A model that thinks by Polya's urn, so that its probabilities are known."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trace_probe.emergence.continuers import Continuer
from trace_probe.model.continuation import Branch
from trace_probe.model.local import Completion
from trace_probe.text.written import read_back
from trace_probe.trace import Sampling, Task, Trace

WORDS = ("go ", "<think>", "</think>", "up. ", "down. ", "pull. ", "stay. ")


GO, OPEN, CLOSE, UP, DOWN, PULL, STAY = range(7)


DEPTH = 3


def truth(ups: int, steps: int) -> float:
    """Return P(pull): the share of ups after all steps; the walk is an urn, so a martingale."""
    return (1 + ups) / (2 + steps)


@dataclass
class Urn(Continuer):
    """A model that thinks `DEPTH` times up or down by Polya's urn, then pulls or stays."""

    name: str = "urn"
    tokenizer: str = "urn"
    chat_template: str = "<think></think>"
    chat: Any = None
    """It has no agents to make prompts for."""
    context: int | None = None
    depth: int = DEPTH
    asked: list[tuple[tuple[int, ...], int]] = field(default_factory=list)

    def offsets(self, ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        starts = np.cumsum([0, *(len(WORDS[i]) for i in ids)])[:-1]
        return "".join(WORDS[i] for i in ids), tuple(int(start) for start in starts)

    def continue_from(
        self, branches: Sequence[Branch], sampling: Sampling
    ) -> list[list[Completion | None]]:
        del sampling
        self.asked += [(branch.prefix, seed) for branch in branches for seed in branch.seeds]
        return [[self._continue(b.prefix, seed) for seed in b.seeds] for b in branches]

    def _continue(self, ids: Sequence[int], seed: int) -> Completion:
        rng = np.random.default_rng(seed)
        done = [i for i in ids if i in (UP, DOWN)]
        new: list[int] = []
        while len(done) < self.depth:
            done.append(UP if rng.random() < truth(done.count(UP), len(done)) else DOWN)
            new.append(done[-1])
        act = PULL if rng.random() < truth(done.count(UP), self.depth) else STAY
        return Completion((*new, CLOSE, act), "stop")


def trace(steps: Sequence[int]) -> Trace:
    ids = (GO, OPEN, *steps, CLOSE, STAY)
    model = Urn()
    written = read_back(model, ids, 2)._asdict()
    name = "".join(WORDS[i][0] for i in steps)
    return Trace(
        id=name,
        task=Task("t", "c", "go"),
        model="urn",
        sampling=Sampling(),
        sample=0,
        token_ids=ids,
        tokenizer="urn",
        finish="stop",
        **written,
    )
