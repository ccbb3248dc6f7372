"""The same model through TransformerLens: every hook point of it, and the same numbers."""

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from trace_probe.errors import ModelError
from trace_probe.model.blocks import Backend, Tap
from trace_probe.model.checkpoint import locate
from trace_probe.model.loading import read_config
from trace_probe.model.local import Model, load_model
from trace_probe.model.naming import parse_name
from trace_probe.model.weights import Weights

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


ONLY_FLOAT32 = frozenset({"olmo2", "olmo3"})
"""Model types that TransformerLens 4.3 runs in float32 alone."""


class BridgedBlocks:
    """Blocks read and changed at the ``hook_resid_post`` of a `TransformerBridge`."""

    backend: Backend = "transformer-lens"

    def __init__(self, bridge: "TransformerBridge", network: PreTrainedModel) -> None:
        """Take a bridge and the network that it wraps."""
        self.bridge = bridge
        """For all that TransformerLens can do beyond reading and changing the stream."""
        self.network = network

    @contextlib.contextmanager
    def tapped(self, layers: Sequence[int], tap: Tap) -> Iterator[None]:
        """Hand the stream after each of `layers` to `tap`, as `Blocks` says."""

        def at(layer: int) -> Callable[..., torch.Tensor | None]:
            return lambda hidden, hook: tap(layer, hidden)  # noqa: ARG005 - called by name

        points = [(f"blocks.{layer}.hook_resid_post", at(layer)) for layer in layers]
        with self.bridge.hooks(fwd_hooks=points):
            yield

    def ready(self, layers: Sequence[int]) -> AbstractContextManager[None]:  # noqa: ARG002
        """Do nothing: TransformerLens puts on a hook of its own for each tap."""
        return contextlib.nullcontext()


def bridged(model: Model) -> Model:
    """Return a twin of a model that generates, streams and replays through TransformerLens.

    The twin shares the weights, fused projections apart, which TransformerLens splits. The
    model itself stays as it is: a bridge replaces the modules of what it wraps and turns its
    attention to eager, so it is given modules of its own.

    Raises:
        ModelError: TransformerLens does not know the architecture, or the model has an adapter
            that is not merged.
    """
    if not model.merged:
        raise ModelError(
            f"TransformerLens would run {model.name} without its adapter: merge it (leave "
            f"',unmerged' out), or use the backend hooks"
        )
    return model.through(bridged_blocks(model.blocks.network, model.name))


def bridged_blocks(network: PreTrainedModel, name: str) -> BridgedBlocks:
    """Return the blocks of a network of the same weights that TransformerLens wraps.

    Raises:
        ModelError: TransformerLens does not know the architecture, or not in this precision.
    """
    _check_precision(name, network.config.model_type, str(network.dtype).removeprefix("torch."))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages that TransformerLens imports
        from transformer_lens.model_bridge.sources import build_bridge_from_module

    twin = copy.deepcopy(network, {id(weight): weight for weight in network.parameters()})
    twin.set_attn_implementation("eager")
    kind = type(network).__name__
    try:
        bridge = build_bridge_from_module(twin, kind, hf_config=twin.config, model_name=name)
    except (ValueError, NotImplementedError, AttributeError) as error:
        raise ModelError(
            f"TransformerLens cannot wrap {name} ({kind}: {error}): use the backend hooks"
        ) from error
    return BridgedBlocks(bridge, twin)


def load_weights(of: Weights) -> Model:
    """Load what some weights name as `load_model` does, to be read through the backend they name.

    Raises:
        ModelError: it cannot be loaded, or TransformerLens does not know the architecture, or
            not in this precision.
    """
    bridging = of.backend == "transformer-lens"
    if bridging and of.dtype is not None:
        base = parse_name(of.name).base
        kind = read_config(base, locate(base), of.revision).model_type
        _check_precision(of.name, kind, of.dtype)  # before the weights are loaded
    where = {"device": of.device, "dtype": of.dtype, "revision": of.revision}
    model = load_model(of.name, **where, device_map=of.device_map)
    return bridged(model) if bridging else model


def _check_precision(name: str, kind: str, dtype: str) -> None:
    """Refuse a precision that TransformerLens cannot run a type of model in."""
    if kind in ONLY_FLOAT32 and dtype in ("bfloat16", "float16"):
        raise ModelError(
            f"TransformerLens cannot run {name} ({kind}) in {dtype}: use the backend hooks, or "
            f"--dtype float32"
        )
