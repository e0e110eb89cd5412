"""Write the README's performance table from the JSON files of `make bench` in benchmarks/results.

python -m benchmarks.readme_table            writes it between the markers in README.md
python -m benchmarks.readme_table --check    exit code 1 if it is not up to date
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench import BENCHMARKS, PROJECT, RESULTS

BEGIN, END = "<!-- performance -->", "<!-- /performance -->"


def table_of(outcomes: Sequence[dict[str, Any]]) -> str:
    """The table of all headlines, in the order of the benchmarks, and the machines they were measured on."""
    lines = ["| measured | found | command |", "|---|---|---|"]
    for outcome in outcomes:
        lines += [
            f"| {headline['what']} | {headline['found']} | `{outcome['command']}` |"
            for headline in outcome["headlines"]
        ]
    machines = dict.fromkeys(_machine(outcome["machine"]) for outcome in outcomes if outcome["headlines"])
    return (
        "\n".join(lines) + f"\n\nMeasured on {'; '.join(machines)}, {_load(outcomes)}. All of it again: `make bench`."
    )


def _machine(facts: dict[str, Any]) -> str:
    gpu = facts["gpu"] or "no GPU"
    return f"{facts['cores']} cores ({facts['processor']}, {facts['instructions']}), {gpu}, PyTorch {facts['torch']}"


def _load(outcomes: Sequence[dict[str, Any]]) -> str:
    """What else the machines did: with a load above the number of cores, seconds are only good for ratios."""
    loads = [outcome["machine"]["load_average"][0] for outcome in outcomes]
    return f"load {min(loads):.0f} to {max(loads):.0f}" if loads else "load unknown"


def read_outcomes(folder: Path) -> list[dict[str, Any]]:
    """The outcomes that have headlines, in the order of `BENCHMARKS`."""
    files = [folder / f"{name}.json" for name in BENCHMARKS]
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]
    return [outcome for outcome in found if outcome.get("headlines")]


def with_table(readme: str, table: str) -> str:
    """The README with the table between its markers.

    Raises:
        ValueError: the markers are not there, once each and in order.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"expected {BEGIN} and then {END}, once each, in the README")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main() -> None:
    """Write the table, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    given = parser.parse_args()
    path = PROJECT / "README.md"
    now = path.read_text(encoding="utf-8")
    then = with_table(now, table_of(read_outcomes(RESULTS)))
    if given.check and now != then:
        sys.exit(
            "the performance table in README.md is not that of benchmarks/results; run python -m benchmarks.readme_table"
        )
    path.write_text(then, encoding="utf-8")


if __name__ == "__main__":
    main()
