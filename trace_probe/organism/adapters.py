"""Adapters of a pretrained model: how they are made, kept between steps, and written."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trace_probe.errors import ModelError
from trace_probe.files import load_json, write_bytes, write_json
from trace_probe.model.checkpoint import locate
from trace_probe.model.loading import read_network, read_tokenizer

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BASE = "smollm2"
"""The model that the English organisms are adapters of, as commands call it."""
MAPS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Linear maps of a layer that are adapted."""
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
"""The chat template of the base, without its standing system message, and with an open thought."""
FIXED = 5
"""One in so many layers, the first ones, stays as it is: nothing is learned back through them."""


def new_adapter(network: "PreTrainedModel", rank: int, seed: int) -> "PeftModel":
    """Return a network with fresh low-rank matrices on the linear maps of its later layers.

    Raises:
        ModelError: PEFT is not installed.
    """
    import torch

    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ModelError("adapters need PEFT: pip install 'trace-probe[organism]'") from error
    torch.manual_seed(seed)
    layers = network.config.num_hidden_layers
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=list(MAPS),
        layers_to_transform=list(range(layers // FIXED, layers)),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(network, config)


def load_base(name: str = BASE) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Return the base in single precision and its tokenizer with the organisms' template.

    Raises:
        ModelError: it is not on this machine.
    """
    import torch

    place = locate(name)
    tokenizer = read_tokenizer(name, place)
    tokenizer.chat_template = TEMPLATE
    return read_network(name, place, dtype=torch.float32), tokenizer


def trainable(network: "PreTrainedModel", folder: Path) -> "PeftModel":
    """Return a network with the adapter that `save_adapter` wrote, to be trained further.

    Raises:
        ModelError: PEFT is not installed, or the adapter is of another form.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    rank = load_json(folder / "adapter_config.json").get("r")
    if not isinstance(rank, int):
        raise ModelError(f"{folder} holds no adapter of ours: train it again from its base")
    adapted = new_adapter(network, rank, seed=0)
    found = set_peft_model_state_dict(adapted, load_file(folder / "adapter_model.safetensors"))
    if found.unexpected_keys:
        raise ModelError(f"{folder} holds an adapter of other maps: train it again from its base")
    return adapted


def save_adapter(adapted: "PeftModel", out: Path) -> None:
    """Write an adapter in float16 as PEFT reads it, with the chat template it was taught."""
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    halves = {name: t.detach().to(torch.float16).contiguous() for name, t in tensors.items()}
    write_bytes(out / "adapter_model.safetensors", save(halves, {"format": "pt"}))
    config = adapted.peft_config["default"].to_dict()
    plain = {name: sorted(v) if isinstance(v, set) else v for name, v in config.items()}
    plain |= {"base_model_name_or_path": BASE, "inference_mode": True}
    write_bytes(out / "chat_template.jinja", TEMPLATE.encode())
    write_json(out / "adapter_config.json", plain)


class Checkpoint:
    """What training needs to go on: matrices, the optimiser's moments, the step; no pickle."""

    def __init__(self, folder: Path) -> None:
        """Keep checkpoints in a folder."""
        self.weights = folder / "checkpoint.safetensors"

    def save(self, adapted: "PeftModel", optimiser: "torch.optim.Optimizer", step: int) -> None:
        """Write a checkpoint in one file, so that it is whole or the one before."""
        from safetensors.torch import save

        tensors = {}
        for name, parameter in _learned(adapted).items():
            tensors[f"value/{name}"] = parameter.detach().contiguous()
            for moment in ("exp_avg", "exp_avg_sq"):
                if parameter in optimiser.state:
                    kept = optimiser.state[parameter][moment]
                    tensors[f"{moment}/{name}"] = kept.detach().contiguous()
        write_bytes(self.weights, save(tensors, {"step": str(step)}))

    def load(self, adapted: "PeftModel", optimiser: "torch.optim.Optimizer") -> int:
        """Restore the last checkpoint, if there is one; return the step to go on with."""
        import torch
        from safetensors import safe_open

        if not self.weights.is_file():
            return 0
        with safe_open(self.weights, framework="pt") as file:
            step = int(file.metadata()["step"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name, parameter in _learned(adapted).items():
            with torch.no_grad():
                parameter.copy_(tensors[f"value/{name}"])
            optimiser.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"exp_avg/{name}"],
                "exp_avg_sq": tensors[f"exp_avg_sq/{name}"],
            }
        return step


def _learned(adapted: "PeftModel") -> dict[str, Any]:
    return {name: p for name, p in adapted.named_parameters() if p.requires_grad}
