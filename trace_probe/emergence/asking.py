"""An oracle for a run: of the run's own model, here or on servers or on many machines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tqdm import tqdm

from trace_probe.emergence.continuers import Continuer, LocalContinuer, ServedContinuer
from trace_probe.emergence.curve import NAME, Drawn
from trace_probe.emergence.ledger import Ledger
from trace_probe.emergence.oracle import Draw, OraclePlan, Say, ask, draw_all, wanted
from trace_probe.errors import ModelError, NotEnoughData, ServerError
from trace_probe.execution.executor import Executor, LocalExecutor, values
from trace_probe.labelling.judge import JudgeServers
from trace_probe.labelling.runs import labeller
from trace_probe.labels import Labeller
from trace_probe.model.bridge import load_weights
from trace_probe.model.local import Model
from trace_probe.model.weights import Weights
from trace_probe.recording.course import Agent
from trace_probe.recording.served import Served
from trace_probe.store import Store
from trace_probe.tasks.environments import environment_from
from trace_probe.trace import Trace

CHUNK = 16
"""Traces that a worker of an executor sees through before it reports."""


@dataclass(frozen=True)
class Source:
    """Whom an oracle asks, as plain values that travel to workers."""

    weights: Weights
    """Ignored where the model is served."""
    by: str = "rules"
    """The labeller, as for `label`."""
    where: JudgeServers | None = None
    """Where a judge is asked."""
    served: Served | None = None
    tools: str | None = None
    """The environment of agents, as for `record`; None means the one that their tasks name."""
    max_calls: int | None = None
    """Most model calls of an episode, as of `Agent`."""

    def continuer(self) -> Continuer:
        """Return what goes on from a prefix; a model is loaded once a process."""
        if self.served is not None:
            return ServedContinuer(self.served)
        return LocalContinuer(_loaded(self.weights))

    def labeller(self) -> Labeller:
        """Return what finds outcomes."""
        return labeller(self.by, self.where)

    def draw(self, traces: Sequence[Trace], seed: int) -> Draw:
        """Return what draws continuations of traces.

        What is wrong with the labeller or the tools is said before a model is loaded.
        """
        judge, given = self.labeller(), None
        if self.tools is not None:
            given = environment_from(self.tools).environment
        agent, continuer = Agent(given, max_calls=self.max_calls), self.continuer()
        acting = any(trace.calls for trace in traces)
        return Draw(continuer, judge, seed, agent if acting else None)


@lru_cache(maxsize=1)
def _loaded(weights: Weights) -> Model:
    return load_weights(weights)


@dataclass(frozen=True)
class Worker:
    """Sees the traces of an item through to the last bisection."""

    source: Source
    plan: OraclePlan

    def __call__(self, item: tuple[Sequence[Trace], dict[str, list[Drawn]]]) -> list[Drawn]:
        """Return what was drawn of some traces beyond what had been."""
        traces, drawn = item
        draw = self.source.draw(traces, self.plan.seed)
        return [one for batch in draw_all(draw, traces, drawn, self.plan) for one in batch]


def ask_run(  # noqa: PLR0913 - these are the options of the command
    store: Store,
    source: Source,
    traces: Sequence[Trace],
    plan: OraclePlan,
    *,
    executor: Executor | None = None,
    name: str = NAME,
    say: Say = lambda _: None,
    progress: bool = True,
) -> int:
    """Ask an oracle about traces of a run; return how many of its continuations are new.

    What was drawn before under the same name and settings is not drawn again.

    Raises:
        NotEnoughData: there is no trace to ask about.
        ModelError: the run is of another model or tokenizer, so that continuations would not be
            its own.
        StoreError: another process writes to the run, or the oracle has other settings.
        ServerError: continuations could not be had; all others are kept.
    """
    if not traces:
        raise NotEnoughData(
            f"{store.path} has no trace to ask about: of those that the probe has not seen, none "
            f"of a test task is labelled; `trace-probe label {store.path}`"
        )
    executor = executor or LocalExecutor()
    with store.writing():
        ledger = Ledger(store.artifacts, name, _settings(store, source, plan))
        before = len(ledger.drawn)
        if isinstance(executor, LocalExecutor):
            draw = source.draw(traces, plan.seed)
            _check(store, draw.continuer)
            ask(draw, ledger, traces, plan, say, progress=progress)
        else:
            items = list(_items(ledger, traces, plan))
            done = values(executor.run(Worker, (source, plan), items))
            for drawn in tqdm(
                done, total=len(items), unit="chunk", smoothing=0, disable=not progress
            ):
                ledger.add(drawn)
        missing = sum(len(job.draws) for job in wanted(traces, ledger.of(traces), plan))
        if missing:
            raise ServerError(
                f"{missing} continuations or more could not be had or labelled: "
                f"run the same command again to get them"
            )
        return len(ledger.drawn) - before


def _items(
    ledger: Ledger, traces: Sequence[Trace], plan: OraclePlan
) -> Iterator[tuple[list[Trace], dict[str, list[Drawn]]]]:
    """Yield the traces that are not done, in chunks, with what was drawn of them."""
    drawn = ledger.of(traces)
    open_ = [trace for trace in traces if wanted([trace], drawn, plan)]
    for start in range(0, len(open_), CHUNK):
        chunk = open_[start : start + CHUNK]
        yield chunk, {trace.id: drawn[trace.id] for trace in chunk}


def _settings(store: Store, source: Source, plan: OraclePlan) -> dict[str, object]:
    """Return what continuations must share to be counted together; more of them may be drawn."""
    return {"model": store.manifest.model, "labeller": source.labeller().name, "seed": plan.seed}


def _check(store: Store, continuer: Continuer) -> None:
    """Refuse a model that did not write the run."""
    manifest = store.manifest
    if (continuer.name, continuer.tokenizer) != (manifest.model, manifest.tokenizer):
        raise ModelError(
            f"{store.path} was written by {manifest.model}, and {continuer.name} would go on "
            f"from it: an oracle needs the model, revision and tokenizer that wrote the traces. "
            f"Name them with --model and --revision; a server can continue only what a server wrote"
        )
