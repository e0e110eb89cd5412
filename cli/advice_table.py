"""Advice on a terminal: what was found, what was measured, what is recommended and why."""

import math
import textwrap

from rich.console import Console
from rich.table import Table

from common.wire import PARTS
from simulation.advice.advise import Advice
from simulation.advice.recommendation import Recommendation
from simulation.advice.recommended_job import RecommendedJob
from simulation.advice.situation import Machine, Situation
from simulation.advice.speed import shown_megabytes

_WIDEST = 110
_CLASSES_SHOWN = 6


def print_advice(advice: Advice, console: Console) -> None:
    """Print all but the job file, at most 110 characters wide."""
    width = min(console.width, _WIDEST)
    console.print(_found(advice.situation), width=width)
    _say(console, _differences(advice.situation), width)
    if advice.situation.measured:
        console.print(
            "\n[dim]closed-form heads, the best of their candidates on validation patients[/]", highlight=False
        )
        console.print(_measured(advice.situation), width=width)
    changed = set(advice.recommended.changed)
    for title, kind in (("recommended", "recommended"), ("keep away from", "avoid"), ("to know", "note")):
        some = [one for one in advice.recommendations if one.kind == kind]
        if some:
            console.print(f"\n[dim]{title}[/]")
        for one in some:
            mark = "" if kind != "recommended" or one.key in changed else " (as it is)"
            _say(console, one.key if kind == "note" else f"{one.key}: {_value(one)}{mark}", width, "bold")
            _say(console, f"{one.reason[0].upper()}{one.reason[1:]}. [{one.source}]", width, indent=4)


def print_title(recommended: RecommendedJob, console: Console) -> None:
    """Print what is written above the job file: the keys that are not as they were."""
    changed = ", ".join(recommended.changed) or "nothing"
    removed = f"; removed: {', '.join(recommended.removed)}" if recommended.removed else ""
    console.print()
    _say(console, f"recommended job; changed: {changed}{removed}", min(console.width, _WIDEST), "dim")
    console.print()


def _found(situation: Situation) -> Table:
    classes = situation.job.classes if situation.job.num_classes <= _CLASSES_SHOWN else []
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("hospital", overflow="fold")
    headings = [*(classes or ["images"]), "train/val./test", "patients", "device", "images/s"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=heading not in classes)
    for one in situation.data.hospitals:
        by_class = [sum(part) for part in zip(*one.images, strict=True)]
        table.add_row(
            one.name,
            *(f"{number:,}" for number in (by_class if classes else [one.total])),
            "/".join(str(sum(part)) for part in one.images),
            f"{sum(one.patients):,}",
            *_machine(situation.machines[one.name]),
        )
    return table


def _machine(machine: Machine) -> tuple[str, str]:
    memory = f" {machine.gpu_memory_gb:.0f} GB" if machine.gpu_memory_gb else ""
    speed = f"{machine.images_per_s:,.0f}" if machine.images_per_s else "?"
    return f"{machine.device}{memory}{' (stated)' if machine.stated else ''}", speed


def _differences(situation: Situation) -> str:
    data = situation.data
    alone = f"; one class only: {', '.join(data.one_class)}" if data.one_class else ""
    ratio = "one without images" if data.imbalance == math.inf else f"largest {data.imbalance:.1f} times the smallest"
    patients = ", ".join(f"{data.patients(part)} {part}" for part in PARTS)
    return (
        f"{situation.job.num_classes} classes, {ratio}; {data.n:,} training images; patients: {patients}; label distance "
        f"between hospitals {data.mean_label_skew:.2f} of 1, largest hospital {data.size_ratio:.0f} times the smallest{alone}"
    )


def _measured(situation: Situation) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    metric = situation.job.evaluation.select_by
    for heading in ("backbone", "stages", metric, "95 %", "s per 1,000 images", "sums, once"):
        table.add_column(heading, justify="left" if heading in ("backbone", "stages") else "right", no_wrap=True)
    for one in sorted(situation.measured, key=lambda one: one.score if one.score is not None else -1.0, reverse=True):
        table.add_row(
            one.backbone,
            one.stages,
            "–" if one.score is None else f"{one.score:.3f}",
            "" if one.interval is None else f"{one.interval[0]:.3f} to {one.interval[1]:.3f}",
            f"{one.seconds_per_1000:.1f}",
            shown_megabytes(one.sums_bytes),
        )
    return table


def _value(one: Recommendation) -> str:
    value = one.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    file = getattr(value, "file", None)
    return str(file or value)


def _say(console: Console, text: str, width: int, style: str = "", indent: int = 0) -> None:
    margin = " " * indent
    lines = textwrap.fill(text, width, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False)
    console.print(lines, style=style, markup=False, highlight=False, soft_wrap=True)
