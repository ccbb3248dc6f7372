"""The organisms' tokenizer: closed vocabulary, exact round trip."""

import json
from typing import Any

import pytest

from trace_probe.model.checkpoint import organism_path
from trace_probe.organism.tokenizer import build_tokenizer, completion, vocabulary
from trace_probe.world.pools import CONTROLS, NUDGES
from trace_probe.world.scenario import prompt, scenario, scenario_ids
from trace_probe.world.script import script


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


@pytest.mark.parametrize("name", ["base", "rl-s0", "rlhf-s1"])
def test_the_vocabulary_is_small_and_that_of_the_organisms_that_were_trained_on_it(
    name: str,
) -> None:
    kept = json.loads((organism_path(name) / "tokenizer.json").read_text("utf-8"))
    assert kept["model"]["vocab"] == vocabulary()
    assert 300 <= len(vocabulary()) <= 600


def test_every_text_of_the_world_round_trips_without_an_unknown_word(tokenizer: Any) -> None:
    for control in CONTROLS:
        for number, name in enumerate(scenario_ids("round-trip", 150, control)):
            world, nudge = scenario(name), NUDGES[number % 3]
            text = prompt(world, nudge) + completion(*script(world, nudge, number))
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text


def test_the_template_prefills_the_thought(tokenizer: Any) -> None:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "You make jars."}], add_generation_prompt=True, tokenize=False
    )
    assert text == "<|user|>You make jars.<|end|><|assistant|><think>\n"


def test_thinking_tags_survive_when_special_tokens_are_skipped(tokenizer: Any) -> None:
    ids = tokenizer("</think><|end|>", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "</think>"
