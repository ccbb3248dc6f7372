"""The pack of harmless tasks that comes with the package."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path

import pytest

import trace_probe as tp
from trace_probe.commands import main as cli
from trace_probe.errors import NotEnoughData, TaskError
from trace_probe.statistics.calibration import conformal_threshold, pac_threshold, traces_needed
from trace_probe.tasks.canonical import DIGESTS
from trace_probe.tasks.nudges import SYSTEM
from trace_probe.tasks.pack import pack_tasks, partners
from trace_probe.tasks.sources import read_task_file, source_name, tasks_from
from trace_probe.trace import Task

OFFICIAL = (Path(__file__).parents[1] / ".." / "shared" / "data" / "instrumentaleval").resolve()
KINDS = {"twin": 13, "authorised": 13, "wording": 8, "everyday": 9}
ROLES = {
    "twin": "benign",
    "everyday": "benign",
    "authorised": "hard-negative",
    "wording": "hard-negative",
}


def pack() -> tuple[Task, ...]:
    return tasks_from("pack")


def grams(text: str, n: int = 5) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[at : at + n]) for at in range(len(words) - n + 1)}


def near_copies(texts: dict[str, str], share: float = 0.6) -> Iterator[tuple[str, str]]:
    """Yield the pairs of which one shares more than so many of its word 5-grams with the other."""
    found = {name: grams(text) for name, text in texts.items()}
    for (a, of_a), (b, of_b) in combinations(found.items(), 2):
        if len(of_a & of_b) > share * min(len(of_a), len(of_b)):
            yield a, b


def test_every_category_has_43_tasks_of_four_kinds() -> None:
    counts = Counter((task.category, task.condition["kind"]) for task in pack())
    assert counts == {(category, kind): n for category in DIGESTS for kind, n in KINDS.items()}
    assert sum(counts.values()) == 258


def test_the_kind_of_a_task_settles_its_role() -> None:
    assert all(task.role == ROLES[task.condition["kind"]] for task in pack())


def test_no_two_tasks_share_more_than_three_fifths_of_their_word_5_grams() -> None:
    assert not list(near_copies({task.id: task.prompt for task in pack()}))


def test_a_near_copy_would_be_found() -> None:
    first = pack()[0].prompt
    copied = {"a": first, "b": first.replace("Bergen", "Stavanger"), "c": pack()[1].prompt}
    assert list(near_copies(copied)) == [("a", "b")]


def test_prompts_differ_in_how_they_begin_and_in_length() -> None:
    """Tasks from one template would not."""
    prompts = [task.prompt for task in pack()]
    openings = Counter(tuple(prompt.split()[:3]) for prompt in prompts)
    assert max(openings.values()) <= 6
    lengths = sorted(len(prompt.split()) for prompt in prompts)
    assert lengths[24] < 40
    assert lengths[-18] > 150


def test_a_twin_and_its_authorised_partner_name_each_other() -> None:
    tasks, pairs = {task.id: task for task in pack()}, partners()
    twinned = {task.id for task in pack() if task.condition["kind"] in ("twin", "authorised")}
    assert set(pairs) == twinned
    for one, other in pairs.items():
        assert pairs[other] == one
        assert tasks[one].category == tasks[other].category
        assert {tasks[name].condition["kind"] for name in (one, other)} == {"twin", "authorised"}


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="the official files are not beside the checkout")
def test_no_six_words_in_a_row_are_taken_from_instrumentaleval() -> None:
    rows: Iterable[str] = (
        row[0]
        for file in OFFICIAL.glob("*.csv")
        for row in csv.reader(file.read_text("utf-8").splitlines(keepends=True))
        if row
    )
    official = set().union(*(grams(text, 6) for text in rows))
    assert len(official) > 3000
    assert not {task.id: shared for task in pack() if (shared := grams(task.prompt, 6) & official)}


def test_one_category_can_be_named() -> None:
    some = tp.tasks("pack:evading-shutdown")
    assert some == tuple(task for task in pack() if task.category == "evading-shutdown")
    with pytest.raises(TaskError, match="no category 'shutdown'.*evading-shutdown"):
        tasks_from("pack:shutdown")
    with pytest.raises(TaskError, match="no category ''"):
        tasks_from("pack:")


def test_other_sources_are_not_taken_for_the_pack(tmp_path: Path) -> None:
    assert pack_tasks("packed.jsonl") is None
    assert pack_tasks(str(tmp_path / "pack")) is None


def test_a_run_says_which_edition_of_the_pack_it_asked() -> None:
    assert re.fullmatch(r"pack@[0-9a-f]{8}", source_name("pack"))
    assert source_name("pack:evading-shutdown").startswith("pack:evading-shutdown@")


def test_a_nudge_gives_the_pack_a_system_message() -> None:
    assert {task.system for task in tasks_from("pack", nudge="push")} == {SYSTEM["push"]}
    assert {task.system for task in pack()} == {None}


def test_the_pack_can_be_written_as_a_task_file_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(vars(task)) + "\n" for task in pack()), "utf-8")
    assert read_task_file(file) == pack()


@pytest.mark.parametrize("rate", [0.2, 0.05, 0.01, 0.001, 0.0003])
def test_the_traces_needed_are_the_fewest_whose_threshold_promises_the_rate(rate: float) -> None:
    for guarantee, make in (("conformal", conformal_threshold), ("pac", pac_threshold)):
        needed = traces_needed(rate, guarantee)  # type: ignore[arg-type]
        assert make([float(n) for n in range(needed)], rate).guaranteed_rate <= rate + 1e-12  # type: ignore[arg-type]
        fewer = make([float(n) for n in range(needed - 1)], rate)  # type: ignore[arg-type]
        assert fewer.guaranteed_rate > rate
        assert f"which needs {needed}:" in fewer.note


def test_one_in_a_thousand_needs_999_traces_or_2302_to_be_sure() -> None:
    assert traces_needed(0.001, "conformal") == 999
    assert traces_needed(0.001, "pac") == 2302
    with pytest.raises(NotEnoughData, match="use 0 < rate < 1"):
        traces_needed(0, "conformal")


def test_the_page_on_the_pack_has_the_figures_of_the_code() -> None:
    page = (Path(__file__).parents[1] / "docs" / "pack.md").read_text("utf-8")
    rows = re.findall(r"^\| ([\d.]+) % \| ([\d,]+) \| ([\d,]+) \|$", page, re.M)
    assert len(rows) == 3
    for rate, *needed in rows:
        found = [
            traces_needed(float(rate) / 100, "conformal"),
            traces_needed(float(rate) / 100, "pac"),
        ]
        assert [int(number.replace(",", "")) for number in needed] == found
    kinds = re.findall(r"^\| `(\w+)` \| (\d+) \| `([\w-]+)` \|", page, re.M)
    assert {kind: (int(n), role) for kind, n, role in kinds} == {
        kind: (n, ROLES[kind]) for kind, n in KINDS.items()
    }


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str | None:
    monkeypatch.setattr("sys.argv", ["trace-probe", "tasks", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_the_command_says_how_often_to_record_the_pack_for_a_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "pack", "--rate", "0.01", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["roles"] == {"benign": 132, "hard-negative": 126}
    needs = {need["guarantee"]: need for need in printed["needs"]}
    assert [needs[guarantee]["traces"] for guarantee in ("conformal", "pac")] == [99, 230]
    for need in needs.values():
        assert need["calibration_tasks"] == 47
        assert need["samples"] * 47 >= need["traces"] > (need["samples"] - 1) * 47


def test_tasks_without_a_benign_one_are_told_what_to_add(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"id": "a", "category": "a", "prompt": "p"}\n', "utf-8")
    assert run(monkeypatch, str(file), "--rate", "0.01") == 0
    text = capsys.readouterr().out
    assert "needs 99 benign traces" in text
    assert "--samples" not in text
    assert "--tasks pack" in text
