"""The traces of a run, read again for other layers or poolings."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_probes import a_probe
from runs import label_of

from trace_probe.activations import pooled_spans
from trace_probe.errors import ModelError
from trace_probe.probing.probe import check_fits
from trace_probe.store import Store
from trace_probe.trace import Sampling, Task, Trace
from trace_probe.training import score_run

SAMPLING = Sampling(max_new_tokens=24)
TASKS = [Task(f"t-{verb}", "c", f"the model must {verb} .") for verb in ("wait", "act")]


def recorded(model: Any, path: Path, pooling: str, layers: tuple[int, ...] | None = None) -> Store:
    from trace_probe.recording.record import new_manifest, record

    store = Store.create(path, new_manifest(model, SAMPLING, layers=layers, pooling=pooling))
    record(model, TASKS, store, samples=3, progress=False)
    with store.writing():
        store.add_labels([label_of(trace) for trace in store.traces()])
    return store


def again(model: Any, run: Store, path: Path, **what: Any) -> Store:
    from trace_probe.recording.observe import recapture, recapture_manifest

    out = Store.create(path, recapture_manifest(model, run, **what))
    recapture(model, run, out, progress=False)
    return out


def test_a_run_of_last_tokens_gets_the_other_poolings(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny()
    run = recorded(model, tmp_path / "run", "last", (1, 2))
    out = again(model, run, tmp_path / "out")
    assert (out.manifest.pooling, out.manifest.layers) == ("last+mean+max", (1, 2))
    assert list(out.traces()) == list(run.traces())
    assert out.labels() == run.labels()
    whole = recorded(model, tmp_path / "whole", "last+mean+max", (1, 2))
    for trace in run.traces():
        held, expected = out.activations(trace), whole.activations(trace)
        np.testing.assert_allclose(held.values, expected.values, atol=2e-3)
        np.testing.assert_allclose(held.part(2, "last"), run.activations(trace).at(2), atol=2e-3)
        assert out.vault.fidelity(trace.id).against == "recorded-rows"  # type: ignore[union-attr]


def test_of_layers_that_were_not_recorded_the_longest_trace_is_read_twice(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    run = recorded(tiny(), tmp_path / "run", "mean", (1,))
    out = again(tiny(), run, tmp_path / "out", layers=(2,))
    found = {trace.id: out.vault.fidelity(trace.id) for trace in out.traces()}
    longest = max(out.traces(), key=len)
    assert [name for name, fidelity in found.items() if fidelity is not None] == [longest.id]
    assert found[longest.id].against == "second-pass"  # type: ignore[union-attr]


def test_what_was_read_already_is_not_read_again(tiny: Callable[..., Any], tmp_path: Path) -> None:
    from trace_probe.recording.observe import recapture, recapture_manifest

    model = tiny()
    run = recorded(model, tmp_path / "run", "last")
    out = Store.create(tmp_path / "out", recapture_manifest(model, run))
    first = next(run.traces())
    with out.writing():
        out.add(first)
    report = recapture(model, run, out, progress=False)
    assert (report.read, report.resumed) == (len(run) - 1, 1)
    assert recapture(model, run, out, progress=False).read == 0


def test_rows_that_differ_from_those_recorded_are_refused(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    from trace_probe.recording.observe import recapture, recapture_manifest

    model = tiny()
    run = recorded(model, tmp_path / "run", "last")
    false = Store.create(tmp_path / "false", run.manifest)
    with false.writing():
        for trace in run.traces():
            held = run.activations(trace)
            false.add(trace, replace(held, values=held.values * np.float16(1.01)))
    out = Store.create(tmp_path / "out", recapture_manifest(model, false))
    with pytest.raises(ModelError, match="from what was recorded of it"):
        recapture(model, false, out, progress=False)
    assert len(out) == 0


def test_only_the_model_that_wrote_a_run_may_read_it_again(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    run = recorded(tiny(), tmp_path / "run", "last")
    with pytest.raises(ModelError, match="load what it was started with"):
        again(tiny("llama"), run, tmp_path / "out")


def test_what_was_imported_or_served_is_of_the_model_that_reads_it_so_that_its_probes_fit(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny()
    run = recorded(model, tmp_path / "run", "last", ())
    theirs = replace(run.manifest, model="tiny", source="imported")
    foreign = Store.create(tmp_path / "foreign", theirs)
    with foreign.writing():
        for trace in run.traces():
            foreign.add(replace(trace, model="tiny"))
    out = again(model, foreign, tmp_path / "out", layers=(1,))
    assert out.manifest.model == model.name != "tiny"
    assert {trace.model for trace in out.traces()} == {"tiny"}
    probe = a_probe(model, layer=1)
    check_fits(probe.card, out.manifest)
    assert set(score_run(out, probe)) == run.ids()


def test_a_trace_without_token_ids_cannot_be_read_as_it_was_written(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    run = recorded(tiny(), tmp_path / "run", "last", ())
    bare = Store.create(tmp_path / "bare", run.manifest)
    with bare.writing():
        for trace in run.traces():
            bare.add(replace(trace, token_ids=()))
    with pytest.raises(ModelError, match="trace-probe observe"):
        again(tiny(), bare, tmp_path / "out")


# How unsure the model was of its own words


def test_uncertainty_is_that_of_the_distribution_each_token_was_drawn_from(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    import torch

    model = tiny()
    run = recorded(model, tmp_path / "run", "last", ())
    for trace in run.traces():
        with torch.inference_mode():
            logits = model._network(torch.tensor([trace.token_ids])).logits[0, :-1].double()
        given = logits.log_softmax(-1)
        drawn = torch.tensor(trace.token_ids[1:])
        surprisal = -given.gather(1, drawn[:, None])[:, 0]
        entropy = -(given.exp() * given).sum(-1)
        doubt = 1 - given.exp().amax(-1)
        tokens = torch.stack([surprisal, entropy, doubt], 1).numpy()  # at n, of token n + 1
        assert len(trace.uncertainty) == len(trace.sentences) > 0
        spans = pooled_spans(trace, run.manifest.row_end)[1:]
        for row, span in zip(trace.uncertainty, spans, strict=True):
            part = tokens[span.start - 1 : span.stop - 1]
            expected = np.concatenate([part[-1], part.mean(axis=0), part.max(axis=0)])
            np.testing.assert_allclose(row, expected, rtol=2e-3, atol=1e-4)


def test_features_of_uncertainty_are_made_as_those_of_activations(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    from trace_probe.errors import NotEnoughData
    from trace_probe.probing.baselines import uncertainty_matrix
    from trace_probe.probing.features import feature_rows
    from trace_probe.probing.recipe import FEATURES

    traces: list[Trace] = list(recorded(tiny(), tmp_path / "run", "last", ()).traces())
    matrix = uncertainty_matrix(traces)
    zero = np.zeros(1, dtype=int)
    rows = feature_rows(matrix, traces, (0,), FEATURES, zero, zero)
    np.testing.assert_allclose(rows[0, :9], traces[0].uncertainty[0], rtol=1e-5)
    np.testing.assert_allclose(rows[0, 9:12], traces[0].uncertainty[0][3:6], rtol=1e-5)
    with pytest.raises(NotEnoughData, match="record with this version"):
        uncertainty_matrix([replace(traces[0], uncertainty=())])


# On the command line


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "no tasks are given: add, for example, --tasks world:mine:48"),
        (["--tasks", "world:a:1", "--recapture", "run"], "exclude each other"),
        (["--recapture", "run", "--executor", "ray"], "in one job"),
        (["--recapture", "run", "--base-url", "http://127.0.0.1:1"], "in one job"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: list[str], text: str) -> None:
    from typer.testing import CliRunner

    from trace_probe.commands.main import app

    found = CliRunner().invoke(app, ["record", "organism:rl", "traces/out", *options])
    assert found.exit_code == 2
    assert text in " ".join(found.output.replace("│", " ").split())


def test_the_command_reads_a_run_again_into_another(
    tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from trace_probe.commands.main import app
    from trace_probe.model import bridge

    run = recorded(tiny(), tmp_path / "run", "last", (1,))
    monkeypatch.setattr(bridge, "load_weights", lambda _: tiny())
    command = ["record", "tiny", str(tmp_path / "out"), "--recapture", str(run.path)]
    for expected in (f"{len(run)} traces read, 0 already there", "0 traces read"):
        found = CliRunner().invoke(app, command)
        assert (found.exit_code, expected in found.output) == (0, True)
    assert Store(tmp_path / "out").manifest.pooling == "last+mean+max"


def test_a_run_without_activations_gets_the_name_of_the_model_that_reads_it(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    """Chats of a server or of a file name their model without its revision."""
    model = tiny()
    run = recorded(model, tmp_path / "run", "last")
    bare = Store.create(tmp_path / "bare", replace(run.manifest, model="by/name", layers=()))
    with bare.writing():
        for trace in run.traces():
            bare.add(trace)
    out = again(model, bare, tmp_path / "out", pooling="last")
    assert out.manifest.model == run.manifest.model
    assert list(out.traces()) == list(run.traces())
