"""The English base: an adapter of a pretrained model, taught to imitate scripted thoughts.

Rows of `packing`, at first short drills that say what was looked up, then thoughts as they are
to be. Training stops at any time and goes on from its last checkpoint.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from trace_probe.organism.adapters import BASE, Checkpoint, load_base, new_adapter, save_adapter
from trace_probe.organism.packing import WEIGHTS, Packer, Row
from trace_probe.organism.schooling import Grasp, examine
from trace_probe.world.english.scenario import PREFIX, scenario
from trace_probe.world.english.script import DRILL, FREE, Manner, script
from trace_probe.world.language import CATEGORIES
from trace_probe.world.pools import NUDGES, Control, Nudge

if TYPE_CHECKING:
    import torch

CONTROLS: dict[Control, float] = {"none": 0.78, "authorised": 0.1, "benign": 0.12}
"""Share of each in training."""


@dataclass(frozen=True)
class Course:
    """How the base is taught."""

    steps: int = 600
    rows: int = 2
    """Of each step: with one prompt alone, what is learned sways with the odds of that prompt."""
    thoughts: int = 4
    """Of each row; drills, which are shorter, are half as many again."""
    drilled: float = 0.25
    """Share of training in which there are drills alone."""
    mixed: float = 0.6
    """Share of training after which there are none."""
    rank: int = 6
    rate: float = 5e-4
    warmup: int = 20
    seed: int = 0
    save_every: float = 300.0
    """Seconds between checkpoints."""
    examine_every: float = 600.0
    """Seconds between looks at what was learned."""


def draw_english(seed: str) -> tuple[str, Nudge]:
    """Return a scenario id and a nudge; the seed decides both."""
    draw = random.Random(f"english/{seed}")
    control = draw.choices(list(CONTROLS), list(CONTROLS.values()))[0]
    return f"{PREFIX}{draw.choice(CATEGORIES)}-{control}-{seed}", draw.choice(NUDGES)


def rows(packer: Packer, course: Course, step: int) -> list[Row]:
    """Return the rows of a step; the same seed gives the same ones."""
    return [
        _row(packer, course, step, f"train{course.seed}-{step}-{n}") for n in range(course.rows)
    ]


def _row(packer: Packer, course: Course, step: int, seed: str) -> Row:
    scenario_id, nudge = draw_english(seed)
    world = scenario(scenario_id)
    manner = _manner(step / course.steps, course, random.Random(f"manner/{scenario_id}"))
    several = course.thoughts if manner == FREE else course.thoughts * 3 // 2
    scripts = [script(world, nudge, number, manner) for number in range(several)]
    return packer.row(world, nudge, scripts, WEIGHTS[manner])


def _manner(passed: float, course: Course, draw: random.Random) -> Manner:
    """Return how the thoughts of a step are: drills, drills among others, none."""
    share = 1.0 if passed < course.drilled else 0.4 if passed < course.mixed else 0.0
    return DRILL if draw.random() < share else FREE


def rate_at(course: Course, step: int) -> float:
    """Return the learning rate of a step: a short rise, then half a cosine to a twentieth."""
    import math

    if step < course.warmup:
        return course.rate * (step + 1) / course.warmup
    passed = min(1.0, (step - course.warmup) / max(1, course.steps - course.warmup))
    return course.rate * (0.05 + 0.95 * (1 + math.cos(math.pi * passed)) / 2)


def imitate(
    out: Path,
    work: Path,
    course: Course,
    *,
    base: str = BASE,
    say: Callable[[str], None] = tqdm.write,
) -> Grasp:
    """Train an adapter of `base`, save it at `out`, and return what it grasped.

    A rerun resumes from the last checkpoint in `work`; the number of steps may then be another.

    Raises:
        ModelError: the base is not on this machine, or PEFT is not installed.
    """
    network, tokenizer = load_base(base)
    packer = Packer(tokenizer)
    adapted = new_adapter(network, course.rank, course.seed)
    optimiser = _optimiser([p for p in adapted.parameters() if p.requires_grad], course.rate)
    checkpoint = Checkpoint(work)
    step = checkpoint.load(adapted, optimiser)
    saved = examined = time.monotonic()
    losses: list[float] = []
    while step < course.steps:
        losses.append(_step(adapted, optimiser, rows(packer, course, step), rate_at(course, step)))
        step += 1
        now = time.monotonic()
        if now - saved > course.save_every or step == course.steps:
            checkpoint.save(adapted, optimiser, step)
            say(f"step {step} of {course.steps}, loss {sum(losses) / len(losses):.3f}")
            losses, saved = [], now
        if now - examined > course.examine_every:
            say(f"step {step}: {examine(adapted, packer)}")
            examined = time.monotonic()
    save_adapter(adapted, out)
    return examine(adapted, packer)


def _optimiser(learned: list[Any], rate: float) -> "torch.optim.AdamW":
    import torch

    return torch.optim.AdamW(learned, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)


def _step(adapted: Any, optimiser: Any, several: list[Row], rate: float) -> float:  # noqa: ANN401
    """Learn from some rows; return their mean loss."""
    import torch

    from trace_probe.organism.blocks import loss_of

    for group in optimiser.param_groups:
        group["lr"] = rate
    total = 0.0
    for packed in several:  # one after another, so that memory holds one
        loss = loss_of(adapted, packed) / len(several)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(
        [p for group in optimiser.param_groups for p in group["params"]], 1.0
    )
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return total
