"""The reader as one file that opens without a server and reaches nothing.

The page's policy forbids every request and every script but the reader's own, which it knows by
its hash. The trace lies in it as JSON, in which no ``<`` is left, so that no text can end it.
"""

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from trace_probe.explorer.reader.scripts import SCRIPTS, source


def page(sides: Sequence[Mapping[str, Any]]) -> str:
    """Return an HTML page of one trace, or of two that were `aligned`.

    A sentence can be linked to: ``file.html#s=12``, counted from 0.
    """
    script, style = source(*SCRIPTS, "standalone.js"), source("page.css", "reader.css")
    # Hashes tell this script from any that a text might try to bring in.
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return source("page.html").format(
        policy=policy,
        title=html.escape(" | ".join(str(side["title"]) for side in sides)),
        style=style,
        frame=source("reader.html"),
        data=inert({"sides": list(sides)}),
        script=script,
    )


def inert(value: object) -> str:
    """Return JSON that can lie inside an HTML element: no character of it starts markup."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
