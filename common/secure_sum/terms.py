"""What a session of a secure sum is about: which sum, with whom, and how many must be in it.

Letters: P participants of a session, t threshold, c hospitals that collude with the coordinator.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Self

from common.packed import Packed
from common.secure_sum.errors import SecureSumError

DOMAIN = "consilium secure sum 1"
"""In front of everything that is signed, hashed or derived here, so that it means nothing anywhere else."""
MOST_HOSPITALS = 255
"""Shamir's shares would allow 2^128 - 1; more than this many would need sparser masks (Bell et al. 2020, CCS)."""
_HEX = re.compile(r"[0-9a-f]{64}")
_TEXT = re.compile(r"[\w:.-]{1,200}", re.ASCII)


class Phase(StrEnum):
    """The phases of a session in their order. CONFIRM is left out if nobody was lost between SHARES and MASKED."""

    KEYS = "keys"
    SHARES = "shares"
    MASKED = "masked"
    CONFIRM = "confirm"
    UNMASK = "unmask"


@dataclass(frozen=True)
class Terms:
    """What every participant signs, with its keys.

    session: 64 hex digits, new for each session. job_id: the job. purpose: which sum of the job, such as `statistics` or
    `fit:7`; a hospital opens at most one sum for each. question: digest of what is asked, such as the model to train on, which
    must be the same for all: a model made for one hospital would single it out (Pasquini et al. 2022, CCS, arXiv 2111.07380).
    roster, layout: digests, too (64 hex digits each). hospitals: how many are asked, P at most; the range of a number depends
    on it. threshold: t.
    """

    session: str
    job_id: str
    purpose: str
    question: str
    roster: str
    layout: str
    hospitals: int
    threshold: int

    def problem(self) -> str | None:
        """Why no hospital takes part on such terms, or None."""
        for name in ("session", "question", "roster", "layout"):
            if not _HEX.fullmatch(getattr(self, name)):
                return f"{name}: expected 64 hex digits"
        for name in ("job_id", "purpose"):
            if not _TEXT.fullmatch(getattr(self, name)):
                return f"{name}: expected 1 to 200 letters, digits or _ : . -"
        if not 2 <= self.hospitals <= MOST_HOSPITALS:
            return f"hospitals: expected 2 to {MOST_HOSPITALS}, got {self.hospitals}"
        least = least_threshold(self.hospitals)
        if not least <= self.threshold <= self.hospitals:
            return (
                f"threshold: expected {least} to {self.hospitals} of {self.hospitals} hospitals, got {self.threshold}"
            )
        return None

    def pack(self) -> Packed:
        """As the request of the phase KEYS."""
        return Packed(fields={name.replace("_", "-"): value for name, value in asdict(self).items()})

    @classmethod
    def unpack(cls, packed: Packed) -> Self:
        """From the request of the phase KEYS.

        Raises:
            SecureSumError: a field is missing, of another type, or out of range.
        """
        values: dict[str, Any] = {}
        for name, kind in cls.__annotations__.items():
            value = packed.fields.get(name.replace("_", "-"))
            if type(value) is not kind:
                raise SecureSumError(
                    f"field '{name.replace('_', '-')}': expected {kind.__name__}, got {type(value).__name__}"
                )
            values[name] = value
        terms = cls(**values)
        problem = terms.problem()
        if problem:
            raise SecureSumError(problem)
        return terms

    @cached_property
    def _canonical(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    def digest(self, *parts: bytes) -> bytes:
        """sha256 (32 bytes) over the terms and some parts, each with its length in front."""
        found = hashlib.sha256()
        for part in (DOMAIN.encode(), self._canonical, *parts):
            found.update(len(part).to_bytes(8, "little") + part)
        return found.digest()


def least_threshold(hospitals: int) -> int:
    """More than half: two lists of survivors, told to different hospitals, never yield both secrets of one."""
    return max(2, hospitals // 2 + 1)


def default_threshold(hospitals: int) -> int:
    """Two thirds, rounded up, and more than half: 2 of 3, 4 of 5, 7 of 10, 14 of 20."""
    return max(-(-2 * hospitals // 3), least_threshold(hospitals))


def tolerated_colluders(hospitals: int, threshold: int) -> int:
    """How many hospitals may collude with the coordinator, c, without opening a sum of fewer than t hospitals.

    t - 1 hold too few shares to recover a secret by themselves. But a colluder may also confirm two lists of survivors and give
    both shares of one hospital; then 2 t > P + c is needed. Source: Bonawitz et al. 2017, theorem 6.5.
    """
    return min(threshold - 1, 2 * threshold - hospitals - 1)
