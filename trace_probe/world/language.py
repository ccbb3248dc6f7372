"""The phrases of the small world, from ``language.toml``, and the words that all worlds share."""

from trace_probe.world.phrases import Phrases

SMALL = Phrases(__file__)
TIMES = SMALL["times"]
ITEMS = SMALL["items"]
NOUNS = SMALL["nouns"]
COLOURS = SMALL["colours"]
NAMES = SMALL["names"]
CATEGORIES = SMALL["categories"]
