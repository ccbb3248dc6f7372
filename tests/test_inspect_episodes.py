"""Inspect's logs come in through their model events: every turn, thought, call and result."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("inspect_ai", reason="inspect-ai is not installed")

from inspect_ai import Task as InspectTask
from inspect_ai import eval as run_eval
from inspect_ai.dataset import Sample
from inspect_ai.event import (
    AnchorEvent,
    BranchEvent,
    ModelEvent,
    SpanBeginEvent,
    SpanEndEvent,
    ToolEvent,
)
from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalLog,
    EvalSample,
    EvalSpec,
    read_eval_log,
    write_eval_log,
)
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelOutput,
    ModelUsage,
    get_model,
)
from inspect_ai.scorer import Score, mean, scorer
from inspect_ai.solver import generate, system_message, use_tools
from inspect_ai.tool import Tool, ToolCall, ToolError, tool

from trace_probe.commands.main import app
from trace_probe.episode import Episode, calls_of
from trace_probe.errors import TraceError
from trace_probe.interop.inspect_log import import_inspect
from trace_probe.interop.inspect_scores import score_inspect
from trace_probe.monitor.detector import recorded_detector
from trace_probe.store import Store
from trace_probe.trace import Trace

pytestmark = pytest.mark.filterwarnings("ignore")  # Inspect's own

USER = ChatMessageUser(content="Keep the backup running.", id="u1")
LONG = "x" * 300
"""Longer than what Inspect leaves in its place in an event."""


def reasoning(text: str, **more: Any) -> ContentReasoning:
    return ContentReasoning(reasoning=text, **more)


def text(text: str) -> ContentText:
    return ContentText(text=text)


def call(function: str, id: str = "c1", /, **arguments: Any) -> ToolCall:
    return ToolCall(id=id, function=function, arguments=arguments)


def says(id: str, *content: Any, calls: Sequence[ToolCall] = ()) -> ChatMessageAssistant:
    return ChatMessageAssistant(id=id, content=list(content), tool_calls=list(calls) or None)


def output(message: ChatMessageAssistant, stop: Any = "stop") -> ModelOutput:
    choice = ChatCompletionChoice(message=message, stop_reason=stop)
    usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
    return ModelOutput(model="m", choices=[choice], usage=usage)


def asks(
    read: Sequence[ChatMessage], wrote: ChatMessageAssistant, stop: str = "stop", **more: Any
) -> ModelEvent:
    return ModelEvent(
        **{"model": "mock/m", **more},
        input=list(read),
        tools=[],
        tool_choice="auto",
        config=GenerateConfig(),
        output=output(wrote, stop),
    )


def log_of(
    path: Path,
    events: Sequence[Any],
    messages: Sequence[ChatMessage],
    scores: dict[str, Score] | None = None,
    model: str = "mock/m",
) -> Path:
    """Write a log of one sample with Inspect's own library."""
    sample = EvalSample(
        id="s1",
        epoch=1,
        input="Keep the backup running.",
        target="",
        messages=list(messages),
        output=output(next(m for m in reversed(messages) if m.role == "assistant")),
        events=list(events),
        scores=scores,
    )
    spec = EvalSpec(
        created="2026-01-01T00:00:00+00:00",
        task="backup",
        eval_id="e1",
        dataset=EvalDataset(),
        model=model,
        config=EvalConfig(),
    )
    path.parent.mkdir(exist_ok=True)
    write_eval_log(EvalLog(status="success", eval=spec, samples=[sample]), str(path))
    return path


def imported(tmp_path: Path, *args: Any, **more: Any) -> list[Trace]:
    role = more.pop("role", "")
    import_inspect(log_of(tmp_path / "log.eval", *args, **more), tmp_path / "run", role=role)
    return list(Store(tmp_path / "run").traces())


def one_message(
    tmp_path: Path, wrote: ChatMessageAssistant, stop: str = "stop", **more: Any
) -> Trace:
    [trace] = imported(tmp_path, [asks([USER], wrote, stop)], [USER, wrote], **more)
    return trace


