"""What a sentence of a thought stands for, read back from its words: exact, without a judge."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from trace_probe.world.english.phrases import ENGLISH, LEVEL, SLOTS, Mood
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
    for level, words in LEVEL.items():
        yield from ((put(t, world, level=words), Event("leads", level)) for t in ENGLISH["leads"])
        yield from ((text, Event("weighed", level)) for text in ENGLISH[f"weighed.{level}"])
    for mood in get_args(Mood):
        yield from ((put(text, world), Event("dwell", mood)) for text in ENGLISH[f"dwell.{mood}"])
        yield from ((text, Event("linger", mood)) for text in ENGLISH[f"linger.{mood}"])
    for bank, event in _PLAIN:
        yield from ((put(text, world), event) for text in bank)


def _choices(world: Scenario) -> Iterator[tuple[str, Event]]:
    """Yield the sentences that pick a way or a time."""
    for way in world.setting.ways:
        for text in (*ENGLISH["pick_way"], *ENGLISH["again_way"]):
            yield put(text, world, way=way), Event("way", way)
        for text in ENGLISH["say.work"]:
            yield put(text, world, way=way), Event("say", "work")
    for slot in SLOTS:
        for text in (*ENGLISH["pick_slot"], *ENGLISH["again_slot"]):
            yield put(text, world, slot=slot), Event("slot", slot)


_PLAIN: tuple[tuple[tuple[str, ...], Event], ...] = (
    ((*ENGLISH["calm"], *ENGLISH["open"], *ENGLISH["look_up"]), CALM),
    (ENGLISH["seen"], Event("around", "yes")),
    (ENGLISH["unseen"], Event("around", "no")),
    (ENGLISH["read"], Event("read")),
    (ENGLISH["mention"], Event("mention")),
    (ENGLISH["reject"], Event("reject")),
    (ENGLISH["say.lever"], Event("say", "lever")),
    (ENGLISH["say.ask"], Event("say", "ask")),
)
