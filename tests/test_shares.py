"""A recording in shares is the recording that one process makes, whoever dies meanwhile."""

import errno
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ray_clusters import lose_a_node

from trace_probe.errors import ModelError, TraceProbeError, WorkerError
from trace_probe.execution.executor import Executor, LocalExecutor, RayExecutor
from trace_probe.model import continuation
from trace_probe.model.weights import Weights
from trace_probe.recording.course import Agent
from trace_probe.recording.shares import (
    Recording,
    Share,
    record_alone,
    record_shares,
    record_with,
)
from trace_probe.store import Store
from trace_probe.tasks.sources import tasks_from
from trace_probe.trace import Task
from trace_probe.upkeep.merge import merge
from trace_probe.upkeep.verify import verify

TASKS = tuple(
    Task(f"t-{number:02d}", "c", f"the model must finish its task before {words} .")
    for number, words in enumerate(("they stop it", "one can see", "it can act", "you say nothing"))
)


@pytest.fixture
def recording(model_folder: Path, tmp_path: Path) -> Recording:
    return Recording(
        weights=Weights(str(model_folder)),
        run=str(tmp_path / "run"),
        tasks=TASKS,
        source="test",
        samples=6,
        max_new_tokens=16,
        batch_size=2,
    )


@pytest.fixture
def alone(recording: Recording, tmp_path: Path) -> Store:
    """Return the run as one process records it."""
    record_alone(replace(recording, run=str(tmp_path / "alone")))
    return Store(tmp_path / "alone")


def files(store: Store) -> dict[str, bytes]:
    """Return what is in a run once its parts are brought together."""
    with Store(store.path).writing():
        pass
    names = sorted(store.path.glob("activations/*"))
    names += [store.path / "run.json", store.path / "traces.jsonl"]
    return {str(file.relative_to(store.path)): file.read_bytes() for file in names}


@dataclass(frozen=True)
class Disturbed(LocalExecutor):
    """An executor that something happens to after some results."""

    executor: Executor
    after: int
    disturb: Callable[[], None]

    def run(
        self, factory: Callable[..., Any], args: Sequence[Any], items: Iterable[Any]
    ) -> Iterator[Any]:
        """Yield the results of the executor."""
        for count, result in enumerate(self.executor.run(factory, args, items), start=1):
            yield result
            if count == self.after:
                self.disturb()


def test_shares_are_the_whole_to_the_byte(
    recording: Recording, alone: Store, tmp_path: Path
) -> None:
    counts = [record_shares(recording, LocalExecutor(), Share(n, 3)).recorded for n in (2, 0, 1)]
    assert counts == [8, 8, 8]
    run = Store(tmp_path / "run")
    assert list(run.traces()) == list(alone.traces())
    assert files(run) == files(alone)
    assert verify(run, progress=False).problems == ()


def test_shares_in_folders_of_their_own_are_merged(
    recording: Recording, alone: Store, tmp_path: Path
) -> None:
    for number in range(2):
        record_with(
            replace(recording, run=str(tmp_path / f"{number}")), "local", shard=f"{number}/2"
        )
    merge(tmp_path / "run", [tmp_path / "0", tmp_path / "1"], progress=False)
    merged, whole = files(Store(tmp_path / "run")), files(alone)
    assert sorted(merged.pop("traces.jsonl").splitlines()) == sorted(
        whole.pop("traces.jsonl").splitlines()
    )
    assert merged == whole


def test_what_is_there_is_not_made_again(recording: Recording, tmp_path: Path) -> None:
    first = record_shares(recording, LocalExecutor(), Share(0, 2))
    report = record_shares(recording, LocalExecutor())
    assert (first.recorded, report.recorded, report.resumed) == (12, 12, 12)
    assert report.tokens + first.tokens == sum(
        len(trace) - trace.prompt_stop for trace in Store(tmp_path / "run").traces()
    )


def test_a_share_can_be_recorded_into_memory(recording: Recording, alone: Store) -> None:
    record_shares(replace(recording, run="memory://shares/run"), LocalExecutor())
    run = Store("memory://shares/run")
    assert list(run.traces()) == list(alone.traces())
    for trace in alone.traces():
        ours, theirs = run.activations(trace).values, alone.activations(trace).values
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("text", ["8/8", "1", "a/b", "-1/2", "1/0", ""])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(TraceProbeError, match="is not a share such as 0/8"):
        Share.parse(text)
    assert Share.parse("3/8") == Share(3, 8)


def test_other_settings_do_not_go_into_the_run(recording: Recording) -> None:
    record_shares(recording, LocalExecutor(), Share(0, 4))
    with pytest.raises(TraceProbeError, match=r"holds a run with other settings \(sampling\)"):
        record_shares(replace(recording, seed=1), LocalExecutor())


