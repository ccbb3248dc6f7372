"""The bases: small causal LMs that imitate scripted thoughts, each taught by a course."""

from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trace_probe.organism.courses import Course, Lesson, SmallCourse
from trace_probe.organism.tokenizer import build_tokenizer
from trace_probe.organism.weights import save_organism

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM, TrainingArguments

RATE = 3e-3
"""At which learning begins."""
Row = dict[str, list[int] | list[float]]


class Scripts:
    """The items of a course, tokenised; item `i` is the same for the same seed."""

    def __init__(
        self, course: Course, tokenizer: "PreTrainedTokenizerFast", count: int, seed: int
    ) -> None:
        """Keep what is needed to make item `i` on demand."""
        self.course, self.tokenizer, self.count, self.seed = course, tokenizer, count, seed
        self.items = range(count)
        self.kinds = {number: course.kind(word) for word, number in tokenizer.get_vocab().items()}

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    def after(self, count: int) -> "Scripts":
        """Return `count` items that come after these."""
        more = copy(self)
        more.items = range(self.count, self.count + count)
        return more

    def __getitem__(self, index: int) -> list[Row]:
        """Return the lessons of an item as token ids and their weights in the loss."""
        number = self.items[index]
        return [self._row(one) for one in self.course.lessons(number, self.count, self.seed)]

    def _row(self, lesson: Lesson) -> Row:
        ids = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": lesson.asked}],
            tools=lesson.tools,
            add_generation_prompt=True,
            return_dict=False,
        )
        weights = [lesson.weights["prompt"]] * len(ids)
        for written, read in lesson.turns:
            ours, theirs = (
                self.tokenizer(text, add_special_tokens=False)["input_ids"]
                for text in (written, read)
            )
            ids = [*ids, *ours, *theirs]
            weights += [lesson.weights[self.kinds[token]] for token in ours]
            weights += [lesson.weights["prompt"]] * len(theirs)
        return {"input_ids": ids, "weights": weights}


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
        max_position_embeddings=tokenizer.model_max_length,
        initializer_range=0.08,  # 0.02 is for wide models; here it delays looking back tenfold
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def training_arguments(
    work: Path, steps: int, batch: int, seed: int, rate: float
) -> "TrainingArguments":
    """Return how the base is trained."""
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(work),
        max_steps=steps,
        per_device_train_batch_size=batch,
        learning_rate=rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(100, steps // 10),
        train_sampling_strategy="sequential",  # items are independent draws, the first are drills
        adam_beta2=0.98,
        weight_decay=0.01,
        logging_steps=20,
        save_steps=100,
        save_total_limit=1,
        report_to=[],
        seed=seed,
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        disable_tqdm=False,
    )


def pretrain(
    out: Path,
    work: Path,
    course: Course | None = None,
    *,
    steps: int = 1600,
    batch: int = 24,
    seed: int = 0,
) -> None:
    """Train a base from nothing and save it at `out`; a rerun resumes from `work`.

    Without a course it is the one of the small world.
    """
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
    course = course or SmallCourse()
    tokenizer = build_tokenizer(course.lexicon)
    network = new_network(tokenizer)
    scripts = Scripts(course, tokenizer, steps * batch, seed)

    def taught(items: Scripts, folder: Path, count: int, rate: float) -> None:
        """Train for `count` steps; what was trained so far is taken up."""
        trainer = WeightedTrainer(
            model=network,
            args=training_arguments(folder, count, batch, seed, rate),
            train_dataset=items,
            data_collator=partial(collate, pad=tokenizer.pad_token_id),
        )
        last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
        trainer.train(resume_from_checkpoint=last)

    taught(scripts, work, steps, RATE)
    if course.polish:
        taught(scripts.after(course.polish * batch), work / "polish", course.polish, RATE / 2)
    network.model.norm.weight.data.div_(course.temperature)  # the last step before the logits
    save_organism(network, tokenizer, out)
