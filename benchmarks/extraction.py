"""Images a second through the frozen backbone: the project's extraction beside the ways that PyTorch has.

    python -m benchmarks.extraction SHARED

MobileNetV2 in float32 over chest X-rays. The loop that one would write first opens one image after the other with Pillow and
passes batches of 32 through the network. All other ways but the last get pixels that are decoded already: `eager` to
`compiled` give the last stage only, the project all stages, mean and maximum. The last way is the whole extraction from a cold
cache: files read, digests, decoding, network, features stored. All ways take turns, so that other work on the machine meets all
of them; figures are medians of the runs.

`compiled` is torch.compile with frozen weights, once on batches of 32 and all threads, once as the project works: four
images at a time, on one thread a lane. Without a C++ compiler these two are left out. Minutes go into compiling.
"""

import argparse
import functools
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.chest_sample import files, job_with
from benchmarks.outcome import Headline, Outcome, Table, publish, spread
from client.backbone import Backbone
from client.device import decoding_threads
from client.extractor import Extractor, Pixels
from client.feature_cache import FeatureCache
from client.feature_space import all_blocks
from client.features import decode, extract
from client.folding import folded
from client.forward import MANY, Forward, lanes_on, open_lanes
from client.weights import load_backbone

BATCH, LANE_BATCH = 32, 4
NAIVE, FORWARD, PROJECT = "the first loop", "the project, forward alone", "the project, from files"

Way = Callable[[], object]


def main() -> None:
    """Measure, print, and write extraction.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument(
        "--no-compile", action="store_true", help="leave torch.compile out, which takes a minute or two"
    )
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ways = _ways(given.shared, given.images, Path(folder), not given.no_compile)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        processor: dict[str, list[float]] = {name: [] for name in ways}
        print(f"{len(ways)} ways, {given.images} images each", flush=True)
        for run in range(given.runs + 1):
            print(f"run {run} of {given.runs}", flush=True)
            for name, way in ways.items():
                start, used = time.perf_counter(), time.process_time()
                way()
                # The first run also compiles, packs weights and reads files from the disk.
                if run:
                    seconds[name].append(time.perf_counter() - start)
                    processor[name].append(time.process_time() - used)
    publish(outcome_of(seconds, processor, given.images), given.out)


def _ways(shared: Path, images: int, folder: Path, compiling: bool) -> dict[str, Way]:
    job = job_with()
    paths = files(shared, images)
    backbone = load_backbone(job.backbone.name, job.backbone.weights, shared / "weights")
    naive = Backbone(*_again(job, shared))
    extractor = Extractor(backbone, torch.device("cpu"), job.size_px)
    with ThreadPoolExecutor(decoding_threads()) as pool:
        pixels = np.concatenate(list(pool.map(lambda path: decode(path, (b"", 0), job), paths)))
    fold = backbone.with_blocks(folded)
    ways: dict[str, Way] = {
        NAIVE: lambda: _first_loop(naive, paths),
        "eager": lambda: _batches(naive, pixels, torch.contiguous_format),
        "channels_last": lambda: _batches(backbone, pixels, torch.channels_last),
        "batch norm folded": lambda: _batches(fold, pixels, torch.channels_last),
        "batch norm folded, jit.freeze": functools.partial(_frozen(fold), pixels),
    }
    lanes = open_lanes(torch.device("cpu"), *lanes_on(torch.device("cpu")))
    ways["batch norm folded, in lanes"] = lambda: _in_lanes(fold, pixels, lanes)
    if compiling and (whole := _compiled(fold, BATCH, torch.get_num_threads())) is not None:
        ways["compiled"] = lambda: _batches(whole, pixels, torch.channels_last)
        if (small := _compiled(fold, LANE_BATCH, 1)) is not None:
            ways["compiled, in lanes"] = lambda: _in_lanes(small, pixels, lanes)
    many = max(len(pixels), MANY)
    forward = Forward(extractor, many)
    print(f"the project: {forward.words}; images: {len(pixels)}", flush=True)
    ways[FORWARD] = lambda: forward.begin(pixels)()
    numbers = iter(range(10**6))
    ways[PROJECT] = lambda: _project(paths, extractor, folder / str(next(numbers)))
    return ways


def _again(job, shared):  # type: ignore[no-untyped-def]
    """Arguments of a second backbone with the same weights, which nothing has laid out anew."""
    from client.backbone import NETWORKS

    one = load_backbone(job.backbone.name, job.backbone.weights, shared / "weights")
    return NETWORKS[one.name], one.network, one.digest, one.name


def _first_loop(backbone: Backbone, paths: list[Path]) -> None:
    for start in range(0, len(paths), BATCH):
        images = []
        for path in paths[start : start + BATCH]:
            with Image.open(path) as image:
                resized = image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
            images.append(torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255)
        with torch.no_grad():
            backbone(torch.stack(images).contiguous())


def _images(pixels: Pixels, layout: torch.memory_format) -> Tensor:
    return torch.from_numpy(pixels).float().div_(255).contiguous(memory_format=layout)


def _batches(network: Callable[[Tensor], Tensor], pixels: Pixels, layout: torch.memory_format) -> None:
    with torch.inference_mode():
        for start in range(0, len(pixels), BATCH):
            network(_images(pixels[start : start + BATCH], layout)).numpy()


def _in_lanes(network: Callable[[Tensor], Tensor], pixels: Pixels, lanes: ThreadPoolExecutor) -> None:
    def features(part: Pixels) -> object:
        with torch.inference_mode():
            return network(_images(part, torch.channels_last)).numpy()

    list(lanes.map(features, (pixels[start : start + LANE_BATCH] for start in range(0, len(pixels), LANE_BATCH))))


def _frozen(backbone: Backbone) -> Callable[[Pixels], None]:
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        example = torch.zeros(BATCH, 3, 224, 224).contiguous(memory_format=torch.channels_last)
        network = torch.jit.freeze(torch.jit.trace(backbone, example))
    return lambda pixels: _batches(network, pixels, torch.channels_last)


def _compiled(backbone: Backbone, count: int, threads: int) -> Callable[[Tensor], Tensor] | None:
    """The compiled network for batches of `count`, on so many threads; None without a compiler."""
    before = torch.get_num_threads()
    options: dict[str, str | int | bool] = {"freezing": True, "cpp.threads": threads}
    whole: Callable[[Tensor], Tensor] = torch.compile(_Last(backbone), dynamic=False, options=options)
    torch.set_num_threads(threads)
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            whole(torch.zeros(count, 3, 224, 224).contiguous(memory_format=torch.channels_last))
    except Exception as error:
        print(f"torch.compile is left out: {type(error).__name__}", flush=True)
        return None
    finally:
        torch.set_num_threads(before)
    return whole


class _Last(nn.Module):
    """The last stage, and the layers where the compiler's freezing looks for them."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.blocks = nn.ModuleList(block for _, block in backbone._chain)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, D)."""
        features: Tensor = self.backbone(images)
        return features


