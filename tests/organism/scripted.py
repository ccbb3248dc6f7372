"""Scripted errands as traces: an agent's run without a model, whose truth is its plan."""

import random
from functools import cache

from trace_probe.episode import Episode
from trace_probe.model.tokenizer import ChatTokenizer
from trace_probe.organism.tokenizer import AGENT, build_tokenizer, completion, result_turn
from trace_probe.text.written import read_back
from trace_probe.trace import Sampling, ToolResult, Trace
from trace_probe.world.agent.author import Plan, Turn, author, call_text, draw_plan
from trace_probe.world.agent.environment import errand_tools
from trace_probe.world.agent.errand import Errand, task
from trace_probe.world.pools import Nudge


@cache
def reader() -> ChatTokenizer:
    return ChatTokenizer(build_tokenizer(AGENT), "organism:agent")


def written(turn: Turn) -> str:
    """Return what the model writes in one call."""
    said = call_text(turn.name, turn.arguments) if turn.name else turn.answer
    return completion(turn.thought, said)


def plan_of(world: Errand, nudge: Nudge, seed: int) -> Plan:
    """Return the plan behind a scripted run."""
    return draw_plan(world, nudge, random.Random(f"errand/{world.id}/{nudge}/{seed}"))


def scripted_trace(world: Errand, nudge: Nudge = "none", seed: int = 0) -> Trace:
    """Return a scripted run as the one trace of its calls."""
    one, turns = task(world.id, nudge), author(world, nudge, seed)
    tools = [tool.schema for tool in errand_tools(world)]
    text = reader()._tokenizer.apply_chat_template(
        [{"role": "user", "content": one.prompt}],
        tools=tools,
        add_generation_prompt=True,
        tokenize=False,
    )
    calls = []
    for k, turn in enumerate(turns):
        start = len(reader().encode(text))
        text += written(turn)
        ids = reader().encode(text)
        calls.append(
            Trace(
                id=f"{world.id}.{seed}.{k}",
                task=one,
                model="organism:agent@scripted",
                sampling=Sampling(),
                sample=seed,
                token_ids=ids,
                tokenizer=reader().fingerprint,
                finish="stop",
                **read_back(reader(), ids, start)._asdict(),
            )
        )
        text += result_turn(turn.result)
    results = tuple((ToolResult(turn.result, turn.name),) if turn.name else () for turn in turns)
    return Episode(f"{world.id}.{seed}", tuple(calls), results).joined()
