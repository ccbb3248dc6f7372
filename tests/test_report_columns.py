"""A report always shows its baselines beside the detector, whatever the data can give."""

from trace_probe.evaluation.report import Report
from trace_probe.statistics.bootstrap import Metric


def test_without_mixed_prompts_the_table_compares_over_all_prompts() -> None:
    figures = {"pooled_auroc": Metric(0.63, 0.35, 0.88, 20)}
    baselines = {"category-only": {"pooled_auroc": Metric(1.0, 1.0, 1.0, 20)}}
    report = Report("tfidf", "rules", None, {"traces": 20}, None, None, figures, baselines)
    lines = str(report).splitlines()
    assert "AUROC over all prompts" in lines[0]
    assert lines[1].startswith("tfidf  ")
    assert lines[2].startswith("category-only  1.000")
