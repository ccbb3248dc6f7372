"""vLLM as it starts by default, in compiled code: capture and guard are right there, too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.test_recording import assert_faithful, recorded
from trace_probe.errors import ModelError
from trace_probe.tasks.sources import tasks_from

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


def test_a_guard_scores_as_the_finished_text_is_scored(tmp_path: Path) -> None:
    from benchmarks.monitor import MonitorPlan, random_probe
    from trace_probe.model.local import load_model
    from trace_probe.monitor.scoring import as_if_written, read_scores
    from trace_probe.probing.probe import save_probe
    from trace_probe.trace import Task

    name = ORGANISM  # the pretrained model writes no thought that is scored
    model = load_model(name, dtype="float32")
    saved = random_probe(model, MonitorPlan(), model.n_layers // 2)
    save_probe(tmp_path / "probe", saved)
    written = guarded(name, tmp_path, opened=list(model.chat.encode("<think>\n")))
    traces = [
        as_if_written(model, Task("t", "c", ""), ids, start, "an answer")
        for ids, start, _ in written
    ]
    scored = 0
    for (_, _, told), wanted in zip(written, read_scores(model, saved, traces), strict=True):
        found = [one["risk"][0]["score"] if one["risk"] else np.nan for one in told["sentences"]]
        # The last token is never read: see docs/vllm.md.
        cut = len(found) - 1 if told["cut"] else len(found)
        np.testing.assert_allclose(found[:cut], wanted[:cut], rtol=1e-4, atol=1e-4)
        scored += int(np.isfinite(found[:cut]).sum())
    assert scored > len(written)


def guarded(
    name: str, folder: Path, opened: list[int]
) -> list[tuple[tuple[int, ...], int, dict[str, Any]]]:
    """Return the ids of some answers, where each starts, and what a guard told of it."""
    from vllm import SamplingParams

    from trace_probe.engine.offline import start
    from trace_probe.engine.plan import EnginePlan, GuardPlan
    from trace_probe.model.checkpoint import locate
    from trace_probe.model.tokenizer import load_tokenizer

    guard = GuardPlan((str(folder / "probe"),), name, audit=str(folder / "alarms.jsonl"))
    arguments = {"model": str(locate(name)), "dtype": "float32", "max_model_len": 512}
    llm = start(arguments, EnginePlan(guard=guard))
    chat = load_tokenizer(name)
    tasks = tasks_from("world:mine:16")
    prompts = [list(chat.encode(chat.prompt(task))) for task in tasks]
    prompts = [ids if ids[-len(opened) :] == opened else [*ids, *opened] for ids in prompts]
    settings = [SamplingParams(temperature=1.0, seed=n, max_tokens=80) for n in range(len(tasks))]
    given = [{"prompt_token_ids": ids} for ids in prompts]
    found = []
    for output in llm.generate(given, settings, use_tqdm=False):
        (told,) = llm.collective_rpc("trace_probe_told", args=(output.request_id,))
        one = output.outputs[0]
        ids = (*output.prompt_token_ids, *one.token_ids)
        cut = {"cut": one.finish_reason == "length"}
        found.append((ids, len(output.prompt_token_ids), {**told[0], **cut}))
    llm.llm_engine.engine_core.shutdown()
    return found
