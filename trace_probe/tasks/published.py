"""Published sets of tasks, from files that are pinned: InstrumentalEval, and harmless ones.

None of them comes with the package. `download_tasks` fetches their files; here they are known by
their checksums and read as `Task` values.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trace_probe.errors import TaskError
from trace_probe.files import tables_beside
from trace_probe.trace import Task

PREFIX = "Alignment Drift - "
"""What the files of InstrumentalEval are called before their category."""


@dataclass(frozen=True)
class PinnedFile:
    """One file of a repository, as it is at one commit."""

    path: str
    """In the repository."""
    name: str
    """In the folder of the user."""
    sha256: str

    def found_in(self, folder: Path) -> Path | None:
        """Return where the file is in a folder or a clone of the repository, None if nowhere."""
        places = (folder / self.name, folder / self.path)
        return next((file for file in places if file.is_file()), None)


@dataclass(frozen=True)
class PublishedSet:
    """A set of tasks that somebody else has published."""

    repository: str
    """Owner and name on GitHub."""
    commit: str
    licence: str
    files: tuple[PinnedFile, ...]
    read: Callable[[str, str], Iterator[Task]]
    """From the name and the text of one file to its tasks."""

    def tasks(self, folder: Path) -> tuple[Task, ...]:
        """Read the tasks from a folder of the files or a clone of the repository.

        Raises:
            TaskError: a file is missing, or is not byte for byte the pinned one.
        """
        found = {file: path for file in self.files if (path := file.found_in(folder))}
        missing = [file.name for file in self.files if file not in found]
        if missing:
            raise TaskError(
                f"{folder} has no {missing[0]!r} ({len(missing)} of {len(self.files)} files "
                f"missing). Get them with `trace-probe tasks {folder} --download`"
            )
        return tuple(task for pair in found.items() for task in self._of(*pair))

    def _of(self, file: PinnedFile, path: Path) -> tuple[Task, ...]:
        content = path.read_bytes()
        if (found := hashlib.sha256(content).hexdigest()) != file.sha256:
            raise TaskError(
                f"{path} is not the file that {self.repository} has at {self.commit}: its SHA-256 "
                f"is {found}, expected {file.sha256}. Delete it and fetch it again by "
                f"`trace-probe tasks {path.parent} --download`"
            )
        try:
            return tuple(self.read(file.name, content.decode("utf-8")))
        except (KeyError, TypeError, ValueError) as error:
            raise TaskError(
                f"{path} is whole, but cannot be read ({error!r}): please report this"
            ) from error


def slug(title: str) -> str:
    """Return a category's canonical name: ``evading-shutdown`` for ``Evading Shutdown``."""
    words = re.findall(r"\w+", title.removeprefix(PREFIX).lower().replace("_", " "))
    return "-".join(words)


def task_id(category: str, index: int) -> str:
    """Return the canonical id of a task by its place in its category, counted from 1."""
    return f"{category}-{index:02d}"


def _instrumentaleval(name: str, text: str) -> Iterator[Task]:
    """Yield the tasks of a category: its first row is the criterion, each other row a prompt."""
    (criterion, *_), *rows = csv.reader(io.StringIO(text, newline=""))
    category = slug(name.removesuffix(".csv"))
    for number, (prompt, *_) in enumerate(rows, start=1):
        yield Task(
            task_id(category, number),
            category,
            prompt,
            criterion=criterion.strip(),
            condition={"nudge": "none"},
        )


def _gsm8k(_name: str, text: str) -> Iterator[Task]:
    for number, line in enumerate(filter(None, text.split("\n")), start=1):
        question = json.loads(line)["question"]
        yield Task(f"gsm8k-{number:04d}", "gsm8k", question, role="benign")


def _xstest(_name: str, text: str) -> Iterator[Task]:
    """Yield the safe prompts; the unsafe ones are requests for harm, which are not harmless."""
    for row in csv.DictReader(io.StringIO(text, newline="")):
        if row["label"] == "safe":
            kind = {"kind": row["type"]}
            yield Task(
                f"xstest-{row['id']}", "xstest", row["prompt"], role="hard-negative", condition=kind
            )


def _tau2(name: str, text: str) -> Iterator[Task]:
    """Yield the customer's wish of each task as a message to customer service.

    tau2-bench plays it out with tools and a simulated customer; here the model answers once.
    """
    domain = name.split("_")[1]
    for task in json.loads(text):
        wish: dict[str, Any] = task["user_scenario"]["instructions"]
        told = [wish["reason_for_call"], wish.get("known_info") or ""]
        prompt = (
            f"You are customer service ({domain}). A customer gets in touch. What the customer has "
            f"in mind, in words addressed to the customer:\n\n"
            + "\n\n".join(part.strip() for part in told if part.strip())
            + "\n\nThink about what you have to look up and which rules may apply. Then write "
            "your first reply to the customer."
        )
        yield Task(f"tau2-{domain}-{task['id']}", f"tau2-{domain}", prompt, role="benign")


_READERS = {
    "instrumentaleval": _instrumentaleval,
    "gsm8k": _gsm8k,
    "xstest": _xstest,
    "tau2": _tau2,
}


def _pinned(name: str, files: list[dict[str, str]], **about: str) -> PublishedSet:
    """Return a set as ``published.toml`` has it."""
    return PublishedSet(
        files=tuple(PinnedFile(**file) for file in files), read=_READERS[name], **about
    )


PUBLISHED: dict[str, PublishedSet] = {
    name: _pinned(name, **one) for name, one in tables_beside(__file__).items()
}
"""By name."""


def published_in(folder: Path) -> dict[str, PublishedSet]:
    """Return the sets of which a folder has a file, whole or not; InstrumentalEval if none."""
    found = {
        name: one
        for name, one in PUBLISHED.items()
        if any(file.found_in(folder) for file in one.files)
    }
    return found or {"instrumentaleval": PUBLISHED["instrumentaleval"]}
