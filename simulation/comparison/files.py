"""The files a comparison leaves: compare.csv, compare.json, compare.html."""

import json
from pathlib import Path

from common.artifact import write_atomically
from simulation.comparison.page import to_html
from simulation.comparison.results import Comparison
from simulation.comparison.text import to_csv, to_plain

CSV, JSON, PAGE = "compare.csv", "compare.json", "compare.html"


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write all files into a folder, replacing those of an earlier comparison there."""
    write_atomically(folder / CSV, to_csv(comparison))
    write_atomically(folder / JSON, json.dumps(to_plain(comparison), indent=1))
    write_atomically(folder / PAGE, to_html(comparison))
