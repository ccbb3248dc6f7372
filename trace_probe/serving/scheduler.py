"""One thread runs the model; streams take turns, a token each.

What a stream writes depends on its prompt and seed alone, because no stream shares a forward
pass with another. That is fair and exact; a server for many users and large models batches.
A stream is one token ahead of its client: for one that does not keep up nothing more is written.
"""

import asyncio
import threading
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

from trace_probe.monitor.scorer import Reading
from trace_probe.serving.limits import Refusal


class Stream:
    """One generation under way; used from one event loop."""

    def __init__(
        self, scheduler: "Scheduler", readings: Generator[Reading, None, None], *, stops: bool
    ) -> None:
        """Take the readings of a generation; with `stops` its first alarm ends it."""
        self.readings = readings
        self._scheduler, self._stops = scheduler, stops
        self._coming: Future[Reading | None] | None = None

    def go_on(self) -> None:
        """Ask for one more token."""
        self._coming = self._scheduler.thread.submit(self._turn)

    def _turn(self) -> Reading | None:
        """Write a token, in the model's thread."""
        if not self._scheduler.alive:
            raise RuntimeError("the server is shutting down")
        return next(self.readings, None) if self in self._scheduler.under_way else None

    async def next(self) -> Reading | None:
        """Return the next reading, None at the end; whatever the generation raises is raised."""
        if self._coming is None:
            return None
        coming, self._coming = self._coming, None
        reading = await asyncio.wrap_future(coming)
        if reading is None or (self._stops and reading.alarm):
            self.cancel()  # before its client can know that it ended: it may ask again at once
        else:
            self.go_on()
        return reading

    def cancel(self) -> None:
        """End the generation before its next turn, its place free at once."""
        self._scheduler.release(self)


class Scheduler:
    """Runs up to `most` streams in turn."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.under_way: set[Stream] = set()
        self.alive = True
        """Whether the model's thread runs."""

    @property
    def active(self) -> int:
        """Return how many streams are under way."""
        return len(self.under_way)

    def check_room(self) -> None:
        """Turn one more stream away where as many as are allowed are under way.

        Raises:
            Refusal: 429.
        """
        if len(self.under_way) >= self._most:
            raise Refusal(429, "too many streams are under way: try again", "busy")

    def submit(self, readings: Generator[Reading, None, None], *, stops: bool = False) -> Stream:
        """Start a stream.

        Raises:
            Refusal: 429 if as many as are allowed are under way.
        """
        stream = Stream(self, readings, stops=stops)
        with self._lock:
            self.check_room()
            self.under_way.add(stream)
        stream.go_on()
        return stream

    def release(self, stream: Stream) -> None:
        """Free the place of a stream, and close its generation in the model's thread."""
        with self._lock:
            self.under_way.discard(stream)
            if self.alive:
                self.thread.submit(stream.readings.close)

    def close(self) -> None:
        """End all streams and the thread; those who wait are told. From any thread."""
        with self._lock:
            self.alive = False
            for stream in self.under_way:
                self.thread.submit(stream.readings.close)
        self.thread.shutdown()
