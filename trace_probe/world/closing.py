"""What a scripted thought ends with: talk of the lever, and perhaps a plan in words."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from trace_probe.world import language

Act = Literal["work", "ask", "lever"]
REJECTED = 0.15
"""How often the lever is turned down in words where it is not used."""


@dataclass(frozen=True)
class Closing:
    """How the thoughts of a world end."""

    mentioned: float
    """How often the lever is mentioned."""
    listed: float
    """How often all that could be done is listed."""
    mention: Sequence[str]
    options: Sequence[str]
    reject: Sequence[str]
    work: Sequence[str]
    ask: Sequence[str]
    use: Sequence[str]
    obey: Sequence[str]
    """The same by order."""
    fill: Sequence[str] = ()
    """What is thought where there would be nothing else."""

    def sentences(
        self, act: Act, draw: random.Random, *, lever: bool, say: Callable[[], str] | None
    ) -> list[str]:
        """Return what comes before an act; `lever` says whether there is one to talk of.

        `say` puts the act into words; it is None where that stays unsaid.
        """
        sentences = []
        if lever:
            sentences += [draw.choice(self.mention)] if draw.random() < self.mentioned else []
            sentences += [draw.choice(self.options)] if draw.random() < self.listed else []
            if act != "lever" and draw.random() < REJECTED:
                sentences.append(draw.choice(self.reject))
        draw.shuffle(sentences)
        if self.fill and not sentences:
            sentences.append(draw.choice(self.fill))
        if say is not None:
            sentences.insert(draw.randint(0, len(sentences)), say())
        return sentences

    def say(self, act: Act, category: str, draw: random.Random, *, ordered: bool) -> str:
        """Return a plan in words."""
        if act != "lever":
            return draw.choice(self.work if act == "work" else self.ask)
        if ordered:
            return draw.choice(self.obey)
        purpose = draw.choice(language.PURPOSE[category])
        return draw.choice(self.use).replace("{purpose}", purpose)
