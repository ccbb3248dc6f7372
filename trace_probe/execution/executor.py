"""Work that is the same on one machine and on many: a worker is built once and fed items.

The rules of the seam: a worker writes what it makes itself, whole and under a name that the
item decides, so that doing an item twice does no harm; what it returns is small (ids, counts,
paths), since that travels; items and arguments are plain values. Results come in any order.

Workers on the machines of a Ray cluster, as actors; what dies is replaced and done again.

Retries are decided here and not by Ray. Each actor holds one item at a time, so that it is
known which item a dead actor had. An item is given up after it crashed `attempts` workers that
had started well; the loss of a machine, and an actor that dies while it starts, count against
no item.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from trace_probe.errors import WorkerError

Item = TypeVar("Item")
Value = TypeVar("Value")
Factory = Callable[..., Callable[[Item], Value]]
"""An importable class or function: a worker, which it makes, is called with one item after another.

It loads what it needs once.
"""


@dataclass(frozen=True)
class Result(Generic[Item, Value]):
    """What came of one item: a value, or the error that its worker raised."""

    item: Item
    value: Value | None = None
    error: Exception | None = None


class LocalExecutor:
    """One worker, in this process."""

    def run(
        self, factory: Factory[Item, Value], args: Sequence[Any], items: Iterable[Item]
    ) -> Iterator[Result[Item, Value]]:
        """Yield one result for each item, in their order.

        An item that raises is a result with that error, and the others go on; an error of the
        factory itself is raised here, since no item could be done.
        """
        worker: Callable[[Item], Value] | None = None
        for item in items:
            worker = worker or factory(*args)
            yield attempt(worker, item)


def attempt(worker: Callable[[Item], Value], item: Item) -> Result[Item, Value]:
    """Return what a worker makes of an item, its error included."""
    try:
        return Result(item, worker(item))
    except Exception as error:
        return Result(item, error=error)


def values(results: Iterable[Result[Item, Value]]) -> Iterator[Value]:
    """Yield the values of all items that were done; raise at the end if any was not.

    Raises:
        WorkerError: some items failed; all others are done.
    """
    failed, count = [], 0
    for count, result in enumerate(results, start=1):  # noqa: B007  (counted past the loop)
        if result.error is None:
            yield result.value  # type: ignore[misc]  # no error: there is a value
        else:
            failed.append(result.error)
    if failed:
        raise WorkerError(
            f"{len(failed)} of {count} pieces of work failed ({_first_line(failed[0])}); the "
            f"others are done: run the same command again for the missing ones"
        ) from failed[0]


BEAT = 0.5
"""Seconds between two looks at the cluster while nothing finishes."""


@dataclass(frozen=True)
class RayExecutor:
    """Actors of Ray core, on this machine or on all machines of a cluster."""

    workers: int | None = None
    """At most; None means as many as the cluster has room for."""
    cpus: float = 1
    """Of each worker."""
    gpus: float = 0
    """Of each worker; a fraction shares a card."""
    address: str | None = None
    """Of a running cluster; None means ``RAY_ADDRESS``, or else a new one on this machine."""
    attempts: int = 3
    """Healthy workers that one item may crash."""
    cool_down: float = 2.0
    """Seconds after a loss before another worker is started."""
    patience: float = 300.0
    """Seconds to wait for a first worker."""

    def run(
        self, factory: Factory[Item, Value], args: Sequence[Any], items: Iterable[Item]
    ) -> Iterator[Result[Item, Value]]:
        """Yield one result for each item, in the order in which they are done.

        Errors are told as `LocalExecutor.run` tells them.

        Raises:
            WorkerError: no worker could be started, or kept alive while it started.
        """
        crew = _Crew(self, _connect(self.address), factory, tuple(args), deque(enumerate(items)))
        try:
            while crew.unfinished:
                crew.staff()
                yield from crew.collect()
        finally:
            crew.dismiss()


def _connect(address: str | None) -> Any:  # noqa: ANN401  (a module)
    """Return ray, connected; a cluster that is connected already is kept."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise WorkerError("Ray is not installed: pip install 'trace-probe[ray]'") from error
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False)
        except (ConnectionError, ValueError) as error:
            raise WorkerError(f"no Ray cluster at {address}: {error}") from error
    return ray


class _Actor:
    """A worker in a process of its own; built by `start`, so that its errors are told apart."""

    def __init__(self, factory: Callable[..., Callable[[Any], Any]], args: tuple[Any, ...]) -> None:
        self._make = (factory, args)

    def start(self) -> str:
        """Build the worker and return the id of the machine it is on."""
        import ray

        factory, args = self._make
        self._worker = factory(*args)
        return str(ray.get_runtime_context().get_node_id())

    def do(self, item: Any) -> Result[Any, Any]:  # noqa: ANN401
        """Do one item."""
        return attempt(self._worker, item)


@dataclass
class _Post:
    """One actor and what it is waited for."""

    actor: Any
    place: int | None = None
    """Which item it has; None while it starts."""
    item: Any = None
    node: str = ""


