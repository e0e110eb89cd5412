"""What float32 on the wire costs the closed-form head, against float64: heads, scores and bytes.

    python benchmarks/statistics_dtype.py SHARED

The four hospitals of configs/chest_xray.yaml. Each sends its sums in either type; the heads solved from the totals are compared,
for features standardised before summing (as the code does) and for raw ones. Prints a Markdown table.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from client.hospital_file import Data, HospitalFile
from client.policy import Policy
from client.preparation import prepare
from common.config_file import load_yaml
from common.head import Standardisation
from common.job import parse_job
from common.ridge import Ridge
from common.sums import Sums

PROJECT = Path(__file__).resolve().parent.parent
NAMES = ("nih_clinical_center", "guangzhou_children", "actualmed_spain", "figure1")
STRENGTHS = (1e-3, 1e-2, 0.1, 1.0)


def main() -> None:
    """Solve with both types and print the differences."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("shared", type=Path)
    arguments.add_argument("--cache-dir", type=Path)
    given = arguments.parse_args()
    job = parse_job(load_yaml(PROJECT / "configs" / "chest_xray.yaml"))
    with tempfile.TemporaryDirectory() as folder:
        prepared = [
            prepare(
                job,
                HospitalFile(
                    name=name,
                    data=Data(folder=given.shared / "data" / "chest_xray" / name),
                    cache=given.cache_dir or Path(folder),
                    weights_dir=given.shared / "weights",
                    policy=Policy(approve="auto"),
                ),
            )
            for name in NAMES
        ]
    told = [one.description for one in prepared]
    standardisation = Standardisation.from_sums(
        sum(one.examples for one in told), sum(one.sums for one in told), sum(one.squares for one in told)
    )
    trains = [one.parts["train"] for one in prepared]
    test = np.concatenate([one.parts["test"].features for one in prepared])
    print("| features | on the wire | MB a hospital | ridge | greatest relative difference of the scores |")
    print("|---|---|---|---|---|")
    for title, apply in (("standardised first", standardisation.apply), ("raw", lambda features: features)):
        sums = [Sums.of(apply(one.features), one.labels, job.num_classes) for one in trains]
        exact = Ridge(sum(sums[1:], sums[0]))
        width = len(sums[0].gram)
        for dtype in ("float32", "float64"):
            sent = [Sums.from_triangle(one.triangle(dtype), one.class_sums.astype(dtype)) for one in sums]
            found = Ridge(sum(sent[1:], sent[0]))
            megabytes = (width * (width + 1) / 2 + width * job.num_classes) * np.dtype(dtype).itemsize / 1e6
            for strength in STRENGTHS:
                one, other = exact.scores(strength), found.scores(strength)
                scores = apply(test).astype(np.float64) @ one.weight.T + one.bias
                others = apply(test).astype(np.float64) @ other.weight.T + other.bias
                difference = np.abs(scores - others).max() / np.abs(scores).max()
                print(f"| {title} | {dtype} | {megabytes:.1f} | {strength:g} | {difference:.1e} |", flush=True)


if __name__ == "__main__":
    main()
