"""What to do with a model whose weights are quantised, told from its configuration alone.

Each method is one of three: *unpacked* (the weights become ordinary ones while they are loaded),
*as it is* (a package of its own runs them), or refused, before anything is loaded. transformers may
fetch kernels from its hub for some methods, which are code from elsewhere, so these are unpacked.

The method is a part of what identifies a model: it stands in ``config.json``, which the fingerprint
covers, and a threshold does not hold for the same model in another precision until
``trace-probe recheck`` says so.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

from trace_probe.errors import ModelError

UNPACKED = {"fp8": "FineGrainedFP8Config", "mxfp4": "Mxfp4Config"}
"""Methods that transformers unpacks itself, with the class of their configuration."""
PACKAGES = {
    "bitsandbytes": ("bitsandbytes", "accelerate"),
    "gptq": ("gptqmodel", "accelerate"),
    "awq": ("gptqmodel", "accelerate"),
    "compressed-tensors": ("compressed_tensors", "accelerate"),
}
"""Methods that run as they are, with the packages that run them."""


def readers() -> dict[str, tuple[str, ...]]:
    """Return for each method the packages that it lacks here, as pip calls them."""
    wanted = {**dict.fromkeys(UNPACKED, ("accelerate",)), **PACKAGES}
    return {
        method: tuple(each.replace("_", "-") for each in packages if find_spec(each) is None)
        for method, packages in wanted.items()
    }


class Quantised(NamedTuple):
    """How the weights of a model are quantised, and what is done about it."""

    method: str
    """As in the configuration, with the number of bits where it says so: ``bitsandbytes 4 bit``."""
    unpack: str = ""
    """The class of transformers that unpacks them; empty if they run as they are."""

    @property
    def note(self) -> str:
        """Return what is to be said of a run of such a model."""
        how = "unpacked while it was loaded" if self.unpack else "run as they are"
        return f"{self.method} weights, {how}"


def quantised(name: str, config: Mapping[str, Any]) -> Quantised | None:
    """Return how a model is quantised; None if it is not.

    Raises:
        ModelError: it is not known how to run it here.
    """
    about = config.get("quantization_config")
    if about is None and isinstance(text := config.get("text_config"), Mapping):
        about = text.get("quantization_config")
    if about is None:
        return None
    method = about.get("quant_method") if isinstance(about, Mapping) else None
    if not isinstance(method, str):
        raise ModelError(
            f"{name} says that it is quantised, but not how (quant_method in its config.json): "
            f"copy the model again"
        )
    known, lacking = _known(method, about), readers().get(method)
    if lacking is None:
        raise ModelError(
            f"{name} has {known} weights, which trace_probe cannot read: take the model in "
            f"bfloat16, or quantised by one of {', '.join(readers())}"
        )
    if lacking:
        raise ModelError(
            f"{name} has {known} weights, and what reads them is not installed: "
            f"pip install {' '.join(lacking)}"
        )
    return Quantised(known, UNPACKED.get(method, ""))


def _known(method: str, about: Mapping[str, Any]) -> str:
    """Return the method with the number of bits, as far as a configuration says it."""
    bits = about.get("bits")
    if method == "bitsandbytes":
        bits = 4 if about.get("load_in_4bit") else 8
    return f"{method:.40} {bits} bit" if isinstance(bits, int) else f"{method:.40}"
