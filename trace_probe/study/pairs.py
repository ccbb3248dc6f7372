"""Which comparisons of two runs are controlled: pairs of models with exactly one difference.

Hub ids are exact. What differs is taken from the model cards and papers, read in 2026.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from trace_probe.organism.family import FAMILY
from trace_probe.store import Manifest

Change = Literal["SFT", "DPO", "RL", "SFT and RL", "reward"]


@dataclass(frozen=True)
class Pair:
    """A model and one that was made from it in one known step."""

    parent: str
    child: str
    differs: Change
    note: str = ""


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
    Pair("microsoft/phi-4", "microsoft/Phi-4-reasoning", "SFT"),
    Pair("microsoft/Phi-4-reasoning", "microsoft/Phi-4-reasoning-plus", "RL", "short outcome RL"),
    *_stages(
        "allenai/Olmo-3-7B-Think-SFT", "allenai/Olmo-3-7B-Think-DPO", "allenai/Olmo-3-7B-Think"
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
        "mistralai/Mistral-Small-3.2-24B-Instruct-2506",
        "mistralai/Magistral-Small-2509",
        "SFT and RL",
    ),
    Pair("deepseek-ai/DeepSeek-V3-Base", "deepseek-ai/DeepSeek-R1-Zero", "RL"),
    *(
        Pair(f"organism:{one.parent}", f"organism:{one.name}", "RL", f"reward {one.reward}")
        for one in FAMILY
        if one.parent
    ),
    *(
        Pair(f"organism:{one.name}", f"organism:{other.name}", "reward", "same base, same seed")
        for one in FAMILY
        for other in FAMILY
        if one.parent == other.parent and one.seed == other.seed and one.name < other.name
    ),
)
"""Known steps. Models of one maker without a known step between them are cousins, not pairs."""


@dataclass(frozen=True)
class Comparison:
    """Whether the difference between two runs has one known cause."""

    first: str
    second: str
    controlled: bool
    differs: str
    """The one difference, or all that speaks against a controlled comparison."""

    def __str__(self) -> str:
        """Return it as a sentence."""
        if self.controlled:
            return f"{self.first} and {self.second} differ in one thing: {self.differs}"
        return f"{self.first} and {self.second} are NOT a controlled pair: {self.differs}"


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


@dataclass(frozen=True)
class Side:
    """One run of a comparison."""

    name: str
    manifest: Manifest
    labellers: frozenset[str]
    conditions: frozenset[str]
    """As `rates.named` writes them."""


def compare_runs(first: Side, second: Side) -> Comparison:
    """Return whether two runs are a controlled pair, and why not if they are not."""
    against = [
        f"{what} {left} against {right}"
        for what, left, right in _settings(first, second)
        if left != right
    ]
    models = _model(first.manifest), _model(second.manifest)
    chain = steps(*models)
    if models[0] != models[1]:
        if not chain:
            against.insert(0, f"no single step is known from {models[0]} to {models[1]}")
        if len(chain) > 1:
            changes = " and ".join(pair.differs for pair in chain)
            against.insert(0, f"{changes} lie between the models")
        if first.conditions != second.conditions:
            against.append("the prompts are under different conditions too")
    elif first.manifest.model != second.manifest.model:
        against.insert(0, f"revision {first.manifest.model} against {second.manifest.model}")
    names = first.name, second.name
    if against:
        return Comparison(*names, controlled=False, differs="; ".join(against))
    if chain:
        note = f" ({chain[0].note})" if chain[0].note else ""
        return Comparison(*names, controlled=True, differs=f"{chain[0].differs}{note}")
    prompt = "the prompt only" if first.conditions != second.conditions else "the draw only"
    return Comparison(*names, controlled=True, differs=f"{prompt} (same model, same sampling)")


def _settings(first: Side, second: Side) -> Iterator[tuple[str, object, object]]:
    """Yield what must be the same in both runs; the seed need not be."""
    for name in ("temperature", "top_p", "max_new_tokens"):
        one, other = first.manifest.sampling, second.manifest.sampling
        yield name, getattr(one, name), getattr(other, name)
    yield "dtype", first.manifest.dtype or "unknown", second.manifest.dtype or "unknown"
    yield "source", first.manifest.source, second.manifest.source
    by = [", ".join(sorted(side.labellers)) for side in (first, second)]
    yield "labels by", by[0], by[1]


def _model(manifest: Manifest) -> str:
    """Return the name of a model without its revision."""
    return manifest.model.rpartition("@")[0] or manifest.model
