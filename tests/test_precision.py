"""Every road that touches a model runs in float32, bfloat16 and float16.

The suite runs a part of the table; `TRACE_PROBE_PRECISION=all` runs every cell: each road, family
and precision, with short texts and with texts longer than a pass.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_probes import a_probe
from precision import (
    DTYPES,
    LONG,
    NO_FAMILY,
    NO_LENGTH,
    ROADS,
    SHORT,
    Case,
    observes,
    reads_in_chunks,
    reads_whole,
    records,
    records_through_transformer_lens,
    records_with_workers,
    serves,
)
from tiny_models import FAMILIES, random_network, word_tokenizer

from trace_probe.errors import ModelError
from trace_probe.trace import Sampling, Task

EVERY_CELL = os.environ.get("TRACE_PROBE_PRECISION") == "all"


def in_the_suite(road: Callable[[Case], None], family: str, dtype: str, tokens: int) -> bool:
    """Return whether a cell is among those that always run.

    All families read in chunks; other roads take one family of each kind of attention.
    """
    if road is records_with_workers:
        return False
    if road is reads_in_chunks:
        return tokens == SHORT or family in ("qwen3", "gpt_oss")
    if road in (reads_whole, records) and tokens == SHORT:
        return dtype != "float32"
    if road in (records_through_transformer_lens, serves, observes):
        return (family, dtype) == ("qwen3", "bfloat16") and (tokens == LONG) == (road is observes)
    return family in ("qwen3", "gpt_oss") and dtype != "float32" and tokens == SHORT


CELLS = [
    pytest.param(road, family, dtype, tokens, id=f"{road.__name__}-{family}-{dtype}-{tokens}")
    for family in FAMILIES
    for dtype in DTYPES
    for road in ROADS
    for tokens in (SHORT, LONG)
    if not (road in NO_LENGTH and tokens == LONG)
    if not (road in NO_FAMILY and family != "qwen3")
    if EVERY_CELL or in_the_suite(road, family, dtype, tokens)
]


@pytest.mark.parametrize(("road", "family", "dtype", "tokens"), CELLS)
def test_a_road_runs_in_a_precision(
    road: Callable[[Case], None],
    family: str,
    dtype: str,
    tokens: int,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    if road is records_with_workers:
        request.getfixturevalue("cluster")
    road(Case(family, dtype, tokens, tmp_path))


# Where a precision cannot hold the numbers


@pytest.fixture(scope="module")
def overflowing() -> Any:
    """Return a model whose stream passes the greatest value of float16, in float16."""
    import torch

    from trace_probe.model.local import Model

    network = random_network()
    with torch.no_grad():
        network.model.layers[0].mlp.down_proj.weight.mul_(1e6)
    return Model(network.to(torch.float16), word_tokenizer(), "tiny-large@00000000")


PROMPT = Task("t", "c", "the model must finish its task")


def test_a_live_monitor_does_not_take_nan_for_calm(overflowing: Any) -> None:
    from trace_probe.monitor.live import Monitor

    with pytest.raises(ModelError, match=r"are inf or nan.*: load the model in bfloat16"):
        list(Monitor(overflowing, a_probe(overflowing)).watch(PROMPT, Sampling(max_new_tokens=4)))


def test_a_text_of_nan_is_not_scored_as_if_it_had_no_reasoning(overflowing: Any) -> None:
    from trace_probe.monitor.detector import as_detector
    from trace_probe.monitor.scoring import score_texts

    detector = as_detector(a_probe(overflowing))
    with pytest.raises(ModelError, match="activations that a probe reads are inf or nan"):
        list(score_texts(overflowing, detector, [{"reasoning": " stop it ."}]))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_token_is_drawn_from_logits_of_nan(overflowing: Any, temperature: float) -> None:
    from trace_probe.model.continuation import Branch, continue_from

    prompt = overflowing.render(PROMPT)
    sampling = Sampling(temperature=temperature, max_new_tokens=4)
    for write in (
        lambda: overflowing.generate([prompt], [1], sampling),
        lambda: continue_from(overflowing, [Branch(tuple(prompt), (1,), 4)], sampling),
    ):
        with pytest.raises(ModelError, match="the logits of the model are inf or nan"):
            write()


def test_what_transformer_lens_cannot_run_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    from trace_probe.model.bridge import load_weights
    from trace_probe.model.weights import Weights

    random_network("olmo3").config.save_pretrained(tmp_path)  # there are no weights to load
    with pytest.raises(ModelError, match=r"\(olmo3\) in bfloat16: use the backend hooks"):
        load_weights(Weights(str(tmp_path), dtype="bfloat16", backend="transformer-lens"))


def test_a_precision_that_there_is_not_is_refused_before_anything_is_loaded() -> None:
    from trace_probe.model.local import load_model

    with pytest.raises(ModelError, match="no dtype float8: choose .*float32, bfloat16"):
        load_model("no-such/model", dtype="float8")
