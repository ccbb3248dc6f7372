"""The options of every command that loads a model: it takes `loading: Loading`."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import typer

from trace_probe.model.naming import ORGANISM, SMOLLM2, parse_name, with_adapter
from trace_probe.model.weights import Weights

HUB = "https://huggingface.co"
OFFLINE = "HF_HUB_OFFLINE"
PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


@dataclass(frozen=True)
class Loading:
    """How a model is loaded.

    Attributes:
        adapter: Adapter in the form of PEFT (LoRA) on top of the model. It is merged into the
            weights, or stays beside them if this ends in ',unmerged'.
        device: cpu, cuda, cuda:1, mps.
        device_map: Spread a model over devices: auto, balanced, sequential.
        revision: Branch, tag or commit of a hub model; of the base.
    """

    adapter: Annotated[str | None, typer.Option(metavar="PATH|ID[@REV]")] = None
    device: str | None = None
    device_map: str | None = None
    dtype: str | None = None
    revision: str | None = None

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
