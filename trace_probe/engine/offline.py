"""A model that vLLM runs in this process: it writes, and its rows are taken on the way.

Tokens are drawn with the same uniforms as by `trace_probe.model.local`, so that in float32 both
write the same but for draws that fall between two roundings.
"""

import importlib.util
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import entry_points
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from trace_probe.activations import Activations
from trace_probe.engine.plan import KEY, CapturePlan, EngineOptions, EnginePlan
from trace_probe.engine.worker import unpacked
from trace_probe.errors import ModelError
from trace_probe.model.capture import Reading
from trace_probe.model.checkpoint import locate
from trace_probe.model.dtypes import Precision, choose_precision
from trace_probe.model.facts import ModelFacts, default_layers, read_facts
from trace_probe.model.fidelity import against_transformers
from trace_probe.model.loading import read_config, read_stops
from trace_probe.model.local import Completion, Model, load_model
from trace_probe.model.naming import parse_name
from trace_probe.model.weights import Weights
from trace_probe.trace import Sampling, Span

EXTENSION = "trace_probe.engine.worker.WorkerExtension"
OURS = frozenset(
    {"model", "model_tag", "dtype", "revision", "additional_config", "worker_extension_cls"}
    | {"middleware", "host", "port", "uds", "config", "served_model_name", "api_key"}
)
"""Arguments of vLLM that no user gives; a key stands in the environment."""
HELD = 4096
"""Requests whose rows may be asked for."""
Ids = Sequence[int]
Rows = NDArray[np.float32]


