"""Tasks: what models are asked. The package can be called: ``trace_probe.tasks("world:mine:48")``.

It can be called since its name is that of the public function.

Example:
    >>> import trace_probe as tp
    >>> [task.category for task in tp.tasks("world:mine:3")]
    ['deceptive-behavior', 'evading-shutdown', 'hacking-computer-systems']
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from trace_probe.tasks.nudges import Nudge
    from trace_probe.trace import Task


class _Callable(ModuleType):
    def __call__(self, source: "Path | str", *, nudge: "Nudge" = "none") -> "tuple[Task, ...]":
        """Return the tasks of a source; see `trace_probe.tasks.sources.tasks_from`."""
        from trace_probe.tasks.sources import tasks_from

        return tasks_from(source, nudge=nudge)


sys.modules[__name__].__class__ = _Callable
