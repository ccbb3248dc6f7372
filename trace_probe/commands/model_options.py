"""The options of every command that loads a model, declared once.

A command takes `loading: Loading` and wears `loads_model`: on the command line it then has these
options in its place.
"""

import inspect
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import typer

from trace_probe.commands.options import Dtype
from trace_probe.model.naming import ORGANISM, SMOLLM2, parse_name, with_adapter
from trace_probe.model.weights import Weights

Result = TypeVar("Result")
HUB = "https://huggingface.co"
OFFLINE = "HF_HUB_OFFLINE"
PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


@dataclass(frozen=True)
class Loading:
    """How a model is loaded; each field is an option."""

    adapter: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|ID[@REV]",
            help="Adapter in the form of PEFT (LoRA) on top of the model. It is merged into the "
            "weights, or stays beside them if this ends in ',unmerged'.",
        ),
    ] = None
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.")] = None
    device_map: Annotated[
        str | None, typer.Option(help="Spread a model over devices: auto, balanced, sequential.")
    ] = None
    dtype: Dtype = None
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub model; of the base.")
    ] = None

    def weights(
        self, model: str, backend: Literal["hooks", "transformer-lens"] = "hooks"
    ) -> Weights:
        """Return what to load for a model of this name."""
        name = with_adapter(model, self.adapter)
        if _on_hub(model):
            stay_offline_without_hub()
        return Weights(name, self.device, self.dtype, self.revision, backend, self.device_map)


def _on_hub(model: str) -> bool:
    """Return whether a name can only be that of a model on the hub."""
    known = model == SMOLLM2 or model.startswith(ORGANISM)
    return not known and not Path(parse_name(model).base).expanduser().exists()


def stay_offline_without_hub() -> None:
    """Let the cache alone be asked where the name of the hub leads nowhere.

    Libraries would otherwise ask again and again, for more than a minute, before they say so.
    """
    if OFFLINE in os.environ or any(os.environ.get(name) for name in PROXIES):
        return
    address = urlsplit(os.environ.get("HF_ENDPOINT") or HUB)
    try:
        socket.getaddrinfo(address.hostname, address.port or 443)
    except OSError:
        os.environ[OFFLINE] = "1"


def loads_model(command: Callable[..., Result]) -> Callable[..., Result]:
    """Give a command the options of `Loading` in place of its parameter `loading`."""
    options = inspect.signature(Loading, eval_str=True).parameters

    @wraps(command)
    def run(**given: Any) -> Result:  # noqa: ANN401 - whatever the command takes
        chosen = {name: given.pop(name) for name in options}
        return command(**given, loading=Loading(**chosen))

    own = inspect.signature(command, eval_str=True)
    kept = [one for name, one in own.parameters.items() if name != "loading"]
    added = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in options.values()]
    signature = own.replace(parameters=[*kept, *added])
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in signature.parameters.values()}
    return run
