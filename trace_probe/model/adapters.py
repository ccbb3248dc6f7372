"""Adapters in the form of PEFT: found, checked, and added to a network.

An adapter comes from a stranger, too. Of its configuration only a few numbers are read, and of
its weights only safetensors. Which maps it changes is told by the weights themselves, so nothing
in it can name code, a pattern to be searched for, or another model to be loaded. PEFT itself is
needed to train adapters, not to load them.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trace_probe.errors import ModelError, StoreError
from trace_probe.files import load_json
from trace_probe.model.loading import PICKLES, fetch_adapter
from trace_probe.model.naming import ADAPTER_CONFIG, ORGANISM, check_not_reserved, organism_path

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""Files beside an adapter that are used in place of those of the base."""
MOST_RANK = 4096
MOST_ALPHA = 1e6
MOST_CONFIG = 1 << 20
"""Bytes of an adapter's configuration."""
UNREAD = frozenset(
    {
        *("peft_type", "task_type", "peft_version", "revision", "inference_mode"),
        *("base_model_name_or_path", "auto_mapping", "runtime_config", "megatron_core"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *("rank_pattern", "lora_dropout", "qalora_group_size", "ensure_weight_tying"),
    }
)
"""Settings that change nothing, or that the weights tell better."""
READ = frozenset({"r", "lora_alpha", "alpha_pattern", "use_rslora", "fan_in_fan_out"})
STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Values of ``init_lora_weights`` that leave the weights of the base as they are."""
KEY = re.compile(r"base_model\.model\.(?P<map>[\w.]+)\.lora_(?P<side>[AB])\.weight")
PLAIN = re.compile(r"\^?[\w.]+")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Adapter:
    """An adapter on this machine, checked as far as that goes without its base."""

    name: str
    """What runs call it."""
    folder: Path
    config: Mapping[str, Any]

    def fingerprint(self) -> str:
        """Return a hash of all that an adapter changes in its base."""
        own = {name: value for name, value in self.config.items() if name in READ}
        hasher = hashlib.sha256(json.dumps(own, sort_keys=True).encode())
        for name in (WEIGHTS, *TOKENIZER):
            if (self.folder / name).is_file():
                hasher.update(name.encode())
                hasher.update(hashlib.sha256((self.folder / name).read_bytes()).digest())
        return hasher.hexdigest()

    def scale(self, target: str, rank: int) -> float:
        """Return by what the product of the two matrices of a map is multiplied."""
        own = self.config.get("alpha_pattern") or {}
        fits = (key for key in own if f".{target}".endswith(f".{key.removeprefix('^')}"))
        alpha = float(own.get(next(fits, ""), self.config["lora_alpha"]))
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)


def find_adapter(reference: str, base: str) -> Adapter:
    """Return the adapter that a folder, a hub id (``ID@REVISION``) or an organism means.

    `base` is the name of the model that it is for.

    Raises:
        ModelError: there is none, it was made for another model, or it is of a kind that is not
            read: the text says which.
    """
    path = Path(reference).expanduser()
    if reference.startswith(ORGANISM):
        folder = organism_path(reference)
        return Adapter(f"{ORGANISM}{folder.name}", folder, _config(folder, reference))
    if path.is_dir():
        name, folder = check_not_reserved(path).resolve().name, path
    else:
        name, _, revision = reference.partition("@")
        if not HUB_ID.fullmatch(name):
            raise ModelError(f"no adapter {reference!r}: give its folder, or a hub id such as a/b")
        folder = fetch_adapter(name, revision or None, (ADAPTER_CONFIG, WEIGHTS, *TOKENIZER))
    found = Adapter(name, folder, _config(folder, reference))
    _check_base(found, base)
    return found


def _config(folder: Path, name: str) -> dict[str, Any]:
    """Return the settings of an adapter.

    Raises:
        ModelError: it has none, or some that are not read, or has no safetensors.
    """
    file = folder / ADAPTER_CONFIG
    if not file.is_file():
        raise ModelError(f"{name} is not an adapter in the form of PEFT: it has no {file.name}")
    if file.stat().st_size > MOST_CONFIG:
        raise ModelError(f"{file} is larger than 1 MB, which no adapter needs: copy it again")
    try:
        config = load_json(file)
    except StoreError as error:
        raise ModelError(f"{error}: copy the adapter again") from error
    for what in _unfit(config):
        raise ModelError(
            f"the adapter {name} {what}: if you trust it, merge it into its base with PEFT "
            f"(merge_and_unload) and load the result"
        )
    if not (folder / WEIGHTS).is_file():
        pickles = any(found for pattern in PICKLES for found in folder.glob(pattern))
        why = "only in a format that can hold a program" if pickles else "missing"
        raise ModelError(
            f"the weights of the adapter {name} are {why}: it needs {WEIGHTS}, which PEFT "
            f"writes by default"
        )
    return config


def _unfit(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what speaks against an adapter, as the end of a sentence."""
    if config.get("peft_type") != "LORA":
        yield f"is of the kind {config.get('peft_type')!r:.40}, and only LORA is read"
    mapping = config.get("auto_mapping")
    library = str((mapping or {}).get("parent_library")) if isinstance(mapping, dict) else mapping
    if mapping and not str(library).startswith("transformers."):
        yield f"wants code to be imported (auto_mapping: {library!s:.60}), which is never done"
    for key, value in config.items():
        known = key in UNREAD or key in READ or key in ("bias", "init_lora_weights")
        if not known and value:
            yield f"uses {key[:40]!r}, which is not read here"
    if config.get("bias", "none") != "none":
        yield "changes biases, which is not read here"
    if config.get("init_lora_weights", True) not in STARTS:
        yield f"started from a changed base ({config['init_lora_weights']!r:.40})"
    yield from _wrong_numbers(config)


def _wrong_numbers(config: Mapping[str, Any]) -> Iterator[str]:
    rank, own = config.get("r"), config.get("alpha_pattern") or {}
    if type(rank) is not int or not 1 <= rank <= MOST_RANK:
        yield f"says r = {rank!r:.40}, and a rank is a number from 1 to {MOST_RANK}"
    if not isinstance(own, dict) or not all(map(PLAIN.fullmatch, own)):
        yield "has an alpha_pattern that is more than names of maps"
        return
    numbers = [config.get("lora_alpha"), *own.values()]
    if not all(type(one) in (int, float) and abs(one) <= MOST_ALPHA for one in numbers):
        yield f"has a lora_alpha that is no number up to {MOST_ALPHA:,.0f}"


def _check_base(adapter: Adapter, base: str) -> None:
    """Raise ModelError if an adapter says that it was made for another model."""
    made_for = adapter.config.get("base_model_name_or_path") or ""
    last = [str(name).rstrip("/").rpartition("/")[2].lower() for name in (made_for, base)]
    if made_for and last[0] != last[1]:
        raise ModelError(
            f"the adapter {adapter.name} was made for {made_for!s:.80}, not for {base}: load it "
            f"with that model, or, where both have the same weights, remove "
            f"base_model_name_or_path from its {ADAPTER_CONFIG}"
        )


def add_adapter(network: "PreTrainedModel", adapter: Adapter, *, merged: bool) -> None:
    """Add an adapter to a network: into its weights, or beside them at every pass.

    Merging rounds to the precision of the weights once; both agree up to that.

    Raises:
        ModelError: it does not fit the network, or its weights are damaged.
    """
    import torch

    with torch.no_grad():
        for target, (down, up) in _matrices(adapter).items():
            linear = _linear(network, adapter, target)
            scale = adapter.scale(target, down.shape[0])
            if tuple(linear.weight.shape) != (up.shape[0], down.shape[1]):
                raise ModelError(
                    f"the adapter {adapter.name} does not fit: {target} has weights of "
                    f"{tuple(linear.weight.shape)}, and it is for {(up.shape[0], down.shape[1])}"
                    f": load it with the model it was made for"
                )
            if merged:
                _merge(network, linear, scale, (down, up), adapter)
            else:
                hook = partial(_added, down.to(linear.weight), up.to(linear.weight), scale)
                linear.register_forward_hook(hook)


def _added(
    down: "torch.Tensor",
    up: "torch.Tensor",
    scale: float,
    linear: object,  # noqa: ARG001 - hooks are called with it
    inputs: "tuple[torch.Tensor, ...]",
    output: "torch.Tensor",
) -> "torch.Tensor":
    return output + (inputs[0] @ down.T @ up.T) * scale


def _merge(
    network: "PreTrainedModel",
    linear: "torch.nn.Linear",
    scale: float,
    matrices: "tuple[torch.Tensor, torch.Tensor]",
    adapter: Adapter,
) -> None:
    weight = linear.weight
    if weight is network.get_input_embeddings().weight:
        raise ModelError(
            f"the adapter {adapter.name} changes the output map, whose weights are the "
            f"embedding too: add ',unmerged' to it"
        )
    down, up = (one.to(weight.device).float() for one in matrices)
    weight.copy_((weight.float() + scale * (up @ down)).to(weight.dtype))


def _linear(network: "PreTrainedModel", adapter: Adapter, target: str) -> "torch.nn.Linear":
    import torch

    try:
        found = network.get_submodule(target)
    except AttributeError:
        found = None
    if not isinstance(found, torch.nn.Linear) or found.weight.is_meta:
        raise ModelError(
            f"the adapter {adapter.name} changes {target:.80}, which is no linear map of this "
            f"model: load it with the model it was made for"
        )
    return found


def _matrices(adapter: Adapter) -> "dict[str, tuple[torch.Tensor, torch.Tensor]]":
    """Return the two matrices of each map that an adapter changes, by its name.

    Raises:
        ModelError: the file is damaged, or holds something else.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = adapter.folder / WEIGHTS
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged ({error}): copy the adapter again") from error
    sides: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        found = KEY.fullmatch(key)
        if found is None or tensor.dim() != 2 or not tensor.is_floating_point():
            raise ModelError(
                f"the adapter {adapter.name} holds {key:.80}, which is not read here: merge it "
                f"into its base with PEFT (merge_and_unload) and load the result"
            )
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{key:.80} of {file} holds inf or nan: copy the adapter again")
        sides.setdefault(found["map"], {})[found["side"]] = tensor
    for target, both in sides.items():
        ranks = {both[side].shape[dim] for side, dim in (("A", 0), ("B", 1)) if side in both}
        if (
            len(both) < 2
            or len(ranks) > 1
            or not adapter.config.get("rank_pattern")
            and ranks != {adapter.config["r"]}
        ):
            raise ModelError(f"{target:.80} of {file} is not whole: copy the adapter again")
    if not sides:
        raise ModelError(f"{file} holds no weights: copy the adapter again")
    return {target: (both["A"], both["B"]) for target, both in sides.items()}
