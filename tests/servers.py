"""Servers for tests: one that answers from a script, and the one that transformers ships."""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0


def completion(text: str = "", *, finish: str = "stop", **message: Any) -> Answer:
    """Return a chat completion as servers send it."""
    body = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": text, **message},
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
    }
    return Answer(body=json.dumps(body).encode())


@dataclass
class Asked:
    """What a scripted server was sent."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def scripted(answer: Callable[[int, dict[str, Any]], Answer]) -> Iterator[Asked]:
    """Serve on a free port; `answer` gets the number of the request and its body."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number = len(asked.bodies)
                asked.bodies.append(body)
                asked.headers.append({k.lower(): v for k, v in self.headers.items()})
            self._send(answer(number, body))

        def do_GET(self) -> None:
            self._send(answer(0, {"path": self.path}))

        def _send(self, given: Answer) -> None:
            time.sleep(given.delay_s)
            try:
                self.send_response(given.status)
                for name, value in given.headers.items():
                    self.send_header(name, value)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(given.body)))
                self.end_headers()
                self.wfile.write(given.body)
            except (BrokenPipeError, ConnectionResetError):
                return  # the client lost its patience, as some tests want

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    asked = Asked(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def start_transformers(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start ``transformers serve`` with a model folder."""
    command = ["transformers.cli.transformers", "serve", str(folder), "--device", "cpu"]
    return subprocess.Popen(
        [sys.executable, "-m", *command, "--port", str(port), "--log-level", "error"],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for(port: int, process: subprocess.Popen[bytes], seconds: float = 300) -> None:
    """Wait until a server answers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, "the server ended before it answered"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"no answer in {seconds} s")
