"""How an organism is written: half-precision safetensors beside its tokenizer."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_organism(
    network: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", out: Path
) -> None:
    """Write a network in float16 with its tokenizer; children start from what is written."""
    import torch

    network.to(torch.float16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "training_args.bin").unlink(missing_ok=True)
