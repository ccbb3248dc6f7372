"""The MLP head: one hidden layer, which can hold an AND of two facts that a line cannot."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from trace_probe.errors import ProbeError
from trace_probe.probing.binary import BinaryProbe, ClassWeight, Floats, Rows, Tensors, row_scale
from trace_probe.statistics.bootstrap import Index

if TYPE_CHECKING:
    import torch

BATCH = 256
LEARNING_RATE = 3e-3
EPOCHS = 30
STEPS = (300, 1000)
"""The fewest and the most steps of gradient descent, however few or many rows there are."""
TENSORS = ("mean", "scale", "hidden_weight", "hidden_bias", "out_weight", "out_bias", "direction")


class MLPProbe(BinaryProbe):
    """Several small networks with one hidden layer of rectified units; their mean is the score.

    Rows are standardised within classes. Training takes a fixed number of steps (AdamW, a rate
    that falls to zero along a cosine), so there is no row to set aside to stop it by. Members
    differ in their first weights and in what dropout hides from them. The same rows and
    `random_state` give the same probe on the same machine, whatever the number of threads.

    Attributes:
        hidden_weight_: (members x hidden, width), on standardised rows.
        hidden_bias_: (members x hidden,).
        out_weight_: (members x hidden,), already divided by the number of members.
        out_bias_: The offset of the score.
        direction_: (width,), the mean gradient over the rows it learned from.
    """

    head: ClassVar[str] = "mlp"

    def __init__(
        self,
        C: float = 1.0,
        hidden: int = 64,
        members: int = 2,
        dropout: float = 0.4,
        class_weight: ClassWeight = "balanced",
        random_state: int | None = 0,
    ) -> None:
        """Choose the size; a smaller `C` decays weights more, as it penalises a linear probe."""
        self.C = C
        self.hidden = hidden
        self.members = members
        self.dropout = dropout
        self.class_weight = class_weight
        self.random_state = random_state

    def _fit(self, rows: NDArray[Any], codes: Index, weight: Floats) -> None:
        self._check_parameters()
        rows = rows.astype(np.float32, copy=False)
        self.mean_ = np.average(rows, axis=0, weights=weight).astype(np.float32)
        self.scale_ = row_scale(rows, codes, weight)
        seed = int(check_random_state(self.random_state).randint(2**31))
        network = _train(self, (rows - self.mean_) / self.scale_, codes, weight, seed)
        first, bias, out, offset = (part.detach().numpy() for part in network)
        self.hidden_weight_, self.hidden_bias_ = first, bias
        self.out_weight_ = (out / self.members).astype(np.float32)
        self.out_bias_ = np.array([offset.mean()], np.float32)
        self.direction_ = self._gradient(rows, weight)

    def _check_parameters(self) -> None:
        if self.hidden < 1 or self.members < 1:
            raise ProbeError("an MLP needs one hidden unit and one member at least: give more")
        if not 0 <= self.dropout < 1 or self.C <= 0:
            raise ProbeError("give a dropout of at least 0 and below 1, and a C above 0")

    def raw_scores(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return (row,) scores; see `BinaryProbe.raw_scores`."""
        hidden = ((X - self.mean_) / self.scale_) @ self.hidden_weight_.T
        hidden += self.hidden_bias_
        np.maximum(hidden, 0, out=hidden)
        scores: NDArray[Any] = hidden @ self.out_weight_ + self.out_bias_[0]
        return scores

    def _gradient(self, X: NDArray[Any], weight: Floats) -> NDArray[np.float32]:
        """Return (width,) the weighted mean of the gradient of the score over rows."""
        open_ = ((X - self.mean_) / self.scale_) @ self.hidden_weight_.T + self.hidden_bias_ > 0
        share = np.average(open_, axis=0, weights=weight) * self.out_weight_
        return np.asarray(share @ self.hidden_weight_ / self.scale_, np.float32)

    def direction(self) -> Floats:
        """Return (width,) the gradient of the score, the mean over the rows it learned from."""
        return self.direction_.astype(np.float64)

    def to_tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return the weights by name, as the attributes are called."""
        check_is_fitted(self)
        return {name: np.ascontiguousarray(getattr(self, f"{name}_")) for name in TENSORS}

    @classmethod
    def from_tensors(cls, tensors: Tensors, **params: Any) -> Self:  # noqa: ANN401
        """Return a fitted probe; see `BinaryProbe.from_tensors`."""
        probe = cls(**params)
        for name in TENSORS[:-1]:
            setattr(probe, f"{name}_", np.asarray(tensors[name], np.float32))
        at_mean = probe._gradient(probe.mean_[None], np.ones(1))
        probe.direction_ = np.asarray(tensors.get("direction", at_mean), np.float32)
        return probe._as_fitted(len(probe.mean_))

    @classmethod
    def mean_of(cls, probes: Sequence[Self]) -> Self:
        """Return one network with the units of all; see `BinaryProbe.mean_of`.

        The rows that each was trained on were standardised by their own mean and scale, which
        become those of all.
        """
        params, whole = probes[0].get_params(), cls()
        whole.set_params(**{**params, "members": params["members"] * len(probes)})
        whole.mean_ = np.asarray(np.mean([one.mean_ for one in probes], axis=0), np.float32)
        whole.scale_ = np.asarray(np.mean([one.scale_ for one in probes], axis=0), np.float32)
        whole.hidden_weight_ = np.concatenate(
            [one.hidden_weight_ * (whole.scale_ / one.scale_) for one in probes]
        )
        whole.hidden_bias_ = np.concatenate(
            [
                one.hidden_bias_ + one.hidden_weight_ @ ((whole.mean_ - one.mean_) / one.scale_)
                for one in probes
            ]
        )
        shares = [one.out_weight_ / len(probes) for one in probes]
        whole.out_weight_ = np.concatenate(shares).astype(np.float32)
        whole.out_bias_ = np.asarray(np.mean([one.out_bias_ for one in probes], axis=0), np.float32)
        direction = np.mean([one.direction_ for one in probes], axis=0)
        whole.direction_ = np.asarray(direction, np.float32)
        return whole._as_fitted(len(whole.mean_))


def _train(
    probe: MLPProbe, rows: Rows, codes: Index, weight: Floats, seed: int
) -> "list[torch.Tensor]":
    """Return both layers of all members, trained side by side on the same batches."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of several threads depend on how many there are
    try:
        return _descend(probe, rows, codes, weight, torch.Generator().manual_seed(seed))
    finally:
        torch.set_num_threads(threads)


