"""Is the direction part of the cause? Push along it while the model writes, and count the acts.

The same prefixes are continued under the same seeds, with the stream after one block moved
along a direction from the last token of the prefix on, or with the direction projected out.
What the probe's direction does is set beside what random directions and directions of
unrelated concepts do at the same length of push, since a push along anything moves something.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from tqdm import tqdm

from trace_probe.emergence.continuers import Edit, branch_of
from trace_probe.emergence.curve import prefixes
from trace_probe.emergence.directions import Direction
from trace_probe.emergence.ledger import Cells
from trace_probe.emergence.readout import Ask, Rates, Readout, Trial, rates, seeds_of
from trace_probe.model.local import Model
from trace_probe.model.steering import Steering, steered
from trace_probe.statistics.bootstrap import Metric, Resampled, resample, shown
from trace_probe.trace import Trace

How = Literal["none", "add", "project-out"]
ALPHA = 0.05
COHERENT = 0.05
"""Loss of well-formed continuations up to which a push leaves the text whole."""


@dataclass(frozen=True)
class SteeringPlan:
    """What is tried."""

    layer: int
    """Block, 0-based."""
    doses: tuple[float, ...] = (-0.3, -0.2, -0.1, 0.1, 0.2, 0.3)
    """Of the directions under test, in mean lengths of the stream; much more breaks any text."""
    dose: float = 0.2
    """Of all, both ways: what they are compared at."""
    at: float = 0.0
    """Part of the reasoning that is written before the push; 0 is the end of the prompt."""
    continuations: int = 4
    """Of each prefix."""
    seed: int = 0


@dataclass(frozen=True)
class Cell:
    """One direction, and what is done along it."""

    direction: str
    kind: str
    how: How
    dose: float

    @property
    def name(self) -> str:
        """Return a name that no other cell of the experiment has."""
        return f"{self.kind}/{self.direction}/{self.how}/{self.dose:g}"


LEFT_ALONE = Cell("", "", "none", 0.0)


@dataclass(frozen=True)
class CellFigures:
    """What became of the continuations of one cell, or of all cells of a kind."""

    cell: Cell
    figures: dict[str, Metric | None]


@dataclass(frozen=True)
class Effect:
    """How far a direction moves the instrumental rate, and how that compares."""

    direction: str
    size: Metric | None
    """Of adding: rate at the dose less rate at minus the dose. Of ablation: after less before."""
    others: tuple[float, ...]
    """The same of the random and the unrelated directions."""
    p: float
    """Share of directions, this one among them, that move it at least as far, either way."""


@dataclass(frozen=True)
class SteeringReport:
    """Whether a direction is causal here."""

    model: str
    plan: SteeringPlan
    scale: float
    """Length of a push of dose 1."""
    prefixes: int
    controls: dict[str, int]
    rows: tuple[CellFigures, ...]
    added: tuple[Effect, ...]
    """Of each direction under test."""
    ablated: tuple[Effect, ...]
    verdict: str

    def __str__(self) -> str:
        """Return the table of doses and the verdict."""
        plan = self.plan
        head = (
            f"{self.model}, layer {plan.layer}, from {plan.at:.0%} of the reasoning on: "
            f"{self.prefixes} prompts x {plan.continuations} continuations; "
            f"dose 1 = {self.scale:.2f}"
        )
        names = ("instrumental", "success", "well_formed", "perplexity")
        lines = [head, "", f"{'':32}{'dose':>6}" + "".join(f"{_words(name):>22}" for name in names)]
        for row in self.rows:
            cell = row.cell
            what = "left alone" if cell.how == "none" else cell.direction
            dose = {"none": "", "project-out": "out"}.get(cell.how, f"{cell.dose:g}")
            figures = "".join(f"{shown(row.figures[name], 2):>22}" for name in names)
            lines.append(f"{what[:30]:32}{dose:>6}{figures}")
        for title, effects in (("added", self.added), ("projected out", self.ablated)):
            lines += [
                f"{title}: {one.direction} moves the rate by {shown(one.size, 2)}, the "
                f"{len(one.others)} others by {min(one.others):.2f} to {max(one.others):.2f} "
                f"(p = {one.p:.3f})"
                for one in effects
            ]
        return "\n".join([*lines, "", self.verdict])


@dataclass(frozen=True)
class SteeringSetup:
    """A model to push, and the prefixes that it goes on from."""

    model: Model
    trial: Trial
    traces: tuple[Trace, ...]
    """One of each prompt."""

    def asks(self, plan: SteeringPlan) -> list[Ask]:
        """Return the prefixes with the seeds under which each cell goes on from them."""
        found = []
        for trace in self.traces:
            places = prefixes(trace)
            token = places[int(plan.at * (len(places) - 1))][1]
            seeds = seeds_of(plan.seed, trace, "steer", plan.continuations)
            found.append(Ask(trace, branch_of(trace, token, seeds)))
        return found


def steer(
    setup: SteeringSetup,
    tested: Sequence[Direction],
    controls: Sequence[Direction],
    plan: SteeringPlan,
    scale: float,
    cells: Cells,
) -> SteeringReport:
    """Run every cell that has not been run, and say whether the tested directions are causal."""
    every = {one.name: one for one in (*tested, *controls)}
    chosen = list(_cells(tested, controls, plan))
    asks, found = setup.asks(plan), {}
    for cell in tqdm(chosen, unit="condition"):
        edit = _edit(setup.model, every.get(cell.direction), cell, plan, scale)
        read = partial(setup.trial.read, setup.model, asks, edit)
        found[cell] = cells.run(cell.name, read)
    codes = {name: at for at, name in enumerate(sorted({t.task.id for t in setup.traces}))}
    rate = partial(rates, codes=codes, weights=resample(len(codes), seed=plan.seed))
    moves = _Moves(plan, controls, {cell: rate(readouts) for cell, readouts in found.items()})
    added, ablated = (
        tuple(moves.effect(one, how) for one in tested) for how in ("add", "project-out")
    )
    return SteeringReport(
        model=setup.model.name,
        plan=plan,
        scale=scale,
        prefixes=len(setup.traces),
        controls={
            kind: sum(one.kind == kind for one in controls) for kind in ("random", "unrelated")
        },
        rows=tuple(CellFigures(c, rate(its).figures()) for c, its in _pooled(found).items()),
        added=added,
        ablated=ablated,
        verdict=f"{moves.verdict(added[0], tested[0])} {_necessary(ablated[0])}",
    )


def _cells(
    tested: Sequence[Direction], controls: Sequence[Direction], plan: SteeringPlan
) -> Iterator[Cell]:
    """Yield what is run: nothing, then each direction both ways, then without it."""
    yield LEFT_ALONE
    for direction in (*tested, *controls):
        doses = {-plan.dose, plan.dose, *(plan.doses if direction in tested else ())}
        for dose in sorted(doses):
            yield Cell(direction.name, direction.kind, "add", dose)
        yield Cell(direction.name, direction.kind, "project-out", 0.0)


def _edit(
    model: Model, direction: Direction | None, cell: Cell, plan: SteeringPlan, scale: float
) -> Edit:
    if direction is None or cell.how == "none":
        return nullcontext
    change = Steering(plan.layer, direction.vector, cell.how, cell.dose * scale)
    return lambda: steered(model, change)


def _pooled(found: Mapping[Cell, Sequence[Readout]]) -> dict[Cell, list[Readout]]:
    """Return what came of each cell under test, and of all controls of a kind together."""
    pooled: dict[Cell, list[Readout]] = {}
    for cell, readouts in found.items():
        control = cell.kind in ("random", "unrelated")
        shown_as = replace(cell, direction=f"all {cell.kind}") if control else cell
        pooled.setdefault(shown_as, []).extend(readouts)
    return pooled


@dataclass(frozen=True)
class _Moves:
    """What every cell came to: how far each direction moves the rate of instrumental acts."""

    plan: SteeringPlan
    controls: Sequence[Direction]
    rated: Mapping[Cell, Rates]

    def at(self, direction: Direction, how: How, dose: float) -> Rates:
        """Return what became of the continuations under one push."""
        return self.rated[Cell(direction.name, direction.kind, how, dose)]

    @property
    def base(self) -> Rates:
        """Return what became of those that were left alone."""
        return self.rated[LEFT_ALONE]

    def move(self, direction: Direction, how: How) -> Resampled:
        """Return how far a direction moves the instrumental rate, resampled."""
        if how != "add":
            return self.at(direction, how, 0.0).instrumental - self.base.instrumental
        high, low = (self.at(direction, how, dose) for dose in (self.plan.dose, -self.plan.dose))
        return high.instrumental - low.instrumental

    def effect(self, direction: Direction, how: How) -> Effect:
        """Return how far a direction moves it, and how that compares with the controls."""
        own = self.move(direction, how)
        others = tuple(self.move(one, how).estimate for one in self.controls)
        as_far = sum(abs(other) >= abs(own.estimate) for other in others)
        return Effect(direction.name, own.interval(), others, (1 + as_far) / (1 + len(others)))

    def verdict(self, effect: Effect, direction: Direction) -> str:
        """Return in one sentence or two whether the direction is causal here."""
        plan, size = self.plan, effect.size
        low, high = (self.at(direction, "add", dose) for dose in (-plan.dose, plan.dose))
        what = (
            f"along {direction.name} at layer {plan.layer} the instrumental rate goes from "
            f"{low.instrumental.estimate:.2f} at dose {-plan.dose:g} to "
            f"{high.instrumental.estimate:.2f} at dose {plan.dose:g} ({shown(size, 2)})"
        )
        count = len(effect.others)
        as_far = round(effect.p * (1 + count)) - 1
        beside = f"{as_far} of {count} other directions move it as far (p = {effect.p:.3f})"
        if size is None or not size.above(0):
            text = f"Not shown to be causal here: {what}; {beside}."
        elif effect.p > ALPHA:
            text = f"Not specific here: {what}, but {beside}."
        else:
            text = f"Causal here: {what}; {beside}."
        worse = min(low.well_formed.estimate, high.well_formed.estimate)
        lost = self.base.well_formed.estimate - worse
        if lost > COHERENT:
            text += f" The push breaks text: {lost:.0%} fewer continuations are well-formed."
        return text


def _necessary(effect: Effect) -> str:
    """Return in a sentence whether the act needs the direction."""
    size = effect.size
    if size is None or not size.below(0) or effect.p > ALPHA:
        return f"Without the direction the act is not shown to be rarer ({shown(size, 2)})."
    return f"Without the direction the act is rarer ({shown(size, 2)}; p = {effect.p:.3f})."


def _words(name: str) -> str:
    return name.replace("_", " ")