def _project(paths: list[Path], extractor: Extractor, cache_dir: Path) -> None:
    with FeatureCache(cache_dir, "0" * 64, all_blocks(extractor.backbone.name)[-1].stop) as cache:
        extract([(path, [0]) for path in paths], extractor, cache, job_with())


def outcome_of(seconds: dict[str, list[float]], processor: dict[str, list[float]], images: int) -> Outcome:
    """Rates by way, and ratios of medians to the first loop and to the fastest forward pass.

    seconds: on the clock. processor: of all threads; other work on the machine changes them less.
    """
    rates = {name: images / statistics.median(runs) for name, runs in seconds.items()}
    used = {name: statistics.median(runs) for name, runs in processor.items()}
    forwards = [name for name in rates if name not in (PROJECT, NAIVE)]
    fastest = max((rates[name], name) for name in forwards)
    rows = tuple(
        (
            name,
            rate,
            spread([images / one for one in seconds[name]]),
            rate / rates[NAIVE],
            rate / fastest[0],
            1000 * used[name] / images,
            min(used[one] for one in forwards) / used[name],
        )
        for name, rate in rates.items()
    )
    table = Table(
        f"Images a second, MobileNetV2, float32, {images} images of 224 pixels; the fastest forward pass: {fastest[1]}",
        (
            "way",
            "images/s: median",
            "least to greatest",
            "of the first loop",
            "of the fastest forward pass",
            "processor ms an image",
            "of the fastest, by these",
        ),
        rows,
    )
    headlines = (
        Headline(
            "features of images, from files into the cache (MobileNetV2, float32)",
            f"{rates[PROJECT]:.0f} images/s, {rates[PROJECT] / rates[NAIVE]:.1f} times the first loop one would write, "
            f"{rates[PROJECT] / fastest[0]:.2f} of the fastest forward pass on decoded images",
        ),
    )
    return Outcome(
        "extraction",
        "python -m benchmarks.extraction SHARED",
        (table,),
        headlines,
        {"seconds": seconds, "processor_s": processor},
    )


if __name__ == "__main__":
    main()
