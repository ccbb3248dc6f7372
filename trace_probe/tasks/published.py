"""Published sets of harmless tasks: GSM8K, XSTest and tau2-bench, from files that are pinned.

None of them comes with the package. `download_tasks` fetches their files; here they are known by
their checksums and read as `Task` values.
"""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trace_probe.errors import TaskError
from trace_probe.trace import Task


@dataclass(frozen=True)
class PinnedFile:
    """One file of a repository, as it is at one commit."""

    path: str
    """In the repository."""
    name: str
    """In the folder of the user."""
    sha256: str

    def is_whole(self, folder: Path) -> bool:
        """Return whether the file is in a folder, byte for byte."""
        file = folder / self.name
        return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == self.sha256


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
        """Read the tasks from a folder that has all files.

        Raises:
            TaskError: a file is not the pinned one.
        """
        return tuple(task for file in self.files for task in self._of(file, folder))

    def _of(self, file: PinnedFile, folder: Path) -> tuple[Task, ...]:
        path = folder / file.name
        if not file.is_whole(folder):
            raise TaskError(
                f"{path} is not the file that {self.repository} has at {self.commit}: delete it "
                f"and fetch it again by `trace-probe tasks {folder} --download`"
            )
        try:
            return tuple(self.read(file.name, path.read_bytes().decode("utf-8")))
        except (KeyError, TypeError, ValueError) as error:
            raise TaskError(
                f"{path} is whole, but cannot be read ({error!r}): please report this"
            ) from error


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


PUBLISHED: dict[str, PublishedSet] = {
    "gsm8k": PublishedSet(
        "openai/grade-school-math",
        "3101c7d5072418e28b9008a6636bde82a006892c",
        "MIT",
        (
            PinnedFile(
                "grade_school_math/data/test.jsonl",
                "gsm8k_test.jsonl",
                "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
            ),
        ),
        _gsm8k,
    ),
    "xstest": PublishedSet(
        "paul-rottger/xstest",
        "d7bb5bd738c1fcbc36edd83d5e7d1b71a3e2d84d",
        "CC-BY-4.0",
        (
            PinnedFile(
                "xstest_prompts.csv",
                "xstest_prompts.csv",
                "11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a",
            ),
        ),
        _xstest,
    ),
    "tau2": PublishedSet(
        "sierra-research/tau2-bench",
        "fc0055dc4e0a316c3f83133267fbd6faaa770992",
        "MIT",
        (
            PinnedFile(
                "data/tau2/domains/airline/tasks.json",
                "tau2_airline_tasks.json",
                "ccd8ba737b4cc371415af70151187788f728d6108d0916e73bb4317b40542052",
            ),
            PinnedFile(
                "data/tau2/domains/retail/tasks.json",
                "tau2_retail_tasks.json",
                "8e03ebce7901bd6218e7a7dc3105faa9324091a68058f7fe61c65262868812e8",
            ),
        ),
        _tau2,
    ),
}
"""By name. That of tau2-bench is its release v1.0.1, less the telecom domain, which has 14 MB."""


def published_in(folder: Path) -> dict[str, PublishedSet]:
    """Return the sets of which a folder has every file, whole or not."""
    return {
        name: one
        for name, one in PUBLISHED.items()
        if all((folder / file.name).is_file() for file in one.files)
    }
