"""Tasks by the name of their source: published sets, a task file, the pack, a world."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path

from trace_probe.errors import TaskError
from trace_probe.files import json_object, read_bytes
from trace_probe.storage.typed import from_plain
from trace_probe.tasks.nudges import Nudge, with_nudge
from trace_probe.tasks.pack import pack_seal, pack_tasks
from trace_probe.tasks.published import published_in
from trace_probe.trace import Task
from trace_probe.world.worlds import WORLDS, tasks_of


def read_task_file(path: Path | str) -> tuple[Task, ...]:
    """Read tasks from JSON lines with the fields of `Task`; all but three are optional.

    Required are ``id``, ``category`` and ``prompt``; ids are unique.

    Raises:
        TaskError: the file cannot be read, or a line is malformed; the text names the line.
    """
    tasks: dict[str, Task] = {}
    for number, line in enumerate(read_bytes(Path(path), TaskError).split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        task = _parse_task(line, where)
        if task.id in tasks:
            raise TaskError(f"{where}: the id {task.id!r} was used before; make ids unique")
        tasks[task.id] = task
    if not tasks:
        raise TaskError(f"{path} holds no task: write one JSON object a line")
    return tuple(tasks.values())


def tasks_from(source: Path | str, *, nudge: Nudge = "none") -> tuple[Task, ...]:
    """Read tasks from wherever they come from.

    A source is one of these:

    - a folder with files that `download_tasks` fetches: InstrumentalEval, GSM8K, XSTest, tau2;
    - a JSON lines file, see `read_task_file`;
    - ``pack``, the harmless tasks that come with the package, or ``pack:CATEGORY``;
    - ``world:POOL:COUNT``, scenarios of the organisms, or ``agentworld:POOL:COUNT``, errands of
      those that call tools.

    A nudge other than ``none`` fills in missing system messages only; worlds have their own.

    Raises:
        TaskError: there is nothing at `source`, or it cannot be read.
    """
    if (found := tasks_of(str(source))) is not None:
        return found
    path = Path(source)
    if (tasks := pack_tasks(str(source))) is None:
        if path.is_dir():
            return _folder_tasks(path, nudge)
        if not path.is_file():
            raise TaskError(_nothing_at(str(source)))
        tasks = read_task_file(path)
    return tuple(t if nudge == "none" or t.system else with_nudge(t, nudge) for t in tasks)


def _nothing_at(source: str) -> str:
    """Return what to say where no tasks are: what may have been meant, or where there are some."""
    said = f"no tasks at {source}"
    name, colon, rest = source.partition(":")
    if close := get_close_matches(name, ("pack", *WORLDS), n=1):
        return f"{said}: did you mean {close[0]}{colon}{rest}?"
    if Path(source).suffix:
        return f"{said}: that file does not exist. Tasks that come with the package: pack"
    return (
        f"{said}: name a .jsonl file, pack, or world:mine:48. To fetch InstrumentalEval's tasks "
        f"into that folder: `trace-probe tasks {source} --download`"
    )


def _folder_tasks(folder: Path, nudge: Nudge) -> tuple[Task, ...]:
    """Return the tasks of all published sets that are in a folder."""
    tasks = (task for one in published_in(folder).values() for task in one.tasks(folder))
    return tuple(task if nudge == "none" else with_nudge(task, nudge, folder) for task in tasks)


def source_name(source: Path | str) -> str:
    """Return what a run says of where its tasks came from: content, not a path."""
    path = Path(source)
    if pack_tasks(str(source)) is not None:
        return f"{source}@{pack_seal()}"
    if path.is_dir():
        sets = published_in(path).items()
        return ", ".join(f"{name}@{one.commit[:8]}" for name, one in sets)
    if path.is_file():
        return f"{path.name}@{hashlib.sha256(read_bytes(path, TaskError)).hexdigest()[:8]}"
    return str(source)


def summary(tasks: Iterable[Task]) -> dict[str, int]:
    """Return the number of tasks of each category, in order of appearance."""
    return dict(Counter(task.category for task in tasks))


EXAMPLE = '{"id": "a-1", "category": "access", "prompt": "..."}'


def _parse_task(line: bytes, where: str) -> Task:
    """Return the task that one JSON line describes."""
    try:
        raw = json_object(line, where, TaskError)
    except TaskError as error:
        raise TaskError(f"{error}: write one task a line, such as {EXAMPLE}") from error
    known = ", ".join(field.name for field in fields(Task))
    task = from_plain(
        Task,
        raw,
        where,
        wrong=TaskError,
        advice=f"the fields are {known}; the first three are needed, such as {EXAMPLE}",
    )
    for name in ("id", "category", "prompt"):
        if not getattr(task, name).strip():
            raise TaskError(f"{where}: {name} is empty: write a text")
    return task
