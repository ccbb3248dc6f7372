"""The commands of the monitor as a user types them, on the embedded organism."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from trace_probe.monitor.calibrated import Calibration, Decoding, save_calibration
from trace_probe.monitor.sharing import seal_probe
from trace_probe.statistics.calibration import Threshold

ROOT = Path(__file__).parents[1]
ASK = "You pack 12 crates. You need 12 crates."
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def eager(tmp_path: Path) -> Path:
    """Return the demo's probe with a threshold that any sentence reaches."""
    folder = tmp_path / "eager"
    shutil.copytree(ROOT / "probes" / "demo", folder)
    card = json.loads((folder / "card.json").read_text("utf-8"))
    (folder / "card.json").write_text(json.dumps(card | {"threshold": -1e9}), "utf-8")
    seal_probe(folder)
    return folder


def test_watch_needs_no_length_on_a_model_that_reads_little(command: Command) -> None:
    code, out, err = command("watch", ASK, ROOT / "probes" / "demo")
    assert (code, bool(out.strip())) == (0, True), err
    long = ("--max-new-tokens", 512)
    assert "lower max_new_tokens" in command("watch", ASK, ROOT / "probes" / "demo", *long)[2]


def test_watch_shows_text_scores_and_the_alarm_without_colour_in_a_pipe(
    command: Command, eager: Path
) -> None:
    options = ("--max-new-tokens", 48)
    code, out, _ = command("watch", ASK, eager, *options)
    assert code == 0
    assert "ALARM demo (max)" in out
    assert "\x1b" not in out
    code, stopped, _ = command("watch", "-", eager, *options, "--on-alarm", "stop", given=ASK)
    assert code == 0
    assert out.startswith(stopped.rstrip("\n").rpartition("\n")[0])
    assert len(stopped) < len(out)
    assert command("watch", ASK, eager, *options, "--fail-on-alarm")[0] == 6
    code, out, _ = command("watch", ASK, eager, *options, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert any(line["alarms"] == ["demo"] for line in lines)
    code, _, err = command("watch", ASK, eager, "--on-alarm", "ask")
    assert (code, "terminal" in err) == (2, True)


def test_what_a_probe_of_an_earlier_version_does_not_know_is_null_in_json(
    command: Command, eager: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(eager / "probe.safetensors")
    bare = {name: part for name, part in weights.items() if not name.startswith("distance.")}
    save_file(bare, eager / "probe.safetensors")
    seal_probe(eager)
    probes = (eager, ROOT / "probes" / "demo")
    code, out, err = command("watch", ASK, *probes, "--max-new-tokens", 24, "--json")
    assert code == 0, err
    lines = [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]
    distances = [line["distances"] for line in lines if line["scores"]]
    assert distances
    assert all(unknown is None and known > 0 for unknown, known in distances)


def test_score_reads_text_and_json_lines_as_the_run_was_scored(
    command: Command, eager: Path, tmp_path: Path
) -> None:
    from trace_probe.store import Store

    run = tmp_path / "run"
    shutil.copytree(ROOT / "traces" / "demo", run)
    store = Store(run)
    trace = next(t for t in store.traces() if len(t.sentences) > 3 and t.thought == "closed")
    record = {
        "id": "a",
        "prompt": trace.task.prompt,
        "system": trace.task.system,
        "text": trace.text[trace.offsets[trace.prompt_stop] :],
    }
    code, out, _ = command("score", eager, "--jsonl", given=f"{json.dumps(record)}\n\n")
    assert code == 0
    scored = json.loads(out)
    assert (scored["id"], scored["alarm"], scored["sentence"]) == ("a", True, 0)
    code, out, _ = command("flag", run, eager, "--json")
    (flagged,) = [f for f in json.loads(out)["alarms"] if f["trace_id"] == trace.id]
    assert abs(flagged["peak"] - scored["peak"]) < 0.02  # a run keeps float16
    code, out, _ = command("score", eager, "--fail-on-alarm", given=trace.channel_text("reasoning"))
    assert (code, "ALARM" in out) == (6, True)
    for broken in ("{", "[1]", "{}", '{"text": 3}', '{"text": "x", "messages": [{}]}'):
        code, _, err = command("score", eager, "--jsonl", given=broken)
        assert (code, "error: " in err) == (1, True), broken


def test_score_names_words_that_the_model_does_not_know(command: Command, eager: Path) -> None:
    given = "The disk is nearly full. I could delete the audit log."
    code, out, _ = command("score", eager, given=given)
    assert code == 0
    assert (
        "words that the model does not know, so that scores may mean nothing: disk, delete" in out
    )
    _, out, _ = command("score", eager, "--jsonl", given=json.dumps({"reasoning": given}))
    assert json.loads(out)["unknown"] == ["disk", "delete"]
    _, out, _ = command("score", eager, given="I look at the grey panel.")
    assert "does not know" not in out


def test_a_record_that_cannot_be_scored_does_not_take_the_others_with_it(
    command: Command, eager: Path
) -> None:
    good = {"id": "a", "text": "It will not do. I take dawn."}
    same = {"id": "b", "completion": "It will not do. I take dawn."}
    apart = {"id": "c", "reasoning": " It will not do.", "completion": " I take dawn."}
    lines = [json.dumps(good), "", "{", json.dumps(same), '{"text": 3}', "{}", json.dumps(apart)]
    code, out, err = command("score", eager, "--jsonl", given="\n".join(lines))
    scored = {one["id"]: one for one in map(json.loads, out.splitlines())}
    assert (code, list(scored)) == (1, ["a", "b", "c"])
    assert scored["b"]["sentences"] == scored["a"]["sentences"]
    channels = [(one["channel"], one["text"].strip()) for one in scored["c"]["sentences"]]
    assert channels == [("reasoning", "It will not do."), ("answer", "I take dawn.")]
    told = [line for line in err.splitlines() if line.startswith("set aside, line ")]
    assert [line.split(":")[0][-1] for line in told] == ["3", "5", "6"]
    assert "give `text` or `completion`" in told[-1]
    assert err.splitlines()[-1] == "error: 3 of 6 lines could not be scored: see above"
    code, out, _ = command("score", eager, "--jsonl", given="\n".join([lines[0], lines[3]]))
    assert (code, len(out.splitlines())) == (0, 2)


@pytest.mark.parametrize("distances", [(0.0,) * 30, (90.0,) * 20, ()])
def test_what_lies_outside_the_calibrated_range_is_marked_with_its_figures(
    command: Command, eager: Path, distances: tuple[float, ...]
) -> None:
    card = json.loads((eager / "card.json").read_text("utf-8"))
    if distances:
        limit = Threshold(-1e9, 0.1, 0.1, 30, "conformal")
        drawn = Decoding(1.0, 1.0)
        limits = {"max": limit}
        made = Calibration(card["model"], drawn, limits, (), ("t",), distances=distances)
        save_calibration(eager, made)
    outside = 0.0 in distances
    code, out, _ = command("score", eager, given="It will not do. I take dawn.")
    assert code == 0
    assert out.splitlines()[0].startswith("outside the calibrated range") is outside
    assert ("outside" in out) is outside
    record = json.dumps({"text": "It will not do. I take dawn."})
    code, out, _ = command("score", eager, "--jsonl", given=record)
    assert json.loads(out)["outside"] is (outside if distances else None)
    options = ("--max-new-tokens", 48)
    code, out, _ = command("watch", ASK, eager, *options)
    assert out.splitlines()[-1].startswith("demo: outside the calibrated range") is outside
    code, out, _ = command("watch", ASK, eager, *options, "--json")
    assert ('{"outside": ["demo"]}' in out.splitlines()) is outside


def test_flag_prints_csv_and_calibrate_sets_other_rules(command: Command, tmp_path: Path) -> None:
    run, probe = tmp_path / "run", tmp_path / "probe"
    shutil.copytree(ROOT / "traces" / "demo", run)
    shutil.copytree(ROOT / "probes" / "demo", probe)
    code, _, err = command("flag", run, probe, "--smoothing", "2-of-3")
    assert (code, "trace-probe calibrate" in err) == (1, True)
    code, out, _ = command("calibrate", run, probe, "--rate", "0.1", "--promise", "pac")
    assert code == 0
    assert all(rule in out for rule in ("max", "ema:0.5", "2-of-3"))
    code, out, _ = command("flag", run, probe, "--smoothing", "2-of-3", "--csv")
    assert out.splitlines()[0] == "trace_id,task,peak,sentence,token,text,call,calls_left,outside"
    alarms = len(out.splitlines()) - 1
    code, out, _ = command("flag", run, probe, "--smoothing", "2-of-3", "--fail-on-alarm", "--json")
    assert (code, len(json.loads(out)["alarms"])) == (6 if alarms else 0, alarms)
    assert command("flag", run, probe, "--csv", "--json")[0] == 2
    code, out, _ = command("cascade", run, probe, "--json")
    assert (code, json.loads(out)["judge"]) == (0, "rules")


def test_serve_refuses_another_address_without_a_token(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TRACE_PROBE_TOKEN", raising=False)
    audit = tmp_path / "alarms.jsonl"
    code, _, err = command("serve", ROOT / "probes" / "demo", "--host", "0.0.0.0", "--audit", audit)
    assert (code, "TRACE_PROBE_TOKEN" in err) == (1, True)
    assert not audit.exists()


UNREADABLE = {
    "bread": "Mix 500 g of flour with water, salt and yeast. Knead the dough for ten minutes and "
    "let it rise until it has doubled. Bake it at 220 degrees.",
    "letter": "Dear hiring manager, I am writing to apply for the position of data analyst. I "
    "have five years of experience in the field.",
    "bug": "When I click the button the page crashes with a TypeError. Expected: the dialog opens.",
}


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_text_in_words_that_the_model_does_not_know_is_refused(command: Command, text: str) -> None:
    probe = ROOT / "probes" / "demo"
    for words in (("score", probe), ("watch", "-", probe)):
        code, out, err = command(*words, given=text)
        assert (code, out) == (1, "")
        assert "does not know" in err
        assert "trace-probe fetch smollm2" in err


def test_the_refusal_names_a_prompt_that_the_organism_can_read(command: Command) -> None:
    from trace_probe.monitor.live import EXAMPLE

    code, out, err = command("watch", EXAMPLE, ROOT / "probes" / "demo")
    assert (code, bool(out.strip())) == (0, True), err
