"""What a benchmark found: tables to print, and one JSON file with the facts of the machine it ran on.

A benchmark that `benchmarks/bench.py` runs takes `--out DIR`, makes an `Outcome`, and calls `publish`.
"""

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """title: what was measured. rows: as many cells each as there are columns; floats are rounded where they are shown."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def markdown(self) -> str:
        """The title and the table."""
        lines = [self.columns, ("---",) * len(self.columns), *(tuple(map(shown, row)) for row in self.rows)]
        return f"{self.title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


@dataclass(frozen=True)
class Headline:
    """One line of the README's performance table: what was measured, what came out (with its unit)."""

    what: str
    found: str


@dataclass(frozen=True)
class Outcome:
    """name: of the benchmark in `benchmarks/bench.py`; the JSON file has it too. command: how to run it again.

    figures: whatever else a program may want, such as every single run.
    """

    name: str
    command: str
    tables: tuple[Table, ...]
    headlines: tuple[Headline, ...] = ()
    figures: dict[str, object] = field(default_factory=dict)


def publish(outcome: Outcome, out: Path | None) -> None:
    """Print the tables; with a folder, write `NAME.json` into it."""
    for table in outcome.tables:
        print(f"\n{table.markdown()}", flush=True)
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    content = {**asdict(outcome), "machine": machine_facts()}
    path = out / f"{outcome.name}.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def machine_facts() -> dict[str, object]:
    """What a figure depends on besides the code: processor, cores, memory, versions, load and date."""
    import torch

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "pillow", "flwr")},
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    """The processor's name; Linux says it in a file, elsewhere Python does."""
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        names = [line.partition(":")[2] for line in facts.read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0].strip()
    return platform.processor() or platform.machine()


def shown(cell: Cell) -> str:
    """A cell as people read it: three significant digits of a float, a dash for nothing."""
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def spread(values: Sequence[float]) -> str:
    """Least to greatest of several runs."""
    return f"{shown(float(min(values)))} to {shown(float(max(values)))}"
