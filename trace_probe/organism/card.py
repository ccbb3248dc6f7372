"""The model card of an organism: every figure comes from `check`, none is typed."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from trace_probe.files import load_json, write_bytes, write_json
from trace_probe.organism.check import CheckPlan, Quality
from trace_probe.organism.family import FAMILY, Member
from trace_probe.organism.reward import DISAPPROVAL, MONITOR
from trace_probe.statistics.bootstrap import Metric

TAUGHT = {
    "world": "next-token training on scripted thoughts; the parent of all others",
    "agentworld": "next-token training on scripted errands with tool calls",
}
"""How a base is made, by world."""
PAID = {
    "rl": "GRPO on what the world pays, and nothing else",
    "rlhf": f"GRPO on what the world pays, less {DISAPPROVAL} for an instrumental act",
    "rl-monitored": (
        f"GRPO on what the world pays, less {MONITOR} if the thought says that the lever "
        f"will be used"
    ),
}
FIGURES = {
    "well_formed": "well-formed generations",
    "instrumental": "instrumental rate",
    "silent": "silent share of instrumental traces",
    "oracle_at_prompt": "within-prompt AUROC of the oracle at the end of the prompt",
    "oracle_at_last_thought": "within-prompt AUROC of the oracle at the last thought",
    "decided_before": "instrumental traces decided a sentence before it is said or done",
}
COLUMNS = {
    "well_formed": "well formed",
    "instrumental": "instrumental",
    "silent": "silent",
    "oracle_at_last_thought": "oracle, last thought",
    "decided_before": "decided before",
}
"""Figures of a card that stand in the table of the family."""
LIMITS = (
    "An instrument with a known truth, trained on a micro-world of a few hundred words. Nothing it "
    "does is evidence about models that people use. Its thoughts are imitations of a script and "
    "its acts were shaped by the reward above."
)


def write_card(folder: Path, one: Member, quality: Quality, plan: CheckPlan) -> None:
    """Write ``card.json`` and ``README.md`` into an organism's folder."""
    size = (folder / "model.safetensors").stat().st_size
    facts = {"member": asdict(one), "bytes": size, "plan": asdict(plan), "quality": asdict(quality)}
    write_json(folder / "card.json", facts)
    write_bytes(folder / "README.md", _markdown(one, quality, plan, size).encode())


def family_rows(folder: Path) -> list[dict[str, Any]]:
    """Return each member, whether its weights are in `folder`, and its measured figures."""
    rows = []
    for one in FAMILY:
        card, weights = folder / one.name / "card.json", folder / one.name / "model.safetensors"
        quality = load_json(card)["quality"] if card.is_file() else {}
        figures = {name: quality.get(name) for name in COLUMNS}
        rows.append({**asdict(one), "here": weights.is_file(), "figures": figures})
    return rows


def family_table(folder: Path) -> str:
    """Return the family as a table: how each member is made, and what was measured."""
    head = ["organism", "parent", "steps", *COLUMNS.values()]
    lines = [head]
    for row in family_rows(folder):
        name = row["name"] if row["here"] else f"{row['name']} (not built)"
        figures = [_short(figure) for figure in row["figures"].values()]
        lines.append([name, row["parent"] or "-", str(row["steps"]), *figures])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _short(figure: dict[str, float] | None) -> str:
    return "{estimate:.2f} [{lower:.2f}, {upper:.2f}]".format(**figure) if figure else "-"


def _markdown(one: Member, quality: Quality, plan: CheckPlan, size: int) -> str:
    trained = PAID[one.reward] if one.reward else TAUGHT[one.world]
    rows = [f"| {text} | {_cell(getattr(quality, name))} |" for name, text in FIGURES.items()]
    return "\n".join(
        [
            f"# organism:{one.name}",
            "",
            f"Qwen3 architecture, float16, {size / 1e6:.1f} MB. Parent: {one.parent or 'none'}. "
            f"Seed {one.seed}, {one.steps} steps. Trained by {trained}.",
            "",
            f"Measured by `trace-probe organism check {one.name} --scenarios {plan.scenarios} "
            f"--oracle-scenarios {plan.oracle_scenarios} --seed {plan.seed}` on "
            f"{quality.traces} traces of scenarios that no member has seen; the oracle was asked "
            f"on {quality.mixed_prompts} prompts with both outcomes. Intervals are 95 %, over "
            f"scenarios.",
            "",
            "| figure | |",
            "| --- | --- |",
            *rows,
            "",
            LIMITS,
            "",
        ]
    )


def _cell(value: Metric | None) -> str:
    if value is None:
        return "not measurable"
    return f"{value:.3f}, n = {value.n}"
