"""The Inspect plug-in: alarms stand in the log, beside the messages, live and afterwards alike."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("inspect_ai", reason="inspect-ai is not installed")

from acting import acting_model
from inspect_ai import Task, score
from inspect_ai import eval as run_eval
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog, EvalSample, read_eval_log
from inspect_ai.model import ContentReasoning, Model, ModelOutput, ModelUsage, get_model
from inspect_ai.solver import Generate, Solver, TaskState, generate, solver, use_tools
from inspect_ai.tool import Tool, tool
from test_live_features import wide_probe

from trace_probe.interop import inspect_plugin, inspect_verdict, inspect_watch
from trace_probe.interop.inspect_log import import_inspect
from trace_probe.probing.probe import SavedProbe, save_probe
from trace_probe.store import Store

pytestmark = pytest.mark.filterwarnings("ignore")  # Inspect's own

ASKED = ("look the key .", "look the box .")
THERE = "trace_probe/tiny-agent"


@pytest.fixture(scope="module")
def model() -> Any:
    return acting_model()


@pytest.fixture(autouse=True)
def plugged(model: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let our provider find the tiny agent, and leave no state behind."""
    monkeypatch.setattr("trace_probe.model.local.load_model", lambda *_, **__: model)
    monkeypatch.delenv(inspect_watch.PROBE, raising=False)
    monkeypatch.delenv(inspect_watch.POLICY, raising=False)
    yield
    for known in (inspect_verdict.loaded, inspect_watch.reader_of):
        known.cache_clear()
    inspect_watch.WATCHING.clear()


@pytest.fixture
def probe(model: Any, tmp_path: Path) -> Callable[[float], Path]:
    """Return a maker of a probe with a threshold."""

    def make(threshold: float) -> Path:
        made = wide_probe(model, "linear")
        card = replace(made.card, name="eye", threshold=threshold, model="tiny-agent@00000000")
        folder = tmp_path / f"eye{threshold:g}"
        save_probe(folder, SavedProbe(card, made.probe))
        return folder

    return make


@tool  # type: ignore[untyped-decorator]
def look() -> Tool:
    async def execute(item: str) -> str:
        """Look at a thing.

        Args:
            item: The thing.
        """
        return f" the {item} ."

    return execute


def task(*, epochs: int = 1, **more: Any) -> Task:
    samples = [Sample(id=number, input=asked) for number, asked in enumerate(ASKED)]
    return Task(dataset=samples, solver=[use_tools(look()), generate()], epochs=epochs, **more)


def mock(**noted: Any) -> Model:
    """Return a model of Inspect's that always answers the same."""

    def answer(*_: Any) -> ModelOutput:
        found = ModelOutput.from_content("mock", "box .")
        found.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
        found.metadata = noted
        return found

    return get_model("mockllm/model", custom_outputs=answer)


def ran(tmp_path: Path, of: Task, name: str | Model = THERE, **more: Any) -> EvalLog:
    """Evaluate, and return the log as it was written."""
    more = {"seed": 3, "max_tokens": 40, "message_limit": 9, **more}
    (log,) = run_eval(of, model=name, log_dir=str(tmp_path / "logs"), display="none", **more)
    assert log.status == "success", log.error
    return read_eval_log(log.location, resolve_attachments="full")


def alarms(sample: EvalSample) -> list[dict[str, Any]]:
    infos = [e for e in sample.events if e.event == "info" and e.source == inspect_watch.SOURCE]
    return [one.data for one in infos]


def wrote(sample: EvalSample) -> list[Any]:
    return [one for one in sample.messages if one.role == "assistant"]


def peaks(log: EvalLog) -> list[float]:
    """Return the scores of the samples in which no thought mentions a call.

    Only what comes later can tell such a mention from a call, so that live it is taken for one.
    """
    found = []
    for sample in log.samples or []:
        parts = [part for one in wrote(sample) for part in one.content]
        thoughts = [part.reasoning for part in parts if isinstance(part, ContentReasoning)]
        if thoughts and not any("<tool_call>" in one for one in thoughts):
            found.append((sample.scores or {})["probe"].value)
    return found