def _descend(
    probe: MLPProbe, rows: Rows, codes: Index, weight: Floats, random: "torch.Generator"
) -> "list[torch.Tensor]":
    import torch

    X, y = torch.from_numpy(rows), torch.from_numpy(codes.astype(np.float32))
    w = torch.from_numpy((weight / weight.mean()).astype(np.float32))
    network = _first_weights(probe, X.shape[1], random)
    batches = max(round(len(X) / BATCH), 1)
    steps = int(np.clip(EPOCHS * batches, *STEPS))
    decay = 1.0 / (probe.C * weight.sum())
    descent = torch.optim.AdamW(network, lr=LEARNING_RATE, weight_decay=decay / LEARNING_RATE)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(descent, steps)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < min(BATCH, len(X)):
            order = torch.randperm(len(X), generator=random)
        batch, order = order[:BATCH], order[BATCH:]
        scores = _forward(network, X[batch], probe, random)
        each = torch.nn.functional.binary_cross_entropy_with_logits(
            scores, y[batch, None].expand_as(scores), reduction="none"
        )
        descent.zero_grad()
        loss = (each.sum(dim=1) * w[batch]).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        descent.step()
        rate.step()
    return network


def _first_weights(probe: MLPProbe, width: int, random: "torch.Generator") -> "list[torch.Tensor]":
    """Return weights of the size at which rectified units keep the size of their inputs."""
    import torch

    units = probe.members * probe.hidden
    first = torch.randn(units, width, generator=random) * (2 / width) ** 0.5
    out = torch.randn(units, generator=random) * (1 / probe.hidden) ** 0.5
    parts = [first, torch.zeros(units), out, torch.zeros(probe.members)]
    return [part.requires_grad_() for part in parts]


def _forward(
    network: "list[torch.Tensor]", X: "torch.Tensor", probe: MLPProbe, random: "torch.Generator"
) -> "torch.Tensor":
    """Return (row, member) scores under dropout."""
    import torch

    first, bias, out, offset = network
    hidden = torch.relu(torch.addmm(bias, X, first.T)) * out
    if probe.dropout:
        kept = torch.rand(hidden.shape, generator=random) >= probe.dropout
        hidden = hidden * kept / (1 - probe.dropout)
    return hidden.view(len(X), probe.members, probe.hidden).sum(dim=2) + offset
