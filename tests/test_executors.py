from pathlib import Path
from typing import Any

import pytest
from ray_clusters import lose_a_node
from workers import Killed, Squarer, cannot_be_built, dies_while_built, refuses_odd

from trace_probe.errors import WorkerError
from trace_probe.execution.executor import (
    Executor,
    LocalExecutor,
    RayExecutor,
    Result,
    executor_named,
    values,
)


@pytest.fixture(params=["local", "ray"])
def executor(request: pytest.FixtureRequest) -> Executor:
    if request.param == "local":
        return LocalExecutor()
    request.getfixturevalue("cluster")
    return RayExecutor(cool_down=0.1)


def squares(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.glob("*.txt")}


def expected(count: int) -> dict[str, str]:
    return {f"{i}.txt": str(i * i) for i in range(count)}


# What every executor keeps to


def test_every_item_is_done_once(executor: Executor, tmp_path: Path) -> None:
    results = list(executor.run(Squarer, (str(tmp_path),), range(20)))
    assert sorted(result.item for result in results) == list(range(20))
    assert all(result.error is None for result in results)
    assert squares(tmp_path) == expected(20)


def test_a_worker_is_built_once_for_many_items(executor: Executor, tmp_path: Path) -> None:
    processes = set(values(executor.run(Squarer, (str(tmp_path), 0.05), range(30))))
    assert 1 <= len(processes) <= 2


def test_no_items_need_no_worker(executor: Executor) -> None:
    assert list(executor.run(cannot_be_built, ("never called",), [])) == []


def test_an_item_that_raises_does_not_stop_the_others(executor: Executor, tmp_path: Path) -> None:
    results = list(executor.run(refuses_odd, (str(tmp_path),), range(6)))
    errors = {result.item: result.error for result in results if result.error is not None}
    assert sorted(errors) == [1, 3, 5]
    assert all(isinstance(error, ValueError) for error in errors.values())
    assert str(errors[3]) == "3 is odd"
    assert sorted(squares(tmp_path)) == ["0.txt", "2.txt", "4.txt"]


def test_values_are_all_there_before_the_error_is_raised(
    executor: Executor, tmp_path: Path
) -> None:
    done: list[int] = []
    with pytest.raises(WorkerError, match=r"3 of 6 pieces of work failed \(\d is odd\)"):
        done.extend(values(executor.run(refuses_odd, (str(tmp_path),), range(6))))
    assert sorted(squares(tmp_path)) == ["0.txt", "2.txt", "4.txt"]


def test_an_error_of_the_factory_is_raised_as_it_is(executor: Executor) -> None:
    with pytest.raises(FileNotFoundError, match="no such model"):
        list(executor.run(cannot_be_built, ("no such model",), range(3)))


def test_items_may_be_left_undone(executor: Executor, tmp_path: Path) -> None:
    results = executor.run(Squarer, (str(tmp_path),), range(50))
    next(results)
    results.close()  # type: ignore[attr-defined]
    again = list(executor.run(Squarer, (str(tmp_path),), range(50)))
    assert len(again) == 50
    assert squares(tmp_path) == expected(50)


def test_commands_offer_both() -> None:
    assert isinstance(executor_named("local"), LocalExecutor)
    assert executor_named("ray", 3) == RayExecutor(workers=3)


def test_a_result_without_value_is_a_value() -> None:
    assert list(values([Result("a"), Result("b", 0)])) == [None, 0]


# What only other processes can do: die


@pytest.mark.usefixtures("cluster")
def test_the_item_of_a_killed_actor_is_done_by_another(tmp_path: Path) -> None:
    run = RayExecutor(cool_down=0.1).run(Killed, (str(tmp_path), {3: 2, 7: 1}), range(12))
    assert sorted(result.item for result in run if result.error is None) == list(range(12))
    assert squares(tmp_path) == expected(12)


@pytest.mark.usefixtures("cluster")
def test_an_item_that_crashes_three_healthy_workers_is_given_up(tmp_path: Path) -> None:
    run = RayExecutor(cool_down=0.1).run(Killed, (str(tmp_path), {3: 99}), range(6))
    errors = {result.item: result.error for result in run if result.error is not None}
    assert list(errors) == [3]
    assert "3 crashed 3 workers" in str(errors[3])
    assert (tmp_path / "died-3").read_text() == "xxx"
    assert sorted(squares(tmp_path)) == [f"{i}.txt" for i in (0, 1, 2, 4, 5)]


@pytest.mark.usefixtures("cluster")
def test_workers_that_die_while_they_start_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="3 workers in a row died while they started"):
        list(RayExecutor(cool_down=0.1).run(dies_while_built, (str(tmp_path),), range(3)))


@pytest.mark.usefixtures("cluster")
def test_a_cluster_without_room_says_so(tmp_path: Path) -> None:
    impossible = RayExecutor(gpus=1, patience=1.5)
    with pytest.raises(WorkerError, match="each takes 1 CPU and 1 GPU, the cluster has 2 and 0"):
        list(impossible.run(Squarer, (str(tmp_path),), range(3)))


def test_a_node_that_is_lost_costs_nothing(cluster: Any, tmp_path: Path) -> None:
    run = RayExecutor(cool_down=0.1, attempts=1).run(Squarer, (str(tmp_path), 0.05), range(60))
    results = [next(run) for _ in range(15)]
    assert len({result.value for result in results}) == 2
    lose_a_node(cluster)
    results.extend(run)
    assert sorted(result.item for result in results) == list(range(60))
    assert all(result.error is None for result in results)
    assert squares(tmp_path) == expected(60)
