"""Probes to and from a hub: what is written on their page, and what is checked of others'.

Whether a saved probe is as it was written, and how to accept one that you edited.
"""

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trace_probe.errors import ProbeError
from trace_probe.evaluation.report import Report, read_report
from trace_probe.files import abandoned, absent, file_names
from trace_probe.model.naming import parse_name, without_version
from trace_probe.monitor.calibrated import Calibration, load_calibrations, write_calibrations
from trace_probe.monitor.recheck import load_rechecks, write_rechecks
from trace_probe.probing.hub import FETCHED, PAGE, Address, check_listing, fetch, publish, put
from trace_probe.probing.kept import (
    AGAIN,
    ALARMS,
    CARD,
    MEND,
    RECHECKS,
    WEIGHTS,
    read_json,
    read_weights,
)
from trace_probe.probing.probe import ProbeCard, load_probe, save_probe
from trace_probe.statistics.bootstrap import shown
from trace_probe.storage.seals import HEADER, JSON, state
from trace_probe.store import Store


@dataclass(frozen=True)
class ProbeReport:
    """What was found in the folder of a probe."""

    probe: str
    problems: tuple[str, ...]
    unchecked: tuple[str, ...]
    """Files of an earlier version, which carry no checksum."""
    leftovers: tuple[str, ...]
    """Files that an interrupted writer left; the next one removes them."""

    def __str__(self) -> str:
        """Return a report as text."""
        head = f"{len(self.problems)} problems" if self.problems else "clean"
        lines = [f"{self.probe}: {head}", *self.problems]
        if self.unchecked:
            names = ", ".join(self.unchecked)
            lines.append(f"{names}: without checksum: `trace-probe probe seal` gives one")
        if self.leftovers:
            lines.append(f"{len(self.leftovers)} leftover files, removed by the next writer")
        return "\n".join(lines)


def verify_probe(path: Path | str) -> ProbeReport:
    """Read every file of a probe and report on all of them, whatever the first one holds.

    Raises:
        ProbeError: there is no probe.
    """
    folder = Path(path)
    if not (folder / CARD).is_file() and not (folder / WEIGHTS).is_file():
        raise ProbeError(absent(folder, "probe"))
    looks: tuple[Callable[[], object], ...] = (
        lambda: read_json(folder / CARD),
        lambda: read_weights(folder, "compared"),
        lambda: load_probe(folder),
        lambda: load_calibrations(folder),
        lambda: load_rechecks(folder),
    )
    complaints = (_complaint(look) for look in looks)
    marks = {CARD: JSON, WEIGHTS: HEADER, ALARMS: JSON, RECHECKS: JSON}
    return ProbeReport(
        str(folder),
        tuple(dict.fromkeys(filter(None, complaints))),
        tuple(name for name, mark in marks.items() if _unsealed(folder / name, mark)),
        tuple(name for name in file_names(folder) if abandoned(folder / name)),
    )


def _complaint(look: Callable[[], object]) -> str:
    try:
        look()
    except ProbeError as error:
        return str(error)
    return ""


def _unsealed(file: Path, mark: bytes) -> bool:
    return file.is_file() and state(file.read_bytes(), mark) == "unsealed"


def seal_probe(path: Path | str) -> None:
    """Accept a probe as it is: give new checksums to what you edited yourself.

    Raises:
        ProbeError: it cannot be read at all.
    """
    folder = Path(path)
    calibrations = load_calibrations(folder, "ignored")
    rechecks = load_rechecks(folder, "ignored")
    save_probe(folder, load_probe(folder, "ignored"))
    if calibrations:
        write_calibrations(folder, calibrations)
    if rechecks:
        write_rechecks(folder, rechecks)


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SHOWN = ("within_prompt_auroc", "pooled_auroc")
"""Figures of a report that stand on the page, if it has them, with what is caught early."""


def push_probe(
    folder: Path, address: str, *, run: Store | None = None, endpoint: str | None = None
) -> str:
    """Put a probe on a hub with a page that says what it is; return the commit.

    With a `run` on which it was evaluated the page shows its figures beside the baselines.

    Raises:
        ProbeError: a file is damaged or lacks its checksum, or the hub refuses.
    """
    where = Address.of(address)
    _check_whole(folder, "`trace-probe probe seal` accepts what you edited yourself")
    files = {name: (folder / name).read_bytes() for name in FETCHED if (folder / name).is_file()}
    card = load_probe(folder).card
    report = None if run is None else read_report(run, card.name)
    if run is not None and report is None:
        raise ProbeError(
            f"{run.path} has no report of {card.name}: `trace-probe evaluate {run.path} {folder}`"
        )
    files[PAGE] = page(card, load_calibrations(folder), report).encode()
    check_listing(where, {name: len(data) for name, data in files.items()})
    return publish(where, files, endpoint)


