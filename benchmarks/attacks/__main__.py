"""Attacks on our own federation, each without and with what should help against it, as Markdown tables and as JSON.

    python -m benchmarks.attacks SHARED [--quick] [--only 1 5] [--json attacks.json] [--cache-dir DIR]

From the project's folder. SHARED holds data/chest_xray and weights/; the four hospitals of configs/chest_xray.yaml are attacked,
their features cached by the first run. --quick: fewer draws and models, for a look; figures in docs/attacks.md are without it.
What each attack is, is said at the top of its file; docs/attacks.md has what was found.
"""

import argparse
import gc
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.attacks import (
    features,
    gradient_inversion,
    label_distribution,
    malicious_coordinator,
    malicious_hospital,
    membership,
)
from benchmarks.attacks.federation import joined, whole
from benchmarks.attacks.table import Table
from benchmarks.privacy.private_heads import NAMES, Part, hospitals_of

SEED = 3
Parts = Sequence[Mapping[str, Part]]


def attacks_on(shared: Path, hospitals: Parts, quick: bool) -> dict[int, Callable[[], list[Table]]]:
    """The attacks by number. hospitals: the parts of each hospital's examples."""
    trains, tests = [one["train"] for one in hospitals], [one["test"] for one in hospitals]
    every = [whole(one) for one in hospitals]
    # Images are attacked at a hospital that has many, of adults.
    images = shared / "data" / "chest_xray" / NAMES[0]
    models, noised = (4, 1) if quick else (32, 8)
    kept = ("1 image, 1 step", "secure sum")
    settings = {
        name: how for name, how in gradient_inversion.SETTINGS.items() if not quick or any(k in name for k in kept)
    }
    return {
        1: lambda: [membership.attack_heads(every, models), membership.attack_updates(every, models, noised)],
        2: lambda: [label_distribution.attack(trains, *((5, 1) if quick else (50, 10)))],
        3: lambda: [features.attack(trains, joined(every), *((5, 1) if quick else (50, 10)))],
        4: lambda: [gradient_inversion.attack(images, *((1, 60) if quick else (2, 500)), settings)],
        5: lambda: [malicious_coordinator.attack(trains)],
        6: lambda: [malicious_hospital.attack(trains, tests, *((1, 4) if quick else (2, 10)))],
    }


def main() -> None:
    """Attack, and print what was found."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("shared", type=Path)
    arguments.add_argument("--quick", action="store_true")
    arguments.add_argument("--only", type=int, nargs="+", choices=range(1, 7), default=range(1, 7))
    arguments.add_argument("--json", type=Path, help="where the same figures go, with all draws")
    arguments.add_argument("--cache-dir", type=Path)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    for name in ("flwr", "client.weights"):
        logging.getLogger(name).setLevel(logging.ERROR)
    hospitals = hospitals_of(given.shared, given.cache_dir, SEED)
    # Flower's Bulyan collects garbage for every update, through all that torch has loaded: most of the time of attack 6.
    gc.freeze()
    records: list[dict[str, object]] = []
    for number, attack in attacks_on(given.shared, hospitals, given.quick).items():
        if number not in given.only:
            continue
        began = time.monotonic()
        for table in attack():
            print(table.markdown(), flush=True)
            records += table.records()
        print(f"({time.monotonic() - began:.0f} s)\n", flush=True)
    if given.json:
        given.json.write_text(json.dumps({"quick": given.quick, "seed": SEED, "found": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
