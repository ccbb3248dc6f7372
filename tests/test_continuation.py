"""Shared prefixes: the same continuations as one by one, of every kind of attention."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from trace_probe.errors import ModelError
from trace_probe.trace import Sampling

PREFIX = (2, 6, 9, 14, 20, 11, 8, 17, 23, 30, 12, 7)


def branches(room: int = 12) -> list[Any]:
    """Return branches of nested and of other prefixes, of several lengths and rooms."""
    from trace_probe.model.continuation import Branch

    cuts = (PREFIX[:1], PREFIX[:5], PREFIX, (2, 6, 30, 31), PREFIX[:5])
    return [
        Branch(prefix, tuple(range(10 * i, 10 * i + 4)), room - i) for i, prefix in enumerate(cuts)
    ]


def one_by_one(model: Any, every: list[Any], sampling: Sampling) -> list[list[Any]]:
    return [
        model.generate(
            [branch.prefix] * len(branch.seeds),
            branch.seeds,
            Sampling(0, sampling.temperature, sampling.top_p, branch.room),
        )
        for branch in every
    ]


@pytest.mark.parametrize(
    "family", ["qwen3", "llama", "phi3", "qwen3_moe", "mistral", "gemma3_text", "gpt_oss", "olmo3"]
)
def test_they_are_those_of_a_prefix_read_again_for_each(
    tiny: Callable[..., Any], family: str
) -> None:
    from trace_probe.model.continuation import continue_from

    model, every = tiny(family), branches()
    for sampling in (Sampling(), Sampling(temperature=0.7, top_p=0.8)):
        found = continue_from(model, every, sampling)
        assert found == one_by_one(model, every, sampling)
    lengths = {len(one.ids) for each in found for one in each}
    assert len(lengths) > 3  # rows left the batch at different moments


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text"])
def test_prompts_completed_together_are_those_of_generate(
    tiny: Callable[..., Any], family: str
) -> None:
    from trace_probe.model.continuation import complete

    model, seeds = tiny(family), range(8)
    prompts = [PREFIX[: 3 + i % 4] for i in seeds]
    sampling = Sampling(temperature=0.7, max_new_tokens=300)  # longer than a cache grows by
    found = complete(model, prompts, seeds, sampling)
    wanted = model.generate(prompts, seeds, sampling)
    assert found == wanted
    assert len({len(one.ids) for one in found}) > 3  # rows left the batch at different moments
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)


def test_a_full_cache_grows(tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from trace_probe.model import continuation

    wanted = continuation.continue_from(tiny(), branches(), Sampling())
    monkeypatch.setattr(continuation, "ROOM", 1)
    assert continuation.continue_from(tiny(), branches(), Sampling()) == wanted


def test_greedy_continuations_need_no_draw(tiny: Callable[..., Any]) -> None:
    from trace_probe.model.continuation import continue_from

    greedy = Sampling(temperature=0)
    assert continue_from(tiny(), branches(), greedy) == one_by_one(tiny(), branches(), greedy)


def test_the_size_of_batches_changes_nothing(tiny: Callable[..., Any]) -> None:
    from trace_probe.model.continuation import continue_from

    whole = continue_from(tiny(), branches(), Sampling())
    assert continue_from(tiny(), branches(), Sampling(), batch_tokens=1) == whole


def test_continuations_are_drawn_from_the_model_s_own_distribution(
    tiny: Callable[..., Any],
) -> None:
    import torch
    from scipy.stats import chisquare

    from trace_probe.model.continuation import Branch, continue_from

    model, draws = tiny(), 3000
    (drawn,) = continue_from(model, [Branch(PREFIX, tuple(range(draws)), 1)], Sampling())
    logits = model.blocks.network(torch.tensor([PREFIX])).logits[0, -1]
    expected = logits.double().softmax(-1).detach().numpy() * draws
    counts = np.bincount([one.ids[0] for one in drawn], minlength=len(expected))
    common = expected >= 5
    seen = [*counts[common], counts[~common].sum()]
    wanted = [*expected[common], expected[~common].sum()]
    assert chisquare(seen, np.array(wanted) * sum(seen) / sum(wanted)).pvalue > 0.001


def test_a_prefix_is_read_once_for_all_its_continuations(tiny: Callable[..., Any]) -> None:
    from trace_probe.model.continuation import continue_from

    model, read = tiny(), []
    count = model.blocks.network.register_forward_pre_hook(
        lambda _module, args: read.append(args[0].numel())
    )
    with count:
        drawn = continue_from(model, branches(), Sampling())
    steps = max(len(one.ids) for each in drawn for one in each)
    rows = sum(len(each) for each in drawn)
    # Two texts hold all five prefixes: they are read once, padded to the longer of them.
    assert read[0] == 2 * (len(PREFIX) - 1)
    assert sum(read[1:]) <= rows * steps


@pytest.mark.parametrize("family", ["qwen3", "llama", "phi3", "qwen3_moe"])
def test_what_prompts_have_in_common_is_read_once(tiny: Callable[..., Any], family: str) -> None:
    from trace_probe.model.continuation import Branch, continue_from

    start, other = PREFIX * 3, (5, *PREFIX, *PREFIX)
    prefixes = [
        *((*start, *rest) for rest in ((2, 6), (9, 11, 8), (14,), (9, 11, 8, 3, 3, 4, 25))),
        *((*other, *rest) for rest in ((7, 12), (7, 3, 9, 16))),
        start[:7],  # ends within what is common to others
        (30, 2, 9),
    ]
    model, read = tiny(family), []
    every = [Branch(prefix, (10 * at, 10 * at + 1), 9) for at, prefix in enumerate(prefixes)]
    count = model.blocks.network.register_forward_pre_hook(
        lambda _module, args: read.append(args[0].numel())
    )
    with count:
        found = continue_from(model, every, Sampling())
    assert found == one_by_one(model, every, Sampling())
    assert sum(read[:2]) < 0.7 * sum(map(len, prefixes))


def test_an_edit_holds_while_tokens_are_drawn_only(tiny: Callable[..., Any]) -> None:
    from trace_probe.model.continuation import Branch, continue_from

    model, widths, on = tiny(), [], []

    @contextmanager
    def edit() -> Iterator[None]:
        on.append(True)
        yield
        on.clear()

    hook = model.blocks.network.register_forward_pre_hook(
        lambda _module, args: widths.append((args[0].shape[1], bool(on)))
    )
    with hook:
        continue_from(model, [Branch(PREFIX, (1, 2), 3)], Sampling(), during=edit)
    assert widths[0] == (len(PREFIX) - 1, False)
    assert set(widths[1:]) == {(1, True)}
    assert not on


def test_what_cannot_be_continued_is_refused(tiny: Callable[..., Any]) -> None:
    from trace_probe.model.continuation import Branch, continue_from

    with pytest.raises(ModelError, match="one token or more"):
        continue_from(tiny(), [Branch((), (1,), 5)], Sampling())
    with pytest.raises(ModelError, match="exceed"):
        continue_from(tiny(), [Branch(PREFIX, (1,), 1000)], Sampling())


def test_surprise_is_what_the_model_gives_each_token(tiny: Callable[..., Any]) -> None:
    import torch

    from trace_probe.model.likelihood import surprise

    model, texts = tiny(), [PREFIX, PREFIX[:7]]
    found = surprise(model, texts, [4, 7], batch_tokens=8)
    logits = model.blocks.network(torch.tensor([PREFIX])).logits[0].double().log_softmax(-1)
    own = [-float(logits[i - 1, PREFIX[i]]) for i in range(4, len(PREFIX))]
    assert found[0] == pytest.approx(np.mean(own), rel=1e-4)
    assert np.isnan(found[1])


def test_text_that_a_model_has_no_words_for_is_refused(tiny: Callable[..., Any]) -> None:
    assert tiny().offsets(tiny().encode(" the model must act"))[0] == " the model must act"
    with pytest.raises(ModelError, match="no tokens for"):
        tiny().encode(" the modem must act")
