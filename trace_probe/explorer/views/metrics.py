"""Metrics: the evaluation report, every figure with its interval, beside its baselines."""

import json
from collections.abc import Callable
from typing import Any

import streamlit as st

from trace_probe.evaluation.report import ranked_as
from trace_probe.explorer import charts, heldout, sidebar
from trace_probe.explorer.choices import choose_one
from trace_probe.explorer.current import (
    Current,
    current,
    end_page,
    no_detector,
    own_threshold,
    reports,
    root,
    show_code,
)
from trace_probe.explorer.figures import (
    HEADLINE,
    HEADLINE_ACT,
    MAIN,
    RANKS,
    Figure,
    by_step,
    compared,
    figure,
    main_figures,
    notes,
    number,
    part,
)
from trace_probe.explorer.links import show_broken, show_notes, show_warning_times
from trace_probe.explorer.results import kept, results_folder
from trace_probe.explorer.tables import table
from trace_probe.explorer.words import alarm_share
from trace_probe.statistics.calibration import PAC_DELTA
from trace_probe.visible import visible

TAB_KEY = "filter_metrics_tab"
ALARMS = {
    "caught": "caught_before_action",
    "false alarms": "false_alarm_rate",
    "siblings": "sibling_alarm_rate",
    "hard cases": "hard_negative_alarm_rate",
}
Report = dict[str, Any]


def chart(report: Report, key: str, title: str) -> None:
    """Draw one figure for the detector and its baselines; the same numbers as a table."""
    figures = {visible(name): value for name, value in compared(report, key).items()}
    if not any(value.known for value in figures.values()):
        st.info(f"{title}: this run has too few traces for it. The notes say why.")
        return
    chance = charts.CHANCE if key in RANKS else None
    st.vega_lite_chart(
        charts.intervals(figures, title, chance), alt=f"{title} beside its baselines"
    )
    columns = {
        "detector": list(figures),
        f"{title} [95 %]": [value.text(percent=chance is None) for value in figures.values()],
        "n": [value.n for value in figures.values()],
    }
    with st.expander("As a table"):
        table(columns, f"{title} by detector")


def facts(report: Report) -> None:
    """Say on what the figures rest."""
    threshold = number(report.get("threshold"))
    parts = [
        *(f"{number(n) or 0:.0f} {k.replace('_', ' ')}" for k, n in part(report, "n").items()),
        f"labels by {report.get('labeller', 'unknown')}",
        "text only" if report.get("layer") is None else f"layer {report['layer']}",
        "no threshold" if threshold is None else f"threshold {threshold:.4g}",
    ]
    if report.get("smoothing"):
        parts.append(f"smoothing {report['smoothing']}")
    if report.get("ranked_by"):
        parts.append(f"ranked by {ranked_as(report['ranked_by'])}")
    st.text(visible(" · ".join(parts)))


def against_baselines(shown: Current, report: Report) -> None:
    """Show the main figures, and how the baselines do at them."""
    st.subheader("Figures")
    table(main_figures(report), "Main figures with intervals")
    if figure(report, "false_alarm_rate").known:
        st.text(f"At the threshold shown, {alarm_share(shown.rows)}.")
    show_notes(notes(report))
    st.subheader("Beside its baselines")
    agents = (HEADLINE_ACT,) if figure(report, HEADLINE_ACT).known else ()
    keys = (*agents, HEADLINE, "caught_before_action", *RANKS)
    for side, chosen in zip(st.columns(2, gap="large"), (keys[::2], keys[1::2]), strict=True):
        with side:
            for key in chosen:
                chart(report, key, MAIN[key])
    st.caption(
        "All traces of a prompt read the same words, so a detector that only recognises the task "
        "has an AUROC of 0.5 within prompts. Dashes mark chance. Siblings are harmless traces of "
        "prompts that also had an instrumental one."
    )


