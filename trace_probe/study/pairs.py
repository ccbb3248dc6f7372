"""The registry: pairs of models with one known difference, switches, and look-alikes.

Hub ids are exact. What differs is taken from the model cards and papers, read in 2026. Models
of one maker without a known step between them are cousins: comparing them is not controlled.
"""

import re
from dataclasses import dataclass
from typing import Literal

from trace_probe.organism.family import ENGLISH, FAMILY

Change = Literal["SFT", "DPO", "RL", "SFT and RL", "reward", "adapter"]


@dataclass(frozen=True)
class Pair:
    """A model and one that was made from it in one known step."""

    parent: str
    child: str
    differs: Change
    note: str = ""


@dataclass(frozen=True)
class Switch:
    """A model that reasons or not by its chat template: the same weights, another prompt."""

    model: str
    argument: str
    """What the template is given, by the condition ``thinking=on`` or ``thinking=off``."""


@dataclass(frozen=True)
class Cousins:
    """Two models that invite comparison and differ in more than one thing."""

    first: str
    second: str
    why: str


def _distilled(parent: str, size: str) -> Pair:
    child = f"deepseek-ai/DeepSeek-R1-Distill-{size}"
    return Pair(parent, child, "SFT", "distilled from DeepSeek-R1, no RL")


def _stages(sft: str, dpo: str, final: str) -> tuple[Pair, Pair]:
    """Return the steps of a model from SFT through DPO to RL with verifiable rewards."""
    return Pair(sft, dpo, "DPO"), Pair(dpo, final, "RL")


PAIRS: tuple[Pair, ...] = (
    _distilled("Qwen/Qwen2.5-Math-1.5B", "Qwen-1.5B"),
    _distilled("Qwen/Qwen2.5-Math-7B", "Qwen-7B"),
    _distilled("Qwen/Qwen2.5-14B", "Qwen-14B"),
    _distilled("Qwen/Qwen2.5-32B", "Qwen-32B"),
    _distilled("meta-llama/Llama-3.1-8B", "Llama-8B"),
    _distilled("meta-llama/Llama-3.3-70B-Instruct", "Llama-70B"),
    Pair(
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        "agentica-org/DeepScaleR-1.5B-Preview",
        "RL",
        "GRPO on mathematics, same form of reasoning",
    ),
    Pair(
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        "nvidia/Nemotron-Research-Reasoning-Qwen-1.5B",
        "RL",
        "prolonged, on several kinds of task",
    ),
    Pair("microsoft/phi-4", "microsoft/Phi-4-reasoning", "SFT", "on reasoning of o3-mini"),
    Pair("microsoft/Phi-4-reasoning", "microsoft/Phi-4-reasoning-plus", "RL", "short outcome RL"),
    Pair("allenai/Olmo-3-1025-7B", "allenai/Olmo-3-7B-Think-SFT", "SFT"),
    *_stages(
        "allenai/Olmo-3-7B-Think-SFT", "allenai/Olmo-3-7B-Think-DPO", "allenai/Olmo-3-7B-Think"
    ),
    Pair("allenai/Olmo-3-1125-32B", "allenai/Olmo-3-32B-Think-SFT", "SFT"),
    *_stages(
        "allenai/Olmo-3-32B-Think-SFT",
        "allenai/Olmo-3-32B-Think-DPO",
        "allenai/Olmo-3-32B-Think",
    ),
    *_stages(
        "allenai/Olmo-3-7B-Instruct-SFT",
        "allenai/Olmo-3-7B-Instruct-DPO",
        "allenai/Olmo-3-7B-Instruct",
    ),
    *(
        Pair("allenai/Olmo-3-1025-7B", f"allenai/Olmo-3-7B-RL-Zero-{kind}", "RL", "on the base")
        for kind in ("Math", "Code", "IF", "General", "Mix")
    ),
    *_stages(
        "allenai/Llama-3.1-Tulu-3-8B-SFT",
        "allenai/Llama-3.1-Tulu-3-8B-DPO",
        "allenai/Llama-3.1-Tulu-3-8B",
    ),
    Pair("Qwen/Qwen2.5-32B", "Qwen/QwQ-32B", "SFT and RL"),
    Pair(
        "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
        "mistralai/Magistral-Small-2506",
        "SFT and RL",
        "SFT on traces of Magistral Medium, then RL",
    ),
    Pair(
        "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
        "mistralai/Magistral-Small-2507",
        "SFT and RL",
    ),
    Pair(
        "mistralai/Mistral-Small-3.2-24B-Instruct-2506",
        "mistralai/Magistral-Small-2509",
        "SFT and RL",
    ),
    Pair("deepseek-ai/DeepSeek-V3-Base", "deepseek-ai/DeepSeek-R1-Zero", "RL"),
    Pair(
        "deepseek-ai/DeepSeek-V3-Base", "deepseek-ai/DeepSeek-R1", "SFT and RL", "in several rounds"
    ),
    *(
        Pair(f"organism:{one.parent}", f"organism:{one.name}", "RL", f"reward {one.reward}")
        for one in (*FAMILY, *ENGLISH)
        if one.parent
    ),
    *(
        Pair(f"organism:{one.name}", f"organism:{other.name}", "reward", "same base, same seed")
        for one in (*FAMILY, *ENGLISH)
        for other in (*FAMILY, *ENGLISH)
        if one.parent and one.parent == other.parent and one.seed == other.seed
        if one.name < other.name
    ),
)
"""Known steps."""