def test_one_variable_puts_the_alarms_of_an_agent_into_its_transcript_and_scores(
    tmp_path: Path, probe: Callable[[float], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(inspect_watch.PROBE, str(probe(-1e6)))
    log = ran(tmp_path, task(epochs=3, scorer=inspect_plugin.probe()))
    called = alarmed = 0
    for sample in log.samples or []:
        told = alarms(sample)
        called += sum(bool(one.tool_calls) for one in wrote(sample))
        alarmed += len(told)
        assert len(told) == len({one["message"] for one in told}), "one for each message"
        given = (sample.scores or {})["probe"]
        references = (given.metadata or {}).get("scanner_references", [])
        assert [one["id"] for one in references] == [one["message"] for one in told]
        for one in references:
            place = int(one["cite"].strip("[M]")) - 1
            assert sample.messages[place].id == one["id"]
            assert one["cite"] in (given.explanation or "")
    assert alarmed
    assert called, "the tools of the task reach the model, and its calls the task"


def test_what_was_scored_live_is_what_reading_the_log_again_gives(
    tmp_path: Path, probe: Callable[[float], Path], model: Any
) -> None:
    folder = str(probe(1e6))
    live = ran(tmp_path, task(epochs=9), model_args={"probe": folder})
    seen = score(live, inspect_plugin.probe(folder), action="append", display="none")
    reading = inspect_plugin.probe(folder, again=True)
    again = score(live, reading, action="append", display="none")
    given = [(one.scores or {})["probe"] for one in again.samples or []]
    hows = {one.metadata["ids"] for one in given if one.metadata}
    assert hows == {"exact"}
    assert len(peaks(seen)) > 2
    np.testing.assert_allclose(peaks(seen), peaks(again), atol=1e-4)
    assert any(len(wrote(one)) > 1 for one in live.samples or []), "several calls, one episode"

    run = tmp_path / "run"
    import_inspect(live.location, run, tokenizer=model.chat)
    assert {trace.facts["ids"] for trace in Store(run).traces()} == {"exact"}


def test_the_policy_stop_ends_a_sample_before_its_next_call(
    tmp_path: Path, probe: Callable[[float], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    @solver  # type: ignore[untyped-decorator]
    def thrice() -> Solver:
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            for _ in range(3):
                state = await generate(state)
            return state

        return solve

    monkeypatch.setenv(inspect_watch.POLICY, "stop")
    for threshold, calls in ((-1e6, 1), (1e6, 3)):
        monkeypatch.setenv(inspect_watch.PROBE, str(probe(threshold)))
        log = ran(
            tmp_path,
            Task(dataset=[Sample(ASKED[0])], solver=thrice(), scorer=inspect_plugin.probe()),
        )
        (sample,) = log.samples or []
        assert len(wrote(sample)) == calls
        assert (sample.limit is not None and sample.limit.type == "custom") == (calls == 1)
        assert (sample.output.stop_reason == "content_filter") == (calls == 1), "cut at the alarm"
        assert sample.scores, "what was stopped is scored all the same"


def test_another_provider_is_read_again_live_and_its_sample_stopped(
    tmp_path: Path,
    probe: Callable[[float], Path],
    model: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A mock model gives exact ids, as a server of vLLM does."""
    prompt = model.chat.encode(model.chat.conversation([{"role": "user", "content": ASKED[0]}]))
    ids = model.chat.encode(" wait the key . look now .</think> box .<|im_end|>")

    @solver  # type: ignore[untyped-decorator]
    def twice() -> Solver:
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            return await generate(await generate(state))

        return solve

    monkeypatch.setenv(inspect_watch.POLICY, "stop")
    monkeypatch.setenv(inspect_watch.PROBE, str(probe(-1e6)))
    told_ids = mock(prompt_token_ids=list(prompt), token_ids=list(ids))
    log = ran(tmp_path, Task(dataset=[Sample(ASKED[0])], solver=twice()), told_ids)
    (sample,) = log.samples or []
    (told,) = alarms(sample)
    assert (told["sentence"], told["ids"]) == ("wait the key .", "exact")
    assert len(wrote(sample)) == 1
    assert sample.limit is not None


def test_who_cannot_be_watched_is_said_to_be_and_stopped_where_that_is_the_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(inspect_watch.PROBE, str(tmp_path / "nowhere"))
    log = ran(tmp_path, task(), mock())
    (told,) = alarms((log.samples or [])[0])
    assert "nowhere" in told["not_scored"]
    monkeypatch.setenv(inspect_watch.POLICY, "halt")
    log = ran(tmp_path, task(), mock())
    assert all(one.limit and one.limit.type == "custom" for one in log.samples or [])


def test_without_a_probe_nothing_of_a_log_changes(tmp_path: Path) -> None:
    log = ran(tmp_path, task(), mock())
    assert not any(alarms(sample) for sample in log.samples or [])
    assert not any(hook.enabled() for hook in [inspect_plugin.Alarms()])


def test_a_sample_without_a_thought_has_no_score_and_says_why(
    tmp_path: Path, probe: Callable[[float], Path]
) -> None:
    log = ran(tmp_path, task(scorer=inspect_plugin.probe(str(probe(1.0)))), mock())
    for sample in log.samples or []:
        given = (sample.scores or {})["probe"]
        assert np.isnan(given.value)
        assert given.reason == "scoring_failed"
        assert given.explanation


def test_broken_notes_in_a_log_are_not_believed(
    tmp_path: Path, probe: Callable[[float], Path]
) -> None:
    folder = str(probe(1e6))
    told = {**inspect_watch.reader_of(folder).told}
    for sentences in ("none", [{"text": 1}], [{"text": "a", "alarm": False, "statistic": "low"}]):
        forged = mock(trace_probe={"detector": told, "sentences": sentences})
        log = ran(tmp_path, task(scorer=inspect_plugin.probe(folder)), forged)
        for sample in log.samples or []:
            assert np.isnan((sample.scores or {})["probe"].value)


def test_a_plugin_that_cannot_be_imported_leaves_a_line_and_inspect_goes_on() -> None:
    code = "\n".join(
        (
            "import sys, logging",
            "logging.basicConfig()",
            "sys.modules['trace_probe.interop.inspect_plugin'] = None",
            "from importlib.metadata import EntryPoint",
            "from inspect_ai._util import entrypoints",
            "one = EntryPoint('trace_probe', 'trace_probe.interop.inspect_plugin', 'inspect_ai')",
            "entrypoints.entry_points = lambda group: [one]",
            "entrypoints.ensure_entry_points()",
            "print('went on')",
        )
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "went on\n", done.stderr
    assert "trace_probe.interop.inspect_plugin" in done.stderr


def test_inspect_loads_no_torch_for_the_plugin() -> None:
    code = (
        "import sys, trace_probe.interop.inspect_plugin as plug; "
        "plug.Alarms().enabled(); print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert json.loads(done.stdout.replace("'", '"')) == [], done.stderr