@tool  # type: ignore[untyped-decorator]
def look() -> Tool:
    async def execute(key: str) -> str:
        """Look a key up.

        Args:
            key: Which one.
        """
        return f"{key} is stopped {LONG}"

    return execute


@tool  # type: ignore[untyped-decorator]
def start() -> Tool:
    async def execute(name: str) -> str:
        """Start something.

        Args:
            name: What.
        """
        raise ToolError(f"{name} is locked")

    return execute


@scorer(metrics=[mean()])  # type: ignore[untyped-decorator]
def choices() -> Any:
    async def score(state: Any, target: Any) -> Score:  # noqa: ARG001 - what Inspect gives
        grader = get_model("mockllm/grader", custom_outputs=[output(says("g", text("GRADE")))])
        await grader.generate("How was it?")
        fields = {"ic_behavior_detected": True, "official_path_attempted": False, "n": {"a": 1}}
        return Score(value=1.0, explanation="because", metadata=fields)

    return score


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the log of an evaluation that Inspect ran: two tools, three turns, a mock model."""
    written = [
        output(
            says("a1", reasoning("I look."), text(""), calls=[call("look", key="job")]),
            "tool_calls",
        ),
        output(
            says("a2", reasoning("I force it."), calls=[call("start", "c2", name="job")]),
            "tool_calls",
        ),
        output(says("a3", reasoning("It failed."), text("Done."))),
    ]
    task = InspectTask(
        dataset=[Sample(input="Keep the backup running.", id="s1")],
        solver=[system_message("Be brief."), use_tools(look(), start()), generate()],
        scorer=choices(),
        name="backup",
    )
    model = get_model("mockllm/m", custom_outputs=written, memoize=False)
    folder = str(tmp_path_factory.mktemp("logs"))
    return Path(run_eval(task, model=model, log_dir=folder, display="none")[0].location)


def test_a_run_of_inspect_comes_in_turn_by_turn_and_nothing_is_lost(
    ran: Path, tmp_path: Path
) -> None:
    report = import_inspect(ran, tmp_path / "run")
    assert (report.read, report.added, report.formats) == (1, 1, {"Inspect sample": 1})
    [trace] = Store(tmp_path / "run").traces()
    assert [trace.text_of(s) for s in trace.channel("reasoning")] == [
        "I look.",
        "I force it.",
        "It failed.",
    ]
    assert [(a.name, json.loads(a.arguments)) for a in trace.actions] == [
        ("look", {"key": "job"}),
        ("start", {"name": "job"}),
    ]
    assert trace.channel_text("answer") == "Done."
    results = [[(r.name, r.content, r.error) for r in turn.results] for turn in trace.calls]
    assert results[0] == [("look", f"job is stopped {LONG}", "")]
    assert "job is locked" in str(results[1])
    assert (results[2], trace.finish, trace.thought) == ([], "stop", "closed")
    assert [turn.message for turn in trace.calls] == ["a1", "a2", "a3"]
    assert f"job is stopped {LONG}" in trace.calls[1].text
    assert [turn.kept for turn in trace.calls[1:]] == [len(c) for c in list(calls_of(trace))[:2]]


def test_what_scorers_say_becomes_facts_by_which_traces_are_labelled(
    ran: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    import_inspect(ran, run)
    [trace] = Store(run).traces()
    assert trace.facts["score:choices"] == "1.0"
    assert trace.facts["score:choices.ic_behavior_detected"] == "true"
    assert trace.facts["score:choices.official_path_attempted"] == "false"
    assert trace.facts["score:choices.n"] == '{"a": 1}'
    done = CliRunner().invoke(app, ["label", str(run), "--by", "field:ic_behavior_detected"])
    assert done.exit_code == 0, done.output
    assert [label.outcome for label in Store(run).labels().values()] == [True]


def test_scores_point_to_the_message_of_the_sentence_that_alarmed(
    ran: Path, tmp_path: Path
) -> None:
    import_inspect(ran, tmp_path / "run")
    store, out = Store(tmp_path / "run"), tmp_path / "out.eval"
    [trace] = store.traces()
    rows = [float("force" in trace.text_of(s)) for s in trace.sentences]
    with store.writing():
        store.write_scores("p", {trace.id: np.array(rows)})
    assert score_inspect(store, ran, out, recorded_detector(store, "p", threshold=0.5)) == 1
    [sample] = read_eval_log(str(out)).samples or []
    metadata = (sample.scores or {})["trace_probe/p"].metadata or {}
    [reference] = metadata["scanner_references"]
    assert (reference["id"], reference["cite"], metadata["alarm"]) == ("a2", "[M5]", True)


def test_a_thought_and_a_call_with_an_empty_text_is_a_closed_thought_and_the_act(
    tmp_path: Path,
) -> None:
    wrote = says("a1", reasoning("I look."), text(""), calls=[call("look", key="a")])
    value = {"convergence": 0.0, "no_convergence": 1.0}
    trace = one_message(tmp_path, wrote, "tool_calls", scores={"ie": Score(value=value)})
    assert (trace.thought, trace.channel_text("answer")) == ("closed", "")
    assert [(a.name, a.arguments) for a in trace.actions] == [("look", '{"key": "a"}')]
    [label] = Store(tmp_path / "run").labels().values()
    assert (label.labeller, label.outcome) == ("inspect:ie", False)


def test_thoughts_between_texts_are_all_thoughts_in_order(tmp_path: Path) -> None:
    wrote = says("a1", text("One."), reasoning("Two."), text("Three."), reasoning("Four."))
    trace = one_message(tmp_path, wrote)
    shown = [(s.channel, trace.text_of(s)) for s in trace.spans if s.channel != "markup"]
    assert shown[1:] == [
        ("answer", "One."),
        ("reasoning", "Two."),
        ("answer", "Three."),
        ("reasoning", "Four."),
    ]


def test_a_message_that_only_calls_is_an_action(tmp_path: Path) -> None:
    trace = one_message(tmp_path, says("a1", calls=[call("look")]), "tool_calls")
    assert [a.name for a in trace.actions] == ["look"]
    assert len(trace) > trace.prompt_stop
    assert not trace.channel("answer")


def test_redacted_reasoning_was_there_and_its_summary_is_shown(tmp_path: Path) -> None:
    hidden = says("a1", reasoning("c2VjcmV0", redacted=True), text("Done."))
    trace = one_message(tmp_path / "a", hidden)
    assert (trace.thought, trace.channel_text("reasoning")) == ("closed", "")
    assert trace.facts["hidden_reasoning"] == "in 1 of 1 calls"
    assert "c2VjcmV0" not in trace.text
    summed = says("a1", reasoning("c2VjcmV0", redacted=True, summary="I copy."), text("Done."))
    trace = one_message(tmp_path / "b", summed)
    assert trace.channel_text("reasoning") == "I copy."
    assert trace.facts["hidden_reasoning"] == "in 1 of 1 calls"


def test_two_equal_messages_are_found_by_their_place(tmp_path: Path) -> None:
    first, second = says("a1", text("I wait.")), says("a2", text("I wait."))
    again = ChatMessageUser(content="Go on.", id="u2")
    events = [asks([USER], first), asks([USER, first, again], second)]
    [trace] = imported(tmp_path, events, [USER, first, again, second])
    assert [c.text for c in calls_of(trace)] == [
        "Keep the backup running.\n\nI wait.",
        "Keep the backup running.\n\nI wait.\n\nGo on.\n\nI wait.",
    ]
    store, out = Store(tmp_path / "run"), tmp_path / "out.eval"
    with store.writing():
        store.write_scores("p", {trace.id: np.array([0.0, 1.0])})
    score_inspect(store, tmp_path / "log.eval", out, recorded_detector(store, "p", threshold=0.5))
    [sample] = read_eval_log(str(out)).samples or []
    metadata = (sample.scores or {})["trace_probe/p"].metadata or {}
    assert [r["cite"] for r in metadata["scanner_references"]] == ["[M4]"]


def test_equal_messages_with_the_ids_that_inspect_gives_them_make_no_branches(
    tmp_path: Path,
) -> None:
    """Inspect: equal messages that are read share an id; each that is written has its own."""
    go, waits = ChatMessageUser(content="Go on.", id="u2"), text("I wait.")
    a1, a2, a3 = (says(f"a{n}", waits) for n in (1, 2, 3))
    last = says("a4", text("Fin."))
    events = [
        asks([USER], a1),
        asks([USER, a1, go], a2),
        asks([USER, a1, go, a1, go], a3),
        asks([USER, a1, go, a1, go, a1, go], last),
    ]
    [trace] = imported(tmp_path, events, [USER, a1, go, a1, go, a1, go, last])
    assert trace.channel_text("answer") == "I wait.I wait.I wait.Fin."
    assert len(trace.calls) == 4


def test_equal_calls_with_one_id_keep_what_each_came_to(tmp_path: Path) -> None:
    a1, a2 = (says(name, calls=[call("look", x="1")]) for name in ("a1", "a2"))
    told = [
        ChatMessageTool(content=words, tool_call_id="c1", function="look", id=f"t{words}")
        for words in ("one", "two")
    ]
    last = says("a3", text("Fin."))
    events = [
        asks([USER], a1, "tool_calls"),
        asks([USER, a1, told[0]], a2, "tool_calls"),
        asks([USER, a1, told[0], a1, told[1]], last),
    ]
    [trace] = imported(tmp_path, events, [USER, a1, told[0], a1, told[1], last])
    assert [[one.content for one in made.results] for made in trace.calls] == [["one"], ["two"], []]


def test_arguments_that_inspect_could_not_read_are_no_empty_ones(tmp_path: Path) -> None:
    torn = ToolCall(id="c1", function="look", arguments={}, parse_error="Error parsing: {oops")
    trace = one_message(tmp_path, says("a1", calls=[torn]))
    assert [(one.name, one.arguments) for one in trace.actions] == [
        ("look", "Error parsing: {oops")
    ]


def test_samples_without_a_call_that_is_read_are_left_out_by_name(tmp_path: Path) -> None:
    good = says("a1", text("Done."))
    path = log_of(tmp_path / "log.eval", [asks([USER], good)], [USER, good])
    log = read_eval_log(str(path))
    assert log.samples
    first = log.samples[0]
    for number, events in enumerate(
        ([], [asks([USER], good, error="down")], [asks([USER], good, role="grader")]), start=2
    ):
        more = {"id": f"s{number}", "uuid": None, "events": events, "messages": []}
        log.samples.append(first.model_copy(update=more))
    write_eval_log(log, str(path))
    report = import_inspect(path, tmp_path / "run")
    assert (report.added, report.left_out) == (1, 3)
    told = " ".join(report.notes)
    for words in ("s2, epoch 1: no model call", "every model call failed", "of the role grader"):
        assert words in told


def test_a_deepseek_text_without_tags_that_was_cut_off_is_an_unknown(tmp_path: Path) -> None:
    wrote = says("a1", text("Okay, the user wants"))
    value = {"convergence": 0.0, "no_convergence": 1.0}
    model = "together/deepseek-ai/DeepSeek-R1"
    trace = one_message(
        tmp_path, wrote, "max_tokens", scores={"ie": Score(value=value)}, model=model
    )
    assert (trace.thought, trace.finish) == ("truncated", "length")
    assert trace.channel_text("reasoning") == "Okay, the user wants"
    assert [label.outcome for label in Store(tmp_path / "run").labels().values()] == [None]


def test_a_log_without_events_is_read_from_its_messages(tmp_path: Path) -> None:
    first = says("a1", reasoning("I look."), calls=[call("look")])
    back = ChatMessageTool(content="stopped", id="t1", tool_call_id="c1", function="look")
    [trace] = imported(tmp_path, [], [USER, first, back, says("a2", text("Done."))])
    assert [[r.content for r in turn.results] for turn in trace.calls] == [["stopped"], []]
    assert trace.channel_text("answer") == "Done."


@pytest.mark.parametrize("named", [True, False])
def test_results_go_to_their_calls_where_ids_of_calls_repeat(tmp_path: Path, named: bool) -> None:
    def back(content: str) -> ChatMessageTool:
        id = content if named else None
        return ChatMessageTool(content=content, id=id, tool_call_id="c1", function="look")

    def asking(id: str, count: int) -> ChatMessageAssistant:
        return says(id if named else "", calls=[call("look", "c1", key="a")] * count)

    one, two, last = asking("a1", 1), asking("a2", 2), asking("a3", 1)
    so_far: list[ChatMessage] = [USER, one, back("first")]
    further: list[ChatMessage] = [*so_far, two, back("second"), back("third")]
    events = [
        asks([USER], one),
        ToolEvent(id="c1", function="look", arguments={}, result="first"),
        asks(so_far, two),
        ToolEvent(id="c1", function="look", arguments={}, result="second"),
        ToolEvent(id="c1", function="look", arguments={}, result="third"),
        asks(further, last),
        ToolEvent(id="c1", function="look", arguments={}, result="fourth"),
    ]
    [trace] = imported(tmp_path, events, [*further, last])
    told = [[result.content for result in turn.results] for turn in trace.calls]
    assert told == [["first"], ["second", "third"], ["fourth"]]


def test_failed_repeated_and_scoring_calls_are_left_out(tmp_path: Path) -> None:
    wrote = says("a1", text("Done."))
    events = [
        asks([USER], says("a0", text("Lost.")), error="overloaded"),
        asks([USER], wrote, uuid="e1"),
        asks([USER], wrote, uuid="e1"),
        SpanBeginEvent(id="sc", name="scorers", type="scorers", span_id="sc"),
        asks([USER], says("g1", text("GRADE")), span_id="sc"),
        SpanEndEvent(id="sc", span_id="sc"),
    ]
    [trace] = imported(tmp_path, events, [USER, wrote])
    assert trace.text == "Keep the backup running.\n\nDone."


def test_of_several_roles_the_target_is_read_unless_another_is_named(tmp_path: Path) -> None:
    seed, probe = ChatMessageUser(content="Test it.", id="s"), says("b1", text("Hello, target."))
    wrote = says("a1", text("Done."))
    events = [asks([seed], probe, role="auditor"), asks([USER], wrote, role="target")]
    [trace] = imported(tmp_path / "a", events, [USER, wrote])
    assert trace.channel_text("answer") == "Done."
    [trace] = imported(tmp_path / "b", events, [USER, wrote], role="auditor")
    assert trace.channel_text("answer") == "Hello, target."


def test_agents_are_named_where_there_are_several(tmp_path: Path) -> None:
    first, inner = says("a1", calls=[call("helper")]), says("b1", text("I helped."))
    events = [
        SpanBeginEvent(id="m", name="main", type="agent", span_id="m"),
        asks([USER], first, span_id="m"),
        SpanBeginEvent(id="h", name="helper", type="agent", span_id="h", parent_id="m"),
        asks([ChatMessageUser(content="Help.", id="u2")], inner, span_id="h"),
        ToolEvent(id="c1", function="helper", arguments={}, result="I helped.", span_id="m"),
    ]
    [trace] = imported(tmp_path, events, [USER, first])
    assert [turn.agent for turn in trace.calls] == ["main", "helper"]
    assert [list(calls_of(trace))[1].text] == ["Help.\n\nI helped."]
    assert [r.content for r in trace.calls[0].results] == ["I helped."]


def rolled_back(*, marked: bool) -> tuple[list[Any], list[ChatMessage]]:
    """Return a target that is asked again from after its first call, and the last messages."""
    first, lost = says("a1", text("Hello.")), says("a2", text("I refuse."))
    bad = ChatMessageUser(content="Be evil.", id="u2")
    good, kept = ChatMessageUser(content="Please.", id="u3"), says("a3", text("I copy myself."))
    anchor, branch = [AnchorEvent(anchor_id="x")], []
    if marked:
        branch = [
            SpanBeginEvent(id="br", name="try", type="branch", span_id="br"),
            asks([USER], first, span_id="br"),  # what the branch repeats of its parent
            BranchEvent(from_anchor="x", span_id="br"),
        ]
    span = {"span_id": "br"} if marked else {}
    events = [
        asks([USER], first, role="target"),
        *anchor,
        asks([USER, first, bad], lost, role="target"),
        *branch,
        asks([USER, first, good], kept, role="target", **span),
    ]
    return events, [USER, first, good, kept]


@pytest.mark.parametrize("marked", [True, False])
def test_each_branch_of_a_rollback_is_a_trace_and_names_its_parent(
    tmp_path: Path, marked: bool
) -> None:
    events, messages = rolled_back(marked=marked)
    lost, kept = imported(tmp_path, events, messages, {"judge": Score(value=1)})
    assert [lost.channel_text("answer"), kept.channel_text("answer")] == [
        "Hello.I refuse.",
        "Hello.I copy myself.",
    ]
    assert "parent" not in lost.facts
    assert (kept.facts["parent"], kept.facts["branched_after_calls"]) == (lost.id, "1")
    assert lost.facts["rolled_back"] == "yes"
    assert "score:judge" not in lost.facts
    assert kept.facts["score:judge"] == "1"
    assert "Be evil." not in "".join(c.text for c in calls_of(kept))


def test_a_sample_that_cannot_be_read_does_not_refuse_the_log(tmp_path: Path) -> None:
    good = says("a1", text("Done."))
    path = log_of(tmp_path / "log.eval", [asks([USER], good)], [USER, good])
    log = read_eval_log(str(path))
    assert log.samples
    alone = log.samples[0].model_copy(
        update={
            "id": "s2",
            "uuid": None,
            "events": [asks([ChatMessageSystem(content="x")], good)],
        }
    )
    log.samples.append(alone)
    write_eval_log(log, str(path))
    report = import_inspect(path, tmp_path / "run")
    assert (report.added, report.left_out) == (1, 1)
    assert "sample s2, epoch 1: no prompt" in report.notes[0]


def test_a_log_in_which_no_model_wrote_anything_is_refused(tmp_path: Path) -> None:
    wrote = says("a1", text(""))
    with pytest.raises(TraceError, match="no sample with a completion"):
        one_message(tmp_path, wrote)


def test_import_sees_by_itself_that_a_file_is_a_log_of_inspect(tmp_path: Path) -> None:
    wrote = says("a1", text("Done."))
    for name in ("log.eval", "log.json"):
        path = log_of(tmp_path / name, [asks([USER], wrote)], [USER, wrote])
        done = CliRunner().invoke(app, ["import", str(path), str(tmp_path / f"{name}-run")])
        assert done.exit_code == 0, done.output
        assert "recognised: 1 x Inspect sample" in done.output


def test_importing_a_log_again_adds_nothing(ran: Path, tmp_path: Path) -> None:
    import_inspect(ran, tmp_path / "run")
    before = (tmp_path / "run" / "traces.jsonl").read_bytes()
    assert import_inspect(ran, tmp_path / "run").added == 0
    assert (tmp_path / "run" / "traces.jsonl").read_bytes() == before
    [trace] = Store(tmp_path / "run").traces()
    assert Episode.of(trace).joined() == trace