@dataclass
class _Crew:
    """All actors of one call, and the items that are left."""

    plan: RayExecutor
    ray: Any
    factory: Callable[..., Any]
    args: tuple[Any, ...]
    waiting: deque[tuple[int, Any]]
    posts: dict[Any, _Post] = field(default_factory=dict)
    """By the promise that is waited for."""
    crashes: Counter[int] = field(default_factory=Counter)
    """Healthy workers lost to each item."""
    failed_starts: int = 0
    """In a row."""
    not_before: float = 0.0
    heard: float = field(default_factory=time.monotonic)
    """When an actor last answered."""

    @property
    def unfinished(self) -> bool:
        """Return whether an item waits or is being done."""
        return bool(self.waiting) or any(post.place is not None for post in self.posts.values())

    def staff(self) -> None:
        """Start as many actors as there is work and room for, but not right after a loss."""
        if time.monotonic() < self.not_before:
            return
        while len(self.posts) < self._room() and self._starting() < len(self.waiting):
            options = self.ray.remote(
                num_cpus=self.plan.cpus,
                num_gpus=self.plan.gpus,
                max_restarts=0,
                max_task_retries=0,
                scheduling_strategy="SPREAD",
            )
            actor = options(_Actor).remote(self.factory, self.args)
            self.posts[actor.start.remote()] = _Post(actor)

    def _starting(self) -> int:
        return sum(post.place is None for post in self.posts.values())

    def _room(self) -> int:
        if self.plan.workers is not None:
            return self.plan.workers
        held = self.ray.cluster_resources()
        rooms = [
            held.get(kind, 0) / need
            for kind, need in (("CPU", self.plan.cpus), ("GPU", self.plan.gpus))
            if need
        ]
        return max(1, int(min(rooms, default=1)))

    def collect(self) -> Iterator[Result[Any, Any]]:
        """Wait a beat and yield what has been done meanwhile."""
        if not self.posts:
            time.sleep(min(BEAT, max(0.0, self.not_before - time.monotonic())))
            return
        ready, _ = self.ray.wait(list(self.posts), timeout=BEAT)
        for promise in ready:
            yield from self._hear(promise, self.posts.pop(promise))
        if not ready and self._starting() == len(self.posts):
            self._check_patience()

    def _hear(self, promise: Any, post: _Post) -> Iterator[Result[Any, Any]]:  # noqa: ANN401
        errors = self.ray.exceptions
        try:
            answer = self.ray.get(promise)
        except errors.RayTaskError as error:  # of the factory: `do` raises nothing
            raise error.cause from error
        except errors.RayError as error:
            yield from self._lose(post, error)
            return
        self.heard, self.failed_starts = time.monotonic(), 0
        if post.place is None:
            post.node = answer
        else:
            yield answer
        self._employ(post)

    def _employ(self, post: _Post) -> None:
        """Give an actor its next item, or let it go."""
        if self.waiting:
            post.place, post.item = self.waiting.popleft()
            self.posts[post.actor.do.remote(post.item)] = post
        else:
            self.ray.kill(post.actor)

    def _lose(self, post: _Post, error: Exception) -> Iterator[Result[Any, Any]]:
        """Take the item of a dead actor back, unless it has crashed too many."""
        self.ray.kill(post.actor)
        self.not_before = time.monotonic() + self.plan.cool_down
        if post.place is None:
            self._count_failed_start(error)
            return
        self.crashes[post.place] += self._is_up(post.node)
        if self.crashes[post.place] < self.plan.attempts:
            self.waiting.appendleft((post.place, post.item))
        else:
            crashed = f"crashed {self.plan.attempts} workers, the last by: {_first_line(error)}"
            yield Result(post.item, error=WorkerError(f"{post.item!r} {crashed}"))

    def _is_up(self, node: str) -> bool:
        return any(one["NodeID"] == node and one["Alive"] for one in self.ray.nodes())

    def _count_failed_start(self, error: Exception) -> None:
        self.failed_starts += 1
        if self.failed_starts >= self.plan.attempts:
            raise WorkerError(
                f"{self.failed_starts} workers in a row died while they started "
                f"({_first_line(error)}): give each more memory, or start fewer"
            ) from error

    def _check_patience(self) -> None:
        waited = time.monotonic() - self.heard
        if waited > self.plan.patience:
            held = self.ray.cluster_resources()
            raise WorkerError(
                f"no worker could be started in {waited:.0f} s: each takes {self.plan.cpus:g} CPU "
                f"and {self.plan.gpus:g} GPU, the cluster has {held.get('CPU', 0):g} and "
                f"{held.get('GPU', 0):g}"
            )

    def dismiss(self) -> None:
        """End all actors, unless the cluster is gone already."""
        if not self.ray.is_initialized():
            return
        for post in self.posts.values():
            self.ray.kill(post.actor)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


Kind = Literal["local", "ray"]


Executor = LocalExecutor | RayExecutor
"""Where work is done; one of another kind is a `LocalExecutor` with a `run` of its own."""


def executor_named(kind: Kind, workers: int | None = None, gpus: float = 0) -> Executor:
    """Return an executor: this process, or a Ray cluster with so many workers at most."""
    return LocalExecutor() if kind == "local" else RayExecutor(workers, gpus=gpus)
