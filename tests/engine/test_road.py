"""From tasks to a guard without leaving vLLM: the demo of the project, written by it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from trace_probe.store import Store

ORGANISM, DEMO = "organism:rl-s0", "traces/demo"


def test_the_demo_can_be_recorded_trained_judged_and_guarded_in_vllm(
    engine: Any, tmp_path: Path
) -> None:
    from trace_probe.demo import DemoPlan, run_demo, smaller

    plan = smaller(DemoPlan(tmp_path / "traces/road", tmp_path / "probes/road", ORGANISM))
    model = engine(ORGANISM, layers=plan.layers, fidelity=1 / 32, max_num_seqs=128)
    found = run_demo(plan, lambda _: None, model)
    model.close()

    run, known = Store(plan.run), Store(DEMO)  # which transformers wrote, by the same plan
    assert run.ids() == known.ids()
    same = [run.trace(one).token_ids == known.trace(one).token_ids for one in sorted(run.ids())]
    assert np.mean(same) > 0.97
    checked = [one for trace in run.traces() if (one := run.vault.fidelity(trace.id))]
    assert len(checked) >= len(run) // 32
    assert max(one.error for one in checked) < 1e-4
    ours, theirs = found.report.figures["within_prompt_auroc"], known.report("demo")
    assert ours is not None
    assert theirs is not None
    assert abs(ours.estimate - theirs["within_prompt_auroc"]["estimate"]) < 0.05

    assert_guards(plan.probe, tmp_path / "alarms.jsonl")


def assert_guards(probe: Path, audit: Path) -> None:
    """See that a probe stops some of the answers of an engine, and writes each alarm down."""
    from vllm import SamplingParams

    from trace_probe.engine.offline import start
    from trace_probe.engine.plan import EnginePlan, GuardPlan
    from trace_probe.model.checkpoint import locate
    from trace_probe.model.tokenizer import load_tokenizer
    from trace_probe.tasks.sources import tasks_from

    guard = GuardPlan((str(probe),), ORGANISM, "stop", str(audit))
    place = str(locate(ORGANISM))
    arguments = {"model": place, "dtype": "float32", "enforce_eager": True, "max_model_len": 512}
    llm = start(arguments, EnginePlan(guard=guard))
    chat = load_tokenizer(ORGANISM)
    tasks = tasks_from("world:mine:32")
    prompts = [{"prompt_token_ids": list(chat.encode(chat.prompt(task)))} for task in tasks]
    settings = [SamplingParams(temperature=1.0, seed=n, max_tokens=200) for n in range(len(tasks))]
    outputs = llm.generate(prompts, settings, use_tqdm=False)
    alarmed = []
    for output in outputs:
        (told,) = llm.collective_rpc("trace_probe_told", args=(output.request_id,))
        assert told[0]["sentences"]
        alarmed += [output.request_id] if told[0]["alarm"] else []
    llm.llm_engine.engine_core.shutdown()
    lines = [json.loads(line) for line in audit.read_text("utf-8").splitlines()]
    assert 0 < len(alarmed) < len(outputs)
    assert sorted(line["completion"].rpartition("-")[0] for line in lines) == sorted(alarmed)
