"""How far a diagnosis can be trusted: calibration, operating point, and images that are none of the model's business.

    python benchmarks/diagnosis.py SHARED [--cache DIR] [--seed 3]

SHARED holds data/chest_xray and weights/. The job is configs/chest_xray.yaml on its four hospitals, with an operating
point, once with the closed form and once with 20 rounds of FedAvg from nothing. Everything that is chosen is chosen
on validation patients by the run itself; the test patients of all hospitals are looked at here only. Unlike images:
phantoms (drawn by a program), patches of real colour photographs that come with scikit-learn and matplotlib, the same
in grey, and the test X-rays upside down.

Prints a Markdown table. --cache keeps features, so that a second run takes a minute instead of a quarter of an hour on two cores.
"""

import argparse
import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sklearn.datasets
from matplotlib import cbook
from PIL import Image

from client.backbone import Backbone
from client.device import choose_device
from client.diagnosis import Diagnosis, Diagnostician
from client.extractor import Extractor, Pixels
from client.feature_cache import FeatureCache
from client.feature_space import all_blocks, extraction_space, views_of
from client.features import extract
from client.images import load_image
from client.phantom import make_phantoms
from client.progress import progress
from client.records import Record, read_rows
from common.config_file import load_yaml
from common.head import Float32, Float64, softmax
from common.intervals import wilson
from common.job import Job, parse_job
from common.metrics import Int64, count, derive
from simulation.pooling import records_of
from simulation.run import simulate

PROJECT = Path(__file__).resolve().parent.parent
NAMES = ("nih_clinical_center", "guangzhou_children", "actualmed_spain", "figure1")
METHODS: Mapping[str, object] = {"analytic": None, "fedavg": {"name": "fedavg", "rounds": 20}}
RULE = {"class": "pneumonia", "sensitivity": 0.95}
CONFIDENCE = 0.8
PATCHES = 14


class Remembering:
    """An extractor that keeps the features (N, D) of pixels it has seen, by their digest."""

    def __init__(self, extractor: Extractor, cache: FeatureCache) -> None:
        self._extractor, self._cache = extractor, cache
        self.backbone, self.batch_size, self.to_images = extractor.backbone, extractor.batch_size, extractor.to_images

    def __call__(self, pixels: Pixels) -> Float32:
        """As `Extractor`."""
        keys = [(hashlib.sha256(one.tobytes()).digest(), 0) for one in pixels]
        known = self._cache.get(keys)
        missing = {key: index for index, key in enumerate(keys) if key not in known}
        if missing:
            found = dict(zip(missing, self._extractor(pixels[list(missing.values())]), strict=True))
            self._cache.put(found)
            known |= found
        return np.stack([known[key] for key in keys])