def pull_probe(address: str, folder: Path, *, endpoint: str | None = None) -> str:
    """Fetch a probe from a hub into a folder that is not there yet; return the commit.

    Everything is checked before the folder is made: which files there are, their sizes and
    checksums, names, and that every number is finite.

    Raises:
        ProbeError: it is not there, is refused, or the folder holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ProbeError(f"{folder} holds something already: choose another folder")
    where = Address.of(address)
    commit, files = fetch(where, endpoint)
    with tempfile.TemporaryDirectory() as room:
        staged = Path(room) / where.repo.rpartition("/")[2]
        put(staged, files)
        try:
            _check_whole(staged, "it was not written by trace_probe")
        except ProbeError as error:
            why = str(error).replace(str(staged), str(where))
            for advice in (AGAIN, MEND):
                why = why.removesuffix(f": {advice}")
            raise ProbeError(f"{why}: nothing is kept; ask its owner to push it again") from error
    put(folder, files)
    return commit


def _check_whole(folder: Path, advice: str) -> None:
    report = verify_probe(folder)
    if report.problems:
        raise ProbeError(report.problems[0])
    if any(name in FETCHED for name in report.unchecked):
        raise ProbeError(f"{folder.name} has a file without checksum: {advice}")


def page(
    card: ProbeCard,
    calibrations: tuple[Calibration, ...] = (),
    report: Report | None = None,
) -> str:
    """Return the page of a probe on a hub: YAML for the hub's search, then text for people."""
    return "\n".join([*_front(card), _text(card, calibrations), *_compared(report), ""])


def _front(card: ProbeCard) -> Iterator[str]:
    """Yield the YAML at the top; every text in it is quoted, as JSON, which YAML reads."""
    yield "---"
    name = parse_name(without_version(card.model))
    bases = [part for part in (name.base, name.adapter) if _HUB_ID.fullmatch(part)]
    if bases:
        yield f"base_model: {json.dumps(bases)}"
        yield 'base_model_relation: "adapter"'
    yield 'library_name: "trace_probe"'
    yield f"tags: {json.dumps(['trace_probe', 'linear-probe', 'monitoring', 'interpretability'])}"
    guaranteed = {
        "benign": card.guaranteed_false_alarm_rate,
        "siblings": card.rates.siblings,
        "kind": card.guarantee,
    }
    yield f"trace_probe: {json.dumps({'schema': 1, 'guaranteed': guaranteed})}"
    yield "---"


TEXT = """# {name}

A probe of trace_probe. It reads the residual stream of `{model}` after blocks {layers} while the \
model reasons, and gives each sentence a score.

```console
$ trace-probe probe pull ORG/NAME@REVISION probes/NAME
```

## Guarantees

{guarantees}

They hold for the model as it ran then: after a change of engine, precision or template ask \
`trace-probe recheck`.

## Limits

{limits}
"""


def _text(card: ProbeCard, calibrations: tuple[Calibration, ...]) -> str:
    guarantees = [f"threshold {card.threshold:.4f} on {_plain(card.smoothing)}: {card.rates}"]
    guarantees += [
        f"temperature {each.decoding.temperature:g}, top-p {each.decoding.top_p:g}: "
        f"threshold {limit.value:.4f} on {_plain(smoothing)}: {limit.rates}"
        for each in calibrations
        for smoothing, limit in each.thresholds.items()
    ]
    return TEXT.format(
        name=_plain(card.name),
        model=_plain(card.model),
        layers=list(card.layers),
        guarantees="\n".join(f"- {one}" for one in guarantees),
        limits="\n".join(f"- {_plain(limit)}" for limit in card.limits),
    )


def _compared(report: Report | None) -> Iterator[str]:
    """Yield the figures of a report, those of the probe beside those of each baseline."""
    yield "## Beside its baselines"
    yield ""
    if report is None:
        yield "Not stated: whoever pushed it named no run on which it was evaluated."
        return
    rows = {"**this probe**": report.figures, **report.baselines}
    names = [
        name
        for name, figure in report.figures.items()
        if figure and (name in _SHOWN or (name.startswith("caught") and ":" not in name))
    ]
    yield f"| detector | {' | '.join(name.replace('_', ' ') for name in names)} |"
    yield f"| --- |{' --- |' * len(names)}"
    for detector, figures in rows.items():
        cells = (shown(figures.get(name)) for name in names)
        yield f"| {_plain(detector)} | {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Return a text as one line without markup of its own."""
    return re.sub(r"[`<>|\[\]\x00-\x1f]", " ", text)
