"""What commands share: options that mean the same everywhere, and how results are printed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from trace_probe.errors import StoreError
from trace_probe.files import plain

Number = TypeVar("Number", int, float)

Run = Annotated[
    Path, typer.Argument(help="Folder of a run, such as traces/demo, or a URL (s3://...).")
]
Probe = Annotated[Path, typer.Argument(help="Folder of a probe, such as probes/demo.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]
Labeller = Annotated[
    str | None, typer.Option(help="Use the labels of this labeller. Default: the latest.")
]
Seed = Annotated[
    int, typer.Option(help="Seed of all random numbers. The same seed repeats a result.")
]
Temperature = Annotated[
    float, typer.Option(min=0, help="Temperature of sampling. 0 takes the likeliest token.")
]
TopP = Annotated[
    float, typer.Option(help="Sample from the likeliest tokens whose probabilities add up to this.")
]
Nudge = Annotated[
    Literal["none", "neutral", "push", "paper"],
    typer.Option(help="System message: none, plain, one that pushes for the goal, the paper's."),
]
BaseUrls = Annotated[
    list[str] | None,
    typer.Option(
        help="Server that speaks OpenAI's protocol; repeat it to divide the work among several."
    ),
]
ExecutorName = Annotated[
    Literal["local", "ray"],
    typer.Option("--executor", help="This process, or workers on a Ray cluster (extra: ray)."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="With --executor ray: the most workers. Default: all there is room for."
    ),
]
Shard = Annotated[
    str | None, typer.Option(help="One part of the work, such as 0/8: for arrays of jobs.")
]
AsAgent = Annotated[
    bool, typer.Option("--agent", help="Record episodes of several model calls with tools.")
]
Tools = Annotated[
    str | None,
    typer.Option(
        help="With --agent: a scripted .json, FILE.py:OBJECT or MODULE:OBJECT, which is run; "
        "without it the environment that the tasks name."
    ),
]
MaxCalls = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Of agents: the most model calls in an episode. Default: what an organism's world "
        "allows, 20 elsewhere.",
    ),
]
MaxSeconds = Annotated[
    float | None,
    typer.Option(
        min=0.001, help="With --agent: begin no further call of an episode after this many seconds."
    ),
]
AlarmRate = Annotated[
    float,
    typer.Option(min=0, max=1, help="Share of benign traces that may alarm, such as 0.05."),
]
SiblingRate = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        help="Share of siblings that may alarm: harmless traces of prompts that also have "
        "instrumental ones.",
    ),
]
GuaranteeKind = Annotated[
    Literal["conformal", "pac"],
    typer.Option(
        "--guarantee",
        "--promise",
        help="The rate holds on average, or with 90 % confidence for this very threshold.",
    ),
]
Price = Annotated[
    str | None, typer.Option(help="Dollars per million tokens read and written: 2.5,10.")
]
ServedTokenizer = Annotated[
    str | None,
    typer.Option("--tokenizer", help="With --base-url: whose token ids, a folder or hub id."),
]
Extra = Annotated[
    str | None, typer.Option(help="More fields for each request, as JSON; null removes a field.")
]
Pooling = Annotated[
    str,
    typer.Option(
        help="What is kept of each sentence: last, mean, max of its tokens, or several joined "
        "by +. A probe with memory of the thought needs mean and max."
    ),
]
RawTokens = Annotated[
    bool, typer.Option("--raw-tokens", help="Keep every token beside the rows; takes much room.")
]
Backend = Annotated[
    Literal["hooks", "transformer-lens"],
    typer.Option(help="What reads the activations; both give the same numbers."),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16, float16, or auto: bfloat16 on a CPU where a trial shows that "
        "it is faster. Without it float32 on a CPU, bfloat16 on a GPU."
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        min=0, help="How far, in nats, the replay may differ from the writing. Default: by dtype."
    ),
]


EngineName = Annotated[
    Literal["transformers", "vllm"],
    typer.Option("--engine", help="What runs the model: transformers, or vLLM (docs/vllm.md)."),
]
EngineArguments = Annotated[
    str,
    typer.Option(
        "--engine-args",
        help='With --engine vllm: arguments of its own as JSON: {"tensor_parallel_size": 2}.',
    ),
]
ComparedShare = Annotated[
    float,
    typer.Option(
        "--fidelity",
        min=0,
        max=1,
        help="With --engine vllm: share of the traces that transformers reads again to compare "
        "the activations; 1 for all.",
    ),
]
Concurrency = Annotated[
    int, typer.Option(min=1, help="With --base-url: the most requests at the same time.")
]
PerMinute = Annotated[
    float | None,
    typer.Option(min=0.1, help="With --base-url: the most requests per minute to each server."),
]


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
