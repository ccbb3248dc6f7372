"""Fixtures that several test files share; torch is imported only by tests that ask for it."""

import io
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from tiny_models import random_network, word_tokenizer

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # beside other workers, a second thread only waits
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")

# A deadline would make the tests depend on what else the machine is doing.
settings.register_profile("trace_probe", deadline=None)
settings.load_profile("trace_probe")


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
