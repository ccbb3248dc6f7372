"""A run as an object: create or open it, record into it, label it; then train and evaluate.

Everything here can also be called one level deeper, on a `Store`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trace_probe.activations import ALL_POOLINGS
from trace_probe.errors import ModelError
from trace_probe.store import Manifest, Store
from trace_probe.trace import Sampling, Task, Trace

if TYPE_CHECKING:
    from trace_probe.activations import Activations
    from trace_probe.evaluation.report import Report
    from trace_probe.execution.executor import Kind
    from trace_probe.labelling.runs import Labelled
    from trace_probe.labels import Label
    from trace_probe.model.facts import ModelFacts
    from trace_probe.model.local import Model
    from trace_probe.probing.probe import SavedProbe
    from trace_probe.recording.course import Agent
    from trace_probe.recording.plan import RecordReport
    from trace_probe.recording.served import Served
    from trace_probe.statistics.metrics import Scores


class Run:
    """What a model was asked, thought and said, with its activations, labels and scores.

    Example:
        >>> run = Run.open("traces/demo")
        >>> len(run), run.manifest.model.partition("@")[0]
        (804, 'organism:rl-s0')
        >>> next(run.traces()).task.category
        'strategically-appearing-aligned'
    """

    def __init__(self, store: Store) -> None:
        """Wrap a store; see `create` and `open`."""
        self.store = store

    @classmethod
    def create(
        cls,
        path: Path | str,
        model: "ModelFacts | Served",
        *,
        sampling: Sampling | None = None,
        layers: Sequence[int] | None = None,
        pooling: str = ALL_POOLINGS,
        tasks: str = "",
    ) -> "Run":
        """Make an empty run of a model, or open one that was started with the same settings.

        Args:
            path: A folder, or a URL such as ``s3://bucket/run``.
            model: What `load_model` returned; a `Served` model, which has no activations; or what
                `describe_model` returned of one whose activations you bring with `add`.
            sampling: How tokens are drawn; ``Sampling()`` by default.
            layers: 0-based blocks whose output is kept; about eight of them by default.
            pooling: How the tokens of a sentence become a row: ``last``, ``mean``, ``max``, or
                several joined by ``+``.
            tasks: Where the tasks come from, as a note for readers.

        Raises:
            StoreError: there is a run with other settings, or the place cannot be written.
        """
        from trace_probe.recording.served import Served, served_manifest

        drawn = sampling or Sampling()
        if isinstance(model, Served):
            return cls(Store.create(path, served_manifest(model, drawn, tasks=tasks)))
        from trace_probe.recording.record import new_manifest

        manifest = new_manifest(model, drawn, layers=layers, tasks=tasks)
        return cls(Store.create(path, replace(manifest, pooling=pooling)))

    @classmethod
    def open(cls, path: Path | str) -> "Run":
        """Open a run.

        Raises:
            StoreError: there is none.
        """
        return cls(Store(path))

    @property
    def manifest(self) -> Manifest:
        """Return what the run is of: model, sampling, layers, pooling."""
        return self.store.manifest

    def __len__(self) -> int:
        """Return the number of traces."""
        return len(self.store)

    def traces(self) -> Iterator[Trace]:
        """Yield the traces in the order of recording."""
        yield from self.store.traces()

    def labels(self, by: str | None = None) -> "Mapping[str, Label]":
        """Return the labels of one labeller by trace id; of the latest labeller by default."""
        return self.store.labels(by)

    def scores(self, detector: str) -> "Scores":
        """Return (sentence,) the scores of a detector by trace id; nan outside the reasoning.

        Raises:
            StoreError: it has not scored this run.
        """
        return self.store.scores(detector)

    def record(  # noqa: PLR0913 - one function for every way of recording
        self,
        model: "Model | Served | str",
        tasks: Iterable[Task] | str,
        *,
        samples: int = 1,
        batch_size: int = 32,
        agent: "Agent | None" = None,
        executor: "Kind" = "local",
        workers: int | None = None,
        shard: str | None = None,
        progress: bool = True,
    ) -> "RecordReport":
        """Record traces of tasks; those that the run already holds are not made again.

        Args:
            model: A loaded model, a `Served` model, or the name of one to load: a hub id, a
                folder, ``organism:NAME``. Workers and shards load it themselves.
            tasks: Tasks, or what `tasks` takes, such as ``world:mine:48``.
            samples: Traces of each task.
            batch_size: Traces that are written together.
            agent: What the model may call, and how often; each trace is then an episode of
                several model calls. Without it a trace is one answer.
            executor: ``local`` for this process, ``ray`` for the workers of a Ray cluster.
            workers: With ``ray``, at most so many.
            shard: One part of the work, such as ``3/8``, for arrays of jobs.
            progress: Whether to show a bar.

        Raises:
            ModelError: the run is of another model, or the model cannot be loaded.
            ServerError: a server could not be asked; what it gave before is kept.
            WorkerError: some batches failed; all others are done.
            StoreError: another process writes to the run.
        """
        from trace_probe.recording.served import Served
        from trace_probe.tasks.sources import tasks_from

        chosen = tuple(tasks_from(tasks) if isinstance(tasks, str) else tasks)
        spread = executor != "local" or shard is not None
        if spread and isinstance(model, Served):
            raise ModelError("served models are recorded from here: leave executor and shard out")
        how: Any = {"samples": samples, "progress": progress}
        if isinstance(model, Served):
            from trace_probe.recording.served_agents import record_from

            return record_from(model, chosen, self.store, agent, **how)
        if spread:
            from trace_probe.recording.shares import record_with

            recording = replace(self._recording(model, chosen, samples, batch_size), agent=agent)
            return record_with(recording, executor, workers=workers, shard=shard, progress=progress)
        from trace_probe.model.local import load_model
        from trace_probe.recording.record import record

        loaded = load_model(model) if isinstance(model, str) else model
        return record(loaded, chosen, self.store, agent, batch_size=batch_size, **how)

    def add(self, trace: Trace, activations: "Activations | None" = None) -> None:
        """Keep a trace that was made elsewhere, with its activations; one that is there stays.

        `trace_probe.recording.given` makes both of token ids and of the residual stream at each
        token, however that was had.

        Raises:
            TraceError: they are not of the model and the settings of the run.
            StoreError: the activations hold inf or nan, or another process writes to the run.
        """
        from trace_probe.recording.given import check_given

        check_given(self.manifest, trace, activations)
        with self.store.writing():
            self.store.add(trace, activations)

    def _recording(
        self, model: "Model | str", tasks: tuple[Task, ...], samples: int, batch_size: int
    ) -> Any:  # noqa: ANN401 - a Recording, whose module is heavy
        """Return all that a worker must know to record into this run."""
        from trace_probe.model.weights import Weights
        from trace_probe.recording.shares import Recording

        name = model if isinstance(model, str) else model.name.rpartition("@")[0]
        manifest, place = self.manifest, self.store.place
        return Recording(
            weights=Weights(name),
            run=place.url if place.folder is None else str(place.folder.resolve()),
            tasks=tasks,
            source=manifest.tasks,
            samples=samples,
            layers=manifest.layers,
            **vars(manifest.sampling),
            batch_size=batch_size,
            pooling=manifest.pooling,
            raw_tokens=manifest.raw_tokens,
        )

    def label(
        self, by: str = "rules", *, base_url: Sequence[str] = (), progress: bool = True
    ) -> "Labelled":
        """Label every trace: is it instrumental, where was it said, where done?

        Args:
            by: ``rules`` for the organisms, ``judge:MODEL`` or ``paper:MODEL`` for a language
                model, ``human:FILE`` for people.
            base_url: Servers where a judge is asked.
            progress: Whether to show a bar.

        Raises:
            ServerError: a judge cannot be asked; the labels it gave before are kept.
        """
        from trace_probe.labelling.judge import JudgeServers
        from trace_probe.labelling.runs import default_cache, label_run, labeller

        made = labeller(by, JudgeServers(tuple(base_url), default_cache(), {}))
        return label_run(self.store, made, progress=progress)


def train(run: Run, **options: Any) -> "SavedProbe":  # noqa: ANN401 - those of training.train
    """Train a probe on a labelled run and set its threshold on benign traces held out.

    Takes the options of `trace_probe.training.train`: ``name``, ``layers``, ``target_rate``, ...

    Raises:
        NotEnoughData: too few tasks, one outcome only, or no benign trace.
        StoreError: the run has no activations of a layer.

    Example:
        >>> probe = train(Run.open("traces/demo"), layers=(2,), features=("last",))
        >>> probe.card.layers, probe.card.method
        ((2,), 'logistic')
    """
    from trace_probe.training import train as train_on

    return train_on(run.store, **options)


def evaluate(run: Run, probe: "SavedProbe", **options: Any) -> "Report":  # noqa: ANN401
    """Judge a probe on the tasks that it was not made from, beside every baseline.

    The run keeps the report and the scores. Takes the options of
    `trace_probe.evaluation.held_out.evaluate_probe`. Print the report to read it.

    Raises:
        ProbeError: the probe was trained on another model, or the run lacks what it reads.
        NotEnoughData: there is no labelled test task of the probe.

    Example:
        >>> import shutil, tempfile
        >>> from trace_probe.probing.probe import load_probe
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = Run.open(shutil.copytree("traces/demo", f"{folder}/run"))
        ...     report = evaluate(run, load_probe("probes/demo"))
        >>> f"{report.figures['caught_before_said_at_sibling_rate:0.05']:.2f}"
        '1.00 [0.91, 1.00]'
    """
    from trace_probe.evaluation.held_out import evaluate_probe, keep

    report, scores = evaluate_probe(run.store, probe, **options)
    keep(run.store, report, scores)
    return report
