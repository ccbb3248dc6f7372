"""Fixtures that several test files share; torch is imported only by tests that ask for it."""

import gc
import io
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from tiny_models import random_network, word_tokenizer

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault(
    "NUMBA_OPT", "0"
)  # UMAP is compiled in each process, and then has little to do
if "PYTEST_XDIST_WORKER" in os.environ:  # beside other workers, a second thread only waits
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")

gc.disable()  # until all modules are read: what they hold stays, and is looked through in vain

# A deadline would make the tests depend on what else the machine is doing. Where a test does not
# say how many examples it needs, a run draws 40, and the next run others.
EXAMPLES = int(os.environ.get("TRACE_PROBE_EXAMPLES", "40"))
settings.register_profile("trace_probe", deadline=None, max_examples=EXAMPLES)
settings.load_profile("trace_probe")


LONGEST = (
    *("explorer/test_explorer_browser", "test_kills", "test_notebooks", "test_endpoint"),
    *("test_demo", "test_detector", "test_training", "test_crashes", "test_serving"),
    *("test_bench_capture", "test_agents", "explorer/test_reader", "test_engine_parts"),
    *("organism/test_agent_road", "organism/test_family", "test_estimators"),
    *("test_sentence_map", "test_precision", "test_readme", "test_record"),
    *("test_bench_continuation", "test_documents", "test_model", "test_study"),
    *("test_children", "test_templates", "test_families"),
)
"""The files that take longest. They are begun first: else one would run alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; `--dist loadfile` hands out files in this order."""
    place = {Path(__file__).parent / f"{name}.py": n for n, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(LONGEST)))


def pytest_collection_finish() -> None:
    """Collect garbage again, and never look through what importing the tests has made."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def what_stays_is_looked_through_once() -> None:
    """Keep what earlier files imported and cached out of the garbage collections of this one."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_the_disk() -> Iterator[None]:
    """Flush no file to the disk: tests kill processes, and what these wrote the system keeps."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Any]:
    """Return a maker of `Model`s with random weights, one for each family."""

    @cache
    def make(family: str = "qwen3") -> Any:
        from trace_probe.model.local import Model

        return Model(random_network(family), word_tokenizer(), f"tiny-{family}@00000000")

    return make


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny Qwen3 as transformers saves it."""
    folder = tmp_path_factory.mktemp("models") / "tiny-qwen3"
    random_network().save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return what runs a command with a standard input and gives exit code, output and errors."""
    from trace_probe.commands import main as cli

    def run(*arguments: object, given: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["trace-probe", *map(str, arguments)])
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """Return a Ray cluster of two nodes."""
    pytest.importorskip("ray", reason="the extra ray is not installed")
    from ray_clusters import two_nodes

    with two_nodes() as both:
        yield both
