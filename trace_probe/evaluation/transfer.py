"""Does a probe know the goal, or the kind of task it learned it from?

Probes are trained on one kind of trace and judged on every other: other categories, other
nudges, other runs. No task is learned from and judged on.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from trace_probe.errors import ProbeError
from trace_probe.evaluation.panel import rank, summary
from trace_probe.evaluation.report import Figures, ranked_as
from trace_probe.probing.corpus import Corpus, build_cohort, split_by_role
from trace_probe.probing.fitting import fit_corpus, probe_scores
from trace_probe.probing.probe import LinearProbe, Recipe
from trace_probe.probing.recipe import TARGETS
from trace_probe.statistics.bootstrap import Metric, resample, shown
from trace_probe.statistics.smoothing import MAX, Smoothing
from trace_probe.visible import aligned

NOTHING: Figures = {"within_prompt_auroc": None, "pooled_auroc": None}


@dataclass(frozen=True)
class Transfer:
    """What probes of each kind achieve on each kind."""

    across: str
    """What the kinds are, such as ``category``, ``nudge`` or ``run``."""
    recipe: Recipe
    cells: Mapping[str, Mapping[str, Figures]]
    """By kind that was learned from, then kind that was judged; both AUROCs before it is said."""
    ranked_by: str = MAX.name
    """What was made of scores where traces were ranked at a moment."""

    def __str__(self) -> str:
        """Return a table with a line for each pair of kinds."""
        rows = [["learned from", "judged on", "within prompts", "pooled"]]
        for source, row in self.cells.items():
            for target, found in row.items():
                figures = (shown(found["within_prompt_auroc"]), shown(found["pooled_auroc"]))
                rows.append([source, target, *figures])
        layers = ", ".join(map(str, self.recipe.layers))
        head = (
            f"across {self.across}, layer {layers}: AUROC before it is said, "
            f"ranked by {ranked_as(self.ranked_by)}"
        )
        return "\n".join([head, *aligned(rows)])


def transfer_matrix(
    across: str,
    kinds: Mapping[str, Corpus],
    recipe: Recipe,
    *,
    ranked_by: Smoothing = MAX,
    seed: int = 0,
) -> Transfer:
    """Train on the training tasks of each kind and judge on the held-out tasks of every kind.

    A task is held out from all kinds or from none. Traces are ranked as a report on a probe
    ranks them, as its card says. Figures are None where the traces of a kind have one
    outcome.

    Raises:
        ProbeError: the kinds were recorded at different widths.
    """
    widths = {c.matrix.values.shape[2] for c in kinds.values() if c.matrix is not None}
    if len(widths) > 1:
        raise ProbeError(
            f"activations of widths {sorted(widths)}: a probe of one model cannot read another "
            f"of a different width"
        )
    split = split_by_role([t for corpus in kinds.values() for t in corpus.traces], seed=seed)
    cells = {}
    for source, corpus in kinds.items():
        probe = _fit(corpus.only(split.train), recipe)
        cells[source] = {
            target: judge(
                probe, other.only(split.test).judged(), recipe, ranked_by=ranked_by, seed=seed
            )
            for target, other in kinds.items()
        }
    return Transfer(across, recipe, cells, ranked_by.name)


def leave_one_category_out(
    corpus: Corpus, recipe: Recipe, *, ranked_by: Smoothing = MAX, seed: int = 0
) -> Transfer:
    """Judge each category by a probe that learned from all others.

    Layer, strength and the way of ranking are given, and may have been chosen on all categories.
    """
    benign = set(corpus.only(corpus.tasks, "benign").tasks)
    kept_out = benign - set(split_by_role(corpus.traces, seed=seed).train)
    rest = corpus.where(lambda trace: trace.task.id not in kept_out)
    cells = {}
    for category in sorted({t.task.category for t in corpus.traces if t.task.role == "test"}):
        own = {trace.task.id for trace in corpus.traces if trace.task.category == category}
        left, others = corpus.only(own, "test"), rest.only(set(rest.tasks) - own)
        found = judge(_fit(others, recipe), left, recipe, ranked_by=ranked_by, seed=seed)
        cells[f"all but {category}"] = {category: found}
    return Transfer("category", recipe, cells, ranked_by.name)


def by_target(corpus: Corpus) -> dict[str, Corpus]:
    """Return the same traces for each target: is it the act that a probe knows, or its prompt?"""
    return {target: corpus.aimed(target) for target in TARGETS}


def by_condition(corpus: Corpus, fact: str) -> dict[str, Corpus]:
    """Return the traces under each level of a condition; harmless ones go to all levels."""
    levels = sorted(
        {
            trace.task.condition[fact]
            for trace in corpus.traces
            if trace.task.role == "test" and fact in trace.task.condition
        }
    )
    return {level: _at_level(corpus, fact, level) for level in levels}


def _at_level(corpus: Corpus, fact: str, level: str) -> Corpus:
    return corpus.where(lambda t: t.task.role != "test" or t.task.condition.get(fact) == level)


def _fit(corpus: Corpus, recipe: Recipe) -> LinearProbe | None:
    """Return a probe, or None where there is one outcome only."""
    outcomes = {one.outcome for one in corpus.known}
    return fit_corpus(corpus, recipe) if len(outcomes) == 2 else None


def judge(
    probe: LinearProbe | None,
    corpus: Corpus,
    recipe: Recipe,
    *,
    ranked_by: Smoothing = MAX,
    seed: int = 0,
) -> dict[str, Metric | None]:
    """Return how a probe ranks the traces of a corpus before it is said."""
    cohort = build_cohort(corpus)
    if probe is None or not cohort.ids:
        return dict(NOTHING)
    scores = ranked_by.apply(probe_scores(probe, corpus, recipe))
    weights = resample(cohort.n_tasks, seed=seed)
    return summary(rank(cohort, cohort.held(scores), cohort.before_said(), weights, seed=seed))
