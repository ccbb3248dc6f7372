"""One thread runs the model; streams take turns, a token each.

What a stream writes depends on its prompt and seed alone, because no stream shares a forward
pass with another. That is fair and exact; a server for many users and large models batches.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from trace_probe.monitor.scorer import Reading

Deliver = Callable[["Reading | BaseException | None"], bool]
"""Takes each reading, then None at the end or the error that ended it; called in the model's
thread. Returns whether the stream is to go on."""


@dataclass(eq=False)
class Stream:
    """One generation under way."""

    readings: Generator[Reading, None, None]
    deliver: Deliver
    release: Callable[["Stream"], None]
    cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """End the generation at its next turn, its place free at once; from any thread."""
        self.cancelled.set()
        self.release(self)


class Full(Exception):
    """As many streams as are allowed are under way."""


class Scheduler:
    """Runs up to `most` streams in turn."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._under_way: set[Stream] = set()
        self._lock = threading.Lock()
        self._new: queue.SimpleQueue[Stream | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def active(self) -> int:
        """Return how many streams are under way."""
        return len(self._under_way)

    @property
    def full(self) -> bool:
        """Return whether one more stream would be turned away."""
        return len(self._under_way) >= self._most

    @property
    def alive(self) -> bool:
        """Return whether the model's thread runs."""
        return self._thread.is_alive()

    def submit(self, readings: Generator[Reading, None, None], deliver: Deliver) -> Stream:
        """Start a stream.

        Raises:
            Full: as many as are allowed are under way.
        """
        stream = Stream(readings, deliver, self._release)
        with self._lock:
            if len(self._under_way) >= self._most:
                raise Full
            self._under_way.add(stream)
        self._new.put(stream)
        return stream

    def close(self) -> None:
        """End all streams and the thread; those who wait are told."""
        self._new.put(None)
        self._thread.join()

    def _run(self) -> None:
        turns: deque[Stream] = deque()
        while self._admit(turns):
            stream = turns.popleft()
            if self._turn(stream):
                turns.append(stream)
        while not self._new.empty():
            if (waiting := self._new.get()) is not None:
                turns.append(waiting)
        for stream in turns:
            stream.readings.close()
            self._release(stream)
            stream.deliver(RuntimeError("the server is shutting down"))

    def _admit(self, turns: deque[Stream]) -> bool:
        """Let new streams in, waiting for one if there is none; return whether to go on."""
        while not turns or not self._new.empty():
            stream = self._new.get()
            if stream is None:
                return False
            turns.append(stream)
        return True

    def _turn(self, stream: Stream) -> bool:
        """Give a stream one token; return whether it goes on."""
        try:
            reading = None if stream.cancelled.is_set() else next(stream.readings, None)
        except Exception as error:  # whatever it was, its client is told and the others go on
            self._release(stream)
            stream.deliver(error)
            return False
        if reading is not None and stream.deliver(reading):
            return True
        stream.readings.close()
        self._release(stream)  # before its client can know: it may ask again at once
        if reading is None:
            stream.deliver(None)
        return False

    def _release(self, stream: Stream) -> None:
        with self._lock:
            self._under_way.discard(stream)
