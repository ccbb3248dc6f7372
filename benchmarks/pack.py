"""Whether a threshold that is set on half of the pack keeps its promise on the other half.

``python -m benchmarks.pack --labelled traces/real --folder build/pack``

The pretrained small model reads the labelled thoughts of another model (`observe`); a linear probe
is trained on what it holds of them. Then it writes its own answers to the pack, as a thought: its
chat template is given an open ``<think>``. Thresholds are set on the benign tasks of half of the
groups (a task, or a twin with its partner), and counted on the other half.

Random halves of the same traces are exchangeable, so they test how a threshold is made. Whether
the promise travels is said by the other rows: one category is counted, the five others set the
threshold; and the hard-negative tasks, for which nothing is promised.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.command import Say, run
from benchmarks.false_alarms import noisy_range, plain_range
from trace_probe.errors import ModelError
from trace_probe.model.checkpoint import locate
from trace_probe.model.local import Model, load_model
from trace_probe.probing.corpus import load_corpus, split_tasks
from trace_probe.probing.fitting import fit_corpus, probe_scores
from trace_probe.probing.recipe import Recipe
from trace_probe.probing.sweep import Grid, choose_cell
from trace_probe.recording.observe import observe, observer_manifest
from trace_probe.recording.record import new_manifest, plan_traces, record
from trace_probe.statistics.bootstrap import wilson
from trace_probe.statistics.calibration import Guarantee, Threshold, guaranteed_threshold
from trace_probe.statistics.metrics import auroc, trace_maxima
from trace_probe.store import Store
from trace_probe.tasks.pack import partners
from trace_probe.tasks.sources import tasks_from
from trace_probe.trace import Role, Sampling, Trace

Peaks = NDArray[np.floating[Any]]
WRITES = "<|im_start|>assistant\n' }}{% endif %}"
"""How the chat template of the model ends."""
GUARANTEES: tuple[Guarantee, ...] = ("conformal", "pac")
ROLES: tuple[Role, ...] = ("benign", "hard-negative")


@dataclass(frozen=True)
class PackPlan:
    """What is read, written and counted."""

    labelled: str = "traces/real"
    """A run of labelled thoughts that the model reads, such as an import."""
    observed: str = ""
    """A run that `observe` made of it with the same model; by default it is made in the folder."""
    folder: str = "build/pack"
    model: str = "smollm2"
    organism: str = "organism:rl-s0"
    layers: tuple[int, ...] = (6, 16, 22)
    max_new_tokens: int = 96
    batch_size: int = 43
    rates: tuple[float, ...] = (0.05, 0.1, 0.2)
    splits: int = 20


@dataclass(frozen=True)
class Half:
    """One threshold, and what it came to on the other half."""

    promise: float
    guarantee: Guarantee
    calibration: int
    alarms: int
    traces: int
    interval: tuple[float, float]
    hard: tuple[int, int]
    """Alarms and traces of the hard-negative tasks of the same half."""
    rates: tuple[float, ...]
    """What is realised in each of the random splits."""
    above: int
    """Splits that have more alarms than chance explains (97.5 %) where the promise holds."""


@dataclass(frozen=True)
class Left:
    """A category whose benign traces met a threshold that the other five had set."""

    category: str
    promise: float
    alarms: int
    traces: int
    most: int
    """The most alarms that chance explains (97.5 %) where the promise holds."""


@dataclass(frozen=True)
class PackFigures:
    """What came out."""

    probe: str
    auroc: float
    halves: tuple[Half, ...]
    left: tuple[Left, ...]
    refusal: str


def measure(plan: PackPlan, say: Say) -> PackFigures:
    """Set thresholds on a part of the pack and count alarms on the rest of it."""
    root = Path(plan.folder)
    model = load_model(str(thinking_copy(plan.model, root / "model")))
    observed, pack = _observed(plan, model, root, say), _recorded(plan, model, root, say)
    corpus = load_corpus(observed)
    learned, held = split_tasks(corpus.tasks)
    recipe, _ = choose_cell(corpus.only(learned), Grid(rows="reasoning"), progress=say)
    probe = fit_corpus(corpus.only(learned), recipe)
    tested = corpus.only(held).judged()
    ids = [trace.id for trace in tested.traces]
    told = trace_maxima(probe_scores(probe, tested, recipe), ids)
    outcome = np.array([tested.outcome(trace) is True for trace in tested.traces], dtype=bool)
    own = load_corpus(pack, layers=recipe.layers)
    traces = own.traces
    peaks = trace_maxima(probe_scores(probe, own, recipe), [trace.id for trace in traces])
    return PackFigures(
        f"{_words(recipe)} of {observed.manifest.model}, trained on "
        f"{len(corpus.only(learned).traces)} labelled thoughts of {len(learned)} tasks",
        auroc(told, outcome),
        tuple(
            count_halves(traces, peaks, rate, guarantee, plan.splits)
            for rate in plan.rates
            for guarantee in GUARANTEES
        ),
        tuple(count_left(traces, peaks, plan.rates[0])),
        refusal(plan.organism),
    )


def _words(recipe: Recipe) -> str:
    layers = ", ".join(map(str, recipe.layers))
    return f"{recipe.method} probe, layer {layers}, {' + '.join(recipe.features)}, C {recipe.C:g},"


def thinking_copy(model: str, out: Path) -> Path:
    """Return a copy of a model whose chat template opens a thought for all that it writes.

    Raises:
        ModelError: its template ends otherwise.
    """
    source = Path(locate(model))
    template = (source / "chat_template.jinja").read_text("utf-8")
    if not template.endswith(WRITES):
        raise ModelError(f"the chat template of {model} ends otherwise: take smollm2")
    if not (out / "chat_template.jinja").is_file():
        shutil.copytree(source, out, dirs_exist_ok=True)
    opened = template.removesuffix(WRITES) + WRITES.replace("\n", "\n<think>\n")
    (out / "chat_template.jinja").write_text(opened, "utf-8")
    return out


def _observed(plan: PackPlan, model: Model, root: Path, say: Say) -> Store:
    if plan.observed:
        return Store(plan.observed)
    labelled = Store(plan.labelled)
    say(f"{model.name} reads {plan.labelled}")
    out = Store.create(root / "observed", observer_manifest(model, labelled, plan.layers))
    observe(model, labelled, out)
    return out


def _recorded(plan: PackPlan, model: Model, root: Path, say: Say) -> Store:
    """Record the pack as the model's authors advise to sample from it."""
    sampling = Sampling(temperature=0.2, top_p=0.9, max_new_tokens=plan.max_new_tokens)
    manifest = new_manifest(model, sampling, layers=plan.layers, tasks="pack")
    store = Store.create(root / "run", manifest)
    say(f"{model.name} writes to the pack")
    record(model, tasks_from("pack"), store, batch_size=plan.batch_size)
    return store


