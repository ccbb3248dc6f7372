"""Options that mean the same in every command, and how results are printed.

Options:
    run: Folder of a run, such as traces/demo, or a URL (s3://...).
    probe: Folder of a probe, such as probes/demo.
    force: Overwrite what is there.
    labeller: Use the labels of this labeller. Default: the latest.
    seed: Seed of all random numbers. The same seed repeats a result.
    top_p: Sample from the likeliest tokens whose probabilities add up to this.
    base_url: Server that speaks OpenAI's protocol; repeat it to divide the work among several.
    executor: This process, or workers on a Ray cluster (extra: ray).
    workers: With --executor ray: the most workers. Default: all there is room for.
    agent: Record episodes of several model calls with tools.
    tools: With --agent: a scripted .json, FILE.py:OBJECT or MODULE:OBJECT, which is run; without it
        the environment that the tasks name.
    max_calls: Of agents: the most model calls in an episode. Default: what an organism's world
        allows, 20 elsewhere.
    rate: Share of benign traces that may alarm, such as 0.05.
    sibling_rate: Share of siblings that may alarm: harmless traces of prompts that also have
        instrumental ones.
    guarantee: The rate holds on average, or with 90 % confidence for this very threshold.
    price: Dollars per million tokens read and written: 2.5,10.
    extra: More fields for each request, as JSON; null removes a field.
    tokenizer: With --base-url: whose token ids, a folder or hub id.
    dtype: float32, bfloat16, float16, or auto: bfloat16 on a CPU where a trial shows that it is
        faster. Without it float32 on a CPU, bfloat16 on a GPU.
    engine: What runs the model: transformers, or vLLM (docs/vllm.md).
    engine_args: With --engine vllm: arguments of its own as JSON: {"tensor_parallel_size": 2}.
    concurrency: With --base-url: the most requests at the same time.
    per_minute: With --base-url: the most requests per minute to each server.
    by: Labeller of the outcomes, as in `label`.
    folder: Folder of a saved probe.
    address: org/name on the hub, or org/name@revision.
    endpoint: Another hub than huggingface.co: the URL of a server that speaks its protocol, or a
        folder.
    log: An Inspect log, .eval or .json.
    family: Where they were trained; those of the package by default.
    as_json: Print one JSON object instead of text.
    smoothing: How scores are smoothed: max (not at all), mean:N, ema:WEIGHT, K-of-N or cusum:DRIFT.
        Default: as on the probe's card.
    threshold: Alarm from this score on; by default as calibrated, or as on the card.
    stale_ok: Go on with a probe whose latest `recheck` says that its threshold does not hold for
        the model as it runs here.
    fail_on_alarm: Exit with 6 if there is any alarm.
    model: Hub id, folder, GGUF file, smollm2 or organism:NAME. Default: the model of the probe.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from trace_probe.errors import StoreError
from trace_probe.files import plain

Number = TypeVar("Number", int, float)
Count = Annotated[int, typer.Option(min=1)]
Limit = Annotated[int | None, typer.Option(min=1)]
Share = Annotated[float, typer.Option(min=0, max=1)]
PerMinute = Annotated[float | None, typer.Option(min=0.1)]
Smoothing = Annotated[str | None, typer.Option("--smoothing", "--rule")]
Guarantee = Annotated[Literal["conformal", "pac"], typer.Option("--guarantee", "--promise")]
Executor = Literal["local", "ray"]
Engine = Literal["transformers", "vllm"]


def show_result(value: object, text: str, *, as_json: bool) -> None:
    """Print a result, a dataclass or plain values, as one JSON object or as text."""
    if as_json:
        text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    typer.echo(text)


def check_free(file: Path, *, force: bool) -> None:
    """Refuse to overwrite a file unless that was asked for."""
    if file.exists() and not force:
        raise StoreError(f"{file} is there already: add --force to overwrite it")


def say(text: str) -> None:
    """Print progress to standard error."""
    typer.echo(text, err=True)


def numbers(text: str, kind: Callable[[str], Number], example: str) -> tuple[Number, ...]:
    """Return the numbers of a list such as ``12,18``."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a list of numbers such as {example}") from error


def integers(text: str | None) -> tuple[int, ...] | None:
    """Return the integers of a list such as ``12,18``; None where nothing was given."""
    return None if text is None else numbers(text, int, "12,18")


def json_object(text: str | None) -> dict[str, Any]:
    """Return the JSON object that an option holds."""
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{text!r} is not a JSON object")
    return value


def price_pair(text: str | None) -> tuple[float, float] | None:
    """Return the two prices of a text such as ``2.5,10``."""
    if text is None:
        return None
    prices = numbers(text, float, "2.5,10")
    if len(prices) != 2:
        raise typer.BadParameter(f"{text!r} is not two prices such as 2.5,10")
    return prices
