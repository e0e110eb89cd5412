"""A random projection that all hospitals share without having agreed on data: it bounds the bytes of the sums.

Source: Achlioptas 2003, Journal of Computer and System Sciences 66:671, random signs.
"""

import functools
import hashlib

import numpy as np
import numpy.typing as npt

from common.job import Job


def projection_of(job: Job) -> npt.NDArray[np.float32]:
    """The job's projection (D, R) float32, entries plus or minus 1 / sqrt(R), by its seed alone."""
    return _signs(job.seed, job.num_features, job.method.projection or job.num_features)


@functools.lru_cache(maxsize=2)
def _signs(seed: int, features: int, projected: int) -> npt.NDArray[np.float32]:
    # A hash, because numpy's generators may draw other numbers in another version, and hospitals must agree.
    number = features * projected
    drawn = hashlib.shake_128(f"{seed} {features} {projected}".encode()).digest((number + 7) // 8)
    signs = np.unpackbits(np.frombuffer(drawn, np.uint8))[:number].reshape(features, projected)
    return np.asarray((2.0 * signs - 1.0) / np.sqrt(projected), np.float32)
