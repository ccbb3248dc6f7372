"""What a detector learns from and is judged on: rows of activations, and a split by task."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from trace_probe.activations import ActivationMatrix
from trace_probe.errors import NotEnoughData, ProbeError
from trace_probe.labels import Label
from trace_probe.probing.features import feature_rows
from trace_probe.probing.recipe import Recipe, Rows, Target
from trace_probe.statistics.bootstrap import Index, Mask
from trace_probe.statistics.metrics import NEVER, UNKNOWN, Cohort, Scores
from trace_probe.store import Store
from trace_probe.trace import Role, Span, Trace
from trace_probe.world.worlds import WORLDS

ACTED = "acted"
"""Fact of a label: whether it is known where the act is; see `sentences_before_act`."""


@dataclass(frozen=True)
class Corpus:
    """Traces, what they are, and what the model held meanwhile."""

    traces: tuple[Trace, ...]
    labels: Mapping[str, Label]
    matrix: ActivationMatrix | None = None
    """Its traces are those of the corpus, in order; None for transcripts without activations."""
    target: Target = "outcome"
    """What the outcome of a label stands for."""

    def outcome(self, trace: Trace) -> bool | None:
        """Return whether a trace is positive, None if that is unknown."""
        label = self.labels.get(trace.id)
        return None if label is None else label.outcome

    def aimed(self, target: Target) -> "Corpus":
        """Return the same traces, positive where another target holds."""
        labels = {
            trace.id: _aimed(trace, label, target)
            for trace in self.traces
            if (label := self.labels.get(trace.id)) is not None
        }
        return replace(self, labels=labels, target=target)

    def judged(self) -> "Corpus":
        """Return the traces among which positives are told from negatives.

        Those of test tasks; all where the target is the situation, which test tasks share.
        """
        if self.target == "situation":
            return self
        return self.where(lambda trace: trace.task.role == "test")

    def with_activations(self, store: Store, layers: Iterable[int] | None = None) -> "Corpus":
        """Return the same traces with their activations of some layers; of all if None."""
        return replace(self, matrix=store.matrix(self.traces, layers))

    def only(self, tasks: Collection[str], *roles: Role) -> "Corpus":
        """Return the traces of some tasks, and of some roles if any is named."""
        wanted = set(tasks)
        return self.where(
            lambda trace: trace.task.id in wanted and (not roles or trace.task.role in roles)
        )

    def where(self, holds: Callable[[Trace], bool]) -> "Corpus":
        """Return the traces for which something holds."""
        keep = [index for index, trace in enumerate(self.traces) if holds(trace)]
        matrix = self.matrix
        if matrix is not None:
            matrix = replace(matrix, start=matrix.start[keep])
        return replace(self, traces=tuple(self.traces[i] for i in keep), matrix=matrix)

    def harmless(self, role: Role) -> "Corpus":
        """Return the traces of a role that are not known to be positive."""
        return self.where(lambda trace: trace.task.role == role and self.outcome(trace) is not True)

    def one_a_task(self) -> "Corpus":
        """Return the first trace of each task."""
        first = {trace.task.id: trace.id for trace in reversed(self.traces)}
        return self.where(lambda trace: first[trace.task.id] == trace.id)

    def known(self) -> tuple[Trace, ...]:
        """Return the traces whose outcome is known."""
        return tuple(trace for trace in self.traces if self.outcome(trace) is not None)

    def folds(self, folds: int = 4, seed: int = 0) -> Iterator[tuple["Corpus", "Corpus"]]:
        """Yield what is learned from and what is held out in a cross-validation over tasks.

        Raises:
            NotEnoughData: there are fewer tasks than folds.
        """
        for known, held in task_folds(self.traces, folds, seed):
            yield self.only(known), self.only(held)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the ids of the tasks, sorted."""
        return tuple(sorted({trace.task.id for trace in self.traces}))

    @cached_property
    def cohort(self) -> Cohort:
        """Return the traces that are told apart, with the moments at which they said and did it."""
        return build_cohort(self.judged())

    @property
    def activations(self) -> ActivationMatrix:
        """Return its activations.

        Raises:
            ProbeError: it has none.
        """
        if self.matrix is None:
            raise ProbeError(
                "these traces have no activations: a probe needs a recorded run, for imported ones "
                "there is the text report"
            )
        return self.matrix


