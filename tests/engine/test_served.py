"""What vLLM's own server writes is recorded as it was written, with its parsers and without."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from engine.real_server import serving
from trace_probe.errors import ServerError
from trace_probe.model.tokenizer import load_tokenizer
from trace_probe.recording.course import Agent
from trace_probe.recording.served import Served, served_manifest
from trace_probe.recording.served_agents import record_from
from trace_probe.store import Store
from trace_probe.tasks.sources import tasks_from
from trace_probe.trace import Sampling, Task, Trace

ACTING = "organism:agent-base"
GREEDY = Sampling(temperature=0.0, max_new_tokens=120)
COUNT = 6
ERRANDS = tasks_from(f"agentworld:served:{COUNT}")


def _plain(task: Task) -> Task:
    """Return an errand whose tools stand in its system message: no server is told of them."""
    tools = [tool.schema for tool in Agent().place(task).tools(task)]
    prompt = load_tokenizer(ACTING).prompt(task, (), tools)
    system = prompt.partition("<|system|>")[2].partition("<|end|>")[0]
    return Task(f"plain-{task.id}", "plain", task.prompt, system)


PLAIN = tuple(map(_plain, ERRANDS))
PARSERS = {
    "no parser": (),
    "parsers": (
        *("--reasoning-parser", "qwen3"),
        *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    ),
}


class There(NamedTuple):
    """A server, and how it was started."""

    url: str
    way: str


@pytest.fixture(scope="module", params=PARSERS)
def there(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[There]:
    """Start vLLM's server without trace_probe."""
    from trace_probe.model.checkpoint import locate

    words = [
        *("-m", "vllm.entrypoints.openai.api_server", "--model", locate(ACTING)),
        *("--served-model-name", ACTING, "--dtype", "float32", "--enforce-eager"),
        *("--max-model-len", 640, "--max-num-seqs", 8, *PARSERS[request.param]),
    ]
    with serving(words, tmp_path_factory.mktemp("served") / "log") as server:
        yield There(f"{server.url}/v1", request.param)


def recorded(
    there: There,
    folder: Path,
    tasks: tuple[Task, ...] = PLAIN,
    *,
    ids: bool = True,
    agent: Agent | None = None,
    sampling: Sampling = GREEDY,
    samples: int = 1,
    **extra: Any,
) -> list[Trace]:
    tokenizer = load_tokenizer(ACTING) if ids else None
    served = Served(ACTING, (there.url,), extra, tokenizer)
    store = Store.create(folder, served_manifest(served, sampling))
    record_from(served, tasks, store, agent, samples=samples, progress=False)
    return sorted(store.traces(), key=lambda trace: trace.task.id)


def parts(trace: Trace) -> list[tuple[str, str]]:
    """Return the text of each channel that is not empty, without the space around it."""
    names = ("reasoning", "answer", "action")
    every = [(name, trace.channel_text(name).strip()) for name in names]  # type: ignore[arg-type]
    return [one for one in every if one[1]]


@pytest.fixture(scope="module")
def ours() -> dict[str, tuple[int, ...]]:
    """Return what transformers writes to the same prompts, ids of prompt and completion."""
    from trace_probe.model.local import load_model
    from trace_probe.recording.record import complete

    model = load_model(ACTING, dtype="float32")
    prompts = [tuple(model.render(task)) for task in PLAIN]
    written = complete(model, prompts, [0] * COUNT, GREEDY)
    return {
        task.id: (*prompt, *one.ids)
        for task, prompt, one in zip(PLAIN, prompts, written, strict=True)
    }


def test_the_very_ids_that_were_served_are_kept(
    there: There, tmp_path: Path, ours: dict[str, tuple[int, ...]]
) -> None:
    traces = recorded(there, tmp_path / "run")
    assert [trace.facts["ids"] for trace in traces] == ["served"] * COUNT
    same = [trace.token_ids == ours[trace.task.id] for trace in traces]
    assert sum(same) >= COUNT - 1  # two values may be too close to each other
    for trace in traces:
        assert trace.facts["served_prompt_tokens"] == str(trace.prompt_stop)
        assert trace.facts["served_completion_tokens"] == str(len(trace) - trace.prompt_stop)
        assert trace.finish == ("length" if len(trace) - trace.prompt_stop == 120 else "stop")


