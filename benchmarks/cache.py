"""The feature cache: the same images cold, warm, and after some of them changed.

    python -m benchmarks.cache SHARED

Extraction of all views that the job of configs/chest_xray.yaml needs at four hospitals. Cold: an empty folder. Warm: again.
Touched: one image in a hundred has other bytes, so its digest is another. Only these pass the network again.
"""

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.chest_sample import hospitals, job_with
from benchmarks.outcome import Headline, Outcome, Table, publish, spread
from benchmarks.whole_job import extract_alone, seconds_of
from client.manifest import read_manifest
from client.records import MANIFEST


def main() -> None:
    """Measure, print, and write cache.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--images", type=int, help="in all; default: all 3,278")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    job, weights = job_with(), given.shared / "weights"
    seconds: dict[str, list[float]] = {"cold": [], "warm": [], "1 % of the images changed": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        copies = _copied(hospitals(given.shared, folder / "listed", given.images), folder / "copies")
        extract_alone(job, _first(copies), weights, folder / "warm-up")
        for run in range(given.runs):
            cache = folder / f"cache-{run}"
            for name, runs in seconds.items():
                if name.startswith("1 %"):
                    _touch(copies)
                runs.append(seconds_of(lambda cache=cache: extract_alone(job, copies, weights, cache)))
    publish(outcome_of(seconds, given.images), given.out)


def _first(copies: Mapping[str, Path]) -> Mapping[str, Path]:
    """The smallest hospital, to load weights and code before anything is measured."""
    return {"figure1": copies["figure1"]}


def _copied(found: Mapping[str, Path], folder: Path) -> Mapping[str, Path]:
    """The hospitals with images of their own, which may be changed."""
    copies = {}
    for name, listed in found.items():
        copies[name] = folder / name
        copies[name].mkdir(parents=True)
        lines = ["path,label,patient_id"]
        for number, row in enumerate(read_manifest(listed / MANIFEST)):
            target = copies[name] / f"{number}{row.path.suffix}"
            shutil.copyfile(row.path, target)
            lines.append(f"{target.name},{row.label},{row.patient_id}")
        (copies[name] / MANIFEST).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return copies


def _touch(copies: Mapping[str, Path]) -> None:
    """Another byte behind the end of one image in a hundred, at least one: decoders pass over it, the digest does not."""
    paths = [row.path for folder in copies.values() for row in read_manifest(folder / MANIFEST)]
    for path in paths[:: max(1, min(100, len(paths) - 1))]:
        with path.open("ab") as file:
            file.write(b"\0")


def outcome_of(seconds: dict[str, list[float]], images: int | None) -> Outcome:
    """Seconds, and the share of the cold run."""
    cold = statistics.median(seconds["cold"])
    medians = {name: statistics.median(runs) for name, runs in seconds.items()}
    table = Table(
        f"Features of four hospitals, {images or 'all'} images and their mirror images",
        ("cache", "s: median", "least to greatest", "of cold"),
        tuple((name, medians[name], spread(runs), medians[name] / cold) for name, runs in seconds.items()),
    )
    warm, touched = (medians[name] / cold for name in list(seconds)[1:])
    headline = Headline(
        "features again, from the cache; after 1 % of the images changed",
        f"{100 * warm:.1f} % of the time of the first run; {100 * touched:.1f} %",
    )
    return Outcome(
        "cache", "python -m benchmarks.cache SHARED", (table,), (headline,), {"seconds": seconds, "images": images}
    )


if __name__ == "__main__":
    main()