def load_corpus(
    store: Store,
    labeller: str | None = None,
    layers: Iterable[int] | None = None,
    target: Target = "outcome",
    *,
    needed: bool = False,
) -> Corpus:
    """Load the traces of a run with the labels of one labeller and their activations.

    Without activations where no layer was recorded, or none is asked for.

    Raises:
        NotEnoughData: labels are needed, and there are none: see `load_labels`.
    """
    corpus = load_labels(store, labeller, target, needed=needed)
    wanted = store.manifest.layers if layers is None else tuple(layers)
    return corpus.with_activations(store, wanted) if store.manifest.layers and wanted else corpus


def load_labels(
    store: Store, labeller: str | None = None, target: Target = "outcome", *, needed: bool = False
) -> Corpus:
    """Load the traces of a run with the labels of one labeller, without activations.

    Raises:
        NotEnoughData: labels are needed, and the labeller has given none, where others have; or a
            recorded run has none at all.
    """
    traces, labels = tuple(store.traces()), store.labels(labeller)
    there = store.labellers() if needed and labeller and not labels else []
    if there:
        raise NotEnoughData(
            f"{store.path} has no labels by {labeller!r}; there are labels by {', '.join(there)}"
        )
    if needed and store.manifest.layers and not labels:
        known = store.manifest.tasks.partition(":")[0] in WORLDS
        raise NotEnoughData(
            f"{store.path} has no labels{f' of {labeller}' if labeller else ''}: label it with "
            f"`trace-probe label {store.path} --by {'rules' if known else 'judge:MODEL'}`"
            f"{'' if known else ', or in the explorer, sentence by sentence'}"
        )
    return Corpus(traces, labels).aimed(target)


def _aimed(trace: Trace, label: Label, target: Target) -> Label:
    """Return a label whose outcome is another target's; its act stays where it was."""
    outcome = truth(trace, label, target)
    if target == "outcome":
        return replace(label, outcome=outcome)
    unplaced = label.outcome is True and label.acted is None
    return replace(
        label, outcome=outcome, facts={**label.facts, ACTED: "unknown" if unplaced else "known"}
    )


def truth(trace: Trace, label: Label, target: Target) -> bool | None:
    """Return whether a target holds of a trace, None if that is unknown."""
    if target == "situation":
        return trace.task.role != "benign"
    if target == "verbalisation":
        return None if unheard(label) else label.said is not None
    return label.outcome


def unheard(label: Label) -> bool:
    """Return whether nobody looked, or could tell, if and where a trace says it."""
    return label.said is None and label.facts.get("said") == "unknown"


def sentences_before_act(trace: Trace, label: Label) -> list[int]:
    """Return the reasoning sentences that are known to end before the act.

    Where it acted, and nobody knows with which tool call, they are those before the first one.
    """
    unplaced = label.facts.get(ACTED, "unknown" if label.outcome else "known") == "unknown"
    if label.acted is None and unplaced and trace.actions:
        return sentences_before(trace, trace.actions[0].span)
    return sentences_before(trace, label.acted)


def sentences_before(trace: Trace, mark: Span | None, guard_tokens: int = 0) -> list[int]:
    """Return the reasoning sentences that end before a mark; all of them if it is None.

    With a guard band, those that end at least so many tokens before it.
    """
    stop = len(trace) if mark is None else mark.start - guard_tokens
    return [
        index
        for index, span in enumerate(trace.sentences)
        if span.channel == "reasoning" and span.stop <= stop
    ]


def chosen_sentences(
    trace: Trace, label: Label, rows: Rows, guard: int = 0, guard_tokens: int = 0
) -> list[int]:
    """Return the sentences that may be learned from: always strictly before the action.

    -1 stands for the last prompt token. Where nobody knows whether it is said, no sentence is
    known to come before that.
    """
    if rows == "prompt":
        return [-1]
    before = sentences_before_act(trace, label)
    if rows == "before-said" and unheard(label):
        return []
    if rows == "reasoning" or label.said is None:
        return before
    unsaid = set(before) & set(sentences_before(trace, label.said, guard_tokens))
    return before[: max(len(unsaid) - guard, 0)]


def learned_sentences(trace: Trace, label: Label, recipe: Recipe) -> list[int]:
    """Return the sentences of a trace that a recipe learns from."""
    chosen = chosen_sentences(trace, label, recipe.rows, recipe.guard, recipe.guard_tokens)
    return chosen[-1:] if recipe.focus == "last" and label.outcome else chosen


