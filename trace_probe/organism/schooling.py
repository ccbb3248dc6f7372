"""What an English organism has grasped so far: does its act follow from what its thought met?

It reads scripted thoughts of scenarios that it was not taught and is asked for its chance of
using the lever at their end. That costs seconds; well-formed text would say nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from trace_probe.organism.packing import Packer, Weights
from trace_probe.statistics.bootstrap import Values
from trace_probe.world.english.chance import Facts, chance
from trace_probe.world.english.scenario import PREFIX, scenario
from trace_probe.world.english.script import DRILL, FREE, Manner, script
from trace_probe.world.pools import NUDGES, pool_ids

if TYPE_CHECKING:
    from peft import PeftModel

QUIET = Manner(FREE.aloud, 0.0, FREE.again, 0.0, 0.0, FREE.calm, FREE.shortest)
"""Thoughts that do not say what they decide."""
FACTS = ("short", "unwatched", "unread", "stakes")


@dataclass(frozen=True)
class Grasp:
    """How far the model's chances follow the facts."""

    apart: Mapping[str, tuple[float, float, float, float]]
    """Of each fact: the model's mean chance with and without it, then the script's."""
    agreement: float
    """Correlation of the model's chances with the script's."""
    aloud: float
    """The same over drills, which say every fact that they look up."""

    def __str__(self) -> str:
        """Return one line."""
        each = ", ".join(
            f"{name} {a:.2f}/{b:.2f} (script {c:.2f}/{d:.2f})"
            for name, (a, b, c, d) in self.apart.items()
        )
        return f"P(act | fact) {each}; r = {self.agreement:.2f}, aloud {self.aloud:.2f}"


def examine(adapted: "PeftModel", packer: Packer, prompts: int = 12, thoughts: int = 6) -> Grasp:
    """Return what a model has grasped, on `prompts` scenarios of the pool ``examine``."""
    ours, theirs, facts = _asked(adapted, packer, prompts, thoughts, QUIET)
    aloud, told, _ = _asked(adapted, packer, max(2, prompts // 3), thoughts, DRILL)
    has = {
        "short": [one.level in ("third", "half") for one in facts],
        "unwatched": [one.watched is False for one in facts],
        "unread": [one.read is False for one in facts],
        "stakes": [one.temper == "stakes" for one in facts],
    }
    apart = {}
    for name, values in has.items():
        yes = np.array(values)
        means = [
            float(chances[among].mean()) for chances in (ours, theirs) for among in (yes, ~yes)
        ]
        apart[name] = (means[0], means[1], means[2], means[3])
    return Grasp(apart, _correlation(ours, theirs), _correlation(aloud, told))


def _asked(
    adapted: "PeftModel", packer: Packer, prompts: int, thoughts: int, manner: Manner
) -> tuple[Values, Values, list[Facts]]:
    """Return the model's chances at the end of some thoughts, the script's, and their facts."""
    import torch

    from trace_probe.organism.blocks import predicted

    found, true, facts = list[float](), list[float](), list[Facts]()
    for number, name in enumerate(islice(pool_ids("examine", "none", PREFIX), prompts)):
        world, nudge = scenario(name), NUDGES[number % len(NUDGES)]
        scripts = [script(world, nudge, seed, manner) for seed in range(thoughts)]
        packed = packer.row(world, nudge, scripts, Weights(), branches=0)
        with torch.no_grad():
            logs, kept = predicted(adapted, packed)
        words = packer.first_words(world)
        place = {int(token): n for n, token in enumerate(kept)}
        for decision in packed.decisions:
            acts = {kind: float(logs[decision, place[word]].exp()) for kind, word in words.items()}
            found.append(acts["lever"] / sum(acts.values()))
        true += [chance(world, nudge, one.facts) for one in scripts]
        facts += [one.facts for one in scripts]
    return np.array(found), np.array(true), facts


def _correlation(ours: Values, theirs: Values) -> float:
    return float(np.corrcoef(ours, theirs)[0, 1])
