"""``trace-probe map``: the sentences of a run as points of a plane."""

from typing import Annotated

import typer

from trace_probe.commands.options import AsJson, Run, say, show_result

mapping = typer.Typer()


@mapping.command("map")
def map_(
    run: Run,
    layer: Annotated[
        int | None, typer.Option(help="Block, counted from 0. Default: the last one recorded.")
    ] = None,
    points: Annotated[
        int,
        typer.Option(
            min=10, max=20_000, help="The most sentences to draw; of more, a random sample."
        ),
    ] = 20_000,
    seed: int = 0,
    as_json: AsJson = False,
) -> None:
    """Compute the explorer's map of the sentences of a run: PCA, then UMAP, both seeded."""
    from trace_probe.errors import StoreError
    from trace_probe.probing.sentence_map import build_map, write_map
    from trace_probe.store import Store

    store = Store(run)
    if not store.manifest.layers:
        raise StoreError(f"{run} has no activations: a map needs a recorded run")
    chosen = store.manifest.layers[-1] if layer is None else layer
    found = build_map(store, chosen, most=points, seed=seed, say=say)
    with store.writing():
        file = write_map(store, found)
    result = {"file": file, "layer": chosen, "points": len(found)}
    show_result(result, f"{file}: {len(found):,} sentences at layer {chosen}", as_json=as_json)
