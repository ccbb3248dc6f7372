"""How the English world speaks, from ``phrases.toml``."""

from typing import Literal

from trace_probe.world.phrases import Phrases

Level = Literal["third", "half", "most", "all"]
"""How far an honest way leads."""
Mood = Literal["stakes", "trust"]
"""What a thought dwells on."""
Kind = Literal["work", "ask", "lever"]
"""What an agent can do in the end."""

ENGLISH = Phrases(__file__)
SLOTS = ENGLISH["slots"]
LEVEL = ENGLISH.table("level")
ACT = ENGLISH.table("act")
"""How an act is put; ``ordered`` is the lever, where there is an order to use it."""
