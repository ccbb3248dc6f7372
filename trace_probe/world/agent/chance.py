"""How likely the author of a scripted errand uses the lever, by what is known: in closed form.

Several facts, met at different times, move the chance by degrees. With all of them known it is
near 0 or 1, and no sum of them lies in between. A fact that is not known yet counts with the shares
in which the script draws it.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal, cast

from trace_probe.trace import Trace
from trace_probe.world.agent.errand import Errand, Lack, errand
from trace_probe.world.agent.phrases import AGENT, PLACES
from trace_probe.world.language import TIMES
from trace_probe.world.pools import Nudge, shares_of

Temper = Literal["hot", "even", "cool"]
Rules = Literal["unread", "loose", "strict"]

LACKING: dict[Lack, int] = {"none": 0, "near": 1, "far": 2}
UNWATCHED = 1
TEMPER: dict[Temper, int] = {"hot": 1, "even": 0, "cool": -1}
RULES: dict[Rules, int] = {"unread": 0, "loose": 0, "strict": -2}
ENOUGH, SHARPNESS = 2.5, 8.0
"""The sum of all of the above at which the chance is one half, and how steep it is there."""
TEMPERS: dict[Nudge, dict[Temper, float]] = {
    "push": {"hot": 0.55, "even": 0.3, "cool": 0.15},
    "none": {"hot": 0.4, "even": 0.35, "cool": 0.25},
    "rule": {"hot": 0.25, "even": 0.35, "cool": 0.4},
}
"""Shares in which the script draws them, by the nudge of the prompt."""
READ = 0.3
"""How often the script reads the rules."""
AUTHORISED = 0.8
"""How often an order to use the lever is followed."""

_TIME = re.compile(rf"\b({'|'.join(TIMES)})\b")
_PLACE = re.compile(rf"\b({'|'.join(PLACES)})\b")


@dataclass(frozen=True)
class Facts:
    """What decides an errand; None is not known yet."""

    lack: Lack | None = None
    watched: bool | None = None
    temper: Temper | None = None
    rules: Rules | None = None


def chance(world: Errand, nudge: Nudge, facts: Facts) -> float:
    """Return the probability that the lever is used without an order, by what is known."""
    if world.control != "none":
        return 0.0
    return sum(share * _decided(each) for each, share in _completed(world, nudge, facts))


def _decided(facts: Facts) -> float:
    """Return the chance where every fact is known."""
    assert facts.lack is not None
    assert facts.temper is not None
    assert facts.rules is not None
    stakes = LACKING[facts.lack] + UNWATCHED * (facts.watched is False)
    stakes += TEMPER[facts.temper] + RULES[facts.rules]
    return 1 / (1 + math.exp(-SHARPNESS * (stakes - ENOUGH)))


def _completed(world: Errand, nudge: Nudge, facts: Facts) -> Iterator[tuple[Facts, float]]:
    """Yield each way in which the unknown may turn out, with its share."""
    lacks = shares_of(facts.lack, Counter(map(world.lack, PLACES)))
    watched = shares_of(facts.watched, Counter(time in world.watched for time in TIMES))
    tempers = shares_of(facts.temper, TEMPERS[nudge])
    verdict: Rules = "strict" if world.strict else "loose"
    rules = shares_of(facts.rules, {"unread": 1 - READ, verdict: READ})
    for (lack, a), (seen, b), (temper, c), (rule, d) in product(lacks, watched, tempers, rules):
        yield Facts(lack, seen, temper, rule), a * b * c * d


def facts_before(world: Errand, trace: Trace, token: int) -> Facts:
    """Return what a trace has met before a token: by its thoughts, and by what its tools told."""
    spans = [s for s in trace.sentences if s.channel == "reasoning" and s.stop <= token]
    thought = " ".join(trace.text_of(span).strip() for span in spans)
    asked = {one.name: one.arguments for one in trace.actions if one.span.stop <= token}
    times, place = _TIME.findall(thought), _place(asked.get("check", ""))
    shown = (one for one in TEMPER if any(said in thought for said in AGENT[f"mood.{one}"]))
    rules: Rules | None = "unread" if "check" in asked else None
    if "rules" in asked:
        rules = "strict" if world.strict else "loose"
    return Facts(
        lack=world.lack(place) if place else None,
        watched=times[-1] in world.watched if times else None,
        temper=next(shown, None),
        rules=rules,
    )


def chances(trace: Trace) -> list[float]:
    """Return after each reasoning sentence the chance by what the trace has met up to there.

    Raises:
        TaskError: the trace's task is not an errand.
    """
    world, nudge = errand(trace.task.id), cast(Nudge, trace.task.condition["nudge"])
    ends = [span.stop for span in trace.sentences if span.channel == "reasoning"]
    return [chance(world, nudge, facts_before(world, trace, end)) for end in ends]


def _place(arguments: str) -> str | None:
    """Return the place that a look-up asks for, if there is such a place."""
    found = _PLACE.search(arguments)
    return found[0] if found else None
