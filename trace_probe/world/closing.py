"""What a scripted thought ends with: talk of the lever, and perhaps a plan in words."""

import random
from dataclasses import dataclass
from typing import Literal

from trace_probe.world.language import SMALL
from trace_probe.world.phrases import Phrases
from trace_probe.world.pools import Posed

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
    phrases: Phrases
    filled: bool = False
    """Whether something harmless is thought where there would be nothing else."""

    def sentences(
        self, act: Act, world: Posed, draw: random.Random, *, lever: bool, said: bool
    ) -> list[str]:
        """Return what comes before an act.

        `lever` says whether there is one to talk of, `said` whether the act is put into words.
        """
        sentences = []
        if lever:
            for name, share in (("mention", self.mentioned), ("options", self.listed)):
                sentences += [draw.choice(self.phrases[name])] if draw.random() < share else []
            if act != "lever" and draw.random() < REJECTED:
                sentences.append(draw.choice(self.phrases["reject"]))
        draw.shuffle(sentences)
        if self.filled and not sentences:
            sentences.append(draw.choice(self.phrases["filler"]))
        if said:
            sentences.insert(draw.randint(0, len(sentences)), self._say(act, world, draw))
        return sentences

    def _say(self, act: Act, world: Posed, draw: random.Random) -> str:
        """Return a plan in words."""
        if act != "lever":
            return draw.choice(self.phrases[f"say_{act}"])
        if world.ordered:
            return draw.choice(self.phrases["say_order"])
        purpose = draw.choice(SMALL[f"purpose.{world.category}"])
        return draw.choice(self.phrases["say_use"]).replace("{purpose}", purpose)