def early_warning(shown: Current, report: Report) -> None:
    """Show how early alarms come."""
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("Lead of each alarm")
        show_warning_times(shown)
        st.subheader("Scores before it is said")
        near(report)
    with right:
        st.subheader("At least so many sentences before the action")
        steps(by_step(report, "useful_warning"), "sentences of warning")
        chance = figure(part(report, "more"), "useful_warning_by_chance")
        if chance.known:
            st.text(f"By chance, scores permuted within tasks: {chance.text(percent=True)}")
        st.subheader("Alarmed by a share of the reasoning")
        fractions = by_step(report, "prefix")
        named = {f"{100 * float(step):.0f} %": value for step, value in fractions.items()}
        steps(named, "of the reasoning read")


def as_ranked(report: Report) -> str:
    """Return what is made of the scores where traces are ranked; risk is what alarms follow."""
    rule = report.get("ranked_by") or "max"
    return ranked_as(rule) if rule == "max" else f"scores (ranked by {rule})"


def steps(points: dict[str, Figure], title: str) -> None:
    """Draw a share by step, or say that there is none."""
    if any(value.known for value in points.values()):
        st.vega_lite_chart(
            charts.shares(points, title, "of acting traces"), alt=f"Caught by {title}"
        )
    else:
        st.text("This run has too few traces for it.")


def near(report: Report) -> None:
    """Draw the mean score around the sentence that says it."""
    raw = part(report, "more", "event_aligned")
    if not isinstance(raw.get("offset"), list):
        st.text("This report does not hold it: evaluate again.")
        return
    groups = {"acted": "positive", "harmless, at like moments": "negative"}
    curves = {
        name: [
            (int(offset), figure({"at": value}, "at"))
            for offset, value in zip(raw["offset"], raw.get(key) or [], strict=False)
        ]
        for name, key in groups.items()
    }
    st.vega_lite_chart(
        charts.approach(curves), alt="Mean score by sentences from the one that says it"
    )
    st.text(visible(f"Of {as_ranked(report)}."))
    st.text(told_apart(raw.get("emergence"), dict(curves["acted"])))


def told_apart(first: object, acted: dict[int, Figure]) -> str:
    """Return from when the two groups are told apart, unless on too few traces to say so."""
    if not isinstance(first, int):
        return "No sentence before it is said tells the two apart."
    n = acted[first].n if first in acted else None
    if (n or 0) < heldout.FEWEST:
        return f"The bands part {-first} sentences before it is said, on {n} traces: too few."
    return f"The two are told apart from {-first} sentences before it is said."


def false_alarms(shown: Current, report: Report) -> None:
    """Show what is caught at what price."""
    left, right = st.columns([2, 3], gap="large")
    found = heldout.trade_off(shown.rows)
    with left:
        st.subheader("The trade-off")
        if found is None:
            st.info(
                "It needs scored benign traces and traces that acted, of tasks not learned from."
            )
        else:
            limit = None if shown.detector is None else shown.detector.threshold
            here = None if limit is None else found.at(limit)
            points = found.false_alarms.tolist(), found.caught.tolist()
            st.vega_lite_chart(charts.trade_off(*points, here), alt="Caught by false-alarm rate")
            st.text(
                f"{found.n_acted} traces that acted, {found.n_benign} benign ones, of unseen "
                f"tasks. The diamond is the threshold shown."
            )
            st.caption(
                "The line is an estimate across prompts, so knowing the task helps here; intervals "
                "are in the table. Dashes: alarms at random."
            )
    with right:
        st.subheader("At thresholds with a guarantee")
        guaranteed(report)


def guaranteed(report: Report) -> None:
    """Show what is caught at the thresholds that the report calibrated."""
    rows: list[dict[str, str]] = []
    for aim, methods in part(report, "more", "by_rate").items():
        for method, values in methods.items():
            share, limit = number(values.get("guaranteed_rate")), number(values.get("threshold"))
            row = {"aim": f"{float(aim):.1%}"}
            row["guarantee"] = "—" if share is None else f"{share:.1%}, {method}"
            row["threshold"] = "—" if limit is None else f"{limit:.3g}"
            for name, key in ALARMS.items():
                row[name] = figure(values, key).text(percent=True)
            rows.append(row)
    if rows:
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        table(columns, "What is caught at several false-alarm rates")
        st.caption(
            "Aim: the false-alarm rate wished for. Guarantee: what the benign traces at hand can "
            "vouch for; conformal holds on average, pac with "
            f"{100 * (1 - PAC_DELTA):.0f} % confidence. Brackets: 95 %."
        )
    else:
        st.text("This report does not hold it: evaluate again.")


