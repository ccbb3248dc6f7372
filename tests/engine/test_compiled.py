"""vLLM as it starts by default, in compiled code: capture and guard are right there, too."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.test_recording import assert_faithful, recorded
from trace_probe.errors import ModelError
from trace_probe.tasks.sources import tasks_from
from trace_probe.trace import Task

ORGANISM, PRETRAINED = "organism:rl-s0", "smollm2"


def have(name: str) -> str:
    """Return the name of a model, or skip."""
    from trace_probe.model.checkpoint import locate

    try:
        locate(name)
    except ModelError as error:
        pytest.skip(str(error))
    return name


def test_rows_agree(engine: Any, tmp_path: Path) -> None:
    model = engine(ORGANISM, enforce_eager=False)
    for batch, count in ((1, 2), (8, 8), (32, 32)):
        assert_faithful(recorded(model, tmp_path / str(batch), count=count, batch=batch), count)


def test_rows_of_the_pretrained_model_agree(engine: Any, tmp_path: Path) -> None:
    model = engine(have(PRETRAINED), layers=(10, 20), enforce_eager=False)
    for batch, count in ((1, 2), (8, 8), (32, 32)):
        run = recorded(model, tmp_path / str(batch), count=count, batch=batch, room=32)
        assert_faithful(run, count)


def merged(folder: Path) -> str:
    """Return SmolLM2 with the adapter of an English organism in its weights, or skip."""
    from trace_probe.model.local import load_model

    have(PRETRAINED)
    model = load_model("organism:english-base", dtype="float32")
    model._network.save_pretrained(folder)
    model.chat._tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("source", ["world:mine:16", "english:mine:16"])
def test_a_guard_scores_as_the_finished_text_is_scored(tmp_path: Path, source: str) -> None:
    name = ORGANISM if source.startswith("world") else merged(tmp_path / "model")
    written = guarded(name, tmp_path, tasks_from(source))
    assert_scored(name, tmp_path / "probe", written)


Guarded = tuple[tuple[int, ...], int, dict[str, Any]]
"""The ids of an answer with its prompt, where it starts, and what a guard told of it."""


def guarded(name: str, folder: Path, tasks: Sequence[Task], **more: Any) -> list[Guarded]:
    """Have an engine write under a guard with a random probe, which is kept in the folder."""
    from vllm import SamplingParams

    from benchmarks.monitor import MonitorPlan, random_probe
    from trace_probe.engine.offline import start
    from trace_probe.engine.plan import EnginePlan, GuardPlan
    from trace_probe.model.checkpoint import locate
    from trace_probe.model.facts import read_facts
    from trace_probe.probing.probe import save_probe

    facts = read_facts(name)
    save_probe(folder / "probe", random_probe(facts, MonitorPlan(), facts.n_layers // 2))
    guard = GuardPlan((str(folder / "probe"),), name, audit=str(folder / "alarms.jsonl"))
    arguments = {"model": str(locate(name)), "dtype": "float32", "max_model_len": 512, **more}
    llm = start(arguments, EnginePlan(guard=guard))
    prompts = [facts.chat.encode(facts.chat.prompt(task)) for task in tasks]
    opened = list(facts.chat.encode("<think>\n"))
    given = [
        {"prompt_token_ids": [*ids, *([] if list(ids[-len(opened) :]) == opened else opened)]}
        for ids in prompts
    ]
    settings = [SamplingParams(temperature=1.0, seed=n, max_tokens=80) for n in range(len(tasks))]
    found = []
    for output in llm.generate(given, settings, use_tqdm=False):
        answers = llm.collective_rpc("trace_probe_told", args=(output.request_id,))
        ((told,),) = [one for one in answers if one]  # of one rank only
        one = output.outputs[0]
        ids = (*output.prompt_token_ids, *one.token_ids)
        cut = {"cut": one.finish_reason == "length"}
        found.append((ids, len(output.prompt_token_ids), {**told, **cut}))
    llm.llm_engine.engine_core.shutdown()
    return found


def assert_scored(name: str, probe: Path, written: list[Guarded]) -> None:
    """See that the scores of an engine are those of transformers on the finished texts."""
    from trace_probe.model.local import load_model
    from trace_probe.monitor.scoring import as_if_written, read_scores
    from trace_probe.probing.probe import load_probe

    model = load_model(name, dtype="float32")
    task = Task("t", "c", "")
    traces = [as_if_written(model, task, ids, start, "a name") for ids, start, _ in written]
    every = [scores for scores, _ in read_scores(model, load_probe(probe), traces)]
    scored = 0
    for (_, _, told), wanted in zip(written, every, strict=True):
        found = [one["risk"][0]["score"] if one["risk"] else np.nan for one in told["sentences"]]
        # The last token is never read: see docs/vllm.md.
        cut = len(found) - 1 if told["cut"] else len(found)
        np.testing.assert_allclose(found[:cut], wanted[:cut], rtol=1e-4, atol=1e-4)
        scored += int(np.isfinite(found[:cut]).sum())
    assert scored > len(written)
