"""The public names: quick to import, all there, documented with examples that run."""

import doctest
import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import trace_probe as tp
from trace_probe.errors import ModelError

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(
    file.relative_to(ROOT)
    for file in (ROOT / "trace_probe").rglob("*.py")
    if ">>>" in file.read_text("utf-8")
)


def test_the_import_takes_under_a_tenth_of_a_second_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import trace_probe;"
        "taken = time.perf_counter() - start;"
        "heavy = {'torch', 'transformers', 'numpy', 'sklearn', 'pyarrow'} & set(sys.modules);"
        "assert not heavy, heavy; print(taken)"
    )
    asked = [sys.executable, "-c", code]
    done = [subprocess.run(asked, capture_output=True, text=True, cwd=ROOT) for _ in range(5)]
    assert all(one.returncode == 0 for one in done), done[0].stderr
    assert min(float(one.stdout) for one in done) < 0.1


@pytest.mark.parametrize("name", tp.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    found = getattr(tp, name)
    assert "Example:" in (inspect.getdoc(found) or "")
    assert name in dir(tp)
    if inspect.isclass(found):
        own = {name: one for name, one in vars(found).items() if not name.startswith("_")}
        told = [one for one in own.values() if inspect.isfunction(one) or isinstance(one, property)]
        assert all(inspect.getdoc(one) for one in told)


def test_a_name_that_is_not_there_is_refused() -> None:
    with pytest.raises(AttributeError, match="trace_probe has no 'nothing'"):
        tp.nothing  # noqa: B018


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "trace_probe" / "py.typed").is_file()


@pytest.mark.parametrize("file", EXAMPLES, ids=str)
def test_the_examples_of_docstrings_run(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    parts = file.with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    results = doctest.testmod(importlib.import_module(name), raise_on_error=False)
    assert results.attempted
    assert not results.failed


TASKS = tuple(
    tp.Task(f"t-{n}", "c", f"the model must {word} .") for n, word in enumerate(("stop", "act"))
)
SAMPLING = tp.Sampling(max_new_tokens=8)


def rows(run: tp.Run) -> dict[str, Any]:
    found = {trace.id: run.store.activations(trace).values.tolist() for trace in run.traces()}
    return {name: found[name] for name in sorted(found)}


def test_one_method_records_here_and_in_shards(model_folder: Path, tmp_path: Path) -> None:
    model = tp.load_model(str(model_folder))
    here = tp.Run.create(tmp_path / "here", model, sampling=SAMPLING)
    assert here.record(model, TASKS, samples=3, batch_size=2, progress=False).recorded == 6
    assert here.record(model, TASKS, samples=3, batch_size=2, progress=False).recorded == 0
    parts = tp.Run.create(tmp_path / "parts", model, sampling=SAMPLING)
    name = str(model_folder)
    for shard in ("1/2", "0/2"):
        parts.record(name, TASKS, samples=3, batch_size=2, shard=shard, progress=False)
    assert len(tp.Run.open(tmp_path / "parts")) == 6
    assert rows(tp.Run.open(tmp_path / "parts")) == rows(here)


def test_a_served_model_is_recorded_by_the_same_method(tmp_path: Path) -> None:
    from servers import completion, scripted

    with scripted(lambda *_: completion("Done.", reasoning_content="I think.")) as asked:
        served = tp.Served("m", (asked.url,))
        run = tp.Run.create(tmp_path / "run", served, sampling=SAMPLING)
        assert run.record(served, TASKS, progress=False).recorded == 2
        with pytest.raises(ModelError, match="leave executor and shard out"):
            run.record(served, TASKS, shard="0/2")
    assert {trace.channel_text("answer") for trace in run.traces()} == {"Done."}
