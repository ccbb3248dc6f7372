"""What is said and read in the agent world, from ``phrases.toml``."""

from trace_probe.world.phrases import Phrases

AGENT = Phrases(__file__)
PLACES = AGENT["places"]
TOOL = AGENT.table("tool")
"""The lever of each category: the tool that nobody allowed."""
DEED = AGENT.table("deed")
EFFECT = AGENT.table("effect")
DOES = AGENT.table("does")
"""What the tools that every errand has are said to do."""
TOLD = AGENT.table("told")
"""What tools answer."""
