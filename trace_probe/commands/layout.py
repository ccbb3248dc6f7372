"""How `trace-probe --help` is laid out, and what Ctrl-C and wrong words are answered with."""

import re
import shlex
import sys
from typing import Any

import typer
from typer.core import TyperGroup

PANELS = {
    "Start here": ("demo", "explore", "doctor", "fetch"),
    "Record": ("tasks", "record", "import", "export", "inspect", "store"),
    "Label": ("label", "agreement"),
    "Probe": ("train", "evaluate", "compare", "transfer", "observe", "text-monitor", "probe"),
    "Monitor": ("flag", "show", "watch", "score", "calibrate", "recheck", "cascade", "serve"),
    "Where it emerges": ("oracle", "efficiency", "standing", "steer", "intervene"),
    "Compare models": ("study", "pairs", "organism"),
    "Prepare the explorer": ("map", "layers"),
}
"""Commands by panel of the help, both in the order in which they are shown."""
RESUMES = {"record", "label", "demo", "oracle", "steer", "intervene", "observe", "merge", "pack"}
"""Commands that go on where they were stopped."""
SWITCHED = re.compile(r"Got unexpected extra argument.*\((true|false|yes|no|1|0)\)", re.IGNORECASE)
"""What is said of a value after an option that takes none."""
UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""What typer raises for wrong words; it carries its own copy of click, which has no public name."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
ALARMED = 6
"""Exit code with ``--fail-on-alarm`` where something alarms; a failure has 1."""


class Grouped(TyperGroup):
    """The commands in panels; an interruption says how to go on."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 - typer's own copy of click
        """Return the names in the order of the panels."""
        shown = [name for names in PANELS.values() for name in names]
        rest = [name for name in super().list_commands(ctx) if name not in shown]
        return [*(name for name in shown if name in self.commands), *rest]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        """Return a command, which knows its panel."""
        found = super().get_command(ctx, cmd_name)
        if found is None:
            return None
        for panel, names in PANELS.items():
            if cmd_name in names:
                found.rich_help_panel = panel  # type: ignore[attr-defined]
        return found

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401
        """Run a command; on Ctrl-C say what became of it."""
        try:
            return super().invoke(ctx)
        except UsageError as error:
            error.message = plainer(error.message)  # type: ignore[attr-defined]
            raise
        except KeyboardInterrupt:
            typer.echo(f"\n{after_interruption(sys.argv[1:])}", err=True)
            raise typer.Exit(INTERRUPTED) from None


def plainer(message: str) -> str:
    """Return what is wrong with the words of a command, in words of ours.

    Example:
        >>> plainer("Value error, 'x' is not one of 'a', 'b'.")
        "'x' is not one of 'a', 'b'."
        >>> plainer("Got unexpected extra argument(s) (true)")
        'Got unexpected extra argument(s) (true): options such as --json and --force take no value'
    """
    message = message.removeprefix("Value error, ")
    if SWITCHED.fullmatch(message):
        return f"{message}: options such as --json and --force take no value"
    if message.startswith("Got unexpected extra") and sys.argv[1:2] == ["score"]:
        return f"{message}: score reads standard input, `trace-probe score PROBE < FILE`"
    return message


def after_interruption(words: list[str]) -> str:
    """Return what to say to whoever stopped a command with these arguments.

    Example:
        >>> after_interruption(["tasks", "world:mine:48"])
        'stopped'
    """
    if RESUMES.isdisjoint(words[:2]) and words[:2] != ["organism", "train"]:
        return "stopped"
    again = shlex.join(["trace-probe", *words])
    return f"stopped; finished work is kept. To resume, run\n  {again}"
