"""What a secure sum costs: seconds, bytes and memory of whole sessions in one process, phase by phase.

    python -m benchmarks.privacy.secure_sum [--features 512 1280] [--hospitals 3 5 10 20] [--out DIR]

The sums of the closed-form head, two classes, masked (64 bits a number) against plain (float32). Each size runs twice: all stay,
and as many as tolerated are lost after they dealt their shares, which is the dearest moment. Prints Markdown tables;
with --out DIR it writes DIR/secure_sum.json.
"""

import argparse
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.outcome import Cell, Headline, Outcome, Table, publish
from common.packed import AnyArray, Packed, arrays_to_bytes
from common.secure_sum.combiner import Combiner, Total
from common.secure_sum.layout import Layout, Slot
from common.secure_sum.once import Once
from common.secure_sum.participant import Participant
from common.secure_sum.roster import Identity, Roster, public_line
from common.secure_sum.subject import Subject
from common.secure_sum.terms import Phase, default_threshold

CLASSES, FRACTION_BITS = 2, 24
COLUMNS = (
    "features",
    "hospitals, lost",
    "s in all",
    "processor s in all",
    "s of one hospital",
    "s of the coordinator",
    "MB sent, plain",
    "sent / plain",
    "KB received",
    "peak MB of the process",
)


@dataclass
class Spent:
    """Seconds of all hospitals and of the coordinator by phase, and bytes from and to one hospital that stays."""

    hospitals_s: dict[Phase, float] = field(default_factory=lambda: defaultdict(float))
    coordinator_s: dict[Phase, float] = field(default_factory=lambda: defaultdict(float))
    sent: int = 0
    received: int = 0


def layout_of(features: int) -> Layout:
    """Of the sums for the closed-form head."""
    width = features + 1
    return Layout(
        (
            Slot("examples", (), "count"),
            Slot("gram", (width * (width + 1) // 2,), "real", FRACTION_BITS),
            Slot("class-sums", (width, CLASSES), "real", FRACTION_BITS),
        )
    )


def drawn(layout: Layout, seed: int) -> dict[str, AnyArray]:
    """Numbers of a hospital."""
    rng = np.random.default_rng(seed)
    return {
        slot.name: np.array(1000) if slot.kind == "count" else rng.normal(0, 1000, slot.shape).astype(np.float32)
        for slot in layout.slots
    }


def run(folder: Path, subject: Subject, count: int, lost: Iterable[str]) -> tuple[Spent, Total]:
    """One session."""
    keys = {f"h{number:02d}": ec.generate_private_key(ec.SECP384R1()) for number in range(count)}
    roster = Roster({name: public_line(key) for name, key in keys.items()})
    arrays = {name: drawn(subject.layout, place) for place, name in enumerate(keys)}
    spent, gone, last = Spent(), set(lost), max(keys)
    combiner = Combiner(subject.terms(roster, count), subject.layout, roster, keys)
    hospitals: dict[str, Participant] = {}
    while (phase := combiner.phase) is not None:
        began = time.perf_counter()
        requests = combiner.requests()
        spent.coordinator_s[phase] += time.perf_counter() - began
        replies: dict[str, Packed] = {}
        for name, request in requests.items():
            if phase is Phase.MASKED and name in gone:
                continue
            began = time.perf_counter()
            if phase is Phase.KEYS:
                hospitals[name] = Participant(Identity(name, keys[name], roster), request, subject, Once(folder / name))
            replies[name] = hospitals[name].answer(phase, request, arrays[name] if phase is Phase.MASKED else None)
            spent.hospitals_s[phase] += time.perf_counter() - began
        spent.sent += len(arrays_to_bytes(replies[last].arrays))
        spent.received += len(arrays_to_bytes(requests[last].arrays))
        began = time.perf_counter()
        combiner.take(replies)
        spent.coordinator_s[phase] += time.perf_counter() - began
    if combiner.total is None:
        raise SystemExit("the session ended without a sum")
    for name, array in combiner.total.arrays.items():
        exact = sum(arrays[one][name].astype(np.float64) for one in combiner.total.hospitals)
        if np.abs(array - exact).max() > count / 2 / 2.0**FRACTION_BITS + 1e-6:
            raise SystemExit(f"the sum of {name} is wrong")
    return spent, combiner.total


def main() -> None:
    """Run all sizes, print the tables, and write secure_sum.json."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--features", type=int, nargs="+", default=[512, 1280])
    arguments.add_argument("--hospitals", type=int, nargs="+", default=[3, 5, 10, 20])
    arguments.add_argument("--out", type=Path, help="folder for secure_sum.json")
    given = arguments.parse_args()
    phases = list(Phase)
    rows: list[tuple[Cell, ...]] = []
    details: list[tuple[Cell, ...]] = []
    heads = []
    for features in given.features:
        subject = Subject("0" * 64, "statistics", layout_of(features), "0" * 64)
        plain = 4 * subject.layout.length
        for count in given.hospitals:
            tolerated = count - default_threshold(count)
            for number in sorted({0, tolerated}):
                with tempfile.TemporaryDirectory() as folder:
                    lost = [f"h{place:02d}" for place in range(number)]
                    began = time.process_time()
                    spent, _ = run(Path(folder), subject, count, lost)
                    processor_s = time.process_time() - began
                at_hospitals, at_coordinator = sum(spent.hospitals_s.values()), sum(spent.coordinator_s.values())
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                named = (features, f"{count}, {number}")
                rows.append(
                    (
                        *named,
                        at_hospitals + at_coordinator,
                        processor_s,
                        at_hospitals / count,
                        at_coordinator,
                        f"{spent.sent / 1e6:.2f}, {plain / 1e6:.2f}",
                        f"{spent.sent / plain:.3f}",
                        spent.received / 1e3,
                        peak,
                    )
                )
                cells = [f"{spent.hospitals_s[phase]:.2f} + {spent.coordinator_s[phase]:.2f}" for phase in phases]
                details.append((*named, *cells))
                print(
                    f"{features} features, {count} hospitals, {number} lost: {processor_s:.1f} s of processors",
                    flush=True,
                )
                if number and (features, count) == (max(given.features), max(given.hospitals)):
                    heads.append(
                        Headline(
                            f"secure aggregation of the closed form, {features:,} features, {count} hospitals of which "
                            f"{number} are lost, all in one process",
                            f"{at_hospitals / count:.1f} s a hospital, {at_coordinator:.1f} s at the coordinator, "
                            f"{spent.sent / plain:.2f} times the bytes of plain sums",
                        )
                    )
    tables = (
        Table("A secure sum", COLUMNS, tuple(rows)),
        Table(
            "Seconds of all hospitals together + of the coordinator, by phase",
            ("features", "hospitals, lost", *map(str, phases)),
            tuple(details),
        ),
    )
    publish(Outcome("secure_sum", "python -m benchmarks.privacy.secure_sum", tables, tuple(heads)), given.out)


if __name__ == "__main__":
    main()
