"""What commands make of their options for agents, and for models that servers have."""

from typing import TYPE_CHECKING

import typer

from trace_probe.commands.options import json_object

if TYPE_CHECKING:
    from trace_probe.recording.course import Agent
    from trace_probe.recording.served import Served


def agent_of(
    tools: str | None,
    max_calls: int | None,
    max_seconds: float | None = None,
    *,
    asked: bool,
    told_by_task: bool = True,
) -> "Agent | None":
    """Return what the options say of an agent, None if there is none.

    `told_by_task` says whether a task may name the tools where the options do not.
    """
    from trace_probe.recording.course import Agent
    from trace_probe.tasks.environments import environment_from

    if not told_by_task and asked != bool(tools):
        raise typer.BadParameter("--agent and --tools go together")
    if not asked:
        if tools or max_seconds:
            raise typer.BadParameter("--tools and --max-seconds go with --agent")
        return None
    if tools is None:
        return Agent(max_calls=max_calls, max_seconds=max_seconds)
    found = environment_from(tools)
    return Agent(found.environment, found.name, max_calls, max_seconds)


def served_model(
    name: str,
    urls: list[str],
    extra: str | None,
    tokenizer: str | None,
    concurrency: int = 32,
    per_minute: float | None = None,
) -> "Served":
    """Return what the options say of a model that servers have under a name."""
    from trace_probe.model.endpoint import Patience
    from trace_probe.model.tokenizer import load_tokenizer
    from trace_probe.recording.served import Served

    ids = load_tokenizer(tokenizer) if tokenizer else None
    patience = Patience(concurrency=concurrency, per_minute=per_minute)
    return Served(name, tuple(urls), json_object(extra), ids, patience)
