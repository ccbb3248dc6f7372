"""A model's own word as the act, and the direction that causes it."""

from typing import Any

import numpy as np

from trace_probe.emergence.directions import Direction
from trace_probe.labels import Label
from trace_probe.text.written import read_back
from trace_probe.trace import Sampling, Task, Trace

ACT = " act"


class Acts:
    """Finds the act in a word."""

    name = "acts"

    def label(self, trace: Trace) -> Label:
        return Label(trace.id, self.name, ACT in trace.text[trace.offsets[trace.prompt_stop] :])


def traces(model: Any, count: int = 6) -> tuple[Trace, ...]:
    """Return traces of as many tasks, written by the model itself."""
    words = ["task", "plan", "copy", "key", "log", "report", "system", "human", "let", "us"]
    tasks = [Task(f"t{i}", "c", f"the {words[i % len(words)]} must wait {i}") for i in range(count)]
    prompts = [tuple(model.render(task)) for task in tasks]
    sampling = Sampling(max_new_tokens=8)
    made = model.generate(prompts, range(count), sampling)
    found = []
    for task, prompt, completion in zip(tasks, prompts, made, strict=True):
        ids = (*prompt, *completion.ids)
        written = read_back(model, ids, len(prompt))._asdict()
        found.append(
            Trace(
                task.id,
                task,
                model.name,
                sampling,
                0,
                token_ids=ids,
                tokenizer=model.tokenizer,
                finish=completion.finish,
                **written,
            )
        )
    return tuple(found)


def cause(model: Any) -> Direction:
    """Return the direction that the last layer's output reads the act's word from."""
    (act,) = model.encode(ACT)
    head = model.blocks.network.get_output_embeddings().weight.detach().double().numpy()
    other = head[act] - head.mean(axis=0)
    return Direction("cause", "probe", other / np.linalg.norm(other))
