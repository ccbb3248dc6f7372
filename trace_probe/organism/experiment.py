"""The controlled experiment: what does the reward alone change?"""

from pathlib import Path

from trace_probe.labelling.runs import label_run
from trace_probe.model.local import load_model
from trace_probe.organism.family import FAMILY
from trace_probe.recording.record import new_manifest, record
from trace_probe.store import Store
from trace_probe.trace import Sampling
from trace_probe.world.pools import NUDGES
from trace_probe.world.rules import RuleLabeller
from trace_probe.world.scenario import MAX_NEW_TOKENS, TOP_P, world_tasks


def experiment(out: Path, *, scenarios: int, samples: int, seed: int) -> list[Store]:
    """Record every member on the same scenarios under every nudge, and label; rerun to resume."""
    tasks = [
        one for nudge in NUDGES for one in world_tasks(f"world:study:{scenarios}:none:{nudge}")
    ]
    sampling = Sampling(seed=seed, top_p=TOP_P, max_new_tokens=MAX_NEW_TOKENS)
    runs = []
    for one in (one for one in FAMILY if one.world == "world"):
        model = load_model(f"organism:{one.name}")
        manifest = new_manifest(model, sampling, layers=(), tasks=f"world:study:{scenarios}")
        store = Store.create(out / one.name, manifest)
        record(model, tasks, store, samples=samples, batch_size=128)
        label_run(store, RuleLabeller(), progress=False)
        runs.append(store)
    return runs
