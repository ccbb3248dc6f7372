"""Scripted thoughts of the English world: what the base organism is taught to imitate.

The author picks a way and a time, may think better of either, may read the rule and may dwell
on something; then it decides by `chance` and may say what it has decided. Every sentence comes
with the event it stands for, so that the reader of `reading` can be checked word for word.
"""

import random
from dataclasses import dataclass

from trace_probe.world.english.chance import ASKING, AUTHORISED, READING, TEMPERS, Facts, chance
from trace_probe.world.english.phrases import ACT, ENGLISH, LEVEL, Kind, Mood
from trace_probe.world.english.reading import CALM, Event, put
from trace_probe.world.english.scenario import Scenario
from trace_probe.world.pools import Nudge


@dataclass(frozen=True)
class Manner:
    """How much a thought puts into words, and how long it goes on."""

    aloud: float
    """How often a fact that is looked up in the prompt is said."""
    said: float
    """How often the decision is said."""
    again: float
    """How often the way is picked twice, and how often the time is."""
    lever: float
    """How often the lever is mentioned."""
    wavering: float
    """How often a decision is said or turned down, and then the opposite is done."""
    calm: tuple[int, ...]
    """How many calm sentences are strewn in, one of these."""
    shortest: int
    """Sentences, at least."""


FREE = Manner(0.5, 0.35, 0.14, 0.45, 0.06, (0, 1, 2, 3, 4, 5, 6, 8), 8)
"""How the organisms are to think."""
DRILL = Manner(1.0, 0.0, 0.1, 0.1, 0.0, (0, 0, 1), 4)
"""How they are taught to: short thoughts that say what was looked up."""
LONGEST = 25


@dataclass(frozen=True)
class Line:
    """One sentence of a scripted thought."""

    text: str
    event: Event


@dataclass(frozen=True)
class Script:
    """A scripted thought, sentence by sentence, and what is done in the end."""

    lines: tuple[Line, ...]
    answer: str
    kind: Kind
    facts: Facts
    """All of them known."""

    @property
    def thought(self) -> str:
        """Return the thought as one text."""
        return " ".join(line.text for line in self.lines)


def script(world: Scenario, nudge: Nudge, seed: int, manner: Manner = FREE) -> Script:
    """Return one scripted run; the same arguments give the same run."""
    draw = random.Random(f"script/{world.id}/{nudge}/{seed}/{manner.shortest}")
    ways, slots = _picks(world.setting.ways, manner, draw), _picks(world.slots, manner, draw)
    facts = Facts(
        level=world.levels[world.setting.ways.index(ways[-1])],
        watched=slots[-1] in world.watched,
        read=draw.random() < READING,
        temper=draw.choices(list(TEMPERS), list(TEMPERS.values()))[0],
    )
    author = _Author(world, manner, draw)
    kind = decide(world, nudge, facts, draw)
    lines = author.thought(ways, slots, facts) + author.ending(kind, ways[-1])
    lines = author.strewn(lines)
    answer = act(world, kind, ways[-1], slots[-1])
    return Script(tuple(lines), answer, kind, facts)


def decide(world: Scenario, nudge: Nudge, facts: Facts, draw: random.Random) -> Kind:
    """Return what the author does when every fact is known."""
    chances = shares(world, nudge, facts)
    return draw.choices(list(chances), list(chances.values()))[0]


def shares(world: Scenario, nudge: Nudge, facts: Facts) -> dict[Kind, float]:
    """Return how likely each kind of act is, by what is known."""
    use = AUTHORISED if world.control == "authorised" else chance(world, nudge, facts)
    levels = [facts.level] if facts.level else list(world.levels)
    ask = sum(ASKING[level] for level in levels) / len(levels)
    return {"lever": use, "ask": (1 - use) * ask, "work": (1 - use) * (1 - ask)}


def act(world: Scenario, kind: Kind, way: str, slot: str) -> str:
    """Return the act in words."""
    ordered = kind == "lever" and world.control == "authorised"
    return put(ACT["ordered"] if ordered else ACT[kind], world, way=way, slot=slot)


def _picks(options: tuple[str, ...], manner: Manner, draw: random.Random) -> list[str]:
    """Return what is picked, and what was picked before if it is thought better of."""
    return draw.sample(options, 2 if draw.random() < manner.again else 1)


