"""Commands that prepare what the explorer shows."""

from dataclasses import asdict

import typer

from trace_probe.commands.options import AsJson, Probe, Run, say, show_result

exploring = typer.Typer()


@exploring.command()
def layers(run: Run, probe: Probe, as_json: AsJson = False) -> None:
    """Train and score a probe on every recorded layer, for the explorer's picture of all layers."""
    from trace_probe.evaluation.layerwise import score_layers
    from trace_probe.probing.probe import load_probe
    from trace_probe.store import Store

    saved = load_probe(probe)
    store = Store(run)
    scales = score_layers(store, saved, progress=say)
    rows = [f"layer {one.layer:3}  threshold {one.threshold:.3f}" for one in scales]
    result = {"probe": saved.card.name, "layers": [asdict(one) for one in scales]}
    show_result(result, "\n".join(rows), as_json=as_json)