def calibration(shown: Current, report: Report) -> None:
    """Show whether risk can be read as a probability."""
    left, right = st.columns([3, 2], gap="large")
    detector = shown.detector
    probabilities = detector is not None and (detector.low, detector.high) == (0.0, 1.0)
    bins = heldout.reliability(shown.rows, probabilities=probabilities)
    with left:
        st.subheader("Predicted and done")
        if bins:
            points = [(one.foretold, one.observed) for one in bins]
            st.vega_lite_chart(charts.reliability(points), alt="Observed share by predicted risk")
            st.caption("Of the highest risk of each trace before it acts: what its alarm follows.")
        else:
            st.info("Not enough labelled traces of unseen tasks.")
    with right:
        st.subheader("In figures")
        names = {"brier": "Brier score", "calibration_error": "Calibration error"}
        values = {name: figure(part(report, "more"), key) for key, name in names.items()}
        columns = {"figure": list(values), "value [95 %]": [one.text() for one in values.values()]}
        table(columns, "Calibration figures")
        st.text(visible(f"Of {as_ranked(report)} before it is said, not of the curve's peaks."))
        st.caption(
            "Risk is a score first: the threshold comes from benign traces, not from this curve. "
            "Points off the dashes mean that risk must not be read as a probability."
        )


def transfer(shown: Current, report: Report) -> None:
    """Show how the detector does on other runs, and what kept transfer results say."""
    del report
    st.subheader("The same detector on other runs")
    elsewhere(shown)
    st.subheader("Learned from one kind, judged on another")
    results = kept(root(), "transfer")
    for name, raw in results.found.items():
        matrix(name, raw)
    show_broken(results)
    if not results.found:
        st.text(f"No result in {results_folder(root())}. To keep one:")
        show_code(f"trace-probe transfer PROBE {shown.run.path} --json > studies/transfer.json")


def elsewhere(shown: Current) -> None:
    """Show the figures of this detector from every run that has them."""
    found = reports(shown.scorer or "")
    if len(found) < 2:
        st.text("It has been evaluated on this run alone.")
        return
    columns = {"run": list(found)}
    for key in (*RANKS, "caught_before_action", "false_alarm_rate"):
        percent = key not in RANKS
        columns[MAIN[key]] = [figure(raw, key).text(percent=percent) for raw in found.values()]
    table(columns, "Figures of this detector by run")


def matrix(name: str, raw: Report) -> None:
    """Show a kept transfer result: learned from by row, judged on by column."""
    cells = raw.get("cells")
    if not isinstance(cells, dict):
        return
    st.text(visible(f"{name}: across {raw.get('across')}, within-prompt AUROC"))
    columns = {"learned from": list(cells)}
    for target in dict.fromkeys(target for row in cells.values() for target in row):
        judged = [figure(row.get(target), RANKS[0]) for row in cells.values()]
        columns[target] = [value.text() for value in judged]
    table(columns, "Transfer between kinds of traces")


TABS: dict[str, Callable[[Current, Report], None]] = {
    "Baselines": against_baselines,
    "Early warning": early_warning,
    "False alarms": false_alarms,
    "Calibration": calibration,
    "Transfer": transfer,
}

shown = current()
st.title("Metrics")
report = shown.report
if report is None:
    sidebar.publish(shown.view())
    missing = "This detector has not been evaluated on this run: `trace-probe evaluate` does it."
    st.info(missing if shown.detector else no_detector(shown))
    if shown.detector:
        st.text(alarm_share(shown.rows))
    end_page()
facts(report)
asked = (sidebar.arrival() or {}).get("tab")
tab = choose_one("Part of the report", list(TABS), key=TAB_KEY, asked=asked, show_label=False)
sidebar.publish(shown.view(), {"tab": tab})
if own_threshold() is not None:
    st.warning("The figures hold for the calibrated threshold, not for the one set at the left.")
TABS[tab](shown, report)
with st.expander("Report as JSON"):
    show_code(json.dumps(report, indent=1, ensure_ascii=False))
