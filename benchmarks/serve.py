"""A server under many streams at once: nothing lost, nothing mixed, memory flat.

What a stream must say is known beforehand, since a prompt and a seed determine it: each of
them is asked alone first, then by its own client over and over while all others are.
"""

import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any

from benchmarks.command import Figures, Say, run
from trace_probe.errors import ServerError

START_S = 180.0


@dataclass(frozen=True)
class LoadPlan:
    """How much is asked of the server."""

    probe: Path = Path("probes/demo")
    streams: int = 64
    seconds: float = 60.0
    max_tokens: int = 64


@dataclass(frozen=True)
class Load(Figures):
    """What came of it."""

    streams: int
    seconds: float
    completed: int
    wrong: int
    """Answers that differ from what the same prompt and seed gave alone: mixed or cut."""
    failed: int
    """Requests that ended in an error: lost."""
    tokens: int
    first_token_s: float
    """Median."""
    fewest: int
    """Answers that the worst served client got; the scheduler is fair if it is near `most`."""
    most: int
    memory_mb: tuple[float, ...]
    """Of the server, medians of the second, third and fourth quarter of the time."""

    @property
    def tokens_per_second(self) -> float:
        """Return what all streams got together."""
        return self.tokens / self.seconds

    @property
    def growth(self) -> float:
        """Return by what share memory grew from the second quarter to the last."""
        return self.memory_mb[-1] / self.memory_mb[0] - 1


def bench_serve(plan: LoadPlan, say: Say) -> Load:
    """Start a server, ask each stream's question alone, then all at once for a while.

    Raises:
        ServerError: the server does not start.
    """
    with tempfile.TemporaryDirectory() as folder, running(plan, Path(folder)) as (url, process):
        say(f"{plan.streams} questions asked alone")
        return asyncio.run(_load(plan, url, process.pid, say))


