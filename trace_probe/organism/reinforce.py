"""The variants of the family: GRPO (TRL) from one parent, under one reward.

Everything but the reward is the same for all variants: parent, scenarios, number of steps,
optimiser, KL penalty to the parent.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trace_probe.errors import ModelError
from trace_probe.model.loading import read_tokenizer
from trace_probe.organism.courses import draw_condition
from trace_probe.organism.reward import Variant, reward
from trace_probe.organism.weights import save_organism
from trace_probe.world.scenario import MAX_NEW_TOKENS, task

if TYPE_CHECKING:
    from trl import GRPOConfig

GROUP = 8
"""Completions of each prompt (arXiv 2402.03300, section 4.1)."""
PROMPTS = 8
"""Prompts of each step."""


def prompts(render: "Any", count: int, seed: int) -> list[dict[str, str]]:  # noqa: ANN401
    """Return rendered prompts with the ids of their scenarios."""
    rows = []
    for index in range(count):
        scenario_id, nudge = draw_condition(f"grpo-{seed}-{index}")
        messages = [{"role": "user", "content": task(scenario_id, nudge).prompt}]
        rows.append({"prompt": render(messages), "scenario_id": scenario_id})
    return rows


def grpo_config(work: Path, steps: int, seed: int) -> "GRPOConfig":
    """Return how every variant is trained."""
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=str(work),
        max_steps=steps,
        per_device_train_batch_size=GROUP * PROMPTS,
        num_generations=GROUP,
        max_completion_length=MAX_NEW_TOKENS,
        temperature=1.0,
        top_k=0,
        beta=0.02,
        scale_rewards="none",
        loss_type="dr_grpo",
        learning_rate=3e-4,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=5,
        logging_steps=5,
        save_steps=20,
        save_total_limit=1,
        report_to=[],
        seed=seed,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        trust_remote_code=False,
        model_init_kwargs={
            "dtype": "float32",
            "use_safetensors": True,
            "trust_remote_code": False,
        },
    )


def reinforce(
    variant: Variant, parent: Path, out: Path, work: Path, *, steps: int = 70, seed: int = 0
) -> None:
    """Train a variant from `parent` and save it at `out`; a rerun resumes from `work`.

    Raises:
        ModelError: the extra ``organism`` (TRL) is not installed.
    """
    try:
        from trl import GRPOTrainer
    except ImportError as error:
        raise ModelError("training needs TRL: pip install -e '.[organism]'") from error
    from datasets import Dataset
    from transformers.trainer_utils import get_last_checkpoint

    tokenizer = read_tokenizer(str(parent), parent)
    render = partial(tokenizer.apply_chat_template, add_generation_prompt=True, tokenize=False)

    def judged(completions: list[str], scenario_id: list[str], **_: object) -> list[float]:
        pairs = zip(scenario_id, completions, strict=True)
        return [reward(variant, name, written) for name, written in pairs]

    trainer = GRPOTrainer(
        model=str(parent),
        reward_funcs=judged,
        args=grpo_config(work, steps, seed),
        train_dataset=Dataset.from_list(prompts(render, steps * PROMPTS, seed)),
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(work)) if work.is_dir() else None)
    save_organism(trainer.model, tokenizer, out)
