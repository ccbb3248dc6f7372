"""Probes to and from a hub: what is written on their page, and what is checked of others'."""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trace_probe.errors import ProbeError
from trace_probe.evaluation.report import Report, read_report
from trace_probe.model.naming import parse_name, without_version
from trace_probe.monitor.calibrated import Calibration, load_calibrations
from trace_probe.monitor.integrity import verify_probe
from trace_probe.probing.hub import (
    FETCHED,
    PAGE,
    Address,
    check_listing,
    fetch,
    publish,
    put,
)
from trace_probe.probing.kept import AGAIN, MEND
from trace_probe.probing.probe import ProbeCard, load_probe
from trace_probe.statistics.bootstrap import shown
from trace_probe.store import Store

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
    return "\n".join([*_front(card), *_text(card, calibrations), *_compared(report), ""])


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


def _text(card: ProbeCard, calibrations: tuple[Calibration, ...]) -> Iterator[str]:
    yield f"# {_plain(card.name)}"
    yield ""
    yield (
        f"A probe of trace_probe. It reads the residual stream of `{_plain(card.model)}` after "
        f"blocks {list(card.layers)} while the model reasons, and gives each sentence a score."
    )
    yield ""
    yield "```console"
    yield "$ trace-probe probe pull ORG/NAME@REVISION probes/NAME"
    yield "```"
    yield ""
    yield "## Guarantees"
    yield ""
    yield f"- threshold {card.threshold:.4f} on {_plain(card.smoothing)}: {card.rates}"
    for each in calibrations:
        for smoothing, limit in each.thresholds.items():
            yield (
                f"- temperature {each.decoding.temperature:g}, top-p {each.decoding.top_p:g}: "
                f"threshold {limit.value:.4f} on {_plain(smoothing)}: {limit.rates}"
            )
    yield ""
    yield (
        "They hold for the model as it ran then: after a change of engine, precision or template "
        "ask `trace-probe recheck`."
    )
    yield ""
    yield "## Limits"
    yield ""
    yield from (f"- {_plain(limit)}" for limit in card.limits)
    yield ""


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
