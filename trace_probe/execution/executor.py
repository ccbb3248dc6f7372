"""Work that is the same on one machine and on many: a worker is built once and fed items.

The rules of the seam: a worker writes what it makes itself, whole and under a name that the
item decides, so that doing an item twice does no harm; what it returns is small (ids, counts,
paths), since that travels; items and arguments are plain values. Results come in any order.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from trace_probe.errors import WorkerError

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Result(Generic[Item, Value]):
    """What came of one item: a value, or the error that its worker raised."""

    item: Item
    value: Value | None = None
    error: Exception | None = None


class Executor(Protocol):
    """Where work is done."""

    def run(
        self,
        factory: Callable[..., Callable[[Item], Value]],
        args: Sequence[Any],
        items: Iterable[Item],
    ) -> Iterator[Result[Item, Value]]:
        """Yield one result for each item, in the order in which they are done.

        `factory` is an importable class or function, and ``factory(*args)`` a worker: it loads
        what it needs once and is then called with one item after another. An item that raises
        is a result with that error, and the others go on; an error of the factory itself is
        raised here, since no item could be done.

        Raises:
            WorkerError: no worker could be started, or kept alive while it started.
        """
        ...


class LocalExecutor:
    """One worker, in this process."""

    def run(
        self,
        factory: Callable[..., Callable[[Item], Value]],
        args: Sequence[Any],
        items: Iterable[Item],
    ) -> Iterator[Result[Item, Value]]:
        """Yield one result for each item, in their order; see `Executor.run`."""
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
        first = failed[0]
        reason = (str(first).strip() or type(first).__name__).splitlines()[0]
        raise WorkerError(
            f"{len(failed)} of {count} pieces of work failed ({reason}); the others are done: "
            f"run the same command again for the missing ones"
        ) from first
