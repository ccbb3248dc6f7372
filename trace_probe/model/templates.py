"""Chat templates rendered in a process of their own, with a limit on time and memory."""

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trace_probe.errors import ModelError

SECONDS = 20.0
"""For one prompt; a real template takes a thousandth of that."""
PROGRAM = Path(__file__).with_name("template_process.py")


class TemplateRefusal(ModelError):
    """A template says that it does not take these messages."""


class _Renderer:
    """The process, started when the first prompt is asked for, and again after it was ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self._end)

    def render(self, template: str, variables: Mapping[str, Any]) -> str:
        """Return the text that a template makes of variables.

        Raises:
            TemplateRefusal: it refuses them.
            ModelError: it takes more time or memory than a prompt can, or is at fault.
        """
        asked = json.dumps({"template": template, "variables": dict(variables)}).encode() + b"\n"
        with self._lock:
            answer = self._answer(asked)
        if "refused" in answer:
            raise TemplateRefusal(answer["refused"])
        if "text" not in answer:
            raise ModelError(
                f"the chat template cannot be used ({answer['fault']}): copy the model again, or "
                f"choose another one"
            )
        return answer["text"]

    def _answer(self, asked: bytes) -> dict[str, str]:
        process = self._started()
        timer = threading.Timer(SECONDS, process.kill)
        timer.start()
        try:
            process.stdin.write(asked)  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            line = process.stdout.readline()  # type: ignore[union-attr]
        except BrokenPipeError:
            line = b""
        finally:
            timer.cancel()
        if line.endswith(b"\n"):
            answer: dict[str, str] = json.loads(line)
            return answer
        self._end()
        return {"fault": f"it took more than {SECONDS:g} s, or all memory"}

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # an interruption of ours is not one of its work
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _forget(self) -> None:
        """Leave the process to the parent: answers to a fork and to it would be mixed."""
        if self._process is not None:
            self._process.returncode = 0  # as if it had ended, so that nobody waits for it
        self._process, self._lock = None, threading.Lock()


_RENDERER = _Renderer()
render = _RENDERER.render
