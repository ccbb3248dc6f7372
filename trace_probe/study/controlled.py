"""Whether two runs are a controlled comparison, and in clear words why not."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from trace_probe.model.naming import without_version
from trace_probe.store import Manifest
from trace_probe.study.pairs import cousins, steps, variant_of


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


@dataclass(frozen=True)
class Side:
    """One run of a comparison."""

    name: str
    manifest: Manifest
    labellers: frozenset[str]
    conditions: frozenset[str]
    """As `rates.named` writes them."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """By prompt key what the model read, as a digest: chat templates write a prompt differently."""


def compare_runs(first: Side, second: Side) -> Comparison:
    """Return whether two runs are a controlled pair, and why not if they are not."""
    change, against = _between(first, second)
    against += [
        f"{what} {left} against {right}"
        for what, left, right in _settings(first, second)
        if left != right
    ]
    shared = first.prompts.keys() & second.prompts.keys()
    other = sum(first.prompts[key] != second.prompts[key] for key in shared)
    if other:
        against.append(
            f"the chat templates write {other} of {len(shared)} prompts that both read differently"
        )
    if change and first.conditions != second.conditions:
        against.append("the prompts are under different conditions too")
    if against:
        every = "; ".join([*([change] if change else []), *against])
        return Comparison(first.name, second.name, controlled=False, differs=every)
    if not change:
        prompt = "the prompt only" if first.conditions != second.conditions else "the draw only"
        change = f"{prompt} (same model, same sampling)"
    return Comparison(first.name, second.name, controlled=True, differs=change)


def _between(first: Side, second: Side) -> tuple[str, list[str]]:
    """Return the one change between two models, if one is known, and what speaks against it."""
    one, other = _model(first.manifest), _model(second.manifest)
    if one == other:
        left, right = first.manifest.model, second.manifest.model
        return "", [] if left == right else [f"revision {left} against {right}"]
    if (bases := _bases(first, second)) is not None:
        return bases
    (variant, seed), (other_variant, other_seed) = variant_of(one), variant_of(other)
    if variant == other_variant:
        return f"the seed of training only, {seed} against {other_seed}", []
    chain = steps(one, other)
    if len(chain) == 1:
        note = f" ({chain[0].note})" if chain[0].note else ""
        return f"{chain[0].differs}{note}", []
    if chain:
        return "", [f"{' and '.join(pair.differs for pair in chain)} lie between the models"]
    known = cousins(one, other)
    why = f": {known.why}" if known else ""
    return "", [f"no single step is known from {one} to {other}{why}"]


def _bases(first: Side, second: Side) -> tuple[str, list[str]] | None:
    """Return what is to be said of a model and itself with an adapter; None of other models."""
    for plain, adapted in ((first.manifest, second.manifest), (second.manifest, first.manifest)):
        if adapted.base and not plain.base and adapted.base == plain.model:
            return f"adapter ({_model(adapted)})", []
        if adapted.base and not plain.base and without_version(adapted.base) == _model(plain):
            return "", [f"the adapter is on {adapted.base}, and the other is {plain.model}"]
    return None


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
    return without_version(manifest.model)
