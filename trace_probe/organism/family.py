"""The family: a base for each world, and variants that differ only in what they were paid for."""

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from trace_probe.errors import ModelError
from trace_probe.execution.children import pool
from trace_probe.files import write_json
from trace_probe.organism.adapters import BASE
from trace_probe.organism.reward import Variant
from trace_probe.recording.course import Agent
from trace_probe.world.worlds import WORLDS, World


@dataclass(frozen=True)
class Member:
    """One model of the family and how it is made."""

    name: str
    parent: str | None
    reward: Variant | None
    """None for the base, which is trained on scripts alone."""
    steps: int
    seed: int
    world: str = "world"
    """Where it acts: ``world``, ``agentworld`` or ``english``."""

    @property
    def adapter(self) -> bool:
        """Return whether it is an adapter of a pretrained model, not a model of its own."""
        return self.world == "english"


FAMILY = (
    Member("base", None, None, 1600, 0),
    Member("rlhf-s0", "base", "rlhf", 70, 0),
    Member("rl-s0", "base", "rl", 70, 0),
    Member("rl-monitored-s0", "rl-s0", "rl-monitored", 40, 0),
    Member("rlhf-s1", "base", "rlhf", 70, 1),
    Member("rl-s1", "base", "rl", 70, 1),
    Member("rl-monitored-s1", "rl-s1", "rl-monitored", 40, 1),
    Member("agent-base", None, None, 1200, 0, "agentworld"),
)
"""Models that are trained from nothing in minutes and come with the package."""
ENGLISH = (
    Member("english-base", None, None, 600, 0, "english"),
    Member("english-rlhf-s0", "english-base", "rlhf", 14, 0, "english"),
    Member("english-rl-s0", "english-base", "rl", 14, 0, "english"),
)
"""Adapters of a pretrained model, which has to be fetched."""


def world_of(name: str) -> World:
    """Return the world in which an organism acts.

    `name` is the one with which it is loaded, such as ``organism:agent-base``. A model that is no
    organism of the family is asked about the small world.
    """
    kind, _, rest = name.partition(":")
    return WORLDS[member(rest).world if kind == "organism" else "world"]


def world_named(name: str) -> World:
    """Return a world whose members were paid in different ways, so that they can be compared.

    Raises:
        ModelError: there is no such world.
    """
    compared = {one.world for one in (*FAMILY, *ENGLISH) if one.reward}
    if name not in compared:
        raise ModelError(f"no members to compare in {name!r}: name {' or '.join(sorted(compared))}")
    return WORLDS[name]


def agent_of(world: World) -> Agent | None:
    """Return what organisms may do in a world of tool calls, None in one of single answers."""
    return Agent() if world.environment else None


def member(name: str) -> Member:
    """Return a member by name; ``rl`` stands for ``rl-s0``.

    Raises:
        ModelError: there is no such member.
    """
    found = {one.name: one for one in (*FAMILY, *ENGLISH)}
    if name not in found and f"{name}-s0" not in found:
        raise ModelError(f"no organism {name!r}; there are {', '.join(found)}")
    return found.get(name) or found[f"{name}-s0"]


def loaded_as(one: Member, family: Path | None = None) -> str:
    """Return the name with which a member is loaded, from `family` or from the package."""
    if family is None:
        return f"organism:{one.name}"
    folder = family / one.name
    return f"{BASE}+{folder}" if one.adapter else str(folder)


def train_family(
    out: Path,
    members: tuple[Member, ...] = FAMILY,
    *,
    jobs: int = 2,
    base: str = BASE,
    say: Callable[[str], None] = print,
) -> Iterator[Member]:
    """Train the members that `out` does not hold yet and yield each when it is done.

    `jobs` members are trained at a time, each in a process and on a thread of its own, so the
    weights do not depend on how many. A rerun resumes at the last checkpoints. `base` is the model
    of which English organisms are adapters, by name or as a folder.

    Raises:
        ModelError: a parent is neither in `out` nor among `members`, or a member needs TRL,
            which is not installed; before anything is trained.
    """
    waiting = [one for one in members if not _built(out, one.name)]
    _check_needs(out, waiting)
    running: dict[Future[None], Member] = {}
    with pool(jobs) as started:
        while waiting or running:
            ready = [one for one in waiting if one.parent is None or _built(out, one.parent)]
            for one in ready:
                say(f"{one.name}: training, {one.steps} steps")
                running[started.submit(train_member, out, one, base)] = one
                waiting.remove(one)
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                done.result()
                yield running.pop(done)


def _check_needs(out: Path, waiting: list[Member]) -> None:
    names = {one.name for one in waiting}
    for one in waiting:
        if one.parent and one.parent not in names and not _built(out, one.parent):
            raise ModelError(f"{one.name} needs {one.parent}: train it too")
    if any(one.reward for one in waiting) and find_spec("trl") is None:
        raise ModelError(
            "training needs TRL: pip install -e '.[organism]' (--members base does without)"
        )


def _built(out: Path, name: str) -> bool:
    """Return whether a member is there: its last file is."""
    return (out / name / "member.json").is_file()


def train_member(out: Path, one: Member, base: str = BASE) -> None:
    """Train one member on one thread; its parent, if any, is in `out`."""
    import torch

    torch.set_num_threads(1)
    target, work = out / one.name, out / ".work" / one.name
    (_train_adapter if one.adapter else _train_model)(out, one, target, work, base)
    write_json(target / "member.json", asdict(one))


def _train_model(out: Path, one: Member, target: Path, work: Path, _: str) -> None:
    from trace_probe.organism.courses import COURSES
    from trace_probe.organism.pretrain import pretrain
    from trace_probe.organism.reinforce import reinforce

    if one.reward is None or one.parent is None:
        pretrain(target, work, COURSES[one.world], steps=one.steps, seed=one.seed)
    else:
        parent = out / one.parent
        reinforce(one.reward, parent, target, work, steps=one.steps, seed=one.seed)


def _train_adapter(out: Path, one: Member, target: Path, work: Path, base: str) -> None:
    from trace_probe.organism.imitate import Course, imitate
    from trace_probe.organism.reinforce import reinforce_adapter

    if one.reward is None or one.parent is None:
        course = Course(steps=one.steps, seed=one.seed)
        imitate(target, work, course, base=base)
    else:
        parent = out / one.parent
        reinforce_adapter(
            one.reward, parent, target, work, base=base, seed=one.seed, max_steps=one.steps
        )
