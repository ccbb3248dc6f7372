"""Folders of runs, good and bad; windows of a browser to look at them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from explorer.browsing import SIZE, Tab, chromium
from explorer.planted import DETECTOR, hostile_run, long_run, planted_run, rich_run
from trace_probe.explorer.runs import VARIABLE
from trace_probe.store import Manifest, Store


@pytest.fixture
def traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder of runs that the explorer looks at."""
    folder = tmp_path / "traces"
    folder.mkdir()
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder


@pytest.fixture(scope="module")
def windows() -> Iterator[dict[str, Any]]:
    """Return a light and a dark window; one for all tests, so that scripts stay cached."""
    with chromium() as browser:
        yield {
            scheme: browser.new_context(viewport=SIZE, color_scheme=scheme)
            for scheme in ("light", "dark")
        }


@pytest.fixture
def tab(windows: dict[str, Any]) -> Iterator[Tab]:
    """Return a tab for files, in which nothing may fail and nothing be fetched from elsewhere."""
    opened = Tab(windows["light"])
    yield opened
    opened.page.close()
    assert opened.errors == []
    assert opened.strangers == []


def make_run(kind: str, path: Path) -> None:
    """Write a run of a kind."""
    makers = {
        "planted": lambda: planted_run(path),
        "rich": lambda: rich_run(path),
        "hostile": lambda: hostile_run(path),
        "long": lambda: long_run(path),
        "unscored": lambda: planted_run(path, scores=False),
        "unlabelled": lambda: planted_run(path, labels=False),
        "unevaluated": lambda: planted_run(path, report=False),
        "bare": lambda: planted_run(path, scores=False, labels=False),
        "empty": lambda: Store.create(path, Manifest(model="m")),
    }
    if kind in makers:
        makers[kind]()
    else:
        break_run(kind, path)


def break_run(kind: str, path: Path) -> None:
    """Write a run and damage it."""
    store = planted_run(path)
    lines = (path / "traces.jsonl").read_bytes().splitlines(keepends=True)
    if kind == "garbage":
        (path / "traces.jsonl").write_bytes(b"not json\n" + b"".join(lines))
    elif kind == "foreign trace":
        (path / "traces.jsonl").write_text(json.dumps({"id": "x"}) + "\n", encoding="utf-8")
    elif kind == "foreign label":
        (path / "labels.jsonl").write_text(json.dumps({"trace_id": "x"}) + "\n", encoding="utf-8")
    elif kind == "other schema":
        (path / "run.json").write_text('{"schema": 99}', encoding="utf-8")
    elif kind == "broken scores":
        (path / "scores" / f"{DETECTOR}.parquet").write_bytes(b"PAR1 but not really")
    elif kind == "broken report":
        (path / "reports" / f"{DETECTOR}.json").write_text("{", encoding="utf-8")
    elif kind == "short scores":
        scores = store.scores(DETECTOR)
        store.write_scores(DETECTOR, {name: row[:-1] for name, row in scores.items()})
    else:
        raise ValueError(kind)
