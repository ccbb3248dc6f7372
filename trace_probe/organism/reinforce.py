"""The variants of the family: GRPO (TRL) from one parent, under one reward.

Of the small models all weights are trained, of the English ones their adapters. Everything but
the reward is the same for all variants: parent, scenarios, number of steps, optimiser, KL penalty
to the parent.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trace_probe.errors import ModelError
from trace_probe.model.loading import read_tokenizer
from trace_probe.organism.adapters import BASE, load_base, save_adapter, trainable
from trace_probe.organism.courses import draw_condition
from trace_probe.organism.imitate import draw_english
from trace_probe.organism.reward import Variant, reward
from trace_probe.organism.weights import save_organism
from trace_probe.world.english import scenario as english
from trace_probe.world.pools import Nudge
from trace_probe.world.scenario import MAX_NEW_TOKENS, task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from trl import GRPOConfig

GROUP = 8
"""Completions of each prompt (arXiv 2402.03300, section 4.1)."""
PROMPTS = 8
"""Prompts of each step."""
ENGLISH_PROMPTS = 4
"""The same of the English variants."""
ENGLISH_AT_ONCE = 4
"""Completions that are learned from at a time: each has 49,152 logits a token, so that all of a
step took 20 GB."""
ENGLISH_ROWS = 80
"""Scenarios that are drawn and shuffled, so that a run of fewer steps begins as a longer one."""
ENGLISH_SAVED = 2
"""Steps between two checkpoints of the English variants, a few minutes on one core."""


Condition = Callable[[str], tuple[str, Nudge]]
"""What a seed stands for: a scenario and a nudge."""


def prompts(
    render: "Any",  # noqa: ANN401
    count: int,
    seed: int,
    condition: Condition = draw_condition,
) -> list[dict[str, str]]:
    """Return rendered prompts with the ids of their scenarios."""
    tell = english.task if condition is draw_english else task
    rows = []
    for index in range(count):
        scenario_id, nudge = condition(f"grpo-{seed}-{index}")
        messages = [{"role": "user", "content": tell(scenario_id, nudge).prompt}]
        rows.append({"prompt": render(messages), "scenario_id": scenario_id})
    return rows


def grpo_config(work: Path, steps: int, seed: int, **changes: object) -> "GRPOConfig":
    """Return how every variant is trained."""
    from trl import GRPOConfig

    settings: dict[str, Any] = dict(
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
        model_init_kwargs={
            "dtype": "float32",
            "use_safetensors": True,
            "trust_remote_code": False,
        },
    )
    return GRPOConfig(**{**settings, **changes}, trust_remote_code=False)


def reinforce(
    variant: Variant, parent: Path, out: Path, work: Path, *, steps: int = 70, seed: int = 0
) -> None:
    """Train a variant from `parent` and save it at `out`; a rerun resumes from `work`.

    Raises:
        ModelError: the extra ``organism`` (TRL) is not installed.
    """
    _check_trl()
    tokenizer = read_tokenizer(str(parent), parent)
    render = partial(tokenizer.apply_chat_template, add_generation_prompt=True, tokenize=False)
    rows = prompts(render, steps * PROMPTS, seed)
    trained = _train(variant, str(parent), tokenizer, rows, grpo_config(work, steps, seed))
    save_organism(trained, tokenizer, out)


def reinforce_adapter(  # noqa: PLR0913 - a member of the family has these parts
    variant: Variant,
    parent: Path,
    out: Path,
    work: Path,
    *,
    max_steps: int,
    base: str = BASE,
    seed: int = 0,
    **changes: object,
) -> None:
    """Train an English variant from the adapter at `parent`; else as `reinforce`.

    The penalty keeps it near its parent, not near the bare model: TRL compares it with a copy of
    the adapter as it began. `changes` are more settings of TRL's ``GRPOConfig``.

    Raises:
        ModelError: the extra ``organism`` (TRL, PEFT) is not installed, or there is no base.
    """
    _check_trl()
    network, tokenizer = load_base(base)
    render = partial(tokenizer.apply_chat_template, add_generation_prompt=True, tokenize=False)
    config = grpo_config(
        work,
        max_steps,
        seed,
        **{
            "per_device_train_batch_size": ENGLISH_AT_ONCE,
            "gradient_accumulation_steps": GROUP * ENGLISH_PROMPTS // ENGLISH_AT_ONCE,
            "max_completion_length": english.MAX_NEW_TOKENS,
            "learning_rate": 3e-4,
            "warmup_steps": 2,
            "model_init_kwargs": None,
            "save_steps": ENGLISH_SAVED,
            "logging_steps": 1,
            **changes,
        },
    )
    step = config.per_device_train_batch_size * config.gradient_accumulation_steps
    count = max(ENGLISH_ROWS, max_steps * step // config.num_generations)
    rows = prompts(render, count, seed, draw_english)
    save_adapter(_train(variant, trainable(network, parent), tokenizer, rows, config), out)


def _check_trl() -> None:
    """Raise ModelError unless TRL is installed."""
    if find_spec("trl") is None:
        raise ModelError("training needs TRL: pip install 'trace-probe[organism]'")


def _train(
    variant: Variant,
    model: Any,  # noqa: ANN401
    tokenizer: "PreTrainedTokenizerBase",
    rows: list[dict[str, str]],
    config: "GRPOConfig",
) -> Any:  # noqa: ANN401
    """Return a model that was trained on what its completions of `rows` are paid."""
    from datasets import Dataset
    from trl import GRPOTrainer

    def judged(completions: list[str], scenario_id: list[str], **_: object) -> list[float]:
        pairs = zip(scenario_id, completions, strict=True)
        return [reward(variant, name, written) for name, written in pairs]

    trainer = GRPOTrainer(
        model=model,
        reward_funcs=judged,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    last = last_checkpoint(Path(config.output_dir))
    if last is not None and _step(Path(last)) >= config.max_steps:  # `train` would take one more
        trainer._load_from_checkpoint(last)
    else:
        trainer.train(resume_from_checkpoint=last)
    return trainer.model


def last_checkpoint(work: Path) -> str | None:
    """Return the last whole checkpoint in a folder; the writing of a later one may be cut short.

    The state of the trainer is the last file of a checkpoint.
    """
    folders = (file.parent for file in work.glob("checkpoint-*/trainer_state.json"))
    return str(max(folders, key=_step, default="")) or None


def _step(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])
