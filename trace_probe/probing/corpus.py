"""The traces that a detector learns from and is judged on, what is known of them, and their split.

Everything here is of traces, labels and tasks; `probing.features` makes rows of them.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trace_probe.activations import ActivationMatrix
from trace_probe.errors import NotEnoughData, ProbeError
from trace_probe.labels import Label
from trace_probe.probing.recipe import Target
from trace_probe.statistics.bootstrap import Index
from trace_probe.statistics.metrics import NEVER, UNKNOWN, Cohort, Scores
from trace_probe.store import Store
from trace_probe.trace import Role, Span, Trace
from trace_probe.world.worlds import WORLDS


@dataclass(frozen=True)
class Known:
    """A trace of known outcome, with the reasoning sentences that come before its moments."""

    place: int
    """Which trace of its corpus it is."""
    trace: Trace
    label: Label
    outcome: bool
    """Whether the target of the corpus holds of it."""
    before_act: list[int]
    before_said: list[int]
    """Those of them that end before it is said, too; none where nobody knows whether it is."""

    @classmethod
    def of(cls, place: int, trace: Trace, label: Label, outcome: bool) -> "Known":
        """Return what a label says of a trace."""
        before = sentences_before_act(trace, label)
        unsaid = set(sentences_before(trace, label.said)) if not unheard(label) else set[int]()
        return cls(place, trace, label, outcome, before, [one for one in before if one in unsaid])


@dataclass(frozen=True)
class Corpus:
    """Traces, what they are, and what the model held meanwhile."""

    traces: tuple[Trace, ...]
    labels: Mapping[str, Label]
    matrix: ActivationMatrix | None = None
    """Its traces are those of the corpus, in order; None for transcripts without activations."""
    target: Target = "outcome"
    """What makes a trace positive."""

    def outcome(self, trace: Trace) -> bool | None:
        """Return whether a trace is positive, None if that is unknown."""
        label = self.labels.get(trace.id)
        return None if label is None else truth(trace, label, self.target)

    def aimed(self, target: Target) -> "Corpus":
        """Return the same traces, positive where another target holds."""
        return replace(self, target=target)

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

    @property
    def benign_sample(self) -> "Corpus":
        """Return the first benign trace of each task that is not known to be positive.

        On them thresholds are set: those of a task are too much alike to count one by one.
        """
        benign = self.harmless("benign")
        first = {trace.task.id: trace.id for trace in reversed(benign.traces)}
        return benign.where(lambda trace: first[trace.task.id] == trace.id)

    def folds(self, folds: int = 4, seed: int = 0) -> tuple[tuple["Corpus", "Corpus"], ...]:
        """Return what is learned from and what is held out in a cross-validation over tasks.

        Raises:
            NotEnoughData: there are fewer tasks than folds.
        """
        return tuple(
            (self.only(known), self.only(held))
            for known, held in task_folds(self.traces, folds, seed)
        )

    def parts(self, split: "Split") -> tuple["Corpus", "Corpus"]:
        """Return what is learned from, and the harmless traces that the threshold is set on.

        Raises:
            NotEnoughData: there is no harmless trace.
        """
        calm = self.only(split.calibration).benign_sample
        if not calm.traces:
            raise NotEnoughData(
                "no harmless traces to calibrate on: record tasks of role `benign` into this run, "
                "and train again"
            )
        return self.only(split.train), calm

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the ids of the tasks, sorted."""
        return tuple(sorted({trace.task.id for trace in self.traces}))

    @cached_property
    def known(self) -> tuple[Known, ...]:
        """Return the traces whose outcome is known, in order."""
        return tuple(
            Known.of(place, trace, self.labels[trace.id], outcome)
            for place, trace in enumerate(self.traces)
            if (outcome := self.outcome(trace)) is not None
        )

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
                "these traces have no activations: a probe needs a recorded run, or one that a "
                "model has read (`trace-probe observe`); for other ones there is the text report"
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
    corpus = Corpus(traces, labels, target=target)
    wanted = store.manifest.layers if layers is None else tuple(layers)
    return corpus.with_activations(store, wanted) if store.manifest.layers and wanted else corpus


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
    if label.outcome and label.acted is None and trace.actions:
        return sentences_before(trace, trace.actions[0].span)
    return sentences_before(trace, label.acted)


def sentences_before(trace: Trace, mark: Span | None) -> list[int]:
    """Return the reasoning sentences that end before a mark; all of them if it is None."""
    stop = len(trace) if mark is None else mark.start
    return [
        index
        for index, span in enumerate(trace.sentences)
        if span.channel == "reasoning" and span.stop <= stop
    ]


def build_cohort(corpus: Corpus) -> Cohort:
    """Return the traces of known outcome with the moments at which they said and did it."""
    known = corpus.known
    return Cohort(
        ids=tuple(one.trace.id for one in known),
        positive=np.array([one.outcome for one in known], dtype=bool),
        task=codes([one.trace.task.id for one in known]),
        prompt=codes([one.trace.task.prompt_key for one in known]),
        sentences=tuple(np.array(one.before_act, dtype=np.intp) for one in known),
        said=np.array([_said(one) for one in known], dtype=np.intp),
        tokens=tuple(
            np.array([one.trace.sentences[i].stop for i in one.before_act], dtype=np.intp)
            - one.trace.prompt_stop
            for one in known
        ),
        calls=_calls(known),
    )


def _calls(known: Sequence[Known]) -> tuple[Index, ...]:
    """Return the model call of each sentence and of the act; nothing without episodes."""
    if not any(one.trace.calls for one in known):
        return ()
    found = []
    for one in known:
        places = [one.trace.sentences[i].start for i in one.before_act]
        acted = one.label.acted
        places.append(len(one.trace) - 1 if acted is None else acted.start)
        found.append(np.array([one.trace.call_at(token) for token in places], dtype=np.intp))
    return tuple(found)


def _said(one: Known) -> int:
    if one.label.said is None:
        return UNKNOWN if unheard(one.label) else NEVER
    return len(one.before_said)


def codes(names: Sequence[str]) -> Index:
    """Return the place of each name among the sorted ones."""
    return np.unique(np.array(names, dtype=str), return_inverse=True)[1].astype(np.intp)


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


def split_by_role(traces: Iterable[Trace], *, seed: int = 0) -> Split:
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
    train, held = split_tasks(of_role["test"], seed=seed)
    hard_train, hard_held = split_tasks(of_role["hard-negative"], seed=seed)
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


def spread(trace: Trace, values: ArrayLike) -> NDArray[np.float64]:
    """Return (sentence,) scores from those of the reasoning, one or all; nan for the others."""
    scores = np.full(len(trace.sentences), np.nan)
    scores[trace.thoughts] = values
    return scores


def thought_scores(every: Corpus, value: Callable[[Trace], ArrayLike]) -> Scores:
    """Return the scores of reasoning sentences: of each trace one for all, or one for each."""
    return {trace.id: spread(trace, value(trace)) for trace in every.traces}