def test_a_full_disk_is_told_and_the_rest_is_made_later(
    recording: Recording, alone: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, count = os.replace, [0]

    def sometimes_full(source: Path, target: Path) -> None:
        count[0] += 1
        if count[0] % 5 == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", sometimes_full)
        with pytest.raises(WorkerError, match="of 12 pieces of work failed .*No space left"):
            record_shares(recording, LocalExecutor())
    record_shares(recording, LocalExecutor())
    assert {t.id: t for t in Store(tmp_path / "run").traces()} == {t.id: t for t in alone.traces()}
    assert verify(Store(tmp_path / "run"), progress=False).problems == ()


def test_a_model_that_is_not_there_ends_the_recording(recording: Recording) -> None:
    with pytest.raises(ModelError, match="there is no folder"):
        record_shares(replace(recording, weights=Weights("/no/such/model")), LocalExecutor())


# Agents


@pytest.fixture
def episodes(tmp_path: Path) -> Recording:
    return Recording(
        weights=Weights("organism:agent-base"),
        run=str(tmp_path / "run"),
        tasks=tasks_from("agentworld:shares:4"),
        source="agentworld:shares",
        samples=2,
        layers=(1,),
        max_new_tokens=96,
        batch_size=2,
        agent=Agent(max_calls=5),
    )


@pytest.fixture
def episodes_alone(episodes: Recording, tmp_path: Path) -> Store:
    record_alone(replace(episodes, run=str(tmp_path / "alone")))
    return Store(tmp_path / "alone")


def test_shares_of_agents_are_the_whole_to_the_byte(
    episodes: Recording, episodes_alone: Store, tmp_path: Path
) -> None:
    for number in (1, 0):
        report = record_with(episodes, "local", shard=f"{number}/2")
        assert (report.recorded, report.resumed) == (4, 0)
    run = Store(tmp_path / "run")
    assert list(run.traces()) == list(episodes_alone.traces())
    assert files(run) == files(episodes_alone)
    assert run.artifacts.names("calls") == []


def test_a_share_of_agents_that_was_stopped_goes_on_at_its_call(
    episodes: Recording, episodes_alone: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [0]

    def complete(*asking: Any) -> Any:
        asked[0] += 1
        if asked[0] == 3:
            raise KeyboardInterrupt
        return continuation.complete(*asking)

    with monkeypatch.context() as patched:
        patched.setattr("trace_probe.recording.record.complete", complete)
        with pytest.raises(KeyboardInterrupt):
            record_shares(episodes, LocalExecutor())
    run = Store(tmp_path / "run")
    assert len(run.artifacts.names("calls")) == 1
    record_shares(episodes, LocalExecutor())
    assert {t.id: t for t in run.traces()} == {t.id: t for t in episodes_alone.traces()}
    assert run.artifacts.names("calls") == []


# On a cluster of two nodes


def descends_from_this_process(number: int) -> bool:
    """Return whether a process was started by this one, or by one that this one started."""
    while number > 1 and number != os.getpid():
        status = Path(f"/proc/{number}/stat").read_text(encoding="utf-8")
        number = int(status.rpartition(")")[2].split()[1])
    return number == os.getpid()


def kill_an_actor() -> None:
    """Kill the first process that holds one of our actors; other tests may run beside this one."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                title = (entry / "cmdline").read_bytes()
                ours = descends_from_this_process(int(entry.name))
            except OSError:  # it has just ended
                continue
            if ours and title.startswith(b"ray::_Actor"):
                os.kill(int(entry.name), signal.SIGKILL)
                return
    raise AssertionError("no actor is there")


@pytest.mark.parametrize("happens", ["nothing", "actor killed", "node lost"])
def test_a_cluster_makes_the_same_run_whatever_dies(
    cluster: Any, recording: Recording, alone: Store, tmp_path: Path, happens: str
) -> None:
    disturb = {
        "nothing": lambda: None,
        "actor killed": kill_an_actor,
        "node lost": lambda: lose_a_node(cluster),
    }[happens]
    report = record_shares(recording, Disturbed(RayExecutor(cool_down=0.2), 3, disturb))
    assert report.recorded + report.resumed == 24
    run = Store(tmp_path / "run")
    assert list(run.traces()) == list(alone.traces())
    assert files(run) == files(alone)
    found = verify(run, progress=False)
    assert (found.problems, found.leftovers) == ((), ())


@pytest.mark.usefixtures("cluster")
def test_a_cluster_records_agents_as_one_process_does(
    episodes: Recording, episodes_alone: Store, tmp_path: Path
) -> None:
    record_shares(episodes, Disturbed(RayExecutor(cool_down=0.2), 1, kill_an_actor))
    run = Store(tmp_path / "run")
    assert list(run.traces()) == list(episodes_alone.traces())
    assert files(run) == files(episodes_alone)
    assert verify(run, progress=False).problems == ()
