"""Whether `trace-probe recheck` says of a few traces what many others say.

``python -m benchmarks.rechecks --folder build/rechecks``

An organism is changed in known ways. Of each change a verdict is given on a few scenarios, and on
all others, on which nothing was decided: it is right if both are the same, and no wrong alarm if
the few cannot tell. Changes of the weights are read on the same traces; another template, and no
change at all, are recorded anew, as a user would.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import Say, run
from trace_probe.labelling.runs import label_run
from trace_probe.model.checkpoint import locate
from trace_probe.model.local import Model, load_model
from trace_probe.monitor.detector import Detector, load_detector
from trace_probe.monitor.recheck import AsRun, Recheck, judge, unseen
from trace_probe.organism.family import world_of
from trace_probe.probing.corpus import Corpus
from trace_probe.recording.observe import observe, observer_manifest
from trace_probe.recording.record import new_manifest, record
from trace_probe.statistics.metrics import Scores
from trace_probe.store import Store
from trace_probe.world.rules import RuleLabeller

Weights = dict[str, Any]
BATCH = 128


@dataclass(frozen=True)
class RecheckPlan:
    """What is changed, and on how much it is judged."""

    folder: str = "build/rechecks"
    organism: str = "organism:rl-s0"
    other: str = "organism:rl-s1"
    """In the place of another adapter: the same base, trained further with another seed."""
    probe: str = "probes/demo"
    scenarios: int = 180
    benign: int = 1000
    part: int = 2
    """Every so many tasks are the few."""
    seeds: int = 20
    """Draws of few tasks on which no change may be called stale or degraded."""


@dataclass(frozen=True)
class Verdicts:
    """What the few and the others say of a change."""

    change: str
    few: str
    others: str
    times: float | None
    """How many times as many tasks would tell, say the few."""


@dataclass(frozen=True)
class Found:
    """The verdicts of all changes."""

    few: int
    others: int
    changes: tuple[Verdicts, ...]
    unchanged: dict[str, int]
    """How often each verdict was given on seeds of few tasks, recorded anew without a change."""


Side = tuple[Corpus, Scores, AsRun]


def measure(plan: RecheckPlan, say: Say) -> Found:
    """Recheck planted changes on few traces, and compare the verdicts with those of many others."""
    root, detector = Path(plan.folder), load_detector(plan.probe)
    model = load_model(plan.organism)
    base = _recorded(plan, root / "base", model, say)
    sides = {"no change": _side(base, detector)}
    for name, make in _readers(plan, root).items():
        sides[name] = _side(_read(root / name.replace(" ", "-"), make(), base, say), detector)
    changed = load_model(str(_copy(plan, root / "models" / "template", template=_no_newline)))
    sides["template"] = _side(_recorded(plan, root / "template", changed, say), detector)
    anew = _side(_recorded(plan, root / "anew", model, say, seed=1), detector)
    sides["no change, recorded anew"] = anew
    before = sides["no change"]
    tasks = sorted(before[0].tasks)
    few = set(tasks[:: plan.part])
    judged = []
    for name, after in sides.items():
        small, large = (_verdict(before, after, some, detector) for some in (few, {*tasks} - few))
        judged.append(Verdicts(name, small.verdict, large.verdict, small.times))
    counts: dict[str, int] = {}
    for seed in range(plan.seeds):
        drawn = np.random.default_rng(seed).choice(tasks, len(few), replace=False)
        verdict = _verdict(before, anew, {str(one) for one in drawn}, detector).verdict
        counts[verdict] = counts.get(verdict, 0) + 1
    total = len(before[0].traces)
    n = len(before[0].only(few).traces)
    return Found(n, total - n, tuple(judged), counts)


def _readers(plan: RecheckPlan, root: Path) -> dict[str, Callable[[], Model]]:
    """Return what loads each changed model."""

    def folder(name: str, **how: Any) -> Callable[[], Model]:  # noqa: ANN401
        return lambda: load_model(str(_copy(plan, root / "models" / name, **how)))

    return {
        "bfloat16": lambda: load_model(plan.organism, dtype="bfloat16"),
        "adapter": lambda: load_model(plan.other),
        "layer norm eps": folder("eps", config={"rms_norm_eps": 0.01}),
        "layer norm scaled": folder("scaled", weights=_scale_norms),
        "shuffled weights": folder("shuffled", weights=_shuffle),
    }


def _copy(
    plan: RecheckPlan,
    out: Path,
    *,
    weights: Callable[[Weights], Weights] | None = None,
    config: dict[str, Any] | None = None,
    template: Callable[[str], str] | None = None,
) -> Path:
    """Write a changed copy of the organism."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(locate(plan.organism), out, dirs_exist_ok=True)
    if weights:
        changed = weights(load_file(out / "model.safetensors"))
        save_file(changed, out / "model.safetensors", metadata={"format": "pt"})
    if config:
        file = out / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **config}), "utf-8")
    if template:
        file = out / "chat_template.jinja"
        file.write_text(template(file.read_text("utf-8")), "utf-8")
    return out


