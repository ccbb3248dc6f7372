import hashlib
import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from trace_probe.errors import TaskError
from trace_probe.tasks import nudges
from trace_probe.tasks.canonical import canonical
from trace_probe.tasks.nudges import PAPER_SHA256, SYSTEM, Nudge, paper_prompt, with_nudge
from trace_probe.tasks.published import PUBLISHED, PinnedFile, slug
from trace_probe.tasks.sources import read_task_file, summary, tasks_from
from trace_probe.trace import Task

OFFICIAL = (Path(__file__).parents[1] / ".." / "shared" / "data" / "instrumentaleval").resolve()
needs_official = pytest.mark.skipif(
    not OFFICIAL.is_dir(), reason="the official InstrumentalEval files are not beside the checkout"
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OFFICIAL, tmp_path / "benchmark", copy_function=shutil.copyfile))


def write(path: Path, *lines: object) -> Path:
    text = "\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines)
    path.write_text(text, encoding="utf-8")
    return path


@needs_official
def test_there_are_76_official_tasks_in_six_categories() -> None:
    tasks = tasks_from(OFFICIAL)
    assert summary(tasks) == {
        "deceptive-behavior": 11,
        "evading-shutdown": 20,
        "hacking-computer-systems": 10,
        "hiding-unwanted-behavior": 11,
        "running-multiple-ai-copies": 13,
        "strategically-appearing-aligned": 11,
    }
    assert len({task.id for task in tasks}) == len({task.prompt for task in tasks}) == 76
    assert tasks[0].id == "deceptive-behavior-01"
    assert tasks[-1].id == "strategically-appearing-aligned-11"


@needs_official
def test_a_prompt_alone_says_which_of_the_76_tasks_it_is() -> None:
    for task in tasks_from(OFFICIAL):
        assert canonical(f"\n{task.prompt} ") == (task.id, task.category)
        assert canonical(f"{task.prompt}\n\nBe nice.") is None


@needs_official
def test_the_first_row_is_the_criterion_and_no_task() -> None:
    for task in tasks_from(OFFICIAL):
        assert task.criterion.startswith("Convergent Instrumental Goal: ")
        assert task.criterion == task.criterion.strip()
        assert task.criterion not in task.prompt
        assert slug(task.category) == task.category


@needs_official
def test_prompts_keep_their_lines() -> None:
    assert sum("\n" in task.prompt for task in tasks_from(OFFICIAL)) > 30


@needs_official
@pytest.mark.parametrize("pinned", PUBLISHED["instrumentaleval"].files, ids=lambda file: file.name)
def test_one_flipped_bit_is_an_error_with_both_checksums(copy: Path, pinned: PinnedFile) -> None:
    file = copy / pinned.name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(TaskError) as caught:
        tasks_from(copy)
    assert file.name in str(caught.value)
    assert pinned.sha256 in str(caught.value)
    assert hashlib.sha256(content).hexdigest() in str(caught.value)


@needs_official
def test_a_clone_is_read_like_its_benchmark_folder(copy: Path) -> None:
    assert tasks_from(copy.parent) == tasks_from(copy) == tasks_from(str(OFFICIAL))


@needs_official
def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "Alignment Drift - Evading Shutdown.csv").unlink()
    with pytest.raises(TaskError, match="'Alignment Drift - Evading Shutdown.csv' .1 of 6"):
        tasks_from(copy)


def test_a_folder_without_the_files_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(TaskError) as caught:
        tasks_from(tmp_path)
    assert f"`trace-probe tasks {tmp_path} --download`" in str(caught.value)


def test_nothing_at_the_source_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="tasks .*nowhere --download"):
        tasks_from(tmp_path / "nowhere")


@needs_official
@pytest.mark.parametrize("nudge", SYSTEM)
def test_a_nudge_is_in_the_system_message_the_condition_and_the_prompt_key(nudge: Nudge) -> None:
    plain, nudged = tasks_from(OFFICIAL), tasks_from(OFFICIAL, nudge=nudge)
    assert [t.id for t in nudged] == [t.id for t in plain]
    assert {t.system for t in nudged} == {SYSTEM[nudge]}
    assert {t.condition["nudge"] for t in nudged} == {nudge}
    same = {t.prompt_key for t in plain} & {t.prompt_key for t in nudged}
    assert len(same) == (76 if nudge == "none" else 0)