@dataclass(frozen=True)
class _Author:
    """Puts facts into sentences."""

    world: Scenario
    manner: Manner
    draw: random.Random

    def line(self, bank: tuple[str, ...], event: Event, **fields: str) -> Line:
        """Return one of the phrasings of an event."""
        return Line(put(self.draw.choice(bank), self.world, **fields), event)

    def thought(self, ways: list[str], slots: list[str], facts: Facts) -> list[Line]:
        """Return the facts in words: the picks first, the rest where it falls."""
        blocks = [self.way(ways[0], ENGLISH["pick_way"]), self.slot(slots[0], ENGLISH["pick_slot"])]
        if self.draw.random() < 0.3:
            blocks.reverse()
        rest = [self.rule()] if facts.read else []
        rest += [self.dwell(facts.temper)] if facts.temper in ("stakes", "trust") else []
        rest += [self.way(ways[1], ENGLISH["again_way"])] if len(ways) > 1 else []
        rest += [self.slot(slots[1], ENGLISH["again_slot"])] if len(slots) > 1 else []
        for block in rest:
            blocks.insert(self.draw.randint(self._earliest(block, blocks), len(blocks)), block)
        opening = [self.line(ENGLISH["open"], CALM)] if self.draw.random() < 0.5 else []
        return opening + [line for block in blocks for line in block]

    @staticmethod
    def _earliest(block: list[Line], blocks: list[list[Line]]) -> int:
        """Return where a block may stand: a second pick comes after the first."""
        kind = block[0].event.kind
        before = [n for n, other in enumerate(blocks) if other[0].event.kind == kind]
        return before[0] + 1 if before else 1

    def way(self, way: str, bank: tuple[str, ...]) -> list[Line]:
        """Return the pick of a way, and perhaps how far it leads."""
        level = self.world.levels[self.world.setting.ways.index(way)]
        lines = [self.line(bank, Event("way", way), way=way)]
        if self.draw.random() < self.manner.aloud:
            leads = Event("leads", level)
            lines.append(self.line(ENGLISH["leads"], leads, level=LEVEL[level]))
            if self.draw.random() < 0.4:
                lines.append(self.line(ENGLISH[f"weighed.{level}"], Event("weighed", level)))
        return lines

    def slot(self, slot: str, bank: tuple[str, ...]) -> list[Line]:
        """Return the pick of a time, and perhaps who is there."""
        seen = slot in self.world.watched
        lines = [self.line(bank, Event("slot", slot), slot=slot)]
        if self.draw.random() < self.manner.aloud:
            remarks = ENGLISH["seen"] if seen else ENGLISH["unseen"]
            lines.append(self.line(remarks, Event("around", "yes" if seen else "no")))
        return lines

    def rule(self) -> list[Line]:
        """Return the reading of the rule."""
        lines = [self.line(ENGLISH["look_up"], CALM)] if self.draw.random() < 0.6 else []
        return [*lines, self.line(ENGLISH["read"], Event("read"))]

    def dwell(self, mood: Mood) -> list[Line]:
        """Return one to three sentences on what is at stake, or on trust."""
        lines = [self.line(ENGLISH[f"dwell.{mood}"], Event("dwell", mood))]
        extra = self.draw.choice((0, 1, 1, 2))
        more = self.draw.sample(ENGLISH[f"linger.{mood}"], extra)
        return lines + [Line(text, Event("linger", mood)) for text in more]

    def ending(self, kind: Kind, way: str) -> list[Line]:
        """Return what is thought of the lever, and perhaps what is decided."""
        if self.draw.random() >= self.manner.lever:
            lines = []
        else:
            lines = [self.line(ENGLISH["mention"], Event("mention"))]
        wavers = self.draw.random() < self.manner.wavering
        if self.world.control != "authorised" and (wavers or (lines and kind != "lever")):
            lines += self._turned(kind, wavers)
        if self.draw.random() < self.manner.said:
            lines.append(self.line(ENGLISH[f"say.{kind}"], Event("say", kind), way=way))
        return lines

    def _turned(self, kind: Kind, wavers: bool) -> list[Line]:
        """Return a lever turned down, perhaps taken up before or after that."""
        reject = self.line(ENGLISH["reject"], Event("reject"))
        if not wavers:
            return [reject] if self.draw.random() < 0.4 else []
        if kind == "lever":
            return [reject]
        return [self.line(ENGLISH["say.lever"], Event("say", "lever")), reject]

    def strewn(self, lines: list[Line]) -> list[Line]:
        """Return the sentences with calm ones strewn in, never between a pick and its remark."""
        wanted = max(self.draw.choice(self.manner.calm), self.manner.shortest - len(lines))
        lines = list(lines)
        for text in self.draw.sample(ENGLISH["calm"], min(wanted, LONGEST - len(lines))):
            attached = ("leads", "weighed", "around", "linger", "read")
            free = [n for n, line in enumerate(lines) if line.event.kind not in attached]
            lines.insert(self.draw.choice([*free[2:], len(lines)]), Line(text, CALM))
        return lines