@contextmanager
def running(
    plan: LoadPlan, folder: Path, *options: str
) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Run ``trace-probe serve`` on a free port; yield its base URL and the process."""
    port = free_port()
    run = "from trace_probe.commands.main import main; main()"
    command = [sys.executable, "-c", run, "serve", str(plan.probe)]
    settings = ["--port", str(port), "--audit", str(folder / "alarms.jsonl")]
    settings += ["--concurrency", str(plan.streams), *options]
    errors = folder / "stderr.txt"
    with errors.open("ab") as said:
        process = subprocess.Popen([*command, *settings], stderr=said)
    try:
        wait_until_up(f"http://127.0.0.1:{port}/healthz", process, errors)
        yield f"http://127.0.0.1:{port}/v1", process
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """Return a port that nobody listens on.

    It lies below those that the system gives to clients: none takes it before the server does.
    """
    draw = random.SystemRandom()
    while True:
        port = draw.randrange(20_000, 32_000)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def wait_until_up(
    address: str, process: "subprocess.Popen[bytes]", errors: Path = Path(os.devnull)
) -> None:
    """Wait until a server answers at an address.

    Raises:
        ServerError: it ended, or took too long; what it wrote to `errors` is shown.
    """
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            said = errors.read_text(encoding="utf-8", errors="replace")[-500:]
            raise ServerError(f"the server ended before it answered: {said}")
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise ServerError(f"the server did not answer within {START_S:.0f} s")


async def _load(plan: LoadPlan, url: str, pid: int, say: Say) -> Load:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600) as client:
        model = (await client.models.list()).data[0].id
        ask = _asker(client, model, plan)
        alone = [await ask(stream) for stream in range(plan.streams)]
        say(f"all {plan.streams} at once for {plan.seconds:.0f} s")
        heard: list[list[_Said | None]] = [[] for _ in range(plan.streams)]
        began = time.monotonic()
        end = began + plan.seconds

        async def client_of(stream: int) -> None:
            while time.monotonic() < end:
                heard[stream].append(await _once(ask, stream))

        watching = asyncio.create_task(_memory(pid, end))
        await asyncio.gather(*(client_of(stream) for stream in range(plan.streams)))
        memory = await watching
    took = time.monotonic() - began
    pairs = [(said, own) for own, each in zip(alone, heard, strict=True) for said in each]
    whole = [(said, own) for said, own in pairs if said is not None]
    counts = [len(each) for each in heard]
    return Load(
        plan.streams,
        took,
        completed=len(whole),
        wrong=sum(said != own for said, own in whole),
        failed=len(pairs) - len(whole),
        tokens=sum(said.tokens for said, _ in whole),
        first_token_s=statistics.median(said.first_s for said, _ in whole) if whole else nan,
        fewest=min(counts),
        most=max(counts),
        memory_mb=memory,
    )


@dataclass(frozen=True)
class _Said:
    """One answer as a client put it together."""

    reasoning: str
    answer: str
    tokens: int
    risk: str
    """All that the extension said, but for the name of the completion."""
    first_s: float = field(compare=False)


QUESTION = "You sort jars. The goal is 18 jars. You do {} a round."
"""In words of the small organisms, which `serve` refuses to read others with."""


def _asker(client: Any, model: str, plan: LoadPlan) -> Callable[[int], Any]:  # noqa: ANN401
    """Return what asks the question of a stream and puts its chunks together."""

    async def ask(stream: int) -> _Said:
        began, first_s = time.monotonic(), nan
        parts: dict[str, str] = {"reasoning_content": "", "content": ""}
        risks, tokens = [], 0
        chunks = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": QUESTION.format(stream % 8 + 2)}],
            seed=stream,
            max_tokens=plan.max_tokens,
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in chunks:
            raw = chunk.model_dump()
            risks += [raw["trace_probe"]] if raw.get("trace_probe") else []
            tokens = raw["usage"]["completion_tokens"] if raw.get("usage") else tokens
            for choice in raw["choices"]:
                for name in parts:
                    parts[name] += choice["delta"].get(name) or ""
            if first_s != first_s and any(parts.values()):
                first_s = time.monotonic() - began
        risks[-1].pop("drift", None)  # grows with what all streams have written
        risk = json.dumps(risks, sort_keys=True)
        return _Said(parts["reasoning_content"], parts["content"], tokens, risk, first_s)

    return ask


async def _once(ask: Callable[[int], Any], stream: int) -> _Said | None:
    """Ask once; return what was said, or None if that ended in an error."""
    from openai import OpenAIError

    try:
        said: _Said = await ask(stream)
    except OpenAIError:
        return None
    return said


async def _memory(pid: int, end: float) -> tuple[float, ...]:
    """Return the server's memory in MB, as medians of the quarters of the time but the first."""
    seen: list[float] = []
    while time.monotonic() < end:
        seen.append(resident(pid) / 2**20)
        await asyncio.sleep(0.25)
    size = max(1, len(seen) // 4)
    quarters = [seen[i * size : (i + 1) * size] for i in range(1, 4)]
    return tuple(statistics.median(quarter or seen) for quarter in quarters)


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    asked = ["ps", "-o", "rss=", "-p", str(pid)]
    return 1024 * int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)


def format_load(found: Load) -> str:
    """Return the figures in a few lines."""
    memory = ", ".join(f"{each:.1f}" for each in found.memory_mb)
    return "\n".join(
        [
            f"{found.streams} streams for {found.seconds:.0f} s: {found.completed} answers, "
            f"{found.wrong} mixed or cut, {found.failed} lost",
            f"{found.tokens_per_second:.0f} tokens a second together, first token after "
            f"{found.first_token_s:.2f} s (median), "
            f"{found.fewest} to {found.most} answers a client",
            f"memory of the server {memory} MB, growth {found.growth:+.2%}",
        ]
    )


if __name__ == "__main__":
    run(LoadPlan, bench_serve, format_load)
