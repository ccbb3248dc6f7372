"""Commands that ask where the act emerges, and whether a direction is part of the cause."""

from pathlib import Path
from typing import Annotated, Literal

import typer

import trace_probe as tp
from trace_probe.commands import options
from trace_probe.commands.documented import Commands, Told
from trace_probe.commands.elsewhere import served_model
from trace_probe.commands.model_options import Loading
from trace_probe.commands.options import numbers, say
from trace_probe.errors import StoreError
from trace_probe.model.naming import without_version

emergence = Commands()


@emergence.command()
def oracle(
    run: Path,
    *,
    model: str | None = None,
    by: str | None = None,
    continuations: Annotated[int, typer.Option(min=2)] = 20,
    bisections: Annotated[int, typer.Option(min=0)] = 5,
    every_sentence: bool = False,
    acting_call: bool = False,
    traces: options.Limit = None,
    probe: Path | None = None,
    caught: bool = False,
    estimate: bool = False,
    name: str = "oracle",
    executor: options.Executor = "local",
    workers: options.Limit = None,
    base_url: list[str] | None = None,
    extra: str | None = None,
    tokenizer: str | None = None,
    tools: str | None = None,
    max_calls: options.Limit = None,
    seed: int = 0,
    loading: Loading,
) -> Told:
    """Measure P(instrumental | prefix) along the traces of a run by resampling; rerun to resume.

    The run's own model continues several times from the recorded token ids at the end of a
    sentence, and the outcomes are counted. No monitor can know more at that point. Agents continue
    to the end of their episode, from sentences and from the start of each model call. Sentences
    after the act are skipped.

    Args:
        model: Where the run's own model is. Default: found by its name.
        continuations: Continuations of each prefix.
        bisections: Prefixes to ask beyond the first 7.
        every_sentence: Ask after each sentence.
        acting_call: Of agents' runs: ask at the prompt, at the end of each model call before the
            one that acts, and after each sentence of that call.
        traces: The most traces to take.
        probe: Only traces of tasks that this probe has not seen.
        caught: Only traces that act, and that this probe alarms on before it shows.
        estimate: Only estimate how long it would take.
        name: Name of the oracle, where a run has several.
        tools: Of agents' runs: the environment, as in `record`.
    """
    from trace_probe.emergence import oracle as asked
    from trace_probe.emergence.asking import Source, ask_run
    from trace_probe.emergence.curve import drawn_of
    from trace_probe.emergence.onset import summarise
    from trace_probe.execution.executor import executor_named
    from trace_probe.labelling.judge import JudgeServers
    from trace_probe.labelling.runs import default_cache

    if every_sentence and acting_call:
        raise typer.BadParameter("--every-sentence and --acting-call exclude each other")
    store = tp.Store(run)
    labels = store.labels()
    chosen = _chosen(store, probe, traces, caught=caught)
    acts = asked.acts_of(labels)
    plan = asked.OraclePlan(continuations, bisections, every_sentence, acting_call, seed, acts)
    expected = asked.estimate(chosen, plan)
    text = (
        f"{expected.traces} traces: at most {expected.continuations} continuations, "
        f"about {expected.tokens} tokens"
    )
    if estimate:
        return Told(expected, text)
    say(text)
    recorded_as = store.manifest.model.removesuffix("@served")
    source = Source(
        weights=loading.weights(model or without_version(store.manifest.model)),
        by=by or next(iter(store.labellers()[-1:]), "rules"),
        where=JudgeServers((), default_cache(), {}),
        served=served_model(recorded_as, base_url, extra, tokenizer) if base_url else None,
        tools=tools,
        max_calls=max_calls,
    )
    how = executor_named(executor, workers)
    new = ask_run(store, source, chosen, plan, executor=how, name=name, say=say)
    say(f"{new} continuations drawn")
    return Told(summarise(chosen, labels, drawn_of(store, name)))


def _chosen(
    store: tp.Store, probe: Path | None, limit: int | None, *, caught: bool
) -> list[tp.Trace]:
    """Return the traces to ask an oracle about."""
    from trace_probe.emergence import oracle as asked
    from trace_probe.training import score_run

    labels = store.labels()
    if probe is None:
        if caught:
            raise typer.BadParameter("--caught needs --probe: whose alarms?")
        return asked.choose(list(store.traces()), labels, limit)
    card = tp.load_probe(probe).card
    if not caught:
        seen = set(card.training_tasks)
        return asked.choose([t for t in store.traces() if t.task.id not in seen], labels, limit)
    detector = tp.load_detector(probe, decoding=store.manifest.sampling)
    unseen = card.unseen(store.traces())
    found = asked.caught(unseen, labels, detector, score_run(store, detector.saved))
    return [trace for trace in unseen if trace.id in found][:limit]


