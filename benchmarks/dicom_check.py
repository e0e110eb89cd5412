"""`consilium check` over many DICOM files: memory, rate against bare decoding in the same run, a second run, an interrupted one.

    python benchmarks/dicom_check.py --files 1000 --files 10000 --folder SCRATCH

Files are synthetic CT slices of 256 x 256 (or --side) with 12 bits, JPEG lossless, each of other content. Every measurement
is a process of its own, and the files have been read once before (so the disk is not what is measured). CPU only.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"


def make(folder: Path, files: int, side_px: int) -> Path:
    """A hospital with so many slices, ten of each patient; what is there already stays."""
    hospital = folder / f"{files}-files-{side_px}"
    if (hospital / "manifest.csv").exists():
        return hospital
    (hospital / "images").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda number: _slice(hospital, number, side_px), range(files)))
    rows = [f"images/{number:05d}.dcm,{('normal', 'opacity')[number // 10 % 2]}" for number in range(files)]
    (hospital / "manifest.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    return hospital


def _slice(hospital: Path, number: int, side_px: int) -> None:
    from tests.dicom_files import recoded, uid, write_dicom

    target = hospital / "images" / f"{number:05d}.dcm"
    if target.exists():
        return
    rng = np.random.default_rng(number)
    blobs = Image.fromarray(rng.integers(0, 255, (12, 12), np.uint8)).resize(
        (side_px, side_px), Image.Resampling.BICUBIC
    )
    noise = rng.integers(0, 16, (side_px, side_px), np.uint16)
    plain = target.with_suffix(".plain")
    write_dicom(
        plain,
        np.asarray(blobs).astype(np.uint16) * 14 + noise,
        BitsStored=12,
        HighBit=11,
        RescaleSlope=1,
        RescaleIntercept=-1024,
        WindowCenter=40,
        WindowWidth=400,
        PatientID=f"P{number // 10}",
        PatientName=f"P{number // 10}",
        StudyInstanceUID=uid("study", number // 10),
        SeriesInstanceUID=uid("series", number // 10),
        SOPInstanceUID=uid(number),
    )
    recoded(plain, target, JPEG_LOSSLESS)
    plain.unlink()


def bare(hospital: Path) -> dict[str, float]:
    """Decoding and nothing else, with as many threads as the check has."""
    from pydicom import dcmread

    from client.device import decoding_threads

    files = sorted((hospital / "images").iterdir())
    start, used = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(decoding_threads()) as pool:
        shapes = sum(pool.map(lambda path: dcmread(path).pixel_array.shape[0] > 0, files))
    return {"files": shapes, **_cost(start, used)}


def check(hospital: Path, cache: Path, until: float = 1.0) -> dict[str, float]:
    """The check itself, with what it remembers in `cache`; interrupted, as by Ctrl-C, after the share `until` of the files."""
    from client.check import check_hospitals
    from client.progress import progress

    @contextmanager
    def interrupting(title: str, total: int) -> Iterator[Callable[[int], None]]:
        done = 0
        with progress(title, total) as advance:

            def and_stop(more: int) -> None:
                nonlocal done
                done += more
                advance(more)
                if done >= until * total and until < 1.0:
                    raise KeyboardInterrupt

            yield and_stop

    start, used = time.perf_counter(), time.process_time()
    try:
        result = check_hospitals({"hospital": hospital}, None, interrupting, cache)
    except KeyboardInterrupt:
        return {"files": 0, **_cost(start, used)}
    cost = _cost(start, used)
    found = result.hospitals["hospital"].dicom
    assert found is not None
    return {"files": found.files, **cost}


def _cost(start: float, used: float) -> dict[str, float]:
    """Seconds on the clock and of the processor (all threads), which other work on the machine does not change, and the peak."""
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"s": time.perf_counter() - start, "cpu_s": time.process_time() - used, "peak_mb": peak_mb}


def _measured(what: str, hospital: Path, cache: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", what, "--folder", str(hospital), "--cache", str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure, and print one line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, action="append", help="how many files; may be given several times")
    parser.add_argument("--side", type=int, default=256, help="of a slice, in pixels")
    parser.add_argument("--folder", type=Path, required=True, help="where the files are made, and left")
    parser.add_argument("--measure", choices=["bare", "check", "half"], help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        until = 0.5 if given.measure == "half" else 1.0
        print(json.dumps(bare(given.folder) if given.measure == "bare" else check(given.folder, given.cache, until)))
        return
    for files in given.files or [1000]:
        hospital = make(given.folder, files, given.side)
        with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
            cache = Path(scratch)
            decoded = _measured("bare", hospital, cache)
            first = _measured("check", hospital, cache / "one")
            second = _measured("check", hospital, cache / "one")
            _measured("half", hospital, cache / "two")
            resumed = _measured("check", hospital, cache / "two")
        rows = {
            "bare decoding": decoded,
            "check": first,
            "check again": second,
            "check, after half of one": resumed,
        }
        for name, one in rows.items():
            cost = f"{one['s']:7.1f} s  {one['cpu_s']:7.1f} s of processor  {one['files'] / one['s']:7.0f}/s"
            print(f"{files:6d} files  {name:26s} {cost}  peak {one['peak_mb']:6.0f} MB", flush=True)
        share = decoded["cpu_s"] / first["cpu_s"]
        print(f"{files:6d} files  bare decoding takes {share:.0%} of the check's processor time", flush=True)


if __name__ == "__main__":
    main()