def main() -> None:
    """Train, diagnose, print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("shared", type=Path)
    arguments.add_argument("--cache", type=Path)
    arguments.add_argument("--seed", type=int, default=3)
    arguments.add_argument(
        "--every", type=int, default=4, help="of the test X-rays, how many are also turned (default: each 4th)"
    )
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(given.shared, given.cache or Path(folder) / "cache", Path(folder), given.seed, given.every)


def measure(shared: Path, cache: Path, folder: Path, seed: int, every: int) -> None:
    """Both methods, one table."""
    hospitals = {name: shared / "data" / "chest_xray" / name for name in NAMES}
    content = {**load_yaml(PROJECT / "configs" / "chest_xray.yaml"), "seed": seed}
    content["evaluation"] = {**content["evaluation"], "operating_point": RULE}
    films = [one for records in records_of(hospitals, parse_job(content)).values() for one in records.of("test")]
    some = films[::every]
    unlike = unlike_images(some, folder / "unlike")
    columns: dict[str, dict[str, str]] = {}
    for name, method in METHODS.items():
        one = {key: value for key, value in content.items() if key not in ("method", "features") or method is None}
        job = parse_job({**one, **({"method": method, "features": {"mirror": True}} if method else {})})
        run = simulate(job, hospitals, folder / name, cache_dir=cache, weights_dir=shared / "weights")
        diagnostician = Diagnostician(run.folder / "model.safetensors", shared / "weights")
        backbone = diagnostician._extractor.backbone
        space = extraction_space(job, backbone.digest)
        with FeatureCache(cache, space, all_blocks(backbone.name)[-1].stop, "diagnosed") as kept:
            diagnostician._extractor = Remembering(diagnostician._extractor, kept)  # type: ignore[assignment]
            columns[name] = {
                **_tested(diagnostician, films, features_of(films, job, backbone, cache)),
                **_flags(diagnostician, some, unlike),
            }
    print(f"\n| | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for row in next(iter(columns.values())):
        print(f"| {row} | {' | '.join(column[row] for column in columns.values())} |")


def features_of(films: Sequence[Record], job: Job, backbone: Backbone, cache: Path) -> Float32:
    """Features (N, D) of test X-rays, averaged over the views, from the cache of the run or from the backbone."""
    extractor = Extractor(backbone, choose_device("auto"), job.size_px)
    space = f"{extraction_space(job, backbone.digest)}-{extractor.precision}"
    with FeatureCache(cache, space, all_blocks(backbone.name)[-1].stop) as kept:
        found = extract([(film.path, views_of(job, "test")) for film in films], extractor, kept, job)
    return np.stack([one.mean(axis=0) for one in found.vectors if one is not None])


def _tested(diagnostician: Diagnostician, films: Sequence[Record], features: Float32) -> dict[str, str]:
    """Calibration, operating point and distance on all test X-rays."""
    manifest, labels = diagnostician.manifest, np.array([film.label for film in films])
    given, point, limit, spread = manifest.calibration, diagnostician.point, manifest.unlike, diagnostician.spread
    if given is None or point is None or limit is None or spread is None:
        raise SystemExit(f"the model lacks something: {manifest.missing}")
    logits = diagnostician.model.head.logits(features)
    probabilities = softmax(logits)
    said = probabilities[:, manifest.job.classes.index(point.name)] >= point.threshold
    ill = labels == manifest.job.classes.index(point.name)
    far = spread.squared_distances(features) > limit.distance
    rows = {
        "temperature": f"{given.temperature:.2f}",
        "test ECE before calibration": f"{_ece(softmax(logits * given.temperature), labels):.3f}",
        "test ECE after": f"{_ece(probabilities, labels):.3f}",
        "operating point: from probability": f"{point.threshold:.3f}",
        "sensitivity promised": f"{point.sensitivity:.3f}",
        f"sensitivity on {int(ill.sum())} test X-rays with pneumonia": _share(said[ill]),
        "specificity promised": f"{point.specificity:.3f}",
        f"specificity on {int((~ill).sum())} test X-rays without": _share(~said[~ill]),
        "distance limit (d² / D)": f"{limit.distance:.2f}",
        "false alarms of the distance promised": f"{limit.false_alarms:.3f}",
        f"false alarms of the distance on {len(films)} test X-rays": _share(far),
    }
    hospitals = np.array([film.path.parents[1].name for film in films])
    return rows | {f"... of them {name}": _share(far[hospitals == name]) for name in NAMES if (hospitals == name).any()}


def _flags(
    diagnostician: Diagnostician, some: Sequence[Record], unlike: Mapping[str, Sequence[Path]]
) -> dict[str, str]:
    """What is flagged of images that are, and that are not, like the training images."""
    classes = diagnostician.manifest.job.classes
    with progress("test X-rays diagnosed", len(some)) as advance:
        found = diagnostician.diagnose([film.path for film in some], CONFIDENCE, told=advance)
    rows = {f"flagged of {len(some)} test X-rays as they are: distance / turned / either": _flagged(found)}
    for name, paths in unlike.items():
        with progress(f"{name} diagnosed", len(paths)) as advance:
            told = diagnostician.diagnose(paths, CONFIDENCE, told=advance)
        rows[f"flagged of {len(paths)} {name}: distance / turned / either"] = _flagged(told)
        rows[f"... referred for any reason, {name}"] = f"{np.mean([bool(one.reasons) for one in told]):.3f}"
    kept = np.array([not one.reasons for one in found])
    right = np.array([one.leaning == classes[film.label] for one, film in zip(found, some, strict=True)])
    rows["test X-rays as they are: referred for any reason"] = f"{1 - kept.mean():.3f}"
    rows["accuracy: of what is not referred / of all"] = f"{right[kept].mean():.3f} / {right.mean():.3f}"
    return rows


def _share(right: npt.NDArray[np.bool_]) -> str:
    bound = wilson(int(right.sum()), len(right))
    return f"{right.mean():.3f}" + (f" ({bound.low:.3f} to {bound.high:.3f})" if bound else "")


def _flagged(found: Sequence[Diagnosis]) -> str:
    far = np.array([one.distance is not None and one.limit is not None and one.distance > one.limit for one in found])
    turned = np.array([bool(one.turned) for one in found])
    return f"{far.mean():.3f} / {turned.mean():.3f} / {(far | turned).mean():.3f}"


def _ece(probabilities: Float64, labels: Int64) -> float:
    return derive(count(probabilities, labels)).ece or 0.0


def unlike_images(films: Sequence[Record], folder: Path) -> dict[str, list[Path]]:
    """Images that a chest model has no business with, as files."""
    folder.mkdir()
    phantoms = make_phantoms(folder / "phantoms", 4, 15, seed=5, size_px=224)
    photos = [Image.open(path).convert("RGB") for path in _photographs()]
    rng = np.random.default_rng(0)
    patches = [patch for photo in photos for patch in [photo, *(_patch(photo, rng) for _ in range(PATCHES))]]
    upside_down = (load_image(film.path).transpose(Image.Transpose.ROTATE_180) for film in films)
    return {
        "phantoms": [row.path for hospital in phantoms.values() for row in read_rows(hospital)],
        "colour photographs": _saved(patches, folder / "colour"),
        "photographs in grey": _saved((patch.convert("L") for patch in patches), folder / "grey"),
        "X-rays upside down": _saved(upside_down, folder / "upside-down"),
    }


def _photographs() -> list[Path]:
    images = Path(sklearn.datasets.__file__).parent / "images"
    return [
        images / "china.jpg",
        images / "flower.jpg",
        Path(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))),
    ]


def _patch(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    side = int(min(photo.size) * rng.uniform(0.35, 1.0))
    left, top = (int(rng.integers(0, most - side + 1)) for most in photo.size)
    return photo.crop((left, top, left + side, top + side))


def _saved(images: object, folder: Path) -> list[Path]:
    folder.mkdir()
    paths = []
    for number, image in enumerate(images):  # type: ignore[arg-type, var-annotated]
        paths.append(folder / f"{number:04d}.png")
        image.save(paths[-1])
    return paths


if __name__ == "__main__":
    main()
