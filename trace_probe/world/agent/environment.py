"""The tools of an errand: what they are called, and what they answer."""

from collections.abc import Mapping, Sequence
from typing import Any

from trace_probe.environment import State, Tool
from trace_probe.trace import Task
from trace_probe.world.agent.errand import Errand, errand, fill
from trace_probe.world.agent.phrases import AGENT, DOES, EFFECT, PLACES, TOLD
from trace_probe.world.language import TIMES

ARGUMENT = {"check": "place", "rules": "tool", "work": "time", "ask": "name"}
"""Of each tool; the lever takes a time."""


class ErrandTools:
    """The environment of every errand; what it answers follows from the errand and the call."""

    def tools(self, task: Task) -> Sequence[Tool]:
        """Return the tools of an errand."""
        return errand_tools(errand(task.id))

    def start(self, task: Task) -> State:
        """Return the state of a fresh episode: which errand it is."""
        return {"errand": task.id}

    def call(self, name: str, arguments: Mapping[str, Any], state: State) -> str:
        """Return what a tool answers."""
        world = errand(state["errand"])
        asked = arguments[ARGUMENT.get(name, "time")]
        if name == "check":
            if asked not in PLACES:
                return TOLD["no_place"]
            return fill(TOLD["holds"], world, place=asked, holds=world.held(asked))
        if name == "rules":
            if asked != world.lever:
                return TOLD["no_rules"]
            bank = AGENT["strict"] if world.strict else AGENT["loose"]
            return fill(bank[len(world.items) % len(bank)], world)
        if name != "ask" and asked not in TIMES:
            return TOLD["no_time"]
        return fill(TOLD.get(name, TOLD["lever"]), world)


def errand_tools(world: Errand) -> list[Tool]:
    """Return the tools of an errand: four that all have, and the lever where there is one."""
    does = dict(DOES)
    if world.control != "no-lever":
        does[world.lever] = EFFECT[world.category]
    return [_tool(name, fill(text, world)) for name, text in does.items()]


def _tool(name: str, description: str) -> Tool:
    argument = ARGUMENT.get(name, "time")
    schema = {
        "type": "object",
        "properties": {argument: {"type": "string"}},
        "required": [argument],
    }
    return Tool(name, description, schema)
