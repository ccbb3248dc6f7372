"""A prompt and several scripted thoughts in one row, each blind to the others.

The prompt is read once for all of them. From some sentences a side branch closes the thought at
once: there the chance of each act is taught as it stands by the facts met so far. So a thought
teaches several decisions instead of one, and each as a probability instead of one draw.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from trace_probe.organism.adapters import TEMPLATE
from trace_probe.world.english.chance import facts_by
from trace_probe.world.english.phrases import Kind
from trace_probe.world.english.scenario import Scenario, task
from trace_probe.world.english.script import DRILL, FREE, Manner, Script, act, shares
from trace_probe.world.pools import Nudge

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CLOSING = "\n</think>\n\n"
TOLD = ("say", "reject", "mention")
"""Events after which the act no longer follows from the facts alone."""
LOOKED_UP = ("leads", "weighed", "around")
"""Events that say what stands in the prompt."""


@dataclass(frozen=True)
class Weights:
    """Of a token in the loss."""

    decision: float = 20.0
    """The word by which an act begins."""
    branch: float = 7.0
    """The same in a side branch."""
    looked_up: float = 1.0
    other: float = 1.0


WEIGHTS: dict[Manner, Weights] = {
    FREE: Weights(),
    DRILL: Weights(decision=30.0, branch=10.0, looked_up=2.0, other=0.5),
}


@dataclass
class Row:
    """One packed row; `places[i]` is where the token that is predicted as item i is read off."""

    ids: list[int]
    """Of the prompt at first."""
    prompt: int = 0
    """Tokens of the prompt."""
    positions: list[int] = field(default_factory=list)
    sees: list[tuple[tuple[int, int], ...]] = field(default_factory=list)
    """Of each token: the ranges of tokens that it attends to."""
    places: list[int] = field(default_factory=list)
    targets: list[dict[int, float]] = field(default_factory=list)
    """Probability of each token that may come next."""
    weights: list[float] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    """Where each thought starts."""
    decisions: list[int] = field(default_factory=list)
    """Items that are the last decision of a thought, in the order of the thoughts."""

    def __post_init__(self) -> None:
        """Let the prompt read itself."""
        self.prompt = len(self.ids)
        self.positions = list(range(self.prompt))
        self.sees = [((0, n + 1),) for n in range(self.prompt)]

    def mask(self) -> np.ndarray:
        """Return which token attends to which, (token, token)."""
        allowed = np.zeros((len(self.ids), len(self.ids)), dtype=bool)
        for token, ranges in enumerate(self.sees):
            for start, stop in ranges:
                allowed[token, start:stop] = True
        return allowed

    def learn(self, place: int, target: dict[int, float], weight: float) -> None:
        """Take up one prediction."""
        self.places.append(place)
        self.targets.append(target)
        self.weights.append(weight)


class Packer:
    """Makes rows of scripted thoughts."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Keep the tokenizer and the words by which acts begin."""
        self.tokenizer = tokenizer
        self.end = int(tokenizer.convert_tokens_to_ids("<|im_end|>"))
        # Line breaks may be cut otherwise where a text ends, so a word follows.
        one, other = (self._ids(CLOSING + word) for word in ("So", "First"))
        differ = next(n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
        self.closing = one[:differ]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def first_words(self, world: Scenario) -> dict[Kind, int]:
        """Return the token by which each kind of act begins."""
        way, slot = world.setting.ways[0], world.slots[0]
        kinds: tuple[Kind, ...] = ("lever", "ask", "work")
        return {kind: self._ids(act(world, kind, way, slot))[0] for kind in kinds}

    def row(
        self,
        world: Scenario,
        nudge: Nudge,
        scripts: Sequence[Script],
        weights: Weights,
        branches: int = 3,
    ) -> Row:
        """Return a prompt with several thoughts."""
        messages = [{"role": "user", "content": task(world.id, nudge).prompt}]
        read = self.tokenizer.apply_chat_template(
            messages, chat_template=TEMPLATE, add_generation_prompt=True, return_dict=False
        )
        row = Row(list(read))
        for one in scripts:
            self._add(row, world, nudge, one, weights, branches)
        return row

    def _add(
        self,
        row: Row,
        world: Scenario,
        nudge: Nudge,
        one: Script,
        weights: Weights,
        branches: int,
    ) -> None:
        """Add one thought with its branches."""
        prompt = row.prompt
        words, start = self.first_words(world), len(row.ids)
        row.starts.append(start)
        pieces, weight, ends = self._written(one, weights)
        for number, token in enumerate(pieces):
            place = start + number - 1 if number else prompt - 1
            row.ids.append(token)
            row.positions.append(prompt + number)
            row.sees.append(((0, prompt), (start, start + number + 1)))
            row.learn(place, {token: 1.0}, weight[number])
        decision = len(row.targets) - len(pieces) + ends[-1] + len(self.closing)
        events = [line.event for line in one.lines]
        told = next((n for n, event in enumerate(events) if event.kind in TOLD), len(events))
        if told == len(events):
            chances = shares(world, nudge, one.facts)
            row.targets[decision] = _over(words, chances)
        row.decisions.append(decision)
        draw = random.Random(f"branches/{world.id}/{one.thought}")
        open_ends = range(1, told)
        for count in sorted(draw.sample(open_ends, min(branches, len(open_ends)))):
            known = facts_by(world, events[:count])
            target = _over(words, shares(world, nudge, known))
            self._branch(row, prompt, (start, start + ends[count - 1]), target, weights.branch)

    def _branch(
        self,
        row: Row,
        prompt: int,
        thought: tuple[int, int],
        target: dict[int, float],
        weight: float,
    ) -> None:
        """Add a side branch that closes a thought after some of its tokens."""
        start = len(row.ids)
        position = prompt + thought[1] - thought[0]
        for number, token in enumerate(self.closing):
            row.ids.append(token)
            row.positions.append(position + number)
            row.sees.append(((0, prompt), thought, (start, start + number + 1)))
        row.learn(len(row.ids) - 1, target, weight)

    def _written(self, one: Script, weights: Weights) -> tuple[list[int], list[float], list[int]]:
        """Return the tokens of a thought and its act, their weights, and where sentences end."""
        ids, weight, ends = list[int](), list[float](), list[int]()
        for number, line in enumerate(one.lines):
            piece = self._ids(f" {line.text}" if number else line.text)
            heavy = weights.looked_up if line.event.kind in LOOKED_UP else weights.other
            ids += piece
            weight += [heavy] * len(piece)
            ends.append(len(ids))
        answer = [*self._ids(one.answer), self.end]
        ids += [*self.closing, *answer]
        weight += [weights.other] * len(self.closing)
        weight += [weights.decision] + [weights.other] * (len(answer) - 1)
        return ids, weight, ends


def _over(words: Mapping[Kind, int], chances: Mapping[Kind, float]) -> dict[int, float]:
    """Return the chances of acts as chances of the words by which they begin."""
    return {words[kind]: share for kind, share in chances.items() if share > 0}
