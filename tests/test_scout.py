"""Inspect Scout finds alarms in a log, and cites the messages that they are in."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("inspect_scout", reason="inspect-scout is not installed")

from acting import acting_model
from inspect_ai import Task
from inspect_ai import eval as run_eval
from inspect_ai.dataset import Sample
from inspect_ai.log import read_eval_log
from inspect_ai.model import get_model
from inspect_ai.solver import generate
from inspect_scout import scan, scan_results_df, transcripts_from
from test_live_features import wide_probe

from trace_probe.interop import inspect_verdict, inspect_watch
from trace_probe.interop.scout import alarms
from trace_probe.probing.probe import SavedProbe, save_probe

pytestmark = pytest.mark.filterwarnings("ignore")  # Inspect's and Scout's own


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = acting_model()
    monkeypatch.setattr("trace_probe.model.local.load_model", lambda *_, **__: made)
    monkeypatch.delenv(inspect_watch.PROBE, raising=False)
    yield made
    for known in (inspect_verdict.loaded, inspect_watch.reader_of):
        known.cache_clear()
    inspect_watch.WATCHING.clear()


def probe_at(model: Any, folder: Path, threshold: float) -> str:
    made = wide_probe(model, "linear")
    card = replace(made.card, name="eye", threshold=threshold, model="tiny-agent@00000000")
    save_probe(folder, SavedProbe(card, made.probe))
    return str(folder)


@pytest.mark.parametrize(("threshold", "alarmed"), [(-1e9, True), (1e9, False)])
@pytest.mark.parametrize("live", [True, False])
def test_alarms_are_found_and_refer_to_their_messages(
    model: Any, tmp_path: Path, threshold: float, alarmed: bool, live: bool
) -> None:
    probe = probe_at(model, tmp_path / "eye", threshold)
    asked = Task(dataset=[Sample("look the key .")], solver=generate(), name="looking")
    given = {"probe": probe} if live else {}
    watched = get_model("trace_probe/tiny-agent", memoize=False, **given)
    logs = str(tmp_path / "logs")
    run_eval(asked, model=watched, log_dir=logs, display="none", max_tokens=24, seed=3)
    (sample,) = read_eval_log(next(Path(logs).glob("*.eval")).as_posix()).samples or []
    status = scan(
        [alarms(probe=probe, again=not live)],
        transcripts=transcripts_from(logs),
        scans=str(tmp_path / "scans"),
        display="none",
        max_processes=1,
    )
    assert status.complete, status.errors
    found = scan_results_df(status.location).scanners["alarms"].iloc[0]
    assert bool(found["value"]) is alarmed
    written = {message.id for message in sample.messages if message.role == "assistant"}
    cited = str(found["message_references"])
    assert any(name in cited for name in written) is alarmed
    assert ("[M2] alarm" in found["explanation"]) is alarmed
