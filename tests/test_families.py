"""Every family of reasoning models goes the whole way: recorded, stored, trained, scored.

The weights are random, so nothing is claimed of what a probe finds in them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import FAMILIES, SENTENCES

from trace_probe.labels import Label
from trace_probe.probing.probe import load_probe, save_probe
from trace_probe.store import Store
from trace_probe.trace import Role, Sampling, Task
from trace_probe.training import score_run, train

WORDS = SENTENCES.split()[3:]


def tasks(role: Role, count: int) -> list[Task]:
    return [Task(f"{role}-{n:02}", "c", f"the {WORDS[n]} .", role=role) for n in range(count)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_recorded_stored_trained_and_scored(
    tiny: Callable[..., Any], tmp_path: Path, family: str
) -> None:
    from trace_probe.recording.record import new_manifest, record

    model = tiny(family)
    manifest = new_manifest(model, Sampling(seed=1, max_new_tokens=16), layers=(1,))
    store = Store.create(tmp_path / family, manifest)
    record(model, tasks("test", 14), store, samples=4, progress=False)
    record(model, tasks("benign", 24), store, progress=False)
    store = Store(tmp_path / family)
    traces = list(store.traces())
    with store.writing():
        store.add_labels(
            Label(trace.id, "planted", trace.task.role == "test" and trace.sample % 2 == 0)
            for trace in traces
        )
    save_probe(tmp_path / "probe", train(store, target_rate=0.2))
    saved = load_probe(tmp_path / "probe")
    assert (saved.card.model, saved.card.layer) == (model.name, 1)
    scores = score_run(store, saved)
    assert set(scores) == {trace.id for trace in traces}
    for trace in traces:
        thoughts = [span.channel == "reasoning" for span in trace.sentences]
        assert np.isfinite(scores[trace.id][thoughts]).all()