def refusal(organism: str) -> str:
    """Return why an organism does not record the pack; empty if it would."""
    model = load_model(organism)
    try:
        plan_traces(model, tasks_from("pack"), new_manifest(model, Sampling()), 1)
    except ModelError as error:
        return str(error)
    return ""


def groups_of(traces: Sequence[Trace]) -> list[str]:
    """Return by trace what stays together: a task, or a twin and its authorised partner."""
    pairs = partners()
    return [min(trace.task.id, pairs.get(trace.task.id, trace.task.id)) for trace in traces]


def count_halves(
    traces: Sequence[Trace], peaks: Peaks, rate: float, guarantee: Guarantee, splits: int
) -> Half:
    """Return what a threshold of each of several random halves came to on the other half."""
    groups, role = groups_of(traces), np.array([trace.task.role for trace in traces])
    found: list[tuple[Threshold, tuple[int, int], tuple[int, int]]] = []
    for seed in range(splits):
        first = set(split_tasks(groups, 0.5, seed)[0])
        sets = np.array([group in first for group in groups], dtype=bool)
        limit = guaranteed_threshold(peaks[sets & (role == "benign")], rate, guarantee)
        benign, hard = (_alarms(peaks[~sets & (role == one)], limit.value) for one in ROLES)
        found.append((limit, benign, hard))
    limit, (alarms, n), hard = found[0]
    share = wilson(alarms / n, n, n=n)
    exact = guarantee == "pac"
    above = sum(
        some > (plain_range(of, rate) if exact else noisy_range(of, one.guaranteed_rate, one.n))[1]
        for one, (some, of), _ in found
    )
    realised = tuple(some / of for _, (some, of), _ in found)
    interval = share.lower, share.upper
    return Half(
        limit.guaranteed_rate, guarantee, limit.n, alarms, n, interval, hard, realised, above
    )


def count_left(traces: Sequence[Trace], peaks: Peaks, rate: float) -> list[Left]:
    """Return what happens to each category where the five others set the threshold."""
    benign = np.array([trace.task.role == "benign" for trace in traces], dtype=bool)
    category = np.array([trace.task.category for trace in traces])
    rows = []
    for name in dict.fromkeys(category.tolist()):
        limit = guaranteed_threshold(peaks[benign & (category != name)], rate, "conformal")
        alarms, n = _alarms(peaks[benign & (category == name)], limit.value)
        most = noisy_range(n, limit.guaranteed_rate, limit.n)[1]
        rows.append(Left(name, limit.guaranteed_rate, alarms, n, most))
    return rows


def _alarms(peaks: Peaks, threshold: float) -> tuple[int, int]:
    return int((peaks >= threshold).sum()), len(peaks)


def text(found: PackFigures) -> str:
    """Return the figures as tables."""
    lines = [
        found.probe,
        f"tells instrumental thoughts of held-out tasks from others: AUROC {found.auroc:.3f}",
        "",
        f"{'promise':18}{'set on':8}{'realised on the other half':38}{'hard negatives':16}"
        f"{'random halves':36}more than chance explains",
    ]
    for one in found.halves:
        low, high = one.interval
        share = (
            f"{one.alarms} of {one.traces}: {one.alarms / one.traces:.1%} [{low:.1%}, {high:.1%}]"
        )
        spread = (
            f"{np.mean(one.rates):.1%} on average, {min(one.rates):.1%} to {max(one.rates):.1%}"
        )
        lines.append(
            f"{f'{one.promise:.1%} {one.guarantee}':18}{one.calibration:<8}{share:38}"
            f"{f'{one.hard[0]} of {one.hard[1]}':16}{spread:36}{one.above} of {len(one.rates)}"
        )
    lines += ["", f"{'left out':34}{'promise':9}{'alarms':10}at most by chance"]
    lines += [
        f"{one.category:34}{one.promise:<9.1%}{f'{one.alarms} of {one.traces}':10}{one.most}"
        for one in found.left
    ]
    return "\n".join([*lines, "", f"an organism: {found.refusal or 'NOT REFUSED'}"])


if __name__ == "__main__":
    run(PackPlan, measure, text)