def build_cohort(corpus: Corpus) -> Cohort:
    """Return the traces of known outcome with the moments at which they said and did it."""
    traces = corpus.known()
    marks = [corpus.labels[trace.id] for trace in traces]
    sentences = [
        np.array(sentences_before_act(trace, label), dtype=np.intp)
        for trace, label in zip(traces, marks, strict=True)
    ]
    said = [_said(trace, label) for trace, label in zip(traces, marks, strict=True)]
    return Cohort(
        ids=tuple(trace.id for trace in traces),
        positive=np.array([bool(label.outcome) for label in marks], dtype=bool),
        task=codes([trace.task.id for trace in traces]),
        prompt=codes([trace.task.prompt_key for trace in traces]),
        sentences=tuple(sentences),
        said=np.array(said, dtype=np.intp),
        tokens=tuple(
            np.array([trace.sentences[i].stop for i in chosen], dtype=np.intp) - trace.prompt_stop
            for trace, chosen in zip(traces, sentences, strict=True)
        ),
        calls=_calls(traces, marks, sentences),
    )


def _calls(
    traces: Sequence[Trace], marks: Sequence[Label], sentences: Sequence[Index]
) -> tuple[Index, ...]:
    """Return the model call of each sentence and of the act; nothing without episodes."""
    if not any(trace.calls for trace in traces):
        return ()
    found = []
    for trace, label, chosen in zip(traces, marks, sentences, strict=True):
        places = [trace.sentences[i].start for i in chosen]
        places.append(len(trace) - 1 if label.acted is None else label.acted.start)
        found.append(np.array([trace.call_at(token) for token in places], dtype=np.intp))
    return tuple(found)


def _said(trace: Trace, label: Label) -> int:
    if label.said is None:
        return UNKNOWN if unheard(label) else NEVER
    return len(chosen_sentences(trace, label, "before-said"))


def codes(names: Sequence[str]) -> Index:
    """Return the place of each name among the sorted ones."""
    return np.unique(np.array(names, dtype=str), return_inverse=True)[1].astype(np.intp)


@dataclass(frozen=True)
class Dataset:
    """Rows of the layers and features of a recipe with the outcome of their trace."""

    X: NDArray[np.float32]
    """(row, layers x features x d_model); see `probing.features`."""
    y: NDArray[np.bool_]
    task: NDArray[np.str_]
    prompt: NDArray[np.str_]
    trace: Index
    """Which trace a row belongs to, counted in the traces that were given."""
    sentence: Index
    """Which sentence of its trace; -1 is the last prompt token."""
    stop: Index
    """The token before which a row ends: it holds nothing from there on."""

    @property
    def weight(self) -> NDArray[np.float64]:
        """Return (row,) weights under which every trace counts the same."""
        weight: NDArray[np.float64] = 1.0 / np.bincount(self.trace)[self.trace]
        return weight


def build_dataset(corpus: Corpus, recipe: Recipe) -> Dataset:
    """Join activations and labels of the traces whose outcome is known.

    Raises:
        ProbeError: the traces have no activations of a layer, or not those for a feature.
        NotEnoughData: no trace has a row of that kind.
    """
    parts = list(stream_rows(corpus, recipe))
    if not parts:
        raise NotEnoughData(
            f"no labelled rows of kind {recipe.rows}: label the run, with a labeller that looks "
            f"for where it is said, or use rows of kind reasoning"
        )
    if len(parts) == 1:
        return parts[0]
    columns = [field.name for field in fields(Dataset)]
    return Dataset(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in columns}
    )


def stream_rows(corpus: Corpus, recipe: Recipe, traces: int = 512) -> Iterator[Dataset]:
    """Yield the rows of so many traces at a time; what is not yielded is not held."""
    for first in range(0, len(corpus.traces), traces):
        where = [
            (index, sentence)
            for index, trace in enumerate(corpus.traces[first : first + traces], start=first)
            if corpus.outcome(trace) is not None
            for sentence in learned_sentences(trace, corpus.labels[trace.id], recipe)
        ]
        if where:
            yield _rows(corpus, recipe, *np.array(where, np.intp).T)


def count_rows(corpus: Corpus, recipe: Recipe) -> int:
    """Return how many rows a recipe learns from."""
    known = corpus.known()
    return sum(len(learned_sentences(one, corpus.labels[one.id], recipe)) for one in known)


def _rows(corpus: Corpus, recipe: Recipe, index: Index, sentence: Index) -> Dataset:
    """Return the features of sentences with what is known of their traces."""
    traces = [corpus.traces[i] for i in index]
    stops = [
        trace.prompt_stop if number < 0 else trace.sentences[number].stop
        for trace, number in zip(traces, sentence, strict=True)
    ]
    return Dataset(
        y=np.array([bool(corpus.outcome(trace)) for trace in traces], dtype=bool),
        task=np.array([trace.task.id for trace in traces]),
        prompt=np.array([trace.task.prompt_key for trace in traces]),
        trace=index,
        sentence=sentence,
        stop=np.array(stops, dtype=np.intp),
        X=feature_rows(
            corpus.activations, corpus.traces, recipe.layers, recipe.features, index, sentence
        ),
    )


