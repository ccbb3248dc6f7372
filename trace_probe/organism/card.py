"""The model card of an organism: every figure comes from `check`, none is typed."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from trace_probe.files import load_json, plain, tables_beside, write_bytes, write_json
from trace_probe.organism.check import CheckPlan, Quality
from trace_probe.organism.family import ENGLISH, FAMILY, Member
from trace_probe.organism.reward import DISAPPROVAL, MONITOR
from trace_probe.statistics.bootstrap import Metric, shown
from trace_probe.visible import aligned

WORDS = tables_beside(__file__)
"""What a card says beside its figures."""
COLUMNS: dict[str, str] = WORDS["columns"]
"""Figures of a card that stand in the table of the family."""


def write_card(folder: Path, one: Member, quality: Quality, plan: CheckPlan) -> None:
    """Write ``card.json`` and ``README.md`` into an organism's folder."""
    size = weights_of(folder, one).stat().st_size
    facts = {"member": asdict(one), "bytes": size, "plan": asdict(plan), "quality": plain(quality)}
    write_json(folder / "card.json", facts)
    write_bytes(folder / "README.md", _markdown(one, quality, plan, size).encode())


def weights_of(folder: Path, one: Member) -> Path:
    """Return where the weights of an organism are."""
    return folder / ("adapter_model.safetensors" if one.adapter else "model.safetensors")


def family_rows(folder: Path) -> list[dict[str, Any]]:
    """Return each member, whether its weights are in `folder`, and its measured figures."""
    rows = []
    for one in (*FAMILY, *(one for one in ENGLISH if (folder / one.name).is_dir())):
        card, weights = folder / one.name / "card.json", weights_of(folder / one.name, one)
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
    return "\n".join(aligned(lines))


def _short(figure: dict[str, float] | None) -> str:
    return shown(Metric.from_json(figure) if figure else None, digits=2)


def _markdown(one: Member, quality: Quality, plan: CheckPlan, size: int) -> str:
    paid = {"disapproval": DISAPPROVAL, "monitor": MONITOR}
    trained = WORDS["paid"][one.reward].format(**paid) if one.reward else WORDS["taught"][one.world]
    kind = WORDS["adapter" if one.adapter else "model"]
    figures = {text: getattr(quality, name) for name, text in WORDS["figures"].items()}
    figures |= quality.degrees.rows() if quality.degrees else {}
    return "\n".join(
        [
            f"# organism:{one.name}",
            "",
            f"{kind['made_of']}, float16, {size / 1e6:.1f} MB. "
            f"Parent: {one.parent or 'none'}. Seed {one.seed}, {one.steps} steps. "
            f"Trained by {trained}.",
            "",
            f"Measured by `trace-probe organism check {one.name} --scenarios {plan.scenarios} "
            f"{_asked(plan, adapter=one.adapter)} --seed {plan.seed}` on "
            f"{quality.traces} traces of scenarios that no member has seen; the oracle was asked "
            f"on {quality.mixed_prompts} prompts with both outcomes. Intervals are 95 %, over "
            f"scenarios.",
            "",
            "| figure | |",
            "| --- | --- |",
            *(f"| {text} | {_cell(value)} |" for text, value in figures.items()),
            "",
            WORDS["limits"].format(world=kind["world"]),
            "",
        ]
    )


def _asked(plan: CheckPlan, *, adapter: bool) -> str:
    """Return the options that say how much the oracle was asked."""
    if not adapter:
        return f"--oracle-scenarios {plan.oracle_scenarios}"
    by = plan.degrees
    return f"--thirds {by.traces} --whole {by.whole} --continuations {by.continuations}"


def _cell(value: Metric | None) -> str:
    if value is None:
        return "not measurable"
    return f"{value:.3f}, n = {value.n}"