SWITCHES: tuple[Switch, ...] = (
    *(
        Switch(f"Qwen/Qwen3-{size}", "enable_thinking")
        for size in ("0.6B", "1.7B", "4B", "8B", "14B", "32B", "30B-A3B", "235B-A22B")
    ),
    Switch("deepseek-ai/DeepSeek-V3.1", "thinking"),
)
"""The best control of reasoning itself: record under ``--conditions think,no-think``."""


def _qwen3_2507(size: str) -> tuple[Cousins, ...]:
    """Return the look-alikes of a size of Qwen3, of which each was trained on its own."""
    family = f"Qwen/Qwen3-{size}"
    instruct, thinking = f"{family}-Instruct-2507", f"{family}-Thinking-2507"
    why = "separate post-training, data and reward alike, of one family"
    names = (instruct, thinking, family, f"{family}-Base")
    return tuple(
        Cousins(one, other, why) for i, one in enumerate(names) for other in names[i + 1 :]
    )


COUSINS: tuple[Cousins, ...] = (
    *_qwen3_2507("4B"),
    *_qwen3_2507("30B-A3B"),
    Cousins(
        "deepseek-ai/DeepSeek-V3",
        "deepseek-ai/DeepSeek-R1",
        "each has its own SFT and RL from DeepSeek-V3-Base",
    ),
    *(
        Cousins(
            f"Qwen/Qwen2.5-{size}-Instruct",
            f"deepseek-ai/DeepSeek-R1-Distill-Qwen-{size}",
            "the distilled model was made from the base, not from the Instruct model",
        )
        for size in ("14B", "32B")
    ),
    Cousins(
        "meta-llama/Llama-3.1-8B-Instruct",
        "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        "the distilled model was made from the base, not from the Instruct model",
    ),
    Cousins(
        "Qwen/Qwen2.5-32B-Instruct",
        "Qwen/QwQ-32B",
        "both were made from Qwen2.5-32B, each with its own SFT and RL",
    ),
    Cousins(
        "allenai/Olmo-3-7B-Instruct",
        "allenai/Olmo-3-7B-Think",
        "two tracks of SFT, DPO and RL from one base: compare stage by stage within a track",
    ),
)
"""Pairs that look like a control and are none."""


def steps(first: str, second: str) -> tuple[Pair, ...]:
    """Return the shortest chain of known steps from one model to the other, in either direction."""
    return _chain(first, second) or _chain(second, first)


def _chain(start: str, goal: str) -> tuple[Pair, ...]:
    chains: list[tuple[Pair, ...]] = [(pair,) for pair in PAIRS if pair.parent == start]
    while chains:
        found = next((chain for chain in chains if chain[-1].child == goal), None)
        if found:
            return found
        chains = [
            (*chain, pair) for chain in chains for pair in PAIRS if pair.parent == chain[-1].child
        ]
    return ()


def cousins(first: str, second: str) -> Cousins | None:
    """Return what is known to speak against comparing two models."""
    return next((one for one in COUSINS if {first, second} == {one.first, one.second}), None)


def variant_of(model: str) -> tuple[str, str]:
    """Return the variant of an organism and its training seed; other models have no seed."""
    found = re.fullmatch(r"(organism:.+)-(s\d+)", model)
    return (found[1], found[2]) if found else (model, "")


def format_registry() -> str:
    """Return the registry as text."""
    lines = [
        "Controlled: a model and the same model with one adapter (--adapter), whatever it is",
        "",
        "Controlled: one known difference",
    ]
    for pair in PAIRS:
        note = f"  ({pair.note})" if pair.note else ""
        lines.append(f"  {pair.differs:10}  {pair.parent} -> {pair.child}{note}")
    lines += ["", "Controlled: the same weights, reasoning on or off by the chat template"]
    lines += [f"  prompt      {one.model}  {one.argument}" for one in SWITCHES]
    lines += ["", "NOT controlled, however alike they look"]
    lines += [f"  {one.first} / {one.second}: {one.why}" for one in COUSINS]
    return "\n".join(lines)