def stream_thoughts(
    corpus: Corpus, recipe: Recipe, traces: int = 128
) -> Iterator[tuple[tuple[Trace, ...], Mask, NDArray[np.float32]]]:
    """Yield so many traces at a time, which of their sentences are reasoning, and rows of those."""
    for first in range(0, len(corpus.traces), traces):
        some = corpus.traces[first : first + traces]
        spans = [span for trace in some for span in trace.sentences]
        thinking = np.array([span.channel == "reasoning" for span in spans], dtype=bool)
        sizes = [len(trace.sentences) for trace in some]
        index = np.repeat(np.arange(first, first + len(some)), sizes)
        sentence = np.arange(len(spans)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        where = index[thinking], sentence[thinking]
        matrix, of = corpus.activations, corpus.traces
        yield some, thinking, feature_rows(matrix, of, recipe.layers, recipe.features, *where)


@dataclass(frozen=True)
class Split:
    """Tasks to learn from, to set the threshold on, and to be judged on."""

    train: tuple[str, ...]
    calibration: tuple[str, ...]
    """Benign tasks only."""
    test: tuple[str, ...]


def split_tasks(
    task_ids: Iterable[str], test: float = 0.3, seed: int = 0
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return training and test tasks; the same ids and seed give the same split."""
    ids = sorted(set(task_ids))
    shuffled = [ids[i] for i in np.random.default_rng(seed).permutation(len(ids))]
    held = round(test * len(ids))
    return tuple(sorted(shuffled[held:])), tuple(sorted(shuffled[:held]))


def split_benign(task_ids: Iterable[str], seed: int = 0) -> Split:
    """Split benign tasks in three.

    Two fifths are learned from, since a threshold for one alarm in a hundred harmless traces is
    set by their rarest sentences, and a probe has to have met such; 36 % set the threshold; the
    others measure it.
    """
    kept, train = split_tasks(task_ids, 0.4, seed)
    calibration, test = split_tasks(kept, 0.4, seed)
    return Split(train, calibration, test)


def split_by_role(traces: Iterable[Trace], *, test: float = 0.3, seed: int = 0) -> Split:
    """Split test and hard-negative tasks in two and benign tasks in three, as `split_benign`.

    Raises:
        ProbeError: two traces disagree on the role of a task.
    """
    roles: dict[str, Role] = {}
    for trace in traces:
        if roles.setdefault(trace.task.id, trace.task.role) != trace.task.role:
            raise ProbeError(f"task {trace.task.id} has two roles: give each role its own task ids")
    of_role = {
        role: [task for task, its in roles.items() if its == role]
        for role in ("test", "hard-negative", "benign")
    }
    train, held = split_tasks(of_role["test"], test, seed)
    hard_train, hard_held = split_tasks(of_role["hard-negative"], test, seed)
    benign = split_benign(of_role["benign"], seed)
    return Split(
        train + hard_train + benign.train, benign.calibration, held + hard_held + benign.test
    )


def task_folds(
    traces: Iterable[Trace], folds: int = 4, seed: int = 0
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yield (training, held-out) tasks of a cross-validation; each fold has its share of roles.

    Raises:
        NotEnoughData: there are fewer tasks than folds.
    """
    roles = {trace.task.id: trace.task.role for trace in traces}
    if len(roles) < folds:
        raise NotEnoughData(f"{len(roles)} tasks are too few for {folds} folds: record more tasks")
    shuffled = np.random.default_rng(seed).permutation(sorted(roles)).tolist()
    dealt = sorted(shuffled, key=lambda task: roles[task])
    for fold in range(folds):
        held = set(dealt[fold::folds])
        yield tuple(task for task in dealt if task not in held), tuple(sorted(held))


def spread(trace: Trace, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (sentence,) scores from (reasoning sentence,) ones; nan for other sentences."""
    scores = np.full(len(trace.sentences), np.nan)
    scores[trace.thoughts] = values
    return scores


def constant_scores(every: Corpus, value: Callable[[Trace], float]) -> Scores:
    """Return the same score for every reasoning sentence of a trace."""
    return {
        trace.id: spread(trace, np.full(len(trace.thoughts), value(trace)))
        for trace in every.traces
    }
