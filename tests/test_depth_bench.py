"""The bench of layers, on a run whose last layer alone holds a signal."""

from pathlib import Path

from planted import World, keep, plant

from benchmarks.depth import DepthPlan, measure, shade, text
from trace_probe.probing.probe import save_probe
from trace_probe.statistics.bootstrap import Metric
from trace_probe.training import train


def test_the_layer_that_holds_the_signal_ranks_siblings_once_it_is_there(tmp_path: Path) -> None:
    store = keep(plant(World(tasks=30, samples=6, strength=4.0, benign=40)), tmp_path / "run")
    save_probe(tmp_path / "probe", train(store, target_rate=0.05))
    found = measure(DepthPlan(str(store.path), str(tmp_path / "probe")), say=lambda _: None)
    empty, holding = found.layers
    assert (empty.layer, holding.layer, found.own) == (0, 3, 3)
    last, first = holding.after[-1], holding.after[0]
    assert last is not None
    assert first is not None
    assert last.estimate > 0.9
    assert first.estimate < last.estimate
    nothing = empty.after[-1]
    assert nothing is not None
    assert nothing.estimate < 0.7
    assert text(found).splitlines()[-1].startswith("    3 ")


def test_shades_grow_darker_from_chance_on() -> None:
    marks = [shade(Metric(value, 0, 1, 9)) for value in (0.3, 0.5, 0.6, 0.7, 0.8, 0.99)]
    assert marks[0] == marks[1] == " "
    assert len(set(marks[1:])) == 5
    assert shade(None) == "?"
