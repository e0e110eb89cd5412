"""`consilium check` over many DICOM files: memory, rate against bare decoding in the same run, a second run, an interrupted one.

    python benchmarks/dicom_check.py --files 1000 --files 10000 --folder SCRATCH

Files are synthetic CT slices of 256 x 256 (or --side) with 12 bits, JPEG lossless, each of other content. Every measurement
is a process of its own, and the files have been read once before (so the disk is not what is measured). CPU only.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
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
    start = time.perf_counter()
    with ThreadPoolExecutor(decoding_threads()) as pool:
        shapes = sum(pool.map(lambda path: dcmread(path).pixel_array.shape[0] > 0, files))
    return {"files": shapes, "s": time.perf_counter() - start, "peak_mb": _peak_mb()}


def check(hospital: Path, cache: Path) -> dict[str, float]:
    """The check itself, with what it remembers in `cache`."""
    from client.check import check_hospitals
    from client.progress import progress

    start = time.perf_counter()
    result = check_hospitals({"hospital": hospital}, None, progress, cache)
    seconds = time.perf_counter() - start
    found = result.hospitals["hospital"].dicom
    assert found is not None
    return {"files": found.files, "s": seconds, "peak_mb": _peak_mb(), "errors": len(result.errors)}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _measured(what: str, hospital: Path, cache: Path, kill_after_s: float | None = None) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", what, "--folder", str(hospital), "--cache", str(cache)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        out, _ = process.communicate(timeout=kill_after_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.communicate()
        return {}
    return {**json.loads(out.splitlines()[-1]), "wall_s": time.perf_counter() - start}


def main() -> None:
    """Measure, and print one line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, action="append", help="how many files; may be given several times")
    parser.add_argument("--side", type=int, default=256, help="of a slice, in pixels")
    parser.add_argument("--folder", type=Path, required=True, help="where the files are made, and left")
    parser.add_argument("--measure", choices=["bare", "check"], help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(bare(given.folder) if given.measure == "bare" else check(given.folder, given.cache)))
        return
    for files in given.files or [1000]:
        hospital = make(given.folder, files, given.side)
        with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
            cache = Path(scratch)
            decoded = _measured("bare", hospital, cache)
            first = _measured("check", hospital, cache / "one")
            second = _measured("check", hospital, cache / "one")
            _measured("check", hospital, cache / "two", kill_after_s=first["wall_s"] - first["s"] / 2)
            resumed = _measured("check", hospital, cache / "two")
        rows = {
            "bare decoding": decoded,
            "check": first,
            "check again": second,
            "check, after one killed half-way": resumed,
        }
        for name, one in rows.items():
            rate = one["files"] / one["s"]
            print(
                f"{files:6d} files  {name:32s} {one['s']:7.1f} s  {rate:7.0f}/s  peak {one['peak_mb']:6.0f} MB",
                flush=True,
            )
        print(
            f"{files:6d} files  the check runs at {decoded['s'] / first['s']:.0%} of the rate of bare decoding",
            flush=True,
        )


if __name__ == "__main__":
    main()