@emergence.command()
def efficiency(
    run: Path,
    probe: Path,
    *,
    beside: list[str] | None = None,
    sibling_rate: Annotated[float, typer.Option(min=0.0, max=1.0)] = 0.05,
    name: str = "oracle",
    seed: int = 0,
) -> Told:
    """Compare a probe and the text with the oracle: how much of the possible warning each gives.

    After `evaluate` and `oracle`; on tasks that the probe has not seen.

    Args:
        beside: Detector whose scores are kept in the run; repeat it.
        sibling_rate: Share of harmless traces of the same prompts that may alarm.
        name: Name of the oracle, where a run has several.
    """
    from trace_probe.emergence.curve import drawn_of
    from trace_probe.emergence.efficiency import efficiency as compare

    store, card = tp.Store(run), tp.load_probe(probe).card
    wanted = (card.name, *(beside or ("prompt-only", "tfidf", "tfidf-with-prompt")))
    missing = [one for one in wanted if one not in store.artifacts.names("scores")]
    if missing:
        raise StoreError(
            f"{run} has no scores of {', '.join(missing)}: run `trace-probe evaluate {run} {probe}`"
        )
    found = compare(
        card.unseen(store.traces()),
        store.labels(card.labeller),
        drawn_of(store, name),
        {detector: store.scores(detector) for detector in wanted},
        card=card,
        sibling_rate=sibling_rate,
        seed=seed,
    )
    return Told(found)


@emergence.command()
def standing(pairs: list[Path], name: str = "oracle", seed: int = 0) -> Told:
    """Show several probes in one table, beside the best text baseline and the oracle.

    After `evaluate`, and `oracle` where there is one.

    Args:
        pairs: RUN PROBE, RUN PROBE, ...
        name: Name of the oracle, where a run has several.
    """
    from trace_probe.emergence.standing import format_standings
    from trace_probe.emergence.standing import standing as stands

    if len(pairs) % 2:
        raise typer.BadParameter("a run and its probe, in turns")
    found = [
        stands(tp.Store(run), tp.load_probe(probe).card, name=name, seed=seed)
        for run, probe in zip(pairs[::2], pairs[1::2], strict=True)
    ]
    return Told({"standings": found}, format_standings(found))


@emergence.command()
def steer(
    run: Path,
    probe: Path,
    *,
    model: str | None = None,
    layer: int | None = None,
    doses: str = "-0.3,-0.2,-0.1,0.1,0.2,0.3",
    dose: float = 0.2,
    at: options.Share = 0.0,
    prompts: Annotated[int, typer.Option(min=2)] = 24,
    continuations: options.Count = 4,
    randoms: options.Count = 20,
    unrelated: options.Count = 6,
    backend: Literal["transformer-lens", "hooks"] = "transformer-lens",
    by: str = "rules",
    name: str = "",
    seed: int = 0,
    loading: Loading,
) -> Told:
    """Push a model along a probe's direction while it writes: is the direction causal here?

    Beside it, at the same length of push, random directions and directions of unrelated
    concepts. On tasks that the probe has not seen; rerun to resume.

    Args:
        model: Where the run's own model is. Default: found by its name.
        layer: Instead of the probe's own.
        doses: Strengths of the push, in mean lengths of the residual stream.
        dose: Strength at which all directions are compared.
        at: Part of the reasoning written before the push.
        prompts: Prompts to write from.
        continuations: Continuations of each prompt.
        randoms: Random directions to compare with.
        unrelated: Unrelated concepts to compare with.
        backend: How the stream is changed.
        name: Name of the experiment, where a run has several.
    """
    from trace_probe.emergence.experiment import check_steering, run_steering
    from trace_probe.emergence.steering import SteeringPlan
    from trace_probe.labelling.runs import labeller
    from trace_probe.model.bridge import load_weights

    store, saved = tp.Store(run), tp.load_probe(probe)
    depth = saved.card.layer if layer is None else layer
    plan = SteeringPlan(depth, numbers(doses, float, "-0.2,0.2"), dose, at, continuations, seed)
    judge = labeller(by)
    check_steering(store, saved, depth)
    found = run_steering(
        store,
        saved,
        load_weights(loading.weights(model or without_version(store.manifest.model))),
        judge,
        plan,
        prompts=prompts,
        controls=(randoms, unrelated),
        backend=backend,
        name=name,
    )
    return Told(found)


@emergence.command()
def intervene(
    run: Path,
    probe: Path,
    *,
    model: str | None = None,
    threshold: float | None = None,
    reflection: str | None = None,
    traces: options.Limit = None,
    continuations: options.Count = 4,
    backend: Literal["transformer-lens", "hooks"] = "transformer-lens",
    by: str = "rules",
    name: str = "",
    seed: int = 0,
    loading: Loading,
) -> Told:
    """When the alarm fires: stop, ablate, or make the model reflect? Compare the outcomes.

    Instrumental rate and task success of each policy, on tasks that the probe has not seen;
    rerun to resume.

    Args:
        model: Where the run's own model is. Default: found by its name.
        threshold: Instead of the probe's own.
        reflection: Sentence that is inserted at the alarm.
        traces: The most traces to take.
        continuations: Continuations of each alarmed trace.
        backend: How the stream is changed.
        name: Name of the experiment, where a run has several.
    """
    from trace_probe.emergence.experiment import judged, run_intervention
    from trace_probe.labelling.runs import labeller
    from trace_probe.model.bridge import load_weights

    store = tp.Store(run)
    detector = tp.load_detector(probe, threshold=threshold, decoding=store.manifest.sampling)
    judge = labeller(by)
    judged(store, detector.saved)  # which refuses a run without any
    found = run_intervention(
        store,
        detector,
        load_weights(loading.weights(model or without_version(store.manifest.model))),
        judge,
        reflection=reflection,
        traces=traces,
        continuations=continuations,
        backend=backend,
        seed=seed,
        name=name,
    )
    return Told(found)
