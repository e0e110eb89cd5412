"""How many images two hospitals have both: keyed hashes are compared here, and only their number is told or kept.

Each hospital is then told which of its own rows another one has too, and by how many hospitals; not by which.

Letters: I images of a hospital, H hashes of a look.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.packed import AnyArray
from server.questions import Questions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SharedImages:
    """What two hospitals have both. exact: images with the same pixels; near: further images that look alike, of either one."""

    hospitals: tuple[str, str]
    exact: int
    near: tuple[int, int]


def check_duplicates(questions: Questions) -> tuple[SharedImages, ...]:
    """Ask all members for their keyed hashes, and tell each which of its images others have: the pairs that share any."""
    with questions.meter.phase("duplicates"):
        told = questions.ask("duplicates")
        hashes = {name: reply.arrays for name, reply in told.good.items()}
        found, flags = compare(hashes)
        names = {node: member.name for node, member in questions.members.by_node().items() if member.name in flags}
        if names:
            questions.ask("collisions", own=flags, nodes=names)
    for one in found:
        log.warning(
            "%s and %s have %d images both, and %d and %d that look alike; each was told which of its own",
            *one.hospitals,
            one.exact,
            *one.near,
        )
    return found


def compare(
    hashes: Mapping[str, Mapping[str, AnyArray]],
) -> tuple[tuple[SharedImages, ...], dict[str, dict[str, AnyArray]]]:
    """The pairs of hospitals that share images, and for each hospital how many others have each of its rows: (I,) uint8.

    hashes: by hospital `exact` (I,) and `near` (I, H) uint64.
    """
    counts = {
        name: {kind: np.zeros(len(one["exact"]), np.int64) for kind in ("exact", "near")}
        for name, one in hashes.items()
    }
    found = []
    names = sorted(hashes)
    for at, first in enumerate(names):
        for second in names[at + 1 :]:
            both = [_shared(hashes[one], hashes[other]) for one, other in ((first, second), (second, first))]
            for name, (exact, near) in zip((first, second), both, strict=True):
                counts[name]["exact"] += exact
                counts[name]["near"] += near
            if any(rows.any() for pair in both for rows in pair):
                near_of = (int(both[0][1].sum()), int(both[1][1].sum()))
                found.append(SharedImages((first, second), int(both[0][0].sum()), near_of))
    flags: dict[str, dict[str, AnyArray]] = {
        name: {kind: np.minimum(rows, 255).astype(np.uint8) for kind, rows in one.items()}
        for name, one in counts.items()
    }
    return tuple(found), flags


def as_rows(found: Sequence[SharedImages]) -> list[dict[str, object]]:
    """As plain JSON."""
    return [{"hospitals": list(one.hospitals), "exact": one.exact, "near": list(one.near)} for one in found]


def _shared(
    own: Mapping[str, AnyArray], other: Mapping[str, AnyArray]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which rows of one hospital another has with the same pixels, and which otherwise alike."""
    exact = np.isin(own["exact"], other["exact"])
    return exact, np.isin(own["near"], other["near"]).any(axis=1) & ~exact
