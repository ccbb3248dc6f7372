"""How far a recording is: a bar in the terminal, and a number for whoever looks into the run."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from trace_probe.recording.plan import Planned
from trace_probe.store import Store


@contextmanager
def counted(
    store: Store, plan: Sequence[Planned], known: Collection[str], unit: str, *, shown: bool
) -> Iterator[Any]:
    """Yield a bar of the traces of a plan, those that are known counted in.

    The time left follows from the mean pace, since traces come a batch at a time.
    """
    ids = {planned.id for planned in plan}
    store.expect(len(ids.union(known)))
    there = len(ids.intersection(known))
    with tqdm(total=len(plan), initial=there, unit=unit, smoothing=0, disable=not shown) as bar:
        yield bar