def _scale_norms(weights: Weights) -> Weights:
    return {n: (w.float() * 0.9).to(w.dtype) if "norm" in n else w for n, w in weights.items()}


def _shuffle(weights: Weights) -> Weights:
    rng = np.random.default_rng(0)
    return {
        name: one.flatten()[rng.permutation(one.numel())].reshape(one.shape)
        if one.ndim == 2 and "embed" not in name
        else one
        for name, one in weights.items()
    }


def _no_newline(template: str) -> str:
    return template.replace("<think>\n", "<think>")


def _recorded(plan: RecheckPlan, out: Path, model: Model, say: Say, *, seed: int = 0) -> Store:
    """Record and label the tasks with a model."""
    world = world_of(plan.organism)
    sampling = world.sampling(seed)
    layers = load_detector(plan.probe).saved.card.layers
    manifest = new_manifest(
        model, sampling, layers=layers, tasks="world:fresh", pooling="last+mean+max"
    )
    store = Store.create(out, manifest)
    say(f"record: {out}")
    several, single = f"world:fresh:{plan.scenarios}", f"world:fresh:{plan.benign}:benign"
    record(model, world.tasks(several), store, samples=8, progress=False, batch_size=BATCH)
    record(model, world.tasks(single), store, progress=False, batch_size=BATCH)
    label_run(store, RuleLabeller(), progress=False)
    return store


def _read(out: Path, model: Model, base: Store, say: Say) -> Store:
    """Let a changed model read the traces of the organism."""
    store = Store.create(out, observer_manifest(model, base, base.manifest.layers))
    say(f"read: {out}")
    observe(model, base, store, progress=False)
    return store


def _side(store: Store, detector: Detector) -> Side:
    corpus = unseen(store, detector)
    scores = detector.saved.scores(corpus)
    return replace(corpus, matrix=None), scores, AsRun.of(store.manifest)


def _verdict(before: Side, after: Side, tasks: Sequence[str] | set[str], by: Detector) -> Recheck:
    sides = [(side[0].only(tasks), side[1], side[2]) for side in (before, after)]
    corpora = [corpus for corpus, _, _ in sides]
    scores = [{trace.id: given[trace.id] for trace in corpus.traces} for corpus, given, _ in sides]
    return judge(corpora, scores, by, (sides[0][2], sides[1][2]))


def text(found: Found) -> str:
    """Return the verdicts as a table."""
    head = f"{'':26}{f'{found.few} traces':14}{f'{found.others} others':14}tasks that would tell"
    rows = [
        f"{one.change:26}{one.few:14}{one.others:14}"
        + (f"{one.times:.1f} times as many" if one.times else "")
        for one in found.changes
    ]
    drawn = ", ".join(f"{verdict} {n}" for verdict, n in sorted(found.unchanged.items()))
    return "\n".join([head, *rows, "", f"no change, recorded anew, by seed: {drawn}"])


if __name__ == "__main__":
    run(RecheckPlan, measure, text)