def test_without_ids_the_same_channels_are_read_from_the_text(there: There, tmp_path: Path) -> None:
    exact = recorded(there, tmp_path / "exact")
    again = recorded(there, tmp_path / "again", return_token_ids=None)
    words = recorded(there, tmp_path / "words", ids=False)
    assert {trace.facts["ids"] for trace in again} == {"retokenised"}
    assert {trace.facts["ids"] for trace in words} == {"none"}
    assert any(len(parts(trace)) > 1 for trace in exact)
    for one, two, three in zip(exact, again, words, strict=True):
        assert parts(one) == parts(two) == parts(three)
        # The end of the turn is no part of the text; all before it is the same.
        assert one.token_ids[: len(two)] == two.token_ids


def test_what_is_cut_off_within_its_thought_is_all_thought(there: There, tmp_path: Path) -> None:
    short = Sampling(temperature=0.0, max_new_tokens=8)
    # Text without a tag and without a tokenizer says nothing of a thought that the prompt opened.
    for ids in (True, False) if there.way == "parsers" else (True,):
        for trace in recorded(there, tmp_path / str(ids), ids=ids, sampling=short):
            assert trace.finish == "length"
            assert [name for name, _ in parts(trace)] == ["reasoning"]


def test_more_that_is_asked_for_changes_nothing(there: There, tmp_path: Path) -> None:
    exact = recorded(there, tmp_path / "exact")
    more = recorded(there, tmp_path / "more", logprobs=True, top_logprobs=2)
    assert [trace.token_ids for trace in more] == [trace.token_ids for trace in exact]
    stopped = recorded(there, tmp_path / "stop", stop=["."])
    for trace, whole in zip(stopped, exact, strict=True):
        assert trace.finish == "stop"
        assert whole.token_ids[: len(trace)] == trace.token_ids
        assert len(trace) < len(whole)


def test_several_samples_of_a_task_are_traces_of_their_own(there: There, tmp_path: Path) -> None:
    drawn = Sampling(temperature=1.0, max_new_tokens=40)
    first, again = [
        recorded(there, tmp_path / name, sampling=drawn, samples=3) for name in ("one", "two")
    ]
    assert len(first) == 3 * COUNT == len({trace.id for trace in first})
    assert len({trace.token_ids for trace in first}) > 2 * COUNT
    known = {trace.id: trace.token_ids for trace in again}
    same = [known[trace.id] == trace.token_ids for trace in first]
    assert sum(same) >= 3 * COUNT - 2  # a draw may fall between two roundings
    for trace in first:
        assert trace.facts["ids"] == "served"
        (mine,) = {one.prompt_stop for one in first if one.task == trace.task}
        assert trace.prompt_stop == mine


def test_agents_call_tools_where_the_server_reads_calls(there: There, tmp_path: Path) -> None:
    agent = Agent(max_calls=5)
    if there.way == "no parser":
        with pytest.raises(ServerError, match="tool-call-parser"):
            recorded(there, tmp_path / "run", ERRANDS, agent=agent)
        return
    from trace_probe.model.local import load_model
    from trace_probe.recording.record import new_manifest, record

    served = recorded(there, tmp_path / "run", ERRANDS, agent=agent)
    assert {trace.facts["ids"] for trace in served} == {"served"}
    assert sum(len(trace.calls) > 1 for trace in served) > COUNT // 2
    model = load_model(ACTING, dtype="float32")
    store = Store.create(tmp_path / "ours", new_manifest(model, GREEDY, layers=()))
    record(model, ERRANDS, store, agent, progress=False)
    known = {trace.task.id: trace for trace in store.traces()}
    same = [trace.token_ids == known[trace.task.id].token_ids for trace in served]
    assert sum(same) >= COUNT - 1
    for trace, agrees in zip(served, same, strict=True):
        if agrees:
            assert trace.actions == known[trace.task.id].actions
