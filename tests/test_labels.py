from dataclasses import dataclass

import pytest

from trace_probe.labels import Label, label_traces
from trace_probe.trace import Sampling, Span, Task, Trace

SAID = Span(0, 1)


def trace_of(name: str) -> Trace:
    return Trace(name, Task("t-01", "t", "go"), "m", Sampling(), 0, "", (), (), ())


@pytest.mark.parametrize(
    ("outcome", "said", "silent"),
    [
        (True, None, True),
        (True, SAID, False),
        (False, None, False),
        (False, SAID, False),
        (None, None, False),
        (None, SAID, False),
    ],
)
def test_only_an_instrumental_act_that_was_never_said_is_silent(
    outcome: bool | None, said: Span | None, silent: bool
) -> None:
    assert Label("t", "rule", outcome, said=said).silent is silent


def test_outcome_verbalisation_and_action_do_not_imply_each_other() -> None:
    label = Label("t", "rule", None, said=SAID)
    assert (label.outcome, label.acted, label.considered, label.rejected) == (None,) * 4
    assert Label("t", "rule", False, acted=SAID).said is None


def test_every_trace_is_labelled_once_and_in_order() -> None:
    @dataclass(frozen=True)
    class EvenIsInstrumental:
        name: str = "even"

        def label(self, trace: Trace) -> Label:
            return Label(trace.id, self.name, int(trace.id) % 2 == 0)

    labels = list(label_traces(map(trace_of, "312"), EvenIsInstrumental()))
    assert [(label.trace_id, label.outcome) for label in labels] == [
        ("3", False),
        ("1", False),
        ("2", True),
    ]


def test_labelling_waits_until_it_is_asked() -> None:
    class Never:
        name = "never"

        def label(self, trace: Trace) -> Label:
            raise AssertionError(trace.id)

    assert iter(label_traces([trace_of("1")], Never()))
