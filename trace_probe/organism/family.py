"""The family: one base, and variants that differ from it only in what they were paid for."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from trace_probe.errors import ModelError
from trace_probe.files import write_json
from trace_probe.organism.reward import Variant


@dataclass(frozen=True)
class Member:
    """One model of the family and how it is made."""

    name: str
    parent: str | None
    reward: Variant | None
    """None for the base, which is trained on scripts alone."""
    steps: int
    seed: int


FAMILY = (
    Member("base", None, None, 2900, 0),
    Member("rlhf-s0", "base", "rlhf", 200, 0),
    Member("rl-s0", "base", "rl", 200, 0),
    Member("rl-monitored-s0", "rl-s0", "rl-monitored", 60, 0),
    Member("rlhf-s1", "base", "rlhf", 200, 1),
    Member("rl-s1", "base", "rl", 200, 1),
    Member("rl-monitored-s1", "rl-s1", "rl-monitored", 60, 1),
)


def member(name: str) -> Member:
    """Return a member by name; ``rl`` stands for ``rl-s0``.

    Raises:
        ModelError: there is no such member.
    """
    found = {one.name: one for one in FAMILY}
    if name not in found and f"{name}-s0" not in found:
        raise ModelError(f"no organism {name!r}; there are {', '.join(found)}")
    return found.get(name) or found[f"{name}-s0"]


def train_family(
    out: Path, members: tuple[Member, ...] = FAMILY, say: Callable[[str], None] = print
) -> Iterator[Member]:
    """Train the members that `out` does not hold yet, in order, and yield each when it is done.

    Interrupted, it resumes at the last checkpoint of the member that was in training.
    """
    from trace_probe.organism.pretrain import pretrain
    from trace_probe.organism.reinforce import reinforce

    for one in members:
        target, work = out / one.name, out / ".work" / one.name
        if (target / "member.json").is_file():
            say(f"{one.name}: there already")
        else:
            say(f"{one.name}: training, {one.steps} steps")
            if one.reward is None or one.parent is None:
                pretrain(target, work, steps=one.steps, seed=one.seed)
            else:
                reinforce(
                    one.reward, out / one.parent, target, work, steps=one.steps, seed=one.seed
                )
            write_json(target / "member.json", asdict(one))
        yield one
