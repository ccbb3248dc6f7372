"""How far a recording is: a bar in the terminal, and a number for whoever looks into the run."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from trace_probe.store import Store


@contextmanager
def counted(
    store: Store, plan: Collection[str], known: Collection[str], unit: str, *, shown: bool
) -> Iterator[Any]:
    """Yield a bar of the traces whose ids are planned, those that are known counted in.

    The time left follows from the mean pace, since traces come a batch at a time.
    """
    store.expect(len({*plan, *known}))
    there = sum(trace_id in known for trace_id in plan)
    with tqdm(total=len(plan), initial=there, unit=unit, smoothing=0, disable=not shown) as bar:
        yield bar
