"""A process that renders chat templates and nothing else, so that it may be killed.

It is run as a file, reads one JSON object a line from standard input and answers each with one.
A template is a program from a stranger: jinja's sandbox keeps it from everything but its
messages, and this process keeps it from all memory and time. It takes the environment that
transformers gives templates, without importing transformers.
"""

import contextlib
import json
import sys
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY = 1 << 29
"""Bytes that this process may take."""
LONGEST = 1 << 24
"""Characters of a prompt."""


class _Generation(Extension):
    """Lets ``{% generation %}`` blocks through, which mark for training what a model writes."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node:  # noqa: ANN401 - jinja's parser
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_as_it_is"), [], [], body).set_lineno(line)

    def _as_it_is(self, caller: Any) -> str:  # noqa: ANN401 - a macro of jinja
        return str(caller())


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(  # the one of transformers: no HTML escapes
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@lru_cache(16)
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def render(template: str, variables: dict[str, Any]) -> dict[str, str]:
    """Return the text of a template, or why there is none: it refuses, or it is at fault."""
    try:
        text = _compiled(template).render(**variables)
        text.encode()
    except jinja2.TemplateError as error:
        return {"refused": str(error) or type(error).__name__}
    except Exception as error:  # a template can do anything that the sandbox allows
        return {"fault": f"{type(error).__name__}: {error}"[:300]}
    return {"text": text} if len(text) <= LONGEST else {"fault": "it writes a text without end"}


def main() -> None:
    """Answer until standard input ends, which it does with the process at its other end."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows; macOS ignores it
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        answer = json.dumps(render(asked["template"], asked["variables"]))
        sys.stdout.buffer.write(answer.encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
