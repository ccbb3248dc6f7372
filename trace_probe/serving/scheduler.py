"""One thread runs the model; streams take turns, a token each.

What a stream writes depends on its prompt and seed alone, because no stream shares a forward
pass with another. That is fair and exact; a server for many users and large models batches.
A stream whose client does not keep up gets no turn until it does, so that little waits for it.
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
MOST_WAITING = 64
"""Readings that may wait for one client."""


@dataclass(eq=False)
class Stream:
    """One generation under way."""

    readings: Generator[Reading, None, None]
    deliver: Deliver
    release: Callable[["Stream"], None]
    resume: Callable[["Stream"], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
    waiting: int = 0
    """Readings that were delivered and not taken yet."""

    def taken(self) -> None:
        """Note that the client took a reading; from any thread."""
        self.resume(self)

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
        self._paused: set[Stream] = set()
        """Those whose clients have to catch up."""
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
        stream = Stream(readings, deliver, self._release, self._resume)
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
        with self._lock:
            turns.extend(self._paused)
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
            return not self._pause(stream)
        stream.readings.close()
        self._release(stream)  # before its client can know: it may ask again at once
        if reading is None:
            stream.deliver(None)
        return False

    def _pause(self, stream: Stream) -> bool:
        """Count a reading that was delivered; return whether the client has to catch up first."""
        with self._lock:
            stream.waiting += 1
            if stream.waiting < MOST_WAITING or stream.cancelled.is_set():
                return False
            self._paused.add(stream)
            return True

    def _resume(self, stream: Stream) -> None:
        with self._lock:
            stream.waiting -= 1
            if stream.waiting <= MOST_WAITING // 2:
                self._unpause(stream)

    def _unpause(self, stream: Stream) -> None:
        if stream in self._paused:
            self._paused.remove(stream)
            self._new.put(stream)

    def _release(self, stream: Stream) -> None:
        with self._lock:
            self._under_way.discard(stream)
            self._unpause(stream)  # it is closed in the model's thread
