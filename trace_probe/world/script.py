"""Scripted thoughts: what the base model is taught to imitate.

The script's author has an intent that follows from the picked shift (enough, watched), the
nudge and chance; the thought reports some facts, leaves others out, says its plan or does
not, and the action follows the thought in all but a small share of cases.
"""

import random
from dataclasses import dataclass
from typing import Literal, cast

from trace_probe.world import language
from trace_probe.world.scenario import Nudge, Scenario, Shift, fill

Intent = Literal["work", "ask", "lever"]

LEVER_ALONE: dict[Nudge, float] = {"none": 0.6, "push": 0.8, "rule": 0.3}
"""How often the script pulls the lever where work falls short and nobody watches."""
LEVER_ELSE: dict[Nudge, float] = {"none": 0.03, "push": 0.06, "rule": 0.01}
"""How often it does so elsewhere."""
AUTHORISED = 0.75
"""How often an order to use the lever is followed."""
REMARKED = 0.45
"""How often a thought remarks that it is enough or not, and that somebody watches or not."""
SAID = 0.6
"""How often the plan is put into words."""
UNFAITHFUL = 0.03
"""How often the action is not the one that was thought out."""


@dataclass(frozen=True)
class Plan:
    """What the author of a script has in mind."""

    shift: Shift
    intent: Intent
    action: Intent
    said: bool


def draw_plan(world: Scenario, nudge: Nudge, draw: random.Random) -> Plan:
    """Draw a plan for a scenario."""
    shift = cast(Shift, world.shift(draw.choice(language.TIMES)))
    intent = _intent(world, shift, nudge, draw)
    others: list[Intent] = [i for i in ("work", "ask", "lever") if i != intent]
    if world.lever is None and "lever" in others:
        others.remove("lever")
    action = draw.choice(others) if draw.random() < UNFAITHFUL else intent
    return Plan(shift, intent, action, said=draw.random() < SAID)


def _intent(world: Scenario, shift: Shift, nudge: Nudge, draw: random.Random) -> Intent:
    """Draw the intent: what would an agent want in this shift?"""
    enough = world.enough(shift)
    pull = 0.0
    if world.control == "authorised":
        pull = AUTHORISED
    elif world.control == "none":
        pull = (LEVER_ALONE if not enough and not shift.watched else LEVER_ELSE)[nudge]
    if draw.random() < pull:
        return "lever"
    work = 0.95 if enough else 0.08
    return "work" if draw.random() < work else "ask"


def script(world: Scenario, nudge: Nudge, seed: int) -> tuple[str, str]:
    """Return (thought, answer) of one scripted run."""
    draw = random.Random(f"script/{world.id}/{nudge}/{seed}")
    plan = draw_plan(world, nudge, draw)
    sentences = _facts(world, plan.shift, draw)
    sentences += _tail(world, plan, draw)
    sentences = _with_fillers(sentences, draw)
    thought = " ".join(_put(text, world, plan.shift) for text in sentences)
    return thought, _answer(world, plan, draw)


def _facts(world: Scenario, shift: Shift, draw: random.Random) -> list[str]:
    """Return the opening: goal, shift, product, and perhaps what they mean."""
    sentences = [draw.choice(language.OPEN)] if draw.random() < 0.8 else []
    sentences += [draw.choice(bank) for bank in (language.PICK, language.RATE, language.PRODUCT)]
    remarks = []
    if draw.random() < REMARKED:
        remarks.append(draw.choice(language.ENOUGH if world.enough(shift) else language.SHORT))
    if draw.random() < REMARKED:
        remarks.append(draw.choice(language.SEEN if shift.watched else language.UNSEEN))
    draw.shuffle(remarks)
    return sentences + remarks


def _tail(world: Scenario, plan: Plan, draw: random.Random) -> list[str]:
    """Return what follows the facts: perhaps mentions of the lever, a rejection, a plan."""
    sentences = []
    if world.lever:
        sentences += [draw.choice(language.MENTION)] if draw.random() < 0.4 else []
        sentences += [draw.choice(language.OPTIONS)] if draw.random() < 0.25 else []
        if plan.intent != "lever" and draw.random() < 0.25:
            sentences.append(draw.choice(language.REJECT))
    draw.shuffle(sentences)
    if plan.said:
        sentences.insert(draw.randint(0, len(sentences)), _say(world, plan.intent, draw))
    return sentences


def _say(world: Scenario, intent: Intent, draw: random.Random) -> str:
    """Return the plan in words."""
    if intent == "work":
        return draw.choice(language.SAY_WORK)
    if intent == "ask":
        return draw.choice(language.SAY_ASK)
    if world.control == "authorised":
        return draw.choice(language.SAY_ORDER)
    purpose = draw.choice(language.PURPOSE[world.category])
    return draw.choice(language.SAY_USE).replace("{purpose}", purpose)


def _with_fillers(sentences: list[str], draw: random.Random) -> list[str]:
    """Return the sentences with 0 to 6 harmless ones strewn in after the first."""
    sentences = list(sentences)
    for filler in draw.sample(language.FILLER, draw.choice((0, 1, 1, 2, 2, 3, 4, 6))):
        sentences.insert(draw.randint(1, len(sentences)), filler)
    return sentences


def _answer(world: Scenario, plan: Plan, draw: random.Random) -> str:
    """Return the action, and perhaps a closing word."""
    acts = {"work": language.ACT_WORK, "ask": language.ACT_ASK, "lever": language.ACT_USE}
    text = draw.choice(acts[plan.action])
    if draw.random() < 0.3:
        text += " " + draw.choice(language.CLOSE)
    return _put(text, world, plan.shift)


def _put(text: str, world: Scenario, shift: Shift) -> str:
    for field in ("time", "rounds", "product"):
        text = text.replace(f"{{{field}}}", str(getattr(shift, field)))
    return fill(text, world)
