"""Episodes of clients: what the probes remember from one request of an agent to its next.

A session belongs to the token that began it, has one request at a time, and is forgotten once it
has not been used for a while. Where there are too many, one makes room whose episode seems over,
since its last answer asked for no tool. None is pushed out that has alarmed: an alarm must not be
lost that way.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from trace_probe.monitor.scorer import FRESH, Carried
from trace_probe.serving.limits import Refusal

Key = tuple[str, str]
"""Digest of a caller's token, and the name that the caller gave."""


@dataclass
class Session:
    """One episode of one caller."""

    name: str
    key: Key
    carried: Carried = FRESH
    """What is known after the calls whose answers were given whole."""
    alarms: tuple[str, ...] = ()
    """Names of the probes that have alarmed in it, whether or not that call came to its end."""
    busy: bool = False
    over: bool = False
    """Whether the last answer asked for no tool, so that nothing more may come."""
    used: float = 0.0

    @property
    def call(self) -> int:
        """Return which model call is under way or next, counted from 1."""
        return self.carried.calls + 1

    @property
    def tokens(self) -> int:
        """Return how many tokens the model wrote in the calls before."""
        return self.carried.tokens


class Sessions:
    """All sessions of a server; used from its event loop only."""

    def __init__(
        self, most: int, seconds: float, calls: int, clock: Callable[[], float] = monotonic
    ) -> None:
        """Say how many there may be, how long an unused one lives, and how many calls it has."""
        self._most, self._seconds, self._calls, self._clock = most, seconds, calls, clock
        self._held: dict[Key, Session] = {}

    def __len__(self) -> int:
        """Return how many there are, those that will be forgotten included."""
        return len(self._held)

    def enter(self, caller: str, name: str, *, stops: bool) -> Session:
        """Return the session of a request, a new one if there is none; `leave` it afterwards.

        With `stops` one that has alarmed is over.

        Raises:
            Refusal: 403 if it is over, 409 if a request of it is under way, 429 if there are too
                many, or it has had too many calls.
        """
        key = (hashlib.sha256(caller.encode()).hexdigest(), name)
        self._forget()
        found = self._held.get(key)
        if found is None:
            if len(self._held) >= self._most and not self._make_room():
                raise Refusal(
                    429, "too many sessions: try again once some have ended", "sessions_full"
                )
            found = self._held[key] = Session(name, key)
        if found.busy:
            raise Refusal(
                409, "a request of this session is under way: wait for it", "session_busy"
            )
        if stops and found.alarms:
            raise Refusal(
                403,
                f"this session was stopped by an alarm of {', '.join(found.alarms)}: begin another",
                "session_stopped",
            )
        if found.call > self._calls:
            raise Refusal(
                429, f"a session has at most {self._calls} calls: begin another", "session_too_long"
            )
        found.busy, found.over, found.used = True, False, self._clock()
        return found

    def leave(
        self,
        session: Session,
        alarms: tuple[str, ...] = (),
        carried: Carried | None = None,
        *,
        over: bool = False,
    ) -> None:
        """Let the next request of a session in; a first one that came to nothing leaves none.

        `carried` is what is known after this call, None if its answer was not given whole; `over`
        says whether that answer asked for no tool.
        """
        session.busy, session.over, session.used = False, over, self._clock()
        session.carried = session.carried if carried is None else carried
        session.alarms = tuple(dict.fromkeys((*session.alarms, *alarms)))
        if session.call == 1 and not session.alarms:
            self._held.pop(session.key, None)

    def _make_room(self) -> bool:
        """Drop the session that has been over for longest; return whether there is one."""
        over = [one for one in self._held.values() if one.over and not one.busy and not one.alarms]
        if over:
            del self._held[min(over, key=lambda one: one.used).key]
        return bool(over)

    def _forget(self) -> None:
        """Drop what has not been used for long."""
        old = self._clock() - self._seconds
        gone = [key for key, one in self._held.items() if not one.busy and one.used < old]
        for key in gone:
            del self._held[key]
