"""Workers for the tests of executors; importable by other processes."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path


class Squarer:
    """Writes the square of a number under the number's name, and returns the process."""

    def __init__(self, folder: str, seconds: float = 0.0) -> None:
        self._folder, self._seconds = Path(folder), seconds

    def __call__(self, item: int) -> int:
        time.sleep(self._seconds)
        temporary = self._folder / f"{item}.{os.getpid()}"
        temporary.write_text(str(item * item))
        os.replace(temporary, self._folder / f"{item}.txt")
        return os.getpid()


class Killed(Squarer):
    """Dies at each item that is listed and not yet marked as having killed one."""

    def __init__(self, folder: str, deadly: dict[int, int]) -> None:
        super().__init__(folder)
        self._deadly = deadly

    def __call__(self, item: int) -> int:
        marks = self._folder / f"died-{item}"
        died = len(marks.read_text()) if marks.is_file() else 0
        if died < self._deadly.get(item, 0):
            marks.write_text("x" * (died + 1))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(item)


def refuses_odd(folder: str) -> Callable[[int], int]:
    """Return a worker that raises at odd numbers."""
    square = Squarer(folder)

    def work(item: int) -> int:
        if item % 2:
            raise ValueError(f"{item} is odd")
        return square(item)

    return work


def cannot_be_built(reason: str) -> Callable[[int], int]:
    raise FileNotFoundError(reason)


def dies_while_built(_folder: str) -> Callable[[int], int]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")
