"""The controlled experiment: what does the reward alone change?"""

from pathlib import Path

from trace_probe.labelling.runs import label_run
from trace_probe.model.local import load_model
from trace_probe.organism.family import ENGLISH, FAMILY, loaded_as
from trace_probe.recording.record import new_manifest, record
from trace_probe.store import Store
from trace_probe.world.pools import NUDGES
from trace_probe.world.rules import RuleLabeller
from trace_probe.world.worlds import World


def experiment(
    out: Path, *, scenarios: int, samples: int, seed: int, world: World, family: Path | None = None
) -> list[Store]:
    """Record every member of a world on the same scenarios under every nudge, and label.

    `family` is where they were trained, if it was not for the package; rerun to resume.
    """
    pool = f"{world.name}:study:{scenarios}"
    tasks = [one for nudge in NUDGES for one in world.tasks(f"{pool}:none:{nudge}")]
    sampling = world.sampling(seed)
    runs = []
    for one in (one for one in (*FAMILY, *ENGLISH) if one.world == world.name):
        model = load_model(loaded_as(one, family))
        manifest = new_manifest(model, sampling, layers=(), tasks=pool)
        store = Store.create(out / one.name, manifest)
        record(model, tasks, store, samples=samples, batch_size=world.batch)
        label_run(store, RuleLabeller(), progress=False)
        runs.append(store)
    return runs
