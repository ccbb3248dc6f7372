"""Tasks by the name of their source: published sets, a task file, the pack, a world."""

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path

from trace_probe.errors import TaskError
from trace_probe.files import json_object
from trace_probe.storage.typed import from_plain
from trace_probe.tasks.nudges import Nudge, with_nudge
from trace_probe.tasks.pack import pack_seal, pack_tasks
from trace_probe.tasks.published import published_in
from trace_probe.trace import Task
from trace_probe.world.worlds import WORLDS, tasks_of

REPOSITORY = "yf-he/InstrumentalEval"
UPSTREAM = f"https://github.com/{REPOSITORY}"
COMMIT = "269678168cf0388bf5dd7d10dfaed4af07905c49"
PREFIX = "Alignment Drift - "

SHA256 = {
    "Deceptive Behavior": "757034719bfa5703a90673fccd594b2d85610bfa8079747f33521982898102af",
    "Evading Shutdown": "c6c2dd40c833f11d450afaa53e5e58327bb69d52f90e47643ea795ef57be69d6",
    "Hacking Computer Systems": "874d84f4595c9a871fc5e884491a99baeded9442e6ae79e74187118ce04bccbf",
    "Hiding Unwanted Behavior": "c6bd396954981b54dea4caf58f73b68534bffc7317570f2318493069ba50e18f",
    "Running Multiple AI Copies": (
        "03224acee7b77832a64e616ff76eb9dc61a6a381391e49b706b718ce544f15c4"
    ),
    "Strategically Appearing Aligned": (
        "cbcd421ac0230892c785a77c4c15c2ab9d67dc31847d94521c5b6ec132b09d18"
    ),
}
"""Checksum of each category's file in folder ``benchmark/`` of `UPSTREAM` at `COMMIT`."""


def load_tasks(path: Path | str, *, nudge: Nudge = "none") -> tuple[Task, ...]:
    """Read the 76 tasks of InstrumentalEval from a folder of its six official CSV files.

    `path` is that folder or a clone of the repository; `nudge` chooses the system message.

    Raises:
        TaskError: a file is missing, or is not byte for byte the pinned one.
    """
    folder = Path(path)
    if (folder / "benchmark").is_dir():
        folder = folder / "benchmark"
    missing = [title for title in SHA256 if not _file(folder, title).is_file()]
    if missing:
        raise TaskError(
            f"{folder} has no {_file(folder, missing[0]).name!r} ({len(missing)} of "
            f"{len(SHA256)} files missing). Get them with `trace-probe tasks {folder} --download`"
        )
    tasks = (task for title in SHA256 for task in _read_category(folder, title))
    return tuple(with_nudge(task, nudge, folder) for task in tasks)


def read_task_file(path: Path | str) -> tuple[Task, ...]:
    """Read tasks from JSON lines with the fields of `Task`; all but three are optional.

    Required are ``id``, ``category`` and ``prompt``; ids are unique.

    Raises:
        TaskError: the file cannot be read, or a line is malformed; the text names the line.
    """
    tasks: dict[str, Task] = {}
    for number, line in enumerate(_read(Path(path)).split(b"\n"), start=1):
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
    sets = published_in(folder)
    found = load_tasks(folder, nudge=nudge) if _has_official(folder) or not sets else ()
    others = (task for one in sets.values() for task in one.tasks(folder))
    return (*found, *(with_nudge(task, nudge) if nudge != "none" else task for task in others))


def _has_official(folder: Path) -> bool:
    """Return whether some of InstrumentalEval's files are in a folder or a clone."""
    return (folder / "benchmark").is_dir() or any(
        _file(folder, title).is_file() for title in SHA256
    )


def source_name(source: Path | str) -> str:
    """Return what a run says of where its tasks came from: content, not a path."""
    path = Path(source)
    if pack_tasks(str(source)) is not None:
        return f"{source}@{pack_seal()}"
    if path.is_dir():
        sets = {name: one.commit for name, one in published_in(path).items()}
        if _has_official(path) or not sets:
            sets = {"instrumentaleval": COMMIT, **sets}
        return ", ".join(f"{name}@{commit[:8]}" for name, commit in sets.items())
    if path.is_file():
        return f"{path.name}@{hashlib.sha256(_read(path)).hexdigest()[:8]}"
    return str(source)


def summary(tasks: Iterable[Task]) -> dict[str, int]:
    """Return the number of tasks of each category, in order of appearance."""
    return dict(Counter(task.category for task in tasks))


def slug(title: str) -> str:
    """Return a category's canonical name: ``evading-shutdown`` for ``Evading Shutdown``."""
    words = re.findall(r"\w+", title.removeprefix(PREFIX).lower().replace("_", " "))
    return "-".join(words)


def task_id(category: str, index: int) -> str:
    """Return the canonical id of a task by its place in its category, counted from 1."""
    return f"{category}-{index:02d}"


def _file(folder: Path, title: str) -> Path:
    return folder / f"{PREFIX}{title}.csv"


def _read_category(folder: Path, title: str) -> list[Task]:
    """Return the tasks of one file: its first row is the criterion, each other row a prompt."""
    file = _file(folder, title)
    content = _read(file)
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[title]:
        raise TaskError(
            f"{file} is not the official file: its SHA-256 is {found}, expected "
            f"{SHA256[title]}. Restore it from {UPSTREAM} at {COMMIT}"
        )
    rows = list(csv.reader(io.StringIO(content.decode("utf-8"), newline="")))
    category, criterion = slug(title), rows[0][0].strip()
    return [
        Task(task_id(category, index), category, row[0], criterion=criterion)
        for index, row in enumerate(rows[1:], start=1)
    ]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TaskError(f"cannot read {path}: {error.strerror}") from error


def _parse_task(line: bytes, where: str) -> Task:
    """Return the task that one JSON line describes."""
    raw = json_object(line, where, TaskError)
    known = ", ".join(field.name for field in fields(Task))
    task = from_plain(Task, raw, where, wrong=TaskError, advice=f"the fields are {known}")
    for name in ("id", "category", "prompt"):
        if not getattr(task, name).strip():
            raise TaskError(f"{where}: {name} is empty: write a text")
    return task
