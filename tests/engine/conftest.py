"""What runs in a real vLLM: `make engine` makes sure that there is one."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
NEEDED = "needs vLLM: make its environment with tests/engine/make-environment, then `make engine`"
# Each engine is a process of its own, forked from this one, so that one test file can run several.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs vLLM where it is not; take the warnings of others as they come."""
    from importlib.util import find_spec

    mine = [item for item in items if HERE in item.path.parents]
    for item in mine:
        item.add_marker(pytest.mark.filterwarnings("default"))
        if find_spec("vllm") is None:
            item.add_marker(pytest.mark.skip(reason=NEEDED))


Engine = Callable[..., Any]


@pytest.fixture
def engine() -> Iterator[Engine]:
    """Start engines that end with the test."""
    import json

    from trace_probe.engine.offline import load_engine
    from trace_probe.engine.plan import EngineOptions
    from trace_probe.model.weights import Weights

    started = []

    def start(
        name: str,
        *,
        layers: Any = None,
        fidelity: float = 1.0,
        room: int = 2 << 30,
        **arguments: Any,
    ) -> Any:
        given = {"enforce_eager": True, "max_model_len": 512, "max_num_seqs": 32, **arguments}
        options = EngineOptions(json.dumps(given), fidelity, room)
        started.append(load_engine(Weights(name, dtype="float32"), layers, options))
        return started[-1]

    yield start
    for one in started:
        one.close()
