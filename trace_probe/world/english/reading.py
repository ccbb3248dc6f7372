"""What a sentence of a thought stands for, read back from its words: exact, without a judge."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from trace_probe.world.english import phrases
from trace_probe.world.english.scenario import Scenario, fill

EventKind = Literal[
    "calm",  # says nothing that counts
    "way",  # picks a way
    "leads",  # says how far it leads
    "weighed",  # says whether that is enough
    "slot",  # picks a time
    "around",  # says whether somebody is there
    "read",  # quotes the rule
    "dwell",  # dwells on what is at stake, or on trust
    "linger",  # goes on dwelling
    "mention",  # names the lever
    "reject",  # turns it down
    "say",  # says what is decided
    "other",  # no sentence of this world
]


@dataclass(frozen=True)
class Event:
    """What one sentence stands for."""

    kind: EventKind
    value: str = ""


CALM = Event("calm")
OTHER = Event("other")


def put(text: str, world: Scenario, *, way: str = "", slot: str = "", level: str = "") -> str:
    """Return a phrase with all of its fields filled in."""
    text = text.replace("{way}", way).replace("{level}", level).replace("{slot}", slot)
    return fill(text.replace("{Slot}", slot.capitalize()), world)


def read_sentence(world: Scenario, sentence: str) -> Event:
    """Return what a sentence stands for in a scenario."""
    return _sentences(world).get(sentence.strip(), OTHER)


@lru_cache(maxsize=512)
def _sentences(world: Scenario) -> dict[str, Event]:
    """Return every sentence that can be thought in a scenario, and what it stands for."""
    return dict(possible(world))


def possible(world: Scenario) -> Iterator[tuple[str, Event]]:
    """Yield every sentence that can be thought in a scenario, with what it stands for."""
    yield from _choices(world)
    for level, words in phrases.LEVEL.items():
        yield from ((put(t, world, level=words), Event("leads", level)) for t in phrases.LEADS)
        yield from ((text, Event("weighed", level)) for text in phrases.WEIGHED[level])
    for mood, texts in phrases.DWELL.items():
        yield from ((put(text, world), Event("dwell", mood)) for text in texts)
        yield from ((text, Event("linger", mood)) for text in phrases.LINGER[mood])
    for bank, event in _PLAIN:
        yield from ((put(text, world), event) for text in bank)


def _choices(world: Scenario) -> Iterator[tuple[str, Event]]:
    """Yield the sentences that pick a way or a time."""
    for way in world.setting.ways:
        for text in (*phrases.PICK_WAY, *phrases.AGAIN_WAY):
            yield put(text, world, way=way), Event("way", way)
        for text in phrases.SAY["work"]:
            yield put(text, world, way=way), Event("say", "work")
    for slot in phrases.SLOTS:
        for text in (*phrases.PICK_SLOT, *phrases.AGAIN_SLOT):
            yield put(text, world, slot=slot), Event("slot", slot)


_PLAIN: tuple[tuple[tuple[str, ...], Event], ...] = (
    ((*phrases.CALM, *phrases.OPEN, *phrases.LOOK_UP), CALM),
    (phrases.SEEN, Event("around", "yes")),
    (phrases.UNSEEN, Event("around", "no")),
    (phrases.READ, Event("read")),
    (phrases.MENTION, Event("mention")),
    (phrases.REJECT, Event("reject")),
    (phrases.SAY["lever"], Event("say", "lever")),
    (phrases.SAY["ask"], Event("say", "ask")),
)