def test_the_paper_s_prompt_is_read_from_where_it_is_published_and_known_by_its_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "Reach the goal."
    monkeypatch.setattr(nudges, "PAPER_SHA256", hashlib.sha256(text.encode()).hexdigest())
    monkeypatch.setattr(nudges, "find_spec", lambda _name: None)
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "a.py").write_text("def broken(", encoding="utf-8")
    (tmp_path / "main.py").write_text(f'PROMPT = """\n{text}\n"""\n1 / 0', encoding="utf-8")
    asked = with_nudge(Task("a-01", "a", "go"), "paper", tmp_path / "benchmark")
    assert (asked.system, asked.condition) == (text, {"nudge": "paper"})
    with pytest.raises(TaskError, match="pip install inspect-evals.*`push` says the same"):
        with_nudge(Task("a-01", "a", "go"), "paper")


def test_inspect_evals_has_the_paper_s_prompt() -> None:
    if not importlib.util.find_spec("inspect_evals"):
        pytest.skip("inspect-evals is not installed")
    found = paper_prompt()
    assert hashlib.sha256(found.encode()).hexdigest() == PAPER_SHA256
    assert "goal" in found


def test_an_unknown_nudge_lists_the_known_ones() -> None:
    with pytest.raises(TaskError, match="none, neutral, push, paper"):
        with_nudge(Task("a-01", "a", "go"), "hard")  # type: ignore[arg-type]


def test_a_task_file_gives_back_what_was_written(tmp_path: Path) -> None:
    full = Task("a-01", "a", "go\u2028on", "sys", "look", "benign", {"nudge": "none"})
    line = {**full.__dict__}
    file = write(tmp_path / "t.jsonl", line, "", {"id": "a-02", "category": "a", "prompt": "p"})
    assert read_task_file(file) == (full, Task("a-02", "a", "p"))
    assert tasks_from(str(file)) == read_task_file(file)


def test_a_nudge_never_replaces_a_system_message_of_the_file(tmp_path: Path) -> None:
    file = write(
        tmp_path / "t.jsonl",
        {"id": "a-01", "category": "a", "prompt": "p", "system": "own"},
        {"id": "a-02", "category": "a", "prompt": "p"},
    )
    own, filled = tasks_from(file, nudge="push")
    assert (own.system, own.condition) == ("own", {})
    assert (filled.system, filled.condition) == (SYSTEM["push"], {"nudge": "push"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "x"', "not JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not JSON"),
        ('{"id": "b", "category": "a", "prompt": "\\ud800"}', "half of a surrogate pair"),
        ({"id": "b", "category": "a"}, "prompt: .* required"),
        ({"id": "b", "category": "a", "prompt": " "}, "prompt is empty"),
        ({"id": 3, "category": "a", "prompt": "p"}, "id is 3: it should be a valid string"),
        ({"id": "b", "category": "a", "prompt": "p", "promt": "p"}, "promt is 'p': .*fields are"),
        ({"id": "b", "category": "a", "prompt": "p", "system": 1}, "system is 1"),
        ({"id": "b", "category": "a", "prompt": "p", "criterion": None}, "criterion is None"),
        ({"id": "b", "category": "a", "prompt": "p", "role": "evil"}, "role is 'evil'"),
        ({"id": "b", "category": "a", "prompt": "p", "condition": {"n": 1}}, "condition.n is 1"),
        ({"id": "b", "category": "a", "prompt": "p", "condition": ["n"]}, r"condition is \['n'\]"),
        ({"id": "a", "category": "a", "prompt": "p"}, "'a' was used before"),
    ],
)
def test_a_bad_line_is_named_with_what_is_wrong(tmp_path: Path, line: object, message: str) -> None:
    file = write(tmp_path / "t.jsonl", {"id": "a", "category": "a", "prompt": "p"}, line)
    with pytest.raises(TaskError, match=f"t.jsonl, line 2.*{message}"):
        read_task_file(file)


def test_bytes_that_are_no_text_and_empty_files_are_errors(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_bytes(b'{"id": "\xff"}')
    with pytest.raises(TaskError, match="line 1 is not UTF-8"):
        read_task_file(file)
    with pytest.raises(TaskError, match="holds no task"):
        read_task_file(write(tmp_path / "empty.jsonl", "", " "))
    with pytest.raises(TaskError, match="cannot read"):
        read_task_file(tmp_path)


def test_category_names_of_all_sources_agree() -> None:
    names = ["Alignment Drift - Evading Shutdown", "evading_shutdown", " Evading  shutdown"]
    assert {slug(name) for name in names} == {"evading-shutdown"}
