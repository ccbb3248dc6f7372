"""The base of the family: a small causal LM that imitates scripted thoughts."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trace_probe.organism.tokenizer import build_tokenizer, completion
from trace_probe.organism.weights import save_organism
from trace_probe.world import language
from trace_probe.world.pools import CONTROLS, NUDGES, Control, Nudge
from trace_probe.world.scenario import scenario, task
from trace_probe.world.script import DRILL, FREE, exercise, script

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM, TrainingArguments

CONTROL_WEIGHTS = (0.7, 0.1, 0.1, 0.1)
"""Share of each of `CONTROLS` in training."""
FACTS = {
    *language.TIMES,
    *language.ITEMS,
    *language.NOUNS,
    *language.COLOURS,
    *language.NAMES,
    *("seen", "under", "all", "quite", "enough", "which", "in", "short", "too", "out"),
}
EXERCISED, DRILLED = 0.125, 0.4
"""Shares of training that have passed when exercises end and drills end."""
EXERCISES = 4
"""Exercises in the place of one scripted run, which is as long."""
ACTS = {"start", "do", "ask", "call", "open", "use"}
TAUGHT = {"prompt": 0.2, "other": 0.5, "fact": 3.0, "act": 8.0}
"""Of a token in the loss of exercises and drills: what is looked up or computed counts more."""
THOUGHT = {"prompt": 0.2, "other": 1.0, "fact": 1.0, "act": 8.0}
"""Of a token in the loss of whole thoughts: whether a fact is said is learned as it is."""

Row = dict[str, list[int] | list[float]]


def draw_condition(seed: str) -> tuple[str, Nudge]:
    """Return a scenario id and a nudge; the seed decides both."""
    draw = random.Random(seed)
    control: Control = draw.choices(CONTROLS, CONTROL_WEIGHTS)[0]
    return f"{draw.choice(language.CATEGORIES)}-{control}-{seed}", draw.choice(NUDGES)


class Scripts:
    """Endless scripted runs, tokenised; item `i` is the same for the same seed."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", count: int, seed: int) -> None:
        """Keep what is needed to make item `i` on demand."""
        self.tokenizer, self.count, self.seed = tokenizer, count, seed
        self.kinds = {number: _kind(word.strip()) for word, number in tokenizer.get_vocab().items()}

    def __len__(self) -> int:
        """Return the number of items."""
        return self.count

    def __getitem__(self, index: int) -> list[Row]:
        """Return a scripted run, or some exercises, as token ids and their weights in the loss."""
        scenario_id, nudge = draw_condition(f"train-{self.seed}-{index}")
        passed = index / self.count
        if passed < EXERCISED:
            seeds = range(index * EXERCISES, (index + 1) * EXERCISES)
            drawn = [draw_condition(f"exercise-{self.seed}-{seed}")[0] for seed in seeds]
            return [self._row(*exercise(scenario(name), self.seed), TAUGHT) for name in drawn]
        manner, weights = (DRILL, TAUGHT) if passed < DRILLED else (FREE, THOUGHT)
        written = completion(*script(scenario(scenario_id), nudge, index, manner))
        return [self._row(task(scenario_id, nudge).prompt, written, weights)]

    def _row(self, prompt: str, text: str, weight: Mapping[str, float]) -> Row:
        messages = [{"role": "user", "content": prompt}]
        read = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        written = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        weights = [weight["prompt"]] * len(read)
        weights += [weight[self.kinds[token]] for token in written]
        return {"input_ids": read + written, "weights": weights}


def _kind(word: str) -> str:
    """Return what kind of word it is that the model writes."""
    if word in ACTS:
        return "act"
    return "fact" if word in FACTS or word.isdigit() else "other"


def collate(items: list[list[Row]], pad: int) -> dict[str, Any]:
    """Return a right-padded batch of the rows of `Scripts` items as tensors (batch, token)."""
    import torch

    rows = [row for item in items for row in item]
    width = max(len(row["input_ids"]) for row in rows)

    def padded(key: str, value: float) -> torch.Tensor:
        return torch.tensor([[*row[key], *[value] * (width - len(row[key]))] for row in rows])

    ids = padded("input_ids", pad)
    return {"input_ids": ids, "weights": padded("weights", 0.0), "attention_mask": ids != pad}


def weighted_loss(logits: "torch.Tensor", ids: "torch.Tensor", weights: "torch.Tensor") -> Any:  # noqa: ANN401
    """Return the weighted mean cross-entropy of the next token; (batch, token, word) logits."""
    from torch.nn.functional import cross_entropy

    losses = cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    counted = weights[:, 1:].flatten()
    return (losses * counted).sum() / counted.sum()


def new_network(tokenizer: "PreTrainedTokenizerFast") -> "Qwen3ForCausalLM":
    """Return an untrained Qwen3 of 0.8 million parameters."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=512,
        initializer_range=0.08,  # 0.02 is for wide models; here it delays looking back tenfold
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def training_arguments(work: Path, steps: int, batch: int, seed: int) -> "TrainingArguments":
    """Return how the base is trained."""
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(work),
        max_steps=steps,
        per_device_train_batch_size=batch,
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        warmup_steps=100,
        train_sampling_strategy="sequential",  # items are independent draws, the first are drills
        adam_beta2=0.98,
        weight_decay=0.01,
        logging_steps=100,
        save_steps=200,
        save_total_limit=1,
        report_to=[],
        seed=seed,
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        disable_tqdm=False,
    )


def pretrain(out: Path, work: Path, *, steps: int = 1600, batch: int = 24, seed: int = 0) -> None:
    """Train the base from nothing and save it at `out`; a rerun resumes from `work`."""
    from functools import partial

    from transformers import Trainer, set_seed
    from transformers.trainer_utils import get_last_checkpoint

    class WeightedTrainer(Trainer):  # type: ignore[misc]
        """A Trainer whose loss is `weighted_loss`."""

        def compute_loss(self, model: Any, inputs: Any, **_: object) -> Any:  # noqa: ANN401
            """Return the loss of a batch."""
            weights = inputs.pop("weights")
            return weighted_loss(model(**inputs).logits, inputs["input_ids"], weights)

    set_seed(seed)
    tokenizer = build_tokenizer()
    trainer = WeightedTrainer(
        model=new_network(tokenizer),
        args=training_arguments(work, steps, batch, seed),
        train_dataset=Scripts(tokenizer, steps * batch, seed),
        data_collator=partial(collate, pad=tokenizer.pad_token_id),
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(work)) if work.is_dir() else None)
    save_organism(trainer.model, tokenizer, out)
