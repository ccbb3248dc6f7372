"""Processes that end with the one that started them, however it ends."""

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

LOOK_S = 0.2
"""Between two looks of a child whether its parent is still there."""


@contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Return a pool of new processes that are gone when this process is, or leaves the block.

    Where the block ends with an error or an interruption, work under way is not waited for. Where
    this process is killed, each child sees that within a moment and ends itself.
    """
    others = set(multiprocessing.active_children())
    started = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=end_with,
        initargs=(os.getpid(),),
    )
    try:
        yield started
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
        raise
    finally:
        started.shutdown(cancel_futures=True)


def end_with(parent: int) -> None:
    """End this process, whatever it does, once `parent` is not its parent any more."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
