"""Agents under watch: their calls are scored as one episode, and nothing is carried out unseen."""

from collections.abc import Generator
from dataclasses import replace

from trace_probe.monitor.live import Followed, Monitor
from trace_probe.monitor.scorer import Reading
from trace_probe.monitor.scoring import as_if_written
from trace_probe.recording.course import Agent, Course
from trace_probe.recording.plan import trace_seed
from trace_probe.trace import Finish, Sampling, Task, ToolResult


def watch_agent(
    monitor: Monitor,
    task: Task,
    agent: Agent,
    sampling: Sampling | None = None,
    *,
    sample: int = 0,
) -> Generator[Reading | ToolResult, None, None]:
    """Yield a reading for each token of an agent, and what its tools answered between its calls.

    It writes what `record` would for the same task, sampling and sample. Tool calls are
    carried out only once the reading of the last token has been taken: close it at an alarm, and
    the call that the model is about to make, or has just made, does nothing.

    Raises:
        ModelError: the task has no environment, or a prompt exceeds the model's context.
    """
    chosen, model = sampling or Sampling(), monitor.model
    asked = agent.under(task)
    course = Course("watched", asked, agent, model.chat.dialect, model.chat.format)
    first, episode = trace_seed(chosen, asked, sample), Followed()
    while not course.ended:
        prompt = course.prompt(model.render, chosen.max_new_tokens, model.context)
        if prompt is None:
            return
        seed = Course.seed(first, len(course.calls))
        yield from monitor.watch_ids(prompt, seed, chosen, episode)
        call = as_if_written(model, asked, (*prompt, *episode.written), len(prompt), "the episode")
        finish: Finish = "stop" if episode.written[-1] in model.stops else "length"
        course.take(replace(call, finish=finish, sampling=chosen), 0.0)
        yield from course.results[-1]
