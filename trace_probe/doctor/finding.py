"""What one look at an installation found."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "optional", "broken"]
"""It is there; it is not, and only some things need it; nothing works without it."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    topic: str
    name: str
    state: State
    found: str
    fix: str = ""
    """A command, or what else to do; empty where nothing is to be done."""