class EngineModel(ModelFacts):
    """A model in vLLM, as a recorder needs it."""

    def __init__(
        self,
        llm: Any,  # noqa: ANN401 - a vllm.LLM
        facts: ModelFacts,
        layers: Sequence[int],
        stops: frozenset[int],
        reference: Callable[[], Model],
        share: float,
    ) -> None:
        """Take an engine that was started for these layers; most callers want `load_engine`.

        `reference` loads the same weights into transformers, once rows are to be compared.
        """
        sizes = {"n_layers": facts.n_layers, "d_model": facts.d_model}
        super().__init__(facts.chat, facts.name, **sizes, context=facts.context)
        self.dtype, self.dtype_chosen = facts.dtype, facts.dtype_chosen
        self.engine = facts.engine
        self.layers = tuple(layers)
        """Whose rows are taken."""
        self.stops = stops
        self._llm, self._share = llm, share
        self._load = reference
        self._reference: Model | None = None
        self._numbers = itertools.count()
        self._held: dict[tuple[int, ...], str] = {}
        """The requests whose rows may be in the workers still, by all their tokens."""

    def check_layers(self, layers: Sequence[int]) -> None:
        """Raise ModelError unless these are blocks of the model whose rows are taken."""
        super().check_layers(layers)
        if missing := sorted(set(layers) - set(self.layers)):
            raise ModelError(
                f"the engine was started for layers {list(self.layers)}, not for {missing[0]}: "
                f"start it with all that are to be kept"
            )

    def check_room(self, prompt: int, sampling: Sampling) -> None:
        """Raise ModelError unless a prompt leaves room for the new tokens, and for one more.

        The last token has a row only if the engine writes one after it, which is dropped.
        """
        super().check_room(prompt + 1, sampling)

    def complete(
        self, prompts: Sequence[Ids], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        """Complete prompts; each is a function of its prompt and seed alone, up to rounding.

        Raises:
            ModelError: a prompt and `max_new_tokens` do not fit the model's context.
        """
        self.check_room(max(map(len, prompts)), sampling)
        keys = [self._key() for _ in prompts]
        drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        asked = [{"key": k, "seed": s, **drawn} for k, s in zip(keys, seeds, strict=True)]
        written = self._generate(prompts, asked, sampling.max_new_tokens + 1)
        noted = self._noted(keys)
        found = []
        for prompt, key, ids in zip(prompts, keys, written, strict=True):
            kept = ids[: sampling.max_new_tokens]
            finish: Literal["stop", "length"] = (
                "stop" if kept and kept[-1] in self.stops else "length"
            )
            self._hold((*prompt, *kept), key)
            found.append(Completion(kept, finish, noted[key][: len(kept)]))
        return found

    def checked_replay(
        self,
        token_ids: Sequence[Ids],
        spans: Sequence[Sequence[Span]],
        layers: Sequence[int],
        reading: Reading,
        logprobs: object = None,
    ) -> list[Activations]:
        """Return the rows that were taken while these ids were written, pooled over spans.

        What is not held any more is read once more, by the engine. The longest traces are read
        by transformers, too, as many as the share that is to be compared.

        Raises:
            ModelError: a layer is none of those whose rows are taken.
        """
        del logprobs  # of the very passes that the rows are of
        self.check_layers(layers)
        keys = [self._held.pop(tuple(ids), None) for ids in token_ids]
        parts = self._pooled(token_ids, keys, spans, reading)
        chosen = [self.layers.index(layer) for layer in layers]
        found = [
            Activations(
                values[chosen],
                tuple(layers),
                tuple(some),
                reading.pooling,
                None if tokens is None else tokens[chosen],
            )
            for (values, tokens), some in zip(parts, spans, strict=True)
        ]
        for i in self._compared(token_ids):
            found[i] = self._checked(token_ids[i], found[i], reading)
        return found

    def close(self) -> None:
        """End the engine."""
        self._llm.llm_engine.engine_core.shutdown()

    def _hold(self, ids: tuple[int, ...], key: str) -> None:
        """Note which request the rows of some ids are of; the oldest ones are forgotten."""
        self._held[ids] = key
        while len(self._held) > HELD:
            del self._held[next(iter(self._held))]

    def _compared(self, token_ids: Sequence[Ids]) -> list[int]:
        """Return which traces are compared: the longest."""
        count = int(np.ceil(self._share * len(token_ids)))
        by_length = sorted(range(len(token_ids)), key=lambda i: -len(token_ids[i]))
        return by_length[:count]

    def _checked(self, ids: Ids, found: Activations, reading: Reading) -> Activations:
        if self._reference is None:
            self._reference = self._load()
        plain = replace(reading, raw_tokens=False)
        (wanted,) = self._reference.replay([ids], [found.spans], found.layers, plain)
        return replace(found, fidelity=against_transformers(found, wanted, self.dtype))

    def _key(self) -> str:
        return f"{os.getpid()}-{next(self._numbers)}"

    def _generate(
        self, prompts: Sequence[Ids], asked: Sequence[Mapping[str, Any]], room: int
    ) -> list[tuple[int, ...]]:
        """Return what the engine writes, the token that ends it included."""
        from vllm import SamplingParams

        settings = [
            SamplingParams(
                temperature=0,  # the draw that counts is made beside this one
                max_tokens=room,
                stop_token_ids=sorted(self.stops),
                ignore_eos=True,  # those above say it all
                detokenize=False,
                skip_reading_prefix_cache=True,  # what is not computed has no row
                extra_args={KEY: dict(one)},
            )
            for one in asked
        ]
        given = [{"prompt_token_ids": list(ids)} for ids in prompts]
        outputs = self._llm.generate(given, settings, use_tqdm=False)
        return [tuple(int(i) for i in output.outputs[0].token_ids) for output in outputs]

    def _noted(self, keys: Sequence[str]) -> dict[str, Rows]:
        """Return how sure the model was of each token of some requests."""
        answers = self._llm.collective_rpc("trace_probe_noted", args=(list(keys),))
        found = {}
        for place, key in enumerate(keys):
            there = [each[place] for each in answers if each[place] is not None]
            if not there:
                raise ModelError("vLLM's workers drew no token: update trace-probe in all of them")
            found[key] = unpacked(there[0])
        return found

    def _pooled(
        self,
        token_ids: Sequence[Ids],
        keys: Sequence[str | None],
        spans: Sequence[Sequence[Span]],
        reading: Reading,
    ) -> list[tuple[Rows, Rows | None]]:
        """Return the rows of each trace; what is missing is read, and asked for again."""
        found: list[tuple[Rows, Rows | None] | None] = [None] * len(token_ids)
        for again in (False, True):
            missing = [i for i, one in enumerate(found) if one is None]
            if not missing:
                break
            # Read one by one, so that none crowds another out.
            groups = [[i] for i in missing] if again else [missing]
            for group in groups:
                named = [self._read(token_ids[i]) if again else keys[i] or "" for i in group]
                rows = self._asked_for(named, [spans[i] for i in group], reading)
                for i, one in zip(group, rows, strict=True):
                    found[i] = one
                self._llm.collective_rpc("trace_probe_forget", args=(named,))
        if any(one is None for one in found):
            raise ModelError(
                "a trace has more rows than an engine keeps: give it more room, or fewer layers"
            )
        return [one for one in found if one is not None]

    def _read(self, ids: Ids) -> str:
        """Have the engine read ids, and return under which key their rows are."""
        key = self._key()
        asked = {"key": key, "seed": 0, "temperature": 0.0, "top_p": 1.0}
        self._generate([ids], [asked], 1)
        self._noted([key])
        return key

    def _asked_for(
        self, keys: Sequence[str], spans: Sequence[Sequence[Span]], reading: Reading
    ) -> list[tuple[Rows, Rows | None] | None]:
        places = [[(span.start, span.stop) for span in some] for some in spans]
        pooled = self._from_all(keys, places, reading.pooling)
        raw: list[Rows | None] = [None] * len(keys)
        if reading.raw_tokens:
            reach = [[(some[0][0], max(stop for _, stop in some))] for some in places]
            raw = self._from_all(keys, reach, "")
        return [
            None if values is None else (values, tokens)
            for values, tokens in zip(pooled, raw, strict=True)
        ]

    def _from_all(
        self, keys: Sequence[str], places: Sequence[Sequence[tuple[int, int]]], pooling: str
    ) -> list[Rows | None]:
        """Return (layer, ...) of each request, put together from those who have the layers."""
        wanted = list(zip(keys, places, strict=True))
        answers = self._llm.collective_rpc("trace_probe_rows", args=(wanted, pooling))
        found: list[Rows | None] = []
        for place in range(len(wanted)):
            parts = [each[place] for each in answers if each]
            if any(part is None for part in parts):
                found.append(None)
                continue
            by_layer = {
                layer: rows
                for part in parts
                for layer, rows in zip(part["layers"], unpacked(part), strict=True)
            }
            found.append(np.stack([by_layer[layer] for layer in self.layers]))
        return found


def load_engine(
    weights: Weights, layers: Sequence[int] | None = None, options: EngineOptions | None = None
) -> EngineModel:
    """Start vLLM in this process with a model whose rows are taken at some layers.

    Raises:
        ModelError: vLLM is not installed, or cannot run the model so that rows are taken.
    """
    chosen = options or EngineOptions()
    name = whole_model(weights)
    place = locate(name)
    facts = read_facts(name, weights.revision)
    facts.dtype, facts.dtype_chosen = precision_of(weights)
    taken = default_layers(facts.n_layers) if layers is None else tuple(layers)
    if taken:
        facts.check_layers(taken)
    given = {"model": str(place), "revision": weights.revision, "dtype": facts.dtype}
    given |= json_arguments(chosen.arguments)
    unshared = {"enable_prefix_caching": False}
    plan = EnginePlan(capture=CapturePlan(taken, chosen.room))
    llm = start({**unshared, **given}, plan)
    reads = int(llm.llm_engine.model_config.max_model_len)
    facts.context = min(facts.context or reads, reads)
    facts.engine = engine_version()
    stops = read_stops(name, place, weights.revision)
    load = partial(load_model, weights.name, dtype=facts.dtype, revision=weights.revision)
    return EngineModel(llm, facts, taken, stops, partial(load, device="cpu"), chosen.fidelity)


def whole_model(weights: Weights) -> str:
    """Return the name of a model that vLLM is to run.

    Raises:
        ModelError: it has an adapter, or it is said how to load it.
    """
    named = parse_name(weights.name)
    if named.adapter:
        raise ModelError(
            f"vLLM runs whole models here: merge the adapter {named.adapter} into the weights "
            f"(`merge_and_unload` of PEFT), and name the folder in which you save them"
        )
    if weights.backend != "hooks" or weights.device or weights.device_map:
        raise ModelError(
            "vLLM places a model by itself: leave --backend, --device and --device-map out, and "
            "say with --engine-args how it is to use several devices"
        )
    return named.base


def precision_of(weights: Weights) -> Precision:
    """Return the precision in which an engine is to run some weights, as `load_model` chooses it.

    Raises:
        ModelError: there is no such precision, or no such model.
    """
    base = parse_name(weights.name).base
    config = partial(read_config, base, locate(base), weights.revision)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return choose_precision(weights.dtype, device, config)


def json_arguments(text: str) -> dict[str, Any]:
    """Return the arguments of an engine that a user gave as JSON.

    Raises:
        ModelError: they are no JSON object, or are for what is ours to say.
    """
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ModelError(f"the arguments of the engine are not JSON: {error}") from error
    named = (
        {_plain(name): value for name, value in given.items()} if isinstance(given, dict) else {}
    )
    # vLLM takes the first letters of an argument for the argument, and `name.key` for a part of it.
    heads = {name: name.partition(".")[0] for name in named}
    wrong = [
        name
        for name, head in heads.items()
        if not head.isidentifier() or any(one.startswith(head) for one in OURS)
    ]
    if not isinstance(given, dict) or wrong:
        raise ModelError(
            f"the arguments of the engine are a JSON object of those of vLLM, without "
            f"{', '.join(sorted(OURS))}, which trace_probe gives"
        )
    return named


def _plain(name: str) -> str:
    """Return the name of an argument as Python has it."""
    return name.strip().lstrip("-").replace("-", "_").lower()


def start(arguments: Mapping[str, Any], plan: EnginePlan) -> Any:  # noqa: ANN401 - a vllm.LLM
    """Start vLLM with its own arguments and a plan for its workers.

    Raises:
        ModelError: vLLM is not installed, does not find the plug-in, has no such argument, or its
            second model runner is asked for.
    """
    alone = not {"tensor_parallel_size", "pipeline_parallel_size"} & set(arguments)
    prepare_environment(alone=alone)
    if plan != EnginePlan():
        check_plugin()
    import vllm
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    ours = {"worker_extension_cls": EXTENSION, "additional_config": plan.configuration()}
    given = {"disable_log_stats": True, "load_format": "safetensors", **arguments}
    try:
        return vllm.LLM(**given, **(ours if plan != EnginePlan() else {}))
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        unknown = str(error).rpartition("argument ")[2]
        raise ModelError(f"vLLM has no argument {unknown}: correct --engine-args") from error
    except ValueError as error:  # pydantic's, too
        wrong = " ".join(str(error).split("For further information")[0].split())
        raise ModelError(f"vLLM refuses its arguments: {wrong} Correct --engine-args") from error


def engine_version() -> str:
    """Return the name and version of the engine that is installed."""
    import vllm

    return f"vllm {vllm.__version__}"


def check_plugin() -> None:
    """See that vLLM will find the plug-in, without which its workers would do nothing for us.

    Raises:
        ModelError: it will not.
    """
    named = os.environ.get("VLLM_PLUGINS")
    if named is not None and KEY not in named.split(","):
        raise ModelError(f"VLLM_PLUGINS leaves out the plug-in {KEY}: add it there, or unset it")
    if KEY not in entry_points(group="vllm.general_plugins").names:
        raise ModelError(
            f"vLLM does not find the plug-in {KEY}: install trace-probe in the environment of vLLM "
            f"(`pip install .`); where that was done, an older {KEY}.egg-info in the folder that "
            f"you are in, or in PYTHONPATH, hides it: delete that"
        )


def prepare_environment(*, alone: bool) -> None:
    """Say in the environment how vLLM is to run, before it is imported.

    Raises:
        ModelError: vLLM is not installed, or the second model runner is asked for.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ModelError(
            "vLLM is missing: pip install 'trace-probe[vllm]'; without a GPU see docs/vllm.md"
        )
    if os.environ.get("VLLM_USE_V2_MODEL_RUNNER", "0") not in ("0", ""):
        raise ModelError(
            "trace_probe reads the first model runner of vLLM (V1): leave "
            "VLLM_USE_V2_MODEL_RUNNER out of the environment"
        )
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if alone:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
